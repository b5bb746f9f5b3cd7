"""Pairs of tasks that are alike to a chosen degree, and what learning the second does to the first."""
import pytest
import torch
from toy import FAST, toy_stream

from mbf_utils import anatomy, updates
from mbf_utils.errors import InputError
from mbf_utils.runs import run_stream
from mbf_utils.similarity import OTHER_QUESTION, OTHER_WORDS, alike_pair, learn_pairs, shared_pair
from mbf_utils.streams import Stream
from mbf_utils.world import STARS, vocabulary

METHODS = ["seqlora", "slao", "slao_random", "multi_task"]


# ---- pairs
@pytest.mark.parametrize("named", [False, True])
def test_question_and_words_are_shared_as_chosen_and_nothing_else_moves(named):
    same = shared_pair(True, True, limit=40, named=named)
    for question in (True, False):
        for words in (True, False):
            first, second = shared_pair(question, words, limit=40, named=named)
            assert first == same[0] and second.labels == tuple(STARS if words else OTHER_WORDS)
            said = dict(zip(STARS, second.labels))
            for row, other in zip(second.test, same[1].test):
                start, end = row.body
                assert row.prompt[start:end] == other.prompt[slice(*other.body)] and row.answers == (said[other.answers[0]],)
                assert (OTHER_QUESTION in row.prompt) is not question and row.prompt.startswith("task :") is named


def test_pairs_use_words_of_the_bases_alone():
    known = set(vocabulary())
    for pair in (shared_pair(False, False, limit=30, named=True), alike_pair(0.4, limit=30, named=True)):
        for task in pair:
            for row in task.train:
                assert set(f"{row.prompt} {row.answers[0]}".split()) <= known


def test_the_pairs_rows_depend_on_the_seed():
    one, other = (shared_pair(True, True, seed, limit=5) for seed in (0, 1))
    assert one[0] != other[0] and one[1] != other[1]
    assert shared_pair(True, True, 1, limit=5).fingerprint() == other.fingerprint() and other.order == "same question, same words"


# ---- learning
@pytest.fixture(scope="module")
def pairs():
    one, two, _ = toy_stream()
    three = toy_stream(8)[1]
    return [Stream("toy", name, (one, second)) for name, second in (("a", two), ("b", three))]


@pytest.fixture(scope="module")
def table(pairs, model):
    return learn_pairs(pairs, METHODS, model, seed=3, **FAST)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pair", ["a", "b"])
def test_a_pair_learned_together_is_a_run_of_its_own(table, pairs, model, method, pair):
    """The first task, trained once for all methods, is what each method's own run would have trained."""
    run = run_stream(next(stream for stream in pairs if stream.order == pair), method, model, seed=3, **FAST)
    row = table[(table.pair == pair) & (table.method == method)].iloc[0]
    for tail, R in (("", run.matrix.to_numpy()), ("_labels", run.options.to_numpy())):
        assert [row["learned" + tail], row["left" + tail], row["second" + tail]] == [R[0, 0], R[1, 0], R[1, 1]]
    tuned = anatomy.adapters(run, "tuned")
    one, two = tuned if method == "multi_task" else updates.updates(tuned, anatomy.starts(run))     # multi_task: from B = 0
    D, E = (torch.cat([(pair.B @ pair.A).flatten() for pair in lora.values()]) for lora in (one, two))
    assert row["cosine"] == pytest.approx(float(D @ E / (D.norm() * E.norm())), abs=1e-5)
    assert row["size"] == pytest.approx(float(E.norm() / D.norm()), rel=1e-5)
    shared = updates.over_modules(updates.shares([one, two])).set_index("part")
    for part in updates.PARTS:
        assert row[part] == pytest.approx(shared.value[part], abs=1e-6)
        assert row[f"{part}_expected"] == pytest.approx(shared.expected[part], abs=1e-6)


def test_methods_and_pairs_have_a_row_each(table):
    assert list(zip(table.pair, table.method)) == [(pair, method) for pair in "ab" for method in METHODS]
    assert table.learned.nunique() == 1 and table.select_dtypes(float).notna().all(axis=None)


def test_pairs_of_other_first_tasks_are_refused(pairs, model):
    for wrong in ([], [pairs[0], Stream("toy", "c", pairs[0].tasks[::-1])], [toy_stream()]):
        with pytest.raises(InputError, match="one and the same first task"):
            learn_pairs(wrong, METHODS, model, **FAST)


def test_the_base_is_given_back(model, table):
    assert not any("lora" in name for name, _ in model[0].named_modules())
