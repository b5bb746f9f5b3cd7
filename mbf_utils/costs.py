"""What a run costs beside its scores: peak memory. It is no two times the same, so it lies beside the run's folder, not in it."""
from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from .disk import commit, read_json
from .errors import InputError

PEAKS = ("peak_memory_mb", "peak_gpu_mb")


def cost_file(folder: Path) -> Path:
    """FOLDER.cost.json, beside the run's folder."""
    return folder.with_name(f"{folder.name}.cost.json")


def read_costs(folder: Path) -> dict:
    """What FOLDER.cost.json tells of the run in `folder`; {} where there is none. Raises InputError where it is no such file."""
    file = cost_file(folder)
    found = read_json(file) if file.is_file() else {}
    for key in PEAKS:
        if type(found.get(key)) not in (int, float, type(None)):
            raise InputError(f"expected a number or null as {key} in {file}, found {found[key]!r:.80}: remove it, the run itself is whole")
    return found


@contextmanager
def measured(folder: Path):
    """Writes FOLDER.cost.json once the run inside has ended: the most memory that this process (Linux) and the GPU held
    meanwhile, in MB, and what the process held before: Python, torch, the base, what earlier runs left. null: cannot be told. Of
    a run that was resumed, its last part."""
    gpu, before = torch.cuda.is_available(), reset_peak()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    yield
    found = {"before_mb": before, "peak_memory_mb": None if before is None else memory("VmHWM"),
             "peak_gpu_mb": torch.cuda.max_memory_allocated() / 1e6 if gpu else None}
    with suppress(FileNotFoundError):               # whoever opens the run clears what a killed process left in its folder
        temporary = folder / ".cost.json.tmp"
        temporary.write_text(json.dumps(found, indent=2) + "\n")
        commit(temporary, cost_file(folder))


def reset_peak() -> float | None:
    """Sets this process's peak back to what it holds now, in MB; None where the system does not let it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        held, peak = memory("VmRSS"), memory("VmHWM")
    except (OSError, ValueError):
        return None
    return held if peak < held + 20 else None


def memory(key: str) -> float:
    """MB of this process: VmRSS, what it holds, or VmHWM, the most that it held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024 / 1e6
