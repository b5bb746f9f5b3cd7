"""All benchmarks of one GPU: a model of Llama-2-7B's shape with random weights, made on the card, and the small world.

TRL's SFTTrainer is among the rivals where TRL is installed. Everything also runs on the CPU with a toy Size: for tests.
"""
from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from .boundary import boundary, factors
from .scoring import scoring
from .shape import TARGETS, Device, Size, random_model
from .small_world import OtherDevice, abreast, small_world
from .steps import ceilings, memory, throughput
from .table import Table, machine, run_items, versions


def bench(out: str | Path, device: str = "cuda", size: Size = Size(), total: float = 210.0) -> Path:
    """Runs all items on `device` within about `total` seconds and returns the table, OUT/bench-gpu.csv."""
    place = Device(device)
    table = Table(Path(out) / "bench-gpu.csv", machine(device))
    print(table.machine, flush=True)
    table.note("versions", versions())
    here, row = {"model": None}, {}                                  # the big model; seconds a row of our loop

    def make():
        began = time.perf_counter()
        here["model"] = random_model(size, place)
        table.add("model", "made on the device", "time", place.now() - began, "s")
        table.add("model", "made on the device", "parameters", sum(p.numel() for p in here["model"].parameters()) / 1e9, "1e9")
        table.add("model", "made on the device", "memory", place.held(), "GiB")

    def measured(case):
        row[case] = throughput(case, table, place, size, here["model"])

    def bounded(case):
        boundary(case, table, place, size, here["model"], row.get(case))

    def remembered(name):
        memory(name, table, place, size, here["model"])

    other = OtherDevice(size)
    items = {
        "model": (make, 30),
        **{f"throughput, {case}": (partial(measured, case), 40) for case in TARGETS},
        **{f"boundary, {case}": (partial(bounded, case), 15) for case in TARGETS},
        **{f"memory, {name}": (partial(remembered, name), 25) for name in ("slao", "olora")},
        "scoring": (lambda: scoring(table, place, size, here["model"]), 25),
        "big model freed": (here.clear, 5),
        **{f"factors, r {rank}": (partial(factors, rank, table, place, size), 20) for rank in size.ranks},
        "ceilings": (lambda: ceilings(table, place, size.hidden * 2, size.cold / 2 ** 28), 10),
        "small world": (lambda: small_world(table, place, size, other), 50),
        "abreast": (lambda: abreast(table, place, size), 60)}
    try:
        run_items(items, table, total)
    finally:
        other.close()
    return table.file
