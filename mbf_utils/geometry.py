"""The geometry of adapters: spectra, ranks, overlap, angles, cosines, norms, drift, intruder dimensions; as tidy tables.

Everything is read off the factors A (r, d_in) and B (d_out, r): r x r matrices and r x d ones, never d x d (but for intruder
dimensions, which ask about the base weight itself). A list of Loras holds the adapters of tasks 1, 2, ... T; a table has one
row a measurement: task (or task_i, task_j), module, factor, value. The mean over modules: table.groupby([...]).value.mean().

Tables are computed in float64 on the CPU, whatever type the factors came in, module by module, all tasks of a module at once. (All
modules at once take as long, for LAPACK does one matrix after the other, and their number times the memory.) Undefined values (the direction of a zero
matrix) are NaN.
"""
from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.sparse.linalg import svds
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .errors import InputError
from .lora import Lora, Pair, each
from .subspaces import lifted, principal_angles

NEGLIGIBLE = 1e-6                                   # of the largest singular value: below it lies the rounding of float32 factors


def singular_values(pair: Pair, scaling: float = 1.0) -> Tensor:
    """The singular values of scaling * B A, descending: r of them (min(d_out, d_in) where r is more), float32 or better.

    B = Q_b R_b and A^T = Q_a R_a have orthonormal Q's, so B A has the singular values of R_b R_a^T, an r x r matrix.
    A: (..., r, d_in), B: (..., d_out, r). Returns (..., r).

    >>> singular_values(Pair(torch.tensor([[3., 0., 0.], [0., 4., 0.]]), torch.eye(2)), scaling=2.0)
    tensor([8., 6.])
    """
    R_b = torch.linalg.qr(lifted(pair.B), mode="r").R                # (..., r, r)
    R_a = torch.linalg.qr(lifted(pair.A).mT, mode="r").R             # (..., r, r)
    return abs(scaling) * torch.linalg.svdvals(R_b @ R_a.mT)


def effective_rank(values) -> float:
    """exp(-sum_k p_k log p_k) with p = s / sum s: n for n equal singular values, near 1 where one dominates, 0 for a zero matrix.

    Source: Roy and Vetterli, The effective rank, EUSIPCO 2007.
    """
    s = _doubled(values if isinstance(values, Tensor) else torch.tensor(list(values)))
    return float(torch.special.entr(s / s.sum()).sum().exp()) if s.sum() > 0 else 0.0


def stable_rank(values) -> float:
    """||s||^2 / s_max^2, the squared Frobenius norm by the squared spectral norm; 0 for a zero matrix."""
    s = _doubled(values if isinstance(values, Tensor) else torch.tensor(list(values)))
    return float((s / s.max()).square().sum()) if s.max() > 0 else 0.0


def expected_overlap(p, q, d):
    """Mean squared cosine of the min(p, q) principal angles between two random subspaces of R^d: max(p, q) / d.

    A uniformly random P (p, d) has E[P^T P] = (p / d) I, so E ||P Q^T||_F^2 = E tr(P^T P Q^T Q) = p q / d, over min(p, q) angles.
    """
    return np.maximum(p, q) / d


def paths_of(loras: list[Lora]) -> list[str]:
    """The module paths that all adapters have in common, which have to be all of them."""
    if not loras:
        raise InputError("expected at least one adapter, found none")
    shapes = [{path: (pair.A.shape[1], pair.B.shape[0]) for path, pair in lora.items()} for lora in loras]
    for i, found in enumerate(shapes[1:], 2):
        if odd := sorted(path for path in shapes[0].keys() | found.keys() if shapes[0].get(path) != found.get(path)):
            raise InputError(f"expected adapters of the same modules and widths, found a difference between the first and "
                             f"number {i} at {odd[0]}: compare adapters of one base model")
    return list(loras[0])


def padded(loras: list[Lora], path: str) -> Pair:
    """One module's factors of all tasks, A (T, r, d_in) and B (T, d_out, r), float64; zero rows and columns fill up to the
    largest rank, which changes no B A."""
    A, B = ([factor.detach().to("cpu", torch.float64) for factor in factors] for factors in zip(*(lora[path] for lora in loras)))
    return Pair(pad_sequence(A, batch_first=True), pad_sequence([b.mT for b in B], batch_first=True).mT)


def spectra(loras: list[Lora], scaling: float = 1.0) -> pd.DataFrame:
    """Singular values of scaling * B A. Columns: task, module, k (1 = largest), value."""
    return pd.DataFrame([(task, path, k, value) for task, lora in enumerate(loras, 1) for path, pair in lora.items()
                         for k, value in enumerate(singular_values(Pair(*map(_doubled, pair)), scaling).tolist(), 1)],
                        columns=["task", "module", "k", "value"])


def ranks(spectrum: pd.DataFrame) -> pd.DataFrame:
    """How many directions an update uses, from a table of `spectra`. Columns: task, module, rank (singular values that are not
    negligible), effective, stable."""
    rows = []
    for (task, path), group in spectrum.groupby(["task", "module"], sort=False):
        values = group.value.tolist()
        count = sum(value > NEGLIGIBLE * max(values) for value in values)
        rows.append((task, path, count, effective_rank(values), stable_rank(values)))
    return pd.DataFrame(rows, columns=["task", "module", "rank", "effective", "stable"])


def grams(loras: list[Lora], path: str) -> tuple[Tensor, Tensor]:
    """A_i A_j^T and B_i^T B_j of all pairs of tasks, (T, T, r, r) each: all that inner products and norms need."""
    A, B = padded(loras, path)
    return _blocks(A), _blocks(B.mT)


def dots(loras: list[Lora], path: str) -> dict[str, Tensor]:
    """Inner products of the tasks' A's, B's and dW's, each read as one long vector: {"A", "B", "dW"} -> (T, T).

        <A_i, A_j> = tr(A_i A_j^T),   <B_i, B_j> = tr(B_i^T B_j),   <B_i A_i, B_j A_j> = sum of (B_i^T B_j) * (A_i A_j^T)
    """
    of_A, of_B = grams(loras, path)
    traces = [blocks.diagonal(dim1=2, dim2=3).sum(-1) for blocks in (of_A, of_B)]
    return {"A": traces[0], "B": traces[1], "dW": (of_A * of_B).sum((2, 3))}


def norms(loras: list[Lora]) -> pd.DataFrame:
    """Frobenius norms of A, B and dW = B A (without s). Columns: task, module, factor, value."""
    return tidy({(path, factor): dot.diagonal().clamp(min=0).sqrt()
                 for path in paths_of(loras) for factor, dot in dots(loras, path).items()}, ("task",))


def cosines(loras: list[Lora]) -> pd.DataFrame:
    """cos(X_i, X_j) = <X_i, X_j> / (||X_i|| ||X_j||) of the tasks' A's, B's and dW's: the question of the paper's Fig. 1.

    A and B are compared as they are stored: adapters from one random start share it, so their A's look alike before anything
    is learned (`changes` takes the start off). Columns: task_i, task_j, module, factor, value. Source: arXiv 2512.23017.
    """
    found = {}
    for path in paths_of(loras):
        for factor, dot in dots(loras, path).items():                # (T, T)
            length = dot.diagonal().clamp(min=0).sqrt()
            found[path, factor] = dot / (length[:, None] * length)
    return tidy(found, ("task_i", "task_j"))


def drift(loras: list[Lora]) -> pd.DataFrame:
    """||X_i - X_j||_F of the tasks' A's, B's and dW's (without s). Columns: task_i, task_j, module, factor, value."""
    found = {}
    for path in paths_of(loras):
        for factor, dot in dots(loras, path).items():
            squares = dot.diagonal()[:, None] + dot.diagonal()       # (T, T)
            found[path, factor] = root(squares - 2 * dot, squares)
    return tidy(found, ("task_i", "task_j"))


def root(square: Tensor, scale: Tensor) -> Tensor:
    """sqrt(square), where `square` is a difference of terms as large as `scale`: 0 below 1e-14 of it, which is rounding. So a
    distance is known to 1e-7 of the norms, as float32 factors are."""
    return torch.where(square > 1e-14 * scale, square, 0.0).sqrt()


def changes(loras: list[Lora], starts: list[Lora]) -> list[Lora]:
    """(A_i - A_start, B_i - B_start): what training did to each factor, for `cosines`, `norms` and `overlap` by A and B. The
    product of the two differences is not the change of B A: their rows for dW mean nothing."""
    return [each(lambda now, then: Pair(*(_doubled(x) - _doubled(y) for x, y in zip(now, then))), lora, start)
            for lora, start in zip(loras, starts, strict=True)]


def spans(pair: Pair, top: int | None = None) -> dict[str, Tensor]:
    """Orthonormal bases as rows: of A's row space, B's column space and both spaces of dW = B A, strongest direction first.

    pair: A (T, r, d_in), B (T, d_out, r). Returns {"A": (T, k, d_in), "B": (T, k, d_out), "dW rows": (T, k, d_in), "dW columns":
    (T, k, d_out)}; where a matrix has fewer directions that are not negligible, the last rows are zero. top: at most that many.
    At full rank and without `top` the spaces of dW are those of A and B; `top` then asks where dW is strong.
    """
    A, B = pair
    Q_b, R_b = torch.linalg.qr(B)                                    # (T, d_out, k), (T, k, r)
    Q_a, R_a = torch.linalg.qr(A.mT)                                 # (T, d_in, k), (T, k, r)
    U_a, S_a, _ = torch.linalg.svd(R_a, full_matrices=False)
    U_b, S_b, _ = torch.linalg.svd(R_b, full_matrices=False)
    U, S, V = torch.linalg.svd(R_b @ R_a.mT, full_matrices=False)    # the core of dW
    found = {"A": (S_a, Q_a @ U_a), "B": (S_b, Q_b @ U_b), "dW rows": (S, Q_a @ V.mT), "dW columns": (S, Q_b @ U)}
    return {factor: (Q * (S > NEGLIGIBLE * S[:, :1])[:, None, :])[:, :, :top].mT for factor, (S, Q) in found.items()}


def overlap(loras: list[Lora], top: int | None = None) -> pd.DataFrame:
    """Mean squared cosine of the principal angles between the tasks' spaces (see `spans`): 1 = the smaller lies within the
    larger, 0 = orthogonal; `expected` is its mean for random spaces of the same sizes.

        ||P_i P_j^T||_F^2 / min(p_i, p_j),   P (p, d) an orthonormal basis; the phi of LoRA (arXiv 2106.09685, section 7.2)

    Columns: task_i, task_j, module, factor, value, expected.
    """
    found, random = {}, {}
    for path in paths_of(loras):
        for factor, P in spans(padded(loras, path), top).items():    # (T, k, d)
            size = (P != 0).any(-1).sum(-1)                          # (T,): p
            shared = _blocks(P).square().sum((2, 3))                 # (T, T)
            found[path, factor] = shared / torch.minimum(size[:, None], size)
            random[path, factor] = torch.from_numpy(expected_overlap(size[:, None].numpy(), size.numpy(), P.shape[-1]))
    return tidy(found, ("task_i", "task_j")).assign(expected=tidy(random, ("task_i", "task_j")).value)


def angles(one: Lora, other: Lora, top: int | None = None) -> pd.DataFrame:
    """Principal angles between the spaces (see `spans`) of two adapters. Columns: module, factor, k, value (radians)."""
    rows = []
    for path in paths_of([one, other]):
        mine, theirs = (spans(padded([lora], path), top) for lora in (one, other))
        for factor in mine:
            P, Q = (space[factor][0] for space in (mine, theirs))
            P, Q = P[(P != 0).any(1)], Q[(Q != 0).any(1)]            # none where the matrix is zero: no angles
            rows += [(path, factor, k, angle) for k, angle in enumerate(principal_angles(P, Q).tolist(), 1)]
    return pd.DataFrame(rows, columns=["module", "factor", "k", "value"])


def intruders(weights: dict[str, Tensor], loras: list[Lora], scaling: float = 1.0, top: int = 10,
              threshold: float = 0.5) -> pd.DataFrame:
    """Intruder dimensions: left singular vectors y_j of W0 + s B A, among its `top` strongest, that resemble none of W0's, x_i.

        max_i |cos(y_j, x_i)| < threshold.   Shuttleworth et al. 2024, LoRA vs full fine-tuning (arXiv 2410.21228)

    weights: W0 (d_out, d_in) by module path, of as many modules as wanted. Here rank r does not suffice: W0 takes one full SVD a
    module, whose x_i all tasks share (0.4 s at d = 1024, 23 s at d = 4096 on one core), and each task some Lanczos vectors (0.1 s
    and 5 s). Columns: task, module, k (1 = strongest), singular_value, cosine (the largest), intruder.
    """
    rows = []
    for path, W0 in weights.items():
        X = torch.linalg.svd(lifted(W0.detach()), full_matrices=False).U.to("cpu", torch.float64)    # (d_out, min(d_out, d_in))
        for task, lora in enumerate(loras, 1):
            A, B = map(_doubled, lora[path])
            Y, S = _strongest(_doubled(W0) + scaling * (B @ A), top)
            cosine = (Y.T @ X).abs().amax(1).clamp(max=1)            # (top,)
            rows += [(task, path, k, s, c, c < threshold) for k, (s, c) in enumerate(zip(S.tolist(), cosine.tolist()), 1)]
    return pd.DataFrame(rows, columns=["task", "module", "k", "singular_value", "cosine", "intruder"])


def _strongest(W: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first left singular vectors of W (d_out, d_in) as columns (d_out, count), and their singular values."""
    if min(W.shape) <= max(64, 2 * count):
        U, S, _ = torch.linalg.svd(W, full_matrices=False)
        return U[:, :count], S[:count]
    U, S, _ = svds(W.numpy(), k=count, v0=np.ones(min(W.shape)), solver="arpack")        # a fixed start, so runs repeat
    order = np.argsort(-S)
    return torch.from_numpy(U[:, order].copy()), torch.from_numpy(S[order])


def tidy(found: dict[tuple[str, str], Tensor], tasks: tuple[str, ...]) -> pd.DataFrame:
    """{(module, factor): (T,) or (T, T)} as a table; `tasks` names the columns that count the tasks from 1."""
    values = torch.stack(list(found.values())).numpy()               # (K, T) or (K, T, T)
    place, *index = np.indices(values.shape).reshape(values.ndim, -1)
    modules, factors = (np.array(names, dtype=object)[place] for names in zip(*found))
    return pd.DataFrame({name: i + 1 for name, i in zip(tasks, index)}
                        | {"module": modules, "factor": factors, "value": values.ravel()})


def _blocks(X: Tensor) -> Tensor:
    """X_i X_j^T of all pairs of tasks in one product. X: (T, r, d). Returns (T, T, r, r)."""
    T, r, d = X.shape
    flat = X.reshape(T * r, d)
    return (flat @ flat.T).reshape(T, r, T, r).transpose(1, 2)


def _doubled(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64)
