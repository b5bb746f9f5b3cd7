"""The theory's quantities beside dense float64 references and beside SLAO itself, run on random factors."""
import numpy as np
import pytest
import torch
from test_geometry import SITES, Sizes, dense, lora, normal, value

from mbf_utils import theory
from mbf_utils.lora import Pair
from mbf_utils.method import Task
from mbf_utils.methods.slao import SLAO, one_over, time_aware_scale

T = 4
LAMBDAS = [time_aware_scale(i) for i in range(1, T + 1)]
TUNED = [lora(seed) for seed in range(T)]
BEST = [lora(seed + 20) for seed in range(T)]


def merged(tuned, **options):
    """SLAO's results after each of the tasks, from what training left."""
    method, results = SLAO(**options), []
    for i, each in enumerate(tuned, 1):
        results.append(method.finish(each, Task(i, "", [], 3, 1.0, {}, 0, len(tuned))))
    return results


# the weights of the merge ------------------------------------------------------------------------------------------------
def test_the_weights_of_fifteen_tasks():
    """Worked out for lambda(i) = 1 / sqrt(i), T = 15 and T = 4."""
    fifteen = [.0007, .0017, .0034, .0059, .0095, .0146, .0217, .0315, .0445, .0617, .0842, .1134, .1508, .1983, .2582]
    increments = [1, .999, .998, .994, .988, .979, .964, .942, .911, .867, .805, .721, .607, .456, .258]
    weights = theory.merge_weights([time_aware_scale(i) for i in range(1, 16)])
    np.testing.assert_allclose(weights[-1], fifteen, atol=5e-5)
    np.testing.assert_allclose(theory.increment_weights(weights)[-1], increments, atol=6e-4)
    np.testing.assert_allclose(weights[3, :4], [0.0619, 0.1494, 0.2887, 0.5], atol=5e-5)


@pytest.mark.parametrize("schedule", [time_aware_scale, one_over, lambda i: 0.5, lambda i: 0.9 / i])
def test_the_weights_sum_to_one_and_follow_the_recursion(schedule):
    lam = [schedule(i) for i in range(1, 8)]
    weights = theory.merge_weights(lam)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert weights[0, 0] == 1 and not np.triu(weights, 1).any()
    assert weights[-1, 0] == pytest.approx(np.prod([1 - value for value in lam[1:]]))       # the first task's share
    for t in range(1, 7):
        recursion = (1 - lam[t]) * weights[t - 1]
        recursion[t] += lam[t]
        np.testing.assert_allclose(weights[t], recursion)


def test_one_over_i_is_the_plain_mean():
    np.testing.assert_allclose(theory.merge_weights([one_over(i) for i in range(1, 6)])[-1], 0.2)


def test_the_weights_of_increments_give_the_same_sum():
    x, weights = normal(T).numpy(), theory.merge_weights(LAMBDAS)
    increments = np.diff(x, prepend=0)
    np.testing.assert_allclose(theory.increment_weights(weights) @ increments, weights @ x)


@pytest.mark.parametrize("schedule", [time_aware_scale, one_over, lambda i: 0.5])
def test_what_is_measured_in_the_adapters_is_the_closed_form(schedule):
    table = theory.measured_weights(TUNED, merged(TUNED, schedule=schedule)[-1])
    assert list(table) == ["task", "module", "factor", "weight", "increment", "residual"] and len(table) == T * 2 * 2
    closed = theory.merge_weights([schedule(i) for i in range(1, T + 1)])
    for path in SITES:
        at = table[table.module == path].set_index("factor")
        np.testing.assert_allclose(at.loc["B"].weight, closed[-1])
        np.testing.assert_allclose(at.loc["B"].increment, theory.increment_weights(closed)[-1])
        np.testing.assert_allclose(at.loc["A"].weight, [0, 0, 0, 1], atol=1e-12)            # A is the last task's
    assert (table.residual < 1e-12).all() and table.task.tolist() == [1, 2, 3, 4] * 4


def test_a_merge_of_a_shows_in_a():
    table = theory.measured_weights(TUNED, merged(TUNED, merge="A")[-1]).set_index(["module", "factor"])
    np.testing.assert_allclose(table.loc["q", "A"].weight, theory.merge_weights(LAMBDAS)[-1])
    np.testing.assert_allclose(table.loc["q", "B"].weight, [0, 0, 0, 1], atol=1e-12)


def test_half_precision_adapters_are_measured_too():
    """As they lie on disk: rounded, the merged one too."""
    half = [{path: Pair(*(factor.bfloat16() for factor in pair)) for path, pair in each.items()}
            for each in (*TUNED, merged(TUNED)[-1])]
    table = theory.measured_weights(half[:-1], half[-1])
    assert (table.weight - np.tile(theory.merge_weights(LAMBDAS)[-1], 4))[table.factor == "B"].abs().max() < 0.01
    assert (table.residual < 0.01).all() and (table.residual > 1e-5).any()


def test_a_merge_that_is_not_one_of_these_factors_leaves_a_residual():
    table = theory.measured_weights(TUNED, BEST[0])
    B = [each["q"].B.flatten().numpy() for each in (*TUNED, BEST[0])]
    w, *_ = np.linalg.lstsq(np.stack(B[:-1], 1), B[-1], rcond=None)
    at = table[(table.module == "q") & (table.factor == "B")]
    np.testing.assert_allclose(at.weight, w)
    np.testing.assert_allclose(at.residual, np.linalg.norm(B[-1] - np.stack(B[:-1], 1) @ w) / np.linalg.norm(B[-1]))


def test_weights_that_nothing_determines_are_nan():
    frozen = [{path: Pair(TUNED[0][path].A, pair.B) for path, pair in each.items()} for each in TUNED]
    table = theory.measured_weights(frozen, merged(frozen)[-1])
    assert table[table.factor == "A"][["weight", "increment", "residual"]].isna().all(axis=None)
    assert table[table.factor == "B"].notna().all(axis=None)
    returned = [TUNED[0], TUNED[1], TUNED[0]]       # increments x, y, -y: not independent, none of them zero
    assert theory.measured_weights(returned, TUNED[1]).weight.isna().all()


# the cross term ----------------------------------------------------------------------------------------------------------
def test_the_cross_term_is_the_difference_of_the_dense_products():
    table = theory.cross_term(TUNED, LAMBDAS)
    assert list(table) == ["after", "module", "factor", "value"] and len(table) == T * 2 * 2
    weights = theory.merge_weights(LAMBDAS)
    for t, result in enumerate(merged(TUNED), 1):
        for path in SITES:
            whole = sum(w * dense(each[path]) for w, each in zip(weights[t - 1], TUNED))
            crossing = np.linalg.norm(dense(result[path]) - whole)
            assert value(table, after=t, module=path, factor="sum") == pytest.approx(np.linalg.norm(whole))
            assert value(table, after=t, module=path, factor="crossing") == pytest.approx(crossing, abs=1e-7)
    assert table[(table.after == 1) & (table.factor == "crossing")].value.eq(0).all()


def test_nothing_is_lost_where_a_stays():
    frozen = [{path: Pair(TUNED[0][path].A, pair.B) for path, pair in each.items()} for each in TUNED]
    table = theory.cross_term(frozen, LAMBDAS)
    assert table[table.factor == "crossing"].value.eq(0).all() and table[table.factor == "sum"].value.gt(0).all()


# the bounds --------------------------------------------------------------------------------------------------------------
def terms(now, then):
    A, B, A_, B_ = (factor.numpy() for factor in (*now, *then))
    return {"A": np.linalg.norm(B @ (A - A_)), "B": np.linalg.norm((B - B_) @ A_), "dW": np.linalg.norm(B @ A - B_ @ A_)}


def test_the_bound_of_forgetting_is_that_of_the_dense_matrices():
    table = theory.forgetting_bound(TUNED)
    assert list(table) == ["after", "task", "module", "factor", "value"] and len(table) == 6 * 2 * 3
    for after in range(2, T + 1):
        for task in range(1, after):
            for path in SITES:
                for factor, truth in terms(TUNED[after - 1][path], TUNED[task - 1][path]).items():
                    assert value(table, after=after, task=task, module=path, factor=factor) == pytest.approx(truth)


def test_the_bound_of_intransigence_is_that_of_the_dense_matrices():
    table = theory.intransigence_bound(TUNED, BEST)
    assert list(table) == ["task", "module", "factor", "value"] and len(table) == T * 2 * 3
    for task in range(1, T + 1):
        for path in SITES:
            for factor, truth in terms(TUNED[task - 1][path], BEST[task - 1][path]).items():
                assert value(table, task=task, module=path, factor=factor) == pytest.approx(truth)


def test_a_factor_that_stays_has_no_term():
    frozen = [{path: Pair(TUNED[0][path].A, pair.B) for path, pair in each.items()} for each in TUNED]
    table = theory.forgetting_bound(frozen)
    assert table[table.factor == "A"].value.eq(0).all()
    parts = table.set_index(["after", "task", "module"])
    np.testing.assert_allclose(parts[parts.factor == "dW"].value, parts[parts.factor == "B"].value)     # the bound is tight
    assert theory.forgetting_bound([TUNED[0]] * 3).value.eq(0).all()


def test_ranks_of_the_best_adapters_may_differ():
    wide = [lora(seed + 20, rank=5) for seed in range(T)]
    table = theory.intransigence_bound(TUNED, wide)
    truth = np.linalg.norm(dense(TUNED[1]["q"]) - dense(wide[1]["q"]))
    assert value(table, task=2, module="q", factor="dW") == pytest.approx(truth)


def test_the_whole_model_keeps_the_inequality():
    """Over the modules: the norm of all dW's as one long vector, and at most the sum of the two terms."""
    whole = theory.over_modules(theory.forgetting_bound(TUNED))
    assert list(whole) == ["after", "task", "factor", "value"] and len(whole) == 6 * 3
    long = np.concatenate([(dense(TUNED[3][path]) - dense(TUNED[0][path])).ravel() for path in SITES])
    assert value(whole, after=4, task=1, factor="dW") == pytest.approx(np.linalg.norm(long))
    wide = theory.beside_forgetting(theory.forgetting_bound(TUNED), np.zeros((T, T)))
    assert (wide.dW <= wide.bound).all() and np.allclose(wide.bound, wide.A + wide.B)


def test_measured_forgetting_stands_beside_the_bound():
    R = np.arange(16.0).reshape(4, 4) ** 1.5        # R[t][i]: row after task t
    table = theory.beside_forgetting(theory.forgetting_bound(TUNED), R)
    assert list(table) == ["after", "task", "A", "B", "bound", "dW", "forgetting"]
    assert [*zip(table.after, table.task)] == [(2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3)]
    for row in table.itertuples():
        assert row.forgetting == R[row.task - 1, row.task - 1] - R[row.after - 1, row.task - 1]


def test_measured_intransigence_stands_beside_its_bound():
    R, R_best = np.diag([50.0, 60, 70, 80]), np.diag([50.0, 70, 60, 90])
    table = theory.beside_intransigence(theory.intransigence_bound(TUNED, BEST), R, R_best)
    assert list(table) == ["task", "A", "B", "bound", "dW", "intransigence"] and table.task.tolist() == [1, 2, 3, 4]
    assert table.intransigence.tolist() == [0, 10, -10, 10]


# where a task starts -----------------------------------------------------------------------------------------------------
def test_the_starts_are_those_of_slao():
    for options in ({}, {"qr": False}):
        method = SLAO(**options)
        method.finish(TUNED[0], Task(1, "", [], 3, 1.0, {}, 0, T))
        expected = method.start(Task(2, "", [], 3, 1.0, {}, 0, T)).lora
        starts = theory.slao_starts(TUNED, **options)
        assert len(starts) == T - 1
        for path in SITES:
            torch.testing.assert_close(starts[0][path], expected[path])


def test_the_asymmetry_is_that_of_the_dense_products():
    starts = theory.slao_starts(TUNED)
    table = theory.asymmetry(TUNED, starts)
    assert list(table) == ["task", "module", "factor", "value", "cosine"] and table.task.unique().tolist() == [2, 3, 4]
    for task in (2, 3, 4):
        now, start = TUNED[task - 1]["v"], starts[task - 2]["v"]
        dA, dB = now.A - start.A, now.B - start.B
        along_A, along_B = (start.A @ dA.T).norm().item(), (dB.T @ start.B).norm().item()
        assert value(table.drop(columns="cosine"), task=task, module="v", factor="A") == pytest.approx(along_A)
        assert value(table.drop(columns="cosine"), task=task, module="v", factor="B") == pytest.approx(along_B)
        at = table.set_index(["task", "module", "factor"]).cosine
        assert at[task, "v", "A"] == pytest.approx(along_A / start.A.norm().item() / dA.norm().item())
        assert at[task, "v", "B"] == pytest.approx(along_B / start.B.norm().item() / dB.norm().item())


def test_no_matrix_is_larger_than_the_factors():
    d, tuned = 300, [lora(seed, 2, {"q": (300, 300)}) for seed in range(3)]
    with Sizes() as sizes:
        theory.forgetting_bound(tuned), theory.intransigence_bound(tuned, tuned), theory.cross_term(tuned, LAMBDAS[:3])
        theory.measured_weights(tuned, tuned[0]), theory.asymmetry(tuned, theory.slao_starts(tuned))
    assert 0 < max(sizes.seen) < d * d
