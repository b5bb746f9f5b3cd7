"""A grid on several machines: on a Dask cluster, or a share of it to each job of a queue. No shared disk is needed.

    mbf compare ... --backend dask --scheduler tcp://head:8786      here: the driver, which alone writes
    CUDA_VISIBLE_DEVICES=0 dask worker tcp://head:8786 --nthreads 1 there: one worker a GPU

What travels is one task of one cell: to a worker goes what the run remembers (configuration, memory, scores; of earlier tasks
only their names), back comes the task's folder, which the driver commits as a run of its own would (store.py). So every finished
task is safe as soon as the driver has it, and only then its worker gets the next: a worker that dies loses the task that it was at
(or one that it had just ended, before the driver fetched it), which Dask gives to another worker, and a driver that dies goes on
with the next command. A task under which too many workers died (Dask's allowed-failures) is tried once more with nothing beside it,
so that no other can be to blame; if they die again, that is recorded as its cell's failure, and the others go on. (joblib's backend
for Dask was tried first: in 1.6.0 it waits forever for a task that Dask has given up. So Dask's own client is asked; every other
backend goes through joblib.)
"""
from __future__ import annotations

import json
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from heapq import heappop, heappush
from pathlib import Path
from typing import Callable, Iterator, NamedTuple
from uuid import uuid4

from .costs import cost_file, read_costs
from .disk import write_json
from .errors import InputError
from .store import RAISED, Store, newest, task_folders

_one = threading.Lock()                             # a worker process learns one task at a time, however many threads it has
LOST = "expected the Dask scheduler to stay, found it gone ({}): finished tasks are kept, give the command again"
KILLED = ("the worker processes died while this run was under way, perhaps for want of memory: finished tasks are kept, give the "
          "command again")


class Step(NamedTuple):
    """What comes back of one task of a cell."""
    seconds: float
    error: str | None
    config: dict | None = None                      # config.json
    files: dict[str, bytes] | None = None           # the task's folder; None where every task was finished
    cost: dict | None = None                        # NAME.cost.json


def results(cells: list, learn: Callable, client) -> Iterator[tuple[str, float, str | None]]:
    """Every cell on the workers of a Dask client: (its folder's name, seconds, None or what went wrong), as they end.

    learn(cell) learns one more task of a cell in cell.folder, and returns such a triple. It has to be picklable.
    """
    from distributed import KilledWorker, as_completed
    seconds, under_way, stores = Counter(), {}, {}                   # under_way: future -> (place of its cell, its worker)
    ready, suspects, alone = list(range(len(cells))), [], None       # places of cells; ready is a heap: what has begun goes first
    ended = as_completed(with_results=True, raise_errors=False)      # results are fetched at once: their worker may die

    def send(place: int, workers: list[str]) -> None:
        """To a worker without a task of ours: another may hold a result that is not fetched yet, and would die with it."""
        cell, busy = cells[place], [worker for _, worker in under_way.values()]
        worker = next((worker for worker in workers if worker not in busy), None)
        future = client.submit(step, learn, cell, carried(cell.folder), key=f"{cell.folder.name}-{uuid4().hex[:8]}", pure=False,
                               workers=worker, allow_other_workers=bool(worker))       # others where it is gone meanwhile
        under_way[future] = place, worker
        ended.add(future)

    def fill() -> int | None:
        """A task to each worker and none to wait behind it, for it would die with it. Returns the suspect that was sent, alone."""
        try:
            workers = list(client.nthreads())
        except OSError as error:
            raise InputError(LOST.format(error)) from None
        while ready and len(under_way) < max(1, len(workers)):
            send(heappop(ready), workers)
        if under_way or not suspects:
            return None
        send(suspects[0], workers)
        return suspects.pop(0)

    with ExitStack() as opened:
        opened.callback(lambda: client.cancel(list(under_way)))
        fill()
        for future, found in ended:
            (place, _), status = under_way.pop(future), future.status
            killed = status == "error" and isinstance(future.exception(), KilledWorker)
            future.release()                        # else Dask learns it again should its worker die in the next task
            cell, error, goes_on = cells[place], None, False
            if status == "finished":
                seconds[place] += found.seconds
                error = found.error or keep(cell.folder, found, stores, opened)
                if goes_on := not error and cell.left > 0:
                    heappush(ready, place)
            elif not killed:
                raise InputError(LOST.format(status))
            elif goes_on := place != alone:
                suspects.append(place)
            else:
                error = KILLED
            alone = fill()
            if not goes_on:
                if cell.folder in stores:
                    stores.pop(cell.folder).close()
                yield cell.folder.name, seconds[place], error


def step(learn: Callable, cell, held: dict[str, bytes | None]) -> Step:
    """On a worker: one more task of a cell whose run so far is `held`, in a folder that is gone afterwards."""
    with _one, tempfile.TemporaryDirectory(prefix="mbf-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch) / cell.folder.name
        unfold(held, folder)
        before = len(task_folders(folder))
        _, seconds, error = learn(cell._replace(folder=folder))
        if error:
            return Step(seconds, error.replace(str(folder), str(cell.folder)))
        config, files = json.loads((folder / "config.json").read_text()), None
        if new := task_folders(folder)[before:]:
            files = {path.relative_to(new[0]).as_posix(): path.read_bytes() for path in new[0].rglob("*") if path.is_file()}
            files |= {name: (folder / name).read_bytes() for name in RAISED if (folder / name).is_file()}
        cost = cost_file(folder)
        return Step(seconds, None, config, files, json.loads(cost.read_text()) if cost.exists() else None)


def keep(folder: Path, found: Step, stores: dict[Path, Store], opened: ExitStack) -> str | None:
    """On the driver: commits the task in the run's folder, which stays locked until `opened` closes. Returns what went wrong."""
    try:
        if folder not in stores:
            stores[folder] = opened.enter_context(Store(folder, found.config))
        if found.files is None:
            return None
        store = stores[folder]
        index = store.finished() + 1
        store.commit_task(index, found.config["stream"]["tasks"][index - 1], lambda temporary: unfold(found.files, temporary),
                          found.config["settings"]["keep"])
        if found.cost:
            file = cost_file(folder)
            earlier = [read_costs(folder)] if index > 1 else []
            write_json(max([*earlier, found.cost], key=lambda cost: cost.get("peak_gpu_mb") or cost.get("peak_memory_mb") or 0), file)
        return None
    except InputError as error:
        return str(error)


def carried(folder: Path) -> dict[str, bytes | None]:
    """What a worker needs of a run to go on: {path in the run's folder: bytes}, None for a folder. {} where nothing is learned."""
    done = task_folders(folder)
    places = {name: newest(folder, name) for name in RAISED if done}          # a driver may have been killed while it committed
    files = {name: path.read_bytes() for name, path in places.items() if path.is_file()}
    if (folder / "config.json").is_file():
        files["config.json"] = (folder / "config.json").read_bytes()
    return files | {f"tasks/{path.name}": None for path in done}


def unfold(files: dict[str, bytes | None], folder: Path) -> None:
    """The other way round: writes them below `folder`."""
    for name, content in files.items():
        path = folder / name
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_bytes(content)


def client_here():
    """The Dask client that is open in this process. Raises InputError where there is none, or its workers do not fit."""
    try:
        from distributed import TimeoutError as Late
        from distributed import default_client
    except ImportError:
        raise InputError("expected Dask for a grid on a cluster, found none: pip install 'mbf-utils[cluster]'") from None
    try:
        client = default_client()
    except ValueError:
        raise InputError("expected a Dask client, found none: give the scheduler's address (--scheduler tcp://head:8786, or "
                         "distributed.Client(address) before the call)") from None
    try:
        client.wait_for_workers(1, timeout=60)
    except Late:
        raise InputError("expected a Dask worker, found none in 60 seconds: start one a GPU, CUDA_VISIBLE_DEVICES=0 dask worker "
                         "ADDRESS --nthreads 1") from None
    if many := sorted({count for count in client.nthreads().values() if count > 1}):
        raise InputError(f"expected Dask workers of one thread, one a GPU, found workers of {', '.join(map(str, many))} threads: "
                         "start them with --nthreads 1")
    return client


@contextmanager
def connected(address: str, timeout: float = 30):
    """A client of the scheduler at `address`, as long as it is open. timeout: seconds to wait for it."""
    try:
        from distributed import Client
    except ImportError:
        client_here()                               # says what to install
    try:
        client = Client(address, timeout=timeout)
    except (OSError, ValueError) as error:          # also: too late
        raise InputError(f"expected a Dask scheduler at {address}, found: {' '.join(str(error).split())}") from None
    with client:
        yield client


def of_share(kind: str, cell: str | None) -> str:
    """kind.csv, or kind-k-of-N.csv of the share k/N of a grid."""
    return f"{kind}-{cell.replace('/', '-of-')}.csv" if cell else f"{kind}.csv"


def share(cells: list, part: str) -> list:
    """The k-th of N shares of a grid, "k/N" with k from 1: every N-th cell, so that each share has some of every seed."""
    k, slash, count = part.partition("/")
    if not (slash and k.isdecimal() and count.isdecimal() and 1 <= int(k) <= int(count)):
        raise InputError(f"expected a share of the grid as k/N with k from 1 to N, found {part!r}")
    if not (chosen := cells[int(k) - 1::int(count)]):
        raise InputError(f"expected at most as many shares as the grid has cells ({len(cells)}), found share {part}")
    return chosen
