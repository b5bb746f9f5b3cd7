"""Whatever is put before a reader, it ends in a result or in one clear sentence: no traceback, no silent guess, nothing half written.

MBF_EXAMPLES sets how many examples each property tries (tests/soak.py takes many); the seeds are fixed, so a red run repeats.
"""
import json
import os
import shutil
import struct
import tempfile
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_chats import PLAIN
from tiny import word_tokenizer
from toy import FAST, contents, toy_model, toy_stream

from mbf_utils import cli, commands, models, runs
from mbf_utils.adapter_files import PREFIX, load_adapter, load_config, save_adapter
from mbf_utils.chats import chat_rows, in_batches
from mbf_utils.checks import read_probes, rows_of
from mbf_utils.continual import Continual
from mbf_utils.disk import read_json
from mbf_utils.errors import InputError
from mbf_utils.folders import read_folder
from mbf_utils.lora import Pair
from mbf_utils.merging import merge_adapters
from mbf_utils.methods import METHODS
from mbf_utils.packing import load_value, save_value
from mbf_utils.results import Run
from mbf_utils.rows import MOST
from mbf_utils.runs import run_stream
from mbf_utils.settings import Settings
from mbf_utils.sources import load_stream
from mbf_utils.store import read_table
from mbf_utils.streams import Stream
from mbf_utils.tables import read_tables
from mbf_utils.text import encode
from mbf_utils.versions import read_versions

EXAMPLES = int(os.environ.get("MBF_EXAMPLES", "60"))
usual = settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES == 60, database=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much])
few = settings(usual, max_examples=max(5, EXAMPLES // 6), phases=[Phase.explicit, Phase.generate])       # each learns a task


def ends_well(act):
    """What act() gives, or None where it was refused in one sentence. Everything else is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return act()
        except InputError as error:
            said = str(error)
            assert said and "\n" not in said.strip() and len(said) <= 2000 and "Traceback" not in said, said
            return None


# what is put before the readers

texts = st.text(max_size=12) | st.sampled_from(["", " ", "good", "bad", "Good", "../x", "a,b", "{0}", "%s", "</s>", "<pad>", "\ud800", "\0", "\u2028",
                                                "Answer:", "<script>", "\u202eabc", "-", "x" * 3000])
values = st.recursive(st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | texts,
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6)
rows = st.fixed_dictionaries({}, optional={key: texts | values for key in (
    "prompt", "answer", "task", "split", "labels", "sentence", "label", "input", "output", "id")})


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Some of its bytes cut, doubled, turned or put in."""
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, max(0, len(content)))), draw(st.integers(0, 20))
        content = draw(st.sampled_from([
            content[:at], content[:at] + content[at + length:], content[:at] + draw(st.binary(max_size=8)) + content[at:],
            content[:at] + content[at:at + length] * 2 + content[at + length:], content[:at] + b"\xff" + content[at + 1:]]))
    return content


def json_bytes(value) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


OLORA = {"labels": ["good", "bad"], **{split: [{"label": label, "sentence": f"{split} {i}"} for i, label in enumerate(["good", "bad"] * 3)]
                                       for split in ("train", "dev", "test")}}
SAPT = {split: {"Definition": ["Say it."], "Instances": [{"id": f"{split}{i}", "input": f"{split} {i}", "output": ["good"]} for i in range(4)]}
        for split in ("train", "dev", "test")}
TRACE = {split: [{"prompt": f"Say it. {split} {i} Answer:", "answer": "A"} for i in range(4)] for split in ("train", "eval", "test")}
FORMS = {"SC/yelp": OLORA, "task1_x": SAPT, "FOMC": TRACE}


def check_stream(stream) -> None:
    """What a reader gives is whole: texts and their answers in place, a fingerprint, every row encodable."""
    if stream is None:
        return
    assert isinstance(stream, Stream) and len(stream) and len(stream.fingerprint()) == 16
    for task in stream:
        for split in (task.train, task.dev, task.test):
            for row in split:
                assert row.prompt.strip() and row.answers and all(isinstance(answer, str) and answer.strip() for answer in row.answers)
                assert not task.labels or set(row.answers) <= set(task.labels)
                assert row.body is None or 0 <= row.body[0] <= row.body[1] <= len(row.prompt)


@pytest.mark.parametrize("form", FORMS)
@usual
@given(data=st.data())
def test_folders_of_benchmarks(form, data):
    files = {name: json_bytes(content) for name, content in FORMS[form].items()}
    for name in data.draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=2)):
        kind = data.draw(st.sampled_from(["bytes", "value", "rows", "gone"]))
        files[name] = (data.draw(damaged(files[name] or b"")) if kind == "bytes" else json_bytes(data.draw(values)) if kind == "value" else
                       json_bytes(data.draw(st.lists(rows, max_size=4))) if kind == "rows" else None)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / form
        folder.mkdir(parents=True)
        for name, content in files.items():
            if content is not None:
                (folder / f"{name}.json").write_bytes(content)
        check_stream(ends_well(lambda: read_folder(root)))
        check_stream(ends_well(lambda: load_stream(root, limit=2, prompts=data.draw(st.sampled_from([None, "O-LoRA", "SAPT", "chat", "x"])))))


TABLE = [{"prompt": f"{word} {task} {split}", "answer": answer, "task": task, "split": split} for task in ("a", "b")
         for split in ("train", "dev", "test") for word, answer in (("one", "good"), ("two", "bad"))]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@usual
@given(data=st.data())
def test_tables(suffix, data):
    lines = [json.dumps(row) for row in TABLE]
    whole = pd.DataFrame(TABLE).to_csv(index=False).encode() if suffix == "csv" else "\n".join(lines).encode()
    content = data.draw(damaged(whole) | st.lists(rows, max_size=5).map(lambda found: b"\n".join(map(json_bytes, found))) | st.binary(max_size=60))
    with tempfile.TemporaryDirectory() as root:
        file = Path(root) / f"mine.{suffix}"
        file.write_bytes(content)
        check_stream(ends_well(lambda: load_stream(file)))


messages = st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "assistant", "system", "x", 3]), "content": texts | values,
                                                "tool_calls": values, "name": texts})
conversations = st.fixed_dictionaries({"messages": st.lists(messages | values, max_size=3) | values}, optional={"id": values}) | values
WHOLE = {"messages": [{"role": "user", "content": "red"}, {"role": "assistant", "content": "good"}]}


@usual
@given(data=st.data())
def test_conversations(data):
    lines = data.draw(st.lists(st.just(WHOLE) | conversations, max_size=4))
    content = b"\n".join(map(json_bytes, [WHOLE, *lines]))
    tokenizer = word_tokenizer()
    tokenizer.chat_template = data.draw(st.sampled_from([PLAIN, "{% for m in messages %}{{ m.content + (m.tool_calls[0] or '') }}{% endfor %}"]))
    with tempfile.TemporaryDirectory() as root:
        file = Path(root) / "chats.jsonl"
        file.write_bytes(data.draw(st.just(content) | damaged(content)))
        ends_well(lambda: read_probes([str(file)], tokenizer, 16))
        for row in ends_well(lambda: chat_rows(tokenizer, [WHOLE, *lines], 16)) or []:
            assert len(row["input_ids"]) == len(row["labels"]) <= 16 and any(label >= 0 for label in row["labels"])


@usual
@given(st.lists(rows, max_size=6), st.sampled_from([None, "given", "a", "b,a", ["a"], [], ["a", "a"], 3, "superni:O1"]), st.sampled_from([None, 1, 0, -1, 2.5, True]))
def test_frames(found, order, limit):
    check_stream(ends_well(lambda: read_tables(pd.DataFrame([*TABLE, *found], dtype=object), order=order, limit=limit)))
    check_stream(ends_well(lambda: read_tables(pd.DataFrame(found, dtype=object))))


@usual
@given(st.one_of(texts, st.sampled_from(["world-5", "world-5:2", "world-15:", "world-5:dbpedia", "standard:9", "trace", "/dev/null", "..", "~", "a.csv", "C:\\x"])),
       st.one_of(values, st.sampled_from(["1", 2, "yelp,dbpedia", ["yelp"]])), st.one_of(st.integers(-2, 9), values), st.one_of(st.none(), st.integers(-2, 4), values))
def test_names_of_streams_with_their_order_seed_and_limit(name, order, seed, limit):
    if not name.startswith(("standard", "long", "superni")):         # the Hub's have tests of their own
        check_stream(ends_well(lambda: load_stream(name, order=order, seed=seed, limit=limit if limit is not None else 2)))


@usual
@given(st.dictionaries(st.sampled_from(list(Settings.__dataclass_fields__)), values | st.sampled_from([float("inf"), float("nan"), 10 ** 30, 10 ** 400, "8", True]), max_size=3))
def test_settings(chosen):
    found = ends_well(lambda: Settings(**chosen))
    assert found is None or json.loads(json.dumps(found.__dict__, allow_nan=False))


# adapters

def adapters(root: Path, count: int = 2) -> list[Path]:
    chance = torch.Generator().manual_seed(0)
    lora = {f"layers.{i}.q_proj": Pair(torch.randn(2, 6, generator=chance), torch.randn(5, 2, generator=chance)) for i in range(2)}
    folders = [root / f"adapter{i}" for i in range(count)]
    for folder in folders:
        lora = {path: Pair(pair.A, pair.B + 0.1) for path, pair in lora.items()}
        save_adapter(lora, folder, 2.0, ["q_proj"], "base")
    return folders


def header(entries: dict, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, true or not."""
    text = json.dumps(entries).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + body


entries = st.dictionaries(
    st.sampled_from([f"{PREFIX}layers.{i}.q_proj.lora_{factor}.weight" for i in (0, 1) for factor in "AB"] + ["__metadata__", "x", "lora_A"]),
    st.fixed_dictionaries({"dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "U8", "F8_E4M3", "X", 3]),
                           "shape": st.lists(st.integers(-1, 4) | st.just(2 ** 62), max_size=3),
                           "data_offsets": st.lists(st.integers(-1, 64) | st.just(2 ** 63), min_size=0, max_size=3)}) | values, max_size=5)


@usual
@given(data=st.data())
def test_adapters_in_damaged_or_lying_safetensors(data):
    with tempfile.TemporaryDirectory() as root:
        first, second = adapters(Path(root))
        file = second / "adapter_model.safetensors"
        whole = file.read_bytes()
        file.write_bytes(data.draw(damaged(whole) | st.builds(header, entries, st.binary(max_size=64), st.none() | st.integers(0, 2 ** 64 - 1)) | st.binary(max_size=40)))
        check_merge([first, second], Path(root))


shapes = st.tuples(st.integers(0, 4), st.integers(0, 4))
tensors = st.builds(lambda shape, dtype: torch.ones(shape, dtype=dtype), shapes | st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2)) | st.tuples(st.integers(0, 3)),
                    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64,
                                     torch.float8_e4m3fn]))


@usual
@given(st.dictionaries(st.sampled_from([f"{PREFIX}layers.{i}.q_proj.lora_{factor}{end}" for i in (0, 1) for factor in "AB" for end in (".weight", "")]
                                       + ["../../etc.lora_A.weight", "lora_embedding_A"]), tensors, max_size=5), st.booleans())
def test_adapters_whose_shapes_ranks_and_types_do_not_fit(found, both):
    with tempfile.TemporaryDirectory() as root:
        first, second = adapters(Path(root))
        for folder in (first, second) if both else (second,):
            save_file(found, folder / "adapter_model.safetensors")
        check_merge([first, second], Path(root))


@usual
@given(st.dictionaries(st.sampled_from(["r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias", "peft_type", "lora_dropout",
                                        "base_model_name_or_path", "layers_to_transform", "exclude_modules", "fan_in_fan_out", "init_lora_weights", "new"]),
                       values | st.sampled_from([{"(": 4}, {"q_proj": "x"}, {"q_proj": 0}, {"(?i)q_proj": 4}, "../..", 1e400, 10 ** 400]), max_size=3), st.booleans())
def test_adapters_with_odd_configurations(change, both):
    with tempfile.TemporaryDirectory() as root:
        first, second = adapters(Path(root))
        for folder in (first, second) if both else (second,):
            file = folder / "adapter_config.json"
            file.write_bytes(json_bytes(json.loads(file.read_text()) | change))
        check_merge([first, second], Path(root))


def check_merge(paths: list[Path], root: Path) -> None:
    """Merged into a whole adapter, or refused and nothing written."""
    before, out = {path.name for path in root.iterdir()}, root / "out"
    ends_well(lambda: load_adapter(paths[-1]))
    if ends_well(lambda: merge_adapters(paths, out)) is None:
        assert {path.name for path in root.iterdir()} == before
    else:
        assert load_config(out) and load_adapter(out) and (out / "merge.json").is_file()
        assert {path.name for path in root.iterdir()} == before | {"out"}


# runs

@pytest.fixture(scope="module")
def run(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    run_stream(toy_stream()[:2], "slao", model, out=folder, **FAST)
    return folder


@usual
@given(data=st.data())
def test_run_folders(run, data):
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(run, Path(root) / "run"))
        file = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")))
        kind, content = data.draw(st.sampled_from(["bytes", "value", "key", "gone"])), file.read_bytes()
        if kind == "key" and file.suffix == ".json" and isinstance(value := json.loads(content), dict):
            value[data.draw(st.sampled_from(sorted(value)))] = data.draw(values)
            file.write_bytes(json_bytes(value))
        elif kind == "gone":
            file.unlink()
        else:
            file.write_bytes(json_bytes(data.draw(values)) if kind == "value" else data.draw(damaged(content)))
        found = ends_well(lambda: Run(folder))
        if found:
            for read in (lambda: found.matrix, lambda: found.options, lambda: found.logs, lambda: found.lora(1), lambda: found.lora(2, "tuned"), found.metrics):
                ends_well(read)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert cli.main(["report", str(folder)]) in (0, 2)


@few
@given(data=st.data())
def test_a_damaged_run_is_resumed_or_refused(run, model, data):
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(run, Path(root) / "run"))
        shutil.rmtree(folder / "tasks" / "02-prefixes")
        names = ("config.json", "memory.json", "memory.safetensors", "matrix.csv")
        file = folder / data.draw(st.sampled_from(names))
        file.write_bytes(data.draw(damaged(file.read_bytes())))
        ends_well(lambda: run_stream(toy_stream()[:2], "slao", model, out=folder, **FAST))
        assert not list(folder.rglob(".*.tmp"))


# adapters that go on learning

@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    model, tokenizer = toy_model()
    continual = Continual(model, targets=("q_proj", "v_proj"), rank=2, alpha=4.0)
    batches = in_batches(rows_of(tokenizer, toy_stream()[0].train), 4)
    for name in ("first", "second"):
        with continual.task(name, batches):
            optimizer = torch.optim.SGD(continual.parameters(), lr=0.5)
            continual.model(**batches[0]).loss.backward()
            optimizer.step()
    return continual.save(tmp_path_factory.mktemp("continual") / "adapter")


def check_continual(folder: Path) -> Continual | None:
    """Loaded whole, so that it can be saved again; or refused."""
    found = ends_well(lambda: Continual.load(folder, toy_model()[0]))
    if found:
        assert found.names and Continual.load(found.save(folder.with_name("again")), toy_model()[0]).names == found.names
    return found


@usual
@given(data=st.data())
def test_folders_of_an_adapter_that_goes_on_learning(learned, data):
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(learned, Path(root) / "adapter"))
        file = data.draw(st.just(folder / "continual.json") | st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
        kind, content = data.draw(st.sampled_from(["bytes", "value", "key", "inner"])), file.read_bytes()
        if kind in ("key", "inner") and file.suffix == ".json" and isinstance(value := json.loads(content), dict):
            inner = [part for part in value.values() if isinstance(part, dict) and part] if kind == "inner" else []
            part = data.draw(st.sampled_from(inner)) if inner else value
            part[data.draw(st.sampled_from([*sorted(part), "new"]))] = data.draw(values)
            file.write_bytes(json_bytes(value))
        else:
            file.write_bytes(json_bytes(data.draw(values)) if kind == "value" else data.draw(damaged(content)))
        check_continual(folder)


@pytest.mark.parametrize("change", [
    "{}", "[]", "3", "[" * 100_000, {"versions": None}, {"versions": []}, {"versions": [[]]}, {"versions": 3}, {"versions": "ab"}, {"versions": [[1]]},
    {"keep": "x"}, {"keep": 0}, {"keep": True}, {"seed": None}, {"batch_size": 1.5}, {"base": {}}, {"base": {"name": 1}}, {"lora": []},
    {"lora": {"targets": ["q_proj"], "rank": 2, "alpha": 4.0, "dropout": 0.1, "new": 1}},
    {"lora": {"targets": "(", "rank": 2, "alpha": 4.0, "dropout": 0.1}},
    {"lora": {"targets": ["q_proj"], "rank": "2", "alpha": 4.0, "dropout": 0.1}}, {"method": {"name": "slao"}}, {"method": {"name": ["slao"], "settings": {}}},
    {"method": {"name": "slao", "settings": {"begin": 3}}}], ids=lambda change: str(change)[:40])
def test_a_continual_json_of_another_shape_is_refused_in_one_sentence(learned, tmp_path, change):
    folder = Path(shutil.copytree(learned, tmp_path / "adapter"))
    file = folder / "continual.json"
    assert check_continual(folder)
    file.write_text(change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change))
    assert check_continual(folder) is None


# command lines

WORDS = ["run", "compare", "merge", "report", "methods", "search", "world-5", "world-5:2", "world-6", "slao", "olora", "all", "nowhere", "", "-1", "0", "1", "2", "nan", "1e999",
         "true", "lambda1=0.1", "lambda1=x", "qr=2", "--limit=2", "--epochs=nan", "--lr=1e400", "--rank=0", "--rank=1.5", "--seed=-1", "--seed=99999999999999999999",
         "--method=slao", "--method=", "--methods=slao,,olora x", "--seeds=0,0", "--seeds=-3", "--orders=1,,2", "--workers=-1", "--workers=", "--targets=,", "--order=,",
         "--model=tiny", "--model=../..", "--device=nowhere", "--dtype=int", "--quantize=3", "--out", "--set", "--grid", "--unseen", "--keep=some", "--prompts=chat",
         "--max-length=1", "--batch-size=0", "--data-seed=-5", "ü", "--save=../x"]


@pytest.fixture
def quick(monkeypatch, tmp_path, model):
    """The commands up to where they would train."""
    def stop(*arguments, **options):
        raise InputError("stopped before training")

    def checked(stream, method="slao", model=model, seed=0, out=None, **chosen):
        Settings(**chosen)
        stop()
    usual = models.load_model
    tiny = usual("tiny")

    def load(name="tiny", *where):
        return tiny if (name, *where) == ("tiny", "auto", "auto", None) else usual(name, *where)

    monkeypatch.setattr(models, "load_model", load)
    monkeypatch.setattr(runs, "run_stream", checked)
    monkeypatch.setattr("mbf_utils.comparison._learn_all", stop)
    monkeypatch.setattr(commands, "demo", stop)
    monkeypatch.chdir(tmp_path)


@usual
@given(st.sampled_from(["run", "compare", "merge", "report", "methods", "search"]), st.lists(st.sampled_from(WORDS), max_size=7))
def test_command_lines(quick, capsys, command, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = cli.main([command, *words])
        except SystemExit as stopped:                        # argparse's own sentence, after the usage
            code = stopped.code
    said = capsys.readouterr().err
    assert code in (0, 2) and "Traceback" not in said
    assert code == 0 or said.strip().splitlines()[-1].startswith("mbf")


# what has no end, and what leads elsewhere

@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_a_file_that_never_ends_is_not_begun(tmp_path, make):
    folder = tmp_path / "SC" / "yelp"
    folder.mkdir(parents=True)
    for name, content in OLORA.items():
        (folder / f"{name}.json").write_bytes(json_bytes(content))
    (folder / "test.json").unlink()
    make(folder / "test.json")
    with pytest.raises(InputError, match=r"test\.json, found a pipe or a device"):
        read_folder(tmp_path)


def read_value_of(file: Path):
    """A value whose other file is whole."""
    save_value({"x": torch.ones(2)}, file.parent / "whole")
    for suffix in {".json", ".safetensors"} - {file.suffix}:
        shutil.copy(file.parent / f"whole{suffix}", file.with_suffix(suffix))
    return load_value(file.with_suffix(""))


READERS = {"adapter_config.json": lambda file: load_config(file.parent), "adapter_model.safetensors": lambda file: load_adapter(file.parent),
           "continual.json": lambda file: read_versions(file.parent), "memory.json": read_value_of, "memory.safetensors": read_value_of,
           "log.json": read_json, "matrix.csv": read_table, "rows.jsonl": lambda file: read_probes([str(file)], None),
           "rows": lambda file: read_probes([str(file)], None), "texts": lambda file: commands._texts(str(file)),
           "texts.csv": lambda file: commands._texts(str(file))}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)], ids=["pipe", "device"])
@pytest.mark.parametrize("name", READERS)
def test_no_reader_begins_what_never_ends(tmp_path, name, make):
    make(tmp_path / name)
    with pytest.raises(InputError, match="^expected "):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", [name for name in READERS if not name.endswith("safetensors")])
def test_no_reader_begins_what_is_larger_than_memory_may_be(tmp_path, name):
    with open(tmp_path / name, "wb") as file:
        file.truncate(MOST + 1)
    with pytest.raises(InputError, match="2.0 GB"):
        READERS[name](tmp_path / name)


def test_a_file_larger_than_memory_may_be_is_not_begun(tmp_path):
    with open(tmp_path / "large.csv", "wb") as file:
        file.truncate(MOST + 1)                              # a hole: no disk is needed
    with pytest.raises(InputError, match="found 2.0 GB; give a part of it"):
        load_stream(tmp_path / "large.csv")


def test_gigantic_rows_are_cut_at_their_body_and_the_frame_survives(tmp_path, model):
    folder = tmp_path / "SC" / "yelp"
    folder.mkdir(parents=True)
    large = {**OLORA, "train": [{"label": "good", "sentence": "x" * 1_000_000}, {"label": "bad", "sentence": "one two " * 25_000}, *OLORA["train"]]}
    for name, content in large.items():
        (folder / f"{name}.json").write_bytes(json_bytes(content))
    task = load_stream(tmp_path, named=False)[0]
    lengths = [len(row.prompt) + len(row.answer) for row in encode(model[1], task.train[:2], 64)]
    assert max(lengths) <= 64 and len(task.train[0].prompt) > 1_000_000
    rows = pd.DataFrame([*TABLE, {"prompt": "y" * 500_000, "answer": "z" * 200_000, "task": "a", "split": "train"}])
    rows.to_csv(tmp_path / "a.csv", index=False)
    check_stream(ends_well(lambda: load_stream(tmp_path / "a.csv")))


def test_names_that_lead_out_of_a_folder_lead_nowhere(tmp_path, model):
    """Tasks called ../up and /tmp/x, in a table: their folders stay inside the run's."""
    table = pd.DataFrame([{**row, "task": {"a": "../../up", "b": "/tmp/x/.."}[row["task"]]} for row in TABLE])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = load_stream(table)
    run_stream(stream, "seqlora", model, out=tmp_path / "inner" / "run", **FAST)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"] and [path.name for path in (tmp_path / "inner").iterdir()] == ["run"]
    assert len(list((tmp_path / "inner" / "run" / "tasks").iterdir())) == 2


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a right there")
def test_links_in_a_run_folder_never_delete_what_they_lead_to(tmp_path, model):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "letter").write_text("dear")
    folder = tmp_path / "run"
    next(runs.walk_stream(toy_stream()[:2], "slao", model, out=folder, **FAST))
    for name in (".x.tmp", "checkpoint-01-000001", "tasks/.02-prefixes.tmp"):
        (folder / name).symlink_to(precious, target_is_directory=True)
        ends_well(lambda: run_stream(toy_stream()[:2], "slao", model, out=folder, **FAST))
        assert (precious / "letter").read_text() == "dear"
        (folder / name).unlink(missing_ok=True)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a right there")
@pytest.mark.parametrize("name", ["tasks", "tasks/01-single", "tasks/01-single/result", "checkpoint-02-000001", ".lock", ".config.json.tmp"])
def test_a_run_with_a_link_where_the_store_writes_or_clears_is_refused_and_what_it_leads_to_stays(tmp_path, model, name):
    folder, there = tmp_path / "run", tmp_path / "elsewhere"
    next(runs.walk_stream(toy_stream(), "slao", model, out=folder, **FAST))
    if (folder / name).exists():
        (folder / name).rename(there)
    else:
        shutil.copytree(folder / "tasks", there)
    (folder / name).symlink_to(there)
    before = contents(there) if there.is_dir() else there.read_bytes()
    with pytest.raises(InputError, match=f"found the link .*{name}"):
        run_stream(toy_stream(), "slao", model, out=folder, **{**FAST, "keep": "last"})
    assert (contents(there) if there.is_dir() else there.read_bytes()) == before


def test_every_method_s_settings_are_checked_where_the_command_reads_them():
    for name, make in METHODS.items():
        for field, value in vars(make()).items():
            if type(value) in (int, float):
                with pytest.raises(InputError, match=f"expected {field} to be a"):
                    commands._fields([f"{field}=much"], name)


@usual
@given(st.text())
def test_a_refusal_is_one_printable_line_of_bounded_length_whatever_it_quotes(text):
    said = str(InputError(f"expected a text, found {text * 40}"))
    assert said.isprintable() and len(said) <= 2000 and said.startswith("expected a text, found ")


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a right there")
def test_a_linked_lock_is_not_followed(tmp_path, model):
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "letter")
    with pytest.raises(InputError, match="found the link .*lock"):
        run_stream(toy_stream()[:2], "slao", model, out=tmp_path / "run", **FAST)
    assert (tmp_path / "letter").read_text() == "dear"
