"""The figures of a comparison: points at the means, intervals by hand, titles that say no more than the seeds carry."""
import math

import numpy as np
import pandas as pd
import pytest

from mbf_utils import plots_results
from mbf_utils.errors import InputError

SCORES = pd.DataFrame({"slao": [40.0, 44, 42], "slao_random": [20.0, 25, 24], "olora (lambda1=0.1)": [50.0, 56, 52], "seqlora": [30.0, 60, 41]})


def title(figure):
    return figure.texts[0].get_text().replace("\n", " ")


def rows(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_differences_are_paired_means_with_t_intervals_the_highest_on_top():
    figure = plots_results.differences(SCORES, "slao")
    assert rows(figure) == ["O-LoRA (lambda1=0.1)", "Sequential LoRA", "SLAO, random start"]
    bars = figure.axes[0].containers
    d = np.array([10.0, 12, 10])
    half = 4.302653 * d.std(ddof=1) / math.sqrt(3)
    (low, high), = [segment[:, 0] for segment in bars[0].lines[2][0].get_segments()]
    assert bars[0].lines[0].get_xdata()[0] == pytest.approx(d.mean()) and (high - low) / 2 == pytest.approx(half, rel=1e-5)
    hollow = [bar.lines[0].get_markerfacecolor() == "white" for bar in bars]
    assert hollow == [False, True, False]                            # of sequential LoRA the interval holds 0
    assert title(figure) == ("O-LoRA (lambda1=0.1) is above SLAO; “SLAO, random start” is below it; "
                             "the runs do not tell sequential LoRA from it")
    assert title(plots_results.differences(SCORES[["slao", "seqlora"]], "slao")) == "The runs do not tell sequential LoRA from SLAO"
    assert title(plots_results.differences(SCORES[["slao", "slao_random"]], "slao")) == "“SLAO, random start” is below SLAO"


def test_seeds_that_one_of_both_lacks_are_left_out():
    scores = SCORES.assign(seqlora=[30.0, math.nan, 41.0])
    figure = plots_results.differences(scores, "slao")
    assert figure.axes[0].containers[1].lines[0].get_xdata()[0] == pytest.approx((-10 - 1) / 2)
    assert "2 to 3 runs" in figure.texts[1].get_text().replace("\n", " ")


def test_orders_show_the_mean_of_each_order_and_name_the_widest():
    runs = pd.DataFrame([("slao", order, seed, 40 + 10 * (order == "2") + seed) for order in "12" for seed in (0, 2)]
                        + [("seqlora", order, seed, 30 + 3 * (order == "2") - seed) for order in "12" for seed in (0, 2)],
                        columns=["method", "order", "seed", "AA"])
    figure = plots_results.orders(runs)
    assert rows(figure) == ["SLAO", "Sequential LoRA"] and title(figure) == "The order moves SLAO most, by 10 points, and sequential LoRA least, by 3"
    marks = {(line.get_marker(), line.get_ydata()[0]): line.get_xdata()[0] for line in figure.axes[0].get_lines()
             if line.get_marker() != "None" and len(line.get_xdata())}
    assert marks == {("o", 0): 41, ("s", 0): 51, ("o", 1): 29, ("s", 1): 32}


@pytest.mark.parametrize("draw", [
    lambda: plots_results.differences(SCORES, "ewc"), lambda: plots_results.differences(SCORES[["slao"]], "slao"),
    lambda: plots_results.orders(pd.DataFrame({"method": ["slao"], "order": ["1"], "AA": [1.0]})),
])
def test_without_anything_to_compare_it_says_so(draw):
    with pytest.raises(InputError, match="expected"):
        draw()


def newest(last, count=30, runs=3):
    """Scores on the newest task that go from 90 to `last` in equal steps, a row a run."""
    return pd.DataFrame([np.linspace(90, last, count) + run for run in range(runs)], columns=range(1, count + 1))


def test_the_newest_task_is_a_line_a_method_and_the_title_pairs_the_ends():
    figure = plots_results.newest({"seqlora": newest(90), "slao": newest(30)})
    axis = figure.axes[0]
    assert [line.get_label() for line in axis.get_lines()] == ["Sequential LoRA", "SLAO", "1/√i, in %"]
    slao, weight = (line.get_ydata() for line in axis.get_lines()[1:])
    assert slao[15] == pytest.approx(np.linspace(90, 30, 30)[14:17].mean() + 1) and weight[24] == pytest.approx(20)
    assert title(figure).startswith("At the end the newest task is answered 57.9 ± 0.0 points worse with SLAO than with sequential LoRA: 33 % and 91 %")
    one = plots_results.newest({"seqlora": newest(90), "slao": newest(30, runs=1)})
    assert title(one).startswith("One run of SLAO and of sequential LoRA: the newest task at the end: 32 % and 91 %")
    assert "mean of 1 to 3 runs" in one.alt and "mean of 3 runs" in figure.alt
    unsure = plots_results.newest({"slao": newest(90).sample(frac=1, random_state=0).reset_index(drop=True), "seqlora": newest(90)})
    assert title(unsure).startswith("At the end the runs do not tell SLAO from sequential LoRA")
    with pytest.raises(InputError, match="of seqlora and of another"):
        plots_results.newest({"slao": newest(30)})


def test_a_task_that_returns_is_four_points_a_method_in_a_panel_a_kind_and_the_title_has_the_way_of_one():
    rows = [{"method": method, "order": "1", "seed": seed, "task": task, "how": how, "first": 90 + seed, "before": 50 + 10 * seed + 4 * (task == "b"),
             "second": 80, "after": after} for method in ("seqlora", "slao") for seed in ((0,) if method == "seqlora" else (0, 1))
            for how, tasks, after in (("again", "ab", 70), ("changed", "c", 5)) for task in tasks]
    figure = plots_results.returns(pd.DataFrame(rows))
    again, changed = figure.axes
    assert [line.get_label() for line in again.get_lines()] == ["Sequential LoRA", "SLAO"]
    assert again.get_lines()[1].get_ydata().tolist() == [90.5, 57, 80, 70] and changed.get_lines()[0].get_ydata().tolist() == [90, 50, 80, 5]
    assert title(figure) == "With SLAO a task that comes again goes from 57 to 70 %, one that is contradicted from 55 to 5 %"
    assert "mean over 2 tasks in 1 to 2 runs" in figure.alt and again.get_title() != changed.get_title()
    for table, method in ((pd.DataFrame(rows), "ewc"), (pd.DataFrame(rows).query("how == 'again'"), "slao"), (pd.DataFrame(), "slao")):
        with pytest.raises(InputError, match=f"tasks of {method} that come again and some that are contradicted, found none"):
            plots_results.returns(table, method)
