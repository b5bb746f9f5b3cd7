"""CorDA: the pair that trains is a part of W, chosen by what inputs excite. Yang et al., NeurIPS 2024, arXiv 2406.05223.

    C = E[x x^T] + damp mean(diag) I;   W C = U S V^T;   W = U S (V^T C^-1)
    B0 = U_r S_r^(1/2),  A0 = S_r^(1/2) (V^T C^-1)_r;   W <- W - B0 A0, frozen;  A and B train from A0 and B0
    mode "kpm" (keep knowledge): the LAST r components, C of data whose knowledge is to be kept
    mode "ipm" (learn well):     the FIRST r components, C of the new task's data

The paper adapts a model once and keeps general knowledge with the help of general text. Here, task after task, what is to be
kept is what earlier tasks read: C is the mean covariance of their inputs, under the models after them; before there is any,
C = I. W is the base with all that was learned so far. `damp` is not doubled until an inverse is accurate: with a linear solve
the start keeps the function whatever its error. C is scaled to mean(diag) = 1, for its scale decides how S is shared out
between A and B; with s = alpha/r the root is of S / s.

W itself is not touched: -B0 A0 is part of the frozen pair, and a task ends with delta W + B A - B0 A0, of rank at most
min(d_out, d_in).
"""
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..fields import choice, number
from ..lora import Lora, Pair, Start, compact, each, stack, svd, whole
from ..method import Card, Method, Task
from .inflora import per_input
from .oplora import weight_now


def negative(lora: Lora) -> Lora:
    return each(lambda pair: Pair(pair.A, -pair.B), lora)


def exchanged(memory: dict, tuned: Lora) -> Lora:
    """The result so far, plus B A, minus B0 A0; takes memory["begun"] (A0, B0) and keeps memory["result"]."""
    change = stack(tuned, negative(memory.pop("begun")))
    memory["result"] = each(compact, stack(memory["result"], change) if "result" in memory else change)
    return memory["result"]


@dataclass
class CorDA(Method):
    mode: str = choice("kpm", "ipm")
    damp: float = number(0.01, above=0)

    card: ClassVar[Card] = Card("CorDA", "Yang et al., NeurIPS 2024, arXiv 2406.05223", "subspaces", "adapted",
                                "the paper adapts once; here every task does, and what kpm keeps are earlier tasks' inputs, not text",
                                memory="linear", looks=True)

    def start(self, task: Task) -> Start:
        past, s = self.memory.get("result"), task.scaling
        seen = self.memory.get("inputs") if self.mode == "kpm" else task.probe.covariance(past or task.fresh())

        def part(path: str) -> Pair:
            W = weight_now(task, path, past)                         # (d_out, d_in)
            I = torch.eye(W.shape[1], dtype=W.dtype, device=W.device)
            C = seen[path] / seen[path].diagonal().mean() + self.damp * I if seen else I
            U, S, Vt = svd(whole(W @ C))
            chosen = slice(-task.rank, None) if self.mode == "kpm" else slice(task.rank)
            root = (S[chosen] / s).sqrt()                            # (r,)
            return Pair(root[:, None] * torch.linalg.solve(C, Vt[chosen], left=False), U[:, chosen] * root)

        begun = self.memory["begun"] = {path: part(path) for path in task.sites}
        return Start(begun, stack(past, negative(begun)) if past else negative(begun))

    def finish(self, tuned: Lora, task: Task) -> Lora:
        result = exchanged(self.memory, tuned)
        if self.mode == "kpm":
            C, seen, i = task.probe.covariance(result), self.memory.get("inputs"), task.index
            self.memory["inputs"] = per_input(lambda path: seen[path] + (C[path] - seen[path]) / i, C) if seen else C
        return result
