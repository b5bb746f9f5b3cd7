"""A cell of a comparison, and what a worker process does with it: learn its run, or several side by side, on one CPU thread.

A worker imports once and keeps one base.
"""
from __future__ import annotations

import copy
import gc
import io
import time
import traceback
import warnings
from contextlib import closing, contextmanager, nullcontext, redirect_stderr
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch

from .abreast import Plan, run_abreast
from .costs import measured
from .errors import InputError
from .method import Method
from .models import load_model
from .runs import walk_stream
from .store import task_folders
from .streams import Stream


class Base(NamedTuple):
    """A base model by name and where to put it: what load_model takes."""
    name: str = "tiny"
    device: str = "auto"
    dtype: str = "auto"
    quantize: int | None = None


class Cell(NamedTuple):
    """One run of a comparison; its folder's name is its own."""
    folder: Path
    stream: Stream
    method: str | Method                            # a Method is a model to copy
    seed: int

    @property
    def left(self) -> int:
        """Tasks still to learn."""
        return len(self.stream) - len(task_folders(self.folder))


@lru_cache(maxsize=1)
def loaded(base: Base):
    return load_model(*base)


def learn(job: list[Cell], base, settings: dict, tasks: int | None = None) -> list[tuple[str, float, str | None]]:
    """The cells of a job, in whatever process, or so many more tasks of its one cell: (folder's name, seconds, None or what went
    wrong) of each."""
    began, errors, threads = time.monotonic(), {}, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():         # one line of progress, not one a worker
            model = loaded(base) if isinstance(base, Base) else base
            with _frozen():
                errors = _alone(job[0], model, settings, tasks) if len(job) == 1 else _abreast(job, model, settings)
    except Exception as failure:
        errors = {cell.folder: failure for cell in job}
    finally:
        torch.set_num_threads(threads)
    seconds = (time.monotonic() - began) / len(job)
    return [(cell.folder.name, seconds, _sentence(errors[cell.folder]) if cell.folder in errors else None) for cell in job]


def next_task(cell: Cell, base, settings: dict) -> tuple[str, float, str | None]:
    """One more task of a cell, for a worker of a cluster."""
    return learn([cell], base, settings, tasks=1)[0]


def _alone(cell: Cell, model, settings: dict, tasks: int | None) -> dict[Path, Exception]:
    with measured(cell.folder) if cell.left else nullcontext():
        walk = walk_stream(cell.stream, copy.deepcopy(cell.method), model, cell.seed, cell.folder, **settings)
        with closing(walk):
            for _ in islice(walk, tasks):
                pass
    return {}


def _abreast(job: list[Cell], model, settings: dict) -> dict[Path, Exception]:
    return run_abreast([Plan(cell.folder, cell.stream, copy.deepcopy(cell.method), cell.seed) for cell in job], model, **settings)


def _sentence(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(last.filename).name}, line {last.lineno})"


@contextmanager
def _frozen():
    """The loop collects garbage after every task; what is there before it, all of torch, need not be searched each time."""
    gc.collect()
    mine = not gc.get_freeze_count()
    if mine:
        gc.freeze()
    try:
        yield
    finally:
        if mine:
            gc.unfreeze()
