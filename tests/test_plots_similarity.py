"""Pictures of pairs of tasks: lines, bars, title and sentence say what the table says."""
import numpy as np
import pandas as pd
import pytest
from test_plots_geometry import subtitle, title

from mbf_utils import explorers_tasks
from mbf_utils import plots_similarity as plots
from mbf_utils.errors import InputError
from mbf_utils.plots import Picture

GEOMETRY = {"cosine": 0.25, "size": 1.5, "rows": 0.8, "columns": 0.3, "both": 0.2, "own": 0.1, "rows_expected": 0.12,
            "columns_expected": 0.11, "both_expected": 0.01, "own_expected": 0.8}


def row(control, pair, method, seed, learned, left, rank=8, named=True, **geometry):
    exact = {"learned": learned, "left": left, "second": 91.0}
    scores = exact | {f"{key}_labels": value for key, value in exact.items()} | GEOMETRY | geometry
    return {"control": control, "named": named, "rank": rank, "pair": pair, "method": method, "seed": seed} | scores


def table(left, ranks=(8, 32), seeds=(0, 1, 2)):
    """left(likeness, method, seed, rank): what is left of the first task, which was learned to 90 % + seed."""
    rows = [row("agreement", f"{x:g}", method, seed, 90.0 + seed, left(x, method, seed, rank), rank, cosine=x / 2 + seed / 10)
            for rank in ranks for seed in seeds for x in (0, 0.5, 1) for method in ("seqlora", "slao")]
    rows += [row("agreement", "0", "multi_task", seed, 90.0 + seed, 80.0, rank) for rank in ranks for seed in seeds]
    rows += [row("surface", pair, method, seed, 88.0, 88.0 - 20 * k, named=False) | {"left_labels": 85.0}
             for k, pair in enumerate(plots.SEQUENCES) for method in ("seqlora", "slao") for seed in seeds]
    return pd.DataFrame(rows)


TABLE = table(lambda x, method, seed, rank: 80 * x + seed + 5 * (method == "slao"))


def bars(axis):
    return [bar.get_height() for group in axis.containers if hasattr(group, "patches") for bar in group]


def lines(axis):
    return {line.get_label(): line for line in axis.get_lines()}


def test_the_lines_are_means_over_the_seeds():
    figure = plots.likeness(TABLE, 0.5, 8, True)
    left, middle, right = figure.axes
    assert isinstance(figure, Picture)
    found = lines(left)
    np.testing.assert_allclose(found["Sequential LoRA"].get_ydata(), [1, 41, 81])
    np.testing.assert_allclose(found["SLAO"].get_ydata(), [6, 46, 86])
    assert set(found["the first when learned"].get_ydata()) == {91.0}
    np.testing.assert_allclose(found["where both agree"].get_ydata(), [0, 45.5, 91])
    both, = (found for found in left.containers if found.get_label() == "both tasks at once")
    assert both.lines[0].get_xydata().tolist() == [[0, 80]]
    drawn = [line.get_ydata() for line in middle.get_lines() if len(line.get_ydata()) == 3]
    np.testing.assert_allclose(drawn, [[0.1, 0.35, 0.6], [1.5] * 3] * 2)                     # cosine and norm, a method each
    assert bars(right) == pytest.approx([0.8, 0.3] * 2)
    chance = [line.get_ydata() for line in right.get_lines() if line.get_color() == "black" and line.get_linewidth() == 2.2]
    np.testing.assert_allclose(chance, [[0.12, 0.12], [0.11, 0.11]])
    assert all(any(set(line.get_xdata()) == {0.5} for line in axis.get_lines()) for axis in (left, middle))
    assert subtitle(figure).startswith("Rank 8; prompts name their task; mean of 3 seeds")


def test_the_bands_are_one_standard_deviation():
    left = plots.likeness(TABLE, 0.5, 8, True).axes[0]
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(1 - 1) and band.max() == pytest.approx(81 + 1)        # of 0, 1, 2 it is 1


def test_the_title_tells_what_is_left():
    assert title(plots.likeness(TABLE, 0.5, 8, True)) == \
        "At likeness 0.5 the first task falls from 91 % to 41 % with sequential LoRA and 46 % with SLAO"
    kept = table(lambda x, method, seed, rank: 95.0)
    assert title(plots.likeness(kept, 0.0, 8, True)) == \
        "At likeness 0.0 the first task goes from 91 % to 95 % with sequential LoRA and 95 % with SLAO"


def test_a_rank_has_rows_of_its_own():
    by_rank = table(lambda x, method, seed, rank: rank)
    for rank in (8, 32):
        assert f"to {rank} % with" in title(plots.likeness(by_rank, 0.5, rank, True))


def test_the_sentence_has_the_numbers():
    words = plots.likeness_in_words(TABLE, 0.0, 8, True)
    assert words.startswith("Likeness 0.0, rank 8, exact match in %. Sequential LoRA: 91.0 ± 1.0 when learned, 1.0 ± 1.0 after the second "
                            "task, which has 91.0 ± 0.0; the second update has 1.50 ± 0.00 times the first's norm and cosine 0.10 ± "
                            "0.10 with it; the share 0.80 ± 0.00 of it lies in the first's rows (random 0.12) and 0.30 ± 0.00 in its columns (random 0.11).")
    assert words.endswith("Both tasks at once: 80.0 ± 0.0 and 91.0 ± 0.0.")
    assert "SLAO: 91.0 ± 1.0 when learned, 86.0 ± 1.0 after" in plots.likeness_in_words(TABLE, 1.0, 8, True)
    assert "at once" not in plots.likeness_in_words(TABLE, 1.0, 8, True)


def test_what_was_not_measured_is_said():
    with pytest.raises(InputError, match=r"measured where prompts name their task \(8, 32\), found 4"):
        plots.likeness(TABLE, 0.0, 4, True)
    with pytest.raises(InputError, match="do not name their task"):
        plots.likeness(TABLE, 0.0, 8, False)
    with pytest.raises(InputError, match=r"likeness that was measured \(0, 0.5, 1\), found 0.3"):
        plots.likeness(TABLE, 0.3, 8, True)


def test_the_surface_is_a_group_a_pair_and_a_panel_a_reading():
    figure = plots.surface(TABLE)
    exact, labels = figure.axes
    assert bars(exact) == pytest.approx([88, 68, 48, 28] * 2)
    assert bars(labels) == pytest.approx([85.0] * 8)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["exact match", "best of the task's labels"]
    assert title(figure) == ("By exact match other answer words cost the first task 20 points, another question with the same words "
                             "40 points")
    kept = TABLE.assign(left=TABLE.left.where(TABLE.pair != plots.SEQUENCES[2], 89.0))
    assert title(plots.surface(kept)).endswith("another question with the same words nothing")


def test_other_tables_are_refused():
    for call in (lambda: plots.surface(TABLE[TABLE.control == "agreement"]),
                 lambda: plots.surface(TABLE[TABLE.pair != plots.SEQUENCES[3]]),
                 lambda: explorers_tasks.likeness(TABLE[TABLE.control == "surface"])):
        with pytest.raises(InputError, match="as figures/similarity.py makes them"):
            call()


# ---- the explorer
def test_every_control_of_the_likeness_moves_the_picture_and_the_sentence():
    measured = table(lambda x, method, seed, rank: 80 * x + rank / 8)
    bare = measured[(measured["rank"] == 8) & (measured.control == "agreement")].assign(named=False, left=3.0)
    explorer = explorers_tasks.likeness(pd.concat([measured, bare]))
    assert explorer.still.startswith(b"\x89PNG") and list(explorer.controls) == ["at", "rank", "named"]
    seen = {(bytes(explorer.picture.value), explorer.sentence)}
    for control, value in (("at", 0.5), ("named", False), ("named", True), ("rank", 32)):
        explorer.controls[control].value = value
        assert not explorer.failed
        seen.add((bytes(explorer.picture.value), explorer.sentence))
    assert len(seen) == 4 == len({picture for picture, _ in seen})
    explorer.controls["named"].value = False
    assert explorer.failed and "measured where prompts do not name their task (8), found 32" in explorer.sentence


def test_a_control_with_nothing_to_choose_is_left_out():
    assert list(explorers_tasks.likeness(TABLE).controls) == ["at", "rank"]
    assert list(explorers_tasks.likeness(TABLE[TABLE["rank"] == 32]).controls) == ["at"]
