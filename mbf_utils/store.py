"""A run's folder: safetensors, JSON and CSV, no pickle. A kill at any moment leaves the last finished task whole.

    config.json                         every setting, seed and version
    matrix.csv, matrix-options.csv      scores in percent, row i after task i
    matrix-score.csv                    the same by each task's own score, where that is not exact match everywhere
    memory.safetensors, memory.json     what the method remembers
    tasks/03-yelp/{result,tuned}/       standard PEFT adapters: the model after task 3, and what was trained
    tasks/03-yelp/log.json              losses, times, the modules' names
    checkpoint-04-000120/               inside task 4: all that a restart needs

One rename commits a task: its folder, written under a temporary name, carries the new matrices and memory inside. Then they
move up to the run's folder, file by file; whoever opens the run next finishes an interrupted move. What a killed run left
under a temporary name is cleared. The lock is the operating system's and dies with the process. Where several processes
train together, all read and only the main one writes.
"""
from __future__ import annotations

import io
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pandas as pd
from filelock import BaseFileLock, FileLock, Timeout
from safetensors import SafetensorError

from .disk import commit, read_json, sync, write_json
from .errors import InputError
from .packing import brief, load_value, pack, save_value, unpack  # noqa: F401 (whoever opens a store finds them here)
from .rows import refusal, text_of

# what moves up when a task is committed
RAISED = ("memory.safetensors", "memory.json", "matrix.csv", "matrix-options.csv", "matrix-score.csv")
ASIDE = ("device", "versions", "record")            # keys of config.json that tell where and how a run was made, not which run it is
ROOM = ("batch_size", "accumulation", "eval_batch_size", "checkpointing", "checkpoint_minutes", "keep")        # may change when a run goes on
BEGUN = {".lock", ".config.json.tmp"}               # all that a run killed at its very beginning can leave


def table(rows: list[list[float]], names: list[str]) -> pd.DataFrame:
    """The accuracy matrix as a table: row i after task i, column j task j, NaN where not measured."""
    width = len(names)
    return pd.DataFrame([row + [float("nan")] * (width - len(row)) for row in rows], columns=names,
                        index=pd.Index(names[:len(rows)], name="after"))


def write_table(frame: pd.DataFrame, file: Path) -> None:
    frame.to_csv(file, float_format="%.4f", lineterminator="\n")


def read_table(file: Path) -> pd.DataFrame:
    text = text_of(file, refusal(file, "a table of scores"))
    try:
        return pd.read_csv(io.StringIO(text), index_col=0, dtype={0: str}, keep_default_na=False, na_values=[""]).astype(float)      # a task may be "NA"
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"expected a table of scores in {file}, found something else ({brief(error)})") from None


class Store:
    """Opens the run in `folder`, or begins one there. Refuses a folder that holds anything else."""

    def __init__(self, folder: str | Path, config: dict, resume: bool = True, main: Callable = lambda act: act()):
        """`main(act)` runs act() on the main process while the others wait."""
        self.folder, self.main = Path(folder).absolute(), main
        self.tasks: list[str] = config.get("stream", {}).get("tasks", [])
        self.lock: BaseFileLock | None = None
        main(lambda: self._open(config, resume))

    def _open(self, config: dict, resume: bool) -> None:
        try:
            self._check(config, resume)                              # a refused folder is left as it is
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(self.folder / ".lock")
            self.lock.acquire(timeout=0)
            self._check(config, resume)                              # what another process did meanwhile
            for path in [*self.folder.glob(".*.tmp"), *self.folder.glob("tasks/.*.tmp")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not (self.folder / "config.json").exists():
                write_json(config, self.folder / "config.json")
            (self.folder / "tasks").mkdir(exist_ok=True)
            self._settle(config["settings"]["keep"])
        except Timeout:
            raise InputError(f"expected {self.folder} to be free, found another process running there: "
                             "wait for it or choose another folder") from None
        except OSError as error:
            self.close()
            raise InputError(f"expected a folder to write to at {self.folder}, found: {error.strerror or error}") from None
        except BaseException:
            self.close()
            raise

    def _check(self, config: dict, resume: bool) -> None:
        kept = (path for pattern in (".lock", ".*.tmp", "checkpoint-*", "tasks", "tasks/*", "tasks/*/*") for path in sorted(self.folder.glob(pattern)))
        if link := next(filter(Path.is_symlink, kept), None):        # lazily: nothing behind a link is looked at
            raise InputError(f"expected a run's own files in {self.folder}, found the link {link}, behind which nothing is written or "
                             "deleted: put what it leads to in its place, or choose another folder")
        if not (self.folder / "config.json").exists():
            others = sorted({path.name for path in self.folder.iterdir()} - BEGUN) if self.folder.exists() else []
            if others:
                raise InputError(f"expected an empty folder or a run in {self.folder}, found {', '.join(others[:3])}: choose another folder")
            return
        if not resume:
            raise InputError(f"expected an empty folder, found a run in {self.folder}: resume it or choose another folder")
        held = read_config(self.folder)
        if not isinstance(held.get("settings", {}), dict):
            raise InputError(f"expected an object of settings in {self.folder / 'config.json'}, found {held['settings']!r:.80}: it is no run "
                             "of this kit, choose another folder")
        found, wanted = _identity(held), _identity(json.loads(json.dumps(config)))
        if found != wanted:
            key = next(key for key in sorted(found | wanted) if found.get(key) != wanted.get(key))
            raise InputError(f"expected in {self.folder} a run with {key} = {wanted.get(key)}, found another run with "
                             f"{key} = {found.get(key)}: choose another folder")

    def close(self) -> None:
        if self.lock:
            self.lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def finished(self) -> int:
        """Number of finished tasks."""
        return len(task_folders(self.folder))

    def memory(self, device="cpu") -> dict:
        found = load_value(self.folder / "memory", device)
        if not isinstance(found, dict):
            raise InputError(f"expected what a method remembers in {self.folder / 'memory.json'}, found a {type(found).__name__}: learn into "
                             "another folder, or bring it back from a copy")
        return found

    def rows(self, name: str) -> list[list[float]]:
        """The rows of one of the matrices so far."""
        file = self.folder / name
        if not file.exists():
            return []
        found, finished = read_table(file), self.finished()
        if len(found) != finished or list(found.columns) != (self.tasks or list(found.columns)):
            raise InputError(f"expected the scores after {finished} tasks, a column a task, in {file}, found {len(found)} rows and "
                             f"{len(found.columns)} columns, or other tasks: learn into another folder, or bring it back from a copy")
        return found.values.tolist()

    def commit_task(self, index: int, name: str, write, keep: str) -> None:
        """`write(folder)` fills a temporary folder with the task's record; one rename makes it part of the run."""
        final = self.folder / "tasks" / f"{index:02d}-{safe(name)}"

        def act():
            with self._disk(final):
                self._write(final, write)
                self._settle(keep)
        self.main(act)

    def save_checkpoint(self, index: int, step: int, state: dict) -> None:
        """For the main process alone; the others need not wait."""
        older, final = self._checkpoints(), self.folder / f"checkpoint-{index:02d}-{step:06d}"
        with self._disk(final):
            self._write(final, lambda folder: save_value(state, folder / "state"))
            for path in older:
                shutil.rmtree(path)

    def load_checkpoint(self, index: int, device="cpu") -> dict | None:
        """The newest state inside task `index`, or None."""
        found = self._checkpoints(index)
        return load_value(found[-1] / "state", device) if found else None

    def _checkpoints(self, index: int | None = None) -> list[Path]:
        return sorted(self.folder.glob("checkpoint-*" if index is None else f"checkpoint-{index:02d}-*"))

    def _write(self, final: Path, write: Callable[[Path], None]) -> None:
        """The folder `final`, filled by `write`: whole, or not there."""
        temporary = final.with_name(f".{final.name}.tmp")
        try:
            temporary.mkdir()
            write(temporary)
            commit(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    @contextmanager
    def _disk(self, final: Path):
        """What the disk refuses is one sentence. safetensors reports a full disk in its own way."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            if not (self.folder / "config.json").is_file():
                raise InputError(f"expected {self.folder} to stay while its run learns, found it removed or emptied: "
                                 "give the run another folder, or run again to begin anew") from error
            raise InputError(f"expected room to write {final}, found: {getattr(error, 'strerror', None) or error}; "
                             f"{self.finished()} finished tasks are kept, make room and run again") from error

    def _settle(self, keep: str) -> None:
        """What follows from the last committed task, also where a killed run did not come to it."""
        folders = task_folders(self.folder)
        for name in RAISED if folders else ():
            if (folders[-1] / name).exists():
                os.replace(folders[-1] / name, self.folder / name)
        sync(self.folder)
        for path in self._checkpoints():
            if path not in self._checkpoints(len(folders) + 1):
                shutil.rmtree(path)
        for earlier in folders[:-1] if keep == "last" else ():
            for part in ("result", "tuned"):
                shutil.rmtree(earlier / part, ignore_errors=True)


def safe(name: str) -> str:
    """A task's name as part of a folder's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:80]


def task_folders(folder: Path) -> list[Path]:
    """The folders of the finished tasks, in their order (99 before 100)."""
    found = [path for path in (Path(folder) / "tasks").glob("[0-9]*-*") if path.name.partition("-")[0].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.partition("-")[0]))


def newest(folder: Path, name: str) -> Path:
    """Where a file of RAISED is to be read: inside the last finished task as long as it has not moved up, else in the run's folder."""
    places = [task / name for task in task_folders(folder)[-1:]]
    return next((file for file in places if file.is_file()), Path(folder) / name)


def read_config(folder: str | Path) -> dict:
    file = Path(folder) / "config.json"
    if not file.exists():
        raise InputError(f"expected a run in {folder}, found no config.json there")
    return read_json(file)


def _identity(config: dict) -> dict:
    """What makes a run this run, flat: everything but where and with which versions it ran, and what its memory and disk allow."""
    kept = {key: value for key, value in config.items() if key not in (*ASIDE, "settings")}
    return kept | {f"settings.{key}": value for key, value in config.get("settings", {}).items() if key not in ROOM}
