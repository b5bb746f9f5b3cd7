"""The explorers on committed runs and small tables: every control leads where it says, and what is shown is what was measured."""
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("ipywidgets", reason="the explorers need ipywidgets, of the extra notebooks")

from mbf_utils import explorers, geometry
from mbf_utils.errors import InputError
from mbf_utils.lessons import committed
from mbf_utils.sources import load_stream
from mbf_utils.widgets import Buttons, Choice

TASKS = ["dbpedia", "amazon", "yahoo"]


def matrix(*rows):
    return pd.DataFrame([[*row, *[np.nan] * (3 - len(row))] for row in rows], columns=TASKS, index=TASKS)


def scores(start):
    return [matrix([start], [start - 40, start], [start - 60, start - 10, start])]


def move(explorer, **values):
    """Sets controls one after another; each has to move the picture and the sentence."""
    for name, value in values.items():
        before = explorer.picture.value, explorer.sentence
        explorer.controls[name].value = value
        assert not explorer.failed, explorer.sentence
        assert explorer.picture.value != before[0] and explorer.sentence != before[1], name
    return explorer.sentence


@pytest.fixture(scope="module")
def runs():
    return [committed(name) for name in ("slao", "seqlora", "per_task")]


# ---- forgetting


@pytest.fixture
def readings():
    return {"exact match": {"seqlora": scores(70), "slao": scores(80), "olora (lambda1=0.1)": scores(75), "mine": scores(60)},
            "options": {"slao": scores(90), "seqlora": scores(85)}}


def test_forgetting_steps_through_tasks_methods_and_readings(readings):
    explorer = explorers.forgetting(readings)
    assert explorer.values == {"after": 3, "reading": "exact match", "methods": ("slao", "seqlora", "olora")}
    assert explorer.sentence.startswith("After task 3 of 3 (yahoo), mean of the tasks so far in %: "
                                        "SLAO 56.7, sequential LoRA 46.7, O-LoRA 51.7.")
    assert "SLAO 60.0" in move(explorer, after=2)
    assert move(explorer, reading="options").count("SLAO 70.0") == 1 and "O-LoRA" not in explorer.sentence      # not measured so
    assert "sequential" not in move(explorer, methods=("slao",))


def test_forgetting_asks_for_a_method_where_none_is_left(readings):
    explorer = explorers.forgetting(readings, at_first=("slao",))
    explorer.controls["methods"].value = ()
    assert explorer.failed and "expected at least one method, found none: tick one" in explorer.sentence


def test_forgetting_begins_with_what_is_there():
    assert explorers.forgetting({"exact match": {"b": scores(70), "a": scores(80)}}).values["methods"] == ("b", "a")
    many = {f"m{i}": scores(70) for i in range(30)}
    explorer = explorers.forgetting({"exact match": many}, at_first=tuple(many))
    assert len(explorer.values["methods"]) == explorers.AT_ONCE == 6 and len(explorer.controls["methods"].rest.children) == 24


def test_two_settings_of_a_method_keep_their_names():
    table = {"olora (lambda1=0.1)": 1, "olora (lambda1=0.5)": 2, "slao (qr=False)": 3, "mine": 4}
    assert explorers._without_settings(table) == {"olora (lambda1=0.1)": 1, "olora (lambda1=0.5)": 2, "slao": 3, "mine": 4}


def test_forgetting_refuses_readings_of_other_tasks(readings):
    other = {"options": {"slao": [frame.rename(columns={"yahoo": "yelp"}) for frame in scores(80)]}}
    with pytest.raises(InputError, match="expected readings of the same tasks"):
        explorers.forgetting(readings | other)
    with pytest.raises(InputError, match="expected readings of the same tasks"):
        explorers.forgetting({})


# ---- subspaces and spectra


def test_subspaces_show_the_overlap_of_the_chosen_adapters(runs):
    explorer = explorers.subspaces(runs)
    move(explorer, i=2, j=5, factor="B", layer=1, module="down_proj", run="seqlora", which="tuned")
    loras = [runs[1].lora(i, "tuned") for i in (2, 5)]
    table = geometry.overlap(loras).query("module == 'model.layers.1.mlp.down_proj' and factor == 'B' and task_i < task_j")
    assert ("Sequential LoRA (as trained), layer 1, down_proj, column spaces of B, tasks 2 (amazon) and 5 (yelp): 8 principal" in
            explorer.sentence)
    assert f"overlap {table.value.item():.3f}, expected of random spaces {table.expected.item():.3f}" in explorer.sentence


def test_spectra_show_the_singular_values_of_the_chosen_adapters(runs):
    explorer = explorers.spectra(runs)
    move(explorer, task=3, layer=2, module="q_proj", which="tuned", methods=("slao",))
    values = geometry.singular_values(runs[0].lora(3, "tuned")["model.layers.2.self_attn.q_proj"], 2.0)       # alpha / r = 16 / 8
    assert explorer.sentence.startswith("Adapters as trained, layer 2, q_proj, after task 3. SLAO: largest singular value "
                                        f"{values[0]:.2f}, effective rank {geometry.effective_rank(values):.1f}")
    explorer.controls["methods"].value = ()
    assert explorer.failed and "tick one" in explorer.sentence


@pytest.mark.parametrize("make", [explorers.subspaces, explorers.spectra])
def test_runs_that_cannot_be_compared_are_refused(runs, make):
    with pytest.raises(InputError, match="expected runs of different methods, found none or two of one method"):
        make([runs[0], runs[0]])
    with pytest.raises(InputError, match="expected runs of different methods"):
        make([])
    other = committed("seqlora")
    other.config["stream"]["tasks"] = other.names[::-1]
    with pytest.raises(InputError, match="expected runs of the same tasks in the same order"):
        make([runs[0], other])


def test_places_of_modules():
    paths = ["model.layers.0.mlp.up_proj", "model.layers.11.self_attn.q_proj", "lm_head"]
    assert explorers.places(paths) == dict(zip([(0, "up_proj"), (11, "q_proj"), (0, "lm_head")], paths))
    twice = ["h.0.attn.c_proj", "h.0.mlp.c_proj"]                         # as GPT-2 names them
    assert explorers.places(twice) == {(0, "attn.c_proj"): twice[0], (0, "mlp.c_proj"): twice[1]}
    with pytest.raises(InputError, match="expected paths that differ by layer and module"):
        explorers.places(["encoder.0.q", "decoder.0.q"])


def test_a_module_that_is_not_adapted_in_a_layer_is_told():
    with pytest.raises(InputError, match="expected an adapted module, found q in layer 1, which has no adapter"):
        explorers._path({(0, "q"): "m.0.q", (1, "v"): "m.1.v"}, 1, "q")


def test_few_are_buttons_and_many_a_slider():
    assert isinstance(explorers._one_of("x", list(range(8)), 0), Buttons)
    assert isinstance(explorers._one_of("x", list(range(9)), 0), Choice)


# ---- one example


def test_the_walker_asks_the_stored_models(runs):
    stream = load_stream("world-5", limit=5)
    explorer = explorers.walker(runs[0], stream)
    assert explorer.values == {"task": "dbpedia", "number": 1, "after": 5} and explorer.controls["number"].max == 5
    words = move(explorer, task="agnews", number=3, after=4)
    assert words.startswith(f"After task 4 (agnews) the right answer, “{stream['agnews'].test[2].answers[0]}”, has ")
    assert "4 options" in words
    assert move(explorer, after=0).startswith("Before the first task")


def test_the_walker_of_a_long_run_goes_to_what_was_asked(runs, monkeypatch):
    monkeypatch.setattr("mbf_utils.beliefs.MOMENTS", 3)
    explorer = explorers.walker(runs[0], load_stream("world-5", limit=2))
    assert list(explorer.controls["after"].options) == [0, 2, 5] and explorer.values["after"] == 5
    assert move(explorer, after=2).startswith("After task 2 (amazon)")
