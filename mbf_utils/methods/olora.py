"""O-LoRA: a fresh LoRA a task whose A is pushed orthogonal to the A's of all earlier tasks.
Wang et al., Findings of EMNLP 2023, arXiv 2310.14152.

    L = L_task + lambda1 sum_modules sum_jk |A_past A_t^T|_jk + lambda2 sum_modules (||A_t||_F + ||B_t||_F)

The entrywise sum of absolute values is the released code's, which produced the published numbers; the paper writes
squares. lambda1 = 0.5, lambda2 = 0 are its settings for orders 1 to 3. The sum grows with r^2, the modules and the tasks,
so lambda1 does not carry over from one model size to another: choose it on development rows.
"""
from dataclasses import dataclass
from typing import ClassVar

from ..fields import number
from ..lora import Lora
from ..method import Card, Task
from .inclora import IncLoRA


@dataclass
class OLoRA(IncLoRA):
    lambda1: float = number(0.5, 0)
    lambda2: float = number(0.0, 0)

    card: ClassVar[Card] = Card("O-LoRA", "Wang et al., Findings of EMNLP 2023, arXiv 2310.14152", "stack", "exact",
                                memory="linear")

    def penalty(self, live: Lora, task: Task, batch, logits):
        past = self.memory.get("stack") if self.lambda1 else None
        overlap = sum((past[path].A @ pair.A.T).abs().sum() for path, pair in live.items()) if past else 0.0
        size = sum(pair.A.norm() + pair.B.norm() for pair in live.values()) if self.lambda2 else 0.0
        return self.lambda1 * overlap + self.lambda2 * size
