"""LiLoRA, LoRA in LoRA: all tasks share A and B_0, each has a low-rank B of its own. Che et al., AAAI 2026, arXiv 2508.06202.

    delta W_t = s [sigma(f_t) B_0 + (1 - sigma(f_t)) B~_t A~_t] A
    A (r, d_in), B_0 (d_out, r) shared;   B~_t (d_out, r~) from 0, A~_t (r~, r) Kaiming, f_t ~ N(0, 1): one set a task, r~ = r/2
    L = L_task + lambda sum_modules (1 - cos(B~_t A~_t, B~_{t-1} A~_{t-1})) ||B_0 - B_0^{t-1}||_F^2      for t > 1

The task is known at test time and picks (f, B~, A~); A and B_0 are today's, so an old task drifts with them. The paper's
lambda is not known to us (1 is ours). The released code has no such loss and freezes B_0 after the first task instead:
lam=0, freeze=True. B_0 and B~ train as one factor [B_0 B~]; a frozen B_0 is set back after each step.
"""
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..fields import number
from ..lora import Lora, Pair, Site, Start, inner
from ..method import Card, Method, Task


def cosine(one: Pair, other: Pair) -> Tensor:
    """Between B A of two pairs as long vectors; 0 where one of them is zero."""
    return inner(one, other) / (inner(one, one) * inner(other, other)).clamp_min(1e-12).sqrt()


@dataclass
class LiLoRA(Method):
    lam: float = number(1.0, 0)
    freeze: bool = False                            # B_0 after the first task

    card: ClassVar[Card] = Card("LiLoRA", "Che et al., AAAI 2026, arXiv 2508.06202", "parametrisation", "reconstructed",
                                "composition and start as released; the weight of the paper's loss is ours",
                                memory="linear", task_id=True)

    def start(self, task: Task) -> Start:
        r, inside = task.rank, max(1, task.rank // 2)
        fresh, f, A_in = task.fresh(), task.rng("f"), task.rng("A")
        shared = self.memory.setdefault("shared", fresh)             # A, B_0
        self.extra = {}
        for path in task.sites:
            self.extra[f"{path}.f"] = nn.Parameter(torch.randn(1, generator=f).to(task.device))
            kaiming = (torch.rand(inside, r, generator=A_in) * 2 - 1) / math.sqrt(r)
            self.extra[f"{path}.A"] = nn.Parameter(kaiming.to(task.device))
        return Start({path: Pair(torch.cat([A, A.new_zeros(inside, A.shape[1])]), torch.cat([B, B.new_zeros(len(B), inside)], 1))
                      for path, (A, B) in shared.items()})           # the zero rows of A never meet a gradient

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        A, share = self.extra[f"{site.path}.A"], self.extra[f"{site.path}.f"].sigmoid()
        h = h[..., :A.shape[1]]                                      # A x
        return torch.cat([share * h, (1 - share) * nn.functional.linear(h, A)], -1)      # for [B_0 B~]

    def penalty(self, live: Lora, task: Task, batch, logits):
        if task.index == 1 or not self.lam:
            return 0.0
        last, r = self.memory["own"][self.memory["last"]], task.rank
        return self.lam * sum((1 - cosine(Pair(self.extra[f"{path}.A"], B[:, r:]), Pair(*last[path][1:])))
                              * (B[:, :r] - self.memory["shared"][path].B).square().sum() for path, (_, B) in live.items())

    @torch.no_grad()
    def after_step(self, live: Lora, task: Task) -> None:
        if self.freeze and task.index > 1:
            for path, (_, B) in live.items():
                B[:, :task.rank] = self.memory["shared"][path].B

    def finish(self, tuned: Lora, task: Task) -> Lora:
        r = task.rank
        own = {path: [self.extra[f"{path}.f"].detach().clone(), self.extra[f"{path}.A"].detach().clone(), B[:, r:].clone()]
               for path, (_, B) in tuned.items()}                    # f, A~, B~
        self.memory["own"] = {**self.memory.get("own", {}), task.name: own}
        self.memory.update(last=task.name, shared={path: Pair(A[:r].clone(), B[:, :r].clone()) for path, (A, B) in tuned.items()})
        return self.composed(task.name)

    def composed(self, name: str) -> Lora:
        def one(path: str, A: Tensor, B_0: Tensor) -> Pair:
            f, A_in, B_in = self.memory["own"][name][path]
            return Pair(A, f.sigmoid() * B_0 + (1 - f.sigmoid()) * (B_in @ A_in))

        return {path: one(path, *pair) for path, pair in self.memory["shared"].items()}

    def worn(self, name: str, result: Lora) -> Lora:
        return self.composed(name) if name in self.memory["own"] else result
