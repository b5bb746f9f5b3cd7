"""OPCM: add each update outside of what the merged one already uses. Tang et al., "Merging Models on the Fly Without Retraining",
NeurIPS 2025, arXiv 2501.09522.

    tau_m = U S V^T,   C = U^T tau_t V,   tau_t = B_t A_t trained from the base alone
    C' = C with a zero diagonal and a zero block of the first `split` rows and columns,
         split = the first index (from 0) at which the cumulative sum of S passes alpha of its whole
    raw = lambda_t-1 tau_m + U C' V^T + (what of tau_t lies outside of U or V)
    n = ||raw|| over all modules,   n_mean = mean of ||tau_1||, ..., ||tau_t||
    tau_m <- raw n_mean / n,   lambda_t = n / n_mean (about sqrt(t)),   lambda_1 = 1

alpha = 0.5 is the released setting. Factored, with K = C - C':  raw = [U (lambda S - K), B_t] [V^T; A_t], of rank k + r.

Ours: cut to rank r after every task (exact=True keeps the sum whole, of rank up to t r; the discarded share of squared norm in
memory["discarded"]). The released code completes U and V to square matrices, so where tau_m has not full rank it also zeroes
the update's diagonal in an arbitrary basis of the rest; we zero only in directions that tau_m has.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..fields import number
from ..lora import Lora, Pair, Start, inner, svd, truncate
from ..method import Card, Method, Task


def norm(lora: Lora) -> float:
    """The norm of all updates together."""
    return float(sum(inner(pair, pair) for pair in lora.values()).clamp_min(0)) ** 0.5


@dataclass
class OPCM(Method):
    alpha: float = number(0.5, 0, 1)
    exact: bool = False

    about: ClassVar[Card] = Card("OPCM", "Tang et al., NeurIPS 2025, arXiv 2501.09522", "merging", "adapted",
                                 "cut to rank r after every task, and projected only within the merged update's own directions",
                                 merges="independent")

    @property
    def card(self) -> Card:  # type: ignore[override]
        return self.about._replace(memory="linear") if self.exact else self.about

    def start(self, task: Task) -> Start:
        return Start(task.fresh())

    def finish(self, tuned: Lora, task: Task) -> Lora:
        size, merged, mean, lam, discarded = norm(tuned), tuned, norm(tuned), 1.0, {path: 0.0 for path in tuned}
        if self.memory:
            raw = {path: self.added(self.memory["merged"][path], pair) for path, pair in tuned.items()}
            mean = self.memory["mean"] + (size - self.memory["mean"]) / task.index
            lam = norm(raw) / mean if mean else 1.0
            scaled = {path: Pair(A, B / (lam or 1.0)) for path, (A, B) in raw.items()}
            cut = {path: truncate(pair, None if self.exact else task.rank) for path, pair in scaled.items()}
            merged = {path: pair for path, (pair, _) in cut.items()}
            discarded = {path: lost for path, (_, lost) in cut.items()}
        self.memory.update(merged=merged, mean=mean, lam=lam, discarded=discarded)
        return merged

    def added(self, merged: Pair, tau: Pair) -> Pair:
        """lambda tau_m + the projected tau_t, of rank k + r."""
        U, S, Vt = svd(merged)
        k = int((S > 1e-6 * S[0]).sum())                             # rounding has no direction
        U, S, Vt = U[:, :k], S[:k], Vt[:k]
        C = (U.T @ tau.B) @ (tau.A @ Vt.T)                           # (k, k)
        split = int((S.cumsum(0) / S.sum() > self.alpha).float().argmax()) if k else 0
        K = C.diag().diag()
        K[:split, :split] = C[:split, :split]
        return Pair(torch.cat([Vt, tau.A]), torch.cat([U @ (self.memory["lam"] * S.diag() - K), tau.B], 1))
