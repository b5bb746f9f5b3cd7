"""Geometry of adapters, beside dense float64 references: every table is checked against d x d matrices and scipy."""
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch
from torch import nn

from mbf_utils import geometry
from mbf_utils.errors import InputError
from mbf_utils.geometry import effective_rank, expected_overlap, singular_values, stable_rank
from mbf_utils.lora import Pair, stack
from mbf_utils.subspaces import orthonormal_rows

SITES = {"q": (12, 10), "v": (7, 9)}                # d_in, d_out


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def lora(seed=0, rank=3, sites=SITES, dtype=torch.float64):
    seeds = range(seed, seed + 100 * len(sites), 100)
    return {path: Pair(normal(rank, d_in, seed=seed, dtype=dtype), normal(d_out, rank, seed=seed + 50, dtype=dtype))
            for seed, (path, (d_in, d_out)) in zip(seeds, sites.items())}


def dense(pair):
    return (pair.B.double() @ pair.A.double()).numpy()


def deficient(pair):
    """The same shapes, one direction less: the last row of A is a sum of the others."""
    return Pair(torch.cat([pair.A[:-1], pair.A[:-1].sum(0, keepdim=True)]), pair.B)


def value(table, **where):
    """The one value of a table at a place."""
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    assert len(table) == 1
    return table.value.item()


class Sizes(torch.overrides.TorchFunctionMode):
    """While open, `seen` collects the number of entries of every tensor that an operation of torch returns."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else [result]:
            self.seen += [item.numel()] if isinstance(item, torch.Tensor) else []
        return result


LORAS = [lora(seed) for seed in range(3)]


# spectra -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(1, 6, 5), (3, 8, 5), (8, 64, 32), (4, 4, 4), (6, 5, 3)])
@pytest.mark.parametrize("scaling", [1.0, 2.5, -0.5])
def test_singular_values_are_those_of_the_dense_product(shape, scaling):
    r, d_in, d_out = shape
    pair = Pair(normal(r, d_in), normal(d_out, r, seed=1))
    found = singular_values(pair, scaling)
    assert found.dtype == torch.float64 and len(found) == min(shape) and (found.diff() <= 0).all()
    np.testing.assert_allclose(found, scipy.linalg.svdvals(scaling * dense(pair))[:r], rtol=1e-12)


@pytest.mark.parametrize("dtype, error", [(torch.float16, 1e-6), (torch.bfloat16, 1e-6), (torch.float32, 1e-6)])
def test_half_types_are_lifted_to_float32(dtype, error):
    pair = Pair(normal(4, 20, dtype=dtype), normal(30, 4, seed=1, dtype=dtype))
    found = singular_values(pair)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, scipy.linalg.svdvals(dense(pair))[:4], rtol=error)


def test_a_batch_of_pairs_has_a_row_of_singular_values_each():
    pairs = [each["q"] for each in LORAS]
    batch = Pair(torch.stack([pair.A for pair in pairs]), torch.stack([pair.B for pair in pairs]))
    torch.testing.assert_close(singular_values(batch), torch.stack([singular_values(pair) for pair in pairs]))


def test_missing_directions_have_singular_value_zero():
    assert singular_values(deficient(LORAS[0]["q"]))[-1] < 1e-14
    assert not singular_values(Pair(normal(3, 5), torch.zeros(4, 3, dtype=torch.float64))).any()


def test_effective_and_stable_rank_on_known_spectra():
    assert effective_rank([2.0, 2, 2, 2]) == pytest.approx(4) and stable_rank([2.0, 2, 2, 2]) == pytest.approx(4)
    assert effective_rank([5.0, 0, 0]) == stable_rank([5.0, 0, 0]) == 1
    assert effective_rank([0.0, 0]) == stable_rank([0.0, 0]) == 0
    s = np.array([3.0, 1])
    assert effective_rank(s) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert stable_rank(s) == pytest.approx(10 / 9)
    for rank in (effective_rank, stable_rank):
        assert rank(torch.tensor([3.0, 1])) == pytest.approx(rank([3, 1])) == pytest.approx(rank([300, 100]))
        assert isinstance(rank(torch.tensor([1.0])), float)
        assert 1 <= rank([5, 2, 0.3, 0.01]) <= 4


def test_spectra_and_ranks_are_tables_of_every_task_and_module():
    adapters = [LORAS[0], {path: deficient(pair) for path, pair in LORAS[1].items()}]
    table = geometry.spectra(adapters, scaling=2.0)
    assert list(table) == ["task", "module", "k", "value"] and len(table) == 2 * 2 * 3
    assert value(table, task=2, module="v", k=1) == pytest.approx(np.linalg.norm(2 * dense(adapters[1]["v"]), 2))
    ranks = geometry.ranks(table).set_index(["task", "module"])
    assert ranks["rank"].to_dict() == {(1, "q"): 3, (1, "v"): 3, (2, "q"): 2, (2, "v"): 2}
    s = scipy.linalg.svdvals(dense(LORAS[0]["v"]))[:3]
    assert ranks.effective[1, "v"] == pytest.approx(effective_rank(s)) and ranks.stable[1, "v"] == pytest.approx(stable_rank(s))
    assert geometry.ranks(geometry.spectra([{"q": Pair(normal(2, 5), torch.zeros(4, 2))}]))["rank"].item() == 0


# norms, cosines, drift ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_norms_cosines_and_drift_are_those_of_the_dense_matrices(dtype):
    adapters = [lora(seed, dtype=dtype) for seed in range(3)]
    norms, cosines, drift = geometry.norms(adapters), geometry.cosines(adapters), geometry.drift(adapters)
    assert list(cosines) == list(drift) == ["task_i", "task_j", "module", "factor", "value"]
    assert len(cosines) == len(drift) == 9 * 2 * 3
    assert list(norms) == ["task", "module", "factor", "value"] and len(norms) == 3 * 2 * 3
    for path in SITES:
        of = {"A": lambda pair: pair.A.double().numpy(), "B": lambda pair: pair.B.double().numpy(), "dW": dense}
        for factor, full in of.items():
            X = [full(adapter[path]) for adapter in adapters]
            for i in range(3):
                assert value(norms, task=i + 1, module=path, factor=factor) == pytest.approx(np.linalg.norm(X[i]), rel=1e-12)
                for j in range(3):
                    at = dict(task_i=i + 1, task_j=j + 1, module=path, factor=factor)
                    cosine = (X[i] * X[j]).sum() / np.linalg.norm(X[i]) / np.linalg.norm(X[j])
                    assert value(cosines, **at) == pytest.approx(cosine, abs=1e-12)
                    assert value(drift, **at) == pytest.approx(np.linalg.norm(X[i] - X[j]), rel=1e-7)


def test_cosines_are_one_and_drift_is_zero_where_nothing_changed():
    same = [LORAS[0], {path: Pair(2 * pair.A, pair.B) for path, pair in LORAS[0].items()}, LORAS[0]]
    assert np.allclose(geometry.cosines(same).value, 1)
    drift = geometry.drift(same)
    assert (drift[(drift.task_i == 1) & (drift.task_j == 3)].value == 0).all() and (drift[drift.factor == "B"].value == 0).all()
    opposite = [LORAS[0], {path: Pair(pair.A, -pair.B) for path, pair in LORAS[0].items()}]
    assert value(geometry.cosines(opposite), task_i=1, task_j=2, module="q", factor="dW") == pytest.approx(-1)


def test_a_small_drift_is_seen():
    moved = {path: Pair(pair.A, pair.B + 1e-5) for path, pair in LORAS[0].items()}
    at = dict(task_i=2, task_j=1, module="q", factor="B")
    assert value(geometry.drift([LORAS[0], moved]), **at) == pytest.approx(1e-5 * 30 ** 0.5, rel=1e-3)


def test_a_zero_update_has_no_direction():
    zero = {path: Pair(pair.A, torch.zeros_like(pair.B)) for path, pair in LORAS[0].items()}
    table = geometry.cosines([zero, LORAS[1]])
    assert table[(table.task_i == 1) & (table.factor != "A")].value.isna().all()
    assert table[table.factor == "A"].value.notna().all()
    assert set(geometry.angles(zero, LORAS[1]).factor) == set(geometry.angles(LORAS[1], zero).factor) == {"A"}
    overlap = geometry.overlap([zero, LORAS[1]])
    assert overlap[(overlap.task_i == 1) & (overlap.factor != "A")].value.isna().all()


def test_ranks_may_differ_between_tasks():
    """A stack of two tasks beside its first part: dW's inner product is that of the dense matrices."""
    both = stack(LORAS[0], LORAS[1])
    one, two = dense(LORAS[0]["q"]), dense(both["q"])
    cosines, drift = geometry.cosines([LORAS[0], both]), geometry.drift([LORAS[0], both])
    at = dict(task_i=1, task_j=2, module="q")
    assert value(cosines, **at, factor="dW") == pytest.approx((one * two).sum() / np.linalg.norm(one) / np.linalg.norm(two))
    assert value(drift, **at, factor="dW") == pytest.approx(np.linalg.norm(dense(LORAS[1]["q"])))
    overlap = geometry.overlap([LORAS[0], both])
    assert value(overlap, **at, factor="A") == pytest.approx(1)      # the first part lies within the stack
    assert overlap[(overlap.module == "q") & (overlap.task_j == 2)].expected.max() == pytest.approx(6 / 10)


def test_changes_take_the_start_off():
    start = lora(9)
    after = [{path: Pair(start[path].A + each[path].A, start[path].B - each[path].B) for path in SITES} for each in LORAS]
    found = geometry.changes(after, [start] * 3)
    for change, each in zip(found, LORAS):
        torch.testing.assert_close(change["q"], Pair(each["q"].A, -each["q"].B))


# subspaces ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ranks", [(3, 3), (2, 4), (4, 1)])
def test_overlap_and_angles_are_scipys(ranks):
    adapters = [lora(seed, rank) for seed, rank in enumerate(ranks)]
    overlap, angles = geometry.overlap(adapters), geometry.angles(*adapters)
    assert list(overlap) == ["task_i", "task_j", "module", "factor", "value", "expected"]
    assert list(angles) == ["module", "factor", "k", "value"]
    for path, (d_in, d_out) in SITES.items():
        one, two = (adapter[path] for adapter in adapters)
        columns = {"A": (one.A.T, two.A.T), "B": (one.B, two.B),
                   "dW rows": tuple(scipy.linalg.orth(dense(p).T) for p in (one, two)),
                   "dW columns": tuple(scipy.linalg.orth(dense(p)) for p in (one, two))}
        for factor, (P, Q) in columns.items():
            truth = np.sort(scipy.linalg.subspace_angles(np.asarray(P), np.asarray(Q)))
            found = angles[(angles.module == path) & (angles.factor == factor)]
            np.testing.assert_allclose(found.value, truth, atol=1e-10)
            assert found.k.tolist() == list(range(1, min(ranks) + 1))
            assert value(overlap, task_i=1, task_j=2, module=path, factor=factor) == pytest.approx((np.cos(truth) ** 2).mean())
            row = overlap[(overlap.task_i == 1) & (overlap.task_j == 2) & (overlap.module == path) & (overlap.factor == factor)]
            assert row.expected.item() == pytest.approx(max(ranks) / (d_in if factor in ("A", "dW rows") else d_out))


def test_directions_that_are_missing_do_not_count():
    """A has rank 2 of 3: its row space is a plane, and so are both spaces of B A, while B spans three directions."""
    weak = {path: deficient(pair) for path, pair in LORAS[0].items()}
    spans = geometry.spans(geometry.padded([weak, LORAS[1]], "q"))
    sizes = {factor: (P != 0).any(-1).sum(-1).tolist() for factor, P in spans.items()}
    assert sizes == {"A": [2, 3], "B": [3, 3], "dW rows": [2, 3], "dW columns": [2, 3]}
    for P in spans.values():
        torch.testing.assert_close(P[0] @ P[0].T, torch.diag((P[0] != 0).any(-1).double()))
    angles = geometry.angles(weak, LORAS[0])
    assert len(angles[(angles.module == "q") & (angles.factor == "A")]) == 2 and angles[angles.factor == "A"].value.max() < 1e-7
    for one, other in ((weak, LORAS[1]), (LORAS[1], weak)):
        P, Q = (adapter["q"].A.numpy()[:2 if adapter is weak else 3].T for adapter in (one, other))
        angles = geometry.angles(one, other).query("module == 'q' and factor == 'A'")
        np.testing.assert_allclose(angles.value, np.sort(scipy.linalg.subspace_angles(P, Q)), atol=1e-7)
    overlap = geometry.overlap([weak, LORAS[0]])
    assert value(overlap, task_i=1, task_j=2, module="q", factor="A") == pytest.approx(1)      # a plane within its space
    noisy = {path: Pair(pair.A.float(), pair.B.float()) for path, pair in weak.items()}        # float32 rounding is no direction
    assert (geometry.spans(geometry.padded([noisy], "q"))["A"][0] != 0).any(-1).sum() == 2


def test_at_full_rank_the_spaces_of_the_update_are_those_of_the_factors():
    table = geometry.overlap(LORAS).pivot(index=["module", "task_i", "task_j"], columns="factor", values="value")
    np.testing.assert_allclose(table["dW rows"], table["A"], atol=1e-12)
    np.testing.assert_allclose(table["dW columns"], table["B"], atol=1e-12)


def test_top_keeps_the_strongest_directions_of_the_update():
    U, S, Vt = np.linalg.svd(dense(LORAS[0]["q"]))
    spans = geometry.spans(geometry.padded(LORAS, "q"), top=2)
    for factor, truth in (("dW rows", Vt[:2]), ("dW columns", U.T[:2])):
        assert spans[factor].shape[1] == 2
        np.testing.assert_allclose(np.abs(spans[factor][0].numpy() @ truth.T), np.eye(2), atol=1e-10)
    _, _, Vt = np.linalg.svd(LORAS[0]["q"].A.numpy())
    np.testing.assert_allclose(np.abs(spans["A"][0].numpy() @ Vt[:2].T), np.eye(2), atol=1e-10)
    _, _, Vt = np.linalg.svd(LORAS[0]["q"].B.numpy().T)
    np.testing.assert_allclose(np.abs(spans["B"][0].numpy() @ Vt[:2].T), np.eye(2), atol=1e-10)
    assert len(geometry.angles(LORAS[0], LORAS[1], top=1)) == 2 * 4


@pytest.mark.parametrize("p, q, d", [(2, 5, 20), (5, 2, 20), (4, 4, 9), (6, 5, 8)])
def test_the_expected_overlap_is_the_mean_over_random_subspaces(p, q, d):
    chance = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        P, Q = (orthonormal_rows(torch.randn(k, d, generator=chance, dtype=torch.float64)) for k in (p, q))
        found.append(float((P @ Q.T).square().sum()) / min(p, q))
    assert expected_overlap(p, q, d) == max(p, q) / d
    assert np.mean(found) == pytest.approx(expected_overlap(p, q, d), abs=4 * np.std(found) / 20)


def test_the_table_of_random_adapters_meets_the_expectation():
    sites = {f"m{k}": (30, 20) for k in range(40)}
    table = geometry.overlap([lora(seed, 3, sites) for seed in (0, 7)])
    apart = table[table.task_i < table.task_j].groupby("factor")[["value", "expected"]].mean()
    np.testing.assert_allclose(apart.value, apart.expected, rtol=0.15)
    assert apart.expected.to_dict() == {"A": 0.1, "B": 0.15, "dW rows": 0.1, "dW columns": 0.15}


# intruder dimensions -----------------------------------------------------------------------------------------------------
def reference_cosines(W0, W, top):
    X, Y = (np.linalg.svd(M, full_matrices=False)[0] for M in (W0, W))
    return np.abs(Y[:, :top].T @ X).max(axis=1)


@pytest.mark.parametrize("d_out, d_in", [(20, 30), (30, 20), (90, 120), (120, 90)])    # the larger ones go by Lanczos
def test_intruders_are_those_of_the_dense_svds(d_out, d_in):
    W0, pair = normal(d_out, d_in, seed=5), Pair(normal(2, d_in), normal(d_out, 2, seed=1))
    table = geometry.intruders({"q": W0}, [{"q": pair}, {"q": Pair(pair.A, pair.B / 100)}], scaling=0.5, top=4)
    assert list(table) == ["task", "module", "k", "singular_value", "cosine", "intruder"] and len(table) == 8
    for task, factor in ((1, 0.5), (2, 0.005)):
        W, rows = W0.numpy() + factor * dense(pair), table[table.task == task]
        np.testing.assert_allclose(rows.cosine, reference_cosines(W0.numpy(), W, 4), atol=1e-6)
        np.testing.assert_allclose(rows.singular_value, np.linalg.svd(W)[1][:4], rtol=1e-10)
        assert rows.k.tolist() == [1, 2, 3, 4] and (rows.intruder == (rows.cosine < 0.5)).all()
    assert not table[table.task == 2].intruder.any()
    if min(d_out, d_in) > 64:                       # in a few dimensions some old direction is always near
        assert table[table.task == 1].intruder.tolist() == [True, True, False, False]


def test_without_an_update_there_are_no_intruders():
    W0 = normal(70, 80, dtype=torch.float32)
    table = geometry.intruders({"q": W0}, [{"q": Pair(normal(2, 80), torch.zeros(70, 2))}])
    assert len(table) == 10 and (table.cosine > 0.999).all() and not table.intruder.any()
    assert geometry.intruders({"q": W0}, [{"q": Pair(normal(2, 80), torch.zeros(70, 2))}], threshold=1.1).intruder.all()


def test_intruders_are_counted_as_peft_counts_them():
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer
    intruders = pytest.importorskip("peft.tuners.lora.intruders")
    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["0", "1"])
    model = get_peft_model(nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 50)), config)
    weights, adapter = {}, {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            layer.lora_B["default"].weight.data.normal_(std=0.5)
            weights[name] = layer.get_base_layer().weight
            adapter[name] = Pair(layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    said = []
    intruders.reduce_intruder_dimension(model, logging_sink=said.append)
    counts = geometry.intruders(weights, [adapter], scaling=2.0).groupby("module").intruder.sum()
    assert said[:2] == [f"{name}: Intruders: {counts[name]}" for name in weights] and counts.min() > 0


# all together ------------------------------------------------------------------------------------------------------------
def test_no_matrix_is_larger_than_the_factors():
    """At d = 300 and T r = 6 every tensor that any operation returns stays below d x d."""
    d, adapters = 300, [lora(seed, 2, {"q": (300, 300)}) for seed in range(3)]
    with Sizes() as sizes:
        for function in (geometry.spectra, geometry.norms, geometry.cosines, geometry.drift, geometry.overlap):
            assert len(function(adapters))
        geometry.angles(*adapters[:2])
    assert max(sizes.seen) == 3 * 2 * d < d * d


@pytest.mark.parametrize("function", [geometry.norms, geometry.cosines, geometry.drift, geometry.overlap])
def test_adapters_of_other_models_are_refused(function):
    with pytest.raises(InputError, match="at least one adapter"):
        function([])
    with pytest.raises(InputError, match="number 2 at v"):
        function([LORAS[0], {"q": LORAS[1]["q"]}])
    for other in ((11, 10), (12, 11)):
        with pytest.raises(InputError, match="number 3 at q"):
            function([LORAS[0], LORAS[1], lora(2, sites={"q": other, "v": (7, 9)})])


def test_a_tidy_table_counts_rows_and_columns_from_one():
    table = geometry.tidy({("q", "A"): torch.tensor([[1.0, 2], [3, 4]]), ("v", "A"): torch.zeros(2, 2)}, ("after", "task"))
    assert list(table) == ["after", "task", "module", "factor", "value"] and len(table) == 8
    assert [value(table, after=a, task=t, module="q") for a, t in ((1, 1), (1, 2), (2, 1), (2, 2))] == [1, 2, 3, 4]


def test_tables_read_parameters_that_train_and_leave_them():
    trained = {path: Pair(*(nn.Parameter(factor.clone()) for factor in pair)) for path, pair in LORAS[0].items()}
    for function in (geometry.spectra, geometry.norms, geometry.cosines, geometry.drift, geometry.overlap):
        pd.testing.assert_frame_equal(function([trained, LORAS[1]]), function(LORAS[:2]))
    assert all(torch.equal(trained[path].A, LORAS[0][path].A) and trained[path].A.requires_grad for path in trained)
