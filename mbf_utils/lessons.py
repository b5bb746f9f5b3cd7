"""What the notebooks share: the set-up cell, and the checks of their exercises."""
from __future__ import annotations

import math
import os
from importlib.metadata import version

import torch

from . import __version__


def setup(cpu_minutes: float, gpu_minutes: float | None = None) -> bool:
    """Prints versions, device and the minutes to expect; returns True where MBF_FAST asks for a quick pass (tests do).

    On a CPU torch is held to one thread: the tiny models are far slower with several.
    """
    fast = os.environ.get("MBF_FAST", "0") not in ("", "0")
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if card is None:
        torch.set_num_threads(1)
    minutes = gpu_minutes if card and gpu_minutes else cpu_minutes
    print(f"mbf-utils {__version__}, torch {version('torch')}, transformers {version('transformers')}, peft {version('peft')}")
    print(f"{card or 'CPU, one thread'}; about {minutes:g} minutes" + (" (quick pass: fewer rows)" if fast else ""))
    return fast


def check(answer, right, hint: str) -> str:
    """"Right." where a number (or each number of a sequence) equals `right` to 1e-6 relative, else what to think of."""
    try:
        pairs = list(zip(answer, right, strict=True)) if hasattr(right, "__len__") else [(answer, right)]
        good = all(math.isclose(float(a), float(b), rel_tol=1e-6, abs_tol=1e-9) for a, b in pairs)
    except (TypeError, ValueError):
        good = False
    return "Right." if good else f"Not yet: {hint}"
