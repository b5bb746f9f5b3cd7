"""Tables of finished runs: what is stored of a toy run, beside its scores."""
import numpy as np
import pytest
from toy import FAST, toy_stream

from mbf_utils import anatomy, geometry, theory
from mbf_utils.errors import InputError
from mbf_utils.runs import run_stream, walk_stream


@pytest.fixture(scope="module")
def slao(model):
    return run_stream(toy_stream(), "slao", model, **FAST)


@pytest.fixture(scope="module")
def alone(model):
    return run_stream(toy_stream(), "per_task", model, **FAST)


def test_the_adapters_are_those_after_every_task(slao):
    for which in ("result", "tuned"):
        found = anatomy.adapters(slao, which)
        assert len(found) == 3
        for i, lora in enumerate(found, 1):
            assert geometry.drift([lora, slao.lora(i, which)]).value.eq(0).all()
    assert not geometry.drift([anatomy.adapters(slao)[2], slao.lora(3, "tuned")]).value.eq(0).all()


def test_forgetting_stands_beside_its_bound(slao):
    for reading, scores in (("matrix", slao.matrix), ("options", slao.options)):
        table = anatomy.forgetting(slao, reading)
        R = scores.to_numpy()
        np.testing.assert_equal(table.forgetting.tolist(), [R[0, 0] - R[1, 0], R[0, 0] - R[2, 0], R[1, 1] - R[2, 1]])
        drift = theory.over_modules(geometry.drift(anatomy.adapters(slao))).set_index(["factor", "task_i", "task_j"]).value
        np.testing.assert_allclose(table.dW, [drift["dW", after, task] for after, task in zip(table.after, table.task)])
        assert (table.dW <= table.bound).all()


def test_intransigence_is_measured_against_tasks_trained_alone(slao, alone):
    table = anatomy.intransigence(slao, alone)
    assert table.intransigence.tolist() == (np.diag(alone.matrix) - np.diag(slao.matrix)).tolist()
    assert table.bound[0] == 0                      # the first task is the same in both runs
    assert anatomy.intransigence(alone, alone)[["A", "B", "bound", "dW", "intransigence"]].eq(0).all(axis=None)


def test_the_weights_in_the_stored_merge_are_those_of_the_schedule(slao, model):
    table = anatomy.merge(slao)
    np.testing.assert_allclose(table.weight, table.expected, atol=1e-5)
    assert table[table.factor == "B"].groupby("task").expected.first().tolist() == \
        pytest.approx(theory.merge_weights([1, 2 ** -0.5, 3 ** -0.5])[-1].tolist())
    of_A = anatomy.merge(run_stream(toy_stream(), "slao_ftba_ma", model, **FAST))
    np.testing.assert_allclose(of_A.weight, of_A.expected, atol=1e-5)
    assert of_A[(of_A.factor == "A") & (of_A.task == 1)].expected.gt(0).all()
    assert of_A[(of_A.factor == "B") & (of_A.task == 1)].expected.eq(0).all()


def test_a_run_without_a_schedule_has_no_merge(alone):
    with pytest.raises(InputError, match="merges by a schedule.*found Run"):
        anatomy.merge(alone)


def test_an_unfinished_run_is_told_as_far_as_it_went(model, alone):
    part = next(walk_stream(toy_stream(), "slao", model, **FAST))
    assert anatomy.forgetting(part).empty and len(anatomy.intransigence(part, alone)) == 1
    assert anatomy.merge(part).weight.tolist() == pytest.approx([1] * len(anatomy.merge(part)))


def test_runs_of_other_streams_do_not_compare(slao, model):
    with pytest.raises(InputError, match="same tasks in the same order"):
        anatomy.intransigence(slao, run_stream(toy_stream()[:2], "per_task", model, **FAST))


def test_memory_is_counted_in_bytes_of_the_store(slao, alone):
    table = anatomy.memory([slao, alone])
    assert table.method.tolist() == ["slao", "per_task"] and table.tasks.tolist() == [3, 3]
    assert table.bytes[0] == sum(file.stat().st_size for file in slao.folder.glob("memory.*"))
