"""A run's folder: what is packed comes back, refusals leave no trace, and a kill at any moment loses no finished task."""
import errno
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from toy import FAST, before_each_change, contents, toy_stream

from mbf_utils import disk, store
from mbf_utils.errors import InputError
from mbf_utils.lora import Pair
from mbf_utils.methods.slao import SLAO
from mbf_utils.runs import run_stream, walk_stream
from mbf_utils.store import Store, load_value, pack, read_table, save_value, table, task_folders, write_table

SETTINGS = {**FAST, "checkpoint_minutes": 0.0}      # a checkpoint after every step
CONFIG = {"method": {"name": "x"}, "seed": 0, "settings": {"keep": "all"}, "versions": {"python": "1"}}
POSIX = pytest.mark.skipif(os.name == "nt", reason="forks")


def tree(folder: Path) -> dict:
    """Everything below a folder with its time and content."""
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
            for path in sorted(folder.rglob("*"))}


# values

def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return type(other) is dict and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or one != one)


whole = torch.arange(24.0).reshape(4, 6)
VALUES = {
    "nothing": {}, "empty ones": {"a": {}, "b": [], "c": (), "": ""}, "none": None, "numbers": [0, -1, 2 ** 60, 0.1, 1e-300, float("inf")],
    "not a number": [float("nan")], "bools": {"yes": True, "no": False, "one": 1}, "text": ["", "ä\n\"'", "\ud7ff", "tensor"],
    "names that pack uses": {"tensor": "x", "dict": {"list": [1]}, "pair": [1, 2], "tuple": (1,)},
    "dots": {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}, "e.f": torch.zeros(0), "e": {"f": torch.zeros(0, 1)}},
    "order": {"z": 1, "a": 2, "m": 3}, "nested": [({"deep": [Pair(torch.ones(2, 3), torch.zeros(4, 2))]}, 1), [[], [()]]],
    "types": [torch.tensor([1, 2], dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.uint8)],
    "bits": torch.tensor([True, False]), "scalar": torch.tensor(3.5), "empty tensor": torch.zeros(0, 3), "two empty": [torch.zeros(0), torch.zeros(0)],
    "views": [whole[1:3], whole[:, 2], whole.T, whole[::2, ::3], whole.view(-1), whole, whole.reshape(6, 4)],
    "expanded": torch.ones(1, 3).expand(4, 3), "other type, same memory": [whole, whole.view(torch.int32)],
    "special": torch.tensor([float("nan"), float("inf"), -0.0]).nan_to_num(7.0), "lora": {"m": Pair(torch.randn(2, 3), torch.randn(4, 2))},
}


@pytest.mark.parametrize("name", VALUES)
def test_what_is_saved_comes_back_in_the_same_order_and_types(name, tmp_path):
    save_value(VALUES[name], tmp_path / "value")
    assert same(load_value(tmp_path / "value"), VALUES[name])


@pytest.mark.parametrize("name", VALUES)
def test_equal_values_have_equal_bytes_and_none_of_them_a_larger_storage(name, tmp_path):
    for stem in ("one", "two"):
        save_value(VALUES[name], tmp_path / stem)
    for suffix in (".json", ".safetensors"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    _, tensors = pack(VALUES[name])
    assert all(tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() for tensor in tensors.values())


def test_a_tensor_that_occurs_twice_is_stored_once_and_comes_back_as_one(tmp_path):
    A, B = torch.randn(50, 40), torch.randn(30, 50)
    save_value({"tuned": {"m": Pair(A, B)}, "merged": {"m": Pair(A, B + 1)}, "list": [A, A]}, tmp_path / "value")
    assert (tmp_path / "value.safetensors").stat().st_size < 4 * (A.numel() + 2 * B.numel()) + 1000
    found = load_value(tmp_path / "value")
    assert found["tuned"]["m"].A is found["merged"]["m"].A is found["list"][0] is found["list"][1]
    assert found["tuned"]["m"].B is not found["merged"]["m"].B and torch.equal(found["tuned"]["m"].B + 1, found["merged"]["m"].B)


def test_equal_tensors_that_are_two_stay_two(tmp_path):
    save_value([torch.ones(3), torch.ones(3)], tmp_path / "value")
    one, other = load_value(tmp_path / "value")
    assert one is not other


def test_packing_copies_so_that_later_training_changes_nothing():
    factor = torch.ones(3)
    _, (packed,) = pack([factor])[0], pack([factor])[1].values()
    factor += 1
    assert torch.equal(packed, torch.ones(3))


@pytest.mark.parametrize("value", [{"a": {1, 2}}, {1: "a"}, [object()], b"bytes", 1j, [namedtuple("Point", "x y")(1, 2)], {"f": len},
                                   {("a", "b"): 1}, frozenset()], ids=lambda value: type(value).__name__)
def test_what_would_not_come_back_as_it_was_is_refused(value):
    with pytest.raises(TypeError, match="^memory holds a "):
        pack(value)


def test_a_table_is_read_as_it_was_written(tmp_path):
    frame = table([[50.0], [100 / 3, 7.0]], ["2", "yelp, the", "über"])
    write_table(frame, tmp_path / "a.csv")
    found = read_table(tmp_path / "a.csv")
    assert list(found.columns) == list(frame.columns) and list(found.index) == ["2", "yelp, the"]
    assert found.isna().to_numpy().tolist() == [[False, True, True], [False, False, True]]
    assert abs(found.to_numpy()[:, :2][1, 0] - 100 / 3) < 1e-4
    write_table(found, tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_the_hundredth_task_comes_after_the_ninety_ninth(tmp_path):
    with Store(tmp_path, CONFIG) as opened:
        for index in (1, 2, 99, 100, 101):
            opened.commit_task(index, "t", lambda folder: (folder / "matrix.csv").write_text(f"{index}"), "all")
            assert (tmp_path / "matrix.csv").read_text() == f"{index}"
        assert [path.name for path in task_folders(tmp_path)] == ["01-t", "02-t", "99-t", "100-t", "101-t"]


# refusals

def refused(folder, config=CONFIG, resume=True) -> str:
    with pytest.raises(InputError, match="^expected ") as caught:
        Store(folder, config, resume)
    assert "\n" not in str(caught.value) and str(caught.value).count(". ") == 0
    return str(caught.value)


def test_what_is_not_this_run_is_refused_and_left_untouched(tmp_path):
    stranger, run, file = tmp_path / "stranger", tmp_path / "run", tmp_path / "file"
    (stranger / "tasks").mkdir(parents=True)
    (stranger / ".mine.tmp").write_text("precious")
    (stranger / "tasks" / ".also.tmp").write_text("precious")
    file.write_text("x")
    Store(run, CONFIG).close()
    (run / ".checkpoint-01-000001.tmp").mkdir()
    before = tree(tmp_path)
    assert "choose another folder" in refused(stranger)
    assert "seed = 1" in refused(run, {**CONFIG, "seed": 1}) and "method" in refused(run, {**CONFIG, "method": {"name": "y"}})
    assert "found a run" in refused(run, resume=False)
    assert "File exists" in refused(file) or "Not a directory" in refused(file)
    (run / "config.json").rename(tmp_path / "kept")
    (run / "config.json").write_text("{")
    assert "JSON" in refused(run)
    (tmp_path / "kept").replace(run / "config.json")
    after = tree(tmp_path)
    assert {name: content for name, (_, content) in after.items()} == {name: content for name, (_, content) in before.items()}


def test_a_run_goes_on_under_other_versions_but_not_as_another_run(tmp_path):
    Store(tmp_path, CONFIG).close()
    Store(tmp_path, {**CONFIG, "versions": {"python": "2"}, "device": "cuda"}).close()
    assert json.loads((tmp_path / "config.json").read_text())["versions"] == {"python": "1"}
    refused(tmp_path, {**CONFIG, "settings": {"keep": "all", "lr": 1}})


def test_a_folder_in_use_is_refused_until_it_is_free(tmp_path):
    with Store(tmp_path, CONFIG):
        before = tree(tmp_path)
        assert "another process" in refused(tmp_path)
        assert tree(tmp_path) == before
    with Store(tmp_path, CONFIG) as opened:
        assert opened.finished() == 0
    with Store(tmp_path, CONFIG):
        pass


def test_a_refusal_frees_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:         # kept: with it everything of the refused store is still there
        Store(tmp_path, CONFIG)
    monkeypatch.undo()
    Store(tmp_path, CONFIG).close()
    assert caught


def test_what_another_process_began_while_the_lock_was_awaited_is_seen(tmp_path, monkeypatch):
    acquire = store.FileLock.acquire

    def late(lock, **options):
        acquire(lock, **options)
        disk.write_json({**CONFIG, "seed": 1}, tmp_path / "config.json")

    monkeypatch.setattr(store.FileLock, "acquire", late)
    assert "seed = 1" in refused(tmp_path)


def test_checkpoints_of_other_tasks_are_not_taken_and_the_newest_is(tmp_path):
    with Store(tmp_path, CONFIG) as opened:
        opened.save_checkpoint(1, 9, {"losses": [1.0]})
        opened.save_checkpoint(1, 10, {"losses": [2.0]})
        assert opened.load_checkpoint(1) == {"losses": [2.0]} and opened.load_checkpoint(2) is None
        assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-01-000010"]
        opened.commit_task(1, "one", lambda folder: None, "all")
        assert not list(tmp_path.glob("checkpoint*"))


# kills

@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, model):
    """The contents of a run by whose end nobody pulled the plug."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_stream(toy_stream(), "slao", model, out=folder, **SETTINGS)
    return contents(folder)


def changes(model, folder) -> int:
    """Number of changes on disk of a whole run."""
    counts = []
    end = before_each_change(counts.append)
    run_stream(toy_stream(), "slao", model, out=folder, **SETTINGS)
    end()
    return counts[-1]


def test_from_the_disk_of_any_moment_the_run_ends_with_the_same_bytes(tmp_path, model):
    """Before every change on disk the folder is copied, as a kill would leave it; each different copy is then resumed."""
    folder, copies, seen = tmp_path / "run", [], []

    def copy(n):
        now = tree(folder) if folder.exists() else None
        now = now and {name: content for name, (_, content) in now.items()}
        if now and now not in seen:
            seen.append(now)
            copies.append(shutil.copytree(folder, tmp_path / f"killed-{n}"))

    settings = {**SETTINGS, "batch_size": 1, "keep": "last"}
    end = before_each_change(copy)
    try:
        run_stream(toy_stream(4), "slao", model, out=folder, **settings)
    finally:
        end()
    expected = contents(folder)
    assert len(copies) > 40
    assert sorted({name.split("/")[1] for name in expected if name.endswith("adapter_model.safetensors")}) == ["03-free"]
    for killed in copies:
        whole_tasks = len(task_folders(killed))
        run = run_stream(toy_stream(4), "slao", model, out=killed, **settings)
        assert contents(killed) == expected, (killed.name, whole_tasks)
        assert len(run.logs) == 3
        shutil.rmtree(killed)


def test_whatever_is_renamed_into_place_was_forced_to_disk_before_and_its_folder_after(tmp_path, monkeypatch, model):
    synced, renamed, sync, replace = [], [], store.sync, os.replace

    def replacing(source, target):
        source = Path(source)
        if source.name.endswith(".tmp"):
            assert all(path in synced for path in [source, *source.rglob("*")]), source
        assert source != Path(target)
        replace(source, target)
        renamed.append((Path(target), len(synced)))

    for module in (store, disk):
        monkeypatch.setattr(module, "sync", lambda path: (synced.append(Path(path)), sync(path)))
    monkeypatch.setattr(os, "replace", replacing)
    run_stream(toy_stream()[:2], "slao", model, out=tmp_path / "run", **SETTINGS)
    assert len(renamed) == 1 + 2 * (1 + 1 + 4)               # the configuration; a checkpoint, a task and four raised files each
    assert all(target.parent in synced[after:] for target, after in renamed)


def test_inside_a_task_a_run_goes_on_from_its_last_checkpoint(tmp_path, model):
    steps = []

    @dataclass
    class Counted(SLAO):
        stop: ClassVar[tuple] = ()

        def after_step(self, live, task):
            steps.append((task.index, task.step))
            if steps[-1] == self.stop:
                raise KeyboardInterrupt

    settings = {**SETTINGS, "batch_size": 1}                 # windows of 2: three steps a task
    Counted.stop = (2, 2)
    with pytest.raises(KeyboardInterrupt):
        run_stream(toy_stream(), Counted(), model, out=tmp_path / "run", **settings)
    Counted.stop = ()
    run_stream(toy_stream(), Counted(), model, out=tmp_path / "run", **settings)
    assert steps == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 2), (3, 0), (3, 1), (3, 2)]


KILLS = """
import json, os, resource, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from toy import before_each_change, in_child, toy_model, toy_stream
from mbf_utils.errors import InputError
from mbf_utils.runs import run_stream, walk_stream
root, settings, moments = Path({root!r}), {settings!r}, {moments!r}
stream, model = toy_stream(), toy_model()


def killed(folder, moment):
    before_each_change(lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == moment else None)
    run_stream(stream, "slao", model, out=folder, **settings)


for moment in moments:
    assert in_child(lambda: killed(root / str(moment), moment)) == -signal.SIGKILL
    assert in_child(lambda: killed(root / str(moment), 9)) == -signal.SIGKILL            # and again while it resumes
    assert in_child(lambda: run_stream(stream, "slao", model, out=root / str(moment), **settings)) == 0


def full_disk():
    walk = walk_stream(stream, "slao", model, out=root / "full", **settings)
    next(walk)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))
    try:
        next(walk)
    except InputError as error:
        os.write(1, str(error).encode())


assert in_child(full_disk) == 0
"""


@POSIX
def test_a_killed_process_and_a_full_disk_lose_no_finished_task(tmp_path, undisturbed, model):
    """Processes that really die, twice each, under another hash seed; and a system that refuses larger files."""
    total = changes(model, tmp_path / "counted")
    moments = [1, 3, total // 3, total // 2, 3 * total // 4]
    script = KILLS.format(tests=str(Path(__file__).parent), root=str(tmp_path), settings=SETTINGS, moments=moments)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr
    for moment in moments:
        assert contents(tmp_path / str(moment)) == undisturbed, moment
    assert done.stdout.startswith("expected room to write ") and "1 finished tasks are kept" in done.stdout and "\n" not in done.stdout
    full = tmp_path / "full"
    assert len(task_folders(full)) == 1 and not list(full.rglob(".*.tmp"))
    run_stream(toy_stream(), "slao", model, out=full, **SETTINGS)
    assert contents(full) == undisturbed


@pytest.mark.parametrize("where", ["log.json", "state.json", "config.json"])
def test_no_space_is_one_sentence_and_the_run_goes_on_once_there_is(tmp_path, monkeypatch, model, undisturbed, where):
    write_text, calls = Path.write_text, []

    def full(path, *arguments, **options):
        calls.append(path)
        if where in path.name and sum(where in call.name for call in calls) == (1 if where == "config.json" else 2):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="^expected .*No space left on device") as caught:
        run_stream(toy_stream(), "slao", model, out=tmp_path / "run", **SETTINGS)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert len(task_folders(tmp_path / "run")) == (0 if where == "config.json" else 1)
    run_stream(toy_stream(), "slao", model, out=tmp_path / "run", **SETTINGS)
    assert contents(tmp_path / "run") == undisturbed


def test_a_finished_run_is_opened_without_a_change(tmp_path, model, undisturbed):
    run_stream(toy_stream(), "slao", model, out=tmp_path / "run", **SETTINGS)
    before = {name: content for name, content in tree(tmp_path / "run").items() if name != ".lock"}
    runs = list(walk_stream(toy_stream(), "slao", model, out=tmp_path / "run", **SETTINGS))
    assert len(runs) == 1 and contents(tmp_path / "run") == undisturbed
    assert {name: content for name, content in tree(tmp_path / "run").items() if name != ".lock"} == before
