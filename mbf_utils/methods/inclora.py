"""IncLoRA: a fresh LoRA a task beside all earlier ones, which stay frozen and active.

    h = W x + s sum_{k<t} B_k A_k x + s B_t A_t x,   only A_t, B_t train

A reference of O-LoRA's paper (arXiv 2310.14152). The earlier ones are kept as one pair of rank (t - 1) r.
"""
from dataclasses import dataclass
from typing import ClassVar

from ..lora import Lora, Start, stack
from ..method import Card, Method, Task


@dataclass
class IncLoRA(Method):
    card: ClassVar[Card] = Card("IncLoRA", "Wang et al., Findings of EMNLP 2023, arXiv 2310.14152", "stack", "exact",
                                memory="linear")

    def start(self, task: Task) -> Start:
        return Start(task.fresh(), past=self.memory.get("stack"))

    def finish(self, tuned: Lora, task: Task) -> Lora:
        past = self.memory.get("stack")
        self.memory["stack"] = stack(past, tuned) if past else tuned
        return self.memory["stack"]
