"""The two views of updates: what is drawn is what the table says, and the title too."""
import numpy as np
import pandas as pd
import pytest
from test_plots_geometry import subtitle, title

from mbf_utils import plots_views as plots
from mbf_utils import updates
from mbf_utils.errors import InputError
from mbf_utils.plots import Picture

KINDS = {"attention": ("q_proj", "v_proj"), "MLP": ("up_proj",)}


def placed(learned, drift, layers=(0, 1), tasks=(1, 2)):
    """learned, drift: called with (task, layer, part)."""
    return pd.DataFrame([(task, f"layers.{layer}.{kind}", layer, part, kind, learned(task, layer, part), drift(task, layer, part),
                          3.0) for task in tasks for layer in layers for part, kinds in KINDS.items() for kind in kinds],
                        columns=["task", "module", "layer", "part", "kind", "learned", "drift", "effective"])


def by_part(attention, mlp):
    return lambda task, layer, part: attention if part == "attention" else mlp


def shared(rows, columns, both, own, expected=(0.1, 0.1, 0.01, 0.81), tasks=(2, 3)):
    parts = dict(zip(updates.PARTS, zip((rows, columns, both, own), expected)))
    return pd.DataFrame([(task, module, part, *values, 1.0)
                         for task in tasks for module in ("q", "v") for part, values in parts.items()],
                        columns=["task", "module", "part", "value", "expected", "energy"])


# placement
def test_placement_is_three_heat_maps_of_layers_by_modules():
    table = placed(lambda task, layer, part: task + 10 * layer + (part == "MLP"),
                   lambda task, layer, part: 0.0 if task == 2 else 5.0 + layer)
    figure = plots.placement(table, relative=False)
    assert isinstance(figure, Picture)
    learned, drift, rank = figure.axes
    np.testing.assert_allclose(learned.images[0].get_array(), [[1.5, 1.5, 2.5], [11.5, 11.5, 12.5]])
    np.testing.assert_allclose(drift.images[0].get_array(), [[5, 5, 5], [6, 6, 6]])          # the last task has not drifted yet
    np.testing.assert_allclose(rank.images[0].get_array(), np.full((2, 3), 3.0))
    assert [label.get_text() for label in learned.get_xticklabels()] == ["q", "v", "up"]     # attention, then MLP
    assert learned.lines[0].get_xdata()[0] == 1.5                    # the line between them
    assert [text.get_text() for text in rank.texts][:2] == ["3.0", "3.0"]


@pytest.mark.parametrize("relative", [True, False])
def test_the_subtitle_says_whether_norms_are_relative(relative):
    table = placed(by_part(0.1, 0.2), by_part(0.1, 0.2))
    assert ("by the norm of the base's weight" in subtitle(plots.placement(table, relative))) is relative


@pytest.mark.parametrize("learned, drift, words", [
    (by_part(0.1, 0.2), by_part(0.3, 0.6), 
     "MLP modules learn more than attention (0.20 against 0.10) and drift more than attention (0.60 against 0.30)"),
    (by_part(0.4, 0.2), by_part(0.3, 0.6), 
     "Attention modules learn more than MLP (0.40 against 0.20); MLP modules drift more than attention (0.60 against 0.30)"),
    (by_part(0.2, 0.21), by_part(0.3, 0.3), 
     "Attention and MLP modules learn alike (0.21 against 0.20) and drift alike (0.30 against 0.30)")])
def test_the_title_of_placement_tells_who_moves(learned, drift, words):
    assert title(plots.placement(placed(learned, drift), True)) == words


def test_the_title_names_the_layer_that_learns_most_where_one_does():
    table = placed(lambda task, layer, part: 0.1 + 0.3 * (layer == 1), by_part(0.1, 0.2))
    assert title(plots.placement(table, True)).endswith("; layer 1 learns most")
    for drift, words in ((0.0, "MLP modules learn by 0.20"), (0.1, "MLP modules learn by 0.20 and drift by 0.10")):
        one = placed(by_part(0.1, 0.2), by_part(drift, drift), layers=(4,), tasks=(1,))
        assert title(plots.placement(one[one.part == "MLP"], True)) == words


def test_a_deep_model_has_colours_instead_of_numbers():
    figure = plots.placement(placed(by_part(0.1, 0.2), by_part(0.1, 0.2), layers=range(32)), True)
    assert not any(axis.texts for axis in figure.axes) and len(figure.axes) == 6             # three maps, three colour bars
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:2] == ["0", "9"]


# shares
def test_shares_are_stacked_to_one():
    table = shared(0.6, 0.3, 0.2, 0.3)
    found = plots.pieces(updates.over_modules(table))
    assert found.groupby("task").value.sum().tolist() == pytest.approx([1, 1])
    assert found.groupby("task").expected.sum().tolist() == pytest.approx([1, 1])
    figure = plots.shares({"slao": table}, ["one", "two", "three"])
    strong, pale = figure.axes[0].collections[:4], figure.axes[0].collections[4:]
    boxes = [[path.get_extents() for path in piece.get_paths()] for piece in (*strong, *pale)]         # a piece's bars, task by task
    assert [[box.height for box in bars] for bars in boxes[:4]] == [pytest.approx([size] * 2) for size in (0.2, 0.4, 0.1, 0.3)]
    assert [bars[0].height for bars in boxes[4:]] == pytest.approx([0.01, 0.09, 0.09, 0.81])
    for one in (boxes[:4], boxes[4:]):                                                                 # each stands on the last
        assert [bars[1].y0 for bars in one] == pytest.approx([0, *(bars[1].y1 for bars in one[:3])]) and one[3][1].y1 == pytest.approx(1)
    assert [piece.get_label() for piece in strong] == ["rows and columns", "rows alone", "columns alone", "its own"]
    assert all(piece.get_label().startswith("_") and piece.get_alpha() < 1 for piece in pale)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["2 two", "3 three"]
    for task in (2, 3):
        assert all(task - 0.5 < bars[task - 2].x0 < bars[task - 2].x1 < task for bars in boxes[:4])
        assert all(task < bars[task - 2].x0 < bars[task - 2].x1 < task + 0.5 for bars in boxes[4:])


def test_the_title_of_shares_tells_what_is_the_last_tasks_own():
    both = {"slao": shared(0.6, 0.3, 0.2, 0.3), "per_task": shared(0.3, 0.2, 0.05, 0.55)}
    assert title(plots.shares(both)) == ("30 % of the last task's update with SLAO and 55 % with one adapter a task (oracle) is its "
                                         "own; of a random one 81 %")
    assert [axis.get_title(loc="left") for axis in plots.shares(both).axes] == ["SLAO", "One adapter a task (oracle)"]
    both["seqlora"] = shared(0.6, 0.3, 0.2, 0.31, expected=(0.1, 0.1, 0.01, 0.7))
    both["inclora"] = shared(0.6, 0.3, 0.2, 0.32, expected=(0.1, 0.1, 0.01, 0.75))
    assert title(plots.shares(both)).endswith("(oracle), 31 % with sequential LoRA and 32 % with IncLoRA is its own; of a random "
                                              "one 70 to 81 %")
    nothing = shared(np.nan, np.nan, np.nan, np.nan)
    assert title(plots.shares({"slao": nothing})) == "The last task changed nothing, so nothing is its own"


def test_other_tables_are_refused():
    for call in (lambda: plots.placement(pd.DataFrame({"task": [1]}), True), lambda: plots.shares({"slao": pd.DataFrame()}),
                 lambda: plots.shares({})):
        with pytest.raises(InputError, match="expected a table"):
            call()
