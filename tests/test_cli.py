"""The command: what it prints and writes, and one sentence with exit code 2 for bad input."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mbf_utils.cli import main
from mbf_utils.methods import METHODS
from mbf_utils.results import Run

QUICK = ["--limit", "40", "--epochs", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of SLAO and one of sequential LoRA on a small world-5."""
    folder = tmp_path_factory.mktemp("runs")
    for method, seed in (("slao", 0), ("slao", 1), ("seqlora", 0)):
        assert main(["run", "world-5", "--method", method, "--seed", str(seed), *QUICK, "--out", str(folder / f"{method}-{seed}")]) == 0
    return folder


def test_run_prints_the_matrix_and_writes_the_run(runs, capsys):
    out = str(runs / "slao-0")
    assert main(["run", "world-5", *QUICK, "--out", out]) == 0               # finished already: shown, not trained again
    printed = capsys.readouterr().out
    run = Run(out)
    assert "yelp" in printed and f"{run.metrics()['AA']:.1f}" in printed
    assert run.config["settings"]["epochs"] == 1 and len(run.logs) == 5


def test_report_groups_seeds_and_saves_table_and_figure(runs, tmp_path, capsys):
    assert main(["report", str(runs), "--save", "small", "--figures", str(tmp_path)]) == 0
    import pandas as pd
    table, each = pd.read_csv(tmp_path / "small.csv"), pd.read_csv(tmp_path / "small-runs.csv")
    slao = table.set_index("method").loc["slao"]
    scores = [Run(runs / f"slao-{seed}").metrics()["AA"] for seed in (0, 1)]
    assert slao.seeds == 2 and slao.AA == pytest.approx(sum(scores) / 2, abs=1e-3)
    assert slao.AA_sd == pytest.approx(abs(scores[0] - scores[1]) / 2 ** 0.5, abs=1e-3)
    assert len(each) == 3 and (tmp_path / "small.png").stat().st_size > 5000


def test_a_mean_over_test_rows_is_saved_as_it_is_printed(runs, tmp_path, capsys, monkeypatch):
    """With nine tenths of the rows in the last task: its score nearly, in the table, the runs and the picture."""
    import pandas as pd

    from mbf_utils import plots
    copy, drawn = shutil.copytree(runs, tmp_path / "runs"), []
    for file in copy.glob("*/tasks/01-*/log.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"rows": [1, 1, 1, 1, 36]}))
    comparison = plots.comparison
    monkeypatch.setattr(plots, "comparison", lambda rows, value, **more: drawn.append(rows) or comparison(rows, value, **more))
    assert main(["report", str(copy), "--mean", "micro", "--save", "rows", "--figures", str(tmp_path)]) == 0
    final = {seed: Run(copy / f"slao-{seed}").matrix.iloc[-1].tolist() for seed in (0, 1)}
    expected = {seed: (sum(row) + 35 * row[4]) / 40 for seed, row in final.items()}
    each = pd.read_csv(tmp_path / "rows-runs.csv").query("method == 'slao'").set_index("seed")["AA"]
    assert each.to_dict() == pytest.approx(expected, abs=1e-3) and abs(expected[0] - sum(final[0]) / 5) > 1
    mean = sum(expected.values()) / 2
    assert pd.read_csv(tmp_path / "rows.csv").set_index("method").loc["slao", "AA"] == pytest.approx(mean, abs=1e-3)
    slao = drawn[0].set_index("method").loc["slao"]
    assert slao["AA"] == pytest.approx(mean) and slao["scores"] == pytest.approx([expected[0], expected[1]])
    assert f"{mean:.1f} ±" in capsys.readouterr().out


def test_merge_of_a_run_s_tuned_adapters_is_the_run_s_own_result(runs, tmp_path):
    import torch
    from mbf_utils.adapter_files import load_adapter
    run = Run(runs / "slao-0")
    out = tmp_path / "merged"
    assert main(["merge", *(str(run.adapter(i, "tuned")) for i in range(1, 6)), "--out", str(out)]) == 0
    merged, result = load_adapter(out), run.lora(5)
    assert all(torch.equal(x, y) for path in result for x, y in zip(merged[path], result[path]))


def test_merge_of_adapters_trained_apart_is_refused(tmp_path, capsys):
    """The same three tasks, each learned alone from the base: SLAO's merge would be meaningless."""
    folder = tmp_path / "apart"
    assert main(["run", "world-5", "--method", "per_task", *QUICK, "--out", str(folder)]) == 0
    run = Run(folder)
    assert main(["merge", *(str(run.adapter(i)) for i in (1, 2, 3)), "--out", str(tmp_path / "out")]) == 2
    assert "independent" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_compare_learns_the_grid_names_what_failed_and_saves_scores_apart_from_costs(tmp_path, capsys, monkeypatch):
    import pandas as pd
    from mbf_utils.methods.references import SeqLoRA

    class Breaks(SeqLoRA):
        def finish(self, tuned, task):
            raise RuntimeError("broken")

    monkeypatch.setitem(METHODS, "inclora", Breaks)
    command = ["compare", "world-5", "--methods", "seqlora,inclora,olora lambda1=0.1", "--orders", "1,2", "--seeds", "0,3", "--limit", "20",
               "--epochs", "1", "--out", str(tmp_path / "runs"), "--save", "both", "--figures", str(tmp_path / "figures")]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "seqlora-0" not in said.err and said.err.count("world-5-o2-inclora-3 failed: RuntimeError: broken (test_cli.py, line ") == 1
    assert "world-5, order 2, base tiny" in said.out and "O-LoRA (lambda1=0.1)" in said.out and "over several orders" in said.out
    table, each = (pd.read_csv(tmp_path / "figures" / f"both{suffix}.csv") for suffix in ("", "-runs"))
    assert list(zip(table["order"], table["method"])) == [(order, method) for order in (1, 2) for method in ("seqlora", "olora")]
    assert sorted(set(each["seed"])) == [0, 3] and not [name for name in [*table, *each] if "second" in name or "peak" in name]
    one = pd.read_csv(tmp_path / "runs" / "table.csv")
    assert list(one["order"]) == list(table["order"]) and list(one["AA"]) == list(table["AA"]) and one["MOPD"].notna().all()
    assert {"forgetting_sd", "learning_accuracy", "AOPD", "seconds_train", "seconds_evaluate", "peak_memory_mb", "state_bytes"} <= set(one)
    whole = [str(file.parent) for file in sorted((tmp_path / "runs").glob("*/matrix.csv")) if "inclora" not in file.parent.name]
    assert main(["report", *whole, "--save", "again", "--figures", str(tmp_path / "figures")]) == 0
    assert "over several orders" in capsys.readouterr().out
    assert (tmp_path / "figures" / "again-orders.csv").read_bytes() == (tmp_path / "figures" / "both-orders.csv").read_bytes()
    for file in (tmp_path / "figures").glob("again*"):
        file.unlink()
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "both.csv", "both-runs.csv", "both-matrices.csv", "both-costs.csv", "both-orders.csv",
        *(f"both-world-5-o{order}{reading}.png" for order in (1, 2) for reading in ("", "-options"))}


def test_methods_are_chosen_by_name_with_settings_by_family_or_all():
    from mbf_utils import commands
    assert commands._methods("all") == list(METHODS) and commands._methods("slao, olora") == ["slao", "olora"]
    assert commands._methods("stack,olora") == [name for name in METHODS if METHODS[name]().card.family == "stack"] != []
    assert commands._methods("olora lambda1=0.1 lambda2=2,slao") == [("olora", {"lambda1": 0.1, "lambda2": 2.0}), "slao"]
    assert commands._seeds("3") == [0, 1, 2] and commands._seeds("0,5") == [0, 5] and commands._seeds("7,") == [7]


@pytest.mark.parametrize("arguments, words", [
    (["compare", "world-6"], "world-5"),
    (["compare", "world-5", "--orders", "1,9"], "1, 2, 3"),
    (["compare", "world-5", "--methods", "slao,slow"], "slao"),
    (["compare", "world-5", "--methods", "olora lambda=1"], "lambda1"),
    (["compare", "world-5", "--seeds", "many"], "--seeds"),
    (["compare", "world-5", "--seeds", "0"], "whole number as seed"),
    (["compare", "world-5", "--workers", "0"], "1 worker or more"),
    (["compare", "world-5", "--workers", "nobody"], "joblib backend"),
    (["compare", "world-5", "world-5:1"], "two runs for the folder"),
    (["compare", "world-5", "--workers=--1"], "joblib backend"),
    (["compare", "world-5", "--workers", "²"], "joblib backend"),
    (["compare", "world-5", "--abreast", "-3"], "1 run abreast or more, found -3"),
    (["compare", "world-5", "--abreast", "0"], "1 run abreast or more, found 0"),
    (["compare", "world-5", "--seeds", "2000000000"], "up to 1000"),
    (["run", "world-6"], "world-5"),
    (["run", "world-5", "--order", "7"], "1, 2, 3"),
    (["run", "world-5", "--method", "slow"], "slao"),
    (["run", "world-5", "--model", "huge"], "built in"),
    (["run", "world-5", "--model", "./nowhere"], "nowhere"),
    (["run", "world-5", "--limit", "0"], "limit"),
    (["run", "world-5", "--lr", "0"], "lr"),
    (["run", "world-5", "--clip", "-1"], "clip of 0 or more"),
    (["run", "world-5", "--weight-decay", "-5"], "weight_decay of 0 or more"),
    (["run", "world-5", "--checkpoint-minutes", "-1"], "checkpoint_minutes of 0 or more"),
    (["run", "world-5", "--epochs", "1000000000000"], "epochs up to 100000"),
    (["run", "world-5", "--device", "meta"], "found 'meta'"),
    (["run", "world-5", "--scores", "bleu"], "rouge_l"),
    (["run", "world-5", "--targets", "c_attn"], "q_proj"),
    (["run", "world-5", "--method", "olora", "--set", "lambda=1"], "lambda1"),
    (["run", "world-5", "--set", "qr"], "FIELD=VALUE"),
    (["run", "world-5", "--set", "merge=A", "--set", "merge=AB"], "merge given twice"),
    (["run", "world-5", "--set", "merge=X"], "expected merge of SLAO to be one of 'B', 'A', 'AB', '', found 'X'"),
    (["compare", "world-5", "--methods", "migu q=-1"], "expected q of MIGU from 0 to 1, found -1"),
    (["run", "{empty}"], "empty"),
    (["run", "{empty}/missing"], "missing"),
    (["report", "{empty}"], "config.json"),
    (["merge", "{empty}", "{full}", "--out", "{empty}/out"], "adapter_config.json"),
    (["merge", "{empty}", "{full}", "{empty}/../empty", "--out", "{empty}/out"], "empty given twice"),
    (["make-base", "{full}"], "not empty"),
    (["make-base", "{empty}/base", "--size", "huge"], "tiny, small"),
    (["make-base", "{empty}/base", "--text", "{empty}/no.txt"], "no.txt"),
    (["make-base", "{empty}/base", "--text", "{full}/mine.txt", "--vocab-size", "-5"], "vocab_size from 2"),
    (["make-base", "{empty}/base", "--text", "{full}/mine.txt", "--vocab-size", "1000000000000"], "vocab_size from 2"),
    (["lab", "--notebooks", "{empty}/missing"], "notebooks"),
])
def test_bad_input_is_one_sentence_with_exit_code_2_and_nothing_written(arguments, words, tmp_path, monkeypatch, capsys):
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir(), full.mkdir()
    (full / "mine.txt").write_text("x")
    monkeypatch.chdir(empty)
    assert main([argument.format(empty=empty, full=full) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mbf: ") and words in error and "Traceback" not in error and error.count("\n") == 1
    assert not [path for path in empty.rglob("*") if path.is_file() and path.name != ".lock"]


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK"])
def test_an_environment_that_no_launcher_made_is_one_sentence(name, monkeypatch, capsys):
    monkeypatch.setenv(name, "x")
    assert main(["run", "world-5"]) == 2
    assert capsys.readouterr().err == (f"mbf: expected a whole number in the environment's {name}, found 'x': only a launcher sets "
                                       "it; unset it\n")


def test_epochs_may_be_a_part_of_one_and_a_whole_number_stays_whole():
    from mbf_utils import cli, commands
    given = [commands._settings(cli._parser().parse_args(["run", "world-5", "--epochs", text]))["epochs"] for text in ("0.5", "2")]
    assert repr(given) == "[0.5, 2]"


def test_an_output_folder_that_holds_another_run_is_refused_and_left_alone(runs, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(runs / "slao-0", out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for change in (["--method", "seqlora"], ["--seed", "3"], ["--lr", "0.001"], ["--order", "2"], ["--named"], ["--data-seed", "1"]):
        assert main(["run", "world-5", *QUICK, *change, "--out", str(out)]) == 2
        assert "another run" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    assert main(["run", "world-5", *QUICK, "--out", str(tmp_path)]) == 2
    assert "letter.txt" in capsys.readouterr().err and sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == ["letter.txt"]


@pytest.mark.skipif(os.name == "nt", reason="the limit on file sizes is POSIX's")
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_once_there_is_room(tmp_path):
    """A real failure of writing: files may not grow beyond 20 kB, so the first adapter does not fit."""
    command = [sys.executable, "-m", "mbf_utils", "run", "world-5", *QUICK, "--out", str(tmp_path / "run")]
    done = subprocess.run(["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *command], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("mbf: expected room"), done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.endswith(".tmp")]
    assert not list((tmp_path / "run" / "tasks").iterdir())
    assert main(command[3:]) == 0 and len(Run(tmp_path / "run").logs) == 5


@pytest.mark.skipif(os.name == "nt", reason="a session of processes is POSIX's")
def test_told_to_end_a_comparison_takes_its_workers_along(tmp_path):
    command = [sys.executable, "-m", "mbf_utils", "compare", "world-5", "--methods", "slao", "--seeds", "2", "--workers", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)

    def until(there) -> bool:
        end = time.monotonic() + 120
        while not there() and time.monotonic() < end:
            time.sleep(0.1)
        return there()

    def all_gone() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    try:
        assert until(lambda: list(tmp_path.glob("*/tasks")))         # both workers are at work
        process.terminate()
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 130 and "\nmbf: stopped" in said and until(all_gone), said
    finally:
        if not all_gone():
            os.killpg(process.pid, signal.SIGKILL)


def test_demo_ends_with_both_matrices_the_metrics_and_two_figures(tmp_path, capsys, monkeypatch):
    import mbf_utils.runs as module
    whole = module.run_stream
    monkeypatch.setattr(module, "run_stream", lambda stream, *a, **k: whole(module.load_stream(stream, limit=40), *a, epochs=1, **k))
    assert main(["demo", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("seqlora: exact match", "slao: exact match", "AA", "BWT", "dbpedia"))
    figures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert figures == ["forgetting.png", "matrix-slao.png"] and all(name in printed for name in figures)


def test_make_base_reads_lines_of_a_file_and_never_a_stream_s_answers(tmp_path, monkeypatch):
    from mbf_utils import commands
    (tmp_path / "text.txt").write_text("one line\n\nanother\n", encoding="utf-8")
    assert commands._texts(str(tmp_path / "text.txt")) == ["one line", "another"]
    folder = tmp_path / "bench" / "SC" / "yelp"
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (folder / f"{split}.json").write_text(json.dumps([{"label": "good", "sentence": f"the {split} soup"}, {"label": "bad", "sentence": f"a {split} bus"}]))
    (folder / "labels.json").write_text('["good", "bad"]')
    texts = commands._texts(str(tmp_path / "bench"))
    assert sorted(texts) == ["a train bus", "the train soup"]


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_version_and_help_load_no_torch(argument):
    code = f"import sys, mbf_utils.cli as c\ntry: c.main([{argument!r}])\nexcept SystemExit: pass\nprint('loaded', [m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("loaded []\n") and "mbf" in done.stdout
    assert argument == "--version" or all(name in done.stdout for name in ("demo", "run", "compare", "merge", "report", "make-base", "lab"))


def test_methods_lists_every_card_and_shows_one_with_its_equation(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(METHODS) and any("LB-CL†" in line for line in lines)
    assert main(["methods", "ema_mean"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("ema_mean: EMA, plain mean") and "arXiv" in printed and "EMA(" in printed
    assert main(["methods", "olora2"]) == 2 and "found 'olora2'" in capsys.readouterr().err
