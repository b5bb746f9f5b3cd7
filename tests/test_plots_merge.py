"""The picture of the merge explorer: bars, weights, title and sentence say what the table says."""
import numpy as np
import pytest
from test_plots_geometry import subtitle, title

from mbf_utils import plots_merge as plots
from mbf_utils.errors import InputError
from mbf_utils.plots import Picture
from mbf_utils.remerge import READINGS, compared, constant, power, weights


def answered(*shares, n=20):
    """(2, n) of bool a task: of both readings, so many of n right."""
    return [np.stack([np.arange(n) < share, np.arange(n) < min(n, share + 5)]) for share in shares]


NAMES = ["one", "two", "three"]
NEW, OWN = answered(4, 10, 15), answered(0, 12, 18)
TABLE, WEIGHTS = compared(NAMES, NEW, OWN), weights("B", power(0.5), 3)


def heights(axis):
    return {bars.get_label(): [patch.get_height() for patch in bars] for bars in axis.containers if hasattr(bars, "patches")}


def test_a_panel_a_reading_and_one_for_the_weights():
    figure = plots.merged_anew(TABLE, WEIGHTS, "B merged at 1/√i", "START")
    assert isinstance(figure, Picture)
    assert subtitle(figure).startswith("Each task trained from START; asked on its first 20 test rows.")
    exact, options, right = figure.axes
    assert [axis.get_title(loc="left") for axis in (exact, options)] == list(READINGS)
    for axis, reading in ((exact, READINGS[0]), (options, READINGS[1])):
        some = TABLE[TABLE.reading == reading]
        assert heights(axis) == {plots.NEW: some.value.tolist(), plots.OWN: some.own.tolist()}
        assert [label.get_text() for label in axis.get_xticklabels()] == [*NAMES, "mean"]
    found = heights(right)
    assert found["B"] == pytest.approx(WEIGHTS[WEIGHTS.factor == "B"].weight.tolist()) and found["A"] == [0, 0, 1]


def test_the_error_bars_are_the_tables():
    exact = plots.merged_anew(TABLE, WEIGHTS, "", "START")
    lines = [container for container in exact.axes[0].containers if not hasattr(container, "patches")]
    some = TABLE[TABLE.reading == READINGS[0]]
    for bars, low, high in zip(lines, ("low", "own_low"), ("high", "own_high")):
        segments = bars.lines[2][0].get_segments()
        np.testing.assert_allclose([segment[:, 1] for segment in segments[:3]], some[[low, high]].to_numpy()[:3])
    mean = some.iloc[-1]
    np.testing.assert_allclose(lines[0].lines[2][0].get_segments()[3][:, 1], [mean.value - mean.half, mean.value + mean.half])


def test_the_title_tells_what_another_merge_gives_and_whether_it_is_within_the_error():
    assert title(plots.merged_anew(compared(NAMES, NEW, NEW), WEIGHTS, "B merged at 1/√i", "START")) == \
        ("B merged at 1/√i: 48 % by exact match and 73 % by best of the task's labels; every row is answered as by the run's own "
         "merge")
    found = title(plots.merged_anew(TABLE, WEIGHTS, "How", "START"))
    assert found.startswith("How: 48 % by exact match and 73 % by best of the task's labels; −1.7")
    rows = TABLE[TABLE.task == "mean"]
    for row in rows.itertuples():
        within = "" if abs(row.difference) > row.half else " (within the error)"
        assert f"{row.difference:+.1f}{within}".replace("-", "−") in found
    better = compared(NAMES, answered(15, 15, 15), answered(0, 0, 0))
    assert "+75.0 and +75.0 against the run's own merge" in title(plots.merged_anew(better, WEIGHTS, "How", "START"))


def test_equal_means_of_other_rows_are_not_the_same_answers():
    turned = [part[:, ::-1] for part in NEW]
    found = title(plots.merged_anew(compared(NAMES, turned, NEW), WEIGHTS, "How", "START"))
    assert "+0.0 (within the error)" in found and "every row" not in found


@pytest.mark.parametrize("merge, words", [("B", "B: 0.16, 0.24, 0.60."), ("AB", "A: 0.16, 0.24, 0.60; B: 0.16, 0.24, 0.60."),
                                          ("", "none is merged, so the last task's count alone.")])
def test_the_sentence_has_the_numbers(merge, words):
    found = plots.merged_anew_in_words(TABLE, weights(merge, constant(0.6), 3), "How", merge, "START")
    row = TABLE[(TABLE.task == "mean") & (TABLE.reading == READINGS[0])].iloc[0]
    assert found.startswith(f"How, mean of 3 tasks, 60 rows: by exact match {row.value:.1f} % (the run itself {row.own:.1f}, "
                            f"difference {row.difference:+.1f} ± {row.half:.1f})".replace("-", "−"))
    assert "By exact match one 20 (0), two 50 (60), three 75 (90)." in found
    assert found.endswith(f"{words} Each task trained from START.")


def test_a_table_without_means_is_refused():
    with pytest.raises(InputError, match="tasks' mean"):
        plots.merged_anew(TABLE[TABLE.task != "mean"], WEIGHTS, "How", "START")
