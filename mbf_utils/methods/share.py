"""Share: all tasks live in one pair of bases, each with its own small coefficients. Kaushik et al., 2026, arXiv 2602.06043.

    delta W_i = s B_i A_i,   A_i = (alpha ea_i)^T,  B_i = beta eb_i,   alpha (d_in, k), beta (d_out, k) orthonormal, ea, eb (k, p)
    task 1: plain LoRA
    task t: A_t = ([alpha, Ta^T] ea)^T,  B_t = [beta, Tb] eb;   trained: ea, eb (k + phi, p) and phi new directions Ta, Tb
    after it: alpha = the leading k left singular vectors of [A_1^T .. A_t^T], ea_i = alpha^T A_i^T; beta, eb_i likewise from B

The task is known at test time and picks its coefficients. As in the released code k = 32 (for r = 8), p = r, phi = 2, and a
task starts from the last one's coefficients; in the paper k holds 60 % of the variance, p is 1 or r/3. Ours: no centring
(the mean that it takes off is not put back and would be lost), and the new directions start without effect: eb Kaiming
and ea = 0 on them, Ta Kaiming, Tb = 0.
"""
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..fields import number
from ..lora import Lora, Pair, Site, Start, svd
from ..method import Card, Method, Task


def leading(X: Tensor, k: int) -> Tensor:
    """The leading left singular vectors of X (d, c) as (d, k); zeros for those that do not exist or belong to nothing."""
    U, S, _ = svd(Pair(torch.eye(X.shape[1], device=X.device), X))
    U = U[:, :k] * (S[:k] > 1e-6 * S[0])
    return nn.functional.pad(U, (0, k - U.shape[1]))


@dataclass
class Share(Method):
    k: int = number(32, 1)
    phi: int = number(2, 1)

    card: ClassVar[Card] = Card("Share", "Kaushik et al., preprint 2026, arXiv 2602.06043", "parametrisation", "adapted",
                                "the released sizes and start, but no centring, and new directions start without effect",
                                memory="linear", task_id=True)

    def start(self, task: Task) -> Start:
        fresh, basis, generator = task.fresh(), self.memory.get("basis"), task.rng("coefficients")
        self.extra = {}
        if not basis:
            return Start(fresh)
        phi = min(self.phi, task.rank)
        for path, (ea, eb) in self.memory["coefficients"][self.memory["last"]].items():
            kaiming = (torch.rand(phi, eb.shape[1], generator=generator) * 2 - 1) / math.sqrt(eb.shape[1])
            self.extra[f"{path}.A"] = nn.Parameter(torch.cat([ea, ea.new_zeros(phi, ea.shape[1])]))
            self.extra[f"{path}.B"] = nn.Parameter(torch.cat([eb, kaiming.to(eb)]))
        return Start({path: Pair(A[:phi], B[:, :phi]) for path, (A, B) in fresh.items()}, past=basis)      # Ta, Tb

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        if "basis" not in self.memory:
            return h
        alpha_T, past, linear = self.memory["basis"][site.path].A, site.blocks.start == 0, nn.functional.linear
        both = [h, linear(x, site.live.A)] if past else [linear(x, alpha_T), h]
        c = torch.cat(both, -1) @ self.extra[f"{site.path}.A"]       # A_t x (batch, length, p)
        old, new = self.extra[f"{site.path}.B"].split([len(alpha_T), len(site.live.A)])
        return linear(c, old if past else new)                       # for beta, and for Tb

    def finish(self, tuned: Lora, task: Task) -> Lora:
        names = [name for name in self.memory.get("coefficients", {}) if name != task.name]
        loras = {name: self.composed(name) for name in names}
        if basis := self.memory.get("basis"):
            tuned = {path: Pair(self.extra[f"{path}.A"].detach().T @ torch.cat([basis[path].A, Ta]),
                                torch.cat([basis[path].B, Tb], 1) @ self.extra[f"{path}.B"].detach())
                     for path, (Ta, Tb) in tuned.items()}
        loras[task.name] = tuned
        new, coefficients = {}, {name: {} for name in loras}
        for path in tuned:
            A, B = (torch.cat(factors, 1) for factors in zip(*((lora[path].A.T, lora[path].B) for lora in loras.values())))
            alpha, beta = (leading(X, min(self.k, A.shape[1])) for X in (A, B))
            new[path] = Pair(alpha.T.contiguous(), beta)
            for name, lora in loras.items():
                coefficients[name][path] = [alpha.T @ lora[path].A.T, beta.T @ lora[path].B]
        self.memory.update(basis=new, coefficients=coefficients, last=task.name)
        return self.composed(task.name)

    def composed(self, name: str) -> Lora:
        basis, own = self.memory["basis"], self.memory["coefficients"][name]
        return {path: Pair(ea.T @ basis[path].A, basis[path].B @ eb) for path, (ea, eb) in own.items()}

    def worn(self, name: str, result: Lora) -> Lora:
        return self.composed(name) if name in self.memory["coefficients"] else result
