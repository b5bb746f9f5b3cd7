"""OrthoReg: push every update towards an orthonormal one while it trains, then add the updates. Liu et al., "Understanding and
Enforcing Weight Disentanglement in Task Arithmetic", CVPR 2026, arXiv 2604.17078.

    L = L_task + lambda sum_modules || dW^T dW - I ||_F^2,   dW = s B A, on dW's shorter side;   then task arithmetic

Without a d x d matrix, with G = B^T B, H = A A^T (r, r) and d = min(d_out, d_in):

    || dW^T dW - I ||_F^2 = s^4 tr(G H G H) - 2 s^2 tr(G H) + d

It drives the r singular values of dW to 1 and has the floor d - r. B = 0 is a saddle of it: the task's loss leaves first. Here s
matters: the rule is not homogeneous. In the released code the norm is not squared (squared=False, row orthoreg_released). Ours:
its example has lambda = 1 for CLIP; with 0.1, and the norm not squared, a small Llama still learns its tasks and the singular
values of dW near 1. It does not carry over from one size of model to another, nor from the norm to its square: choose it on
development rows. The sum is cut to rank r, as task_arithmetic.py says.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..fields import number
from ..lora import Lora
from ..method import Card, Task
from .task_arithmetic import TaskArithmetic


@dataclass
class OrthoReg(TaskArithmetic):
    strength: float = number(0.1, 0)                # lambda of the penalty; `weight` is that of the sum
    squared: bool = True

    about: ClassVar[Card] = Card("OrthoReg", "Liu et al., CVPR 2026, arXiv 2604.17078", "merging", "adapted",
                                 "a weaker penalty than the released one, and the sum is cut back to rank r after every task")

    def penalty(self, live: Lora, task: Task, batch, logits) -> Tensor:
        found, s = [], task.scaling
        for A, B in live.values():
            GH = (B.T @ B) @ (A @ A.T)                               # (r, r)
            d = min(B.shape[0], A.shape[1])
            found.append(s ** 4 * (GH * GH.T).sum() - 2 * s ** 2 * GH.trace() + d)
        squares = torch.stack(found)
        return self.strength * (squares if self.squared else squares.clamp_min(1e-12).sqrt()).sum()
