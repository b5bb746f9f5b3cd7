"""KnOTS: merge the updates in a basis that they share. Stoica et al., "Model Merging with SVD to Tie the Knots", ICLR 2025,
arXiv 2410.19735.

    [tau_1 ... tau_t] = U S [V_1^T ... V_t^T],   tau_k = B_k A_k (d_out, d_in), side by side: (d_out, t d_in)
    P = TIES(S V_1^T, ..., S V_t^T),   delta W = s lambda U P

U is a basis of all the outputs, and the parts S V_k^T = U^T tau_k are the updates in its coordinates. Singular values (of
B A, without s) up to 1e-5 are dropped. density = 1 (no trimming) and lambda = 0.5 are the released settings for Llama-3-8B.

Factored: with [B_1 ... B_t] = Q [R_1 ... R_t], U = Q times the left vectors of [R_1 A_1 ... R_t A_t] (at most t r rows), and
the parts are (U^T B_k) A_k. Ours: trimmed within each module; cut to rank r (see pool.py).
"""
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..fields import number
from ..lora import Pair
from ..method import Card, Task
from ..subspaces import lifted
from .pool import Pool
from .ties import ties


@dataclass
class KnOTS(Pool):
    weight: float = number(0.5, 0)
    density: float = number(1.0, above=0, most=1)

    about: ClassVar[Card] = Card("KnOTS", "Stoica et al., ICLR 2025, arXiv 2410.19735", "merging", "adapted",
                                 "cut to rank r; the paper keeps the merged update whole", memory="linear", merges="independent")

    def merge(self, pairs: list[Pair], counts: list[int], task: Task, path: str) -> Pair:
        A, B = [lifted(pair.A) for pair in pairs], [lifted(pair.B) for pair in pairs]
        Q, R = torch.linalg.qr(torch.cat(B, 1))                      # (d_out, m), (m, t r) with m = min(d_out, t r)
        parts = R.split([b.shape[1] for b in B], 1)                  # R_k (m, r)
        U, S, _ = torch.linalg.svd(torch.cat([r @ a for r, a in zip(parts, A)], 1), full_matrices=False)
        U = Q @ U[:, :max(1, int((S > 1e-5).sum()))]                 # (d_out, k)
        P = ties([(U.T @ b) @ a for a, b in zip(A, B)], counts, self.density)    # (k, d_in)
        return Pair(P.to(pairs[0].A.dtype), U.to(pairs[0].B.dtype))
