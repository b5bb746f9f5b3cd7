"""Two more explorers, of what training changed: where in the model it is learned and lost, and how much of it is a task's own.

Nothing is trained: they read the stored adapters, and the base's weights where these are given.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Mapping, Sequence

from . import anatomy, plots_views
from .errors import InputError
from .explorers import _one_of
from .results import Run
from .titles import title_of
from .updates import updates
from .updates import shares as shares_of
from .widgets import Explorer, Several, Steps, explore

AT_ONCE = 3                                             # panels of one picture


def placement(runs: Sequence[Run], weights: Mapping | None = None) -> Explorer:
    """Which layers, attention or MLP, learn and forget? One method and one task at a time, or the mean of its tasks.

    weights: the base's by module path; then all norms are divided by theirs.
    """
    runs = _by_method(runs)
    tables = {method: anatomy.placement(run, weights) for method, run in runs.items()}
    T = min(len(run.logs) for run in runs.values())

    def draw(run, task):
        rows = tables[run]
        rows = rows[rows.task == task] if task else rows
        what = f"task {task} ({runs[run].names[task - 1]})" if task else "mean of the tasks"
        return (plots_views.placement(rows, relative=weights is not None, of=f"{title_of(run)}, {what}"),
                plots_views.placement_in_words(rows, f"{title_of(run)}, {what}"))

    return explore(draw, {"run": _one_of("method", [(title_of(method), method) for method in runs], list(runs)[0]),
                          "task": Steps("task (0: their mean)", 0, T, 0)}, static=[{}, {"run": list(runs)[-1], "task": T}])


def shares(runs: Sequence[Run]) -> Explorer:
    """How much of an update is shared with earlier tasks, and how much is its own? Methods on and off; how many of the strongest
    directions of each earlier update count."""
    runs = _by_method(runs)
    names = next(iter(runs.values())).names
    changed = lru_cache(None)(lambda run: updates(anatomy.adapters(runs[run], "tuned"), anatomy.starts(runs[run])))
    table = lru_cache(256)(lambda run, top: shares_of(changed(run), top))
    most = max(min(pair.A.shape[0], *pair.A.shape[1:], pair.B.shape[0]) for lora in changed(list(runs)[0]) for pair in lora.values())

    def draw(methods, top):
        if not methods:
            raise InputError("expected at least one method, found none: tick one")
        tables = {method: table(method, top) for method in methods}
        return plots_views.shares(tables, names), plots_views.shares_in_words(tables, top, names)

    on = tuple(dict.fromkeys((list(runs)[0], list(runs)[-1])))
    return explore(draw, {"top": Steps("directions of each earlier update", 1, most, max(1, most // 2)),
                          "methods": Several("methods", [(title_of(method), method) for method in runs], on, AT_ONCE)},
                   static=[{"top": most}, {"top": max(1, most // 8)}])


def _by_method(runs: Sequence[Run]) -> dict[str, Run]:
    found = {run.method: run for run in runs}
    if not found or len(found) < len(runs):
        raise InputError("expected runs of different methods, found none or two of one method")
    if len({tuple(run.names) for run in runs}) > 1:
        raise InputError("expected runs of the same tasks in the same order, found others")
    return found
