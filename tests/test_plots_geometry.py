"""The figures of geometry: what is drawn is what the table says, and the title too, also where the table says the opposite."""
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from mbf_utils import geometry, theory
from mbf_utils import plots_geometry as plots
from mbf_utils.errors import InputError
from mbf_utils.looks import LOOKS
from mbf_utils.plots import Picture

MODULES = ("q", "v")


def title(figure):
    return figure.texts[0].get_text().replace("\n", " ")


def subtitle(figure):
    return figure.texts[1].get_text().replace("\n", " ")


def legend(axis):
    return [text.get_text() for text in axis.get_legend().texts]


def spectra(*by_task):
    return pd.DataFrame([(task, module, k, value) for task, values in enumerate(by_task, 1) for module in MODULES
                         for k, value in enumerate(values, 1)], columns=["task", "module", "k", "value"])


def pairs(T, **values):
    """{factor: value of every pair of different tasks}; a callable is given the two tasks."""
    tasks = range(1, T + 1)
    return pd.DataFrame([(i, j, module, factor, 1.0 if i == j else value(i, j) if callable(value) else value, 0.1)
                         for factor, value in values.items() for module in MODULES for i in tasks for j in tasks],
                        columns=["task_i", "task_j", "module", "factor", "value", "expected"])


def weights(measured, expected, factor="B"):
    tasks = [*enumerate(zip(measured, theory.increment_weights(measured), expected), 1)]
    return pd.DataFrame([(k, module, factor, w, c, 0.0, e) for module in MODULES for k, (w, c, e) in tasks],
                        columns=["task", "module", "factor", "weight", "increment", "residual", "expected"])


def bound(rows):
    return pd.DataFrame([(after, task, 0.4 * b, 0.6 * b, b, 0.5 * b, f) for after, task, b, f in rows],
                        columns=["after", "task", "A", "B", "bound", "dW", "forgetting"])


def carried(**lines):
    return pd.DataFrame([(method, tasks, count) for method, counts in lines.items() for tasks, count in counts.items()],
                        columns=["method", "tasks", "bytes"])


# spectra
def test_spectra_draw_a_line_a_task_and_both_ranks():
    figure = plots.spectra(spectra([4.0, 1, 0], [4.0, 4, 4]))
    left, right = figure.axes
    assert isinstance(figure, Picture) and figure._repr_png_().startswith(b"\x89PNG")
    assert [list(line.get_ydata()) for line in left.get_lines()] == [[4, 1, 0], [4, 4, 4]]
    assert legend(left) == ["after task 1", "after task 2"] and legend(right) == ["effective rank", "stable rank"]
    effective, stable = (line.get_ydata() for line in right.get_lines())
    np.testing.assert_allclose(effective, [geometry.effective_rank([4, 1]), 3])
    np.testing.assert_allclose(stable, [17 / 16, 3])


def test_spectra_are_means_over_the_modules():
    table = spectra([4.0, 2.0])
    table.loc[table.module == "v", "value"] *= 3
    assert list(plots.spectra(table).axes[0].get_lines()[0].get_ydata()) == [8, 4]


def test_the_title_of_spectra_tells_where_they_go():
    few, many = [4.0, 1e-9, 0], [4.0, 4, 4]
    assert title(plots.spectra(spectra(few, many))) == \
        "The updates spread over more directions: effective rank 1.0 after task 1, 3.0 of 3 after task 2"
    assert title(plots.spectra(spectra(many, few))) == \
        "The updates spread over fewer directions: effective rank 3.0 after task 1, 1.0 of 3 after task 2"
    assert title(plots.spectra(spectra(many, few, many))) == \
        "From the first task to the last the updates use about 3.0 of 3 directions (effective rank)"
    assert title(plots.spectra(spectra(many))) == "The update uses 3.0 of 3 directions (effective rank)"
    assert title(plots.spectra(spectra(many), title="Mine")) == "Mine"


def test_of_many_tasks_the_first_and_the_last_are_named():
    left = plots.spectra(spectra(*[[3.0, 2, 1]] * 15)).axes[0]
    assert len(left.get_lines()) == 15 and legend(left) == ["after task 1", "after task 15"]
    first, last = (np.mean(to_rgb(left.get_lines()[i].get_color())) for i in (0, -1))
    assert first < last < 0.8                       # dark to light, and still seen on white


# overlap
def test_the_overlap_is_a_heat_map_a_factor():
    figure = plots.overlap(pairs(3, A=lambda i, j: 0.1 * abs(i - j) + 0.5, B=0.2), names=["yelp", "amazon", "dbpedia"])
    one, two = (axis for axis in figure.axes if axis.images)
    np.testing.assert_allclose(one.images[0].get_array(), [[1, 0.6, 0.7], [0.6, 1, 0.6], [0.7, 0.6, 1]])
    assert [axis.get_title(loc="left") for axis in (one, two)] == ["row spaces of A", "column spaces of B"]
    assert [label.get_text() for label in one.get_yticklabels()] == ["1 yelp", "2 amazon", "3 dbpedia"]
    assert [text.get_text() for text in two.texts[:2]] == ["1.00", "0.20"] and one.images[0].get_clim() == (0, 1)
    assert subtitle(figure).endswith("Random spaces: 0.10.")


def test_the_cells_of_a_long_stream_carry_no_numbers():
    figure = plots.overlap(pairs(9, A=0.5, B=0.2))
    assert not figure.axes[0].texts and [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "5"]


def test_the_title_of_the_overlap_tells_which_is_larger():
    assert title(plots.overlap(pairs(3, A=0.9, B=0.5))) == \
        "The tasks' row spaces of A overlap more, 0.90, than their column spaces of B, 0.50"
    assert title(plots.overlap(pairs(3, A=0.2, B=0.5))) == \
        "The tasks' column spaces of B overlap more, 0.50, than their row spaces of A, 0.20"
    assert title(plots.overlap(pairs(3, A=0.5, B=0.51))) == \
        "The tasks' column spaces of B and their row spaces of A overlap alike, by 0.51"
    for value, relation in ((0.5, "far more than"), (0.15, "more than"), (0.1, "as much as"), (0.05, "less than")):
        assert title(plots.overlap(pairs(3, A=value, B=0.5), factors=["A"])) == \
            f"The tasks' row spaces of A overlap by {value:.2f}, {relation} random ones, 0.10"


def test_what_has_no_directions_is_left_blank():
    figure = plots.overlap(pairs(2, A=np.nan, B=np.nan))
    assert title(figure) == "There is nothing to overlap: a zero matrix has no directions"
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "–", "–", "1.00"]


# asymmetry
def test_the_asymmetry_is_a_line_a_factor_against_the_distance():
    figure = plots.asymmetry(pairs(3, A=lambda i, j: 1 - 0.1 * abs(i - j), B=0.2, dW=-0.1))
    axis, = figure.axes
    A, B, dW, zero = axis.get_lines()
    assert list(A.get_xdata()) == [1, 2] and list(A.get_ydata()) == pytest.approx([0.9, 0.8])
    assert list(B.get_ydata()) == pytest.approx([0.2, 0.2]) and list(dW.get_ydata()) == pytest.approx([-0.1, -0.1])
    assert legend(axis) == ["A", "B", "ΔW = B A"] and axis.get_ylim()[0] < -0.1
    assert len({line.get_color() for line in (A, B, dW)}) == len({line.get_marker() for line in (A, B, dW)}) == 3


def test_the_band_is_one_standard_deviation():
    table = pairs(2, A=0.5, B=0.5, dW=0.5)
    table.loc[(table.module == "v") & (table.factor == "A") & (table.task_i < table.task_j), "value"] = 0.7
    band = plots.asymmetry(table).axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(0.6 - 0.2 / 2 ** 0.5) and band.max() == pytest.approx(0.6 + 0.2 / 2 ** 0.5)


def test_the_title_of_the_asymmetry_tells_which_is_alike():
    assert title(plots.asymmetry(pairs(3, A=0.9, B=0.2, dW=0))) == \
        "The tasks' A's are more alike than their B's: cosine 0.90 against 0.20"
    assert title(plots.asymmetry(pairs(3, A=-0.1, B=0.2, dW=0))) == \
        "The tasks' B's are more alike than their A's: cosine 0.20 against −0.10"
    assert title(plots.asymmetry(pairs(3, A=0.21, B=0.2, dW=0))) == \
        "The tasks' A's and B's are equally alike: mean cosines 0.21 and 0.20"
    assert title(plots.asymmetry(pairs(3, A=0.2, B=np.nan, dW=0))) == "One factor is zero: it has no cosine"


def test_no_factor_has_the_colour_of_a_method():
    assert not {colour for colour, *_ in plots.FACTORS.values()} & {colour for colour, *_ in LOOKS.values()}


# the weights of the merge
CLOSED = [0.1, 0.3, 0.6]


def test_weights_are_drawn_by_the_schedule_and_as_measured():
    table = weights(CLOSED, CLOSED)
    table.loc[table.module == "v", "weight"] += 0.004
    left, right = plots.merge_weights(table).axes
    assert [list(line.get_ydata()) for line in left.get_lines()][:2] == [CLOSED, pytest.approx([0.102, 0.302, 0.602])]
    assert list(right.get_lines()[0].get_ydata()) == pytest.approx([1, 0.9, 0.6])
    assert legend(left) == ["schedule", "measured"] and left.get_ylabel() == "weight in the merged B" and not right.get_ylabel()


def test_the_title_of_the_weights_tells_whether_they_agree():
    assert title(plots.merge_weights(weights(CLOSED, CLOSED))) == \
        "The last task's B weighs 60 % in the merged one, the first task's 10.0 %; what is measured agrees"
    assert title(plots.merge_weights(weights([0.3, 0.3, 0.4], CLOSED))) == \
        "The tasks' measured weights in the merged B are not those of the schedule: they differ by up to 0.20"
    for step in (0.09, -0.09):                      # one module is enough
        table = weights(CLOSED, CLOSED)
        table.loc[0, "weight"] += step
        assert title(plots.merge_weights(table)).endswith("they differ by up to 0.09")
    assert title(plots.merge_weights(weights([np.nan] * 3, CLOSED, "A"), "A")) == \
        "What the tasks weigh in the merged A cannot be measured: A did not change from task to task"
    assert title(plots.merge_weights(weights([1.0], [1.0]))) == "The one task's B is the merged one"
    assert "first task's less than 0.1 %" in title(plots.merge_weights(weights([0.0005, 0.9995], [0.0005, 0.9995])))


def test_other_factors_of_the_table_are_left_out():
    table = pd.concat([weights([0, 0, 1.0], [0, 0, 1.0], "A"), weights(CLOSED, CLOSED)])
    assert list(plots.merge_weights(table).axes[0].get_lines()[0].get_ydata()) == CLOSED
    assert "A weighs 100 %" in title(plots.merge_weights(table, "A"))


# memory
def test_memory_is_a_line_a_method_in_one_unit():
    figure = plots.memory(carried(slao={1: 2000, 2: 2000}, inclora={1: 1000, 2: 2500}))
    axis, = figure.axes
    slao, inclora = axis.get_lines()
    assert list(slao.get_xdata()) == [1, 2] and list(slao.get_ydata()) == [2, 2] and list(inclora.get_ydata()) == [1, 2.5]
    assert axis.get_ylabel() == "memory (kB)" and slao.get_color() == LOOKS["slao"][0]
    assert [text.get_text() for text in figure.legends[0].texts] == ["SLAO", "IncLoRA"] and axis.get_ylim()[0] == 0


def test_the_title_of_memory_tells_who_grows():
    flat, steep = {1: 200_000, 15: 200_000}, {1: 100_000, 15: 1_770_000}
    assert title(plots.memory(carried(slao=flat, inclora=steep))) == \
        "After 15 tasks IncLoRA carries most, 1.77 MB, SLAO least, 200 kB; IncLoRA grows with the tasks"
    assert title(plots.memory(carried(slao=steep, inclora=flat))) == \
        "After 15 tasks SLAO carries most, 1.77 MB, IncLoRA least, 200 kB; SLAO grows with the tasks"
    assert title(plots.memory(carried(slao=flat, inclora=steep, olora=steep))) == \
        "After 15 tasks IncLoRA and O-LoRA carry most, 1.77 MB, SLAO least, 200 kB; 2 of 3 grow with the tasks"
    assert title(plots.memory(carried(slao=flat, seqlora=flat))).endswith("carry 200 kB; none grows with the tasks")
    assert title(plots.memory(carried(slao=steep, inclora=steep))).endswith("carry 1.77 MB; all grow with the tasks")
    settled = {1: 28_500, 2: 41_400, 3: 41_400}     # SLAO's: from the second task on merged and fine-tuned factors differ
    assert title(plots.memory(carried(slao=settled))).endswith("SLAO carries 41.4 kB; none grows with the tasks")
    assert title(plots.memory(carried(slao={5: 12}))) == "After 5 tasks SLAO carries 12 bytes"
    assert title(plots.memory(carried(slao={1: 12}))) == "After 1 task SLAO carries 12 bytes"


def test_the_title_of_memory_passes_over_what_asks_for_old_rows():
    figure = plots.memory(carried(slao={5: 2000}, inclora={5: 9000}, multi_task={5: 16}, per_task={5: 10_000}))
    assert title(figure).endswith("after 5 tasks IncLoRA carries most, 9 kB, SLAO least, 2 kB") and "aside" in title(figure)
    assert len(figure.axes[0].get_lines()) == 4 and "old rows" in subtitle(figure)


# the bound
ROWS = [(2, 1, 5.0, 20.0), (3, 1, 9.0, 60.0), (3, 2, 4.0, 10.0)]


def test_the_terms_stand_for_the_last_moment_and_the_pairs_for_all():
    figure = plots.forgetting_bound(bound(ROWS), names=["yelp", "amazon", "dbpedia"])
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == pytest.approx([3.6, 1.6, 5.4, 2.4])
    assert [bar.get_y() for bar in left.patches] == pytest.approx([0, 0, 3.6, 1.6])          # stacked
    assert list(left.get_lines()[0].get_ydata()) == pytest.approx([4.5, 2]) and left.get_title(loc="left") == "after task 3"
    assert [label.get_text() for label in left.get_xticklabels()] == ["1 yelp", "2 amazon"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in right.get_lines()[:2]] == [(5, 20), (9, 4, 60, 10)]
    assert [text.get_text() for text in right.texts] == ["1", "1", "2"] and legend(right) == ["after task 2", "after task 3"]


def test_the_title_of_the_bound_tells_whether_it_tells():
    assert title(plots.forgetting_bound(bound(ROWS))) == \
        "Where the bound is larger, more is forgotten (rank correlation 1.00 over 3 pairs)"
    turned = [(after, task, b, -f) for after, task, b, f in ROWS]
    assert title(plots.forgetting_bound(bound(turned))) == \
        "Where the bound is larger, less is forgotten (rank correlation −1.00 over 3 pairs)"
    mixed = [(2, 1, 1.0, 2.0), (3, 1, 2.0, 4.0), (3, 2, 3.0, 1.0), (4, 1, 4.0, 3.0)]
    assert title(plots.forgetting_bound(bound(mixed))) == \
        "The bound tells little of what is forgotten (rank correlation 0.00 over 4 pairs)"
    for table in (bound(ROWS[:2]), bound([(after, task, b, 0.0) for after, task, b, _ in ROWS]), bound([(2, 1, 1.0, np.nan)])):
        assert title(plots.forgetting_bound(table)) == \
            "Whether the bound tells what is forgotten cannot be said: too few pairs, or all alike"


def test_many_pairs_carry_no_numbers():
    rows = [(after, task, float(after - task), float(after)) for after in range(2, 9) for task in range(1, after)]
    right = plots.forgetting_bound(bound(rows)).axes[1]
    assert not right.texts and legend(right) == ["after task 2", "after task 8"]


# all of them
@pytest.mark.parametrize("draw, columns", [
    (plots.spectra, "task, module, k, value"), (plots.overlap, "task_i"), (plots.asymmetry, "task_i"),
    (plots.merge_weights, "expected"), (plots.memory, "method, tasks, bytes"),
    (plots.forgetting_bound, "after, task, A, B, bound, dW, forgetting")])
def test_a_table_that_is_something_else_is_refused(draw, columns):
    for table in (pd.DataFrame(), pd.DataFrame({"task": [1], "value": [2]}), [1, 2]):
        with pytest.raises(InputError, match=f"expected a table.*{columns}"):
            draw(table)


@pytest.mark.parametrize("draw", [plots.overlap, plots.asymmetry])
def test_one_task_compares_with_nothing(draw):
    with pytest.raises(InputError, match="at least 2 tasks"):
        draw(pairs(1, A=0.5, B=0.5, dW=0.5))


def test_the_tables_of_the_package_can_be_drawn():
    from test_geometry import LORAS
    def drawn():
        return [plots.spectra(geometry.spectra(LORAS)), plots.overlap(geometry.overlap(LORAS)),
                plots.asymmetry(geometry.cosines(LORAS)),
                plots.overlap(geometry.overlap(LORAS, top=1), factors=("dW rows", "dW columns")),
                plots.forgetting_bound(theory.beside_forgetting(theory.forgetting_bound(LORAS), np.diag([10, 20, 0])))]
    for figure, again in zip(drawn(), drawn()):     # equal figures give equal bytes
        assert figure._repr_png_() == again._repr_png_() and len(title(figure)) < 160
