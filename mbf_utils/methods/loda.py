"""LoDA: two branches, one along what all tasks' inputs share, one along what is the new task's alone. He et al., ICML 2026,
arXiv 2603.00191.

    S_new = E[x x^T] of the new task's inputs;   S_old = the sum over earlier tasks
    general    A_G = w U_r^T / sqrt(3), the first r eigenvectors of S_old + S_new;   w = 0.5
    isolated   A_I = orth(U)^T / sqrt(3), U the r directions of the largest u^T S_new u / u^T S_old u
    delta W_t = s (B_G A_G + B_I A_I);   B_G = B_I = 0, only they train;   the first task has A_G alone, which trains too
    GAO        the answers of a batch in two halves by lot, g_1 and g_2 their gradients by a module's B, rho ~ U(0, 0.5):
               loss = L_1(B - rho g_2 / |g_2|) + L_2(B - rho g_1 / |g_1|)
    after      column i of B_G times gamma k_new / (k_old + gamma k_new),   k = a_i S a_i^T, a_i row i of A_G,   gamma = 3
               S_old <- S_old + S_new, S_new taken anew

GAO's sign is the authors' code's, a step down the other half's gradient: to first order it takes rho <g_1, g_2> / |g| off the
loss, so the gradients come into line, as the name says; a step up would set them against each other.

Ours: one optimiser step for both halves (the code: one after the other); L_1 counts by its answer tokens; an answer is told by
its first token, and where all have the same, the plain loss stays; S_old sees each task once (the code: twice); the ridge. There
rho goes up to 0.3 or 0.7 and s is 1/2. As one pair A = [A_G; A_I] has rank 2 r. The halves are of the rows of one forward pass:
where a step is many small passes GAO sees fewer pairs, and where a pass has one row there is no GAO at all.
"""
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..fields import number
from ..lora import Lora, Pair, Start, stack
from ..method import Card, Task
from ..subspaces import contrast, directions, energy
from ..text import IGNORE, Batch
from .inclora import IncLoRA
from .inflora import per_input


def halves(batch: Batch, chance: torch.Generator) -> list[Batch]:
    """The rows in two parts without a common first answer token, by lot; [] where all rows have the same."""
    first = (batch.targets != IGNORE).int().argmax(1, keepdim=True)
    first = batch.targets.gather(1, first)[:, 0]                     # (b,)
    kinds = first.unique()
    one = torch.isin(first, kinds[torch.randperm(len(kinds), generator=chance)[:len(kinds) // 2]])
    return [batch.rows(one), batch.rows(~one)] if len(kinds) > 1 else []


@dataclass
class LoDA(IncLoRA):
    rho: float = number(0.5)                        # rho_max of GAO; 0: the plain loss, below 0: the other sign
    general: float = number(0.5, 0)                 # w
    gamma: float = number(3.0, 0)                   # what the new inputs count for, beside the old ones
    ridge: float = number(1e-4, above=0)            # of S_old's mean diagonal, for the ratio

    card: ClassVar[Card] = Card("LoDA", "He et al., ICML 2026, arXiv 2603.00191", "subspaces", "adapted",
                                "one optimiser step takes both halves of a forward pass's rows, told apart by their answers' first token",
                                memory="linear", looks=True)

    def start(self, task: Task) -> Start:
        past, lora, r = self.memory.get("stack"), task.fresh(), task.rank
        S_new, S_old = task.probe.covariance(past or lora), self.memory.get("inputs")

        def branches(path: str) -> Tensor:
            new, old = S_new[path], S_old[path] if S_old else 0.0
            A_G = self.general * directions(old + new, r)
            return torch.cat([A_G, contrast(new, old, r, self.ridge)] if S_old else [A_G]) / math.sqrt(3)

        A = per_input(branches, S_new)
        return Start({path: Pair(A[path], pair.B.new_zeros(len(pair.B), len(A[path]))) for path, pair in lora.items()}, past,
                     trains="B" if S_old else "AB")

    def penalty(self, live: Lora, task: Task, batch: Batch, logits: Tensor):
        past, chance = self.memory.get("stack"), task.rng(f"GAO {task.step}")
        rho = self.rho * float(torch.rand((), generator=chance))
        if not self.rho or not (parts := halves(batch, chance)):
            return 0.0

        def loss(lora: Lora, rows: Batch) -> Tensor:
            return task.probe.loss(stack(past, lora) if past else lora, rows)

        aligned = 0.0
        for one, other in (parts, parts[::-1]):
            found = torch.autograd.grad(loss(live, other), [pair.B for pair in live.values()])
            stepped = {path: Pair(A, B - rho * g / g.norm().clamp_min(1e-12)) for (path, (A, B)), g in zip(live.items(), found)}
            aligned = aligned + one.tokens / batch.tokens * loss(stepped, one)
        return aligned - batch.loss(logits)                          # the loop adds the plain loss

    def finish(self, tuned: Lora, task: Task) -> Lora:
        past, S_old = self.memory.get("stack"), self.memory.get("inputs")
        S_new = task.probe.covariance(stack(past, tuned) if past else tuned)
        r, result = task.rank, {}
        for path, (A, B) in tuned.items() if S_old else ():
            k_new, k_old = self.gamma * energy(A[:r], S_new[path]), energy(A[:r], S_old[path])       # (r,)
            result[path] = Pair(A, torch.cat([k_new / (k_old + k_new).clamp_min(1e-12) * B[:, :r], B[:, r:]], 1))
        self.memory["inputs"] = per_input(lambda path: S_old[path] + S_new[path], S_new) if S_old else S_new
        return super().finish(result or tuned, task)
