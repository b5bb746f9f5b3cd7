"""P&M, perturb and merge: each task's LoRA is trained under a shaken length and then added as far as all tasks' Fishers allow.
Qiu et al., NeurIPS 2025, arXiv 2505.22389.

    theta: the update of an adapted weight, over s.  theta^_t: merged after task t;  theta*_t = theta^_{t-1} + D,  D = B_t A_t
    training: each forward pass at theta^_{t-1} + (1 + eps) D,   eps = 0, +e or -e with equal chance,  e = 0.5
    theta^_t = theta^_{t-1} + alpha D,   alpha = 1 for the first task, else one for all modules, within [0, 1]:
    alpha = - sum_{i<=t} <F_i (theta^_{t-1} - theta*_i), D> / sum_{i<=t} <F_i D, D>
    F_i (d_out, d_in): the diagonal of the empirical Fisher of task i at theta*_i, over `count` rows

No task is kept: the numerator is -<F theta^_{t-1} - G, D> with the sums F = sum F_i and G = sum F_i theta*_i, two dense
matrices an adapted weight, however many tasks there are. Ours: this form, a fresh LoRA for every task, eps drawn anew for
each micro-batch, and the cut of the merged update to rank r (exact=True keeps the stack, whose rank grows).
"""
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..fields import number
from ..lora import Lora, Pair, Site, Start, stack, truncate
from ..method import Card, Method, Task


@dataclass
class PAndM(Method):
    e: float = number(0.5, 0, 1)
    count: int = number(200, 1)                     # rows for F_t
    exact: bool = False

    about: ClassVar[Card] = Card("P&M", "Qiu et al., NeurIPS 2025, arXiv 2505.22389", "merging", "adapted",
                                 "sums over the tasks stand for their models, and the merged update is cut to rank r", looks=True)
    drawn: tuple[int, float] = field(default=(0, 1.0), init=False, repr=False, compare=False)            # within one micro-batch

    @property
    def card(self) -> Card:  # type: ignore[override]
        return self.about._replace(memory="linear") if self.exact else self.about

    def start(self, task: Task) -> Start:
        return Start(task.fresh(), past=self.memory.get("merged"))

    def before_batch(self, batch, task: Task) -> None:
        self.drawn = task.index - 1, 1 + (0.0, self.e, -self.e)[int(torch.randint(3, ()))]

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        block, length = self.drawn
        return h * length if site.blocks.start == block else h       # the merged past stays as it is

    def finish(self, tuned: Lora, task: Task) -> Lora:
        past = self.memory.get("merged")
        star = stack(past, tuned) if past else tuned                 # theta*_t
        new, old = task.probe.weight_fisher(star, self.count), self.memory.get("sums", {})
        sums = {path: [F, F * (star[path].B @ star[path].A)] for path, F in new.items()}
        self.memory["sums"] = {path: [one + two for one, two in zip(pair, old[path])] if old else pair
                               for path, pair in sums.items()}
        self.memory["alpha"] = self.alpha(past, tuned) if past else 1.0
        scaled = {path: Pair(A, self.memory["alpha"] * B) for path, (A, B) in tuned.items()}
        cut = {path: truncate(pair, None if self.exact or not past else task.rank)
               for path, pair in (stack(past, scaled) if past else tuned).items()}
        self.memory["discarded"] = {path: lost for path, (_, lost) in cut.items()}
        self.memory["merged"] = {path: pair for path, (pair, _) in cut.items()}
        return self.memory["merged"]

    def alpha(self, past: Lora, tuned: Lora) -> float:
        above = below = 0.0
        for path, (F, G) in self.memory["sums"].items():
            D = tuned[path].B @ tuned[path].A
            above -= float(((F * (past[path].B @ past[path].A) - G) * D).sum())
            below += float((F * D * D).sum())
        return min(1.0, max(0.0, above / below)) if below > 0 else 1.0
