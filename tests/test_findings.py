"""What a comparison's tables carry: literal twins of the paired intervals and ranks, sentences that say no more, order,
newest task and tasks that return."""
import itertools
import math

import numpy as np
import pandas as pd
import pytest

from mbf_utils import findings, metrics
from mbf_utils.errors import InputError
from mbf_utils.lessons import ROOT
from mbf_utils.reports import seed_scores

SCORES = pd.DataFrame({"slao": [40.0, 44, 42, 41], "olora (lambda1=0.1)": [50.0, 56, 52, np.nan], "seqlora": [30.0, 60, 41, 20]},
                      index=pd.MultiIndex.from_product([["1", "2"], [0, 1]], names=["order", "seed"]))


def runs(scores: pd.DataFrame = SCORES) -> pd.DataFrame:
    """A table with a row a run, as NAME-runs.csv has it."""
    rows = []
    for column, ((order, seed), row) in itertools.product(scores, scores.iterrows()):
        method, _, setting = column.partition(" (")
        if row[column] == row[column]:
            rows.append({"stream": "world-5", "order": order, "named": False, "model": "tiny", "method": method,
                         "setting": setting.removesuffix(")") or None, "seed": seed, "AA": row[column] - 10, "AA_options": row[column],
                         "BWT": -row[column]})
    return pd.DataFrame(rows)


def test_runs_become_a_row_an_order_and_seed_and_a_column_a_method_and_setting():
    pd.testing.assert_frame_equal(findings.run_scores(runs()), SCORES, check_names=False)
    assert (findings.run_scores(runs(), "AA") - SCORES + 10).abs().max().max() == 0


def test_paired_differences_are_metrics_paired_difference_for_every_pair():
    mean, half = findings.paired(SCORES)
    for one, other in itertools.product(SCORES, SCORES):
        expected = metrics.paired_difference(*SCORES[[one, other]].dropna().to_numpy().T)
        assert (mean.loc[one, other], half.loc[one, other]) == pytest.approx(expected)
    lonely = findings.paired(SCORES[:1])[1]
    assert lonely.isna().all().all()


def test_over_one_order_ranks_and_differences_are_those_of_the_summary():
    each = pd.read_csv(ROOT / "figures" / "world-5-runs.csv", dtype={"order": str, "setting": str})
    summary = pd.read_csv(ROOT / "figures" / "world-5.csv", dtype={name: str for name in ("order", "setting", "rank", "rank_options")})
    about = dict(order="1", model="tiny", named=False)
    each, summary = (table[np.logical_and.reduce([table[key] == value for key, value in about.items()])] for table in (each, summary))
    summary = summary.fillna({"setting": "", "rank": "", "rank_options": ""}).set_index(["method", "setting"])
    found = findings.methods(each).set_index(["method", "setting"])
    assert sorted(found.index) == sorted(summary.index)
    for column in ("rank", "rank_options", "group", "title"):
        assert (found[column] == summary.loc[found.index, column]).all(), column
    for column in ("AA", "AA_options_sd", "AA_minus_seqlora", "AA_options_minus_seqlora_half"):
        assert found[column].tolist() == pytest.approx(summary.loc[found.index, column].tolist(), abs=2e-4, nan_ok=True), column


def test_over_several_orders_every_run_counts_and_pairs_share_order_and_seed():
    found = findings.methods(runs()).set_index("method")
    assert found.loc["olora", ["setting", "runs", "orders", "seeds"]].tolist() == ["lambda1=0.1", 3, 2, 2]
    assert found.loc["olora", "AA_options"] == pytest.approx((50 + 56 + 52) / 3) and found.loc["slao", "BWT"] == pytest.approx(-41.75)
    d = np.array([20.0, -4, 11])
    assert found.loc["olora", "AA_options_minus_seqlora"] == pytest.approx(d.mean())
    assert found.loc["olora", "AA_options_minus_seqlora_half"] == pytest.approx(4.302653 * d.std(ddof=1) / math.sqrt(3), rel=1e-5)
    assert found.loc["seqlora", "rank_options"] == "" and found.loc["olora", "rank_options"] == "1" and found.loc["slao", "rank_options"] == "2"
    shown = findings.readable(findings.methods(runs())).set_index("method")
    assert list(shown.index) == ["O-LoRA (lambda1=0.1)", "SLAO", "Sequential LoRA"]
    assert shown["orders × seeds"].tolist() == ["3", "2 × 2", "2 × 2"] and shown.loc["SLAO", "AA labels"] == "41.8 ± 1.7"
    assert shown.loc["O-LoRA (lambda1=0.1)", "labels less seqlora"].startswith("+9.0 ± ")


def test_a_sentence_says_no_more_than_the_interval_carries():
    assert findings.told(SCORES, "olora (lambda1=0.1)", "slao").startswith(
        "O-LoRA (lambda1=0.1) is above SLAO: average accuracy +10.7 ± 2.9 points against it, 95 % interval over 3 runs")
    assert findings.told(SCORES, "slao", "olora (lambda1=0.1)", "score").startswith("SLAO is below O-LoRA (lambda1=0.1): score −10.7")
    unsure = findings.told(SCORES, "slao", "seqlora")
    assert unsure.startswith("SLAO and Sequential LoRA are not told apart") and unsure.endswith("over 4 runs, which holds 0.")
    assert findings.told(SCORES[:1], "slao", "seqlora") == "SLAO and Sequential LoRA share 1 run: no interval, and nothing to tell."
    table = findings.against(SCORES, "slao")
    assert table["verdict"].tolist() == ["above", "not told apart"] and table["runs"].tolist() == [3, 4]
    assert findings.quoted("SLAO, random start") == "“SLAO, random start”" and findings.quoted("SLAO") == "SLAO"


def matrices(orders=(("a", "b"), ("b", "a")), seeds=(0, 1)) -> pd.DataFrame:
    """R of two methods: slao's last row is 50 + 10 k for the task learned k-th, the diagonal 90; seqlora's is 5 apart a seed."""
    rows = []
    for method, (number, names), seed in itertools.product(("slao", "seqlora"), enumerate(orders, 1), seeds):
        last = {name: 50 + 10 * k + (5 * seed * k if method == "seqlora" else 0) for k, name in enumerate(names)}
        for after, cells in ((names[0], {names[0]: 90 - seed}), (names[1], last)):
            rows.append({"stream": "toy", "order": str(number), "named": False, "model": "tiny", "method": method, "setting": None,
                         "seed": seed, "reading": "labels", "after": after} | cells)
    return pd.DataFrame(rows)


def test_order_disparity_is_computed_for_every_seed_and_then_averaged():
    found = findings.disparity(matrices()).set_index("method")
    assert found.loc["slao", ["orders", "seeds", "MOPD", "AOPD", "AOPD_sd"]].tolist() == [2, 2, 10, 10, 0]
    by_hand = [metrics.order_disparity({"1": {"a": 50, "b": last}, "2": {"b": 50, "a": last}}) for last in (60, 65)]
    assert found.loc["seqlora", ["MOPD", "AOPD"]].tolist() == np.mean(by_hand, axis=0).tolist() and list(found.index) == ["slao", "seqlora"]
    lame = matrices()
    lame = lame[~((lame["method"] == "slao") & (lame["order"] == "2") & (lame["seed"] == 1))]
    assert findings.disparity(lame).set_index("method").loc["slao", "seeds"] == 1          # the seed that has both orders
    assert findings.disparity(matrices(orders=(("a", "b"),))).empty


def test_scores_of_several_orders_have_a_row_an_order_and_seed():
    found = seed_scores(matrices())
    assert found.index.names == ["order", "seed"] and found["slao"].tolist() == [55] * 4 and found["seqlora"].tolist() == [55, 57.5] * 2
    assert seed_scores(matrices(), order="2").index.tolist() == [0, 1]
    with pytest.raises(InputError, match="one stream and base, found 2"):
        seed_scores(pd.concat([matrices(), matrices().assign(model="small")]))


def test_the_newest_task_is_the_diagonal_and_its_ends_are_means_over_a_share_of_the_tasks():
    found = findings.newest(matrices())
    assert found["slao"].columns.tolist() == [1, 2] and found["slao"][1].tolist() == [90, 89, 90, 89] and found["slao"][2].tolist() == [60] * 4
    values = {"slao": pd.DataFrame([range(20), range(1, 21)], columns=range(1, 21))}
    first, last = findings.ends(values)
    assert first["slao"].tolist() == [0.5, 1.5] and last["slao"].tolist() == [18.5, 19.5]


def test_a_task_that_comes_again_is_scored_twice_just_learned_and_around_its_second_training():
    """Scored anew now and then; "d" returns before it was scored again."""
    nan = float("nan")
    names = ["a", "b", "c", "a-again", "b-changed", "d", "d-again"]
    R = [[91, nan, nan, nan, nan, nan, nan],
         [71, 92, nan, nan, nan, nan, nan],
         [nan, 66, 93, nan, nan, nan, nan],
         [84, 52, 63, 84, nan, nan, nan],
         [nan, nan, nan, nan, 95, nan, nan],
         [76, 16, 56, 76, 86, 96, nan],
         [nan, nan, nan, nan, nan, nan, 97]]
    table = pd.DataFrame(R, columns=names).assign(stream="toy", order="1", named=False, model="tiny", method="slao", setting=None, seed=4,
                                                  reading="labels", after=names)
    found = findings.returns(table).set_index("task")
    assert found.loc["a"].to_dict() == {"method": "slao", "order": "1", "seed": 4, "how": "again", "first": 91, "before": 71, "second": 84,
                                        "after": 84}
    assert found.loc["b", ["how", "first", "before", "second", "after"]].tolist() == ["changed", 92, 52, 95, 16]
    assert list(found.index) == ["a", "b"] and findings.returns(matrices()).empty
    assert list(findings.returns(table.rename(columns={"b": "x"}).replace({"after": {"b": "x"}}))["task"]) == ["a"]      # a first of that name is not there


@pytest.mark.parametrize("wrong, told", [
    (lambda: findings.run_scores(pd.concat([runs(), runs().assign(model="small")])), "one stream, base and form of prompt, found 2"),
    (lambda: findings.run_scores(runs()[:0]), "a row a run"), (lambda: findings.run_scores(runs(), "FWT"), "FWT"),
    (lambda: findings.against(SCORES, "ewc"), "scores of ewc and of another method"),
])
def test_what_cannot_be_read_is_told(wrong, told):
    with pytest.raises(InputError, match=told):
        wrong()
