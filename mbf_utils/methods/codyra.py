"""CoDyRA: every task finds out which ranks of which module it needs. Lu et al., 2024, arXiv 2412.01004.

    delta W_t = B diag(w) A,   A Kaiming, B = 0, w ~ N(0, 1),   all three trained; no alpha / r
    in the second half of the steps, after each step:  w <- sign(w) max(|w| - kappa, 0)
    at the end: ranks with w = 0 are dropped, W <- W + delta W_t, and the next task starts afresh

kappa rises from 0 to kappa_max over a tenth of the steps. The released runs take 500 steps; kappa is an absolute amount a
step, so ours is scaled by 500 / steps and the whole shrinkage stays the same, else a long task would lose every rank. The
released program's kappa_max is 7e-4 (together 0.16); its script for CLIP sets 5e-3 (together 1.1, three ranks in four), of
which a LoRA of rank 8 on the kit's smallest base learned nothing. W is not touched here: what was merged is a frozen pair
whose rank is the number of ranks kept so far. A module that needs no rank keeps one with w = 0.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..fields import number
from ..lora import Lora, Pair, Site, Start, stack
from ..method import Card, Method, Task


@dataclass
class CoDyRA(Method):
    kappa: float = number(7e-4, 0)                  # kappa_max of a task of 500 steps

    card: ClassVar[Card] = Card("CoDyRA", "Lu et al., preprint 2024, arXiv 2412.01004", "gates", "adapted",
                                "the threshold, made for 500 steps of CLIP, is scaled to the number of steps, and what is merged "
                                "stays a frozen pair beside W", memory="linear")

    def start(self, task: Task) -> Start:
        generator = task.rng("gates")
        self.extra = {path: nn.Parameter(torch.randn(task.rank, generator=generator).to(task.device)) for path in task.sites}
        self.memory["scaling"] = task.scaling
        return Start(task.fresh(), past=self.memory.get("stack"))

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        if site.blocks.start == 0 and "stack" in self.memory:        # what is merged
            return h
        return h * (self.extra[site.path] / self.memory["scaling"])  # the model multiplies by s, the paper does not

    @torch.no_grad()
    def after_step(self, live: Lora, task: Task) -> None:
        late = (task.step + 1) - task.steps / 2                      # steps since the first half
        if late > 0:
            kappa = self.kappa * 500 / task.steps * min(1.0, late / (task.steps / 10))
            for w in self.extra.values():
                w.copy_(w.sign() * (w.abs() - kappa).clamp_min(0))

    def finish(self, tuned: Lora, task: Task) -> Lora:
        new = {}
        for path, (A, B) in tuned.items():
            w = self.extra[path].detach()
            keep = w != 0
            keep[0] |= not keep.any()
            new[path] = Pair(A[keep], B[:, keep] * (w[keep] / task.scaling))
        self.memory["stack"] = stack(self.memory["stack"], new) if "stack" in self.memory else new
        return self.memory["stack"]
