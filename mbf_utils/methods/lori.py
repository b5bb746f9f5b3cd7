"""LoRI: a frozen random A for all tasks, and few entries of B for each. Zhang et al., COLM 2025, arXiv 2504.07448.

    A random, frozen, the same for all tasks
    dense phase    all of B trains;  M = the `density` of entries with the largest |B - B_start|, over all modules together
    sparse phase   B <- B_start outside of M, and only the entries in M train on
    the next task goes on from this B, with a mask of its own

apart=True chooses among entries that no earlier mask has (the released masks can do so too): then nothing that was learned
moves, but the entries run out after 1 / density tasks.

Ours: the paper trains twice, the second time from B_start with ten times the learning rate; here the first `dense` share of the
one training finds the mask, and the rest trains the entries in it further, with the same schedule and optimiser. Entries outside
of M are put back after every step, for AdamW moves them even where the gradient is zero. The paper keeps 0.1 of B at rank 32;
0.3 at rank 8 is about as many entries a row.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..errors import InputError
from ..fields import number
from ..lora import Lora, Start
from ..method import Card, Method, Task


@dataclass
class LoRI(Method):
    density: float = number(0.3, above=0, most=1)
    dense: float = number(0.5, above=0, most=1)     # share of the steps that finds the mask
    apart: bool = False

    card: ClassVar[Card] = Card("LoRI", "Zhang et al., COLM 2025, arXiv 2504.07448", "merging", "adapted",
                                "one training finds the mask in its first half and goes on under it; the paper trains twice")

    def start(self, task: Task) -> Start:
        if "used" in self.memory and all(bool(used.all()) for used in self.memory["used"].values()):
            raise InputError(f"expected entries of B that no task has taken, found none at task {task.index}: lower density, "
                             "or set apart=False")
        return Start(self.memory.get("tuned") or task.fresh(), trains="B")

    @torch.no_grad()
    def after_step(self, live: Lora, task: Task) -> None:
        last, switch = self.memory.get("tuned"), int(self.dense * task.steps)
        begun = {path: last[path].B if last else torch.zeros_like(pair.B) for path, pair in live.items()}
        if task.step + 1 == switch:
            self.memory["mask"] = self.largest({path: (pair.B - begun[path]).abs() for path, pair in live.items()})
        if "mask" in self.memory:
            for path, pair in live.items():
                pair.B.copy_(torch.where(self.memory["mask"][path], pair.B, begun[path]))

    def largest(self, moves: dict) -> dict:
        """The mask of every module: the `density` largest of all moves together, without used entries."""
        free = {path: ~used for path, used in self.memory.get("used", {}).items()}
        moves = {path: torch.where(free[path], move, -1.0) if free else move for path, move in moves.items()}
        every = torch.cat([move.flatten() for move in moves.values()])
        threshold = every.kthvalue(len(every) - max(1, round(self.density * len(every))) + 1).values.clamp_min(0)
        return {path: move >= threshold for path, move in moves.items()}

    def finish(self, tuned: Lora, task: Task) -> Lora:
        mask, used = self.memory.pop("mask", None), self.memory.get("used")
        if self.apart and mask is not None:
            self.memory["used"] = {path: mask[path] | used[path] if used else mask[path] for path in mask}
        return super().finish(tuned, task)
