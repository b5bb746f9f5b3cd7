"""All benchmarks of the CPU, one thread: end to end, a comparison, the task boundary, memory, geometry, explorers, scoring, scaling."""
from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from .boundary import boundary, factors
from .end_to_end import end_to_end
from .grid import cells, workers
from .growth import activations, over_tasks, scaling
from .redraws import redraws
from .scoring import small_scoring
from .shape import TARGETS, Device, Size, hollow_model
from .spectra import against_dense, spectra
from .table import Table, machine, run_items, versions

LLAMA_7B = Size(cold=64 * 2 ** 20, repeats=7)       # the factors alone; no weight of it is there
SAMPLE = ["slao", "olora", "magmax", "ewc", "inflora", "sd_lora", "replay", "ties", "treelora", "sapt", "p_and_m", "keeplora"]
CONSTANT = ["slao", "seqlora"]
GROWING = ["olora", "ties"]


def bench(out: str | Path, quick: bool = False, only: list[str] | None = None) -> Path:
    """Runs all items and returns the table, OUT/bench.csv. quick: under two minutes. only: the items whose name holds one of these
    words; the other rows stay as they are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    table, place = Table(Path(out) / "bench.csv", machine(), keep=bool(only)), Device("cpu")
    size = replace(LLAMA_7B, repeats=3, layers=8) if quick else LLAMA_7B
    counts = (2, 10, 20) if quick else (2, 25, 100)
    table.note("versions", versions())
    items = {
        "end to end": lambda: end_to_end(table, 3, 64, 2) if quick else end_to_end(table, 5, 100, 3),
        "scoring": lambda: small_scoring(table, 40, 1, 2) if quick else small_scoring(table, 100, 3),
        **{f"factors, r {rank}": partial(factors, rank, table, place, size) for rank in size.ranks},
        **{f"boundary, {case}": partial(lambda case: boundary(case, table, place, size, hollow_model(size)), case) for case in TARGETS},
        "geometry": lambda: spectra(table, 2 * size.layers, size.hidden, 5 if quick else 15),
        "geometry, dense": lambda: against_dense(table, 256 if quick else 1024, 3),
        "activations": lambda: activations(table),
        **({} if quick else {"redraws": lambda: redraws(table)}),        # of pictures in their full size: a minute
        "scaling": lambda: scaling(table, 3 if quick else 9, 512 if quick else 2048),
        **{f"memory, {name}": partial(over_tasks, name, table, counts) for name in GROWING},
        **{f"memory, {name}": partial(over_tasks, name, table, counts if quick else (*counts, 400)) for name in CONSTANT},
        "comparison": lambda: cells(table, SAMPLE[:3], 2, 32, 1) if quick else cells(table, SAMPLE, 3, 96, 2),
        "workers": lambda: workers(table, 2, 32, 1, epochs=1) if quick else workers(table, 5, None, 6)}
    chosen = {name: (act, 60 if quick else 900) for name, act in items.items() if not only or any(part in name for part in only)}
    try:
        run_items(chosen, table, 115 if quick else 3600)
    finally:
        torch.set_num_threads(threads)
    return table.file
