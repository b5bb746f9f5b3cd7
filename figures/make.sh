#!/usr/bin/env bash
# Re-makes the tables and figures of this folder from nothing but the repository: about 35 minutes on two cores.
# Runs go to runs/world-5 and runs/world-5-named, and are resumed where they were stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PATH="$PWD/.venv/bin:$PATH"

# lambda1 of O-LoRA: chosen on development rows of another world (seed 7); the other methods have nothing to choose
choose() { printf '%s\n' 0.5 0.1 0.02 0.004 | xargs -P 2 -I{} mbf run world-5 --method olora --set lambda1={} \
    --data-seed 7 --seed 100 --evaluate-on dev --out runs/lambda/olora-{} > runs/choose.log; }

# every METHOD with seeds 0, 1, 2 into FOLDER; further arguments go to mbf run
grid() {
    local folder=$1 methods=$2; shift 2
    for method in $methods; do
        for seed in 0 1 2; do
            echo "$([ "$method" = olora ] && echo --set lambda1=0.1) --method $method --seed $seed --out $folder/$method-$seed"
        done
    done | xargs -P 2 -L 1 mbf run world-5 "$@" > "$folder.log"
}

mkdir -p runs
choose
mbf report runs/lambda --save choice-olora-lambda
grid runs/world-5 "slao seqlora inclora olora per_task multi_task zero_shot"
grid runs/world-5-named "slao seqlora inclora olora" --named
grid runs/world-5-ablations "slao slao_random slao_last_merged slao_ftba_mb slao_ftba_ma slao_ftba_mba slao_frea_mb slao_freb_ma slao_preserve"
grid runs/world-5-small "slao seqlora inclora" --model small
mbf report runs/world-5 --save world-5
mbf report runs/world-5-small --save world-5-small
mbf report runs/world-5-named --save world-5-named
mbf report runs/world-5-ablations --save world-5-ablations

# Real rows, where MBF_DATA names the folder that holds O-LoRA's cl_benchmark: about 35 CPU-minutes more. The base is made of
# the training texts of all fifteen tasks; then come the four of order 1. lambda1 is chosen on their development rows.
[ -n "${MBF_DATA:-}" ] || exit 0
rows=$MBF_DATA/cl_benchmark
[ -d runs/real-base ] || mbf make-base runs/real-base --text "$rows:4" 2> runs/real-base.log
real() { xargs -P 2 -L 1 mbf run "$rows" --order 1 --model runs/real-base >> runs/real.log; }
for lambda1 in 0.5 0.1 0.02 0.004; do
    echo "--method olora --set lambda1=$lambda1 --seed 100 --evaluate-on dev --out runs/real-lambda/olora-$lambda1"
done | real
for seed in 0 1 2; do
    for method in slao seqlora "olora --set lambda1=0.004" per_task zero_shot; do
        echo "--method $method --seed $seed --out runs/real/${method%% *}-$seed"
    done
done | real
mbf report runs/real-lambda --save choice-olora-lambda-real
mbf report runs/real --save real-order-1
python -c "
import pandas as pd
from mbf_utils.reports import find_runs
pd.concat([table.assign(method=run.method, seed=run.config['seed'], score=score).reset_index() for run in find_runs(['runs/real'])
           for score, table in (('exact', run.matrix), ('labels', run.options))]).to_csv(
    'figures/real-order-1-matrices.csv', index=False, float_format='%.4f', lineterminator='\n')"
