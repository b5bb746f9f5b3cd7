"""What a stream of tasks is: examples, tasks, their order, and the field's task orders as literal tables."""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Iterator


@dataclass(frozen=True)
class Example:
    """One row: a whole prompt and its right answers (the first one is trained on, any one counts when scored).

    `body` marks the characters of the prompt that may be shortened when it is too long: the data set's own text.
    What lies outside it (instruction, options, "Answer:") is never cut.
    """
    prompt: str
    answers: tuple[str, ...]
    body: tuple[int, int] | None = None


@dataclass(frozen=True)
class TaskData:
    """One task. `labels`: the answers to choose from, in the prompt's order; empty where answers are free text."""
    name: str
    train: list[Example]
    dev: list[Example]
    test: list[Example]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stream:
    """Tasks in the order in which they are learned. `general`: text that no task contains (what the base knew before)."""
    name: str
    order: str
    tasks: tuple[TaskData, ...]
    general: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[TaskData]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, key):
        """`stream[0]` and `stream["yelp"]` are tasks, `stream[:2]` is a shorter stream."""
        if isinstance(key, slice):
            return replace(self, tasks=self.tasks[key])
        if isinstance(key, str):
            return next(task for task in self.tasks if task.name == key)
        return self.tasks[key]

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def fingerprint(self) -> str:
        """A hash of every row in its place: two streams with the same one are the same stream."""
        rows = json.dumps([asdict(task) for task in self.tasks] + list(self.general), ensure_ascii=False)
        return hashlib.sha256(rows.encode("utf-8", "surrogatepass")).hexdigest()[:16]
