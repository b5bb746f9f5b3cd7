"""The notebooks' set-up cell and the checks of their exercises."""
import json
import shutil
from statistics import mean, stdev

import pandas as pd
import pytest
import torch

from mbf_utils.errors import InputError
from mbf_utils import lessons
from mbf_utils.lessons import ROOT, check, committed, measured, pool, scores, setup, table
from mbf_utils.metrics import average_accuracy


@pytest.mark.parametrize("answer, right, good", [
    (2.5, 2.5, True), (2.5000000001, 2.5, True), (2.51, 2.5, False), (-2.5, 2.5, False), (None, 2.5, False), ("much", 2.5, False),
    ([1, 2], [1.0, 2.0], True), ([2, 1], [1, 2], False), ([1], [1, 2], False), (1, [1, 2], False), (float("nan"), 2.5, False),
])
def test_a_check_says_right_for_the_right_number_only_and_gives_the_hint_otherwise(answer, right, good):
    assert check(answer, right, "look again") == ("Right." if good else "Not yet: look again")


def test_a_check_of_an_exercise_that_nobody_began_says_so():
    assert check(lambda: unknown + 1, 2, "look again") == "Not yet: look again (NameError: name 'unknown' is not defined)"     # noqa: F821
    assert check(lambda: ... + 1, 2, "look again").startswith("Not yet: look again (TypeError")
    assert check(lambda: [1, 2], [1, 2], "look again") == "Right."
    assert check(..., 2, "look again") == check(..., [2, 3], "look again") == check([..., 3], [2, 3], "look again") == "Not yet: look again"


def test_a_check_is_as_strict_as_it_is_told():
    assert check(2.0004, 2, "hint", within=1e-3) == "Right." and check(2.0004, 2, "hint") == check(2.002, 2, "hint", within=1e-3) == "Not yet: hint"


def test_setup_tells_minutes_and_device_and_reads_the_quick_switch(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("MBF_FAST", "0")
    assert setup(cpu_minutes=3, gpu_minutes=1) is False
    slow = capsys.readouterr().out
    monkeypatch.setenv("MBF_FAST", "1")
    assert setup(cpu_minutes=3) is True
    assert "about 3 minutes" in slow and "CPU" in slow and "quick" not in slow and "quick" in capsys.readouterr().out


def test_a_committed_run_is_a_run_and_an_unknown_one_is_told_by_name():
    run = committed("slao")
    assert run.method == "slao" and len(run.logs) == len(run.names) == 5 and run.lora(5, "tuned")
    with pytest.raises(InputError, match=r"found no 'slaoo' in notebooks/runs \(there are: .*slao"):
        committed("slaoo")


def test_measured_scores_are_the_matrices_of_the_committed_comparison():
    found = measured("world-5", "exact", order="1", model="tiny", named=False)
    each = pd.read_csv(ROOT / "figures" / "world-5-runs.csv", dtype={"order": str})
    rows = each[(each["method"] == "slao") & (each["order"] == "1") & (each["model"] == "tiny") & ~each["named"]].sort_values("seed")
    assert len(found["slao"]) == len(rows) >= 3
    for R, AA in zip(found["slao"], rows["AA"]):
        assert list(R.columns) == list(R.index) and average_accuracy(R) == pytest.approx(AA, abs=1e-3)
    by_seed = scores("world-5", "AA", "exact", order="1", model="tiny", named=False)
    assert by_seed["slao"].dropna().tolist() == pytest.approx(rows["AA"].tolist(), abs=1e-3) and list(by_seed.index) == sorted(by_seed.index)
    summary = table("world-5", order="1", model="tiny", named=False).set_index("method")
    assert summary.loc["slao", "AA"] == pytest.approx(rows["AA"].mean(), abs=1e-3) and summary.loc["seqlora", "setting"] == ""
    with pytest.raises(InputError, match="found no such file"):
        measured("world-6")


def hand_in(folder, name="slao", seed=0, order=None, add=0.0, **changes):
    """A committed run as somebody else would have it: another seed, another order of the tasks, other scores, other settings."""
    run = committed(name)
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("result", "tuned", ".lock"))
    config = json.loads((folder / "config.json").read_text()) | {"seed": seed, "device": "another"}
    config["settings"] |= changes
    if order:
        config["stream"] |= {"order": order, "tasks": config["stream"]["tasks"][::-1], "fingerprint": f"of {order}"}
    (folder / "config.json").write_text(json.dumps(config))
    for file, more in (("matrix.csv", 0.0), ("matrix-options.csv", add)):
        table = pd.read_csv(folder / file, index_col=0) + more
        table.set_axis(config["stream"]["tasks"], axis=1).set_axis(config["stream"]["tasks"], axis=0).to_csv(folder / file)
    return average_accuracy(run.options) + add


def test_a_class_s_runs_make_one_figure_and_one_table(tmp_path, capsys):
    slao = [hand_in(tmp_path / "anna" / "slao", add=-1), hand_in(tmp_path / "ben" / "x" / "slao", seed=1, add=-3),
            hand_in(tmp_path / "cleo" / "slao", order="2", add=-4)]
    sequential = [hand_in(tmp_path / "anna" / "seqlora", "seqlora"),
                  hand_in(tmp_path / "ben" / "seqlora", "seqlora", seed=1, add=-2)]
    hand_in(tmp_path / "dora" / "a-copy-of-anna-s", add=-1)
    hand_in(tmp_path / "ed" / "slao", seed=5)
    shutil.rmtree(tmp_path / "ed" / "slao" / "tasks" / "05-yelp")
    figure, found = pool(tmp_path)
    rows = found.set_index("method")
    assert capsys.readouterr().out == f"5 runs, 2 seeds, order 1 and 2; not finished: {tmp_path / 'ed' / 'slao'}\n"
    assert list(rows.index) == ["slao", "seqlora"] and list(rows["runs"]) == [3, 2] and list(rows["orders"]) == [2, 1]
    assert rows["AA_options"].tolist() == pytest.approx([mean(slao), mean(sequential)])
    assert rows["AA_options_sd"].tolist() == pytest.approx([stdev(slao), stdev(sequential)])
    pairs = [slao[0] - sequential[0], slao[1] - sequential[1]]
    assert rows["AA_options_minus_seqlora"]["slao"] == pytest.approx(mean(pairs))
    assert rows["AA_options_minus_seqlora_half"]["slao"] == pytest.approx(12.706 * stdev(pairs) / 2 ** 0.5, rel=1e-4)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels[0] == "SLAO (3)" and "(2)" in labels[1] and "over the runs" in figure.alt


@pytest.mark.parametrize("change, told", [({"lr": 0.1}, "lr 0.005 in .*anna and 0.1 in .*ben"), ({"rank": 4}, "rank 8 in")])
def test_runs_that_differ_in_more_are_not_pooled(tmp_path, change, told):
    hand_in(tmp_path / "anna")
    hand_in(tmp_path / "ben", seed=1, **change)
    with pytest.raises(InputError, match=f"found {told}"):
        pool(tmp_path)


def test_a_folder_without_a_finished_run_is_told(tmp_path):
    with pytest.raises(InputError, match="found 0 unfinished and no finished one"):
        pool(tmp_path)


def test_the_committed_runs_pool_to_themselves_and_runs_of_fewer_tasks_not_with_them(tmp_path):
    runs = [committed(folder.name) for folder in sorted((ROOT / "notebooks" / "runs").iterdir()) if folder.is_dir()]
    whole = [run for run in runs if len(run.names) == 5 and not run.config["stream"]["named"]]
    for run in whole:
        hand_in(tmp_path / run.method, run.method)
    _, found = pool(tmp_path, "AA")
    assert set(found["method"]) == {run.method for run in whole}
    for method, AA in zip(found["method"], found["AA"]):
        assert AA == pytest.approx(committed(method).metrics()["AA"])
    if len(whole) < len(runs):
        with pytest.raises(InputError, match="found (tasks|stream)"):
            pool(ROOT / "notebooks" / "runs")


def test_a_comparison_that_is_not_there_is_told_and_not_missed(capsys):
    assert lessons.results("world-6").empty and lessons.matrices_of("world-6") is None and lessons.runs_of("world-6").empty
    assert capsys.readouterr().out.count("world-6") == 3
    assert lessons.first_measured("world-6", "world-5") == "world-5"
    assert capsys.readouterr().out == "shown: world-5, because world-6 has not been made\n"
    with pytest.raises(InputError, match="world-6 or world-7"):
        lessons.first_measured("world-6", "world-7")


def test_results_have_a_block_for_every_base_and_form_of_prompt(tmp_path, monkeypatch):
    each = pd.DataFrame([{"stream": "world-5", "order": "1", "named": named, "model": model, "method": method, "setting": None, "seed": seed,
                          "AA": 40.0 + seed, "AA_options": 50.0 + seed + (method == "slao")}
                         for model in ("tiny", "small") for named in (False, True) for method in ("slao", "seqlora") for seed in range(3)])
    (tmp_path / "figures").mkdir()
    each.to_csv(tmp_path / "figures" / "toy-runs.csv", index=False)
    monkeypatch.setattr(lessons, "ROOT", tmp_path)
    found = lessons.results("toy")
    assert len(found) == 8 and set(found["base"]) == {"tiny", "small"} and set(found["prompts"]) == {"name the data set", "do not"}
    one = lessons.results("toy", ["slao"], model="tiny", named=True)
    assert list(one.index) == ["SLAO"] and "base" not in one and one["labels less seqlora"].tolist() == ["+1.0 ± 0.0"]


def test_a_folded_table_opens_and_an_empty_one_is_nothing():
    shown = lessons.folded(pd.DataFrame({"a": [1]}), "more")._repr_html_()
    assert shown.startswith("<details><summary>more</summary><table") and lessons.folded(pd.DataFrame(), "more")._repr_html_() == ""
