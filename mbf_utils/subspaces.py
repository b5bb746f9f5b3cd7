"""Row spaces of LoRA factors: orthonormal bases with fixed signs, what they leave free, and the angles between two of them.

QR and SVD run in float32 or better (half types have no QR kernels) and the result goes back to the type it came in.
"""
import torch
from torch import Tensor

from .errors import InputError


def lifted(x: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def orthonormal_rows(A: Tensor) -> Tensor:
    """The orthonormal basis Q^T of A's row space from the QR decomposition of A^T.

        A^T = Q R,   Q <- Q diag(sign(diag R)),   sign(0) := +1

    A: (r, d_in) with r <= d_in. Returns (r, d_in), same dtype and device, rows orthonormal. The signs make the result
    unique for A of full rank; a zero on R's diagonal counts as +1, else its row would vanish.
    Source: SLAO, Algorithm 1 (arXiv 2512.23017); the rule for zero is ours, the paper is silent.

    >>> orthonormal_rows(torch.tensor([[0., -2., 0.], [3., 1., 0.]]))
    tensor([[ 0., -1.,  0.],
            [ 1.,  0.,  0.]])
    """
    r, d_in = A.shape
    if r > d_in:
        raise InputError(f"expected a rank of at most {d_in}, the length of the rows that become orthonormal, found {r}: choose a lower one")
    Q, R = torch.linalg.qr(lifted(A).T)                              # (d_in, r), (r, r)
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0).to(Q.dtype)     # (r,), zero counts as +1
    return (Q * signs).T.contiguous().to(A.dtype) + 0.0              # + 0.0 turns -0.0 into 0.0


def principal_angles(P: Tensor, Q: Tensor) -> Tensor:
    """Principal angles between the row spaces of P (p, d) and Q (q, d), both of full row rank: min(p, q) radians, ascending.

    Small angles come from the sine (singular values of Q - Q P^T P), large ones from the cosine (singular values of
    P Q^T): arccos alone cannot tell angles below about 1e-4 from zero in float32. Source: Bjorck and Golub (1973).
    """
    if P.shape[0] < Q.shape[0]:
        P, Q = Q, P
    P, Q = orthonormal_rows(lifted(P)), orthonormal_rows(lifted(Q))
    cosines = torch.linalg.svdvals(P @ Q.T)                          # (q,) descending: angles ascending
    sines = torch.linalg.svdvals(Q - (Q @ P.T) @ P).flip(0)          # (q,) ascending: angles ascending
    return torch.where(cosines ** 2 > 0.5, sines.arcsin(), cosines.arccos())     # rounding past 1 is on the side not taken


def project_out(X: Tensor, Q: Tensor) -> Tensor:
    """X (m, d) without its part in the row space of Q (k, d), rows orthonormal or zero: X - X Q^T Q."""
    return X - (X @ Q.mT) @ Q


def complement(Q: Tensor) -> Tensor:
    """Orthonormal rows (d - k, d) of all that Q (k, d), rows orthonormal, leaves free."""
    return torch.linalg.qr(lifted(Q).T, mode="complete").Q[:, Q.shape[0]:].T.to(Q.dtype)


def directions(D: Tensor, count: int, Q: Tensor | None = None) -> Tensor:
    """The `count` directions along which D (m, d) has the most energy: its first right singular vectors as rows (count, d).

    With Q (k, d), rows orthonormal: those of D - D Q^T Q, orthogonal to Q even where little of D is left. Signs are fixed:
    the largest entry of each row is positive. Of a symmetric positive matrix they are the first eigenvectors.
    """
    N = None if Q is None else complement(lifted(Q))                 # (d - k, d): what is searched; None: everything
    free = D.shape[1] if N is None else len(N)
    if count > free:
        raise InputError(f"expected {count} free directions, found {free} of {D.shape[1]}: choose a lower rank")
    V = torch.linalg.svd(lifted(D) if N is None else lifted(D) @ N.T, full_matrices=D.shape[0] < count).Vh[:count]
    V = V if N is None else V @ N
    return (V * torch.where(V.gather(1, V.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0).to(V.dtype)).to(D.dtype)


def widen(Q: Tensor | None, D: Tensor, energy: float) -> Tensor:
    """Q (k, d), rows orthonormal, and the fewest further directions with which it holds the share `energy` of ||D||_F^2.

        ||D - D Q'^T Q'||_F^2 <= (1 - energy) ||D||_F^2,   added are the first right singular vectors of D - D Q^T Q

    D: (m, d). Nothing is added where Q holds enough; with energy = 1 all that D reaches, up to rounding. Source: gradient
    projection memory, Saha et al., ICLR 2021 (arXiv 2103.09762).
    """
    N = None if Q is None else complement(lifted(Q))                 # (d - k, d)
    Q = D.new_zeros(0, D.shape[1]) if Q is None else Q
    D = lifted(D)
    _, S, Vt = torch.linalg.svd(D if N is None else D @ N.T, full_matrices=False)
    left = S.square().flip(0).cumsum(0).flip(0)                      # left[j]: what would remain after j more directions
    rounding = (max(D.shape) * torch.finfo(D.dtype).eps) ** 2
    more = int((left > max(1 - energy, rounding) * D.square().sum()).sum())
    return torch.cat([Q, (Vt[:more] if N is None else Vt[:more] @ N).to(Q.dtype)])


def energy(A: Tensor, S: Tensor) -> Tensor:
    """a S a^T of every row a of A (r, n), S (n, n) symmetric and positive: (r,)."""
    return ((A @ S) * A).sum(1).clamp_min(0)


def contrast(S_new: Tensor, S_old: Tensor, count: int, ridge: float = 0.0) -> Tensor:
    """Orthonormal rows (count, n) on the directions of the largest u^T S_new u / u^T S_old u; both (n, n), symmetric.

    S_old has to be positive definite, or becomes so by `ridge` times its mean diagonal on the diagonal. With S_old = L L^T they
    are U = L^-T V, V the first eigenvectors of L^-1 S_new L^-T.
    """
    mean = S_old.diagonal().mean()
    L = torch.linalg.cholesky(S_old + ridge * mean.expand(len(S_old)).diag())
    half = torch.linalg.solve_triangular(L, S_new, upper=False)                  # L^-1 S_new
    V = directions(torch.linalg.solve_triangular(L, half.T, upper=False), count) # rows
    return orthonormal_rows(torch.linalg.solve_triangular(L.T, V.T, upper=True).T)
