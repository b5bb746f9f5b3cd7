"""What the benchmarks are held against: each goal beside the number that `mbf bench` measured for it."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .errors import InputError


class Goal(NamedTuple):
    """A bound on one row of a benchmark's table: the row is found by item, quantity and what its case begins with."""
    text: str
    item: str
    case: str
    quantity: str
    least: bool                                     # the number shall be at least the bound; else at most
    bound: float


STEP, PART, COPY = "ratio of time a step", "ratio of scoring", "time over new copy that moves the same bytes"
GOALS = (
    Goal("a training step: the usual script over the kit", "end to end", "the usual script over", STEP, True, 1.5),
    Goal("a training step: a careful script over the kit", "end to end", "a careful script over", STEP, True, 1.5),
    Goal("a training step: the kit over its bare matrix products", "end to end", "the kit over", STEP, False, 1.5),
    Goal("scoring: generation one by one over the kit", "end to end", "the usual script over", PART, True, 10),
    Goal("scoring: batched generation over the kit", "end to end", "a careful script over", PART, True, 2),
    Goal("scoring, exact match alone: batched generation over the kit", "end to end", "a careful script over the kit's", PART, True, 2),
    Goal("a run of the mean method over sequential LoRA's", "comparison", "", "mean time of a run", False, 1.5),
    Goal("a comparison: one worker over two", "comparison", "", "one worker over two", True, 1.8),
    Goal("SLAO's merge, r 64, over a new copy of the same bytes", "merge", "r 64, SLAO", COPY, False, 1.3),
    Goal("SLAO's merge, r 8, over a new copy of the same bytes", "merge", "r 8, SLAO", COPY, False, 2),
    Goal("a task boundary, % of a task of 250 rows", "boundary", "q and v, whole", "share of one epoch of 250", False, 1),
    Goal("resident size of SLAO, drift in %", "memory", "slao, declared", "drift", False, 1),
    Goal("resident size of sequential LoRA, drift in %", "memory", "seqlora, declared", "drift", False, 1),
    Goal("a move of the merge explorer, evaluated live, in ms", "redraws", "merge", "time of a move", False, 1000),
    Goal("a move of the slowest other explorer, in ms", "redraws", "the slowest", "time of a move", False, 500),
    Goal("tokens a second over a bare PEFT loop, q and v", "throughput", "q and v, our loop over bare PEFT loop, same",
         "ratio of tokens a second", True, 0.98),
    Goal("tokens a second over a bare PEFT loop, all linear", "throughput", "all linear, our loop over bare PEFT loop, same",
         "ratio of tokens a second", True, 0.98),
    *(Goal(f"tokens a second over TRL's SFTTrainer, {case}", "throughput", f"{case}, our loop over TRL", "ratio of tokens a second", True, 1)
      for case in ("q and v", "all linear")),
)


def read_bench(file: str | Path) -> pd.DataFrame:
    """A table that `mbf bench` wrote: item, case, quantity, value (median), low, high (quartiles), n, unit, machine."""
    try:
        return pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise InputError(f"expected a table of mbf bench at {file}, found none ({error}): run mbf bench first") from None


def goals(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each goal that the table has a number for: goal, wanted, value, low, high, holds, bound, machine. `holds` judges
    the median."""
    rows = []
    for goal in GOALS:
        found = table[(table["item"] == goal.item) & table["case"].fillna("").str.startswith(goal.case)
                      & table["quantity"].str.startswith(goal.quantity)]
        for _, row in found[:1].iterrows():
            holds = row["value"] >= goal.bound if goal.least else row["value"] <= goal.bound
            wanted = f"{'at least' if goal.least else 'at most'} {goal.bound:g}"
            rows.append((goal.text, wanted, row["value"], row["low"], row["high"], bool(holds), goal.bound, row["machine"]))
    return pd.DataFrame(rows, columns=["goal", "wanted", "value", "low", "high", "holds", "bound", "machine"])
