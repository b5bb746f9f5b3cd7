"""The geometry and the theory of finished runs, in one call each: tables from what a run has stored, on the CPU.

`geometry` and `theory` take lists of Loras; `adapters(run)` is such a list. The other functions put measured scores beside.
"""
from __future__ import annotations

from typing import Sequence

import pandas as pd

from . import theory, updates
from .errors import InputError
from .lora import Lora
from .method import Method, Task
from .methods import METHODS, make_method
from .results import Run


def adapters(run: Run, which: str = "result") -> list[Lora]:
    """The adapters after tasks 1, 2, ...: "result", the model from then on, or "tuned", what training left."""
    return [run.lora(i, which) for i in range(1, len(run.logs) + 1)]


def forgetting(run: Run, reading: str = "matrix") -> pd.DataFrame:
    """The bound of forgetting, its terms and the forgetting that was measured; see `theory.beside_forgetting`.

    reading: "matrix" (exact match) or "options". Columns: after, task, A, B, bound, dW, forgetting (points)."""
    return theory.beside_forgetting(theory.forgetting_bound(adapters(run)), getattr(run, reading))


def intransigence(run: Run, alone: Run, reading: str = "matrix") -> pd.DataFrame:
    """The bound of intransigence beside the learning that was missed, against a run whose tasks were trained alone (per_task).

    Columns: task, A, B, bound, dW, intransigence (points)."""
    if run.names != alone.names:
        raise InputError(f"expected two runs of the same tasks in the same order, found {run.names} and {alone.names}")
    ours = adapters(run)
    bound = theory.intransigence_bound(ours, adapters(alone)[:len(ours)])
    return theory.beside_intransigence(bound, getattr(run, reading), getattr(alone, reading).iloc[:len(ours)])


def merge(run: Run) -> pd.DataFrame:
    """What each task weighs in the merged factors after the last one: by the schedule, and measured in the stored adapters.

    For SLAO and its variants. Columns: task, module, factor, weight, increment, residual (`theory.measured_weights`), expected:
    the closed form for a factor that is merged; one that is replaced is the last task's alone."""
    config = run.config["method"]
    if "schedule" not in config:
        raise InputError(f"expected a run that merges by a schedule (SLAO or a variant), found {run!r}")
    tuned = adapters(run, "tuned")
    closed = theory.merge_weights(config["schedule"][:len(tuned)])[-1]
    table = theory.measured_weights(tuned, run.lora(len(tuned)))
    merged = table.factor.isin(list(config["merge"]))
    return table.assign(expected=(table.task == len(tuned)).astype(float).where(~merged, closed[table.task - 1]))


def method_of(run: Run) -> Method:
    """The run's method as it was configured, nothing learned yet; a schedule, stored as its values, is a function again."""
    config = run.config["method"]
    if config["name"] not in METHODS:
        raise InputError(f"expected a run of a method in METHODS, found one of {config['name']!r}")
    usual = METHODS[config["name"]]()
    return make_method(config["name"], **{
        key: (lambda i, values=value: values[i - 1]) if callable(getattr(usual, key)) else value
        for key, value in config.items() if key not in ("name", "class")})


def task_of(run: Run, i: int, lora: Lora) -> Task:
    """Task i (from 1) as the run's method met it, without its rows; lora: any of the run's adapters, for the modules' widths."""
    settings, modules = run.config["settings"], run.logs[i - 1].get("modules")
    if not isinstance(modules, list) or sorted(modules) != sorted(lora):
        raise InputError(f"expected the names of the {len(lora)} adapted modules in the model's order as \"modules\" in log.json of task {i} "
                         f"in {run.folder}, without which its random start cannot be drawn again, found {modules!r:.80}: learn it anew")
    sites = {path: (lora[path].A.shape[1], lora[path].B.shape[0]) for path in modules}
    return Task(i, run.names[i - 1], [], settings["rank"], settings["alpha"] / settings["rank"], sites, run.config["seed"], len(run.names))


def starts(run: Run) -> list[Lora]:
    """The pairs from which the training of tasks 1, 2, ... began: the method's own `start` and `finish`, replayed over what is
    stored. For methods that look at no rows for it."""
    method, found = method_of(run), []
    if method.card.looks or method.card.old_data:
        raise InputError(f"expected a method that chooses its start without rows, found {method.card.title}")
    for i, tuned in enumerate(adapters(run, "tuned"), 1):
        task = task_of(run, i, tuned)
        found.append(method.start(task).lora)
        method.finish(tuned, task)
    return found


def placement(run: Run, weights: dict | None = None) -> pd.DataFrame:
    """Which modules learn and which of them drift afterwards; see `updates.placement`. weights: W0 by module path."""
    scaling = run.config["settings"]["alpha"] / run.config["settings"]["rank"]
    return updates.placement(updates.updates(adapters(run, "tuned"), starts(run)), adapters(run), weights, scaling)


def shares(run: Run, top: int | None = None) -> pd.DataFrame:
    """How much of each task's update lies in the span of the earlier ones; see `updates.shares`."""
    return updates.shares(updates.updates(adapters(run, "tuned"), starts(run)), top)


def memory(runs: Sequence[Run]) -> pd.DataFrame:
    """What runs carry to their next task (`Run.state_bytes`). Columns: method, tasks (learned), bytes.

    A finished run tells of its last task alone; take the table from each Run that `walk_stream` yields to have all of them.
    """
    return pd.DataFrame({"method": [run.method for run in runs], "tasks": [len(run.logs) for run in runs],
                         "bytes": [run.state_bytes for run in runs]})
