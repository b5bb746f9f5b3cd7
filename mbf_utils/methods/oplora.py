"""OPLoRA: the update stays off the base's strongest singular directions. Xiong and Xie, AAAI 2026, arXiv 2510.13003.

    W = U S V^T;   delta W = s P_L B A P_R,   P_L = I - U_k U_k^T,  P_R = I - V_k V_k^T   (U_k, V_k the first k columns)

so the k strongest singular triples of W stay as they are. Equal and cheaper: A and B are projected at the start and after
every step, B <- P_L B, A <- A P_R.

The paper trains once; ours: every task has a fresh pair beside the frozen earlier ones, and W is the base with what was
learned so far (continual=False: the base alone). k = 16 is the paper's smaller value; it is at most a quarter of
min(d_out, d_in), else a small model could learn nothing.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..fields import number
from ..lora import Lora, Pair, Start, each, svd, whole
from ..method import Card, Task
from ..subspaces import project_out
from .inclora import IncLoRA


def weight_now(task: Task, path: str, past: Lora | None) -> Tensor:
    """W0 + s B A, the base's weight with all that was learned so far: (d_out, d_in)."""
    W0 = task.probe.weight(path)
    return W0 + task.scaling * past[path].B @ past[path].A if past else W0


def outside(pair: Pair, top: Pair) -> Pair:
    """P_L B and A P_R; `top` holds the orthonormal rows V_k^T (k, d_in) as A and the columns U_k (d_out, k) as B."""
    return Pair(project_out(pair.A, top.A), project_out(pair.B.T, top.B.T).T)


@torch.no_grad()
def keep_outside(lora: Lora, top: Lora) -> None:
    """Projects every factor in place."""
    for path, pair in lora.items():
        for factor, projected in zip(pair, outside(pair, top[path])):
            factor.copy_(projected)


@dataclass
class OPLoRA(IncLoRA):
    k: int = number(16, 1)
    continual: bool = True                          # protect what was learned too, not the base alone

    card: ClassVar[Card] = Card("OPLoRA", "Xiong and Xie, AAAI 2026, arXiv 2510.13003", "subspaces", "adapted",
                                "the paper trains once; here every task has its own pair and decomposes W with all earlier ones",
                                memory="linear")

    def start(self, task: Task) -> Start:
        past = self.memory.get("stack")

        def strongest(path: str) -> Pair:
            U, S, Vt = svd(whole(weight_now(task, path, past if self.continual else None)))
            k = max(1, min(self.k, len(S) // 4))
            return Pair(Vt[:k], U[:, :k])

        self.memory["top"] = {path: strongest(path) for path in task.sites}
        return Start(each(outside, task.fresh(), self.memory["top"]), past)

    def after_step(self, live: Lora, task: Task) -> None:
        keep_outside(live, self.memory["top"])

    def finish(self, tuned: Lora, task: Task) -> Lora:
        del self.memory["top"]
        return super().finish(tuned, task)
