"""SD-LoRA: old directions are frozen, how far to go along each is learned anew. Wu et al., ICLR 2025, arXiv 2501.13198.

    delta W = s (sum_{i<t} a_i D_i + a_t B_t A_t),   D_i = B_i A_i / (||B_i||_F ||A_i||_F)
    trained: A_t, B_t and a_1 .. a_t, one magnitude a task that all modules share

As in the released code: the current direction is not normalised while it trains, and every task begins with all
magnitudes at 0.8, so the function jumps there. The paper divides every direction by ||B_i A_i||_F and begins at 1; for the
current one that has no value at B_t = 0, where its training starts. reset=False is ours: directions keep
their length and magnitudes their value, so a task starts from the function that the last one ended with. Ours too: the
kit's s (the paper has none), AdamW, and `rate`: a is learned `rate` times as fast as A and B (the released lr of 8e-3
moves a magnitude far within a task, a usual LoRA lr hardly at all). Not here: the variants RR and KD, which save rank.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..fields import number
from ..lora import Lora, Pair, Site, Start, each, stack
from ..method import Card, Method, Task


def direction(pair: Pair) -> Pair:
    """B A / (||B||_F ||A||_F); zero stays zero."""
    return Pair(pair.A, pair.B / (pair.B.norm() * pair.A.norm()).clamp_min(1e-12))


@dataclass
class SDLoRA(Method):
    magnitude: float = number(0.8, above=0)
    reset: bool = True
    rate: float = number(1.0, above=0)

    card: ClassVar[Card] = Card("SD-LoRA", "Wu et al., ICLR 2025, arXiv 2501.13198", "gates", "adapted",
                                "the released rule with the kit's scaling s = alpha/r and AdamW; the paper uses s = 1",
                                memory="linear")

    def start(self, task: Task) -> Start:
        a = torch.full((task.index,), self.magnitude, device=task.device)
        if not self.reset and task.index > 1:
            a[:-1] = self.memory["a"]
        self.extra = {"a": nn.Parameter(a / self.rate)}
        return Start(task.fresh(), past=self.memory.get("stack"))

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        a = self.rate * self.extra["a"][site.blocks]                 # the tasks that h (batch, length, k r) holds
        return h * a.repeat_interleave(h.shape[-1] // len(a))

    def finish(self, tuned: Lora, task: Task) -> Lora:
        past, a = self.memory.get("stack"), self.rate * self.extra["a"].detach()

        def after(past: Lora | None, new: Lora) -> Lora:
            return stack(past, new) if past else new

        self.memory.update(a=a, stack=after(past, each(direction, tuned) if self.reset else tuned))
        return each(lambda pair: Pair(pair.A, pair.B * a.repeat_interleave(pair.B.shape[1] // len(a))), after(past, tuned))
