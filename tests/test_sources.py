"""load_stream: what a name or a path is taken for, and that everything else of the call arrives there."""
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from mbf_utils.errors import InputError
from mbf_utils.sources import load_stream
from mbf_utils.streams import Stream


@pytest.fixture
def calls(monkeypatch):
    """A stand-in for the world that only writes down how it was called."""
    made = []
    monkeypatch.setitem(sys.modules, "mbf_utils.world", SimpleNamespace(
        world_stream=lambda name, **given: made.append((name, given)) or Stream(name, "1", ())))
    return made


@pytest.fixture
def folder(tmp_path):
    """Two small tasks in O-LoRA's form."""
    for name in ("yelp", "amazon"):
        place = tmp_path / "bench" / "SC" / name
        place.mkdir(parents=True)
        (place / "labels.json").write_text('["Good", "Bad"]')
        for split in ("train", "dev", "test"):
            rows = [{"label": "Good", "sentence": f"{name} {split} {i}"} for i in range(8)]
            (place / f"{split}.json").write_text(json.dumps(rows))
    return tmp_path / "bench"


def test_a_stream_passes_through():
    stream = Stream("mine", "1", ())
    assert load_stream(stream, order="2", limit=3) is stream


@pytest.mark.parametrize("call, name, order, named", [
    (dict(name_or_path="world-5"), "world-5", None, False),
    (dict(name_or_path="world-5:2"), "world-5", "2", False),
    (dict(name_or_path="world-15:6", order=6), "world-15", "6", False),
    (dict(name_or_path="world-100", order="1", named=True), "world-100", "1", True),
    (dict(name_or_path="world-5", order=["yelp", "yahoo"]), "world-5", ["yelp", "yahoo"], False),
    (dict(name_or_path="world-5:yelp, yahoo"), "world-5", ["yelp", "yahoo"], False),
])
def test_the_world_is_asked(calls, call, name, order, named):
    assert load_stream(**call, seed=7, limit=5).named == named
    assert calls == [(name, {"order": order, "seed": 7, "limit": 5, "named": named})]


def test_the_real_world():
    stream = load_stream("world-5:2", limit=3)
    assert stream.order == "2" and len(stream) == 5 and all(len(task.train) == len(task.test) == 3 for task in stream)
    assert load_stream("world-5", order=stream.names, limit=3).fingerprint() == stream.fingerprint()


def test_a_folder_by_text_and_by_path(folder, monkeypatch):
    whole = load_stream(folder)
    assert whole.names == ["amazon", "yelp"] and whole.order == "sorted" and whole.general == ()
    assert load_stream(str(folder)) == whole
    assert load_stream(f"{folder}:yelp") == load_stream(folder, order="yelp") == load_stream(folder, order=["yelp"])
    assert load_stream(f"{folder}:yelp,amazon").names == ["yelp", "amazon"]
    monkeypatch.chdir(folder.parent)
    assert load_stream("bench") == load_stream("./bench") == load_stream("bench:sorted") == whole
    assert load_stream(Path("bench")) == whole
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_stream("~/bench:yelp") == load_stream(folder, order="yelp")


def test_seed_limit_and_named_reach_the_folder(folder):
    assert load_stream(folder)["yelp"].train[0].prompt.startswith("Task:SC\nDataset:yelp\n")          # as O-LoRA has it
    assert load_stream(folder, named=False)["yelp"].train[0].prompt.startswith("What is the sentiment")
    assert load_stream(folder).named and not load_stream(folder, named=False).named
    few = load_stream(folder, limit=2, seed=1)
    assert {len(split) for task in few for split in (task.train, task.dev, task.test)} == {2}
    assert few != load_stream(folder, limit=2, seed=2)


def test_a_colon_in_a_folders_own_name(folder):
    odd = shutil.copytree(folder, folder.with_name("bench:yelp"))
    assert load_stream(str(odd)).names == ["amazon", "yelp"]                      # not the order yelp of bench
    assert load_stream(f"{odd}:yelp").names == ["yelp"]


@pytest.mark.parametrize("name, words", [
    ("wrold-5", r"found 'wrold-5'.*did you mean world-5"),
    ("world-5x:2", r"did you mean .*world-5"),
    ("nothing at all", r"expected world-5, world-15, world-100, standard, long, superni, trace, a folder or a table, found 'nothing at all'"),
    ("", "found ''"), pytest.param("x" * 5000, "xxx', which is neither", id="5000 letters"), ("a\0b", "neither"),
    ("trace", "TRACE's files.*give the path of the folder"), ("trace:1", "TRACE's files"),
    (r"C:\data", r"nothing at .*C:.data"), (r"C:\data:4", r"nothing at .*C:.data:4"), ("C:/data", "nothing at C:/data"),
    ("./nowhere", "nothing at nowhere"), ("/nowhere/at/all", "nothing at /nowhere"), (Path("standard"), "nothing at standard"),
    (None, "NoneType"), (5, "int"), (["world-5"], "the list, found 'world-5'"),
    ("nowhere.csv", "no file that can be read"), (Path("nowhere.jsonl"), "nowhere.jsonl"), ("world-5.json", "world-5.json"),
])
def test_what_is_no_stream(name, words):
    with pytest.raises(InputError, match=words) as raised:
        load_stream(name)
    assert "\n" not in str(raised.value)


def test_a_table_by_text_and_by_path_and_as_it_is(tmp_path, monkeypatch):
    rows = [{"prompt": f"p {i}", "answer": "a", "task": name, "split": split, "labels": "a"}
            for name in ("one", "two") for i, split in enumerate(("train", "dev", "test"))]
    file = tmp_path / "mine.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    whole = load_stream(file)
    assert whole.names == ["one", "two"] and whole.order == "given" and not whole.named
    assert load_stream(str(file)) == whole and load_stream(pd.DataFrame(rows)).tasks == whole.tasks
    assert load_stream(f"{file}:two,one").names == load_stream([file], order=["two", "one"]).names == ["two", "one"]
    monkeypatch.chdir(tmp_path)
    assert load_stream("mine.csv") == whole and load_stream("mine.csv:given") == whole
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_stream("~/mine.csv") == whole
    with pytest.raises(InputError, match="named to be left out"):
        load_stream(file, named=True)


def test_two_orders_in_one_call(folder):
    for name in ("world-5:2", f"{folder}:yelp"):
        with pytest.raises(InputError, match="leave one out"):
            load_stream(name, order="3")


def test_a_known_name_is_not_a_folder_of_that_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename("long")
    with pytest.raises(InputError, match="data set MNLI on the Hugging Face Hub"):
        load_stream("long")
    assert load_stream("./long").names == ["amazon", "yelp"]


def test_prompts_reach_the_folder_and_are_refused_elsewhere(folder):
    assert load_stream(folder, prompts="sapt")["yelp"].train[0].prompt.startswith("Your task is to perform sentiment classification")
    assert not load_stream(folder, prompts="sapt").named and load_stream(folder, prompts="olora") == load_stream(folder)
    for name, words in (("world-5", "left out for 'world-5'"), ("mine.csv", "left out for 'mine.csv'")):
        with pytest.raises(InputError, match=words):
            load_stream(name, prompts="olora")
    with pytest.raises(InputError, match="O-LoRA, SAPT, chat or None, found 'alpaca'"):
        load_stream(folder, prompts="alpaca")


@pytest.mark.parametrize("name, order", [("standard", None), ("standard:2", None), ("long", 6), ("superni:O2", None)])
def test_without_a_network_one_sentence_says_so(name, order):
    with pytest.raises(InputError, match="on the Hugging Face Hub, found none that can be used .*ConnectionError.*connect to the "
                       "network .* or give the folder") as raised:
        load_stream(name, order=order)
    assert "\n" not in str(raised.value)
