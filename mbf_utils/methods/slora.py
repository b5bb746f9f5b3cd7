"""SLoRA: after each task its update loses the directions that are foreign to the base. Yang et al., ACL 2026 (long paper 247);
the form for online use, SLoRA-Pre.

    U_c = the first c left singular vectors of B A;  U_0 = the first r of W0
    c* = argmax over c in {0.1 r, 0.2 r, .., r} of ||U_c^T U_0||_F^2;   B A <- its rank c* part;   W <- W + s B A

For nested U_c that norm grows with c, and c* would always be r. The released code compares r columns whatever c: an SVD of the
rank-c part, whose other r - c columns are any frame of what is left. Ours counts them at their mean,

    score(c) = O_c + (r - c) (r - O_c) / (d_out - c),   O_c = ||U_c^T U_0||_F^2

so a direction stays while it lies nearer to the base's than a random one. W is not touched: what was merged is a frozen stack,
and the next task trains a fresh pair beside it. The released code also takes B A without alpha / r; here s stays.
"""
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..lora import Lora, Pair, svd, truncate
from ..method import Card, Task
from ..subspaces import directions
from .inclora import IncLoRA


def scores(U: Tensor, U0: Tensor) -> Tensor:
    """score(c) for c = 1 .. r. U, U0: (d_out, r), columns orthonormal."""
    d_out, r = U.shape
    O, c = (U0.T @ U).square().sum(0).cumsum(0), torch.arange(1, r + 1, device=U.device)
    return O + (r - c) * (r - O) / (d_out - c).clamp_min(1)


@dataclass
class SLoRA(IncLoRA):
    card: ClassVar[Card] = Card("SLoRA", "Yang et al., ACL 2026, long paper 247", "subspaces", "adapted",
                                "columns that the released SVD fills in at random count at their mean, and s = alpha/r is kept",
                                memory="linear")

    def finish(self, tuned: Lora, task: Task) -> Lora:
        def kept(path: str, pair: Pair) -> Pair:
            r = min(pair.A.shape[0], *task.sites[path])
            U0 = directions(task.probe.weight(path).T, r).T          # (d_out, r)
            score = scores(svd(pair)[0], U0.to(pair.B.dtype))
            ranks = sorted({math.ceil(0.1 * j * r) for j in range(1, 11)})
            return truncate(pair, max(ranks, key=lambda c: float(score[c - 1])))[0]
        return super().finish({path: kept(path, pair) for path, pair in tuned.items()}, task)
