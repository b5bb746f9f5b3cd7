"""The other methods beside arithmetic by hand, and the table: order, cards, instances, errors."""
import dataclasses
import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import SITES, equal, make_task, random_lora, tensors

from mbf_utils.errors import InputError
from mbf_utils.lora import Pair
from mbf_utils.method import Card, Method
from mbf_utils.methods import METHODS, make_method
from mbf_utils.methods.inclora import IncLoRA
from mbf_utils.methods.olora import OLoRA
from mbf_utils.methods.references import MultiTask, PerTask, SeqLoRA, ZeroShot
from mbf_utils.methods.task_arithmetic import TaskArithmetic
from mbf_utils.streams import Example
from mbf_utils.titles import OWN, card_of, cards


def tuned(index):
    return random_lora(seed=index)


def dense(pair):
    return pair.B @ pair.A


def learn(method, tasks):
    """`tasks` tasks, each trained to tuned(i); returns the results."""
    results = []
    for index in range(1, tasks + 1):
        method.start(make_task(index))
        results.append(method.finish(tuned(index), make_task(index)))
    return results


def test_a_fresh_pair_is_kaiming_a_and_zero_b_and_each_task_has_its_own():
    task = make_task(rank=200)
    for path, (d_in, d_out) in SITES.items():
        A, B = task.fresh()[path]
        assert A.shape == (200, d_in) and B.shape == (d_out, 200) and not B.any()
        bound = 1 / math.sqrt(d_in)
        assert A.abs().max() <= bound and A.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert abs(float(A.mean())) < 0.1 * bound
    assert equal(task.fresh(), make_task(rank=200).fresh())
    for other in (make_task(2, rank=200), make_task(rank=200, seed=1)):
        assert not any(torch.equal(other.fresh()[path].A, task.fresh()[path].A) for path in SITES)
    assert not torch.equal(task.rng("one").get_state(), task.rng("two").get_state())


def test_sequential_lora_goes_on_where_it_stopped():
    method = SeqLoRA()
    assert equal(method.start(make_task(1)).lora, make_task(1).fresh())
    assert equal(method.finish(tuned(1), make_task(1)), tuned(1))
    start = method.start(make_task(2))
    assert equal(start.lora, tuned(1)) and start.past is None and start.trains == "AB"
    assert equal(method.finish(tuned(2), make_task(2)), tuned(2))
    assert method.data(make_task(2, train=[1, 2])) == [1, 2] and equal(method.worn("any", tuned(2)), tuned(2))


def test_zero_shot_trains_nothing_and_is_the_base():
    method = ZeroShot()
    for index in (1, 2):
        start = method.start(make_task(index))
        assert start.trains == "" and start.past is None
        result = method.finish(start.lora, make_task(index))
        assert all(not dense(pair).any() for pair in result.values())


def test_per_task_wears_the_adapter_of_the_task_and_trains_each_afresh():
    method = PerTask()
    for index in (1, 2, 3):
        assert equal(method.start(make_task(index)).lora, make_task(index).fresh())
        assert equal(method.finish(tuned(index), make_task(index)), tuned(index))
    for index in (1, 2, 3):
        assert equal(method.worn(f"task{index}", tuned(3)), tuned(index))
    assert equal(method.worn("unseen", tuned(3)), tuned(3))


def test_multi_task_trains_on_the_rows_of_all_tasks_so_far_in_their_order():
    rows = [[Example(f"prompt {i}{k}", (f"answer {i}{k}", "other"), (0, 3) if k else None) for k in range(i)] for i in (1, 2, 3)]
    method = MultiTask()
    for index in (1, 2, 3):
        task = make_task(index, train=rows[index - 1])
        assert method.data(task) == sum(rows[:index], [])
        assert method.data(task) == sum(rows[:index], [])                        # asking twice adds nothing
        assert equal(method.start(task).lora, task.fresh())
        assert equal(method.finish(tuned(index), task), tuned(index))


def test_inclora_keeps_all_pairs_as_one_frozen_stack():
    method, total = IncLoRA(), {path: 0 for path in SITES}
    for index in (1, 2, 3):
        start = method.start(make_task(index))
        assert equal(start.lora, make_task(index).fresh()) and start.trains == "AB"
        if index == 1:
            assert start.past is None
        else:
            assert all(torch.allclose(dense(start.past[path]), total[path]) for path in SITES)
        result = method.finish(tuned(index), make_task(index))
        for path in SITES:
            total[path] = total[path] + dense(tuned(index)[path])
            torch.testing.assert_close(dense(result[path]), total[path])
            assert result[path].A.shape[0] == 3 * index
            assert torch.equal(result[path].A[-3:], tuned(index)[path].A)        # the newest block is the last


def live_lora(seed):
    return {path: Pair(*(torch.nn.Parameter(factor) for factor in pair)) for path, pair in random_lora(seed=seed).items()}


@pytest.mark.parametrize("lambda1, lambda2", [(0.5, 0.0), (2.0, 0.3)])
def test_the_penalty_of_olora_is_the_literal_double_loop(lambda1, lambda2):
    method = OLoRA(lambda1=lambda1, lambda2=lambda2)
    learn(method, 2)
    live = live_lora(9)
    expected = 0.0
    for path, pair in live.items():
        for earlier in (tuned(1), tuned(2)):
            for row in earlier[path].A.tolist():
                for other in pair.A.tolist():
                    expected += lambda1 * abs(sum(a * b for a, b in zip(row, other)))
        for factor in pair:
            expected += lambda2 * math.sqrt(sum(x * x for x in factor.flatten().tolist()))
    assert method.penalty(live, make_task(3), None, None).item() == pytest.approx(expected)


def test_the_gradient_of_olora_flows_into_the_live_pair_alone():
    method = OLoRA()
    learn(method, 2)
    live = live_lora(9)
    method.penalty(live, make_task(3), None, None).backward()
    assert all(t.grad is None and not t.requires_grad for t in tensors(method.memory))
    for path, pair in live.items():
        past = torch.cat([tuned(1)[path].A, tuned(2)[path].A])
        torch.testing.assert_close(pair.A.grad, 0.5 * (past @ pair.A.detach().T).sign().T @ past)
        assert pair.B.grad is None


def test_olora_has_no_overlap_in_the_first_task_and_stacks_as_inclora():
    assert OLoRA().penalty(live_lora(9), make_task(1), None, None) == 0.0
    for one, other in zip(learn(OLoRA(), 3), learn(IncLoRA(), 3)):
        assert equal(one, other)


def test_task_arithmetic_adds_the_updates_with_one_weight():
    results = learn(TaskArithmetic(exact=True), 4)
    for path in SITES:
        for index, result in enumerate(results, start=1):
            torch.testing.assert_close(dense(result[path]), 0.3 * sum(dense(tuned(k)[path]) for k in range(1, index + 1)))
            assert result[path].A.shape[0] == 3 * index
    assert equal(TaskArithmetic().start(make_task(2)).lora, make_task(2).fresh())


def test_task_arithmetic_is_cut_to_the_rank_after_every_task_and_says_what_it_discards():
    method = TaskArithmetic(weight=0.7)
    running = {path: 0 for path in SITES}
    for index in (1, 2, 3):
        result = method.finish(tuned(index), make_task(index))
        for path in SITES:
            U, S, Vt = torch.linalg.svd(running[path] + 0.7 * dense(tuned(index)[path]), full_matrices=False)
            running[path] = U[:, :3] * S[:3] @ Vt[:3]
            assert result[path].A.shape[0] == 3
            torch.testing.assert_close(dense(result[path]), running[path])
            assert method.memory["discarded"][path] == pytest.approx(float(S[3:].square().sum() / S.square().sum()), abs=1e-12)


def test_the_table_begins_with_slao_then_the_references_then_the_families():
    names = list(METHODS)
    assert names[:5] == ["slao", "seqlora", "zero_shot", "per_task", "multi_task"]
    assert [name for name in names if name.startswith("slao_")] == names[-sum(name.startswith("slao_") for name in names):]


@pytest.mark.parametrize("name", METHODS)
def test_every_row_makes_independent_instances(name):
    one, other = METHODS[name](), METHODS[name]()
    assert one == other and one is not other
    one.memory["seen"], one.extra["gate"] = 1, None
    assert not other.memory and not other.extra and not METHODS[name]().memory


@pytest.mark.parametrize("name", METHODS)
def test_every_card_is_complete(name):
    card = card_of(name)
    assert isinstance(card, Card) and card.title
    assert card.fidelity in ("exact", "adapted", "reconstructed") and (card.fidelity == "exact") == (card.differs == "")
    assert card.memory in ("constant", "linear") and card.merges in ("", "descending", "independent")
    assert card.family and (card.paper or card.family == "reference")
    assert {type(value) for value in (card.task_id, card.old_data, card.trains, card.looks, card.routes)} == {bool}
    row = cards().loc[name]
    assert card.family == "reference" and card.paper == "" or re.fullmatch(
        r"arXiv \d{4}\.\d{5}|OpenReview \w+|long paper \d+", row["id"]) and row["authors"] and 2012 <= row["year"] <= 2026 and row["venue"]


def test_cards_are_a_table_of_what_each_says():
    table = cards()
    assert list(table.index) == list(METHODS) and list(table.columns) == [
        "title", "authors", "venue", "year", "id", "family", "fidelity", "differs", "memory", "task_id", "old_data", "looks", "routes"]
    assert table.loc["olora", "authors":"fidelity"].tolist() == [
        "Wang et al.", "Findings of EMNLP", 2023, "arXiv 2310.14152", "stack", "exact"]
    assert table.loc["lb_cl", ["title", "id", "fidelity"]].tolist() == ["LB-CL†", "OpenReview ZxtaNh5UYB", "reconstructed"]
    assert table.loc["lilora", "fidelity"] == "reconstructed" and table.loc["lilora_released", "fidelity"] == "adapted"
    assert OWN.keys() <= {name for name, make in METHODS.items() if isinstance(make, partial)}


@pytest.mark.parametrize("name", METHODS)
def test_the_repr_shows_every_hyper_parameter_and_nothing_else(name):
    method = METHODS[name]()
    shown = {f.name: repr(getattr(method, f.name)) for f in dataclasses.fields(method) if f.init}
    assert repr(method) == f"{type(method).__name__}({', '.join(f'{key}={value}' for key, value in shown.items())})"
    assert "memory" not in shown and "extra" not in shown


def test_a_method_comes_from_its_name_or_passes_through_unused():
    assert make_method("slao") == METHODS["slao"]() and make_method("slao") is not make_method("slao")
    own = OLoRA(lambda1=0.1)
    assert make_method(own) is own

    @dataclasses.dataclass
    class Own(Method):
        card = Card("Own", "", "reference", "exact")

    assert isinstance(make_method(Own()), Own)


def test_a_name_takes_other_values_for_its_fields_and_refuses_unknown_ones():
    assert make_method("olora", lambda1=0.1) == OLoRA(lambda1=0.1)
    assert make_method("slao_ftba_mb", merge="AB") == METHODS["slao_ftba_mba"]()
    with pytest.raises(InputError, match="^expected for olora settings among lambda1, lambda2, found lambda3$"):
        make_method("olora", lambda3=1)
    with pytest.raises(InputError, match="no further settings"):
        make_method(OLoRA(), lambda1=0.1)


def test_an_unknown_name_is_answered_with_the_known_ones_in_one_line():
    with pytest.raises(InputError) as error:
        make_method("slaoo")
    assert "'slaoo'" in str(error.value) and "\n" not in str(error.value)
    assert all(name in str(error.value) for name in METHODS)


def test_a_method_that_has_learned_is_refused():
    method = SeqLoRA()
    learn(method, 1)
    with pytest.raises(InputError, match="not learned yet.*make a new one"):
        make_method(method)


def test_the_readme_names_every_method_and_marks_the_reconstructed_ones():
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    table = text[text.index("## The methods"):text.index("## What it measured")]
    shown = dict(re.findall(r"`(\w+)`(†?)", table))
    for name, make in METHODS.items():
        if not isinstance(make, partial):                            # variants are rows of their class
            assert name in shown and (shown[name] == "†") == (make().card.fidelity == "reconstructed"), name
