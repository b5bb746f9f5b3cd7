"""Benchmarks: what the kit costs against what one would use instead. `mbf bench` runs them and writes a table."""
from __future__ import annotations

from pathlib import Path


def run(out: str | Path = "figures", quick: bool = False, gpu: bool = False, only: list[str] | None = None) -> None:
    """Runs the benchmarks, and where there is CUDA those of a GPU; writes tables and figures to `out`.

    quick: under two minutes. gpu: those of a GPU alone. only: the items of the CPU whose name holds one of these words.
    """
    import torch

    from ..errors import InputError
    card = torch.cuda.is_available()
    if gpu and not card:
        raise InputError("expected CUDA for the benchmarks of a GPU, found none: leave --gpu out")
    if not gpu:
        from . import cpu
        _show(cpu.bench(out, quick, only))
    if gpu or card and not quick:
        from . import gpu as on_gpu
        _show(on_gpu.bench(out))


def _show(file: Path) -> None:
    """Prints the goals that the table has numbers for and draws its figures beside it."""
    from .. import plots, plots_bench
    from ..goals import goals, read_bench
    table = read_bench(file)
    found = goals(table)
    if len(found):
        print("\n" + found[["goal", "wanted", "value", "low", "high", "holds"]].to_string(index=False, float_format="%.3g"))
        print("figure:", plots.save(plots_bench.goals(found), f"{file.stem}-goals", folder=file.parent))
    if (table["quantity"] == "slope").any() and (table["item"] == "scaling").any():
        print("figure:", plots.save(plots_bench.growth(table), f"{file.stem}-scaling", folder=file.parent))
