# Chooses the methods' settings on the development rows of another world (data seed 7), four settings a method, one seed.
# Writes figures/choice-METHOD.csv and mbf_utils/chosen.json, which `mbf compare` uses. About 40 CPU-minutes; runs are kept in
# runs/search, so a second call goes on where the first stopped. A row METHODS has beside its class is a variant, not searched
# (but for OrthoReg as released, whose penalty has another size); nor is a budget, of which more is better (replay's rows,
# K-Merge's slots).
set -e
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
try() { .venv/bin/mbf search world-5 --order 1 --workers "${WORKERS:-2}" --method "$1" --grid "$2"; }

try olora lambda1=0.02,0.1,0.5,2
try ewc lam=0.1,1,10,100
try lwf lam=0.3,1,3,10
try nlora lam=0.0001,0.001,0.01,0.1
try inflora eps_start=0.5,0.8,0.95,0.99
try keeplora weight_energy=0.1,0.2,0.4,0.6
try loda rho=0,0.1,0.3,0.5
try lb_cl gain=4,8,16,32
try oplora k=2,4,8,16
try corda damp=0.001,0.01,0.1,1
try osf share=0.02,0.04,0.0625,0.1
try sd_lora magnitude=0.4,0.8,1.2,1.6
try codyra kappa=0.0002,0.0007,0.002,0.005
try lorac lam=0.01,0.1,1,5
try migu q=0.3,0.5,0.7,0.9
try rank1_pool lam=0.01,0.1,1,10
try sapt lam=0.1,0.5,2,8
try am_lora lam=0.0001,0.001,0.01,0.1
try gainlora energy=0.9,0.95,0.99,0.995
try task_arithmetic weight=0.1,0.3,0.5,1
try orthoreg strength=0.0001,0.001,0.01,0.1
try orthoreg_released strength=0.001,0.01,0.1,1
try ema beta=0.3,0.5,0.7,0.9
try ties weight=0.5,1,1.5,2
try dare weight=0.1,0.3,0.5,1
try magmax weight=0.5,0.7,0.85,1
try knots weight=0.5,1,1.5,2
try lora_lego weight=0.5,1,1.5,2
try opcm alpha=0.1,0.3,0.5,0.9
try p_and_m e=0.1,0.3,0.5,0.8
try lori density=0.1,0.2,0.3,0.5
try c_lora lam=0.01,0.1,1,10
try lilora lam=0.01,0.1,1,10
try share k=8,16,32,64
try treelora reg=0.05,0.5,2,8

# Fifteen tasks leave no room for what five like best: chosen anew among settings that last, for make.sh's list of world-15.
last() { .venv/bin/mbf search world-15 --order 4 --apart --out runs/search-15 --workers "${WORKERS:-2}" --method "$@"; }
last inflora --grid eps_start=0.5,0.8,0.9,0.95
last keeplora --grid task_energy=0.8,0.95 --grid weight_energy=0.1
