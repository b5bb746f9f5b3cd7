"""The pictures of the explorers: what is drawn, what the title answers, and that the sentence says the same numbers."""
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import random_lora

from mbf_utils import geometry, plots, plots_example, plots_explore
from mbf_utils.errors import InputError
from mbf_utils.looks import colour
from mbf_utils.lora import Pair

TASKS = ["dbpedia", "amazon", "yahoo"]


def matrix(*rows):
    return pd.DataFrame([[*row, *[np.nan] * (3 - len(row))] for row in rows], columns=TASKS, index=TASKS)


SLAO = [matrix([90], [40, 80], [20, 85, 70]), matrix([94], [44, 84], [24, 89, 74])]
SEQUENTIAL = [matrix([90], [10, 80], [0, 60, 90])]


def title(figure):
    return figure.texts[0].get_text().replace("\n", " ")


def subtitle(figure):
    return figure.texts[1].get_text().replace("\n", " ")


def rgb(png):
    """(height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def heights(figures):
    return {round(figure.get_figheight(), 3) for figure in figures}


# ---- forgetting


def test_forgetting_shows_the_means_so_far_and_each_task_then_and_now():
    figure = plots_explore.forgetting({"slao": SLAO, "seqlora": SEQUENTIAL}, after=2, reading="options")
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [92, 62])     # the means of 90 and 94, of 40, 80, 44 and 84
    assert left.lines[0].get_color() == colour("slao") and len(left.collections) == 1       # a band where there are seeds
    dots = {(line.get_markerfacecolor(), float(line.get_ydata()[0])) for line in right.lines if line.get_linestyle() == "None"}
    assert dots == {("white", 92.0), (colour("slao"), 42.0), ("white", 82.0), (colour("slao"), 82.0),
                    ("white", 90.0), (colour("seqlora"), 10.0), ("white", 80.0), (colour("seqlora"), 80.0)}
    assert title(figure) == "After 2 tasks the mean is 62 % with SLAO, 45 % with sequential LoRA"
    assert "Scored by options; mean of 2 seeds" in subtitle(figure)


def test_forgetting_keeps_its_places_from_step_to_step():
    steps = [plots_explore.forgetting({"slao": SLAO}, after) for after in (1, 2, 3)]
    assert len(heights(steps)) == 1
    assert len({(axis.get_xlim(), axis.get_ylim()) for figure in steps for axis in figure.axes[:1]}) == 1
    assert len({figure.axes[1].get_xlim() for figure in steps}) == 1


def test_forgetting_in_words_says_the_numbers():
    words = plots_explore.forgetting_in_words({"slao": SLAO, "seqlora": SEQUENTIAL}, 3)
    assert words == ("After task 3 of 3 (yahoo), mean of the tasks so far in %: SLAO 60.3 ± 2.8, sequential LoRA 50.0. "
                     "Most was lost of dbpedia with sequential LoRA: 90.0 when learned, 0.0 now.")
    assert plots_explore.forgetting_in_words({"slao": SLAO}, 1).endswith("No earlier task could have been forgotten yet.")
    kept = [matrix([50], [60, 70], [60, 70, 80])]
    assert plots_explore.forgetting_in_words({"slao": kept}, 3).endswith("None of them is below what it was when learned.")


def test_unmeasured_scores_are_no_numbers():
    assert "SLAO not measured" in plots_explore.forgetting_in_words({"slao": [SLAO[0].where(SLAO[0] != 40)]}, 2)


# ---- subspaces


@pytest.fixture(scope="module")
def loras():
    return [random_lora({"m": (12, 9)}, rank=3, seed=seed) for seed in (1, 2, 3)]


def picture(loras, i, j, factor, **more):
    found = (geometry.overlap(loras), geometry.angles(loras[i - 1], loras[j - 1]), i, j, factor, TASKS, "here")
    return plots_explore.subspaces(*found, **more), plots_explore.subspaces_in_words(*found)


@pytest.mark.parametrize("factor", ["A", "B", "dW rows", "dW columns"])
def test_the_bars_are_cos2_and_their_mean_the_overlap(loras, factor):
    figure, words = picture(loras, 1, 3, factor)
    left, right = figure.axes
    bars = [bar.get_height() for bar in left.patches]
    mean, random = (line.get_ydata()[0] for line in left.lines)
    width = 12 if factor in ("A", "dW rows") else 9
    assert len(bars) == 3 and mean == pytest.approx(np.mean(bars)) and random == pytest.approx(3 / width)
    assert [text.get_text() for text in left.texts] == [f"{np.degrees(np.arccos(np.sqrt(bar))):.0f}°" for bar in bars]
    assert f"overlap {mean:.3f}, expected of random spaces {3 / width:.3f}" in words
    assert right.images[0].get_array()[0, 2] == pytest.approx(mean)
    frames = {(round(line.get_xdata().mean()), round(line.get_ydata().mean())) for line in right.lines}
    assert len(frames) == 2 and "here" in subtitle(figure) and words.startswith("here, ")


def test_the_title_compares_with_random_spaces(loras):
    near = [loras[0], {"m": Pair(loras[0]["m"].A + 0.01 * loras[1]["m"].A, loras[1]["m"].B)}]
    figure, _ = picture(near, 1, 2, "A")
    assert title(figure).startswith("Row spaces of A of dbpedia and amazon overlap by 1.00, far more than random ones")
    apart = torch.eye(12, dtype=torch.float64)
    figure, _ = picture([{"m": Pair(apart[:3], loras[0]["m"].B)}, {"m": Pair(apart[3:6], loras[0]["m"].B)}], 1, 2, "A")
    assert title(figure) == "Row spaces of A of dbpedia and amazon overlap by 0.00, less than random ones"
    assert title(picture(loras, 2, 2, "B")[0]) == "Column spaces of B of amazon and amazon: one adapter with itself, overlap 1.00"


def test_a_zero_matrix_has_no_directions(loras):
    zero = [loras[0], {"m": Pair(loras[1]["m"].A, 0 * loras[1]["m"].B)}]
    figure, words = picture(zero, 1, 2, "dW rows")
    assert "a zero matrix has no directions" in title(figure) and "no direction to compare" in words
    assert len(figure.axes[0].patches) == 0


def test_a_table_of_several_modules_is_refused(loras):
    two = [lora | {"n": lora["m"]} for lora in loras]
    with pytest.raises(InputError, match="in one module, found 2 such rows"):
        plots_explore.subspaces(geometry.overlap(two), geometry.angles(*two[:2]), 1, 2, "A", TASKS, "here")


# ---- spectra


def test_spectra_draw_the_task_and_the_effective_rank_of_all(loras):
    tables = {"slao": geometry.spectra(loras, 2.0), "seqlora": geometry.spectra(loras[::-1], 2.0)}
    figure = plots_explore.spectra(tables, 2, "here")
    left, right = figure.axes
    values = geometry.singular_values(loras[1]["m"], 2.0).numpy()
    for line in left.lines:                                              # the second task is the same in both
        np.testing.assert_allclose(line.get_ydata(), values)
    effective = [geometry.effective_rank(geometry.singular_values(lora["m"])) for lora in loras]
    np.testing.assert_allclose(right.lines[0].get_ydata(), effective)
    np.testing.assert_allclose(right.lines[1].get_ydata(), effective[::-1])
    assert right.lines[2].get_xdata()[0] == 2 and left.lines[0].get_linewidth() > left.lines[1].get_linewidth()
    assert title(figure) == f"After task 2 the updates use about {effective[1]:.1f} of 3 directions (effective rank)"
    words = plots_explore.spectra_in_words(tables, 2, "here")
    assert words.startswith(f"here, after task 2. SLAO: largest singular value {values[0]:.2f}, "
                            f"effective rank {effective[1]:.1f}, stable rank ")


def test_spectra_name_who_uses_most_and_least():
    flat, steep = ({"m": Pair(torch.eye(3, 5), torch.diag(torch.tensor(values)))} for values in ([1.0, 1, 1], [9.0, 0.1, 0.1]))
    tables = {"seqlora": geometry.spectra([steep]), "slao": geometry.spectra([flat])}
    assert title(plots_explore.spectra(tables, 1, "here")) == \
        "After task 1 the update of SLAO uses 3.0 of 3 directions (effective rank), that of sequential LoRA 1.1"
    assert title(plots_explore.spectra({"slao": tables["slao"]}, 1, "here")) == \
        "After task 1 the update of SLAO uses 3.0 of 3 directions (effective rank)"


# ---- one example


def beliefs(*moments):
    """moments: ({option: probability}, what is written, whether that is right)."""
    return pd.DataFrame([(after, option, p, wrote, right) for after, (options, wrote, right) in enumerate(moments)
                         for option, p in options.items()], columns=["after", "option", "probability", "wrote", "right"])


TABLE = beliefs(({"good": 0.01, "bad": 0.03}, "blue", False), ({"good": 0.6, "bad": 0.2}, "good", True),
                ({"good": 0.03, "bad": 0.01}, "red", False))


def test_an_example_shows_shares_and_what_the_options_have_together():
    figure = plots_example.example(TABLE, "is it ? answer :", ("good",), 1, ["one", "two"])
    cells, below = figure.axes
    np.testing.assert_allclose(cells.images[0].get_array(), [[25, 75, 75], [75, 25, 25]])
    assert [label.get_text() for label in cells.get_yticklabels()] == ["good ✓", "bad"]
    assert [text.get_text() for text in below.texts] == ["4", "blue", "80", "good ✓", "4", "red"]
    assert [label.get_text() for label in below.get_xticklabels()] == ["base", "1 one", "2 two"]
    for axis in (cells, below):                                          # the frame stands around the moment
        assert (axis.lines[0].get_xdata().min(), axis.lines[0].get_xdata().max()) == (0.5, 1.5)


def test_the_title_tells_what_is_written_from_what_is_known():
    wrong = "which is wrong; among the task's options"
    assert [title(plots_example.example(TABLE, "?", ("good",), after, ["one", "two"])) for after in (0, 1, 2)] == [
        f"Before the first task the model writes “blue”, {wrong} “bad” leads with 75 %, wrong too",
        "After task 1 the model writes “good”, which is right",
        f"After task 2 the model writes “red”, {wrong} the right one, “good”, leads with 75 %"]


def test_an_example_in_words_says_the_numbers():
    assert plots_example.example_in_words(TABLE, ("good",), 0, ["one", "two"]) == (
        "Before the first task the right answer, “good”, has 25 % of what the 2 options have together; the likeliest is “bad” "
        "with 75 %. All of them get 4 % of the probability; the model writes “blue”, which is wrong.")
    assert "After task 2 (two) the right answer, “good”, has 75 % of what the 2 options have together and is the likeliest" in \
        plots_example.example_in_words(TABLE, ("good",), 2, ["one", "two"])


def test_many_options_are_cut_to_the_likeliest_with_the_right_one():
    options = {f"o{i}": 0.001 * i for i in range(1, 31)}
    figure = plots_example.example(beliefs((options, "o30", False)), "?", ("o2",), 0, [])
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(shown) == plots_example.SHOWN and "o2 ✓" in shown and "o30" in shown and "o1" not in shown
    assert shown == sorted(shown, key=lambda label: int(label.split()[0][1:]))          # in their own order
    assert "The 14 likeliest of 30 options" in subtitle(figure)


def test_a_long_prompt_keeps_its_beginning_and_its_end():
    figure = plots_example.example(TABLE, "begin " + "word " * 400 + "answer :", ("good",), 0, ["one", "two"])
    prompt = figure.texts[2].get_text()
    assert prompt.startswith("begin") and prompt.endswith("answer :") and prompt.count("\n") < 5 and "…" in prompt


def test_the_pictures_of_an_explorer_have_one_size():
    assert len(heights(plots_example.example(TABLE, "word " * words, ("good",), after, ["one", "two"])
                       for words, after in ((5, 0), (90, 1), (400, 2)))) == 1


# ---- what they share with other figures


def test_a_title_keeps_room_for_more_lines():
    one, two = plots.canvas(8, 3, "short", "s", lines=2), plots.canvas(8, 3, "a title of two lines " * 4, "s", lines=2)
    assert one.get_figheight() == two.get_figheight() > plots.canvas(8, 3, "short", "s").get_figheight()


def test_a_sheet_holds_every_figure_under_its_caption():
    figures = [plots.canvas(4, 1, "left", "", lines=1), plots.canvas(6, 2, "right", "", lines=1)]
    for figure, shade in zip(figures, ("red", "blue")):
        figure.set_facecolor(shade)
    pixels = rgb(plots.sheet([("one", figures[0]), ("two", figures[1])]))
    red, blue = ((abs(pixels - shade).sum(axis=2) < 30) for shade in ((255, 0, 0), (0, 0, 255)))
    for found, figure in ((red, figures[0]), (blue, figures[1])):
        rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        width, height = (round(inches * plots.STILL) for inches in (figure.get_figwidth(), figure.get_figheight()))
        assert abs(np.ptp(columns) + 1 - width) <= 1 and abs(np.ptp(rows) + 1 - height) <= 1
    assert np.flatnonzero(red.any(axis=1)).max() < np.flatnonzero(blue.any(axis=1)).min()
    captions = (pixels.sum(axis=2) < 600) & ~red & ~blue
    assert captions[:np.flatnonzero(red.any(axis=1)).min()].any()


def test_the_colours_of_methods_stay_apart_on_a_sheet():
    matrices = {"slao": SLAO, "seqlora": SEQUENTIAL, "olora": [table - 1 for table in SLAO]}
    pixels = rgb(plots.sheet([("", plots_explore.forgetting(matrices, after)) for after in (2, 3)]))
    for method in ("slao", "seqlora", "olora"):
        wanted = [int(colour(method)[i:i + 2], 16) for i in (1, 3, 5)]
        assert abs(pixels - wanted).sum(axis=2).min() < 20, method


def test_the_quick_png_shows_the_same():
    figure = plots_explore.forgetting({"slao": SLAO}, 2)
    one, other = rgb(plots.png(figure)), rgb(plots.quick_png(figure))
    assert one.shape == other.shape and abs(one - other).mean() < 1
