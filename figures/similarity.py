"""Makes figures/similarity.csv and its two pictures: how alike two tasks are, and what is left of the first after the second.

    python figures/similarity.py        about 270 short trainings, 20 minutes on one free core

What is finished lies in runs/similarity, a file a (rank, named, seed), and is not done again; delete the folder to begin anew.
"""
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pandas as pd
import torch

import mbf_utils as mbf
from mbf_utils.plots_similarity import likeness
from mbf_utils.plots_similarity import surface as surface_picture
from mbf_utils.similarity import alike_pair, learn_pairs, shared_pair

ROOT = Path(__file__).resolve().parent.parent
LIKENESS = (0, 0.2, 0.4, 0.6, 0.8, 1)
METHODS = ["seqlora", "slao"]
SEEDS = (0, 1, 2)                                   # of the rows and of the training


def agreement(base, seed: int, rank: int, named: bool) -> pd.DataFrame:
    """Six degrees of agreement; where prompts name their task, also both tasks at once at agreement 0: what one LoRA can hold."""
    settings = {"rank": rank, "alpha": 2 * rank}                     # s = 2 at every rank
    streams = [alike_pair(likeness, seed, named=named) for likeness in LIKENESS]
    tables = [learn_pairs(streams, METHODS, base, seed, **settings)]
    if named:
        tables.append(learn_pairs(streams[:1], ["multi_task"], base, seed, **settings))
    return pd.concat(tables).assign(control="agreement", rank=rank, named=named, seed=seed)


def surface(base, seed: int, rank: int, named: bool) -> pd.DataFrame:
    """Same or other question, same or other words."""
    streams = [shared_pair(question, words, seed, named=named) for question in (True, False) for words in (True, False)]
    table = learn_pairs(streams, METHODS, base, seed, rank=rank, alpha=2 * rank)
    return table.assign(control="surface", rank=rank, named=named, seed=seed)


def main() -> None:
    torch.set_num_threads(1)
    base, folder = mbf.load_model("tiny", device="cpu"), ROOT / "runs" / "similarity"
    folder.mkdir(parents=True, exist_ok=True)
    plan = [(agreement, 8, True), (surface, 8, False), (agreement, 32, True), (agreement, 4, True),          # rank, named
            (agreement, 8, False), (agreement, 32, False), (agreement, 4, False)]
    cells = [(make, seed, rank, named) for make, rank, named in plan for seed in SEEDS]
    for make, seed, rank, named in cells:
        file = folder / f"{make.__name__}-{rank}-{'named' if named else 'bare'}-{seed}.csv"
        if not file.exists():
            make(base, seed, rank, named).to_csv(file.with_suffix(".part"), index=False)
            file.with_suffix(".part").rename(file)
            print(file.stem, flush=True)
    table = pd.concat([pd.read_csv(file) for file in sorted(folder.glob("*.csv"))])
    keys = ["control", "named", "rank", "pair", "method", "seed"]
    table = table[keys + [column for column in table.columns if column not in keys]].sort_values(keys, kind="stable")
    table.to_csv(ROOT / "figures" / "similarity.csv", index=False, float_format="%.4f", lineterminator="\n")
    mbf.plots.save(likeness(table, 0.4, 8, True), "similarity-agreement", folder=ROOT / "figures")
    mbf.plots.save(surface_picture(table), "similarity-surface", folder=ROOT / "figures")


if __name__ == "__main__":
    main()
