"""DARE: drop entries of every update at random, rescale the rest, add. Yu et al., ICML 2024, arXiv 2311.03099.

    m ~ Bernoulli(p) for each entry of tau_t = B_t A_t,   tau^ = (1 - m) tau_t / (1 - p),   delta W = lambda sum_t tau^_t

The expectation is task arithmetic's sum, and p = 0 is task arithmetic; the variance grows as p / (1 - p) tau^2. The paper drops
up to 0.9 of full updates; low-rank ones are less redundant: p = 0.5 is ours, lambda as in task arithmetic.

Ours: the sum is a running one, cut back to rank r after every task (exact=True keeps it dense), the discarded share of squared
norm in memory["discarded"]. Dense: one (d_out, d_in) at a time, and with exact=True one a module in memory.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..fields import number
from ..lora import Lora, Start, truncate, whole
from ..method import Card, Method, Task


def dropped(tau: Tensor, p: float, rng: torch.Generator) -> Tensor:
    """Each entry is zero with probability p, else divided by 1 - p: the expectation stays."""
    if not p:
        return tau
    keep = torch.rand(tau.shape, generator=rng) >= p
    return tau * keep.to(tau) / (1 - p)


@dataclass
class DARE(Method):
    p: float = number(0.5, 0, below=1)
    weight: float = number(0.3, 0)
    exact: bool = False

    card: ClassVar[Card] = Card("DARE", "Yu et al., ICML 2024, arXiv 2311.03099", "merging", "adapted",
                                "the sum is cut back to rank r after every task; the paper merges full weights",
                                merges="independent")

    def start(self, task: Task) -> Start:
        return Start(task.fresh())

    def finish(self, tuned: Lora, task: Task) -> Lora:
        merged, discarded = {}, {}
        for path, (A, B) in tuned.items():
            M = self.weight * dropped(B @ A, self.p, task.rng(f"drop {path}"))   # (d_out, d_in)
            if self.memory:
                M = self.memory["merged"][path].B @ self.memory["merged"][path].A + M
            merged[path], discarded[path] = truncate(whole(M), None if self.exact else task.rank)
        self.memory.update(merged=merged, discarded=discarded)
        return merged
