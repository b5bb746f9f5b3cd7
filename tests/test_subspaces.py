"""Row spaces: the laws of the orthonormal basis and of the angles, beside a Gram-Schmidt twin and scipy."""
import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from tiny import widened_by_hand

import mbf_utils
from mbf_utils.errors import InputError
from mbf_utils.subspaces import complement, directions, orthonormal_rows, principal_angles, project_out, widen

SHAPES = [(1, 1), (1, 6), (3, 8), (5, 5), (8, 64)]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gram_schmidt(A):
    """Row after row, minus its parts along the rows before: R's diagonal, a norm, is positive."""
    rows = []
    for a in np.asarray(A, dtype=float):
        for _ in range(2):                          # twice is enough
            for q in rows:
                a = a - (a @ q) * q
        rows.append(a / np.linalg.norm(a))
    return np.array(rows)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_rows_are_those_of_gram_schmidt(shape):
    for seed in range(5):
        A = normal(*shape, seed=seed)
        np.testing.assert_allclose(orthonormal_rows(A).numpy(), gram_schmidt(A.numpy()), atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_rows_are_orthonormal_and_span_the_row_space(shape):
    A = normal(*shape)
    Q = orthonormal_rows(A)
    torch.testing.assert_close(Q @ Q.T, torch.eye(len(A), dtype=A.dtype))
    torch.testing.assert_close(A @ Q.T @ Q, A)                       # A lies in the span of Q


@pytest.mark.parametrize("flips", [(1, -1, 1), (-1, -1, -1), (-1, 1, 1)])
def test_the_result_does_not_depend_on_the_signs_that_qr_returns(monkeypatch, flips):
    A, qr = normal(3, 8), torch.linalg.qr
    expected = orthonormal_rows(A)
    signs = torch.tensor(flips, dtype=A.dtype)

    def flipped(x):
        Q, R = qr(x)
        return Q * signs, R * signs[:, None]

    monkeypatch.setattr(torch.linalg, "qr", flipped)
    torch.testing.assert_close(orthonormal_rows(A), expected)


@pytest.mark.parametrize("d", [2, 5])
def test_a_zero_on_the_diagonal_counts_as_plus_one(monkeypatch, d):
    for zero in (0.0, -0.0):
        monkeypatch.setattr(torch.linalg, "qr", lambda x: (torch.eye(d, 2), torch.tensor([[zero, 1.0], [0.0, -1.0]])))
        assert torch.equal(orthonormal_rows(torch.ones(2, d)), torch.eye(2, d) * torch.tensor([[1.0], [-1.0]]))


@pytest.mark.parametrize("A", [torch.zeros(3, 5), torch.ones(3, 5), torch.eye(3, 5)[[0, 0, 1]], torch.zeros(1, 1)])
def test_a_rank_deficient_input_still_gives_orthonormal_rows(A):
    Q = orthonormal_rows(A)
    torch.testing.assert_close(Q @ Q.T, torch.eye(len(A)))
    torch.testing.assert_close(A @ Q.T @ Q, A)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_idempotent_and_ignores_positive_scale(shape):
    Q = orthonormal_rows(normal(*shape))
    torch.testing.assert_close(orthonormal_rows(Q), Q)
    torch.testing.assert_close(orthonormal_rows(7 * normal(*shape)), Q)


@pytest.mark.parametrize("dtype, error", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_the_type_stays_and_with_it_the_precision(dtype, error):
    A = normal(4, 16).to(dtype)
    Q = orthonormal_rows(A)
    assert Q.dtype == dtype and Q.is_contiguous()
    np.testing.assert_allclose(Q.double().numpy(), gram_schmidt(A.double().numpy()), atol=error)
    assert (Q.double() @ Q.double().T - torch.eye(4)).abs().max() < 4 * error


def test_half_types_are_computed_in_float32():
    A = normal(4, 16).half()
    assert torch.equal(orthonormal_rows(A), orthonormal_rows(A.float()).half())


def test_more_rows_than_columns_cannot_be_orthonormal():
    with pytest.raises(InputError, match="expected a rank of at most 3.*found 4"):
        orthonormal_rows(torch.ones(4, 3))


@pytest.mark.parametrize("p, q", [(3, 3), (1, 4), (4, 2), (5, 5)])
@pytest.mark.parametrize("dtype, error", [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_principal_angles_are_scipys_ascending(p, q, dtype, error):
    for seed in range(5):
        P, Q = normal(p, 12, seed=seed, dtype=dtype), normal(q, 12, seed=seed + 100, dtype=dtype)
        angles = principal_angles(P, Q)
        assert angles.shape == (min(p, q),) and angles.dtype == dtype
        assert (angles.diff() >= 0).all()
        truth = scipy.linalg.subspace_angles(P.double().numpy().T, Q.double().numpy().T)[::-1]
        np.testing.assert_allclose(angles.numpy(), truth, atol=error)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-5, 1e-3, 0.5, np.pi / 4, 1.0, np.pi / 2 - 1e-5, np.pi / 2])
def test_a_known_angle_is_found_in_float32(angle):
    """Two planes of R^4 with one line in common and a rotation by `angle` between the other two."""
    P = torch.eye(4, dtype=torch.float64)[:2]
    Q = torch.tensor([[1, 0, 0, 0], [0, np.cos(angle), np.sin(angle), 0]])
    mix = torch.tensor([[2.0, 1.0], [-1.0, 3.0]], dtype=torch.float64)                      # another basis of the same plane
    found = principal_angles((mix @ P).float(), (mix @ Q).float())
    np.testing.assert_allclose(found.numpy(), [0, angle], rtol=1e-6, atol=3e-7)


def test_angles_are_symmetric_and_vanish_inside_a_subspace():
    P, Q = normal(2, 9), normal(4, 9, seed=1)
    torch.testing.assert_close(principal_angles(P, Q), principal_angles(Q, P))
    assert principal_angles(Q[1:3], Q).max() < 1e-14


def test_half_types_have_angles_too():
    P, Q = normal(2, 9).half(), normal(2, 9, seed=1).half()
    assert torch.equal(principal_angles(P, Q), principal_angles(P.float(), Q.float()))


@pytest.mark.parametrize("k, d", [(0, 4), (1, 4), (3, 8), (5, 5)])
def test_a_space_and_its_complement_are_everything(k, d):
    Q = orthonormal_rows(normal(k, d)) if k else torch.zeros(0, d, dtype=torch.float64)
    N = complement(Q)
    both = torch.cat([Q, N])
    torch.testing.assert_close(both @ both.T, torch.eye(d, dtype=torch.float64))
    X = normal(6, d, seed=1)
    outside = project_out(X, Q)
    torch.testing.assert_close(outside, X @ N.T @ N)
    torch.testing.assert_close(outside @ Q.T, torch.zeros(6, k, dtype=torch.float64))
    torch.testing.assert_close(project_out(outside, Q), outside)
    torch.testing.assert_close(X, outside + X @ Q.T @ Q)


@pytest.mark.parametrize("m, d", [(12, 8), (8, 8), (3, 8)])
@pytest.mark.parametrize("count", [1, 3])
def test_directions_are_the_first_right_singular_vectors_with_their_largest_entry_positive(m, d, count):
    for seed in range(5):
        D = normal(m, d, seed=seed)
        V = directions(D, count)
        truth = np.linalg.svd(D.numpy())[2][:count]
        np.testing.assert_allclose(np.abs((V.numpy() * truth).sum(1)), 1)
        assert (V.gather(1, V.abs().argmax(1, keepdim=True)) > 0).all()
        Q = orthonormal_rows(normal(2, d, seed=seed + 50))
        V = directions(D, count, Q)
        truth = np.linalg.svd((D - D @ Q.T @ Q).numpy())[2][:count]
        energy = np.linalg.norm(D.numpy() @ truth.T)
        assert float((D @ V.T).norm()) == pytest.approx(energy)      # no other directions off Q have more
        torch.testing.assert_close(V @ V.T, torch.eye(count, dtype=D.dtype))
        torch.testing.assert_close(V @ Q.T, torch.zeros(count, 2, dtype=D.dtype))


def test_directions_are_orthogonal_to_q_even_where_nothing_is_left():
    Q = orthonormal_rows(normal(3, 9)).float()
    for D in (torch.zeros(4, 9), normal(4, 3).float() @ Q, normal(1, 9).float()):
        V = directions(D, 4, Q)
        torch.testing.assert_close(V @ V.T, torch.eye(4))
        assert (V @ Q.T).abs().max() < 1e-6
    with pytest.raises(InputError, match="expected 7 free directions, found 6 of 9: choose a lower rank"):
        directions(torch.ones(4, 9), 7, Q)
    assert directions(normal(4, 9).half(), 2).dtype == torch.float16


@pytest.mark.parametrize("share", [0.3, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("k", [0, 1, 4])
@pytest.mark.parametrize("m", [20, 5])
def test_widening_is_gradient_projection_memory(share, k, m):
    for seed in range(4):
        D = normal(m, 10, seed=seed)
        Q = orthonormal_rows(normal(k, 10, seed=seed + 50)) if k else torch.zeros(0, 10, dtype=torch.float64)
        wide = widen(Q, D, share)
        truth = widened_by_hand(Q.numpy().T, D.numpy().T, share)
        assert wide.shape == truth.T.shape and torch.equal(wide[:k], Q)
        np.testing.assert_allclose((wide.T @ wide).numpy(), truth @ truth.T, atol=1e-10)
        held = float(1 - project_out(D, wide).square().sum() / D.square().sum())
        assert held >= share - 1e-12
        assert len(wide) == k or float(1 - project_out(D, wide[:-1]).square().sum() / D.square().sum()) < share
        assert torch.equal(widen(wide, D, share), wide)              # it holds enough: nothing is added
    assert torch.equal(widen(None, D, share), widen(torch.zeros(0, 10, dtype=torch.float64), D, share))


def test_widening_to_everything_takes_what_is_there_and_no_rounding():
    D = (normal(12, 3) @ normal(3, 10, seed=1)).float()              # rank 3
    wide = widen(None, D, 1.0)
    assert wide.shape == (3, 10)
    torch.testing.assert_close(widen(wide, D, 1.0), wide)
    faint = D + 1e-3 * normal(12, 10, seed=2).float()
    full = widen(wide, faint, 1.0)                                   # what is added is a thousand times smaller
    torch.testing.assert_close(full @ full.T, torch.eye(10), atol=1e-6, rtol=0)
    assert torch.equal(widen(full, faint, 1.0), full) and len(widen(None, torch.zeros(4, 6), 1.0)) == 0


def with_examples():
    folder = Path(mbf_utils.__file__).parent
    for info in pkgutil.walk_packages([str(folder)], "mbf_utils."):
        file = folder.joinpath(*info.name.split(".")[1:])
        file = file / "__init__.py" if info.ispkg else file.with_suffix(".py")
        if ">>>" in file.read_text(encoding="utf-8"):
            yield info.name


@pytest.mark.parametrize("name", with_examples())
def test_the_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch, "np": np})
    assert result.attempted and not result.failed
