"""LoRA factors as plain values. Per adapted weight: A (r, d_in), B (d_out, r), delta W = s B A, s = alpha / r.

A stack of LoRAs is one pair of higher rank: B1 A1 + B2 A2 = [B1 B2] [A1; A2]. Torch only; PEFT's names live in adapters.py and
adapter_files.py.
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


def inner(one: Pair, other: Pair) -> Tensor:
    """<B1 A1, B2 A2>, the sum of entrywise products, from r x r matrices alone. A pair with itself: the squared norm."""
    return ((one.B.T @ other.B) * (one.A @ other.A.T)).sum()


def whole(M: Tensor) -> Pair:
    """A dense M (d_out, d_in) as an exact pair: the other factor, on the shorter side, is the identity."""
    d_out, d_in = M.shape
    I = torch.eye(min(d_out, d_in), dtype=M.dtype, device=M.device)
    return Pair(M, I) if d_out <= d_in else Pair(I, M)


def svd(pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """B A = U diag(S) V^T: U (d_out, k), S (k,) descending, V^T (k, d_in), k = min(d_out, d_in, r), float32 or better. Many
    pairs at once have further dimensions in front.

    QR of both factors, then an SVD of a small core; no (d_out, d_in) matrix is formed. Signs are fixed (the largest
    entry of each left vector is positive), so runs repeat.
    """
    Qb, Rb = torch.linalg.qr(lifted(pair.B))                         # (d_out, m), (m, r) with m = min(d_out, r)
    Qa, Ra = torch.linalg.qr(lifted(pair.A).mT)                      # (d_in, n), (n, r) with n = min(d_in, r)
    U, S, Vt = torch.linalg.svd(Rb @ Ra.mT, full_matrices=False)     # the core: (m, n)
    U, Vt = Qb @ U, Vt @ Qa.mT
    top = U.gather(-2, U.abs().argmax(-2, keepdim=True))             # (1, k)
    sign = torch.where(top < 0, -1.0, 1.0).to(U.dtype)
    return U * sign, S, sign.mT * Vt


def truncate(pair: Pair, rank: int | None) -> tuple[Pair, float]:
    """The best pair of at most `rank` for B A, and the share of squared norm that it discards (0 where nothing is lost).

    The singular values go in equal shares to A and B. Without a rank the pair stays as it is.
    """
    if rank is None:
        return pair, 0.0
    U, S, Vt = svd(pair)
    root = S[:rank].sqrt()
    total = S.square().sum()
    lost = float(S[rank:].square().sum() / total) if total > 0 else 0.0
    return Pair((root[:, None] * Vt[:rank]).to(pair.A.dtype), (U[:, :rank] * root).to(pair.B.dtype)), lost


def compact(pair: Pair) -> Pair:
    """The same B A at no more than the rank min(d_out, d_in) that such a matrix can have; nothing is lost but rounding."""
    most = min(pair.B.shape[0], pair.A.shape[1])
    return truncate(pair, most)[0] if pair.A.shape[0] > most else pair


def apart(one: Lora, other: Lora) -> float:
    """||B1 A1 - B2 A2|| / ||B1 A1||, over all modules together."""
    size, cross, rest = (sum(float(inner(x[path], y[path])) for path in one)
                         for x, y in ((one, one), (one, other), (other, other)))
    square = size - 2 * cross + rest
    return (max(square, 0.0) / size) ** 0.5 if size else float(square > 0)
