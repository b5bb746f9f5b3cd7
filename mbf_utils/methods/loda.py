"""LoDA: two branches, one along what all tasks' inputs share, one along what is the new task's alone. He et al., ICML 2026,
arXiv 2603.00191.

    S_new = E[x x^T] of the new task's inputs;   S_old = the sum over earlier tasks
    general    A_G = U_r^T, the first r eigenvectors of S_old + S_new
    isolated   A_I = orth(U)^T, U the r directions of the largest u^T S_new u / u^T S_old u
    delta W_t = s (B_G A_G + B_I A_I);   B_G = B_I = 0, only they train
    GAO        a batch in two halves without a common answer, g_1 and g_2 their gradients by B, rho ~ U(0, rho_max):
               loss = L_1(B + rho g_2 / |g_2|) + L_2(B + rho g_1 / |g_1|), each by its share of answer tokens
    after      B_G <- B_G K_new (K_old + K_new)^-1,   K = A_G S A_G^T;   S_old <- S_old + S_new

Ours: the recalibration, in least squares the B nearest to B_G on new inputs and to no change on old ones; rho_max = 0.05, the
ridge, and that L_1 counts by its tokens. Of GAO only the outline is known to us; to first order it adds rho <g_1, g_2> / |g|.
As one pair A = [A_G; A_I] has rank 2 r; the first task has no isolated branch, for nothing is old. Halves are told apart by
their answers' first token, in each micro-batch; where all rows have the same, the plain loss stays.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..lora import Lora, Pair, Start, stack
from ..method import Card, Task
from ..subspaces import contrast, directions
from ..text import IGNORE, Batch
from .inclora import IncLoRA
from .inflora import per_input


def halves(batch: Batch) -> list[Batch]:
    """The rows in two parts without a common first answer token, lower token ids first; [] where all rows have the same."""
    first = (batch.targets != IGNORE).int().argmax(1, keepdim=True)
    first = batch.targets.gather(1, first)[:, 0]                     # (b,)
    kinds = first.unique()
    lower = first < kinds[len(kinds) // 2]
    return [batch.rows(lower), batch.rows(~lower)] if len(kinds) > 1 else []


@dataclass
class LoDA(IncLoRA):
    rho: float = 0.05                               # rho_max of GAO; 0: the plain loss
    ridge: float = 0.01                             # of S_old's mean diagonal, for the ratio

    card: ClassVar[Card] = Card("LoDA", "He et al., ICML 2026, arXiv 2603.00191", "subspaces", "reconstructed",
                                "the two subspaces are the paper's; the step of GAO and the form of the recalibration are ours",
                                memory="linear", looks=True)

    def start(self, task: Task) -> Start:
        past, lora, r = self.memory.get("stack"), task.fresh(), task.rank
        S_new, S_old = task.probe.covariance(past or lora), self.memory.get("inputs")

        def branches(path: str) -> Tensor:
            new = S_new[path]
            if not S_old:
                return directions(new, r)
            old = S_old[path]
            ridge = self.ridge * old.diagonal().mean() * torch.eye(len(old), dtype=old.dtype, device=old.device)
            return torch.cat([directions(old + new, r), contrast(new, old + ridge, r)])

        A = per_input(branches, S_new)
        self.memory["new"] = S_new
        return Start({path: Pair(A[path], pair.B.new_zeros(len(pair.B), len(A[path]))) for path, pair in lora.items()}, past, "B")

    def penalty(self, live: Lora, task: Task, batch: Batch, logits: Tensor):
        past, parts = self.memory.get("stack"), halves(batch) if self.rho else []
        if not parts:
            return 0.0
        rho = self.rho * float(torch.rand((), generator=task.rng(f"rho {task.step}")))

        def loss(lora: Lora, rows: Batch) -> Tensor:
            return task.probe.loss(stack(past, lora) if past else lora, rows)

        aligned = 0.0
        for one, other in (parts, parts[::-1]):
            g = torch.autograd.grad(loss(live, other), [pair.B for pair in live.values()])
            size = torch.stack([part.norm() for part in g]).norm().clamp_min(1e-12)
            stepped = {path: Pair(pair.A, pair.B + rho * part / size) for (path, pair), part in zip(live.items(), g)}
            aligned = aligned + one.tokens / batch.tokens * loss(stepped, one)
        return aligned - batch.loss(logits)                          # the loop adds the plain loss

    def finish(self, tuned: Lora, task: Task) -> Lora:
        S_new, S_old = self.memory.pop("new"), self.memory.get("inputs")
        if S_old:
            tuned = {path: self.recalibrated(pair, S_new[path], S_old[path], task.rank) for path, pair in tuned.items()}
        self.memory["inputs"] = per_input(lambda path: S_old[path] + S_new[path], S_new) if S_old else S_new
        return super().finish(tuned, task)

    def recalibrated(self, pair: Pair, S_new: Tensor, S_old: Tensor, r: int) -> Pair:
        A_G, B_G = pair.A[:r], pair.B[:, :r]
        K_new, K_old = A_G @ S_new @ A_G.T, A_G @ S_old @ A_G.T      # (r, r)
        B_G = B_G @ K_new @ torch.linalg.pinv(K_old + K_new, hermitian=True)
        return Pair(pair.A, torch.cat([B_G, pair.B[:, r:]], 1))
