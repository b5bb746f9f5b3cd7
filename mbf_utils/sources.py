"""load_stream: a stream of tasks from a name, or from a folder of a benchmark's files."""
from __future__ import annotations

import os
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from reprlib import repr as brief

from mbf_utils.errors import InputError
from mbf_utils.folders import read_folder
from mbf_utils.streams import Stream

WORLDS = ("world-5", "world-15", "world-100")                 # made by the package itself, see world.py
BENCHMARKS = ("standard", "long", "superni", "trace")         # not fetched from the Hub yet


def load_stream(name_or_path, order=None, seed: int = 0, limit: int | None = None, named: bool | None = None) -> Stream:
    """A stream of tasks by name ("world-5", "world-15", "world-100") or from the folder of a benchmark.

    name_or_path: a name, a folder (text or Path) or a Stream, which is returned as it is. A text may carry its order:
        "world-5:2", "CL_Benchmark:6".
    order: the order's name or a list of task names; None is the first order (see world.py and `folders.read_folder`).
    seed: of the drawn rows. limit: at most so many train, dev and test rows a task.
    named: whether prompts name their task; None is no for the worlds and yes, as O-LoRA has it, for folders.
    Raises InputError for an unknown name and for whatever the stream's own reader refuses.
    """
    if isinstance(name_or_path, Stream):
        return name_or_path
    if not isinstance(name_or_path, (str, Path)):
        raise InputError(f"expected a stream's name, a folder or a Stream, found {type(name_or_path).__name__}; "
                         f"the names are {', '.join(WORLDS)}.")
    name, inner = _split(name_or_path)
    if inner is not None:
        if order is not None and str(order) != inner:
            raise InputError(f"expected one order, found {inner!r} in {name_or_path!r} and order={order!r}; leave one out.")
        order = inner
    if name in WORLDS:
        from mbf_utils.world import world_stream
        if isinstance(order, str) and "," in order:
            order = [task.strip() for task in order.split(",")]
        return replace(world_stream(name, order=order, seed=seed, limit=limit, named=bool(named)), named=bool(named))
    if name in BENCHMARKS:
        raise InputError(f"expected the folder with the files of the benchmark {name!r}, found its name, and this release does "
                         "not fetch it from the Hub yet; give the path of the folder.")
    if isinstance(name, Path) or _is_folder(name) or any(mark in name for mark in "/\\") or name.startswith(("~", ".")):
        return read_folder(name, order=order, seed=seed, limit=limit, named=named is None or named)
    likely = get_close_matches(name, WORLDS + BENCHMARKS)
    raise InputError(f"expected {', '.join(WORLDS + BENCHMARKS)} or a folder, found {brief(name)}, which is neither"
                     + (f"; did you mean {' or '.join(likely)}?" if likely else "; check the name or the path."))


def _split(name_or_path):
    """The name and the order in it, or None. What exists as a path stays whole; so does C:\\data, for C is no stream."""
    if isinstance(name_or_path, Path) or _is_folder(name_or_path):
        return name_or_path, None
    name, colon, order = name_or_path.rpartition(":")
    return (name, order) if colon and (name in WORLDS + BENCHMARKS or _is_folder(name)) else (name_or_path, None)


def _is_folder(name: str) -> bool:
    return os.path.isdir(os.path.expanduser(name))
