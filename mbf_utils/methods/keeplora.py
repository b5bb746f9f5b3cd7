"""KeepLoRA: each task trains along its gradient, outside of what the base and earlier tasks use. Luo et al., ICLR 2026,
arXiv 2601.19659.

    once            M = the first right singular vectors of W0 that hold the share 0.6 of ||W0||_F^2
    before task t   G = dL/dW (m, n), mean over a fifth of the task's rows;  A_t = U_r^T, U_r the first r left singular
                    vectors of (I - M M^T) G^T;  B_t = 0;  only B_t trains
    after task t    W <- W + s B_t A_t;  G anew;  M <- [M, U] until M holds the share 0.99 of ||G||_F^2

This is the authors' version for LLaVA, a causal language model; their version for CLIP starts from another B. M is kept as rows
(k, n). Ours: W is not touched, what was merged is a frozen stack; G is a mean over rows, theirs over batches. M fills up, in
small models soon: where k + r > n an InputError says so before the training. On the tiny base (n = 64, rank 8) the defaults
last for 5 of 15 tasks, task_energy = 0.95 to the end.
"""
import math
from dataclasses import dataclass
from typing import ClassVar

from ..fields import number
from ..lora import Lora, Pair, Start
from ..method import Card, Task
from ..subspaces import directions, widen
from .inclora import IncLoRA
from .inflora import check_room


@dataclass
class KeepLoRA(IncLoRA):
    weight_energy: float = number(0.6, 0, 1)
    task_energy: float = number(0.99, 0, 1)
    share: float = number(0.2, above=0, most=1)     # of the task's rows that the gradient is taken on

    card: ClassVar[Card] = Card("KeepLoRA", "Luo et al., ICLR 2026, arXiv 2601.19659", "subspaces", "exact",
                                memory="linear", looks=True)

    def gradient(self, lora: Lora, task: Task) -> dict:
        return task.probe.gradient(lora, math.ceil(self.share * len(task.train)))        # (m, n) per module

    def start(self, task: Task) -> Start:
        if "basis" not in self.memory:
            self.memory["basis"] = {path: widen(None, task.probe.weight(path), self.weight_energy) for path in task.sites}
        past, M, lora = self.memory.get("stack"), self.memory["basis"], task.fresh()
        check_room(M, task)
        G = self.gradient(past or lora, task)
        return Start({path: Pair(directions(G[path], task.rank, M[path]), lora[path].B) for path in lora}, past, trains="B")

    def finish(self, tuned: Lora, task: Task) -> Lora:
        result = super().finish(tuned, task)
        G = self.gradient(result, task)
        self.memory["basis"] = {path: widen(M, G[path], self.task_energy) for path, M in self.memory["basis"].items()}
        return result
