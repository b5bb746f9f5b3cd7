"""LoRA factors as plain values. Per adapted weight: A (r, d_in), B (d_out, r), delta W = s B A, s = alpha / r.

A stack of LoRAs is one pair of higher rank: B1 A1 + B2 A2 = [B1 B2] [A1; A2]. Torch only; PEFT's names live in adapters.py.
"""
from __future__ import annotations

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor

from .subspaces import lifted


class Pair(NamedTuple):
    """The two factors of one adapted weight: A (r, d_in), B (d_out, r)."""
    A: Tensor
    B: Tensor


Lora = dict[str, Pair]                              # module path -> pair


class Start(NamedTuple):
    """How a task begins: the pair that trains, a frozen second adapter beside it, and which factors train."""
    lora: Lora
    past: Lora | None = None
    trains: str | dict[str, str] = "AB"             # "", "A", "B", "AB"; per module path where they differ


class Site(NamedTuple):
    """Where a bottleneck h = A x is computed: `blocks` says which tasks of a stack it holds (0-based)."""
    path: str
    blocks: slice
    live: Pair
    batch: Any


def each(function: Callable[..., Pair], *loras: Lora) -> Lora:
    """`function` applied module by module: each(f, X, Y)[path] = f(X[path], Y[path])."""
    return {path: function(*(lora[path] for lora in loras)) for path in loras[0]}


def copied(lora: Lora) -> Lora:
    """A detached copy: later training of `lora` does not touch it."""
    return each(lambda pair: Pair(*(factor.detach().clone() for factor in pair)), lora)


def stack(*loras: Lora) -> Lora:
    """One pair of rank r1 + r2 + ... a module whose B A is the sum of theirs."""
    return each(lambda *pairs: Pair(torch.cat([p.A for p in pairs], 0), torch.cat([p.B for p in pairs], 1)), *loras)


def truncate(pair: Pair, rank: int) -> tuple[Pair, float]:
    """The best pair of at most `rank` for B A, and the share of squared norm that it discards (0 where nothing is lost).

    QR of both factors, then an SVD of a small core; no (d_out, d_in) matrix is formed. Signs are fixed (the largest
    entry of each left vector is positive), so runs repeat. The singular values go in equal shares to A and B.
    """
    Qb, Rb = torch.linalg.qr(lifted(pair.B))                         # (d_out, m), (m, k) with m = min(d_out, k)
    Qa, Ra = torch.linalg.qr(lifted(pair.A).T)                       # (d_in, n), (n, k) with n = min(d_in, k)
    U, S, Vt = torch.linalg.svd(Rb @ Ra.T, full_matrices=False)      # the core: (m, n)
    B, A = Qb @ U[:, :rank], Vt[:rank] @ Qa.T
    top = B.gather(0, B.abs().argmax(0, keepdim=True))               # (1, rank)
    sign = torch.where(top < 0, -1.0, 1.0).to(B.dtype)
    root = S[:rank].sqrt()
    total = S.square().sum()
    lost = float(S[rank:].square().sum() / total) if total > 0 else 0.0
    return Pair(((root * sign[0])[:, None] * A).to(pair.A.dtype), (B * (sign * root)).to(pair.B.dtype)), lost
