"""What a benchmark finds: one table, written anew after every item; rivals timed in turns, so that ratios hold on a busy machine.

A number stands as the median of its samples with the quartiles beside it. Nothing here judges a number.
"""
from __future__ import annotations

import csv
import gc
import os
import platform
import signal
import statistics
import threading
import time
import traceback
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Callable

import torch

COLUMNS = ("item", "case", "quantity", "value", "low", "high", "n", "unit", "machine")


def machine(device: str = "cpu") -> str:
    """The card's name, or the processor's with the number of cores and on how many torch runs."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    try:
        name = next(line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                    if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, torch on {torch.get_num_threads()}"


def versions() -> str:
    return ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "peft", "accelerate"))


class Table:
    """Rows of COLUMNS in `file`; each `add` writes the file anew. keep: begin with the rows that are there; a row of the same item,
    case and quantity takes the old one's place."""

    def __init__(self, file: str | Path, machine: str, keep: bool = False):
        self.file, self.machine = Path(file), machine
        self.rows: dict[tuple[str, str, str], tuple] = {}
        if keep and self.file.exists():
            with self.file.open(newline="", encoding="utf-8") as lines:
                self.rows = {(row[0], row[1], row[2]): tuple(row) for row in list(csv.reader(lines))[1:]}

    def add(self, item: str, case: str, quantity: str, values, unit: str = "") -> float:
        """values: a number or samples of one. Returns the median."""
        values = [float(value) for value in (values if isinstance(values, (list, tuple)) else [values])]
        low, middle, high = quartiles(values)
        shown = (f"{value:.6g}" for value in (middle, low, high))
        self.rows[item, case, quantity] = (item, case, quantity, *shown, len(values), unit, self.machine)
        print(f"    {item} | {case} | {quantity}: {middle:.4g} {unit} [{low:.4g}, {high:.4g}] n={len(values)}", flush=True)
        self.write()
        return middle

    def note(self, item: str, text: str) -> None:
        """A row that says something in words: what was left out, what failed."""
        self.rows[item, text, "note"] = (item, text, "note", "", "", "", 0, "", self.machine)
        print(f"    {item} | {text}", flush=True)
        self.write()

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out, lineterminator="\n").writerows([COLUMNS, *self.rows.values()])


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def seconds(act: Callable, sync: Callable = lambda: None) -> float:
    """How long act() takes; `sync` waits for a device."""
    sync()
    began = time.perf_counter()
    act()
    sync()
    return time.perf_counter() - began


def in_turns(rivals: dict[str, Callable], rounds: int, sync: Callable = lambda: None, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of each rival in each round, one after another within a round; the first `warm` rounds are thrown away."""
    times = {name: [] for name in rivals}
    for k in range(warm + rounds):
        for name, act in rivals.items():
            spent = seconds(act, sync)
            if k >= warm:
                times[name].append(spent)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> list[float]:
    """Round by round, the time of `one` over that of `other`."""
    return [a / b for a, b in zip(times[one], times[other])]


@contextmanager
def at_most(limit: float):
    """Raises TimeoutError inside after `limit` seconds, between two steps of Python (not on Windows, nor in a thread)."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise TimeoutError(f"stopped after {limit:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(limit, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_items(items: dict[str, tuple[Callable[[], None], float]], table: Table, total: float) -> None:
    """Runs items, each name -> (act, most seconds), one after another, `total` seconds at most. One that fails leaves its reason in
    the table and the others go on."""
    began = time.monotonic()
    for name, (act, limit) in items.items():
        spent = time.monotonic() - began
        print(f"[{spent:6.1f} s] {name}", flush=True)
        if spent > total - 2:
            table.note(name, "left out: no time was left")
            continue
        try:
            with at_most(min(limit, total - spent)):
                act()
        except Exception as error:                                   # the others shall go on
            traceback.print_exc()
            table.note(name, f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print(f"[{time.monotonic() - began:6.1f} s] done: {table.file}", flush=True)
