"""Two more explorers: another merge of the tasks that a run was trained on, and two tasks that are alike to a chosen degree.

As in explorers.py, what costs time is done when an explorer is made or is remembered. A move of `merge` merges and asks the
model: a few tenths of a second on a free core.
"""
from __future__ import annotations

from typing import Callable, Mapping

import pandas as pd
import torch

from . import plots_merge, plots_similarity
from .anatomy import starts
from .errors import InputError
from .remerge import ROWS, Remerge, constant, power, weights
from .results import Run
from .streams import Stream
from .titles import title_of
from .widgets import Buttons, Choice, Explorer, Slide, Steps, explore

MERGED = Buttons("merged", [("B", "B"), ("A", "A"), ("both", "AB"), ("none", "")], "B")
SCHEDULES = Buttons("λ(i)", [("i^−p", "power"), ("constant", "constant"), ("1/√i", "root"), ("1/i", "mean")], "power")
LAST, FRESH = "the last tuned pair", "a fresh LoRA"
WHY = "a stored run, for a start or a frozen factor changes the training itself; the merge is done anew"


def merge(runs: Mapping[str, Run], rows: int | None = ROWS, stream: Stream | None = None, model=None) -> Explorer:
    """Would another merge have kept more? Schedule, exponent and merged factors are changed, the model is merged anew from the
    stored fine-tuned factors and asked again, without any training.

    runs: by method, of one stream, base and settings; how their tasks start, and what is frozen, is what they differ in. rows:
    test rows a task. stream, model: those of the runs, where they are not the built-in ones.
    """
    bench = Remerge(dict(runs), rows, stream, model)
    T = min(len(run.logs) for run in runs.values())
    trainings = [(trained_from(run), name) for name, run in runs.items()]
    labels = {name: label for label, name in trainings}

    def draw(training, merge, schedule, p, after):
        at, said = schedule_of(schedule, p)
        table, weighed, how = bench.table(training, merge, at, after), weights(merge, at, after), _how(merge, said)
        words = plots_merge.merged_anew_in_words(table, weighed, how, merge, f"{labels[training]} ({WHY})")
        return plots_merge.merged_anew(table, weighed, how, labels[training]), words

    first = next(iter(runs))
    return explore(draw, {"merge": MERGED, "schedule": SCHEDULES, "p": Slide("p of 1/iᵖ, or the constant", 0, 2, 0.05, 0.5),
                          "training": Choice("tasks start from", trainings, first), "after": Steps("after task", 1, T, T)},
                   static=[{}, {"merge": "AB", "schedule": "mean"}])


def likeness(table: pd.DataFrame) -> Explorer:
    """What does it cost the first of two tasks that the second is unlike it, and how do their updates lie?

    table: figures/similarity.csv, with the columns of similarity.learn_pairs and control, rank, named and seed."""
    some = table[table.control == "agreement"]
    if some.empty:
        raise InputError("expected rows of control agreement, as figures/similarity.py makes them, found none")
    places, ranks = sorted(some.pair.astype(float).unique()), sorted(some["rank"].unique())
    step = min((b - a for a, b in zip(places, places[1:])), default=1.0)
    most = some["rank"].value_counts().idxmax()

    named = bool(some[some["rank"] == most].named.mode().max())

    def draw(at, rank=int(most), named=named):
        return plots_similarity.likeness(table, at, rank, named), plots_similarity.likeness_in_words(table, at, rank, named)

    controls: dict[str, Slide | Choice | Buttons] = {"at": Slide("likeness", places[0], places[-1], round(step, 6), places[0])}
    if len(ranks) > 1:
        controls["rank"] = Choice("rank", [(str(rank), int(rank)) for rank in ranks], int(most))
    if some.named.nunique() > 1:
        controls["named"] = Buttons("prompts name their task", [("yes", True), ("no", False)], named)
    return explore(draw, controls, static=[{}, {"at": places[-2]}])


def schedule_of(name: str, p: float) -> tuple[Callable[[int], float], str]:
    """(lambda, how it is written) of a position of the two controls."""
    if name == "constant":
        if p > 1:
            raise InputError(f"expected a constant from 0 to 1, found {p:.2f}: above 1 the merge goes past the last factor")
        return constant(p), f"λ(i) = {p:.2f}"
    known = {"power": (power(p), f"λ(i) = i^−{p:.2f}"), "root": (power(0.5), "λ(i) = 1/√i"), "mean": (power(1.0), "λ(i) = 1/i")}
    return known[name]


def _how(merge: str, said: str) -> str:
    return f"{' and '.join(merge)} merged at {said}" if merge else "Nothing merged"


def trained_from(run: Run) -> str:
    """Where a run's tasks start and what is frozen, in words: what its training depends on and its merge does not."""
    config = run.config["method"]
    if "begin" not in config:                       # not a variant of SLAO: what does its second task start from?
        return _start_of(run)
    start = {"random": FRESH, "merged": "the merged pair", "tuned": LAST}[config["begin"]]
    if config["begin"] != "random" and config["qr"]:
        start += ", A orthonormal" + ", function kept" * config["preserve"]
    return start + {"A": ", A frozen", "B": ", B frozen from task 2", "": ""}[config["freeze"]]


def _start_of(run: Run) -> str:
    second, last = starts(run)[:2][-1], run.lora(1, "tuned")
    if all(torch.equal(x, y) for path in last for x, y in zip(second[path], last[path])):
        return LAST
    return FRESH if not any(pair.B.any() for pair in second.values()) else f"as {title_of(run.method)} does"
