"""Benchmarks: what the kit costs against what one would use instead. `mbf bench` runs them and writes a table."""
from __future__ import annotations

from pathlib import Path


def run(out: str | Path = "figures", gpu: bool = False) -> None:
    """Runs the benchmarks and writes their tables to `out`. gpu: those of a GPU alone."""
    from ..errors import InputError
    import torch
    if gpu and not torch.cuda.is_available():
        raise InputError("expected CUDA for the benchmarks of a GPU, found none: leave --gpu out")
    from . import gpu as on_gpu
    on_gpu.bench(out)
