"""What a continual-learning method is: a few hooks around the training of one LoRA after another.

A newcomer reads `start` and `finish`; most methods need no more. The loop (training.py) never asks which method it runs.
"""
from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .fields import check
from .lora import Lora, Pair, Site, Start
from .streams import Example


def seed_of(*parts) -> int:
    """A seed from (run seed, task, purpose): every use of chance has its own, none depends on what ran before."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


@dataclass
class Task:
    """What a method may know while it learns task `index` (from 1)."""
    index: int
    name: str
    train: list[Example]
    rank: int
    scaling: float                                  # s = alpha / rank
    sites: dict[str, tuple[int, int]]               # module path -> (d_in, d_out)
    seed: int
    total: int | None = None                        # number of tasks where it is known
    device: Any = "cpu"
    steps: int = 0                                  # optimiser steps of this task
    step: int = 0                                   # steps done
    probe: Any = None                               # statistics of the model and the rows, see probe.Probe

    def rng(self, purpose: str) -> torch.Generator:
        """A CPU generator for one purpose; asking twice gives the same draws."""
        return torch.Generator().manual_seed(seed_of(self.seed, self.index, purpose))

    def fresh(self) -> Lora:
        """Plain LoRA's start: A (r, d_in) Kaiming-uniform with a = sqrt(5), so U(-1, 1)/sqrt(d_in); B (d_out, r) zero."""
        generator, lora = self.rng("fresh"), {}
        for path, (d_in, d_out) in self.sites.items():
            A = (torch.rand(self.rank, d_in, generator=generator) * 2 - 1) / math.sqrt(d_in)
            lora[path] = Pair(A.to(self.device), torch.zeros(d_out, self.rank, device=self.device))
        return lora


class Card(NamedTuple):
    """What a table says of a method."""
    title: str
    paper: str                                      # "authors, venue year, arXiv id"; "" for a reference
    family: str                                     # reference, regularisation, stack, merging, ...
    fidelity: str                                   # exact, adapted, reconstructed
    differs: str = ""                               # one sentence where it is not exact
    memory: str = "constant"                        # how its state grows with the number of tasks: constant or linear
    task_id: bool = False                           # needs the task's name at test time
    old_data: bool = False                          # keeps rows of earlier tasks, or what stands for single ones
    merges: str = ""                                # saved adapters it can merge without data: "descending", "independent"
    trains: bool = True
    looks: bool = False                             # makes a pass over the task's rows beside the training
    routes: bool = False                            # `mix` depends on the input and runs at test time too; the plain pair loses it


@dataclass
class Method:
    """The defaults are sequential LoRA: one pair, trained on task after task.

    Fields of a subclass are its hyper-parameters, so repr() is the configuration. `memory` is ALL that survives a task
    (tensors, Loras, lists, dicts, strings, numbers); `extra` holds learnables beside A and B. Per task the loop calls

        data, start, then per window: before_batch, (mix), penalty for each micro-batch; clip; edit_grads; step; after_step;
        at the end finish, whose result is THE model from here on.

    A method that routes meets the test rows too: before_batch, then mix over all blocks of the result; its gates come from
    `memory` and the batch's prompt alone.
    """
    memory: dict = field(default_factory=dict, init=False, repr=False)
    extra: dict[str, nn.Parameter] = field(default_factory=dict, init=False, repr=False)
    card: ClassVar[Card] = Card("Own method", "", "own", "exact")

    def __post_init__(self):
        check(self)                                 # that every field is as fields.py says it was declared

    def data(self, task: Task) -> list[Example]:
        """The rows to train on."""
        return task.train

    def start(self, task: Task) -> Start:
        """The pair that trains: the last trained one, or a fresh one for the first task."""
        return Start(self.memory.get("tuned") or task.fresh())

    def before_batch(self, batch, task: Task) -> None:
        """Random draws and per-sample gates, once a micro-batch (never inside the forward)."""

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        """Bends the bottleneck h = A x (batch, length, rank); pure. A subclass that overrides it gets it called."""
        return h

    def penalty(self, live: Lora, task: Task, batch, logits: Tensor):
        """Added to the mean loss of the micro-batch; weighted so that a term of the parameters counts once a window."""
        return 0.0

    def edit_grads(self, live: Lora, task: Task) -> None:
        """Masks and projections of the gradients, after clipping."""

    def after_step(self, live: Lora, task: Task) -> None:
        """Proximal steps and hard projections, in place."""

    def finish(self, tuned: Lora, task: Task) -> Lora:
        """Turns what was trained into the model from here on: one pair a module. `tuned` is the method's to keep."""
        self.memory["tuned"] = tuned
        return tuned

    def worn(self, name: str, result: Lora) -> Lora:
        """The adapter for task `name` at test time: the last result, unless the method knows the task."""
        return result
