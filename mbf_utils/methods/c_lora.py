"""C-LoRA: one LoRA with a router between its factors, of which each task adds a part. Zhang et al., 2025, arXiv 2502.17920.

    delta W = s B R A,  R = R_old + R_d (r, r);   y = W x + s (sg(B) R_old sg(A) x + B R_d A x)     sg: no gradient
    L = L_task + lambda sum_modules ||U_old^T R_d||_F^2,   U_old: the left singular vectors of R_old
    trained: A, B, R_d.  After the task R_old <- R_old + R_d, and R_d starts at 0 again

Reconstructed: there is no code, and the paper leaves lambda, the rank of U_old and the start open in what we could read.
Ours: A Kaiming and B uniform once, R_d = 0 in every task (so the first one learns R from 0 too); U_old keeps the directions
that hold 90 % of R_old's squared norm, for with all r of them nothing new could be learned.

How sg(B) comes about: the pair that trains has rank 2 r, (A, B) over a mirror (A, B R_old), which is set to its new values
after each step. The mirror's own gradient moves nothing, but it counts in the norm that is clipped.
"""
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..fields import number
from ..lora import Lora, Pair, Site, Start
from ..method import Card, Method, Task


def used(R: Tensor, energy: float) -> Tensor:
    """The left singular vectors of R (r, r), as few as hold `energy` of its squared norm: (r, k)."""
    U, S, _ = torch.linalg.svd(R)
    missing = S.square().flip(0).cumsum(0).flip(0)                   # without vector k and those after it
    return U[:, missing > (1 - energy) * S.square().sum()]


@dataclass
class CLoRA(Method):
    lam: float = number(0.1, 0)
    energy: float = number(0.9, 0, 1)

    card: ClassVar[Card] = Card("C-LoRA", "Zhang et al., preprint 2025, arXiv 2502.17920", "parametrisation", "reconstructed",
                                "no public code; lambda, the start of R and the rank of U_old are ours")

    def start(self, task: Task) -> Start:
        if not (now := self.memory.get("now")):
            generator = task.rng("B")
            now = {path: [A, (torch.rand(B.shape, generator=generator).to(B) * 2 - 1) / math.sqrt(task.rank),
                          A.new_zeros(task.rank, task.rank)] for path, (A, B) in task.fresh().items()}
        self.memory.update(now=now, used={path: used(R, self.energy) for path, (_, _, R) in now.items()})   # A, B, R_old; U_old
        self.extra = {path: nn.Parameter(torch.zeros_like(R)) for path, (_, _, R) in now.items()}        # R_d
        return Start({path: Pair(torch.cat([A, A]), torch.cat([B, B @ R], 1)) for path, (A, B, R) in now.items()})

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        new, old = h.chunk(2, -1)                                    # A x, and again: the mirror's
        return torch.cat([nn.functional.linear(new, self.extra[site.path]), old], -1)

    def penalty(self, live: Lora, task: Task, batch, logits):
        return self.lam * sum((U.T @ self.extra[path]).square().sum() for path, U in self.memory["used"].items())

    @torch.no_grad()
    def after_step(self, live: Lora, task: Task) -> None:
        r = task.rank
        for path, (A, B) in live.items():
            A[r:] = A[:r]
            B[:, r:] = B[:, :r] @ self.memory["now"][path][2]

    def finish(self, tuned: Lora, task: Task) -> Lora:
        r = task.rank
        del self.memory["used"]
        self.memory["now"] = {path: [A[:r].clone(), B[:, :r].clone(), self.memory["now"][path][2] + self.extra[path].detach()]
                              for path, (A, B) in tuned.items()}
        return {path: Pair(A, B @ R) for path, (A, B, R) in self.memory["now"].items()}
