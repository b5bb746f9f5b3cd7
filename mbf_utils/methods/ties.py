"""TIES: trim small entries, elect a sign, average those that agree. Yadav et al., NeurIPS 2023, arXiv 2306.01708.

Entrywise over the updates tau_1 .. tau_t of one module:

    trim    tau_k <- tau_k where |tau_k| is among its largest `density`, else 0
    elect   gamma = sign(sum_k tau_k)
    merge   tau = mean of the tau_k with sign(tau_k) = gamma, zeros left out;   the model is W0 + lambda s tau

density = 0.2 and lambda = 1 are the paper's advice where nothing is tuned. `drop` > 0 drops at random first, as DARE does
(field name "dare_ties", with density = 1: the drop takes the trim's place, as in PEFT and mergekit).

Ours: the trim's threshold is that of one module, as in PEFT and mergekit (the paper's is of all weights together), and the
result is cut to rank r (see pool.py): trimming makes full-rank matrices, so look at memory["discarded"]. Dense: the t matrices
(d_out, d_in) of one module at a time.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..fields import number
from ..lora import Pair, whole
from ..method import Card, Task
from .dare import dropped
from .pool import Pool


def trimmed(tau: Tensor, density: float) -> Tensor:
    """tau with all but its `density` largest entries in magnitude set to zero (at least one stays)."""
    keep = max(1, round(density * tau.numel()))
    threshold = tau.abs().flatten().kthvalue(tau.numel() - keep + 1).values
    return torch.where(tau.abs() >= threshold, tau, 0.0)


def ties(taus: list[Tensor], counts: list[int], density: float) -> Tensor:
    """Trim, elect, merge; taus[k] counts as counts[k] equal ones."""
    X = torch.stack([trimmed(tau, density) for tau in taus])                     # (t, ...)
    n = torch.tensor(counts, dtype=X.dtype, device=X.device).view(-1, *[1] * (X.dim() - 1))
    gamma = (n * X).sum(0).sign()
    keep = n * ((X.sign() == gamma) & (X != 0))
    return (keep * X).sum(0) / keep.sum(0).clamp_min(1)


@dataclass
class TIES(Pool):
    density: float = number(0.2, above=0, most=1)
    drop: float = number(0.0, 0, below=1)           # DARE's p, drawn anew for each merge

    about: ClassVar[Card] = Card("TIES", "Yadav et al., NeurIPS 2023, arXiv 2306.01708", "merging", "adapted",
                                 "trimmed within each module, and cut to rank r; the paper merges full weights",
                                 memory="linear", merges="independent")

    def merge(self, pairs: list[Pair], counts: list[int], task: Task, path: str) -> Pair:
        taus = [dropped(pair.B @ pair.A, self.drop, task.rng(f"drop {k} {path}")) for k, pair in enumerate(pairs)]
        return whole(ties(taus, counts, self.density))
