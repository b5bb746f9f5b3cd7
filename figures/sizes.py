"""Makes figures/world-100-sizes.csv: how large the fine-tuned pair is after a hundred tasks, with SLAO's QR step and without.

    python figures/sizes.py             reads the runs of world-100 that make.sh learned, in a few seconds

Columns: method, seed, after (tasks), factor, norm (Frobenius, over all modules; of dW = B A without s) and effective (the mean
over the modules of dW's effective rank, in the rows of dW). What is merged does not reach the training: of SLAO's rows those two
differ in the QR step alone, sequential LoRA trains as SLAO without it.
"""
from pathlib import Path

import pandas as pd

import mbf_utils as mbf

ROOT = Path(__file__).resolve().parent.parent
RUNS = ("slao", "slao_ftba_mb", "seqlora")

found = []
for folder in sorted(folder for name in RUNS for folder in (ROOT / "runs" / "compare").glob(f"world-100-o1-{name}-[0-9]")):
    run = mbf.Run(folder)
    lora = run.lora(len(run.names), "tuned")
    effective = sum(mbf.geometry.effective_rank(mbf.geometry.singular_values(pair)) for pair in lora.values()) / len(lora)
    for row in mbf.theory.over_modules(mbf.geometry.norms([lora])).itertuples():
        found.append((run.method, run.config["seed"], len(run.names), row.factor, row.value, effective if row.factor == "dW" else None))
table = pd.DataFrame(found, columns=["method", "seed", "after", "factor", "norm", "effective"])
table.to_csv(ROOT / "figures" / "world-100-sizes.csv", index=False, float_format="%.4f", lineterminator="\n")
print(table.to_string(index=False))
