from base64 import b64decode

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from mbf_utils import plots
from mbf_utils.errors import InputError
from mbf_utils.methods import METHODS

TASKS = ["yelp", "amazon", "dbpedia"]


def matrix(rows, tasks=TASKS):
    return pd.DataFrame([row + [np.nan] * (len(tasks) - len(row)) for row in rows], columns=tasks, index=tasks[:len(rows)])


SLAO = matrix([[90.0], [80, 70], [60, 50, 40]])
SEQUENTIAL = matrix([[90.0], [40, 80], [10, 20, 90]])


def title(figure):
    return figure.texts[0].get_text().replace("\n", " ")


def subtitle(figure):
    return figure.texts[1].get_text().replace("\n", " ")


def test_every_method_has_its_own_colour_which_stays():
    names = [*METHODS, "a_new_one", "another"]
    assert len({plots.colour(name) for name in names}) == len(names)
    assert plots.colour("slao") == "#0072B2" and plots.colour("a_new_one") == "#4b7920"
    assert all(int(plots.colour(name)[5:], 16) >= int(plots.colour(name)[1:3], 16) for name in names if name.startswith("slao"))


# What an eye without one kind of cone sees, in linear red, green and blue (Machado, Oliveira and Fernandes 2009, severity 1)
EYES = {"all": np.eye(3),
        "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
        "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
        "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]])}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def seen(colours, eye):
    """CIELAB coordinates of #rrggbb colours as an eye of that kind sees them."""
    red_green_blue = np.array([[int(name[i:i + 2], 16) / 255 for i in (1, 3, 5)] for name in colours])
    linear = np.where(red_green_blue <= 0.04045, red_green_blue / 12.92, ((red_green_blue + 0.055) / 1.055) ** 2.4) @ EYES[eye].T
    white = linear.clip(0, 1) @ XYZ.T / XYZ.sum(1)
    x, y, z = np.where(white > 0.008856, np.cbrt(white), 7.787 * white + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def test_two_methods_differ_in_marker_or_line_where_an_eye_takes_their_colours_for_one():
    names = list(METHODS)
    for eye in EYES:
        lab = seen([plots.colour(name) for name in names], eye)
        near = np.linalg.norm(lab[:, None] - lab, axis=-1) < 12
        alike = [(one, other) for k, one in enumerate(names) for other in names[:k]
                 if near[k, names.index(other)] and plots.look(one) == plots.look(other)]
        assert not alike, (eye, alike)


def test_forgetting_curves_draw_a_panel_a_task_and_the_mean():
    figure = plots.forgetting_curves({"slao": SLAO, "seqlora": SEQUENTIAL})
    *tasks, mean = figure.axes
    assert [axis.get_title(loc="left") for axis in tasks] == ["1 yelp", "2 amazon", "3 dbpedia"]
    line = mean.get_lines()[0]
    assert list(line.get_ydata()) == [90, 75, 50] and line.get_color() == plots.colour("slao")
    assert np.isnan(tasks[1].get_lines()[1].get_ydata()[0])          # not drawn before it is measured
    assert len(mean.collections) == 0                                # one seed: no band
    assert [text.get_text() for text in figure.legends[0].texts] == ["SLAO", "Sequential LoRA"]


def test_the_title_is_computed():
    assert title(plots.forgetting_curves({"slao": SLAO, "seqlora": SEQUENTIAL})) == \
        "After 3 tasks the mean is 50 % with SLAO, 40 % with sequential LoRA"
    assert title(plots.forgetting_curves({"seqlora": SLAO + 3})) == "After 3 tasks the mean is 53 % with sequential LoRA"
    assert title(plots.forgetting_curves({"slao": SLAO, "seqlora": SEQUENTIAL, "olora": SLAO - 30, "multi_task": SLAO + 5})) == \
        "Methods told the task or keeping old rows aside, after 3 tasks SLAO has the highest mean, 50 %, and O-LoRA the lowest, 20 %"
    assert title(plots.forgetting_curves({"slao": SLAO[:1]})) == "After 1 task the mean is 90 % with SLAO"
    assert title(plots.forgetting_curves({"slao": SLAO}, title="Mine")) == "Mine"


def test_seeds_give_a_mean_and_the_sample_standard_deviation():
    figure = plots.forgetting_curves({"slao": [SLAO - 5, SLAO + 5]}, reading="options")
    mean = figure.axes[-1]
    band = mean.collections[0].get_paths()[0].vertices[:, 1]
    assert list(mean.get_lines()[0].get_ydata()) == [90, 75, 50]
    assert band.max() == pytest.approx(90 + 10 / np.sqrt(2)) and band.min() == pytest.approx(50 - 10 / np.sqrt(2))
    assert "options" in subtitle(figure) and "2 seeds" in subtitle(figure)


def test_an_unfinished_run_is_drawn_as_far_as_it_went():
    padded = SLAO.copy()
    padded.iloc[2] = np.nan
    for unfinished in (SLAO[:2], padded):
        figure = plots.forgetting_curves({"slao": unfinished})
        assert len(figure.axes) == 3 and title(figure) == "After 2 tasks the mean is 75 % with SLAO"


def test_a_long_stream_shows_some_tasks_and_says_so():
    tasks = [f"t{i}" for i in range(100)]
    figure = plots.forgetting_curves({"slao": pd.DataFrame(np.full((100, 100), 50.0), columns=tasks)})
    assert len(figure.axes) == 16 and "15 of 100 tasks shown" in subtitle(figure)


def test_the_heat_map_leaves_what_was_not_measured_blank():
    figure = plots.matrix_heatmap(SLAO)
    axis = figure.axes[0]
    assert sorted(text.get_text() for text in axis.texts) == sorted(["90", "80", "70", "60", "50", "40"])
    assert title(figure) == "The earlier tasks fell from 80 % when learned to 55 % after 3 tasks; yelp most, from 90 % to 60 %"
    assert title(plots.matrix_heatmap(SLAO * 0 + 70)) == "The earlier tasks kept what was learned: 70 % when learned, 70 % after 3 tasks"
    assert title(plots.matrix_heatmap(SLAO[["yelp"]][:1])) == "After the one task 90 % of the answers are right"


def rows(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_a_comparison_has_the_best_on_top_references_below_a_line_and_names_the_best():
    table = pd.DataFrame({"method": ["seqlora", "slao", "multi_task"], "AA": [40.0, 52, 80], "AA_sd": [2.0, 3, 1],
                          "scores": [[38.0, 42], [49, 55], [79, 81]]})
    figure = plots.comparison(table)
    assert rows(figure) == ["SLAO", "Multi-task", "Sequential LoRA"]
    lines = [line for line in figure.axes[0].get_lines() if len(set(line.get_ydata())) == 1 and list(line.get_xdata()) == [0, 1]]
    assert [line.get_ydata()[0] for line in lines] == [0.5]
    dots = [line for line in figure.axes[0].get_lines() if line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in dots] == [[49, 55], [79, 81], [38, 42]]
    assert title(figure) == ("Methods told the task or keeping old rows aside, SLAO has the highest average accuracy, 52.0 %; "
                             "next sequential LoRA, 40.0 %")
    assert "52.0 ± 3.0" in [text.get_text() for text in figure.axes[0].texts]
    assert title(plots.comparison(table.assign(AA=[51.0, 52, 80]))).endswith(": a difference within the spread")
    lowest = plots.comparison(table.assign(forgetting_options=[-2.0, 4, 9]), "forgetting_options")
    assert title(lowest).endswith("aside, Sequential LoRA has the lowest forgetting, −2.0 %; next SLAO, 4.0 %")
    assert rows(lowest) == ["SLAO", "Sequential LoRA", "Multi-task"] and subtitle(lowest) == "Scored by the best of the labels. One seed: no spread."


def test_a_title_says_whom_it_passes_over_and_no_more_than_the_ranks_carry():
    table = pd.DataFrame({"method": ["slao", "olora", "inclora", "seqlora", "per_task"], "AA": [50.0, 60, 40, 70, 90], "AA_sd": [11.0] * 5})
    assert title(plots.comparison(table[:3])).startswith("O-LoRA has the highest average accuracy, 60.0 %; next SLAO")
    over = "References and methods told the task or keeping old rows aside, O-LoRA has the highest average accuracy, 60.0 %; next SLAO, 50.0 %"
    assert title(plots.comparison(table)) == over + ": a difference within the spread"
    assert title(plots.comparison(table.assign(rank=["2–3", "1", "2–3", "", ""]))) == over
    assert title(plots.comparison(table.assign(rank=["1–3", "1–2", "2–3", "", ""]))) == over + "; of all that were compared the seeds do not tell 1 from it"
    assert title(plots.comparison(table.assign(rank=["1–3", "1–3", "1–3", "", ""]))).endswith("; of all that were compared the seeds do not tell 2 from it")
    assert title(plots.comparison(table.assign(rank="1", BWT=1.0), "BWT")).count("the seeds") == 0          # the rank is AA's


def test_reconstructed_methods_are_marked_and_stand_apart(monkeypatch):
    cards = {name: METHODS[name]().card for name in METHODS} | {"olora": METHODS["olora"]().card._replace(fidelity="reconstructed")}
    monkeypatch.setattr("mbf_utils.titles.card_of", cards.get)
    table = pd.DataFrame({"method": ["slao", "olora", "inclora", "seqlora"], "AA": [50.0, 60, 40, 70]})
    figure = plots.comparison(table)
    assert rows(figure) == ["SLAO", "IncLoRA", "O-LoRA†", "Sequential LoRA"] and "† reconstructed" in subtitle(figure)
    assert title(figure).startswith("References and reconstructed methods (†) aside, SLAO has the highest")
    curves = plots.forgetting_curves({"slao": SLAO, "olora": SLAO - 30})
    assert "† reconstructed" in subtitle(curves) and [text.get_text() for text in curves.legends[0].texts] == ["SLAO", "O-LoRA†"]
    assert "†" not in subtitle(plots.comparison(table[::2]))


def test_a_method_with_two_settings_is_two_rows_of_one_colour():
    table = pd.DataFrame({"method": ["olora", "olora"], "title": ["O-LoRA", "O-LoRA (lambda1=0.1)"], "AA": [1.0, 2.0], "AA_sd": [0.1, 0.1]})
    figure = plots.comparison(table)
    assert rows(figure) == ["O-LoRA (lambda1=0.1)", "O-LoRA"]
    assert {line.get_color() for line in figure.axes[0].get_lines()} == {plots.colour("olora")}


@pytest.mark.parametrize("draw", [
    lambda: plots.forgetting_curves({}), lambda: plots.forgetting_curves({"slao": []}),
    lambda: plots.forgetting_curves({"slao": SLAO[:0]}), lambda: plots.forgetting_curves({"slao": [[90.0]]}),
    lambda: plots.forgetting_curves({"slao": SLAO, "seqlora": SEQUENTIAL[TASKS[::-1]]}),
    lambda: plots.matrix_heatmap(SLAO * np.nan), lambda: plots.matrix_heatmap(None),
    lambda: plots.comparison(pd.DataFrame({"method": [], "AA": []})), lambda: plots.comparison(pd.DataFrame({"method": ["slao"]})),
])
def test_input_without_scores_is_refused(draw):
    with pytest.raises(InputError):
        draw()


def test_the_input_stays_as_it_is():
    slao, sequential = SLAO.copy(), SEQUENTIAL.copy()
    plots.forgetting_curves({"slao": [slao, slao], "seqlora": sequential})
    plots.matrix_heatmap(slao)
    pd.testing.assert_frame_equal(slao, SLAO)
    pd.testing.assert_frame_equal(sequential, SEQUENTIAL)


def test_equal_figures_give_equal_bytes_and_the_table_lies_beside(tmp_path):
    paths = [plots.save(plots.matrix_heatmap(SLAO), "left", SLAO, tmp_path / folder) for folder in "ab"]
    assert paths[0] == tmp_path / "a" / "left.png"
    assert paths[0].read_bytes() == paths[1].read_bytes() and b"Software" not in paths[0].read_bytes()
    assert paths[0].with_suffix(".csv").read_text().splitlines()[:2] == [",yelp,amazon,dbpedia", "yelp,90.0,,"]


def test_nothing_leaves_the_page_and_a_notebook_shows_it_once():
    long = [f"task{1000 + i}_a_rather_long_name_of_a_task" for i in range(15)]
    scores = pd.DataFrame(np.tril(np.full((15, 15), 100.0)), columns=long)
    methods = ["slao", "seqlora", "inclora", "olora", "per_task", "multi_task"]
    for figure in (plots.forgetting_curves({method: scores for method in methods}), plots.matrix_heatmap(scores),
                   plots.comparison(pd.DataFrame({"method": methods, "AA": [50.0] * 6})),
                   plots.comparison(pd.DataFrame({"method": [*METHODS], "AA": np.linspace(0, 100, len(METHODS)), "AA_sd": 3.0}))):
        assert figure._repr_png_().startswith(b"\x89PNG")
        width, height = figure.get_size_inches()
        box = figure.get_tightbbox()                                    # inches
        assert width <= 11 and box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        heads = [text.get_window_extent() for text in figure.texts]
        assert all(head.x1 < figure.bbox.x1 for head in heads) and heads[0].y0 >= heads[1].y1 - 2
        assert all(axis.get_tightbbox().y1 <= heads[1].y0 for axis in figure.axes)
    import matplotlib.pyplot
    assert not matplotlib.pyplot.get_fignums()


@pytest.mark.parametrize("name", [r"$\frac$", "5 $ or $ 6", "$", r"$\mathdefault{x"])
def test_a_dollar_in_a_name_is_a_dollar(name):
    """No formula, good or bad, is made of the names of tasks and methods."""
    scores = SLAO.set_axis([name, *TASKS[1:]], axis=1)
    for figure in (plots.forgetting_curves({name: scores, "slao": scores}), plots.matrix_heatmap(scores),
                   plots.comparison(pd.DataFrame({"method": [name, "slao"], "AA": [50.0, 40.0]}))):
        assert plots.png(figure) and plots.quick_png(figure)
        drawn = [text for text in figure.findobj(Text) if name in text.get_text()]
        assert drawn and not any(text.get_parse_math() for text in drawn)


def test_the_powers_on_a_logarithmic_axis_are_set_as_powers():
    figure = plots.canvas(4, 3, "title", "subtitle")
    axis = figure.subplots()
    axis.set(xscale="log", xlim=(1, 1000))
    plots.png(figure)
    powers = [text for text in axis.get_xticklabels() if "10^" in text.get_text()]
    assert powers and all(text.get_parse_math() for text in powers)


def test_the_alt_text_of_a_shown_figure_is_its_title_and_subtitle():
    from IPython.core.formatters import DisplayFormatter
    long = "A title that is so long that it goes over one line, indeed over two or three of them, is still told in one"
    figure = plots.matrix_heatmap(matrix([[90]], ["yelp"]), title=long)
    shown, about = DisplayFormatter().format(figure)
    assert shown["text/plain"] == about["image/png"]["alt"] == f"{long}. {subtitle(figure)}" and "\n" in figure.texts[0].get_text()
    assert b64decode(shown["image/png"]).startswith(b"\x89PNG")


def test_a_page_made_of_a_notebook_carries_the_alt_text():
    nbconvert, nbformat = pytest.importorskip("nbconvert"), pytest.importorskip("nbformat")
    data, about = plots.matrix_heatmap(matrix([[90]], ["yelp"]), title="Is yelp < amazon?")._repr_mimebundle_()
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", data, metadata=about)])
    page, _ = nbconvert.HTMLExporter(template_name="classic").from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert 'alt="Is yelp &lt; amazon? Right answers in %' in page


def test_a_method_with_one_seed_among_others_is_said_to_tell_nothing():
    table = pd.DataFrame({"method": ["slao", "ewc"], "AA": [14.0, 17.0], "AA_sd": [1.8, np.nan]})
    assert subtitle(plots.comparison(table)).endswith("Without a bar: one seed, which tells nothing apart.")
    assert "Without a bar" not in subtitle(plots.comparison(table.fillna(1.0)))


def test_a_picture_of_all_methods_keeps_the_colour_of_each():
    """In few colours: each method's own is there, or one near it (24 of 255 in each of red, green and blue)."""
    from io import BytesIO

    from matplotlib.colors import to_rgb
    from PIL import Image

    from mbf_utils.looks import colour
    table = pd.DataFrame({"method": list(METHODS), "AA": np.linspace(20, 90, len(METHODS)), "AA_sd": 3.0})
    pixels = np.asarray(Image.open(BytesIO(plots.png(plots.comparison(table, "AA")))).convert("RGB")).reshape(-1, 3)
    found = np.unique(pixels, axis=0).astype(float)                                                  # (colours, 3), 0 to 255
    apart = {method: np.abs(found - 255 * np.array(to_rgb(colour(method)))).max(1).min() for method in METHODS}
    assert max(apart.values()) <= 24, max(apart, key=apart.get)
