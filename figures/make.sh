#!/usr/bin/env bash
# Re-makes the tables and figures of this folder from nothing but the repository. Runs go to runs/ and are resumed where they were
# stopped; the settings of the methods are those of chosen.json, which figures/search.sh makes, and for fifteen tasks those below.
# WORKERS (2) processes. The ablations and fifteen methods in three orders were made on one H200, DEVICE=cuda WORKERS=5 ABREAST=12, all
# else on a CPU, the other methods' orders 2 and 3 and the best with twelve seeds by ABREAST=9. Another device rounds otherwise: 87
# runs that both learned are at most 0.6 points apart, their means 0.2 (tests/test_repeat.py).
# MORE=1 also makes what is not in this folder yet: by the times of the runs that are, some two and a half CPU-hours.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PATH="$PWD/.venv/bin:$PATH"
compare() {
    mbf compare "$@" --workers "${WORKERS:-2}" --abreast "${ABREAST:-1}" --device "${DEVICE:-cpu}" --dtype float32 --keep last --eval-batch-size 200
}

ABLATIONS=slao,slao_random,slao_last_merged,slao_preserve,slao_ftba_mb,slao_ftba_ma,slao_ftba_mba,slao_frea_mb,slao_freb_ma,slao_no_merge,slao_merge_both,slao_mean,slao_half
BEST=loda,keeplora,inflora,nlora,ewc,corda,gainlora,rank1_pool,mora_merged,codyra,olora     # of world-5, by both readings
# The same with the settings that were chosen on tiny, for a base on which none were.
TINYS="loda rho=0.1,keeplora weight_energy=0.1,inflora eps_start=0.99,nlora,ewc lam=0.1,corda,gainlora energy=0.9,rank1_pool,mora_merged,codyra kappa=0.002,olora lambda1=0.02"
ALL="multi_task,all,gainlora_olora energy=0.9 lambda1=0.02,gainlora_inflora energy=0.9 eps_start=0.99"        # a pairing takes what was chosen for its parts
LASTING="gainlora_olora energy=0.9 lambda1=0.02,gainlora_inflora energy=0.9 eps_start=0.9,inflora eps_start=0.9,inflora_projected eps_start=0.95,keeplora weight_energy=0.1 task_energy=0.95,osf share=0.0625"
mbf compare world-5 --methods "$ALL" --seeds 3 --workers "${WORKERS:-2}" --device cpu --out runs/compare-cpu --save world-5       # about 70 minutes on two cores
compare world-5 --orders 1,2,3 --methods "$ALL" --seeds 3 --save world-5-three              # fifteen of them on the H200, nine abreast
compare world-5 --methods "seqlora,$ABLATIONS" --seeds 12 --out runs/ablations --save world-5-ablations
compare world-5 --methods "slao,seqlora,$BEST" --seeds 12 --save world-5-best               # SLAO and sequential LoRA are those above
compare world-5 --methods "slao,seqlora,inclora,$BEST" --seeds 3 --named --save world-5-named
compare world-5 --methods "slao,seqlora,$TINYS" --seeds 3 --model small --out runs/small --save world-5-small      # 2 to 8 minutes a run
compare world-5 --methods "slao,seqlora,$TINYS" --seeds 3 --model small --named --out runs/small --save world-5-small-named
# Fifteen tasks: a setting that leaves the base of 64 dimensions no free direction before the last is replaced by one that lasts.
compare world-15 --methods "all,$LASTING" --seeds 3 --save world-15                                # 85 seconds a run on one core
ABREAST=3 compare world-15 --methods slao,seqlora,ewc --seeds 3 --out runs/again --save world-15-again       # once more, with another rounding
hundred() { compare world-100 --epochs 4 --score-every 10 "$@"; }                    # 4 minutes a run
hundred --methods "$ABLATIONS,seqlora,zero_shot,per_task,replay,ewc,lwf" --seeds 1
hundred --methods slao,seqlora,slao_ftba_mb,slao_no_merge --seeds 3
hundred --methods multi_task --seeds 1                                                      # two hours: all rows so far, after every task
[ -z "${MORE:-}" ] || hundred --methods "$ABLATIONS,seqlora,zero_shot,per_task,replay,ewc,lwf" --seeds 3      # two more seeds of each
mbf report runs/compare/world-100-o1-*-[0-9] --save world-100
python figures/sizes.py                                                                     # of their last pairs
mbf report runs/compare-cpu/world-5-o1-{slao,seqlora,inclora,olora-*,inflora-*,keeplora-*,loda-*,ewc-*,magmax-*,knots-*,multi_task,per_task}-[0-2] --save world-5-shown
rm figures/world-5-shown*.csv                                                               # the README's picture of some of them
python figures/similarity.py                                                                # two tasks, alike to a chosen degree
python figures/one_factor.py                                                                # notebook 01's B alone, A alone

# The runs that the notebooks load: seed 0 of order 1, and those of methods and tasks that two of the notebooks make up themselves.
for method in slao seqlora per_task slao_random slao_preserve slao_frea_mb; do
    mbf run world-5 --method "$method" --out "notebooks/runs/$method" > /dev/null
done
mbf run world-5 --method seqlora --named --out notebooks/runs/seqlora_named > /dev/null
python notebooks/build.py --runs 09 10

# Real rows, where MBF_DATA names the folder that holds O-LoRA's cl_benchmark. The base is made of the training texts of all fifteen
# tasks (7 CPU-minutes); then come the four of order 1, two minutes a run. Settings are chosen on development rows of another draw.
[ -n "${MBF_DATA:-}" ] || exit 0
rows=$MBF_DATA/cl_benchmark
[ -d runs/real-base ] || mbf make-base runs/real-base --text "$rows:4" 2> runs/real-base.log
choose() { mbf search "$rows" --order 1 --apart --model runs/real-base --device cpu --dtype float32 --out runs/real-search --workers "${WORKERS:-2}" --method "$@"; }
choose olora --grid lambda1=0.004,0.02,0.1,0.5
choose ewc --grid lam=0.1,1,10,100
choose loda --grid rho=0,0.1,0.3,0.5
compare "$rows" --methods "slao,seqlora,zero_shot,per_task,ewc lam=10,inclora,olora lambda1=0.02,loda rho=0,ema,slao_frea_mb,slao_merge_both" --orders 1 --seeds 3 --model runs/real-base --out runs/real --save real-order-1
