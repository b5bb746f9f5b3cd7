"""Row spaces of LoRA factors: an orthonormal basis with fixed signs, and the angles between two row spaces.

QR and SVD run in float32 or better (half types have no QR kernels) and the result goes back to the type it came in.
"""
import torch
from torch import Tensor


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
        raise ValueError(f"{r} rows of length {d_in} cannot be orthonormal: choose a rank of at most {d_in}")
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
