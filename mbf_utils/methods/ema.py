"""EMA: one LoRA trained on task after task; the model is a running mean of its factors.
Dziadzio et al., "How to Merge Your Multimodal Models Over Time?", CVPR 2025, arXiv 2412.06712.

    m_1 = w_1,   m_t = m_t-1 + beta (w_t - m_t-1),   w_t = (A_t, B_t) after task t, trained on from w_t-1

beta=None is 1 / t, the plain mean of all w (model soups: Wortsman et al., ICML 2022, arXiv 2203.05482). SLAO is the same
recurrence with 1 / sqrt(t), for B alone.

Ours: the paper averages full weights and starts a task from the average; we average A and B apart, which means something only
because every pair continues the last one (the mean of B times the mean of A is not the mean of B A), and start from the last
tuned pair. begin="merged" starts from the average. beta = 0.5 is ours.
"""
from dataclasses import dataclass
from typing import ClassVar

from ..fields import choice, number
from ..lora import Lora, Pair, Start, each
from ..method import Card, Method, Task


@dataclass
class EMA(Method):
    beta: float | None = number(0.5, 0, 1)          # the share of the newest pair; None: 1 / t
    begin: str = choice("tuned", "merged")          # the pair a task starts from

    card: ClassVar[Card] = Card("EMA", "Dziadzio et al., CVPR 2025, arXiv 2412.06712", "merging", "adapted",
                                "A and B are averaged apart, not full weights; a task starts from the last trained pair, or from the mean",
                                merges="descending")

    def start(self, task: Task) -> Start:
        return Start(self.memory[self.begin] if self.memory else task.fresh())

    def finish(self, tuned: Lora, task: Task) -> Lora:
        beta = 1 / task.index if self.beta is None else self.beta

        def blend(m: Pair, w: Pair) -> Pair:
            return Pair(m.A + beta * (w.A - m.A), m.B + beta * (w.B - m.B))

        merged = each(blend, self.memory["merged"], tuned) if self.memory else tuned
        self.memory.update(tuned=tuned, merged=merged)
        return merged
