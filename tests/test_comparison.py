"""Grids of runs: resumed, in processes, with failures; and the tables that are made of runs."""
import dataclasses
import json
import math
import os
import signal
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import pytest
import torch
from toy import FAST, contents, toy_model

from mbf_utils import cells
from mbf_utils.comparison import Base, compare, plan
from mbf_utils.costs import cost_file, reset_peak
from mbf_utils.errors import InputError
from mbf_utils.method import Card, Method
from mbf_utils.methods import METHODS
from mbf_utils.methods.slao import SLAO
from mbf_utils.reports import find_runs, matrices, order_table, printed, scores_of, summarise
from mbf_utils.runs import walk_stream
from mbf_utils.titles import group_of, name_of, title_of

METHOD_LIST = ["slao", ("olora", {"lambda1": 0.1}), "slao_half"]


@pytest.fixture(scope="module")
def grid(stream, model, tmp_path_factory):
    """Three methods, two seeds, one process."""
    out = tmp_path_factory.mktemp("grid")
    return out, compare(stream, METHOD_LIST, [0, 1], model, out, **FAST)


@dataclass
class Fails(Method):
    """Breaks in the second task."""
    how: str = "raise"

    card: ClassVar[Card] = Card("Fails", "", "single adapter", "exact")

    def finish(self, tuned, task):
        if task.index == 2 and self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if task.index == 2 and self.how == "raise":
            raise ZeroDivisionError("of a\nkind")
        if self.how == "stop":
            raise KeyboardInterrupt
        return super().finish(tuned, task)


def times(folder) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


def runs_of(out) -> dict:
    return {name: data for name, data in contents(out).items() if not name.endswith(".cost.json")}


# the grid

def test_every_combination_is_a_folder_and_the_first_seed_of_all_methods_comes_first(stream, tmp_path):
    other = dataclasses.replace(stream, order="2", named=True)
    names = [cell.folder.name for cell in plan([stream, other], METHOD_LIST, [0, 5], tmp_path)]
    labels = ["slao", "olora-lambda1=0.1", "slao_half"]
    assert names == [f"toy-o{order}-{label}-{seed}" for seed in (0, 5) for order in ("1", "2-named") for label in labels]
    long = dataclasses.replace(stream, order=",".join(f"task{i}" for i in range(50)))
    (cell,) = plan(long, "slao", 3, tmp_path)
    assert len(cell.folder.name) < 100 and cell.method == "slao" and cell.seed == 3
    assert [cell.method for cell in plan(stream, [METHODS["slao_half"](), SLAO(qr=False)], 0, tmp_path)] == ["slao_half", "slao_ftba_mb"]


@pytest.mark.parametrize("given, sentence", [
    (dict(methods=["slao", "slow"]), "expected a method among slao"), (dict(methods=[("olora", {"lambda": 1})]), "expected for olora settings among"),
    (dict(methods=["slao", SLAO()]), "found two runs for the folder toy-o1-slao-0"), (dict(seeds=[]), "a whole number as seed"),
    (dict(seeds=[0.5]), r"the seeds \[0.5\]"), (dict(methods=[]), "0 methods"), (dict(streams="nowhere"), "'nowhere'"),
    (dict(workers=0), "expected 1 worker or more, found 0"), (dict(workers="threading"), "own processes, found 'threading'"),
    (dict(workers="nothing"), "joblib backend"), (dict(out="file"), "expected a folder to write to"),
    (dict(lr=-1.0), "every run failed: expected lr above 0"), (dict(learning_rate=1.0), "every run failed: expected settings among"),
    (dict(model="./nowhere"), "every run failed: .*nowhere")])
def test_what_is_unknown_is_one_sentence_and_nothing_is_learned(stream, model, tmp_path, given, sentence):
    (tmp_path / "file").write_text("mine")
    call = {"streams": stream, "methods": ["slao", "seqlora"], "seeds": [0], "model": model, "workers": 1, **FAST, **given}
    with pytest.raises(InputError, match=sentence) as caught:
        compare(out=tmp_path / call.pop("out", "out"), **call)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.name != "out"] == ["file"]


def test_a_finished_grid_is_not_touched_again(grid, stream, model):
    out, first = grid
    before = times(out)
    again = compare(stream, METHOD_LIST, [0, 1], model, out, **FAST)
    assert times(out) == before and len(again.runs) == len(first.runs) == 6
    pd.testing.assert_frame_equal(again.table, first.table)
    assert not (out / "failures.csv").exists() and repr(again) == "Comparison(6 runs, 0 failed)"


def test_a_broken_off_cell_goes_on_where_it_was(grid, stream, model, tmp_path):
    out, _ = grid
    next(walk_stream(stream, "slao", model, seed=1, out=tmp_path / "toy-o1-slao-1", **FAST))
    first_task = times(tmp_path / "toy-o1-slao-1" / "tasks")
    compare(stream, METHOD_LIST, [0, 1], model, tmp_path, **FAST)
    assert runs_of(tmp_path) == runs_of(out)
    after = times(tmp_path / "toy-o1-slao-1" / "tasks")
    assert all(after[path] == time for path, time in first_task.items() if path.name.startswith(("adapter", "01-", "log")))


def test_two_processes_leave_the_same_bytes_as_one(grid, stream, model, tmp_path):
    out, one = grid
    two = compare(stream, METHOD_LIST, [0, 1], model, tmp_path, workers=2, **FAST)
    assert runs_of(tmp_path) == runs_of(out) and len(runs_of(out)) >= 6 * 20
    assert [run.folder.name for run in two.runs] == [run.folder.name for run in one.runs]
    assert two.runs[-1].method == "slao_half"                                # found by name also where lambdas were pickled


def test_the_number_of_threads_is_one_while_cells_learn_and_comes_back(stream, model, tmp_path):
    seen = []

    @dataclass
    class Looks(Method):
        def start(self, task):
            seen.append(torch.get_num_threads())
            return super().start(task)

    torch.set_num_threads(2)
    try:
        compare(stream[:1], Looks(), 0, model, tmp_path, **FAST)
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_failing_cell_is_recorded_and_the_others_go_on(stream, model, tmp_path):
    found = compare(stream, [Fails(), "seqlora"], [0, 1], model, tmp_path, **FAST)
    assert [run.folder.name for run in found.runs] == ["toy-o1-seqlora-0", "toy-o1-seqlora-1"]
    assert list(found.failures["cell"]) == ["toy-o1-Fails-how=raise-0", "toy-o1-Fails-how=raise-1"]
    assert found.failures["error"][0].startswith("ZeroDivisionError: of a kind (test_comparison.py, line ")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "failures.csv"), found.failures)
    assert list(found.table["method"]) == ["seqlora"] and found.table["seeds"][0] == 2
    mended = compare(stream, ["seqlora"], [0, 1], model, tmp_path, **FAST)
    assert not len(mended.failures) and not (tmp_path / "failures.csv").exists()


def test_an_interrupt_is_no_failure_of_a_cell(stream, model, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compare(stream, [Fails("stop"), "seqlora"], 0, model, tmp_path, **FAST)
    assert not (tmp_path / "failures.csv").exists() and not (tmp_path / "toy-o1-seqlora-0").exists()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_a_worker_that_dies_takes_only_what_was_under_way_with_it(stream, model, tmp_path):
    found = compare(stream, [Fails("kill"), "seqlora", "slao"], [0, 1], model, tmp_path, workers=2, **FAST)
    failed = set(found.failures["cell"])
    assert {"toy-o1-Fails-how=kill-0", "toy-o1-Fails-how=kill-1"} <= failed and len(failed) <= 4 and len(found.runs) == 6 - len(failed) >= 2
    assert all("a worker process died" in error for error in found.failures["error"])
    rest = compare(stream, ["seqlora", "slao"], [0, 1], model, tmp_path, **FAST)     # what was under way goes on
    assert len(rest.runs) == 4 and not len(rest.failures)


@pytest.mark.skipif(reset_peak() is None, reason="the system does not let a process reset its peak")
def test_the_peak_of_memory_is_the_cell_s_own_and_not_an_earlier_one_s(stream, model, tmp_path):
    @dataclass
    class Eats(Method):
        megabytes: int = 0

        def finish(self, tuned, task):
            torch.ones(self.megabytes, 250_000).sum()                            # float32
            return super().finish(tuned, task)

    found = compare(stream[:1], [Eats(1), Eats(400), Eats(2)], 0, model, tmp_path, **FAST)
    costs = [json.loads(cost_file(run.folder).read_text()) for run in found.runs]
    small, large, last = (cost["peak_memory_mb"] - cost["before_mb"] for cost in costs)
    assert large > 380 and 0 <= small < 100 and 0 <= last < 100
    assert dict(zip(found.each["setting"], found.each["peak_memory_mb"]))["megabytes=400"] == costs[1]["peak_memory_mb"]
    assert (found.each["state_bytes"] == [sum((run.folder / f"memory.{kind}").stat().st_size for kind in ("safetensors", "json")) for run in found.runs]).all()
    assert found.each["seconds_train"].gt(0).all() and found.each["seconds_evaluate"].gt(0).all()


def test_a_base_is_loaded_once_for_all_cells_of_a_process(stream, monkeypatch, tmp_path):
    loads = []
    monkeypatch.setattr(cells, "load_model", lambda *base: loads.append(base) or toy_model())
    compare(stream[:1], ["slao", "seqlora"], [0, 1], Base("somewhere", "cpu"), tmp_path, **FAST)
    assert loads == [("somewhere", "cpu", "auto", None)]


# tables of runs

class Fake:
    """A finished run of given scores."""
    scored = False

    def __init__(self, folder, method, seed, exact, options=50.0, order="1", fields=None, finals=(1.0, 2.0), settings=None):
        self.folder, self.method, self.names = folder / "none", method, ["x", "y"]
        self.config = {"stream": {"name": "toy", "order": order, "named": False, "tasks": self.names, "fingerprint": order},
                       "method": {"name": method, "class": "", **(fields or {})}, "model": {"name": "/some/where/tiny"}, "seed": seed,
                       "settings": settings or {}, "effective_batch": 4, "device": "cpu", "versions": {}}
        self.logs, self.state_bytes = [{"seconds_train": 2.0, "seconds_evaluate": 1.0}] * 2, 100
        self.matrix = self.options = pd.DataFrame([[9.0, math.nan], list(finals)], columns=self.names)
        self.scores = {"AA": exact, "BWT": -exact, "AA_options": options, "BWT_options": 0.0, "general_loss": 3.0}

    def metrics(self):
        return self.scores


@pytest.fixture
def fakes(tmp_path):
    def make(scores: dict, **options):
        return [Fake(tmp_path, method, seed, score, **options) for method, given in scores.items() for seed, score in given.items()]
    return make


def test_means_deviations_and_paired_differences_by_hand(fakes):
    table, each = summarise(fakes({"olora": {0: 52.0, 1: 55.0, 2: 55.0, 7: 90.0}, "seqlora": {2: 51.0, 1: 53.0, 0: 50.0, 9: 0.0}}))
    row = table.set_index("method").loc["olora"]
    assert (row.AA, row.seeds) == (63.0, 4) and row.AA_sd == pytest.approx(math.sqrt((11 ** 2 + 8 ** 2 + 8 ** 2 + 27 ** 2) / 3))
    assert row.AA_minus_seqlora == pytest.approx(8 / 3)                      # 2, 2, 4 over the seeds 0, 1, 2
    assert row.AA_minus_seqlora_half == pytest.approx(4.302653 * math.sqrt(4 / 3) / math.sqrt(3), rel=1e-6)
    assert table.set_index("method").loc["seqlora"].AA_minus_seqlora == 0
    assert list(each["seed"]) == [0, 1, 2, 9, 0, 1, 2, 7] and set(table["model"]) == {"tiny"}


def test_without_the_yardstick_or_with_one_seed_there_is_no_interval_and_no_rank(fakes):
    table, _ = summarise(fakes({"slao": {0: 50.0, 1: 51.0}, "olora": {0: 60.0}}))
    assert table["AA_minus_seqlora"].isna().all() and list(table["rank"]) == ["", ""]
    table, _ = summarise(fakes({"slao": {0: 50.0}, "seqlora": {0: 40.0}}))
    assert table["AA_minus_seqlora"][0] == 10 and math.isnan(table["AA_minus_seqlora_half"][0]) and math.isnan(table["AA_sd"][0])


def test_rows_are_in_the_table_of_methods_order_within_each_setup(fakes):
    names = ["task_arithmetic", "mine", "olora", "slao_mean", "seqlora", "slao"]
    second = fakes({name: {0: 1.0} for name in names}, order="2")
    table, _ = summarise(second + fakes({name: {0: 1.0} for name in names}))
    right = sorted(names[:1] + names[2:], key=list(METHODS).index) + ["mine"]
    assert list(zip(table["order"], table["method"])) == [(order, name) for order in "21" for name in right]


def test_ranks_say_what_the_intervals_leave_open_and_bounds_have_none(fakes):
    high, middle, low = {0: 80.0, 1: 81.0, 2: 80.5}, {0: 50.0, 1: 60.0, 2: 40.0}, {0: 45.0, 1: 44.9, 2: 45.1}
    table, _ = summarise(fakes({"slao": low, "olora": high, "inclora": middle, "per_task": high, "multi_task": high, "zero_shot": low}))
    ranks = dict(zip(table["method"], table["rank"]))
    assert ranks == {"slao": "2–3", "olora": "1", "inclora": "2–3", "per_task": "", "multi_task": "", "zero_shot": ""}
    assert set(table["rank_options"]) == {"", "1–3"}                         # equal by the labels
    even, _ = summarise(fakes({"slao": {0: 1.0, 1: 2.0}, "olora": {0: 1.0, 1: 2.0}}))
    assert list(even["rank"]) == ["1–2", "1–2"]


def test_reconstructed_methods_are_ranked_apart_and_marked(fakes, monkeypatch):
    cards = {"slao": Card("SLAO", "", "single adapter", "exact"), "olora": Card("O", "", "stack", "adapted"),
             "inclora": Card("Inc", "", "stack", "reconstructed"), "task_arithmetic": Card("TA", "", "merging", "reconstructed"),
             "seqlora": Card("Replays", "", "stack", "exact", old_data=True), "per_task": Card("Knows", "", "stack", "exact", task_id=True)}
    monkeypatch.setattr("mbf_utils.titles.card_of", cards.get)
    monkeypatch.setattr("mbf_utils.reports.card_of", cards.get)
    best = {name: {0: 10.0 * place, 1: 10.0 * place + 0.1} for place, name in enumerate(cards)}
    table, _ = summarise(fakes(best))
    table = table.set_index("method")
    assert dict(table["rank"]) == {"slao": "2", "olora": "1", "inclora": "2", "task_arithmetic": "1", "seqlora": "", "per_task": ""}
    assert [name for name in cards if "†" in table.loc[name, "title"]] == ["inclora", "task_arithmetic"]
    assert (table.loc["inclora", "fidelity"], table.loc["per_task", "task_id"], table.loc["seqlora", "old_data"]) == ("reconstructed", True, True)


def test_only_equal_settings_are_compared_and_a_copy_is_no_second_measurement(fakes):
    table, _ = summarise(fakes({"slao": {0: 50.0, 1: 51.0}}, settings={"lr": 1}) + fakes({"seqlora": {0: 40.0, 1: 40.0}}))
    assert table["setup"].nunique() == 2 and table["AA_minus_seqlora"].isna().tolist() == [True, False]
    with pytest.raises(InputError, match="found two of slao with seed 0"):
        summarise(fakes({"slao": {0: 50.0}}) * 2)
    with pytest.raises(InputError, match="found none"):
        summarise([])


def test_settings_are_rows_of_their_own(fakes):
    table, _ = summarise(fakes({"olora": {0: 1.0}}, fields={"lambda1": 0.5, "lambda2": 0.0}) + fakes({"olora": {0: 2.0}}, fields={"lambda1": 0.1, "lambda2": 0.0}))
    assert list(table["setting"]) == ["", "lambda1=0.1"] and list(table["title"]) == ["O-LoRA", "O-LoRA (lambda1=0.1)"]


def test_disparity_over_orders_by_hand(fakes):
    """Seed 0: x is 10 and 40, y 30 and 20. Seed 1: x 10 and 10, y 30 and 50. Seed 5 has one order and does not count."""
    runs = [run for order, finals in (("1", {0: (10.0, 30.0), 1: (10.0, 30.0), 5: (0.0, 0.0)}), ("2", {0: (40.0, 20.0), 1: (10.0, 50.0)}))
            for seed, final in finals.items() for run in fakes({"slao": {seed: 1.0}}, order=order, finals=final)]
    (row,) = order_table(runs + fakes({"seqlora": {0: 1.0}})).itertuples()
    assert (row.method, row.orders, row.seeds, row.title) == ("slao", "1, 2", 2, "SLAO")
    assert (row.MOPD, row.AOPD, row.AA) == (25.0, 15.0, 25.0)                # (30, 20), (20, 10), (25, 25)
    assert row.MOPD_sd == pytest.approx(math.sqrt(50)) and row.AOPD_options == 15.0
    assert order_table(fakes({"slao": {0: 1.0}})).empty


def test_a_real_grid_s_table_has_the_card_the_costs_and_prints(grid):
    out, comparison = grid
    table = comparison.table
    assert list(table["title"]) == ["SLAO", "O-LoRA (lambda1=0.1)", "SLAO, λ(i) = 1/2"] and set(table["seeds"]) == {2}
    assert list(table["family"]) == ["single adapter", "stack", "single adapter"] and comparison.orders.empty
    assert table["seconds_train"].gt(0).all() and table["state_bytes"].gt(1000).all() and len(comparison.each) == 6
    assert len(find_runs([out])) == 6 and list(printed(table)["method"]) == list(table["title"])


# titles

def test_every_row_of_the_table_of_methods_has_a_title_of_its_own():
    titles = [title_of(name) for name in METHODS]
    assert len(set(titles)) == len(titles) and not set(titles) & set(METHODS)
    assert title_of("slao_random") == "SLAO, random start" and title_of("mine") == "mine"
    assert title_of("olora", "lambda1=0.1") == "O-LoRA (lambda1=0.1)"


def test_a_method_of_one_s_own_is_a_rival_and_keeps_its_name():
    assert group_of("mine") == group_of("slao") == "rival" != group_of("seqlora") == group_of("per_task")
    assert name_of(Fails()) == "Fails" and name_of(SLAO(begin="random")) == "slao_random" and name_of(SLAO(merge="A")) == "slao"


def test_the_table_of_matrices_gives_back_every_matrix(grid):
    _, comparison = grid
    table = matrices(comparison.runs)
    for reading, attribute in (("exact", "matrix"), ("labels", "options")):
        found = scores_of(table, reading)
        assert "olora (lambda1=0.1)" in found and len(found) == len(METHOD_LIST)
        for run in comparison.runs:
            (name,) = (name for name in found if name.split(" ")[0] == run.method)
            pd.testing.assert_frame_equal(found[name][run.config["seed"]], getattr(run, attribute), check_names=False)
    with pytest.raises(InputError, match="matrices of one order of the tasks, found 2: name order="):
        scores_of(pd.concat([table, table.assign(order="2")]))
    with pytest.raises(InputError, match="one stream and base, found 2 of them"):
        scores_of(pd.concat([table, table.assign(model="another")]))
    with pytest.raises(InputError, match="found none"):
        scores_of(table, order="7")
