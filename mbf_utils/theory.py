"""SLAO's theory measured on stored adapters: how much each task weighs in the merge, what crossing costs, and the two bounds.

    model after task t:  W0 + s B_t A_t        merged factors or fine-tuned ones, whichever list of Loras is given
    forgetting of i:     ||B_t A_t - B_i A_i||_F   <= ||B_t (A_t - A_i)||_F   + ||(B_t - B_i) A_i||_F
    intransigence at i:  ||B_i A_i - B*_i A*_i||_F <= ||B_i (A_i - A*_i)||_F + ||(B_i - B*_i) A*_i||_F

Source: Qiao and Mahdavi, Merge before Forget (arXiv 2512.23017); under its assumption of a nearly linear model the left-hand
sides control what is forgotten and what is not learned. All norms leave out s. The right-hand sides depend on how a product is
split: (B M, M^-1 A) has the same B A and other bounds. Tables as in geometry.py; `after` is the last task learned, t.
"""
from __future__ import annotations

from typing import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .geometry import dots, grams, padded, paths_of, root, tidy
from .lora import Lora, Pair, each
from .subspaces import orthonormal_rows


def merge_weights(schedule: Sequence[float]) -> np.ndarray:
    """w[t-1, k-1], the weight of the fine-tuned B_k in the merged B after task t, from lambda(1) ... lambda(T):

        B_merge <- B_merge + lambda(t) (B_t - B_merge)   gives   w_k(t) = lambda(k) prod_{k < j <= t} (1 - lambda(j))

    The first B is taken whole: lambda(1) counts as 1, so every row sums to 1.

    >>> merge_weights([1, 2**-0.5, 3**-0.5, 0.5])[-1].round(4)
    array([0.0619, 0.1494, 0.2887, 0.5   ])
    """
    lam = np.array([1.0, *schedule[1:]])                             # (T,)
    T = len(lam)
    return np.array([[lam[k] * np.prod(1 - lam[k + 1:t + 1]) if k <= t else 0.0 for k in range(T)] for t in range(T)])


def increment_weights(weights) -> np.ndarray:
    """c[..., k-1] = sum_{i >= k} w_i, the weight of the increment B_k - B_k-1 (the first one is B_1): old increments keep about 1
    although old B's weigh next to nothing. weights: (..., T).

    >>> increment_weights(merge_weights([1, 2**-0.5, 3**-0.5, 0.5]))[-1].round(4)
    array([1.    , 0.9381, 0.7887, 0.5   ])
    """
    return np.cumsum(np.asarray(weights)[..., ::-1], axis=-1)[..., ::-1]


def measured_weights(tuned: list[Lora], merged: Lora) -> pd.DataFrame:
    """The weight of each task's factor inside the merged one, by least squares on the increments D_k = B_k - B_k-1, B_0 = 0.

        min_c ||B_merged - sum_k c_k D_k||_F,   w_k = c_k - c_k+1;   for A in the same way

    tuned: the fine-tuned adapters of tasks 1..T; merged: the result after task T. `residual` is what the combination misses,
    relative to ||B_merged||: near 0 where the merge is linear in that factor. NaN where the increments do not determine the
    weights (a frozen factor has none). Columns: task, module, factor, weight, increment (c), residual.
    """
    rows = []
    for path in paths_of([*tuned, merged]):
        for factor, X in zip("AB", padded([*tuned, merged], path)):
            *snapshots, whole = X.flatten(1)                         # (T + 1) x (n,)
            c, residual = _coefficients(torch.stack(snapshots), whole)
            w = c - torch.cat([c[1:], c.new_zeros(1)])
            rows += [(k, path, factor, *values, residual) for k, values in enumerate(zip(w.tolist(), c.tolist()), 1)]
    return pd.DataFrame(rows, columns=["task", "module", "factor", "weight", "increment", "residual"])


def _coefficients(snapshots: Tensor, whole: Tensor) -> tuple[Tensor, float]:
    """(c (T,), relative residual) of `whole` (n,) on the increments of `snapshots` (T, n)."""
    D = snapshots.diff(dim=0, prepend=torch.zeros_like(snapshots[:1]))           # (T, n)
    length = D.norm(dim=1, keepdim=True).clamp(min=1e-300)
    solved = torch.linalg.lstsq((D / length).T, whole[:, None], rcond=1e-6, driver="gelsd")
    if solved.rank < len(D):
        return torch.full((len(D),), torch.nan, dtype=D.dtype), float("nan")
    c = solved.solution / length                                     # (T, 1)
    return c[:, 0], float((whole - (c * D).sum(0)).norm() / whole.norm())


def cross_term(tuned: list[Lora], schedule: Sequence[float]) -> pd.DataFrame:
    """What it costs to use the merged B with the last A: the merged B averages B's that were trained with other A's.

        B_merge A_t - sum_i w_i B_i A_i = sum_i w_i B_i (A_t - A_i)

    tuned: fine-tuned adapters; schedule: lambda(1) ... lambda(T). For merges of B alone. Columns: after, module, factor
    ("crossing": this difference, "sum": sum_i w_i B_i A_i, which the merge stands for), value (the Frobenius norm).
    """
    weights, found = torch.from_numpy(merge_weights(schedule)), {}
    for path in paths_of(tuned):
        of_A, of_B = grams(tuned, path)
        squares = []
        for t, w in enumerate(weights):                              # w_i = 0 for i > t
            moved = of_A[t, t] - of_A[t][None] - of_A[:, t][:, None] + of_A      # (T, T, r, r): (A_t - A_i)(A_t - A_j)^T
            squares.append([torch.einsum("i,j,ijab->", w, w, of_B * blocks) for blocks in (moved, of_A)])
        crossing, whole = torch.tensor(squares, dtype=torch.float64).T           # (T,) each
        found |= {(path, "crossing"): root(crossing, whole), (path, "sum"): whole.clamp(min=0).sqrt()}
    return tidy(found, ("after",))


def change_terms(loras: list[Lora], path: str) -> dict[str, Tensor]:
    """One module's terms of the bounds for all pairs of adapters (row: now, column: then), (T, T) each.

        "A": ||B_now (A_now - A_then)||_F,  "B": ||(B_now - B_then) A_then||_F,  "dW": ||B_now A_now - B_then A_then||_F

    From r x r blocks: ||B X||_F^2 is the sum of the entries of (B^T B) * (X X^T).
    """
    of_A, of_B = grams(loras, path)
    own_A, own_B = (blocks.diagonal().movedim(-1, 0) for blocks in (of_A, of_B))             # (T, r, r): A_i A_i^T, B_i^T B_i
    moved_A, moved_B = (own[:, None] + own - blocks - blocks.transpose(0, 1)                 # (A_now - A_then)(A_now - A_then)^T
                        for own, blocks in ((own_A, of_A), (own_B, of_B)))
    scale_A, scale_B = ((now * (own[:, None] + own)).sum((2, 3)) for now, own in ((own_B[:, None], own_A), (own_A, own_B)))
    dot = dots(loras, path)["dW"]
    squares = dot.diagonal()[:, None] + dot.diagonal()
    return {"A": root((own_B[:, None] * moved_A).sum((2, 3)), scale_A), "B": root((moved_B * own_A).sum((2, 3)), scale_B),
            "dW": root(squares - 2 * dot, squares)}


def forgetting_bound(loras: list[Lora]) -> pd.DataFrame:
    """The bound of forgetting term by term, for every task and every later moment. loras: the models after tasks 1..T.

    Columns: after (t), task (i), module, factor, value; factor "A" is ||B_t (A_t - A_i)||_F, "B" is ||(B_t - B_i) A_i||_F, "dW"
    what both together bound, ||B_t A_t - B_i A_i||_F.
    """
    table = tidy({(path, factor): values for path in paths_of(loras) for factor, values in change_terms(loras, path).items()},
                 ("after", "task"))
    return table[table.task < table.after].reset_index(drop=True)


def intransigence_bound(loras: list[Lora], best: list[Lora]) -> pd.DataFrame:
    """The bound of intransigence term by term. loras: the models after tasks 1..T; best: what (B*_i, A*_i) stands for, such as
    the adapters of tasks trained alone. Columns: task, module, factor, value, as in `forgetting_bound`."""
    found = {}
    for path in paths_of([*loras, *best]):
        for factor, values in change_terms([*loras, *best], path).items():
            found[path, factor] = values[:len(loras), len(loras):].diagonal()
    return tidy(found, ("task",))


def over_modules(table: pd.DataFrame) -> pd.DataFrame:
    """A table of norms for the whole model: the root of the sum of squares over the modules, which keeps every inequality."""
    keys = [name for name in table.columns if name not in ("module", "value")]
    sums = table.assign(value=table.value ** 2).groupby(keys, as_index=False).value.sum()
    return sums.assign(value=sums.value ** 0.5)


def beside_forgetting(bound: pd.DataFrame, R) -> pd.DataFrame:
    """Bound and measurement side by side. bound: from `forgetting_bound`; R[t][i]: score on task i after task t, as in metrics.

    Columns: after, task, A, B (the bound's terms for the whole model), bound (their sum), dW (what they bound), forgetting
    (R[i][i] - R[t][i])."""
    R = np.asarray(R, dtype=float)
    return _wide(bound).assign(forgetting=lambda wide: R[wide.task - 1, wide.task - 1] - R[wide.after - 1, wide.task - 1])


def beside_intransigence(bound: pd.DataFrame, R, R_best) -> pd.DataFrame:
    """The same for `intransigence_bound`; intransigence is R_best[i][i] - R[i][i], R_best of the run that `best` came from.
    Columns: task, A, B, bound, dW, intransigence."""
    gap = np.diag(np.asarray(R_best, dtype=float)) - np.diag(np.asarray(R, dtype=float))
    return _wide(bound).assign(intransigence=lambda wide: gap[wide.task - 1])


def _wide(bound: pd.DataFrame) -> pd.DataFrame:
    keys = [name for name in ("after", "task") if name in bound.columns]
    wide = over_modules(bound).pivot(index=keys, columns="factor", values="value").reindex(columns=["A", "B", "dW"])
    wide.insert(2, "bound", wide.A + wide.B)
    return wide.rename_axis(columns=None).reset_index()


def slao_starts(tuned: list[Lora], qr: bool = True) -> list[Lora]:
    """Where SLAO began tasks 2..T: (orthonormal_rows(A_i-1), B_i-1) of the last fine-tuned pair; without QR that pair itself."""
    return [each(lambda pair: Pair(orthonormal_rows(pair.A) if qr else pair.A, pair.B), lora) for lora in tuned[:-1]]


def asymmetry(tuned: list[Lora], starts: list[Lora]) -> pd.DataFrame:
    """How far each factor's change in tasks 2..T lies along its start. The paper derives that B's does less:

        ||(B_i - B_0)^T B_0||_F < ||A_0 (A_i - A_0)^T||_F      (A_0, B_0): the start, from `slao_starts`

    Columns: task, module, factor, value (the norm), cosine (divided by the norms of start and change, so that A and B compare).
    """
    rows = []
    for task, (now, start) in enumerate(zip(tuned[1:], starts, strict=True), 2):
        for path in paths_of([now, start]):
            A, B = padded([start, now], path)
            for factor, (X, after) in {"A": A, "B": B.mT}.items():   # (r, d) each
                along, size = ((after - X) @ X.T).norm(), (after - X).norm() * X.norm()
                rows.append((task, path, factor, float(along), float(along / size)))
    return pd.DataFrame(rows, columns=["task", "module", "factor", "value", "cosine"])
