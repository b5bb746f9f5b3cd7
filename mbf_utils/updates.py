"""What one task itself changed: where in the model, and how much of it lies where earlier tasks had been already.

    D_i = B_i A_i - B_i^0 A_i^0        (A_i^0, B_i^0): where training of task i began; (A_i, B_i): where it ended

D_i is a pair of rank 2r, so the tables of geometry.py take it as it is. Norms leave out s. Tables are float64, one row a
measurement, as there.
"""
from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from .geometry import NEGLIGIBLE, drift, norms, padded, paths_of, ranks, spans, spectra
from .lora import Lora, Pair, each, stack, svd
from .subspaces import project_out

PARTS = ("rows", "columns", "both", "own")


def updates(tuned: list[Lora], starts: list[Lora]) -> list[Lora]:
    """D_1 ... D_T as pairs [A; A^0], [B, -B^0]. tuned: what training left; starts: where it began."""
    return [stack(now, each(lambda pair: Pair(pair.A, -pair.B), then)) for now, then in zip(tuned, starts, strict=True)]


def place(path: str) -> tuple[int, str, str]:
    """(layer, part, kind) of a module path. The layer is its first number, 0 where there is none; the part is what follows.

    >>> place("model.layers.2.self_attn.q_proj"), place("model.layers.0.mlp.up_proj")
    ((2, 'attention', 'q_proj'), (0, 'MLP', 'up_proj'))
    """
    names = path.split(".")
    at = next((k for k, name in enumerate(names) if name.isdigit()), None)
    inner = names[at + 1:] if at is not None else names
    above = ".".join(inner[:-1])
    part = next((part for mark, part in (("att", "attention"), ("mlp", "MLP"), ("feed", "MLP")) if mark in above), "other")
    return int(names[at]) if at is not None else 0, part, names[-1]


def placement(changed: list[Lora], models: list[Lora], weights: dict[str, Tensor] | None = None,
              scaling: float = 1.0) -> pd.DataFrame:
    """Which modules learn, and which of them move on afterwards.

        learned  ||s D_i||_F                      what task i changed
        drift    ||s (dW_T - dW_i)||_F            how far the model went from where task i had left it, T the last task
        effective                                 effective rank of D_i, at most 2r

    changed: from `updates`; models: the adapters after tasks 1..T ("result"). weights: W0 by module path; with them both norms
    are divided by ||W0||_F, so that modules of other shapes compare. Columns: task, module, layer, part, kind, learned, drift,
    effective.
    """
    size = {path: scaling / (float(weights[path].detach().double().norm()) if weights else 1.0) for path in paths_of(changed)}
    far = drift(models)
    far = far[(far.factor == "dW") & (far.task_j == len(models))].set_index(["task_i", "module"]).value
    learned = norms(changed)
    learned = learned[learned.factor == "dW"].set_index(["task", "module"]).value
    used = ranks(spectra(changed)).set_index(["task", "module"]).effective
    rows = [(task, path, *place(path), learned[task, path] * size[path], far[task, path] * size[path], used[task, path])
            for task, lora in enumerate(changed, 1) for path in lora]
    return pd.DataFrame(rows, columns=["task", "module", "layer", "part", "kind", "learned", "drift", "effective"])


def shares(changed: list[Lora], top: int | None = None) -> pd.DataFrame:
    """How much of each task's update lies in the span of the earlier ones, and how much is its own.

    P (p, d_in), Q (d_out, q): orthonormal bases of the sums of the row spaces and of the column spaces of D_1 ... D_i-1;
    shares of ||D_i||_F^2, and what a random update would have (turned at random on both sides):

        rows     ||D_i P^T||^2                         p / d_in
        columns  ||Q^T D_i||^2                         q / d_out
        both     ||Q^T D_i P^T||^2                     pq / (d_in d_out)
        own      ||(I - Q Q^T) D_i (I - P^T P)||^2     (1 - p / d_in) (1 - q / d_out)

    top: of each earlier update only so many of its strongest directions. changed: from `updates`. Columns: task (from 2),
    module, part, value, expected, energy (||D_i||_F^2). NaN for a zero update.
    """
    rows = []
    for path in paths_of(changed):
        pair = padded(changed, path)
        found = spans(pair, top)                                     # {"dW rows": (T, k, d_in), "dW columns": (T, k, d_out)}
        U, S, Vt = svd(pair)                                         # (T, d_out, k), (T, k), (T, k, d_in)
        d_out, d_in = _shape(changed[0][path])
        P, Q = found["dW rows"][0, :0], found["dW columns"][0, :0]
        for i in range(1, len(changed)):
            P, Q = _wider(P, found["dW rows"][i - 1]), _wider(Q, found["dW columns"][i - 1])     # (p, d_in), (q, d_out)
            inside = _inside(U[i], S[i], Vt[i], P, Q)
            p, q = len(P) / d_in, len(Q) / d_out
            expected = (p, q, p * q, (1 - p) * (1 - q))
            rows += [(i + 1, path, part, *values, inside[1]) for part, *values in zip(PARTS, inside[0], expected)]
    return pd.DataFrame(rows, columns=["task", "module", "part", "value", "expected", "energy"])


def _wider(Q: Tensor, P: Tensor) -> Tensor:
    """Orthonormal rows of the sum of the spaces of Q (q, d) and P (k, d), rows orthonormal; zero rows of P count for nothing. The
    singular values of what Q leaves of P are the sines of their angles."""
    rest = project_out(project_out(P, Q), Q)                         # twice: once leaves rounding as large as the small sines
    _, S, Vt = torch.linalg.svd(rest, full_matrices=False)
    return torch.cat([Q, Vt[S > NEGLIGIBLE]])


def _inside(U: Tensor, S: Tensor, Vt: Tensor, P: Tensor, Q: Tensor) -> tuple[tuple[float, ...], float]:
    """(the shares of PARTS, ||D||_F^2) of D = U diag(S) V^T."""
    whole = S.square().sum()
    left, right = Q @ (U * S), Vt @ P.T                              # (q, k), (k, p)
    rows = (S[:, None] * right).square().sum()
    columns, both = left.square().sum(), (left @ right).square().sum()
    own = (whole - rows - columns + both).clamp(min=0)
    return tuple((part / whole).item() for part in (rows, columns, both, own)), whole.item()


def over_modules(table: pd.DataFrame) -> pd.DataFrame:
    """`shares` of the whole model, all modules as one block-diagonal matrix: means weighted by energy. Columns: task, part,
    value, expected."""
    weighted = table.assign(value=table.value * table.energy, expected=table.expected * table.energy)
    sums = weighted.groupby(["task", "part"], sort=False)[["value", "expected", "energy"]].sum(min_count=1)
    return sums[["value", "expected"]].div(sums.energy, axis=0).reset_index()


def _shape(pair: Pair) -> tuple[int, int]:
    return pair.B.shape[0], pair.A.shape[1]
