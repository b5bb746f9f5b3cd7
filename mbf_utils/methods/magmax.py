"""MagMax: one LoRA trained on task after task; of every weight the largest update so far stays.
Marczak et al., ECCV 2024, arXiv 2407.06322.

    tau_t = B_t A_t against the base, trained on from tau_t-1
    tau_max = the entry of largest |tau_k|, k <= t, place by place; of equal ones the latest
    delta W = s lambda tau_max,   lambda = 0.5

The maximum is associative, so only the running one is kept: the state does not grow, but it is dense, one (d_out, d_in) a
module. Ours: what is worn is its best pair of rank r (exact=True keeps it whole), the discarded share of squared norm in
memory["discarded"]; the maximum itself is never cut. The paper tunes all weights of CLIP; its lambda may be low for LoRA.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..fields import number
from ..lora import Lora, truncate, whole
from ..method import Card, Method, Task


@dataclass
class MagMax(Method):
    weight: float = number(0.5, 0)                  # lambda
    exact: bool = False

    card: ClassVar[Card] = Card("MagMax", "Marczak et al., ECCV 2024, arXiv 2407.06322", "merging", "adapted",
                                "a LoRA is tuned and the best rank r of the maximum is worn; the paper tunes all weights",
                                merges="descending")

    def finish(self, tuned: Lora, task: Task) -> Lora:
        tau_max = {}
        for path, (A, B) in tuned.items():
            tau = B @ A                                              # (d_out, d_in)
            last = self.memory["max"][path] if self.memory else tau
            tau_max[path] = torch.where(tau.abs() >= last.abs(), tau, last)
        cut = {path: truncate(whole(self.weight * tau), None if self.exact else task.rank) for path, tau in tau_max.items()}
        self.memory.update(tuned=tuned, max=tau_max, discarded={path: lost for path, (_, lost) in cut.items()})
        return {path: pair for path, (pair, _) in cut.items()}
