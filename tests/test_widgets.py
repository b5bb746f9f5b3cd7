"""Explorers without a browser: set a control's value, and picture and read-out follow."""
import base64
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ipywidgets", reason="the explorers need ipywidgets, of the extra notebooks")

from mbf_utils import plots
from mbf_utils.errors import InputError
from mbf_utils.widgets import Buttons, Choice, Several, Slide, Steps, explore

CONTROLS = {"n": Steps("tasks", 1, 5, 2), "p": Slide("exponent", 0, 1, 0.25, 0.5),
            "factor": Buttons("factor", [("ΔW", "dW"), ("A", "A")], "A"), "module": Choice("module", ["q", "k", "v"], "q"),
            "methods": Several("methods", [f"m{i}" for i in range(20)], ("m1", "m3"), 3)}


def draw(n, p, factor, module, methods):
    """A figure and a sentence in which every control shows."""
    if not methods:
        raise InputError("expected a method, found none: tick one")
    if module == "v":
        raise KeyError("no v")
    figure = plots.canvas(6, 2, f"{factor} of {module}", ", ".join(methods))
    figure.subplots().plot([0, n], [0, p])
    return figure, f"{factor} {module} {n} {p:.2f} < {' '.join(methods)}, 5 %"


@pytest.fixture
def explorer():
    return explore(draw, CONTROLS, static=[{}, {"n": 5, "methods": ("m2", "m1")}])


def state(explorer):
    return explorer.picture.value, explorer.sentence, explorer.readout.value


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("name, value", [("n", 4), ("p", 1.0), ("factor", "dW"), ("module", "k"), ("methods", ("m7",))])
def test_every_control_moves_the_picture_and_the_sentence(explorer, name, value):
    start = state(explorer)
    explorer.controls[name].value = value
    assert all(now != then for now, then in zip(state(explorer), start))
    assert pixels(explorer.picture.value).shape == pixels(start[0]).shape    # nothing on the page jumps
    explorer.controls[name].value = CONTROLS[name].value
    assert state(explorer) == start


def test_the_sentence_is_text_and_not_markup(explorer):
    assert "A q 2 0.50 &lt; m1 m3, 5&nbsp;%" in explorer.readout.value and explorer.sentence == "A q 2 0.50 < m1 m3, 5 %"


def test_a_position_is_drawn_once():
    calls = []

    def draw(n):
        calls.append(n)
        return plots.canvas(3, 1, str(n), ""), f"{n}"

    explorer = explore(draw, {"n": Steps("n", 1, 3, 1)}, static=[{}])
    calls.clear()
    for n in (2, 1, 2, 1):
        explorer.controls["n"].value = n
    assert calls == [2]


def test_a_refused_position_is_told_and_its_picture_hidden_until_the_next(explorer):
    explorer.controls["methods"].value = ()
    assert explorer.failed and "mbf-failed" in explorer.readout.value
    assert "expected a method, found none: tick one" in explorer.readout.value
    assert explorer.picture.layout.visibility == "hidden"
    explorer.controls["methods"].value = ("m5",)
    assert not explorer.failed and explorer.picture.layout.visibility == "visible" and "m5" in explorer.readout.value
    assert "mbf-failed" not in explorer.readout.value


def test_an_error_that_nobody_foresaw_is_told_and_raised(explorer):
    with pytest.raises(KeyError, match="no v"):
        explorer.controls["module"].value = "v"
    assert explorer.failed and "KeyError" in explorer.sentence and "no v" in explorer.readout.value
    assert explorer.picture.layout.visibility == "hidden"


def test_what_is_wrong_at_the_start_is_raised_to_the_cell():
    with pytest.raises(InputError, match="tick one"):
        explore(draw, CONTROLS | {"methods": Several("methods", ["m1"], ())}, static=[{"methods": ("m1",)}])
    with pytest.raises(InputError, match="expected chosen positions of n, p, factor, module, methods, found one of m"):
        explore(draw, CONTROLS, static=[{"m": 3}])
    with pytest.raises(InputError, match="at least one control and one chosen position"):
        explore(draw, CONTROLS, static=[])
    with pytest.raises(InputError, match="at least one control and one chosen position"):
        explore(draw, {}, static=[{}])


def test_it_shows_the_controls_and_a_still_picture_of_the_chosen_positions(explorer, monkeypatch):
    shown = []
    monkeypatch.setattr("mbf_utils.widgets.display", lambda *args, **kwargs: shown.append((args, kwargs)))
    explorer._ipython_display_()
    (widget,), _ = shown[0]
    assert widget is explorer.box and {explorer.picture, explorer.readout} <= set(widget.children)
    (bundle,), kept = shown[1]
    assert base64.b64decode(bundle["image/png"]) == explorer.still and kept["raw"]
    height, width, _ = pixels(explorer.still).shape
    assert height > width / 2                                            # two of them, one below the other
    for words in ("tasks: 2, exponent: 0.5, factor: A, module: q, methods: m1, m3. A q 2 0.50 <", "tasks: 5", "A q 5 0.50 <"):
        assert words in bundle["text/plain"] and words in kept["metadata"]["image/png"]["alt"]


def test_values_are_said_in_the_words_of_the_control():
    assert "factor: ΔW" in explore(draw, CONTROLS, static=[{"factor": "dW"}]).words


def test_a_choice_says_its_words_whole_beside_the_slider():
    explorer = explore(lambda at: (plots.canvas(3, 1, at, ""), at),
                       {"at": Choice("start", [("a sentence of many words" * 3, "a"), ("short", "b")], "a")}, static=[{}])
    slider, beside = explorer.box.children[0].children[0].children
    assert slider is explorer.controls["at"] and not slider.readout and beside.value == "a sentence of many words" * 3
    slider.value = "b"
    assert beside.value == "short"


# ---- boxes to tick


@pytest.fixture
def checks():
    return Several("methods", [f"m{i}" for i in range(20)], ("m3", "m1"), 3).make()


def on(checks):
    return [value for value, box in checks.boxes.items() if box.value]


def test_boxes_and_value_say_the_same_in_the_order_of_the_options(checks):
    assert checks.value == ("m1", "m3") and on(checks) == ["m1", "m3"]
    checks.boxes["m2"].value = True
    assert checks.value == ("m1", "m2", "m3")
    checks.boxes["m1"].value = False
    assert checks.value == ("m2", "m3")
    checks.value = ("m19", "m0")                                         # from what is on to what shares nothing with it
    assert checks.value == ("m0", "m19") and on(checks) == ["m0", "m19"]


def test_a_change_of_several_boxes_is_one_change(checks):
    seen = []
    checks.observe(lambda change: seen.append(change["new"]), "value")
    checks.value = ("m5", "m6", "m7")
    assert seen == [("m5", "m6", "m7")]


def test_no_more_than_the_most_can_be_on(checks):
    assert not checks.boxes["m0"].disabled
    checks.boxes["m0"].value = True
    assert checks.boxes["m9"].disabled and not checks.boxes["m0"].disabled
    checks.boxes["m9"].value = True                                      # the page was slower than the reader
    assert not checks.boxes["m9"].value and checks.value == ("m0", "m1", "m3")
    checks.boxes["m0"].value = False
    assert not checks.boxes["m9"].disabled
    for wrong in (("m0", "m1", "m2", "m3"), ("m0", "x")):
        with pytest.raises(InputError, match="expected at most 3 of m0, m1"):
            checks.value = wrong
    assert checks.value == ("m1", "m3")


def test_those_not_ticked_at_first_are_folded_away_where_there_are_many(checks):
    assert checks.rest.layout.display == "none" and len(checks.rest.children) == 18 and checks.more.description == "18 more"
    checks.more.value = True
    assert checks.rest.layout.display == "flex"
    few = Several("methods", ["a", "b"], ("a",)).make()
    assert len(few.rest.children) == 0 and few.more not in few.children[0].children
