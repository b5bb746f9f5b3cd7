"""The small world on two devices: the same matrix to tolerance, seconds a step on each; many small runs on one card."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..abreast import Plan, run_abreast
from ..models import load_model
from ..results import Run
from ..runs import run_stream
from ..sources import load_stream
from .shape import Device, Size
from .table import Table


class OtherDevice:
    """SLAO's run on the CPU, one thread, in a process of its own: begun early, it costs the card's items no time."""

    def __init__(self, size: Size):
        self.folder = tempfile.TemporaryDirectory(prefix="mbf-bench-", ignore_cleanup_errors=True)
        self.run = Path(self.folder.name) / "cpu"
        limit = [] if size.limit is None else ["--limit", str(size.limit)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mbf_utils", "run", size.stream, "--device", "cpu", "--epochs", str(size.epochs), *limit,
             "--out", str(self.run)], env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL, stderr=(Path(self.folder.name) / "stderr").open("w"), cwd=Path(__file__).parents[2])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


def small_world(table: Table, device: Device, size: Size, other: OtherDevice) -> None:
    """SLAO on the small world's stream here and on the CPU: matrices and losses of both, seconds a step on each."""
    stream, model = load_stream(size.stream, limit=size.limit), load_model("tiny", device.name, "float32")
    here = run_stream(stream, "slao", model, 0, other.run.with_name("here"), epochs=size.epochs)
    if other.process.wait():
        said = (Path(other.folder.name) / "stderr").read_text().strip().splitlines()
        raise RuntimeError(f"the run on the CPU failed: {said[-1] if said else 'it said nothing'}")
    there, logs = Run(other.run), []
    for name, run in ((device.name, here), ("cpu, one thread", there)):
        logs.append([json.loads(file.read_text()) for file in sorted(Path(run.folder).glob("tasks/*/log.json"))])
        table.add("small world", f"{size.stream}, {name}", "time a step",
                  [1e3 * log["seconds_train"] / len(log["losses"]) for log in logs[-1]], "ms")
        table.add("small world", f"{size.stream}, {name}", "average accuracy", run.metrics()["AA"], "%")
    losses = [(a, b) for one, two in zip(*logs) for a, b in zip(one["losses"], two["losses"])]
    for text, chosen in (("the first 20 steps", losses[:20]), ("all steps", losses)):
        table.add("small world", f"{size.stream}, losses of {text}", "largest relative difference",
                  max(abs(a - b) / max(abs(b), 1e-6) for a, b in chosen))
    for text, apart in (("exact match", here.matrix - there.matrix), ("options", here.options - there.options)):
        apart = apart.abs().stack().dropna()
        table.add("small world", f"{size.stream}, {text}", "largest difference of an entry", float(apart.max()), "points")
        table.add("small world", f"{size.stream}, {text}", "mean difference of an entry", float(apart.mean()), "points")


def abreast(table: Table, device: Device, size: Size, counts: tuple[int, ...] = (1, 3, 9, 27)) -> None:
    """Seconds a step, and a step and run, where `counts` runs of the small base learn the stream's first task side by side."""
    stream, model, times = load_stream(size.stream, limit=size.limit)[:1], load_model("tiny", device.name, "float32"), {}
    for n in (counts[0], *counts):                                   # the first time to warm up
        with tempfile.TemporaryDirectory(prefix="mbf-bench-") as folder:
            plans = [Plan(Path(folder) / str(seed), stream, "slao", seed) for seed in range(n)]
            if failures := run_abreast(plans, model, epochs=size.epochs):
                raise next(iter(failures.values()))
            log, = Run(plans[0].folder).logs
            each = 1e3 * log["seconds_train"] / len(log["losses"])   # a run's share of the time
        times[n] = each
    for n, each in times.items():
        table.add("abreast", f"{size.stream}, {n} abreast", "time a step", n * each, "ms")
        table.add("abreast", f"{size.stream}, {n} abreast", "time a step and run", each, "ms")
        table.add("abreast", f"{size.stream}, {n} abreast over one by one", "ratio of time a run", each / times[counts[0]])
