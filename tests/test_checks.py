"""A worse adapter is not published: drops by hand, against the best version that is kept, in Python and from the shell."""
import json
import subprocess
import sys
import warnings

import pandas as pd
import pytest
import torch
from test_chats import CHAT, PLAIN
from test_continual import LORA, latest, padded, quick, some
from tiny import equal
from toy import toy_model, toy_stream

from mbf_utils import cli
from mbf_utils.chats import chat_rows, in_batches
from mbf_utils.checks import held_out, read_probes, rows_of
from mbf_utils.continual import Continual
from mbf_utils.errors import InputError, Worse
from mbf_utils.models import load_model
from mbf_utils.sources import load_stream
from mbf_utils.streams import Example


@pytest.fixture
def learned():
    model, tokenizer = toy_model()
    continual = Continual(model, "seqlora", keep=3, **LORA)
    for index in (1, 2, 3):
        quick(continual, index, tokenizer)
    return continual, tokenizer


def test_the_held_out_loss_by_hand(learned):
    """The mean over all labelled tokens, not over rows, whatever the batches."""
    continual, tokenizer = learned
    rows = rows_of(tokenizer, toy_stream()[1].test, 32)
    total, tokens = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = continual.model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for place, label in enumerate(row["labels"]):
            if label != -100:
                total, tokens = total - float(logits[place - 1, label]), tokens + 1
    assert len({len(row["labels"]) for row in rows}) > 1
    for size in (1, 3, 8):
        assert held_out(continual.model, rows, size) == pytest.approx(-total / tokens, abs=1e-5)
    assert held_out(continual.model, in_batches(rows, 2)) == pytest.approx(-total / tokens, abs=1e-5)
    with pytest.raises(InputError, match="rows with labels to score"):
        held_out(continual.model, [{"input_ids": [1, 2], "labels": [-100, -100]}])


def test_a_drop_is_measured_against_the_best_version_kept_and_the_model_is_left_as_it_was(learned):
    continual, _ = learned
    before, asked = latest(continual), []
    scores = {"steady": iter([5.0, 5.0, 5.0]), "sinks": iter([3.0, 2.5, 2.0])}                       # by half a step each time

    def scorer(model, rows):
        asked.append((model is continual.model, sum(float(factor.sum()) for pair in latest(continual).values() for factor in pair)))
        return next(scores[rows])
    sentence = "^expected no probe to drop by more than 0.9 with 3 free, found sinks by 1: do not publish"
    with pytest.raises(Worse, match=sentence) as caught:
        continual.check({"steady": "steady", "sinks": "sinks"}, 0.9, scorer)
    table = caught.value.table
    assert list(table.columns) == ["1 single", "2 prefixes", "3 free", "drop"] and table["drop"].tolist() == [0.0, 1.0]
    assert all(mine for mine, _ in asked) and len({total for _, total in asked}) == 3               # three versions were worn
    assert equal(latest(continual), before) and not continual.model.training

    scores = {"steady": iter([5.0, 5.0, 6.0]), "sinks": iter([3.0, 2.5, 2.0])}
    assert continual.check({"steady": "steady", "sinks": "sinks"}, 1.0, scorer)["drop"].tolist() == [-1.0, 1.0]    # not more
    with pytest.raises(InputError, match="finite score of every probe"):
        continual.check("x", 1.0, lambda model, rows: float("nan"))
    assert equal(latest(continual), before)


def test_the_first_version_is_measured_against_the_base():
    model, tokenizer = toy_model()
    batch = some(tokenizer, 4)
    base = held_out(model, [batch])
    continual = Continual(model, **LORA)
    with pytest.raises(InputError, match="a learned task before check"):
        continual.check([batch], 0.1)
    quick(continual, 1, tokenizer)
    table = continual.check([batch], 100.0)
    assert list(table.columns) == ["0 base", "1 single", "drop"] and table["0 base"].item() == pytest.approx(base, abs=1e-6)
    assert table["1 single"].item() == pytest.approx(held_out(continual.model, [batch]), abs=1e-6)
    continual.begin("open")
    with pytest.raises(InputError, match="expected no open task, found 'open'"):
        continual.check([batch], 0.1)


SCRIPT = """
import torch
from mbf_utils import Continual, load_model
continual = Continual.load({folder!r}, load_model("tiny", "cpu")[0])
continual.check({{"held out": [{{"input_ids": [1, 5, 6], "labels": [-100, 5, 6]}}]}}, max_drop=0.0)
print("published")
"""


def test_a_script_ends_before_it_publishes_and_the_command_exits_with_1(tmp_path, capsys):
    model, tokenizer = load_model("tiny", "cpu")
    continual = Continual(model)
    batch = padded([([1, 7], [8, 9])])
    with continual.task("first"):
        optimizer = torch.optim.SGD(continual.parameters(), lr=100)             # it leaps, and is worse for it
        continual.model(**batch).loss.backward()
        optimizer.step()
    folder = str(continual.save(tmp_path / "adapter"))

    done = subprocess.run([sys.executable, "-c", SCRIPT.format(folder=folder)], capture_output=True, text=True)
    assert done.returncode == 1 and "published" not in done.stdout and "Worse: expected no probe to drop" in done.stderr

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"{word} is", "answer": word}) + "\n" for word in "abcdef"))
    command = ["check", folder, str(tmp_path / "rows.jsonl"), "--device", "cpu", "--max-drop"]
    assert cli.main([*command, "1000"]) == 0
    told = capsys.readouterr()
    assert "0 base" in told.out and "1 first" in told.out and not told.err
    assert cli.main([*command, "0"]) == 1 and "mbf: expected no probe to drop by more than 0 with 1 first" in capsys.readouterr().err
    for odd in ("nan", "inf", "-0.1"):
        assert cli.main([*command[:-1], f"--max-drop={odd}"]) == 2
        assert f"expected max_drop to be a finite number, 0 or more, found {odd}" in capsys.readouterr().err
    assert cli.main(["check", str(tmp_path), "world-5", "--max-drop", "1"]) == 2 and "no continual.json" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_every_row_of_a_table_without_splits_is_a_probe_and_with_splits_those_of_test(tmp_path, suffix):
    _, tokenizer = toy_model()
    rows = [{"prompt": f"alpha {'one two three four five'.split()[i % 5]} {'six seven eight'.split()[i % 3]} :", "answer": "good" if i % 2 else "bad"}
            for i in range(15)]

    def probes(given, order=""):
        frame, file = pd.DataFrame(given), tmp_path / f"held-out.{suffix}"
        frame.to_csv(file, index=False) if suffix == "csv" else frame.to_json(file, orient="records", lines=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_probes([f"{file}{order}"], tokenizer)
    examples = [Example(row["prompt"], (row["answer"],)) for row in rows]
    assert probes(rows) == {"held-out": rows_of(tokenizer, examples)}                     # in their order, none drawn
    tasks = [{**row, "task": "ab"[i % 2]} for i, row in enumerate(rows)]
    assert probes(tasks) == {"a": rows_of(tokenizer, examples[::2]), "b": rows_of(tokenizer, examples[1::2])}
    assert probes(tasks, ":b") == {"b": rows_of(tokenizer, examples[1::2])}
    split = [{**row, "split": ("train", "dev", "test")[i % 3]} for i, row in enumerate(rows)]
    assert probes(split) == {"held-out": rows_of(tokenizer, examples[2::3])}
    assert list(read_probes(["world-5"], tokenizer)) == load_stream("world-5").names


def test_conversations_are_learned_and_checked(tmp_path):
    """Chat messages all the way: rows, a loop of one's own, and the same rows as a probe."""
    model, tokenizer = toy_model()
    tokenizer.chat_template = PLAIN
    rows = chat_rows(tokenizer, [CHAT, CHAT[2:]] * 4)
    continual = Continual(model, "keeplora", **LORA)          # which looks at the rows
    with continual.task("chats", rows):
        optimizer = torch.optim.AdamW(continual.parameters(), lr=0.02)
        for batch in in_batches(rows, 4) * 4:
            continual.model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    table = continual.check({"chats": rows}, 0.0)
    assert table["drop"].item() < -0.1                        # better than the base
