"""Updates of single tasks beside dense twins: where they lie, what is shared with earlier ones, and what chance would share."""
import json

import numpy as np
import pytest
import torch
from test_geometry import SITES, deficient, dense, lora, normal, value
from toy import FAST, toy_stream

from mbf_utils import anatomy, geometry, updates
from mbf_utils.adapters import installed
from mbf_utils.errors import InputError
from mbf_utils.lora import Pair
from mbf_utils.method import Task
from mbf_utils.runs import run_stream
from mbf_utils.subspaces import orthonormal_rows

T = 4
TUNED, STARTS = [lora(k, rank=2) for k in range(T)], [lora(k + 20, rank=2) for k in range(T)]
CHANGED = updates.updates(TUNED, STARTS)


def projector(matrices):
    """Onto the sum of the row spaces of dense matrices."""
    U, S, Vt = np.linalg.svd(np.concatenate(matrices))
    return Vt[:(S > 1e-9 * S[0]).sum()].T @ Vt[:(S > 1e-9 * S[0]).sum()]


def test_an_update_is_the_difference_of_the_products():
    for changed, tuned, start in zip(CHANGED, TUNED, STARTS):
        for path in SITES:
            np.testing.assert_allclose(dense(changed[path]), dense(tuned[path]) - dense(start[path]), atol=1e-12)
            assert changed[path].A.shape[0] == 4


@pytest.mark.parametrize("changed", [CHANGED, [{p: deficient(pair) for p, pair in c.items()} for c in CHANGED],
                                     [lora(k, rank=1 + k % 2) for k in range(T)]])
def test_shares_are_those_of_dense_projections(changed):
    table = updates.shares(changed)
    assert sorted(table.task.unique()) == [2, 3, 4] and list(table.part.unique()) == list(updates.PARTS)
    for path, (d_in, d_out) in SITES.items():
        D = [dense(c[path]) for c in changed]
        for i in range(1, T):
            rows, columns = projector(D[:i]), projector([d.T for d in D[:i]])
            I, J = np.eye(d_in), np.eye(d_out)
            whole = (D[i] ** 2).sum()
            twins = {"rows": D[i] @ rows, "columns": columns @ D[i], "both": columns @ D[i] @ rows,
                     "own": (J - columns) @ D[i] @ (I - rows)}
            p, q = np.trace(rows) / d_in, np.trace(columns) / d_out
            chance = {"rows": p, "columns": q, "both": p * q, "own": (1 - p) * (1 - q)}
            for part, twin in twins.items():
                place = table[(table.task == i + 1) & (table.module == path) & (table.part == part)]
                assert place.value.item() == pytest.approx((twin ** 2).sum() / whole, abs=1e-10)
                assert place.expected.item() == pytest.approx(chance[part], abs=1e-10)
                assert place.energy.item() == pytest.approx(whole)


def test_the_expected_shares_are_the_means_over_random_updates():
    earlier, (d_in, d_out) = lora(3, rank=2)["q"], SITES["q"]
    drawn = [updates.shares([{"q": earlier}, {"q": Pair(normal(1, d_in, seed=7 * k), normal(d_out, 1, seed=7 * k + 1))}])
             for k in range(400)]
    for part in updates.PARTS:
        values = np.array([value(table, part=part) for table in drawn])
        expected = drawn[0][drawn[0].part == part].expected.item()
        assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / 20, part


def test_an_update_within_the_span_of_earlier_ones_has_nothing_of_its_own():
    first, second = (CHANGED[k] for k in range(2))
    again = {path: Pair(first[path].A + second[path].A, second[path].B - first[path].B) for path in SITES}
    table = updates.over_modules(updates.shares([first, second, {p: Pair(normal(4, 4, seed=5) @ first[p].A, pair.B)
                                                                 for p, pair in again.items()}]))
    last = table[table.task == 3].set_index("part").value
    assert last["rows"] == pytest.approx(1) and last["own"] == pytest.approx(0, abs=1e-12)
    assert last["both"] == pytest.approx(last["columns"])


def test_orthogonal_updates_share_nothing():
    Q, P = orthonormal_rows(normal(6, 12)), orthonormal_rows(normal(6, 10))
    pairs = [{"q": Pair(Q[2 * k:2 * k + 2], P[2 * k:2 * k + 2].T)} for k in range(3)]
    table = updates.shares(pairs)
    assert table[table.part != "own"].value.abs().max() < 1e-12
    np.testing.assert_allclose(table[table.part == "own"].value, 1)


def test_of_earlier_updates_the_strongest_directions_alone():
    U, V = orthonormal_rows(normal(2, 10)), orthonormal_rows(normal(2, 12))
    strong = {"q": Pair(torch.tensor([[5.0], [1]], dtype=torch.float64) * V, U.T)}
    weak_again = {"q": Pair(V[1:], U[1:].T)}
    assert value(updates.shares([strong, weak_again]), part="both") == pytest.approx(1)
    assert value(updates.shares([strong, weak_again], top=1), part="both") == pytest.approx(0, abs=1e-12)
    assert value(updates.shares([strong, weak_again], top=1)[lambda t: t.part == "rows"].assign(value=lambda t: t.expected)) == \
        pytest.approx(1 / 12)


def test_over_modules_weighs_by_energy():
    table = updates.shares(CHANGED)
    whole = updates.over_modules(table)
    some = table[(table.task == 3) & (table.part == "rows")]
    assert value(whole, task=3, part="rows") == pytest.approx(np.average(some.value, weights=some.energy))
    assert whole[(whole.task == 3) & (whole.part == "rows")].expected.item() == \
        pytest.approx(np.average(some.expected, weights=some.energy))


def test_a_zero_update_has_no_shares_and_does_not_spoil_the_others():
    zero = {path: Pair(pair.A, torch.zeros_like(pair.B)) for path, pair in CHANGED[1].items()}
    table = updates.shares([CHANGED[0], zero, CHANGED[2]])
    assert table[table.task == 2].value.isna().all() and table[table.task == 3].value.notna().all()
    assert table[(table.task == 3) & (table.part == "rows")].value.tolist() == \
        pytest.approx(updates.shares([CHANGED[0], CHANGED[2]]).query("part == 'rows'").value.tolist())
    half = {path: zero[path] if path == "q" else CHANGED[1][path] for path in SITES}
    whole = updates.over_modules(updates.shares([CHANGED[0], half]))
    assert whole.value.notna().all()                # the module that changed speaks for the model
    nothing_before = updates.shares([zero, CHANGED[0]])
    assert nothing_before[nothing_before.part == "own"].value.tolist() == pytest.approx([1, 1])


# placement
@pytest.mark.parametrize("path, found", [
    ("model.layers.2.self_attn.q_proj", (2, "attention", "q_proj")), ("model.layers.11.mlp.down_proj", (11, "MLP", "down_proj")),
    ("transformer.h.3.attn.c_attn", (3, "attention", "c_attn")), ("model.decoder.block.4.feed_forward.w1", (4, "MLP", "w1")),
    ("lm_head", (0, "other", "lm_head")), ("layers.5.mixer", (5, "other", "mixer"))])
def test_a_path_tells_layer_part_and_kind(path, found):
    assert updates.place(path) == found


@pytest.mark.parametrize("scaling, weighed", [(1.0, False), (2.0, False), (-0.5, True)])
def test_placement_is_that_of_dense_matrices(scaling, weighed):
    weights = {path: normal(d_out, d_in, seed=9) for path, (d_in, d_out) in SITES.items()} if weighed else None
    if scaling < 0:
        scaling = 0.5
    table = updates.placement(CHANGED, TUNED, weights, scaling).set_index(["task", "module"])
    for i in range(T):
        for path in SITES:
            unit = scaling / (weights[path].norm().item() if weighed else 1)
            row = table.loc[(i + 1, path)]
            assert row.learned == pytest.approx(unit * np.linalg.norm(dense(CHANGED[i][path])))
            assert row.drift == pytest.approx(unit * np.linalg.norm(dense(TUNED[-1][path]) - dense(TUNED[i][path])))
            assert row.effective == pytest.approx(geometry.effective_rank(np.linalg.svd(dense(CHANGED[i][path]))[1][:4]))
    assert (table.loc[T].drift == 0).all()


# of runs
@pytest.fixture(scope="module")
def runs(model):
    return {name: run_stream(toy_stream(), name, model, **FAST) for name in
            ("slao", "slao_random", "slao_preserve", "slao_last_merged", "seqlora", "per_task")}


def test_where_tasks_began_is_what_each_method_says(runs):
    for run in runs.values():                       # a fresh start: B = 0, the same A for all of one seed
        first = anatomy.starts(run)[0]
        assert all(not pair.B.any() for pair in first.values())
        assert all(torch.equal(pair.A, anatomy.starts(runs["slao"])[0][path].A) for path, pair in first.items())
    for i in (1, 2):
        tuned, merged = (runs["slao_last_merged"].lora(i, which) for which in ("tuned", "result"))
        for path in tuned:
            last = runs["slao"].lora(i, "tuned")[path]
            start = anatomy.starts(runs["slao"])[i][path]
            assert torch.equal(start.A, orthonormal_rows(last.A)) and torch.equal(start.B, last.B)
            kept = anatomy.starts(runs["slao_preserve"])[i][path]
            np.testing.assert_allclose(dense(kept), dense(runs["slao_preserve"].lora(i, "tuned")[path]), atol=1e-6)
            assert torch.equal(anatomy.starts(runs["slao_last_merged"])[i][path].B, merged[path].B)
            assert torch.equal(anatomy.starts(runs["seqlora"])[i][path].B, runs["seqlora"].lora(i, "tuned")[path].B)
            for fresh in ("slao_random", "per_task"):
                assert not anatomy.starts(runs[fresh])[i][path].B.any()


def test_a_fresh_start_is_drawn_in_the_model_s_order(model):
    runs = [run_stream(toy_stream()[:2], name, model, **(FAST | {"targets": "all-linear"})) for name in ("slao", "per_task")]
    with installed(model[0], "all-linear", FAST["rank"], FAST["alpha"]) as adapted:
        drawn = [Task(i, "", [], FAST["rank"], adapted.scaling, adapted.sites, 0).fresh() for i in (1, 2)]
    assert list(drawn[0]) != sorted(drawn[0])       # in which adapters are stored
    for run, count in zip(runs, (1, 2)):
        for start, same in zip(anatomy.starts(run), drawn[:count]):
            assert all(torch.equal(start[path].A, same[path].A) for path in same)


def test_without_the_modules_order_no_start_is_guessed(tmp_path, model):
    run = run_stream(toy_stream()[:1], "slao", model, out=tmp_path, **FAST)
    file = next(tmp_path.glob("tasks/*/log.json"))
    for modules in (None, ["model.layers.0"]):
        file.write_text(json.dumps({key: value for key, value in run.logs[0].items() if key != "modules"} | {"modules": modules}))
        with pytest.raises(InputError, match="in the model's order"):
            anatomy.starts(run)


def test_tables_of_a_run_are_those_of_its_adapters(runs):
    run = runs["slao"]
    changed = updates.updates(anatomy.adapters(run, "tuned"), anatomy.starts(run))
    scaling = FAST["alpha"] / FAST["rank"]
    assert anatomy.placement(run).equals(updates.placement(changed, anatomy.adapters(run), None, scaling))
    assert anatomy.shares(run, top=1).equals(updates.shares(changed, 1))
    alone = anatomy.adapters(runs["per_task"], "tuned")              # from B = 0 an update is all that was trained
    np.testing.assert_allclose(anatomy.shares(runs["per_task"]).value, updates.shares(alone).value, atol=1e-9)


def test_a_method_comes_back_as_it_was_configured(model, runs):
    found = repr(anatomy.method_of(runs["slao_preserve"]))
    assert found.startswith("SLAO(begin='tuned', qr=True, merge='B', freeze='', schedule=")
    assert anatomy.method_of(runs["slao_preserve"]).preserve and not anatomy.method_of(runs["slao"]).preserve
    half = anatomy.method_of(run_stream(toy_stream(), "slao_half", model, **FAST))
    assert [half.schedule(i) for i in (1, 2, 3)] == [0.5, 0.5, 0.5]


def test_a_start_that_needs_rows_is_refused(model):
    run = run_stream(toy_stream(), "inflora", model, **FAST)
    with pytest.raises(InputError, match="without rows, found InfLoRA"):
        anatomy.starts(run)
