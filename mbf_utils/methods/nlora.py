"""N-LoRA: a fresh LoRA a task that is kept sparse, so that tasks seldom change the same weight.
Yang et al., COLING 2025, arXiv 2410.10179.

    L = L_task + lambda sum_modules ||B_t A_t||_1,   the sum of |entries| of what task t changes; old LoRAs stay frozen, active

The sum grows with d_in d_out and the modules, so lambda does not carry over from one model size to another: choose it on
development rows; the default is ours, for small models. It runs over blocks of rows, no matrix of the weight's size is kept.

released=True: three programs built on the released code multiply PEFT's factors the other way round, ||A_t B_t||_1, an
r x r matrix that exists where d_in = d_out alone (as for q and v of T5; other modules have no penalty), with lambda = 0.4
for its orders 1 to 3. We have not seen the repository's own file.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..fields import number
from ..lora import Lora, Pair
from ..method import Card, Task
from .inclora import IncLoRA


def entries(pair: Pair, rows: int = 512) -> Tensor:
    """||B A||_1 and its gradients: with S = sign(B A), d/dB = S A^T, d/dA = B^T S, and <B, S A^T> = <A, B^T S> = ||B A||_1."""
    A, B = pair.A.detach(), pair.B.detach()
    by_A, by_B = torch.zeros_like(A), []
    for block in B.split(rows):
        S = (block @ A).sign()                                       # (rows, d_in)
        by_A += block.T @ S
        by_B.append(S @ A.T)
    return (pair.A * by_A).sum() + (pair.B * torch.cat(by_B)).sum() - (A * by_A).sum()


@dataclass
class NLoRA(IncLoRA):
    lam: float = number(1e-3, 0)
    released: bool = False

    card: ClassVar[Card] = Card("N-LoRA", "Yang et al., COLING 2025, arXiv 2410.10179", "stack", "adapted",
                                "lambda is ours: the published values belong to released code that sums a smaller product",
                                memory="linear")

    def penalty(self, live: Lora, task: Task, batch, logits):
        if self.released:
            return self.lam * sum((A @ B).abs().sum() for A, B in live.values() if A.shape[1] == B.shape[0])
        return self.lam * sum(entries(pair) for pair in live.values())
