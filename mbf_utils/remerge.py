"""Another merge of the same training: the fine-tuned factors that a run has stored, merged anew and scored, without retraining.

SLAO starts task i + 1 from the last FINE-TUNED pair, so its training never sees what was merged: with another schedule or other
merged factors every task would have been trained to the same (A_i, B_i), bit for bit. `remerged` replays SLAO's own `finish` over
them, and what comes out is what a run with these fields would have stored. Not so where a task starts from the merged pair
(begin="merged"): such a run is refused. Where a task starts and what is frozen changes the training itself: take another run.
"""
from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import Callable, Sequence

import numpy as np
import pandas as pd

from .adapters import installed
from .anatomy import adapters, task_of
from .errors import InputError
from .evaluation import label_scores
from .lora import Lora
from .methods.slao import SLAO
from .models import load_model
from .results import Run
from .runs import fingerprint
from .sources import load_stream
from .streams import Stream
from .theory import merge_weights

READINGS = ("exact match", "best of the task's labels")
ROWS = 100                                          # test rows a task: five tasks take about 0.3 s on one core


def power(p: float) -> Callable[[int], float]:
    """lambda(i) = i^-p. p = 0.5 is the paper's, 1 the plain mean of all B's, 0 keeps the last one alone."""
    return lambda i: i ** -p


def constant(c: float) -> Callable[[int], float]:
    """lambda(i) = c: a moving average."""
    return lambda i: c


def remerged(run: Run, merge: str = "B", schedule: Callable[[int], float] = power(0.5)) -> list[Lora]:
    """The adapters after tasks 1, 2, ... had the run merged the factors `merge` ("B", "A", "AB" or "") at `schedule`."""
    if run.config["method"].get("begin") == "merged":
        raise InputError(f"expected a run whose tasks start from what was fine-tuned, or afresh, found {run.method}, whose tasks "
                         "start from the merged pair: another merge would have trained them otherwise")
    method = SLAO(merge=merge, schedule=schedule)
    return [method.finish(tuned, task_of(run, i, tuned)) for i, tuned in enumerate(adapters(run, "tuned"), 1)]


def weights(merge: str, schedule: Callable[[int], float], count: int) -> pd.DataFrame:
    """What each task's fine-tuned factor weighs in the merged one after `count` tasks, in closed form (theory.merge_weights); a
    factor that is not merged is the last task's alone. Columns: task, factor, weight."""
    closed = merge_weights([schedule(i) for i in range(1, count + 1)])[-1]
    last = np.eye(count)[-1]
    return pd.DataFrame([(task, factor, w) for factor in "AB" for task, w in enumerate(closed if factor in merge else last, 1)],
                        columns=["task", "factor", "weight"])


class Bench:
    """A run's base with its LoRA installed, and a fixed set of test rows: any adapter of that shape is scored in one call.

    rows: the first so many test rows of each task (they were drawn at random); None for all. `rows` says how many those are.
    """

    def __init__(self, run: Run, rows: int | None = ROWS, stream: Stream | None = None, model=None):
        config, settings = run.config, run.config["settings"]
        stream = stream or load_stream(config["stream"]["name"], config["stream"]["order"], named=config["stream"]["named"])
        if stream.fingerprint() != config["stream"]["fingerprint"]:
            raise InputError(f"expected the rows that {run!r} was trained on, found others: give its stream")
        base, self.tokenizer = model or load_model(config["model"]["name"], device="cpu")
        if fingerprint(base) != config["model"]["fingerprint"]:
            raise InputError(f"expected the base that {run!r} was trained on, found another one: give model=(model, tokenizer)")
        if unlabelled := [task.name for task in stream if not task.labels]:
            raise InputError(f"expected tasks with labels to choose from, found none in {', '.join(unlabelled)}")
        self.stream = replace(stream, tasks=tuple(replace(task, test=task.test[:rows]) for task in stream))
        self.rows = [len(task.test) for task in self.stream]
        self.settings = settings
        self._open = ExitStack()
        self.adapted = self._open.enter_context(installed(base, settings["targets"], settings["rank"], settings["alpha"]))

    def close(self) -> None:
        """Gives the base back as it was."""
        self._open.close()

    def right(self, lora: Lora, after: int) -> list[np.ndarray]:
        """For each of the first `after` tasks (2, rows) of bool: by both READINGS, which rows are answered right."""
        self.adapted.wear(lora)
        found = []
        for task in self.stream[:after]:
            exact, options = label_scores(self.adapted.model, self.tokenizer, task.test, task.labels, self.settings["max_length"],
                                          self.settings["eval_batch_size"])
            best = [max(row, key=row.get) in example.answers for row, example in zip(options, task.test)]
            found.append(np.array([exact, best]))
        return found


class Remerge:
    """Runs of one stream and base that differ in how their tasks were trained, re-merged and scored as often as wanted.

    runs: the stored runs by name; the first one's stream, base and settings count for all. Every answer is remembered.
    """

    def __init__(self, runs: dict[str, Run], rows: int | None = ROWS, stream: Stream | None = None, model=None):
        if not runs:
            raise InputError("expected at least one run to merge anew, found none")
        first, *others = runs.values()
        keys = ("stream", "model", "settings")
        for run in others:
            if odd := [key for key in keys if run.config[key] != first.config[key]]:
                raise InputError(f"expected runs of one stream, base and settings, found {run!r}, which differs in "
                                 f"{', '.join(odd)}")
        self.runs, self.bench = runs, Bench(first, rows, stream, model)
        self._own = lru_cache(None)(lambda name, after: self.bench.right(self.runs[name].lora(after), after))
        self._new = lru_cache(256)(self._scored)

    def _scored(self, name: str, merge: str, schedule: tuple[float, ...], after: int) -> list[np.ndarray]:
        return self.bench.right(remerged(self.runs[name], merge, lambda i: schedule[i - 1])[after - 1], after)

    def table(self, name: str, merge: str, schedule: Callable[[int], float], after: int) -> pd.DataFrame:
        """The re-merged model after task `after` beside the run's own, on the same rows.

        Columns: task, reading, rows, value and low, high (percent; a 95 % interval, see `wilson`), own, own_low, own_high, and
        difference (value - own, points) with half, half of its 95 % interval, from the rows that only one of both gets right.
        Below the tasks stand their means, as task "mean", without the intervals of single tasks.
        """
        if not 1 <= after <= len(self.runs[name].logs):
            raise InputError(f"expected a task from 1 to {len(self.runs[name].logs)}, found {after}")
        values = tuple(schedule(i) for i in range(1, len(self.runs[name].logs) + 1))
        return compared(self.bench.stream.names[:after], self._new(name, merge, values, after), self._own(name, after))


def compared(names: Sequence[str], new: list[np.ndarray], own: list[np.ndarray]) -> pd.DataFrame:
    """See `Remerge.table`. new, own: (2, rows) of bool a task."""
    rows = []
    for k, reading in enumerate(READINGS):
        for task, one, other in zip(names, new, own):
            rows.append((task, reading, one.shape[1], *wilson(one[k]), *wilson(other[k]), *paired([one[k]], [other[k]])))
        means = [100 * float(np.mean([part[k].mean() for part in parts])) for parts in (new, own)]
        nan = float("nan")
        rows.append(("mean", reading, sum(part.shape[1] for part in new), means[0], nan, nan, means[1], nan, nan,
                     *paired([part[k] for part in new], [part[k] for part in own])))
    return pd.DataFrame(rows, columns=["task", "reading", "rows", "value", "low", "high", "own", "own_low", "own_high",
                                       "difference", "half"])


def wilson(right: np.ndarray, z: float = 1.96) -> tuple[float, float, float]:
    """(share of right answers, low, high) in percent: Wilson's 95 % interval, which also holds near 0 and 100 %.

        (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)        n rows, p right

    Source: Wilson, Journal of the American Statistical Association 22, 1927.
    """
    n, p = len(right), float(right.mean())
    centre, spread = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return 100 * p, 100 * max(0.0, min(low, p)), 100 * min(1.0, max(high, p))


def paired(new: list[np.ndarray], own: list[np.ndarray], z: float = 1.96) -> tuple[float, float]:
    """(mean over tasks of new - own, half of its 95 % interval) in points. The same rows were asked, so what counts are those
    that only one of both gets right: half = z sqrt(sum_t var(d_t) / n_t) / T, d_t in {-1, 0, 1}, var with n_t - 1."""
    d = [one.astype(float) - other for one, other in zip(new, own)]
    spread = sum(part.var(ddof=1) / len(part) for part in d) ** 0.5 / len(d) if all(len(part) > 1 for part in d) else float("nan")
    return 100 * float(np.mean([part.mean() for part in d])), 100 * z * spread
