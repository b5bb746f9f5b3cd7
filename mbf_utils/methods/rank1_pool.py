"""Rank-1 expert pool: a LoRA as r experts b_j a_j^T, of which a router turns some on; the most used are merged. Fa et al.,
AAAI 2026, arXiv 2601.22828.

    p = softmax(V v + c) (r),   v: the prompt's mean embedding, standardised;   each row votes for its R likeliest experts
    the R experts with most votes in a micro-batch are on, the others off:   h = W x + s sum_{j on} b_j (a_j . x)
    L = L_task + lambda mean_modules sum_jk |b_past,j . b_k|,   k: the m experts most used so far in this task;   lambda = 0.1
    after the task these m experts are merged and stay on for all inputs; the others are dropped, and the next pool is fresh

R = 8 and m = 4 of r = 12 in the paper: here R is `active` of the rank, m half of R. What is merged is kept as a frozen pair of
rank t m. At test time there is no router. From the released code, where the paper is silent: |.| in the loss, its sum over
pairs and mean over modules, and that a merged expert counts as much as when it was on. Ours: one router for all modules, on
the prompt (the paper: one a module, on CLIP's [CLS] token), and a straight-through weight, on + p - sg(p), by which it learns;
the released masks pass it no gradient.
"""
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from ..fields import number
from ..lora import Lora, Pair, Site, Start, each
from ..method import Card, Task
from .inclora import IncLoRA
from .routers import prompt_mean, uniform


def top(counts: Tensor, k: int) -> Tensor:
    """True for the k largest of `counts` (r,), for the first among equals."""
    return torch.zeros_like(counts, dtype=torch.bool).index_fill(0, counts.argsort(descending=True, stable=True)[:k], True)


@dataclass
class Rank1Pool(IncLoRA):
    active: float = number(2 / 3, above=0, most=1)
    lam: float = number(0.1, 0)

    card: ClassVar[Card] = Card("Rank-1 expert pool", "Fa et al., AAAI 2026, arXiv 2601.22828", "gates", "adapted",
                                "one router on the prompt, which learns straight through; the released ones read CLIP's [CLS] "
                                "token in every module and get no gradient", memory="linear")
    drawn: tuple[int, Tensor] | None = field(default=None, init=False, repr=False, compare=False)        # of one micro-batch
    votes: Tensor | None = field(default=None, init=False, repr=False, compare=False)        # of one step

    def sizes(self, r: int) -> tuple[int, int]:
        """R and m."""
        R = max(1, round(self.active * r))
        return R, math.ceil(R / 2)

    def start(self, task: Task) -> Start:
        d = task.probe.embeddings(torch.zeros(1, 1, dtype=torch.long, device=task.device)).shape[-1]
        self.extra = {"V": nn.Parameter(uniform((task.rank, d), d ** -0.5, task, "V")),
                      "c": nn.Parameter(uniform((task.rank,), d ** -0.5, task, "c"))}
        self.memory["used"] = torch.zeros(task.rank, device=task.device)
        return super().start(task)

    def before_batch(self, batch, task: Task) -> None:
        v = prompt_mean(batch, task)                                 # (b, d)
        v = layer_norm(v, v.shape[1:], eps=1e-12)                    # as wide as what CLIP's layers read
        p = linear(v, self.extra["V"], self.extra["c"]).softmax(-1)  # (b, r)
        R, _ = self.sizes(task.rank)
        votes = torch.zeros_like(p).scatter(1, p.topk(R).indices, 1.0).sum(0)                  # (r,)
        self.votes = votes if self.votes is None else self.votes + votes
        self.drawn = task.index - 1, top(votes, R) + p - p.detach()

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        block, on = self.drawn
        return h * on[:, None].to(h.dtype) if site.blocks.start == block else h                # what was merged is always on

    def penalty(self, live: Lora, task: Task, batch, logits):
        if "stack" not in self.memory:
            return 0.0
        used = top(self.memory["used"], self.sizes(task.rank)[1])
        found = [(self.memory["stack"][path].B.T @ pair.B[:, used]).abs().sum() for path, pair in live.items()]
        return self.lam * sum(found) / len(found)

    def after_step(self, live: Lora, task: Task) -> None:
        self.memory["used"] = self.memory["used"] + task.probe.total(self.votes)
        self.votes = None

    def finish(self, tuned: Lora, task: Task) -> Lora:
        used = top(self.memory.pop("used"), self.sizes(task.rank)[1])
        self.extra, self.drawn = {}, None
        return super().finish(each(lambda pair: Pair(pair.A[used], pair.B[:, used]), tuned), task)
