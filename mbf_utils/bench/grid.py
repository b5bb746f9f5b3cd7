"""A comparison: what a cell of each method costs against one of sequential LoRA, and what a second worker brings."""
from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from ..comparison import compare
from ..methods import METHODS
from ..models import load_model
from ..runs import run_stream
from ..sources import load_stream
from .table import Table, seconds


def cells(table: Table, methods: list[str] | None, tasks: int, limit: int, epochs: float) -> None:
    """Whole runs of the methods (None: all) on a small part of world-5, each between two of sequential LoRA."""
    stream, base, found = load_stream("world-5", limit=limit)[:tasks], load_model("tiny", "cpu"), {}
    settings = {"epochs": epochs}

    def run(method):
        return seconds(lambda: run_stream(stream, method, base, **settings))

    plain = [run("seqlora"), run("seqlora")][1:]                     # the first warms up
    for method in methods or METHODS:
        spent = run(method)
        plain.append(run("seqlora"))
        found[method] = spent / statistics.mean(plain[-2:])
        table.add("comparison", method, "time of a run over sequential LoRA's", found[method])
    table.add("comparison", f"{len(found)} methods, {tasks} tasks of {limit} rows, {epochs:g} epochs",
              "mean time of a run over sequential LoRA's", statistics.mean(found.values()))


def workers(table: Table, tasks: int, limit: int | None, seeds: int, **settings) -> None:
    """The same cells with one worker and with two, processes started and imports included. limit: rows a task; None for all."""
    stream, spent = load_stream("world-5", limit=limit)[:tasks], {}
    case = f"{2 * seeds} cells of {tasks} tasks{f' of {limit} rows' * bool(limit)}"
    for count in (1, 2):
        with tempfile.TemporaryDirectory(prefix="mbf-bench-") as folder:
            out = Path(folder) / "runs"
            spent[count] = seconds(lambda: compare(stream, ["seqlora", "slao"], range(seeds), "tiny", out, count, **settings))
        table.add("comparison", f"{case}, {count} worker{'s' * (count > 1)}", "time", spent[count], "s")
    table.add("comparison", case, "one worker over two", spent[1] / spent[2])
