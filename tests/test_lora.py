"""LoRA factors: stacks and truncation, beside the dense matrices that the code never forms."""
import pytest
import torch
from tiny import SITES, random_lora

from mbf_utils.lora import Lora, Pair, apart, compact, copied, each, inner, stack, svd, truncate, whole

SHAPES = [(3, 9, 5), (1, 4, 4), (6, 4, 9), (8, 3, 3), (5, 5, 1)]     # rank, d_in, d_out; also ranks above a side


def normal(rank, d_in, d_out, seed=0, dtype=torch.float64) -> Pair:
    return random_lora({"": (d_in, d_out)}, rank, seed, dtype)[""]


def dense(pair: Pair):
    return pair.B @ pair.A


def test_each_goes_module_by_module():
    X, Y = random_lora(seed=1), random_lora(seed=2)
    out = each(lambda x, y: Pair(x.A - y.A, x.B + y.B), X, Y)
    assert list(out) == list(X)
    for path in X:
        assert torch.equal(out[path].A, X[path].A - Y[path].A) and torch.equal(out[path].B, X[path].B + Y[path].B)


def test_a_copy_is_detached_and_keeps_its_values():
    live: Lora = {path: Pair(*(torch.nn.Parameter(factor.clone()) for factor in pair)) for path, pair in random_lora().items()}
    copy = copied(live)
    for path, pair in random_lora().items():
        for original, kept, value in zip(live[path], copy[path], pair):
            assert type(kept) is torch.Tensor and not kept.requires_grad
            original.data.add_(1.0)
            assert torch.equal(kept, value)


@pytest.mark.parametrize("ranks", [(3,), (3, 3), (1, 4, 2)])
def test_the_product_of_a_stack_is_the_sum_of_products(ranks):
    loras = [random_lora(rank=rank, seed=k) for k, rank in enumerate(ranks)]
    for path, pair in stack(*loras).items():
        assert pair.A.shape == (sum(ranks), SITES[path][0]) and pair.B.shape == (SITES[path][1], sum(ranks))
        torch.testing.assert_close(dense(pair), sum(dense(lora[path]) for lora in loras))


def test_the_blocks_of_a_stack_keep_their_order():
    first, second = random_lora(rank=2, seed=1), random_lora(rank=3, seed=2)
    for path, pair in stack(first, second).items():
        assert torch.equal(pair.A[:2], first[path].A) and torch.equal(pair.B[:, 2:], second[path].B)


@pytest.mark.parametrize("rank, d_in, d_out", SHAPES)
def test_truncation_is_the_best_approximation_of_its_rank(rank, d_in, d_out):
    """The twin: the SVD of the dense product, cut (Eckart and Young)."""
    pair = normal(rank, d_in, d_out)
    U, S, Vt = torch.linalg.svd(dense(pair), full_matrices=False)
    for cut in range(1, rank + 2):
        short, lost = truncate(pair, cut)
        kept = min(cut, rank, d_in, d_out)
        assert short.A.shape == (kept, d_in) and short.B.shape == (d_out, kept)
        torch.testing.assert_close(dense(short), U[:, :kept] * S[:kept] @ Vt[:kept], atol=1e-10, rtol=0)
        error = (dense(pair) - dense(short)).square().sum() / dense(pair).square().sum()
        assert lost == pytest.approx(float(error), abs=1e-12)


@pytest.mark.parametrize("rank, d_in, d_out", SHAPES)
def test_nothing_is_lost_at_full_rank(rank, d_in, d_out):
    pair = normal(rank, d_in, d_out)
    whole, lost = truncate(pair, rank)
    assert lost == 0.0
    torch.testing.assert_close(dense(whole), dense(pair))


def test_truncation_is_idempotent():
    once, _ = truncate(normal(5, 9, 8), 3)
    twice, lost = truncate(once, 3)
    assert lost == 0.0
    torch.testing.assert_close(twice, once)


def test_truncation_depends_on_the_product_alone():
    """Another pair of the same product, of other signs or of another basis inside, gives the same factors."""
    pair = normal(4, 9, 8)
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected, _ = truncate(pair, 2)
    for G in (-torch.eye(4, dtype=torch.float64), mix):
        torch.testing.assert_close(truncate(Pair(G @ pair.A, pair.B @ G.inverse()), 2)[0], expected)


def test_signs_are_fixed_and_singular_values_shared_evenly():
    pair = normal(4, 9, 8)
    short, _ = truncate(pair, 3)
    assert (short.B.gather(0, short.B.abs().argmax(0, keepdim=True)) > 0).all()
    S = torch.linalg.svdvals(dense(pair))[:3]
    torch.testing.assert_close(short.A @ short.A.T, S.diag())
    torch.testing.assert_close(short.B.T @ short.B, S.diag())


def test_a_zero_pair_and_a_rank_deficient_one_are_cut_without_loss():
    zero = Pair(torch.randn(3, 6), torch.zeros(5, 3))
    short, lost = truncate(zero, 2)
    assert lost == 0.0 and torch.equal(dense(short), torch.zeros(5, 6))
    one = normal(1, 6, 5)
    twice = Pair(torch.cat([one.A, one.A]), torch.cat([one.B, one.B], 1))
    short, lost = truncate(twice, 1)
    assert lost < 1e-20
    torch.testing.assert_close(dense(short), 2 * dense(one))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_truncation_returns_the_type_that_it_got(dtype):
    pair = Pair(*(factor.to(dtype) for factor in normal(4, 9, 8)))
    short, lost = truncate(pair, 2)
    assert short.A.dtype == short.B.dtype == dtype
    exact, exact_lost = truncate(Pair(pair.A.double(), pair.B.double()), 2)
    scale = torch.finfo(dtype).eps * 20
    torch.testing.assert_close(dense(Pair(short.A.double(), short.B.double())), dense(exact), rtol=0, atol=scale * float(dense(exact).abs().max()))
    assert lost == pytest.approx(exact_lost, abs=1e-5)


@pytest.mark.parametrize("rank, d_in, d_out", SHAPES)
def test_the_svd_of_a_pair_is_that_of_its_product(rank, d_in, d_out):
    pair = normal(rank, d_in, d_out)
    U, S, Vt = svd(pair)
    k = min(rank, d_in, d_out)
    assert U.shape == (d_out, k) and S.shape == (k,) and Vt.shape == (k, d_in)
    torch.testing.assert_close(U * S @ Vt, dense(pair))
    torch.testing.assert_close(S, torch.linalg.svdvals(dense(pair))[:k])
    for orthonormal in (U.T @ U, Vt @ Vt.T):
        torch.testing.assert_close(orthonormal, torch.eye(k, dtype=torch.float64))
    assert (U.gather(0, U.abs().argmax(0, keepdim=True)) > 0).all()


def test_the_svd_of_many_pairs_is_that_of_each():
    pairs = [normal(3, 8, 6, seed) for seed in range(4)]
    many = svd(Pair(torch.stack([pair.A for pair in pairs]), torch.stack([pair.B for pair in pairs])))
    for k, pair in enumerate(pairs):
        for found, alone in zip(many, svd(pair)):
            torch.testing.assert_close(found[k], alone, rtol=1e-12, atol=1e-12)


def test_the_inner_product_is_that_of_the_dense_matrices():
    one, other = normal(3, 9, 5, seed=1), normal(2, 9, 5, seed=2)
    torch.testing.assert_close(inner(one, other), (dense(one) * dense(other)).sum())
    torch.testing.assert_close(inner(one, one), dense(one).square().sum())


def test_how_far_apart_two_updates_are_is_that_of_the_dense_matrices():
    one, other = ({"a": normal(3, 9, 5, seed=seed), "b": normal(2, 4, 6, seed=seed + 10)} for seed in (1, 2))
    away = sum((dense(one[path]) - dense(other[path])).square().sum() for path in one)
    size = sum(dense(one[path]).square().sum() for path in one)
    assert apart(one, other) == pytest.approx(float((away / size).sqrt())) and apart(one, one) < 1e-6


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4), (1, 5)])
def test_a_dense_matrix_is_a_pair_to_the_bit(shape):
    M = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pair = whole(M)
    assert torch.equal(dense(pair), M) and pair.A.shape == (min(shape), shape[1])
    same, lost = truncate(pair, None)
    assert same is pair and lost == 0.0


@pytest.mark.parametrize("rank, d_in, d_out", SHAPES + [(40, 7, 6)])
def test_a_compact_pair_is_the_same_product_at_a_rank_that_a_matrix_can_have(rank, d_in, d_out):
    pair = normal(rank, d_in, d_out)
    small = compact(pair)
    torch.testing.assert_close(dense(small), dense(pair))
    assert small.A.shape[0] == min(rank, d_in, d_out)
    assert (small is pair) == (rank <= min(d_in, d_out))             # nothing is computed where nothing is gained
