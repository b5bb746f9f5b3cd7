"""Grids of runs: every stream with every method and seed is a cell, a run's folder; resumed cell by cell, in processes.

    out/world-5-o1-olora-lambda1=0.1-0/            a cell, as run_stream leaves it
    out/world-5-o1-olora-lambda1=0.1-0.cost.json   beside it what no two runs share: peak memory
    out/failures.csv                               the cells that failed, with a sentence; gone when none did
                                                   (of a share k/N of the grid: failures-k-of-N.csv)

Each cell runs on one CPU thread (cells.py), so the number of workers changes no byte of it.
"""
from __future__ import annotations

import dataclasses
import hashlib
import re
import tempfile
from functools import cached_property, partial
from pathlib import Path
from typing import Iterator

import pandas as pd
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm.auto import tqdm

from . import cluster
from .cells import Base, Cell, learn, loaded, next_task
from .disk import write_whole
from .errors import InputError
from .method import Method
from .methods import METHODS, make_method
from .reports import order_table, summarise
from .results import Run
from .sources import load_stream
from .streams import Stream
from .titles import name_of, setting_of

DIED = "a worker process died while this run was under way, perhaps for want of memory: give the command again"


class Comparison:
    """The finished runs of a grid as tables. `failures`: cell and error sentence of those that failed."""

    def __init__(self, runs: list[Run], failures: dict[str, str]):
        self.runs = runs
        self.failures = pd.DataFrame(failures.items(), columns=["cell", "error"])

    @cached_property
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        return summarise(self.runs)

    @property
    def table(self) -> pd.DataFrame:
        """One row a stream, order, method and setting, in METHODS' order; see reports.summarise."""
        return self.tables[0]

    @property
    def each(self) -> pd.DataFrame:
        """One row a run."""
        return self.tables[1]

    @cached_property
    def orders(self) -> pd.DataFrame:
        """One row a method that has several orders of one stream: AA over them, MOPD, AOPD; see reports.order_table."""
        return order_table(self.runs)

    def __repr__(self) -> str:
        return f"Comparison({len(self.runs)} runs, {len(self.failures)} failed)"


def compare(streams, methods, seeds, model="tiny", out=None, workers=1, abreast=1, cell: str | None = None, **settings) -> Comparison:
    """Learns every stream with every method and seed that is not learned yet, and returns the Comparison.

    streams: Streams or what load_stream takes ("world-5:2"), one or several. methods: names in METHODS, pairs (name, {field:
    value}) or Methods. seeds: whole numbers. model: a name, a folder, a Base, or (model, tokenizer), which is sent along with
    every cell. out: folder of the runs (None: a temporary one). workers: the number of processes, or a joblib backend of
    processes, or "dask" within a client (cluster.py). abreast: how many runs of one method a worker learns side by side
    (abreast.py): a GPU that one small run leaves idle is put to use; not with Dask. cell: "k/N" for the k-th of N shares of the
    grid alone. settings: fields of settings.Settings, for all cells.

    The first seed of all methods comes first, then the second. A cell that fails is recorded and does not stop the others;
    only where all fail with one sentence it is raised as an InputError.
    """
    temporary = tempfile.TemporaryDirectory(prefix="mbf-", ignore_cleanup_errors=True) if out is None else None
    out = Path(temporary.name if temporary else out).absolute()
    cells = plan(streams, methods, seeds, out)
    cells = cluster.share(cells, cell) if cell else cells
    processes = _processes(workers)
    if type(abreast) is not int or abreast < 1:
        raise InputError(f"expected 1 run abreast or more, found {abreast!r}")
    base = model if isinstance(model, tuple) else Base(str(model))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"expected a folder to write to at {out}, found: {error.strerror}") from None
    failures = _learn_all(cells, base, settings, workers, processes, abreast)
    if len(failures) == len(cells) and len(set(failures.values())) == 1:
        raise InputError(f"every run failed: {next(iter(failures.values()))}")
    failed = out / cluster.of_share("failures", cell)
    for stale in (failed, failed.with_name(f".{failed.name}.tmp")):          # also what a killed comparison left
        stale.unlink(missing_ok=True)
    comparison = Comparison([Run(cell.folder, temporary) for cell in cells if cell.folder.name not in failures], failures)
    if failures:
        write_whole(comparison.failures.to_csv(index=False, lineterminator="\n"), failed)
    return comparison


def plan(streams, methods, seeds, out: Path) -> list[Cell]:
    """The cells of a grid in the order in which they are learned. Raises InputError for what is unknown or there twice."""
    streams, seeds = [load_stream(stream) for stream in _several(streams)], _several(seeds)
    entries = [_entry(method) for method in _several(methods)]
    if not (streams and entries and seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InputError(f"expected a stream, a method and a whole number as seed, or several, found {len(streams)} streams, "
                         f"{len(entries)} methods and the seeds {seeds}")
    cells = [Cell(out / _folder(stream, label, seed), stream, method, seed)
             for seed in seeds for stream in streams for label, method in entries]
    names = [cell.folder.name for cell in cells]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"expected every stream, method and seed once, found two runs for the folder {twice}: leave one out, "
                         "or give streams of one name and order, but other rows, to comparisons of their own")
    return cells


def _several(given) -> list:
    pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)
    return [given] if pair or isinstance(given, (str, Path, Stream, Method, int)) else list(given)


def _entry(given) -> tuple[str, str | Method]:
    """(its part of the folders' names, what run_stream takes) of a name, a pair (name, fields) or a Method."""
    name, fields = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
    method = make_method(name, **fields)
    name = name_of(method)
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
    values = {key: [value(i) for i in range(1, 6)] if callable(value) else value for key, value in values.items()}
    setting = setting_of(name, values)
    return (f"{name}-{setting}", method) if setting else (name, name if name in METHODS else method)


def _folder(stream: Stream, label: str, seed: int) -> str:
    """world-5-o1-named-olora-lambda1=0.1-0; long parts end in a hash."""
    def short(text: str) -> str:
        text = re.sub(r"[^\w.=,-]", "", text)
        return text if len(text) <= 60 else f"{text[:50]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"{short(stream.name)}-o{short(stream.order)}{'-named' * stream.named}-{short(label)}-{seed}"


def _processes(workers) -> int | None:
    """The number of processes where it is known."""
    if workers == "dask":
        cluster.client_here()
        return None
    if not isinstance(workers, int):
        if workers in ("threading", "multiprocessing", "sequential"):
            raise InputError(f"expected a number of workers or a joblib backend that brings its own processes, found {workers!r}")
        try:
            with parallel_config(workers):
                return None
        except ValueError:
            raise InputError(f"expected a number of workers or a joblib backend, found {workers!r}") from None
    if workers < 1:
        raise InputError(f"expected 1 worker or more, found {workers}")
    return workers


def _learn_all(cells: list[Cell], base, settings: dict, workers, processes: int | None, abreast: int) -> dict[str, str]:
    """{folder's name: error sentence} of the cells that failed; one line of progress."""
    waiting, failures = {cell.folder.name: cell for cell in cells}, {}
    left = {name: cell.left for name, cell in waiting.items()}          # tasks
    learned, spent = 0, 0.0
    with tqdm(total=len(cells), unit="run", bar_format="{n_fmt} of {total_fmt} runs |{bar:30}| {elapsed}{postfix}") as bar:
        def done(name: str, error: str | None) -> None:
            del waiting[name]
            if error:
                failures[name] = error
            rest = sum(left[name] for name in waiting) * spent / learned / (processes or 1) if learned else 0
            bar.set_postfix_str(f"{len(failures)} failed" + (f", {_minutes(rest)} left" if rest else ""), refresh=False)
            bar.update()

        while waiting:
            under_way: list[str] = []
            try:
                for name, seconds, error in _results(_jobs(waiting.values(), abreast), base, settings, workers, under_way):
                    if left[name] and not error:
                        learned, spent = learned + left[name], spent + seconds
                    under_way.remove(name)
                    done(name, error)
            except TerminatedWorkerError:           # nobody can tell which of them it was
                running = [name for name in under_way if waiting[name].left]
                for name in running[:processes and processes * abreast]:             # the first of those that were sent
                    done(name, DIED)
    return failures


def _minutes(seconds: float) -> str:
    if seconds < 60:
        return "under a minute"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _jobs(cells, abreast: int) -> list[list[Cell]]:
    """What a worker gets at once: `abreast` cells of one method, in the order of the first."""
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(repr(cell.method) if abreast > 1 else cell.folder.name, []).append(cell)
    jobs = [some[k:k + abreast] for some in alike.values() for k in range(0, len(some), abreast)]
    places = {cell.folder: place for place, cell in enumerate(cells)}
    return sorted(jobs, key=lambda job: places[job[0].folder])


def _results(jobs: list[list[Cell]], base, settings: dict, workers, under_way: list[str]) -> Iterator[tuple[str, float, str | None]]:
    """`cells.learn` of every cell, as they end. `under_way`: names of the cells that were sent; whoever reads strikes them off."""
    def calls():
        for job in jobs:
            under_way.extend(cell.folder.name for cell in job)
            yield delayed(learn)(job, base, settings)

    if workers == 1:
        try:
            for _, given, _ in calls():
                yield from learn(*given)
        finally:
            loaded.cache_clear()
        return
    if workers == "dask":
        cells = [cell for job in jobs for cell in job]
        under_way += [cell.folder.name for cell in cells]
        yield from cluster.results(cells, partial(next_task, base=base, settings=settings), cluster.client_here())
        return
    own = isinstance(workers, int)
    try:
        with parallel_config("loky", inner_max_num_threads=1) if own else parallel_config(workers):
            pool = Parallel(workers if own else -1, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
    except ValueError as error:
        raise InputError(f"expected a joblib backend that returns results as they end, found {workers!r}: {error}") from None
    for found in pool(calls()):
        yield from found
