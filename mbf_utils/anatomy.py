"""The geometry and the theory of finished runs, in one call each: tables from what a run has stored, on the CPU.

`geometry` and `theory` take lists of Loras; `adapters(run)` is such a list. The other functions put measured scores beside.
"""
from __future__ import annotations

from typing import Sequence

import pandas as pd

from . import theory
from .errors import InputError
from .lora import Lora
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


def memory(runs: Sequence[Run]) -> pd.DataFrame:
    """What runs carry to their next task (`Run.state_bytes`). Columns: method, tasks (learned), bytes.

    A finished run tells of its last task alone; take the table from each Run that `walk_stream` yields to have all of them.
    """
    return pd.DataFrame({"method": [run.method for run in runs], "tasks": [len(run.logs) for run in runs],
                         "bytes": [run.state_bytes for run in runs]})
