"""Presets, published numbers and the cells that reproduce them: complete, costed by one rule, run end to end on a little base."""
import json
from types import SimpleNamespace

import pandas as pd
import pytest

from mbf_utils import presets, reproduce
from mbf_utils.cli import main
from mbf_utils.comparison import Base
from mbf_utils.errors import InputError
from mbf_utils.methods import METHODS, make_method
from mbf_utils.presets import PRESETS
from mbf_utils.published import replicated, rows_of, told
from mbf_utils.results import Run
from mbf_utils.settings import Settings
from mbf_utils.streams import ORDERS, Example, Stream, TaskData

QUICK = dict(epochs=1, batch_size=4, accumulation=1, rank=2, alpha=4.0, max_length=600, max_new_tokens=2, eval_batch_size=8)
FLAGS = [text for name, value in QUICK.items() for text in (f"--{name.replace('_', '-')}", str(value))]


# ---- presets
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_whole_and_says_where_it_comes_from(name):
    found = PRESETS[name]
    settings = Settings(**presets.settings(name))
    assert settings.targets == ("q_proj", "v_proj") and settings.schedule == "constant" and settings.evaluate_on == "test"
    assert found.source and found.left_open and all(make_method(method, **fields) for method, fields in found.methods.items())
    assert presets.settings(name) is not found.settings             # a copy


def test_presets_say_what_the_sources_say():
    def of(name):
        s = presets.settings(name)
        return s["rank"], s["alpha"], s["dropout"], s["lr"], s["epochs"], s["batch_size"] * s["accumulation"], s["max_length"]
    assert of("slao-superni") == of("slao-replication") == (8, 32, 0.1, 5e-5, 5, 8, 1074)
    assert of("slao-standard") == of("slao-long") == (8, 32, 0.1, 1e-4, 1, 8, 1074)
    assert of("olora") == (8, 32, 0.1, 1e-4, 1, 64, 562) and of("olora-t5") == (8, 32, 0.1, 1e-3, 1, 64, 562)
    assert of("sapt-superni") == (4, 32, 0, 5e-5, 50, 32, 1074) and of("sapt-long") == (4, 32, 0, 5e-5, 20, 32, 1074)
    assert of("sapt-superni-t5") == (4, 32, 0, 3e-4, 100, 32, 562) and of("sapt-long-t5") == (8, 32, 0, 3e-4, 10, 32, 562)
    assert [presets.fields(f"sapt-{name}-t5", "sapt")["lam"] for name in ("superni", "long")] == [0.5, 0.1]
    assert presets.fields("olora", "olora") == {"lambda1": 0.5, "lambda2": 0.0} and presets.fields("olora", "slao") == {}
    assert (presets.fields("sapt-superni", "sapt"), presets.fields("sapt-long", "sapt")) == ({"lam": 1.0}, {"lam": 2.0})
    assert presets.fields(None, "olora") == {}
    with pytest.raises(InputError, match="slao-superni.*found 'slao-super'"):
        presets.settings("slao-super")


def test_a_run_takes_a_preset_and_what_is_given_besides_counts_before_it(tmp_path, capsys, monkeypatch):
    asked = []

    def stop(stream, method, *rest, **settings):
        asked.append((method, settings))
        raise InputError("enough")
    monkeypatch.setattr("mbf_utils.runs.run_stream", stop)
    for more in ([], ["--set", "lam=0.5"], ["--targets", "all-linear"]):
        assert main(["run", "world-5", "--method", "sapt", "--preset", "sapt-long", "--limit", "2", "--rank", "2", *more]) == 2
    (first, settings), (second, _), (_, other) = asked
    assert (first.lam, second.lam) == (2.0, 0.5) and settings == presets.settings("sapt-long") | {"rank": 2}
    assert settings["targets"] == ("q_proj", "v_proj") and other["targets"] == "all-linear"
    monkeypatch.undo()
    assert main(["compare", "world-5", "--methods", "olora", "--preset", "olora", "--seeds", "1", "--limit", "2", *FLAGS, "--out",
                 str(tmp_path / "runs")]) == 0
    (config,) = [json.loads(file.read_text()) for file in (tmp_path / "runs").glob("*/config.json")]
    assert config["method"]["lambda1"] == 0.5 and config["settings"]["lr"] == 1e-4 and config["settings"]["rank"] == 2
    capsys.readouterr()
    assert main(["run", "world-5", "--preset", "slow"]) == 2 and "slao-superni" in capsys.readouterr().err


def test_presets_are_listed_and_shown(capsys):
    assert main(["presets"]) == 0
    lines = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [*PRESETS, "", "no preset holds", *presets.UNFIT] and {"O-LoRA, order 6"} <= set(presets.UNFIT)
    assert main(["presets", "sapt-superni"]) == 0
    printed = capsys.readouterr().out
    assert "circle-hit/SAPT" in printed and "epochs = 50" in printed and "lam" in printed and "left open: " in printed


# ---- published numbers
def test_the_papers_numbers_are_printed_apart_with_their_source(capsys):
    assert main(["report", "--paper"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == told() and "2512.23017" in printed and "merge-before-forget" in printed and "not ours" in printed
    for table in ("main", "start", "merging", "bwt", "orders"):
        for row in rows_of(table).itertuples():
            assert f"{row.value:.1f}" in printed and row.source in printed and row.model in printed
    for row in replicated().itertuples():
        assert f"{row.value:.2f}" in printed
    assert main(["report"]) == 2 and "--paper" in capsys.readouterr().err


def test_means_over_seeds_of_the_replication_agree_with_its_mean_over_orders():
    rows = replicated().query("model == 'Llama-2-7B-chat'").set_index(["orders", "method", "metric"], verify_integrity=True)["value"]
    for method, metric in ((m, k) for m in ("slao", "seqlora") for k in ("AA", "BWT")):
        each = [rows[order, method, metric] for order in ("O1", "O2")]
        assert sum(each) / 2 == pytest.approx(rows["O1-O2", method, metric], abs=0.011)


# ---- cells
def test_every_published_average_is_a_cell_once():
    found = reproduce.cells()
    assert len({cell.name for cell in found}) == len(found) and {cell.method for cell in found} <= set(METHODS)
    for table in ("main", "start", "merging", "orders"):
        values = [cell.paper for cell in found if cell.table == table and cell.paper == cell.paper]
        assert values == rows_of(table)["value"].tolist()
    assert all(set(cell.orders) <= set(ORDERS[cell.benchmark]) and cell.hours > 0 for cell in found)
    ran = {(row.model, row.orders, row.method) for row in replicated().itertuples() if "-" not in row.orders}
    assert ran <= {(cell.model, cell.orders[0], cell.method) for cell in found if cell.table == "orders"}


def test_hours_follow_the_stated_rule():
    """O1 by hand: 11741 training rows five times, and after each task an answer for every test row so far."""
    fewer = {"task1572": 80, "task181_": 57, "task639_": 82, "task1590": 84}
    tests = [100 - fewer.get(name[:8], 0) for name in ORDERS["superni"]["O1"]]
    expected = 3 * 5 * 11741 + 3 * sum(sum(tests[:i + 1]) for i in range(15))
    assert reproduce.work("superni", "O1", "slao") == expected
    assert reproduce.work("standard", "1", "slao") == 3 * 33000 + 7600 * (1 + 2 + 3 + 4)
    assert reproduce.work("standard", "1", "multi_task") == 3 * (14000 + 19000 + 29000 + 33000) + 7600 * 10
    cells = {cell.name: cell for cell in reproduce.cells()}
    assert cells["orders/superni-O1/slao/Llama-2-7B-chat"].hours == pytest.approx(4.15)
    assert cells["orders/superni-O1/slao/Qwen2.5-3B"].hours == pytest.approx(2.4)


def test_cells_are_listed_with_what_the_hours_rest_on(capsys):
    assert main(["reproduce"]) == 0
    printed = capsys.readouterr().out
    assert all(cell.name in printed for cell in reproduce.cells())
    assert "estimates, not measurements" in printed and "44.41 ± 1.05" in printed


def test_what_cannot_be_reproduced_is_said_in_one_sentence(capsys, tmp_path):
    for arguments, words in ((["main/superni/slow"], "lists"), (["*/slao", "--data", "superni"], "BENCHMARK=PATH"),
                             (["*/slao", "--data", "trace=x"], "superni"), (["*/slao", "--seeds", "many"], "--seeds")):
        assert main(["reproduce", *arguments, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("mbf: ") and words in error and error.count("\n") == 1


@pytest.fixture
def folder(tmp_path):
    """The four tasks of the standard benchmark in O-LoRA's form, two labels each."""
    for kind, name in (("TC", "dbpedia"), ("SC", "amazon"), ("TC", "yahoo"), ("TC", "agnews")):
        place = tmp_path / "CL_Benchmark" / kind / name
        place.mkdir(parents=True)
        (place / "labels.json").write_text('["good", "bad"]')
        for split, count in (("train", 4), ("dev", 2), ("test", 3)):
            rows = [{"label": ("good", "bad")[i % 2], "sentence": f"the {name} {split} {i} was {('fine', 'poor')[i % 2]}"}
                    for i in range(count)]
            (place / f"{split}.json").write_text(json.dumps(rows))
    return tmp_path / "CL_Benchmark"


def test_cells_run_resumably_and_stand_beside_what_was_published(folder, tmp_path, capsys, monkeypatch):
    command = ["reproduce", "main/standard/slao", "merging/standard/slao", "--data", f"standard={folder}", "--model",
               "tiny", "--seeds", "2", *FLAGS, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Not as the paper" in printed and printed.count("80.4") == 2 and "base tiny; " in printed
    table = pd.read_csv(tmp_path / "out" / "reproduce.csv").set_index("cell")
    runs = [Run(file.parent) for file in (tmp_path / "out").rglob("config.json")]
    assert len(runs) == 3 * 2 and not table["as the paper"].any()
    assert set(table["ran on"]) == {"tiny"} and set(table["seeds"]) == {2}
    by_seed = pd.Series({seed: sum(run.metrics()["AA"] for run in runs if run.method == "slao" and run.config["seed"] == seed) / 3
                         for seed in (0, 1)})
    for cell in ("main/standard/slao", "merging/standard/slao"):    # two tables, the same runs
        assert table.loc[cell, "AA"] == pytest.approx(by_seed.mean(), abs=1e-3)
        assert table.loc[cell, "AA_sd"] == pytest.approx(by_seed.std(ddof=1), abs=1e-3)
    assert all(run.config["settings"]["lr"] == 1e-4 for run in runs)                 # the preset's
    before = (tmp_path / "out" / "reproduce.csv").read_bytes()
    monkeypatch.setattr("mbf_utils.runs.train_task", None)          # nothing is trained again
    assert main(command) == 0 and (tmp_path / "out" / "reproduce.csv").read_bytes() == before


def test_fewer_rows_another_type_or_device_are_not_as_the_paper(tmp_path, monkeypatch):
    """A stand-in for the runs: what is asked for tells. The counts are those of the benchmarks' own files."""
    def rows(count):
        return [Example("a :", ("b",))] * count

    def stream(benchmark, order, seed, *rest):
        sizes = {"dbpedia": (14000, 7600), "amazon": (5000, 7600), "yahoo": (10000, 7600), "agnews": (4000, 7600)}
        sizes = dict.fromkeys(sizes, (400, 100)) if benchmark == "few" else sizes
        return Stream("standard", order, tuple(TaskData(name, rows(sizes[name][0]), [], rows(sizes[name][1]), ("b",))
                                               for name in ORDERS["standard"][order]))

    device = "cuda:0"

    class Done:
        def __init__(self, order, method, seed):
            self.method, self.config = method, {"seed": seed, "device": device, "model": {"name": "x"}}

        def metrics(self):
            return {"AA": 50.0, "BWT": -1.0}

    def compare(stream, methods, seeds, *rest, **settings):
        runs = [Done(stream.order, method, seed) for method in methods for seed in seeds]
        return SimpleNamespace(runs=runs, failures=pd.DataFrame(columns=["cell", "error"]))
    monkeypatch.setattr(reproduce, "load_stream", stream)
    monkeypatch.setattr(reproduce, "compare", compare)

    def differs(cell="main/standard/slao", data=(), **options):
        table, _ = reproduce.reproduce(reproduce.choose([cell]), dict(data), tmp_path, **options)
        assert (table["as the paper"] == (table["differs"] == "")).all()
        return table["differs"].item()
    own = presets.settings("slao-standard")
    assert differs(lr=own["lr"], limit=10 ** 6) == differs(model=Base("meta-llama/Llama-2-7b-chat-hf", dtype="bfloat16")) == ""
    few = differs(data={"standard": "few"})
    assert few.split("; ")[0] == "dbpedia of 400 train and 100 test rows (not 14000 and 7600)" and few.count("rows") == 4
    assert differs(model=Base("tiny")) == "base tiny" and differs(lr=1.0, rank=8) == "lr 1.0"
    assert differs(model=Base("", dtype="float32", quantize=4)) == "4 bits; type float32"
    assert differs(data_seed=7) == "rows of data seed 7" and differs(data={"standard": "own"}, data_seed=7) == ""
    assert differs(named=False, prompts="SAPT") == "prompts SAPT; prompts that do not name their task"
    device = "cpu"
    assert differs() == "device cpu"

    alone = pd.read_csv(tmp_path / "reproduce.csv")                  # what earlier calls found stays, a cell once
    assert alone["cell"].tolist() == ["main/standard/slao"]
    assert differs("main/standard/seqlora") == "device cpu"
    both = pd.read_csv(tmp_path / "reproduce.csv")
    names = [cell.name for cell in reproduce.cells()]
    assert sorted(both["cell"], key=names.index) == both["cell"].tolist() and len(both) == 2
    pd.testing.assert_frame_equal(both[both["cell"] == "main/standard/slao"].reset_index(drop=True), alone)
    device = "cuda:0"
    differs()
    assert pd.read_csv(tmp_path / "reproduce.csv").set_index("cell")["as the paper"].to_dict() == {
        "main/standard/slao": True, "main/standard/seqlora": False}
    (tmp_path / "reproduce.csv").write_text("")
    with pytest.raises(InputError, match="expected the table of earlier cells in .* found a damaged one: remove it"):
        differs()


def test_cells_run_on_real_rows_and_superni_counts_by_the_fields_scores(real_rows, tmp_path):
    """Orders O1 and 1 from end to end."""
    cells = reproduce.choose(["orders/superni-O1/slao/Qwen2.5-3B", "orders/standard-1/slao/Llama-3.2-3B"])
    data = {"superni": str(real_rows / "superni"), "standard": str(real_rows / "cl_benchmark")}
    table, failures = reproduce.reproduce(cells, data, tmp_path, Base("tiny", "cpu"), seeds=(0,), limit=2, **QUICK)
    runs = {run.config["stream"]["order"]: run for run in (Run(file.parent) for file in tmp_path.rglob("config.json"))}
    assert not failures and runs["O1"].names == ORDERS["superni"]["O1"] and runs["1"].names == ORDERS["standard"]["1"]
    assert runs["O1"].scored and not runs["1"].scored
    assert table["AA"].tolist() == pytest.approx([runs["O1"].scores.iloc[-1].mean(), runs["1"].matrix.iloc[-1].mean()])
    assert table["paper AA"].tolist() == [37.8, 74.3] and table.loc[0, "replication AA"].startswith("51.04 ± 1.36")
    assert not table["as the paper"].any()
