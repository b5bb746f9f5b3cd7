"""A run as its folder tells it: scores, logs, adapters. Nothing here trains, so reading tables loads neither PEFT nor transformers."""
from __future__ import annotations

from pathlib import Path

import pandas as pd

from . import metrics
from .disk import read_json
from .errors import InputError
from .lora import Lora
from .store import newest, read_config, read_table, table, task_folders

# what those who read a run rely on, in config.json and in a task's log.json
CONFIG = {"stream": {"name": str, "order": str, "named": bool, "tasks": list, "fingerprint": str}, "method": {"name": str},
          "model": {"name": str, "fingerprint": str}, "seed": int, "settings": dict, "effective_batch": int}
LOG = {"losses": list, "general_loss": (int, float, type(None)), "seconds_train": (int, float), "seconds_evaluate": (int, float)}


class Run:
    """A run as its folder tells it. Scores are in percent; tasks are counted from 1.

    `matrix` is exact match, `options` the best of the task's labels: row i after task i, column j task j, NaN where not
    measured. `general` is the loss on general text after each task (nats per token).
    """

    def __init__(self, folder: str | Path, keep=None):
        self.folder = Path(folder)
        self.config = read_config(self.folder)
        if (odd := _misfit(self.config, CONFIG)) or not self.names or not all(isinstance(name, str) for name in self.names):
            raise InputError(f"expected a run's configuration in {self.folder / 'config.json'}, found one whose {odd or 'stream.tasks'} "
                             "is missing or of another kind: no run of this kit has it so")
        self._keep = keep                           # a temporary folder lives as long as its runs

    @property
    def method(self) -> str:
        return self.config["method"]["name"]

    @property
    def names(self) -> list[str]:
        return self.config["stream"]["tasks"]

    @property
    def matrix(self) -> pd.DataFrame:
        return self._table("matrix.csv")

    @property
    def options(self) -> pd.DataFrame:
        return self._table("matrix-options.csv")

    @property
    def scores(self) -> pd.DataFrame:
        """The same by each task's own score (scores.py): Rouge-L where answers are free texts, say; else exact match."""
        return self._table("matrix-score.csv" if self.scored else "matrix.csv")

    @property
    def scored(self) -> bool:
        """Whether a task has a score of its own."""
        return newest(self.folder, "matrix-score.csv").exists()

    def _table(self, name: str) -> pd.DataFrame:
        """Raises InputError where the table is not what the finished tasks have written."""
        file, done = newest(self.folder, name), len(task_folders(self.folder))
        if not done or name == "matrix-score.csv" and not self.scored:
            return table([], self.names)
        found = read_table(file)
        if list(found.columns) != self.names or list(found.index) != self.names[:done]:
            raise InputError(f"expected in {file} a row for each of {done} finished tasks and a column for each of {len(self.names)}, in "
                             f"their order, found {len(found)} rows and {len(found.columns)} columns, or other tasks: bring it back from a copy")
        if not (found.isna() | (found >= 0) & (found <= 100)).all(axis=None):
            raise InputError(f"expected scores from 0 to 100 in {file}, found others: bring it back from a copy")
        return found

    @property
    def logs(self) -> list[dict]:
        """For each finished task: losses, seconds of training and evaluation, general_loss."""
        found = [(folder / "log.json", read_json(folder / "log.json")) for folder in task_folders(self.folder)]
        for file, log in found:
            if odd := _misfit(log, LOG):
                raise InputError(f"expected {odd} of a learned task in {file}, found {log.get(odd)!r:.80}")
        return [log for _, log in found]

    @property
    def general(self) -> pd.Series:
        return pd.Series([log["general_loss"] for log in self.logs], index=self.names[:len(self.logs)], name="general loss", dtype=float)

    @property
    def state_bytes(self) -> int:
        """What the method carries to the next task: the bytes of its memory's tensors and of its rows and numbers."""
        return sum(newest(self.folder, f"memory.{kind}").stat().st_size for kind in ("safetensors", "json"))

    def metrics(self, mean: str = "macro") -> dict[str, float]:
        """AA, BWT, forgetting, learning_accuracy, average_incremental_accuracy (and FWT where unseen tasks were scored) of
        the exact match; the same with `_options` for the best of the labels, and with `_score` for the tasks' own scores where
        these are others; general_loss after the last task. mean: "macro", AA over tasks, or "micro", over test rows."""
        logs, rows = self.logs, None
        if not logs:
            raise InputError(f"expected a run with a finished task, found none in {self.folder}")
        if mean not in ("macro", "micro"):
            raise InputError(f"expected mean to be macro or micro, found {mean!r}")
        if mean == "micro" and (rows := logs[0].get("rows")) is None:
            raise InputError(f"expected the numbers of test rows in {self.folder}, found none: an older version made this run")
        summary = metrics.summary(self.matrix, logs[0].get("baseline"), rows)
        readings = {"_options": self.options, "_score": self._table("matrix-score.csv")}
        for suffix, R in readings.items():
            if R.notna().any(axis=None):
                found = metrics.summary(R, logs[0].get(f"baseline{suffix}"), rows)
                summary |= {f"{name}{suffix}": value for name, value in found.items()}
        return summary | {"general_loss": float(self.general.iloc[-1])}

    def lora(self, i: int, which: str = "result") -> Lora:
        """The factors after task i (from 1): "result", the model from then on, or "tuned", what training left."""
        from .adapter_files import load_adapter          # and with it PEFT, which tables do not need
        return load_adapter(self.adapter(i, which))

    def adapter(self, i: int, which: str = "result") -> Path:
        """The folder of that adapter, as PEFT reads it: PeftModel.from_pretrained(model, run.adapter(3))."""
        folders = task_folders(self.folder)
        if not 1 <= i <= len(folders) or which not in ("result", "tuned"):
            raise InputError(f"expected a task from 1 to {len(folders)} and 'result' or 'tuned', found {i} and {which!r}")
        if not (folders[i - 1] / which).is_dir():
            raise InputError(f"expected the adapter of task {i} in {self.folder}, found it deleted: the run keeps the last one only")
        return folders[i - 1] / which

    def __repr__(self) -> str:
        return f"Run({self.method} on {self.config['stream']['name']}, {len(self.logs)} of {len(self.names)} tasks, {self.folder})"


def _misfit(value, shape, place: str = "") -> str:
    """Where a value is not of a shape (a type, or a dict of shapes for the keys that must be there); "" where it is."""
    if not isinstance(shape, dict):
        return "" if isinstance(value, shape) else place
    if not isinstance(value, dict):
        return place
    return next(filter(None, (_misfit(value.get(key), inner, f"{place}.{key}".lstrip(".")) for key, inner in shape.items())), "")
