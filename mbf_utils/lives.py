"""A method's life on a toy: small tasks in a row, and what each of them left behind. The contract's laws are about such lives."""
from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any, Callable, NamedTuple

import torch

from .adapters import PAST, Adapted
from .lora import Lora, copied
from .method import Method, Task
from .models import load_model
from .packing import pack, unpack
from .probe import Probe
from .settings import Settings
from .streams import Example
from .training import accelerator_for, train_task
from .world import world_stream

TASKS, ROWS = 8, 16                                 # of a life, and of each of its tasks


class Toy(NamedTuple):
    """Where a method lives: what makes the base, the rows of tasks 1, 2, ..., and the settings."""
    base: Callable[[], tuple]                       # () -> (model, tokenizer), the same ones anew at every call
    rows: list[list[Example]]
    settings: Settings


class Step(NamedTuple):
    """What one task left behind."""
    start: Lora
    trains: Any
    past: tuple[Lora, Lora] | None                  # the frozen stack before and after the training
    tuned: Lora
    result: Lora
    memory: tuple                                   # packed: (JSON, tensors)
    rows: int
    losses: list[float]
    looked: bool                                    # at rows, beside the training


class Life:
    """A method that has learned tasks on a toy. make: () -> a fresh method. After every task its memory is packed and unpacked,
    as a stored run has it; with `anew` that is all that a new object gets for the next task. beside: rows a forward pass where the
    method looks at them beside the training."""

    def __init__(self, make: Callable[[], Method], toy: Toy, rows=None, anew: bool = False, settings: Settings | None = None,
                 beside: int | None = None):
        self.make, self.toy, self.settings, self.method = make, toy, settings or toy.settings, make()
        self.beside = replace(self.settings, batch_size=beside, eval_batch_size=beside) if beside else self.settings
        model, self.tokenizer = toy.base()
        self.adapted = Adapted(model, list(self.settings.targets), self.settings.rank, self.settings.alpha)
        self.adapted.model.eval()
        self.steps: list[Step] = []
        self.changed = ""                           # what was changed that was to stay, in words
        given = []
        for index, some in enumerate(rows or toy.rows, 1):
            given.append(self._learn(index, some))
            if anew:
                memory, self.method = self.method.memory, make()
                self.method.memory = memory
        for index, (step, (tuned, result)) in enumerate(zip(self.steps, given), 1):
            if not (equal(step.tuned, tuned) and equal(step.result, result)):
                self.changed = self.changed or f"a later task changed the factors that task {index} gave"

    def task(self, index: int, rows: list[Example] | None = None) -> Task:
        rows = rows or self.toy.rows[index - 1]
        return Task(index, f"task{index}", rows, self.settings.rank, self.adapted.scaling, self.adapted.sites, 0, TASKS,
                    probe=Probe(self.adapted, self.tokenizer, rows, self.beside))

    def _learn(self, index: int, rows: list[Example]) -> tuple[Lora, Lora]:
        """One task; returns the very factors that the method saw and gave."""
        task, seen, method = self.task(index, rows), {}, self.method
        start_of, data_of = method.start, method.data
        method.start = lambda task: seen.setdefault("start", start_of(task))  # type: ignore[method-assign]
        method.data = lambda task: seen.setdefault("rows", data_of(task))  # type: ignore[method-assign]
        losses = train_task(self.adapted, method, task, self.tokenizer, self.settings, accelerator_for(self.adapted.model))
        del method.start, method.data
        start = seen["start"]
        past = (start.past, copied(self.adapted._lora(PAST))) if start.past else None
        tuned = copied(self.adapted.live())
        kept = copied(tuned)
        result = method.finish(tuned, task)
        if not equal(tuned, kept):
            self.changed = self.changed or f"finish changed the factors that it was given, in task {index}"
        tree, stored = pack(method.memory)
        tree = json.loads(json.dumps(tree))
        self.adapted.wear(result)
        self.steps.append(Step(copied(start.lora), start.trains, past, kept, copied(result), (tree, stored), len(seen["rows"]),
                               losses, "_rows" in vars(task.probe)))
        method.memory = unpack(tree, {key: value.clone() for key, value in stored.items()})
        return tuned, result


def small_world() -> Toy:
    """The built-in base and eight tasks of world-100, a few rows of each."""
    stream = world_stream("world-100", order=[f"v{number}" for number in range(1, TASKS + 1)], limit=ROWS)
    settings = Settings(targets=("q_proj", "v_proj", "down_proj"), rank=2, alpha=4.0, dropout=0.0, lr=0.03, epochs=1,
                        batch_size=8, accumulation=1, max_length=128, eval_batch_size=8)
    model, tokenizer = load_model("tiny", device="cpu")
    return Toy(lambda: (copy.deepcopy(model), tokenizer), [task.train for task in stream], settings)


def equal(one: Lora, two: Lora) -> bool:
    """The same modules and bit-identical factors."""
    return list(one) == list(two) and all(torch.equal(x, y) for path in one for x, y in zip(one[path], two[path]))


def same(one: Lora, two: Lora) -> bool:
    """They are the same function."""
    return all(torch.equal(one[path].B @ one[path].A, two[path].B @ two[path].A) for path in one)
