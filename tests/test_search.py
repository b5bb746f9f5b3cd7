"""A search of settings: small, on development rows, written down; and what the table of chosen settings says."""
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from toy import FAST, toy_model, toy_stream

from mbf_utils import search as module
from mbf_utils.errors import InputError
from mbf_utils.methods import make_method
from mbf_utils.search import BUDGET, CHOSEN, chosen, search

FIGURES = Path(__file__).resolve().parent.parent / "figures"


@pytest.fixture
def small(monkeypatch):
    """The command's world-5 is two tasks of eight rows."""
    from mbf_utils import commands
    whole = commands._stream

    def stream(arguments, name, order=None):
        found = whole(arguments, name, order)
        return replace(found, tasks=tuple(replace(task, dev=task.dev[:8]) for task in found[:2]))
    monkeypatch.setattr(commands, "_stream", stream)


def test_every_setting_is_tried_on_development_rows_and_the_best_is_chosen(tmp_path, monkeypatch):
    seen = []
    whole = module.compare

    def watching(*arguments, **settings):
        seen.append(settings["evaluate_on"])
        found = whole(*arguments, **settings)
        for run in found.runs:                                       # 30 %, 70 %, 70 %
            run.metrics = lambda score={0.0: 30.0, 0.5: 70.0, 2.0: 70.0}[run.config["method"]["lambda1"]]: {"AA": score, "AA_options": 1.0}
        return found

    monkeypatch.setattr(module, "compare", watching)
    table = search(toy_stream()[:1], "olora", {"lambda1": [0.0, 0.5, 2.0]}, [0, 1], toy_model(), tmp_path, **FAST)
    assert seen == ["dev"] and list(table["lambda1"]) == [0.0, 0.5, 2.0] and list(table["seeds"]) == [2, 2, 2]
    assert list(table["AA"]) == [30, 70, 70] and list(table["chosen"]) == [False, True, False]
    configs = [json.loads(file.read_text()) for file in tmp_path.glob("*/config.json")]
    assert len(configs) == 6 and {config["settings"]["evaluate_on"] for config in configs} == {"dev"}


@pytest.mark.parametrize("grid, settings, sentence", [
    ({"lambda1": [1.0]}, {}, "2 to 4 settings"), ({"lambda1": [1.0, 2.0, 3.0], "lambda2": [1.0, 2.0]}, {}, "found 6"),
    ({"lambda": [1.0, 2.0]}, {}, "settings among lambda1"), ({"lambda1": [1.0, 2.0]}, {"evaluate_on": "test"}, "never test rows")])
def test_a_larger_search_and_one_on_test_rows_are_refused(grid, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        search(toy_stream(), "olora", grid, 0, toy_model(), **FAST, **settings)


def test_what_is_chosen_is_the_best_of_what_was_tried_and_written_down():
    for base, methods in json.loads(CHOSEN.read_text()).items():
        for method, fields in methods.items():
            make_method(method, **fields)
            tried = pd.read_csv(FIGURES / f"choice-{method}.csv")
            best = tried.loc[tried["AA"].idxmax()]
            assert best["chosen"] and {field: best[field] for field in fields} == fields and 2 <= len(tried) <= BUDGET
            assert (tried["data_seed"] != 0).all()
    assert chosen("tiny", "seqlora") == chosen("another", "olora") == {}


def test_the_command_compare_takes_the_chosen_settings_unless_told_otherwise(tmp_path, monkeypatch, small):
    from mbf_utils.cli import main
    (tmp_path / "chosen.json").write_text('{"tiny": {"olora": {"lambda1": 0.25}}}')
    monkeypatch.setattr(module, "CHOSEN", tmp_path / "chosen.json")
    command = ["compare", "world-5", "--methods", "olora", "--seeds", "1", "--limit", "8", "--epochs", "1", "--out", str(tmp_path / "runs")]
    assert main(command) == 0 and main([*command, "--paper-settings"]) == 0
    assert {path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()} == {"world-5-o1-olora-lambda1=0.25-0", "world-5-o1-olora-0"}


def test_the_command_writes_what_was_tried_and_what_was_chosen(tmp_path, capsys, monkeypatch, small):
    from mbf_utils.cli import main
    (tmp_path / "chosen.json").write_text('{"tiny": {"task_arithmetic": {"weight": 0.5}}, "other": {}}')
    monkeypatch.setattr(module, "CHOSEN", tmp_path / "chosen.json")
    command = ["search", "world-5", "--method", "olora", "--grid", "lambda1=0.1,0.5", "--limit", "8", "--epochs", "1",
               "--out", str(tmp_path / "runs"), "--figures", str(tmp_path)]
    assert main([*command, "--apart"]) == 0
    assert "olora" not in (tmp_path / "chosen.json").read_text() and not (tmp_path / "choice-olora.csv").exists()
    assert main(command) == 0
    assert (tmp_path / "choice-world-5-olora.csv").read_bytes() == (tmp_path / "choice-olora.csv").read_bytes()
    table = pd.read_csv(tmp_path / "choice-olora.csv")
    assert list(table["lambda1"]) == [0.1, 0.5] and list(table["data_seed"]) == [7, 7] and table["chosen"].sum() == 1
    assert "choice-olora.csv" in capsys.readouterr().out
    now = json.loads((tmp_path / "chosen.json").read_text())
    assert list(now["tiny"]) == ["olora", "task_arithmetic"] and now["other"] == {}
    assert now["tiny"]["olora"] == {"lambda1": table.loc[table["chosen"], "lambda1"].item()} == chosen("tiny", "olora")
    assert main(["search", "world-5", "--method", "olora", "--grid", "lambda1=0.1"]) == 2


def test_a_whole_number_stays_one_where_the_method_s_own_is_one():
    from dataclasses import fields
    from mbf_utils.commands import _fields
    from mbf_utils.methods import METHODS
    whole = next((name, field.name) for name, make in METHODS.items() for field in fields(make()) if type(getattr(make(), field.name)) is int)
    assert repr(_fields([f"{whole[1]}=8"], whole[0])) == repr({whole[1]: 8})
    assert repr(_fields(["lambda1=1", "x=true", "y=word"], "olora")) == "{'lambda1': 1.0, 'x': True, 'y': 'word'}"
    assert repr(_fields(["total_tasks=5", "eps_start=1"], "inflora")) == "{'total_tasks': 5, 'eps_start': 1.0}"
