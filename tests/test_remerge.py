"""Merging anew what a run has stored: with the run's own fields it is the run, with others a loop and a run trained so."""
import numpy as np
import pytest
import torch
from toy import FAST, toy_stream

from mbf_utils import lessons, theory
from mbf_utils.errors import InputError
from mbf_utils.evaluation import evaluate
from mbf_utils.methods.slao import SLAO, one_over, time_aware_scale
from mbf_utils.remerge import READINGS, Bench, Remerge, compared, constant, paired, power, remerged, weights, wilson
from mbf_utils.runs import run_stream

STREAM = toy_stream()[:2]                           # with labels


@pytest.fixture(scope="module")
def runs(model):
    return {name: run_stream(toy_stream(), name, model, **FAST)
            for name in ("slao", "seqlora", "slao_random", "slao_last_merged", "slao_mean", "slao_merge_both", "slao_no_merge",
                         "slao_ftba_mb", "slao_ftba_ma", "slao_frea_mb")}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(x, y) for path in one for x, y in zip(one[path], other[path]))


@pytest.mark.parametrize("trained, merge, schedule, same_as", [
    ("slao", "B", time_aware_scale, "slao"), ("slao", "B", power(0.5), "slao"), ("slao", "B", one_over, "slao_mean"),
    ("slao", "AB", power(0.5), "slao_merge_both"), ("slao", "", power(0.5), "slao_no_merge"),
    ("slao_random", "B", power(0.5), "slao_random"), ("slao_frea_mb", "B", power(0.5), "slao_frea_mb"), ("seqlora", "B", power(0.5), "slao_ftba_mb"),
    ("seqlora", "A", power(0.5), "slao_ftba_ma"), ("seqlora", "", power(0.5), "seqlora")])
def test_what_is_merged_anew_is_what_a_run_with_these_fields_stored(runs, trained, merge, schedule, same_as):
    for i, lora in enumerate(remerged(runs[trained], merge, schedule), 1):
        assert equal(lora, runs[same_as].lora(i))


@pytest.mark.parametrize("merge", ["B", "A", "AB", ""])
@pytest.mark.parametrize("schedule", [power(0.5), power(1.3), power(0.0), constant(0.3)])
def test_other_settings_are_those_of_a_literal_loop(runs, merge, schedule):
    found = remerged(runs["slao"], merge, schedule)
    for path in runs["slao"].lora(1):
        A, B = runs["slao"].lora(1, "tuned")[path]
        for i in (1, 2, 3):
            if i > 1:
                A_ft, B_ft = runs["slao"].lora(i, "tuned")[path]
                A = (1 - schedule(i)) * A + schedule(i) * A_ft if "A" in merge else A_ft
                B = (1 - schedule(i)) * B + schedule(i) * B_ft if "B" in merge else B_ft
            torch.testing.assert_close(found[i - 1][path].A, A, rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(found[i - 1][path].B, B, rtol=1e-5, atol=1e-7)


def test_the_merged_factor_is_the_weighted_sum_of_the_tuned_ones(runs):
    for merge, schedule in (("B", power(0.7)), ("AB", constant(0.4)), ("A", one_over), ("", one_over)):
        table, merged = weights(merge, schedule, 3), remerged(runs["slao"], merge, schedule)[2]
        assert table.groupby("factor").weight.sum().tolist() == pytest.approx([1, 1])
        for path in merged:
            for factor in "AB":
                w = table[table.factor == factor].sort_values("task").weight
                whole = sum(w_k * getattr(runs["slao"].lora(k, "tuned")[path], factor) for k, w_k in enumerate(w, 1))
                torch.testing.assert_close(getattr(merged[path], factor), whole, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights("B", one_over, 4).query("factor == 'B'").weight, 0.25)
    np.testing.assert_allclose(weights("B", one_over, 4).query("factor == 'A'").weight, [0, 0, 0, 1])
    np.testing.assert_allclose(weights("B", time_aware_scale, 4).query("factor == 'B'").weight,
                               theory.merge_weights([1, 2 ** -0.5, 3 ** -0.5, 0.5])[-1])


def test_a_run_whose_training_saw_the_merge_is_refused(runs):
    with pytest.raises(InputError, match="found slao_last_merged, whose tasks start from the merged pair"):
        remerged(runs["slao_last_merged"])


# scores
@pytest.fixture(scope="module")
def two(model):
    return {name: run_stream(STREAM, name, model, **FAST) for name in ("slao", "slao_random")}


@pytest.fixture
def opened(two, model):
    """opened(rows) is the two runs on one bench; the model is given back after the test."""
    made = []

    def make(rows):
        made.append(Remerge(two, rows, STREAM, model))
        return made[-1]

    yield make
    for both in made:
        both.bench.close()


def test_scores_are_those_of_evaluate_and_of_the_stored_matrix(two, opened):
    bench = opened(None).bench
    for i in (1, 2):
        found = bench.right(two["slao"].lora(i), i)
        scores = [evaluate(bench.adapted.model, bench.tokenizer, task) for task in STREAM[:i]]
        assert [100 * part[0].mean() for part in found] == pytest.approx([score.exact for score in scores])
        assert [100 * part[1].mean() for part in found] == pytest.approx([score.options for score in scores])
        np.testing.assert_allclose([100 * part.mean(1) for part in found],
                                   np.array([two["slao"].matrix.iloc[i - 1, :i], two["slao"].options.iloc[i - 1, :i]]).T)


def test_a_fixed_subset_is_the_first_rows(two, opened):
    bench = opened(3).bench
    assert bench.rows == [3, 3] and [task.test for task in bench.stream] == [task.test[:3] for task in STREAM]
    assert [part.shape for part in bench.right(two["slao"].lora(2), 2)] == [(2, 3), (2, 3)]


def test_the_table_puts_the_new_merge_beside_the_runs_own(two, opened):
    both = opened(None)
    same = both.table("slao", "B", power(0.5), 2)
    assert list(same.task) == [*STREAM.names, "mean"] * 2 and list(same.reading.unique()) == list(READINGS)
    assert (same.value == same.own).all() and (same.difference == 0).all() and same.half.eq(0).all()
    for reading, stored in zip(READINGS, (two["slao"].matrix, two["slao"].options)):
        some = same[same.reading == reading].set_index("task")
        np.testing.assert_allclose(some.value[STREAM.names], stored.iloc[1])
        assert some.value["mean"] == pytest.approx(stored.iloc[1].mean()) and some.rows["mean"] == some.rows[STREAM.names].sum()
    other = both.table("slao", "", constant(1.0), 2)
    bare = both.bench.right(two["slao"].lora(2, "tuned"), 2)
    np.testing.assert_allclose(other[other.reading == READINGS[0]].value[:2], [100 * part[0].mean() for part in bare])
    afresh = both.table("slao_random", "B", power(0.5), 2)
    np.testing.assert_allclose(afresh[afresh.reading == READINGS[0]].own[:2], two["slao_random"].matrix.iloc[1])
    assert both.table("slao", "B", power(0.5), 1).task.tolist() == [STREAM.names[0], "mean"] * 2


def test_what_was_scored_is_remembered(opened, monkeypatch):
    both = opened(2)
    first = both.table("slao", "B", power(0.9), 2)
    monkeypatch.setattr(both.bench, "right", None)
    assert both.table("slao", "B", power(0.9), 2).equals(first)


def test_a_closed_bench_gives_the_base_back_as_it_was(two, model):
    names = [name for name, _ in model[0].named_modules()]
    for _ in range(2):
        bench = Bench(two["slao"], 2, STREAM, model)
        assert [name for name, _ in model[0].named_modules()] != names
        bench.close()
        assert [name for name, _ in model[0].named_modules()] == names


def test_runs_of_other_rows_bases_or_settings_are_refused(two, runs, model):
    with pytest.raises(InputError, match="expected the rows that .* was trained on"):
        Bench(two["slao"], None, toy_stream(7)[:2], model)
    from toy import toy_model
    with pytest.raises(InputError, match="expected the base that .* was trained on"):
        Bench(two["slao"], None, STREAM, toy_model(1))
    with pytest.raises(InputError, match="labels to choose from, found none in free"):
        Bench(runs["slao"], None, toy_stream(), model)
    with pytest.raises(InputError, match="which differs in stream"):
        Remerge({"a": two["slao"], "b": runs["slao"]}, None, STREAM, model)
    with pytest.raises(InputError, match="found none"):
        Remerge({})


@pytest.mark.parametrize("name", ["slao", "slao_frea_mb"])
def test_a_committed_run_is_met_again(name):
    """On all rows the re-merged model scores as the stored matrix says; another machine's arithmetic may turn a row."""
    run = lessons.committed(name)
    both = Remerge({name: run}, rows=None)
    table = both.table(name, run.config["method"]["merge"], time_aware_scale, 5)
    assert (table.value == table.own).all() and set(both.bench.rows) == {200}
    for reading, stored in zip(READINGS, (run.matrix, run.options)):
        np.testing.assert_allclose(table[table.reading == reading].value[:5], stored.iloc[-1], atol=0.5)


# intervals
@pytest.mark.parametrize("right, n", [(0, 20), (1, 20), (10, 20), (19, 20), (20, 20), (37, 100)])
def test_wilsons_interval_holds_the_shares_that_would_not_be_surprised(right, n):
    """Its ends are the p at which the observed share lies 1.96 standard deviations away."""
    share, low, high = wilson(np.arange(n) < right)
    assert share == pytest.approx(100 * right / n) and 0 <= low <= share <= high <= 100
    for end, other in ((low, right > 0), (high, right < n)):
        if other:
            p = end / 100
            assert abs(right / n - p) == pytest.approx(1.96 * (p * (1 - p) / n) ** 0.5)


def test_a_paired_difference_counts_only_the_rows_that_one_of_both_gets_right():
    same = [np.array([True, False] * 10)] * 3
    assert paired(same, same) == (0.0, 0.0)
    new, own = [np.array([True] * 15 + [False] * 5)], [np.array([True] * 10 + [False] * 10)]
    d = np.array([0] * 10 + [1] * 5 + [0] * 5)
    assert paired(new, own) == pytest.approx((25.0, 196 * d.std(ddof=1) / 20 ** 0.5))
    assert paired(own, new)[0] == pytest.approx(-25.0)
    mean, half = paired(new + same[:1], own + same[:1])              # a task that did not move halves both
    assert (mean, half) == pytest.approx((12.5, 98 * d.std(ddof=1) / 20 ** 0.5))
    assert np.isnan(paired([np.array([True])], [np.array([False])])[1])


def test_about_95_of_100_intervals_of_the_difference_hold_the_truth():
    chance, held = np.random.default_rng(0), 0
    for _ in range(400):
        own = [chance.random(60) < p for p in (0.5, 0.8)]
        new = [np.where(chance.random(60) < 0.3, chance.random(60) < 0.9, part) for part in own]
        mean, half = paired(new, own)
        held += abs(mean - 100 * np.mean([0.3 * (0.9 - 0.5), 0.3 * (0.9 - 0.8)])) <= half
    assert 0.91 < held / 400 < 0.98


def test_the_mean_of_tasks_is_not_that_of_rows():
    new = [np.array([[True] * 10] * 2), np.array([[False] * 30] * 2)]
    table = compared(["a", "b"], new, new)
    assert table[table.task == "mean"].value.tolist() == [50, 50] and table[table.task == "mean"].rows.tolist() == [40, 40]


def test_slao_itself_does_the_merging(runs, monkeypatch):
    def finish(self, tuned, task):
        return (self.merge, self.schedule(task.index), task.index)
    monkeypatch.setattr(SLAO, "finish", finish)
    assert remerged(runs["slao"], "A", constant(0.5)) == [("A", 0.5, 1), ("A", 0.5, 2), ("A", 0.5, 3)]
