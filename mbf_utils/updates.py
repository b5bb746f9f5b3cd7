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
AT_ONCE = 2 ** 24                                   # numbers of factors that are worked on together: 128 MB


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
    found: dict[str, list] = {}
    for paths in _alike(changed):                                    # m modules of one shape at once
        pairs = [padded(changed, path) for path in paths]
        A, B = (torch.stack(factors) for factors in zip(*pairs))     # (m, T, r, d_in), (m, T, d_out, r)
        spaces = spans(Pair(A.flatten(0, 1), B.flatten(0, 1)), top)
        rows, columns = (spaces[name].unflatten(0, A.shape[:2]) for name in ("dW rows", "dW columns"))      # (m, T, k, d)
        U, S, Vt = svd(Pair(A, B))                                   # (m, T, d_out, k), (m, T, k), (m, T, k, d_in)
        P, Q = rows[:, 0, :0], columns[:, 0, :0]
        for i in range(1, len(changed)):
            P, Q = _wider(P, rows[:, i - 1]), _wider(Q, columns[:, i - 1])                 # (m, p, d_in), (m, q, d_out)
            inside, energy = _inside(U[:, i], S[:, i], Vt[:, i], P, Q)
            p, q = (space.any(-1).double().sum(-1) / space.shape[-1] for space in (P, Q))
            expected = torch.stack([p, q, p * q, (1 - p) * (1 - q)], -1)
            for path, *values in zip(paths, inside.tolist(), expected.tolist(), energy.tolist()):
                found.setdefault(path, []).extend((i + 1, path, *row, values[2]) for row in zip(PARTS, *values[:2]))
    table = [row for path in paths_of(changed) for row in found.get(path, ())]
    return pd.DataFrame(table, columns=["task", "module", "part", "value", "expected", "energy"])


def _alike(changed: list[Lora]) -> list[list[str]]:
    """The modules, those of one shape and rank together, but no more of them than AT_ONCE numbers hold."""
    found: dict[tuple, list[list[str]]] = {}
    for path in paths_of(changed):
        shape = (*_shape(changed[0][path]), max(len(lora[path].A) for lora in changed))
        groups = found.setdefault(shape, [[]])
        if (len(groups[-1]) + 1) * len(changed) * sum(shape[:2]) * shape[2] > AT_ONCE and groups[-1]:
            groups.append([])
        groups[-1].append(path)
    return [paths for groups in found.values() for paths in groups]


def _wider(Q: Tensor, P: Tensor) -> Tensor:
    """Orthonormal rows of the sums of the spaces of Q (m, q, d) and P (m, k, d), rows orthonormal or zero, and zero rows where
    others of the m have more. The singular values of what Q leaves of P are the sines of their angles."""
    rest = project_out(project_out(P, Q), Q)                         # twice: once leaves rounding as large as the small sines
    _, S, Vt = torch.linalg.svd(rest, full_matrices=False)
    new = S > NEGLIGIBLE                                             # (m, k): the first ones
    return torch.cat([Q, (Vt * new[..., None])[:, :int(new.sum(-1).max())]], 1)


def _inside(U: Tensor, S: Tensor, Vt: Tensor, P: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """(the shares of PARTS (m, 4), ||D||_F^2 (m,)) of D = U diag(S) V^T."""
    whole = S.square().sum(-1)
    left, right = Q @ (U * S[..., None, :]), Vt @ P.mT               # (m, q, k), (m, k, p)
    rows, columns, both = (X.square().sum((-1, -2)) for X in (S[..., None] * right, left, left @ right))
    own = (whole - rows - columns + both).clamp(min=0)
    return torch.stack([rows, columns, both, own], -1) / whole[:, None], whole


def over_modules(table: pd.DataFrame) -> pd.DataFrame:
    """`shares` of the whole model, all modules as one block-diagonal matrix: means weighted by energy. Columns: task, part,
    value, expected."""
    weighted = table.assign(value=table.value * table.energy, expected=table.expected * table.energy)
    sums = weighted.groupby(["task", "part"], sort=False)[["value", "expected", "energy"]].sum(min_count=1)
    return sums[["value", "expected"]].div(sums.energy, axis=0).reset_index()


def _shape(pair: Pair) -> tuple[int, int]:
    return pair.B.shape[0], pair.A.shape[1]
