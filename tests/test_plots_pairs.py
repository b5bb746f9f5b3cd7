"""Figures of pairs and of bounds over methods: what is drawn is what the table says, and so does the title."""
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from mbf_utils import plots_pairs as plots
from mbf_utils.errors import InputError
from mbf_utils.looks import LOOKS
from mbf_utils.plots_geometry import FACTORS


def title(figure):
    return " ".join(figure.texts[0].get_text().split())


def subtitle(figure):
    return " ".join(figure.texts[1].get_text().split())


def steps(A, B):
    return pd.DataFrame([(k, factor, value) for factor, values in (("A", A), ("B", B)) for k, value in enumerate(values, 1)],
                        columns=["step", "factor", "value"])


def carried(**scores):
    """trains -> {size: scores of the seeds}"""
    return pd.DataFrame([(trains, size, seed, score) for trains, sizes in scores.items() for size, found in sizes.items()
                         for seed, score in enumerate(found)], columns=["trains", "size", "seed", "score"])


def dots(**methods):
    return pd.DataFrame([(method, *dot) for method, found in methods.items() for dot in found],
                        columns=["method", "bound", "forgetting"])


def test_matrices_are_drawn_on_one_scale_around_zero_with_cells_of_one_size():
    B, A = torch.tensor([[2.], [0.], [-3.]], requires_grad=True), torch.tensor([[1., 0., -1., 2.]])
    figure = plots.matrices({"B": B, "A": A, "s B A": 0.5 * B @ A}, title="x")
    figure.draw_without_rendering()
    images = [axis.images[0] for axis in figure.axes]
    assert [image.get_clim() for image in images] == [(-3, 3)] * 3
    np.testing.assert_array_equal(images[2].get_array(), (0.5 * B @ A).detach())
    cells = [axis.transData.transform([(0, 0), (1, 1)]) for axis in figure.axes]
    sizes = np.abs([high - low for low, high in cells])             # (3, 2): pixels of one entry
    np.testing.assert_allclose(sizes, sizes[:1, :1].repeat(3, 0).repeat(2, 1), rtol=0.02)
    assert [axis.texts[-1].get_text() for axis in figure.axes] == ["B  (3 × 1)", "A  (1 × 4)", "s B A  (3 × 4)"]


def test_small_matrices_show_their_numbers_rounded_and_without_a_negative_zero():
    texts = [text.get_text() for text in plots.matrices({"M": [[1.234, -0.5], [-0.0001, 0]]}, title="x").axes[0].texts]
    assert texts[:4] == ["1.23", "−0.5", "0", "0"]
    large = plots.matrices({"M": np.eye(6)}, title="x")
    assert len(large.axes[0].texts) == 1 and len(large.axes) == 2        # its name; beside it a scale


@pytest.mark.parametrize("found", [{}, {"M": np.ones(3)}, {"M": np.ones((2, 0))}])
def test_what_is_no_matrix_is_refused(found):
    with pytest.raises(InputError, match="expected matrices by name"):
        plots.matrices(found, title="x")


def test_a_matrix_of_zeros_is_drawn():
    assert plots.matrices({"M": np.zeros((2, 2))}, title="x").axes[0].images[0].get_clim() == (-1, 1)


@pytest.mark.parametrize("A, B, says", [
    ([0, .1, .2], [.3, .4, .5], "At step 1 only B has a gradient; A's begins at step 2"),
    ([.1, .2], [0, .2], "At step 1 only A has a gradient; B's begins at step 2"),
    ([0, 0, .1], [0, .1, .1], "At step 2 only B has a gradient; A's begins at step 3"),
    ([.1, .2], [.1, 0], "Both factors have a gradient from step 1 on"),
    ([0, 0], [.1, .1], "A has no gradient at any step"), ([0, 0], [0, 0], "A and B have no gradient at any step"),
])
def test_who_learns_first_is_read_off_the_gradients(A, B, says):
    figure = plots.gradients(steps(A, B))
    assert title(figure) == says
    assert {line.get_label(): line.get_ydata().tolist() for line in figure.axes[0].lines} == {"A": A, "B": B}
    assert [line.get_color() for line in figure.axes[0].lines] == [FACTORS["A"][0], FACTORS["B"][0]]


def test_what_one_factor_carries_is_the_mean_over_the_seeds():
    table = carried(B={2.0: (90, 94), 0.5: (50, 60)}, A={0.5: (40, 50), 2.0: (80, 90)}, AB={0.5: (91, 93), 2.0: (95, 95)})
    figure = plots.alone(table)
    assert title(figure) == "At size 0.5 B alone reaches 55 % and A alone 45 %, at size 2 B alone 92 % and A alone 85 %"
    lines = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[0].lines if not line.get_label().startswith("_")}
    assert lines == {"A and B": [92, 95], "B alone, A frozen": [55, 92], "A alone, B frozen": [45, 85]}
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0.5", "2"]
    scattered = [line for line in figure.axes[0].lines if line.get_label().startswith("_")]
    assert sorted(value for line in scattered for value in line.get_ydata()) == sorted(table.score)
    assert "mean of 2 seeds" in subtitle(figure) and "One seed" in subtitle(plots.alone(table[table.seed == 0]))


def test_with_one_size_or_one_factor_the_title_claims_no_more():
    assert title(plots.alone(carried(B={1.0: (90,)}, A={1.0: (80,)}))) == "B alone reaches 90 % and A alone 80 %"
    assert "nothing to compare" in title(plots.alone(carried(B={1.0: (90,)}, AB={1.0: (80,)})))


def test_bounds_stand_beside_what_was_measured_method_by_method():
    table = dots(slao=[(1, 10), (2, 20), (3, 30)], seqlora=[(4, 60), (5, 50), (6, 40), (7, np.nan)])
    figure = plots.bounds(table)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["SLAO: ρ = 1.00", "Sequential LoRA: ρ = −1.00"]
    assert title(figure) == "Bound against forgetting: rank correlation −1.00 to 1.00 within a method, 0.77 over all"
    for axis, method in zip(figure.axes, ("slao", "seqlora")):
        others, mine = axis.lines[:2]
        rows = table[table.method == method].dropna()
        assert to_hex(mine.get_color()).lower() == LOOKS[method][0].lower() and mine.get_marker() == LOOKS[method][1]
        assert list(zip(mine.get_xdata(), mine.get_ydata())) == list(zip(rows.bound, rows.forgetting))
        assert len(others.get_xdata()) == 3


def test_rank_correlations_are_spearmans_with_ties():
    table = dots(slao=[(1, 10), (2, 10), (3, 40), (4, 20), (4, 50)])
    expected = table.bound.corr(table.forgetting, method="spearman")
    assert f"{expected:.2f} within a method, {expected:.2f} over all" in title(plots.bounds(table))


@pytest.mark.parametrize("found", [{"slao": [(1, 5), (2, 6)]}, {"slao": [(1, 5), (1, 6), (1, 7)]}])
def test_too_few_or_equal_dots_rank_nothing(found):
    figure = plots.bounds(dots(**found))
    assert "cannot be said" in title(figure) and figure.axes[0].get_title(loc="left").endswith("ρ = –")


def test_intransigence_is_another_column():
    table = dots(slao=[(1, 10), (2, 20), (3, 30)]).rename(columns={"forgetting": "intransigence"})
    figure = plots.bounds(table, "intransigence", title="mine")
    assert title(figure) == "mine" and "intransigence that was measured" in subtitle(figure)
    assert figure.axes[0].get_ylabel() == "intransigence (points)"


@pytest.mark.parametrize("draw", [plots.gradients, plots.alone, plots.bounds])
def test_another_table_is_refused(draw):
    for wrong in (None, pd.DataFrame(), pd.DataFrame({"method": ["slao"]})):
        with pytest.raises(InputError, match="expected a table with rows and the columns"):
            draw(wrong)


@pytest.mark.parametrize("figure", [
    plots.matrices({"W": np.eye(64), "M": np.ones((64, 8))}, title="A title so long that it takes two lines of the page"),
    plots.bounds(dots(**{name: [(1, 10), (2, 20), (3, 30)] for name in ("slao", "seqlora", "slao_preserve", "slao_random")}))])
def test_titles_lie_on_the_page_and_above_the_axes(figure):
    figure.draw_without_rendering()
    heads = [text.get_window_extent() for text in figure.texts[:2]]
    assert all(head.x1 <= figure.bbox.x1 and head.y1 <= figure.bbox.y1 for head in heads)
    assert all(axis.bbox.y1 <= heads[1].y0 for axis in figure.axes)
