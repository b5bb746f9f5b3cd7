"""The benchmarks run at toy size, their fast and slow rivals agree, and their table says what it is asked. No time is asserted."""
import csv
import time

import pandas as pd
import pytest
import torch

from mbf_utils import adapters, plots, plots_bench, widgets
from mbf_utils.bench import boundary, end_to_end, gpu, growth, redraws, scoring, scripts, shape, spectra, table
from mbf_utils.errors import InputError
from mbf_utils.evaluation import label_scores
from mbf_utils.geometry import singular_values
from mbf_utils.goals import GOALS, goals, read_bench
from mbf_utils.lora import Pair
from mbf_utils.settings import Settings
from mbf_utils.subspaces import orthonormal_rows, principal_angles


def read(file):
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_gpu_items_all_run_at_toy_size(tmp_path):
    rows = read(gpu.bench(tmp_path, "cpu", shape.TOY, total=120))
    assert not [row["case"] for row in rows if "failed" in row["case"] or "left out" in row["case"]]
    assert {row["item"] for row in rows} == {"versions", "ceilings", "model", "throughput", "boundary", "memory", "start", "merge",
                                             "scoring", "small world", "abreast"}
    rivals = {row["case"] for row in rows if row["item"] == "throughput" and row["quantity"] == "tokens a second"}
    assert {"q and v, our loop", "all linear, TRL's SFTTrainer"} <= rivals and len(rivals) == 8
    losses = [row for row in rows if row["quantity"] == "largest relative difference"]
    assert losses and all(float(row["value"]) == 0 for row in losses)      # the same device on both sides: the same bytes


def test_all_starts_and_merges_agree():
    rng = torch.Generator().manual_seed(0)
    A = [torch.randn(3, 2, 7, generator=rng, dtype=torch.float64) for _ in range(2)]
    merged, tuned = ([torch.randn(3, 7, 2, generator=rng, dtype=torch.float64) for _ in range(2)] for _ in range(2))
    right = torch.stack([orthonormal_rows(a) for a in A[1]])
    for name, act in list(boundary.start_rivals(A, tuned).items())[1:]:
        found = act(1)
        rows = [pair.A for pair in found.lora.values()] if name == "SLAO's own" else list(found)
        assert torch.allclose(torch.stack(rows), right), name
    for name, weight in (("SLAO's own", 3 ** -0.5), ("one new tensor a module", 0.5), ("one new tensor a module by lerp", 0.5),
                         ("in place, a module", 0.5), ("in place, all at once", 0.5), ("in place, one flat tensor", 0.5)):
        ours = [m.clone() for m in merged]
        found = boundary.merge_rivals(A, ours, tuned, [None] * 2, [None] * 2)[name](1)
        if name == "SLAO's own":
            found = [pair.B for pair in found.values()]
        elif not name.startswith("one new"):
            found = list(ours[1])
        assert torch.allclose(torch.stack(found), merged[1] + weight * (tuned[1] - merged[1])), name


@pytest.mark.parametrize("folds, apart", [(False, 1e-4), (True, 1e-3)])
def test_the_script_of_a_peft_user_takes_the_same_steps_and_gives_the_same_answers(folds, apart, tmp_path, monkeypatch):
    if not folds:
        monkeypatch.setattr(adapters, "fold", lambda layers: None)
    found = table.Table(tmp_path / "t.csv", "here")
    end_to_end.end_to_end(found, 2, 48, 2)
    rows = {(row["case"], row["quantity"]): float(row["value"]) for row in read(tmp_path / "t.csv")}
    assert rows["scripts and the kit", "largest relative difference of the trained factors"] < apart
    for form in (end_to_end.EXACT, end_to_end.CAREFUL, end_to_end.USUAL):
        assert rows[f"{form} and the kit", "answers that differ"] == 0
    assert {f"the kit over {whose} bare matrix products" for whose in ("its", "PEFT's")} <= {case for case, _ in rows}
    judged = goals(read_bench(tmp_path / "t.csv"))
    assert len(judged) == 6 and plots_bench.goals(judged).alt


def test_the_products_of_a_step_are_noted_forward_and_backward():
    X, W = torch.randn(5, 3), torch.randn(3, 2, requires_grad=True)
    with end_to_end.Products() as products:
        (X @ W).sum().backward()
    assert [function for function, _, _ in products.found] == [torch.ops.aten.mm.default] * 2
    products.again()


def test_padding_by_hand():
    rows = [{"input_ids": [5, 6], "attention_mask": [1, 1], "labels": [-100, 6]},
            {"input_ids": [7], "attention_mask": [1], "labels": [7]}]
    assert scripts.padder(0, None)(rows)["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert scripts.padder(0, 3)(rows)["labels"].tolist() == [[-100, 6, -100], [7, -100, -100]]


def test_labels_read_as_a_tree_are_those_of_whole_rows(model, stream):
    base, tokenizer = model
    for data in stream:
        _, fast = label_scores(base, tokenizer, data.test, data.labels)
        slow = scoring.rows_of_labels(base, tokenizer, data.test, data.labels, Settings(), 7)
        for one, other in zip(fast, slow):
            assert one.keys() == other.keys() and all(abs(one[label] - other[label]) < 1e-3 for label in one)


def test_dense_matrices_have_the_factors_geometry():
    one, other = (spectra.random_pair(3, 20, torch.Generator().manual_seed(k)) for k in range(2))
    assert torch.allclose(torch.linalg.svdvals(one.B @ one.A)[:3], singular_values(one), rtol=1e-4)
    assert torch.allclose(spectra.dense_angles(one, other, 3), principal_angles(one.A, other.A), atol=1e-4)


def test_a_hollow_model_weighs_nothing_and_wears_adapters():
    model = shape.hollow_model(shape.TOY)
    assert shape.bytes_of(list(model.parameters())) >= 1000          # as if it were there
    assert {parameter.untyped_storage().nbytes() for parameter in model.parameters()} == {4}


def test_bytes_count_a_shared_tensor_once():
    A = torch.zeros(2, 3)
    assert shape.bytes_of({"a": Pair(A, torch.zeros(3, 2)), "b": [A]}) == 48


def test_rows_have_just_the_length_asked_for():
    from mbf_utils.text import encode
    rows = encode(shape.Numbers(), shape.examples(3, 11, 50), 100)
    assert [len(row.prompt) + len(row.answer) for row in rows] == [11] * 3


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_slope_of_a_power_is_its_exponent(power):
    sizes = [1, 2, 4, 8]
    assert growth.slope(sizes, [3 * size ** power for size in sizes]) == pytest.approx(power, abs=1e-9)


def test_state_over_tasks_grows_as_the_cards_say(tmp_path):
    found = table.Table(tmp_path / "t.csv", "here")
    for name in ("slao", "olora"):
        growth.over_tasks(name, found, (1, 2, 4))
    rows = {(row["case"], row["quantity"]): float(row["value"]) for row in read(tmp_path / "t.csv")}
    assert rows["slao, declared constant", "slope of the state"] == pytest.approx(0, abs=1e-6)
    assert rows["olora, declared linear", "slope of the state"] > 0.7
    assert rows["slao, after 4 tasks", "state over one adapter"] == pytest.approx(1.5, abs=0.2)      # A, B and the merged B


def test_the_answers_logits_keep_less_than_all(tmp_path):
    growth.activations(table.Table(tmp_path / "t.csv", "here"))
    least, some, most = (float(row["value"]) for row in read(tmp_path / "t.csv"))
    assert least < some < most


def test_rivals_are_timed_in_turns():
    order = []
    times = table.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3 and all(len(spent) == 2 for spent in times.values())
    assert table.ratio({"a": [2.0, 9.0], "b": [1.0, 3.0]}, "a", "b") == [2.0, 3.0]
    assert table.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_an_item_that_fails_or_is_too_slow_loses_only_itself(tmp_path):
    found = table.Table(tmp_path / "t.csv", "here")
    table.run_items({"bad": (lambda: 1 / 0, 5), "slow": (lambda: time.sleep(20), 0.2),
                     "good": (lambda: found.add("good", "", "x", 3), 5)}, found, 60)
    rows = read(tmp_path / "t.csv")
    assert [row["item"] for row in rows] == ["bad", "slow", "good"]
    assert "ZeroDivisionError" in rows[0]["case"] and "stopped after" in rows[1]["case"] and rows[2]["value"] == "3"


def test_goals_are_judged_by_the_median():
    goal = GOALS[0]
    columns = dict(item=goal.item, case=goal.case + " the kit", quantity=goal.quantity, low=1.0, high=2.0, n=3, machine="here")
    for value, holds in ((goal.bound, True), (goal.bound - 0.01, False)):
        found = goals(pd.DataFrame([columns | {"value": value}]))
        assert found["holds"].tolist() == [holds] and found["wanted"].tolist() == [f"at least {goal.bound:g}"]


def test_a_missing_table_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="run mbf bench first"):
        read_bench(tmp_path / "none.csv")
    with pytest.raises(InputError, match="run mbf bench first"):
        plots_bench.goals(goals(pd.DataFrame(columns=table.COLUMNS)))


def test_a_table_can_be_gone_on_with(tmp_path):
    first = table.Table(tmp_path / "t.csv", "here")
    first.add("a", "x", "time", [1, 2, 3], "s")
    first.add("b", "x", "time", 5, "s")
    second = table.Table(tmp_path / "t.csv", "there", keep=True)
    second.add("a", "x", "time", 7, "s")
    found = [(row["item"], row["value"], row["machine"]) for row in read(tmp_path / "t.csv")]
    assert found == [("a", "7", "there"), ("b", "5", "here")]
    assert read(table.Table(tmp_path / "t.csv", "here").file)                      # nothing is lost before the first row


def test_every_control_of_an_explorer_is_moved_to_new_places_and_back():
    seen = []

    def draw(**values):
        seen.append(values)
        return plots.canvas(2, 2, "title", "subtitle"), str(values)

    controls = {"step": widgets.Steps("step", 1, 9, 3), "slide": widgets.Slide("slide", 0, 1, 0.25, 0.5),
                "choice": widgets.Choice("choice", [("one", 1), ("two", 2)], 1), "button": widgets.Buttons("button", "abc", "a"),
                "several": widgets.Several("several", list("abc"), ("a", "b", "c"))}
    explorer = widgets.explore(draw, controls, static=[{}])
    home, _ = explorer.values, seen.clear()
    assert len(redraws.times(explorer)) == len(seen) == 4 + 4 + 1 + 2 + 2 and explorer.values == home
    moved = [{name for name in home if values[name] != home[name]} for values in seen]
    assert all(len(names) == 1 for names in moved) and set().union(*moved) == set(home)
    assert len({str(values) for values in seen}) == len(seen)


def test_a_slider_is_moved_to_its_own_steps_and_a_place_without_a_picture_is_no_move():
    slide = widgets.Slide("likeness", 0, 1, 0.2, 0).make()
    assert redraws.moves(slide) == [0.2, 0.4, 0.8, 1.0]

    def draw(at):
        if at > 0.5:
            raise InputError("nothing there")
        return plots.canvas(2, 2, "title", "subtitle"), str(at)

    with pytest.raises(RuntimeError, match="expected a picture at {'at': 0.8}, found: nothing there"):
        redraws.times(widgets.explore(draw, {"at": widgets.Slide("at", 0, 1, 0.2, 0)}, static=[{}]))
