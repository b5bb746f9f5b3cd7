"""Faults: kills at every change on disk and at random moments, Ctrl-C, full and read-only disks, folders that vanish, clocks that
go back, want of memory. Each ends in one sentence and loses no finished task; given again, the work ends with the same bytes."""
import builtins
import errno
import io
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import soak
import torch
from toy import FAST, before_each_change, contents, toy_model, toy_stream

from mbf_utils import guards, models
from mbf_utils.cli import main
from mbf_utils.comparison import compare
from mbf_utils.disk import new_folder
from mbf_utils.errors import InputError
from mbf_utils.guards import enough_memory, undisturbed
from mbf_utils.methods.slao import SLAO
from mbf_utils.reports import find_runs, summarise
from mbf_utils.results import Run
from mbf_utils.runs import run_stream, walk_stream
from mbf_utils.store import RAISED, task_folders

POSIX = pytest.mark.skipif(os.name == "nt", reason="forks and signals")


@pytest.fixture(scope="module")
def undisturbed_run(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_stream(toy_stream(), "slao", model, out=folder, **FAST)
    return contents(folder)


def learn(model, folder, method="slao", **settings):
    return run_stream(toy_stream(), method, model, out=folder, **{**FAST, **settings})


def one_sentence(caught) -> str:
    said = str(caught.value)
    assert said.startswith("expected ") and "\n" not in said and said.count(". ") == 0
    return said


# kills

def writes_too(act):
    """As before_each_change, but also before a file is opened for writing."""
    count, kept, end = [0], io.open, None

    def changed(_=None):
        count[0] += 1
        act(count[0])

    def opened(file, mode="r", *arguments, **options):
        if set(mode) & set("wax+"):
            changed()
        return kept(file, mode, *arguments, **options)

    end = before_each_change(changed)
    accessor = getattr(pathlib, "_NormalAccessor", None)             # Python 3.10: what Path.open calls
    io.open = builtins.open = opened
    if accessor:
        accessor.open = staticmethod(opened)

    def over():
        io.open = builtins.open = kept
        if accessor:
            accessor.open = staticmethod(kept)
        end()
    return over


def torn(folder: Path) -> bool:
    """Cuts every file under a temporary name in half, as a kill in the middle of a write leaves it; whether there was one."""
    files = [file for file in folder.rglob("*") if file.is_file() and any(part.endswith(".tmp") for part in file.relative_to(folder).parts)]
    for file in files:
        file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    return bool(files)


@pytest.mark.parametrize("kind", ["compare", "merge"])
def test_killed_before_or_in_the_middle_of_any_change_it_ends_with_the_same_bytes(kind, tmp_path, model):
    """Before every change the folder is copied, once as it is and once with half of what is being written."""
    act, given = soak.ACTS[kind], () if kind == "merge" else (model,)
    folder, copies, seen = tmp_path / "whole", [], []
    if kind == "merge":
        act(tmp_path / "first")                              # writes the adapters

    def copy(n):
        now = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} if folder.exists() else {}
        if now and now not in seen:
            seen.append(now)
            copies.append(shutil.copytree(folder, tmp_path / f"killed-{n}"))
            half = Path(shutil.copytree(folder, tmp_path / f"torn-{n}"))
            copies.append(half) if torn(half) else shutil.rmtree(half)

    end = writes_too(copy)
    try:
        act(folder, *given)
    finally:
        end()
    expected = soak.scores(folder)
    assert len(copies) > (40 if kind == "compare" else 4) and any(path.name.startswith("torn") for path in copies)
    for killed in copies if kind == "merge" or "MBF_EXAMPLES" in os.environ else copies[random.randrange(20)::20]:
        soak.check_whole(killed)
        act(killed, *given)
        assert soak.scores(killed) == expected and not soak.leftovers(killed), killed.name
        shutil.rmtree(killed)


def test_at_the_disk_of_any_moment_what_is_read_is_what_the_finished_tasks_wrote(tmp_path, model):
    """Also between the last task's rename and the moves up, when every task is finished and the run's own tables lag behind."""
    folder, copies, seen = tmp_path / "run", [], []

    def copy(n):
        now = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        if task_folders(folder) and now not in seen:
            seen.append(now)
            copies.append(Path(shutil.copytree(folder, tmp_path / f"killed-{n}" / "run")))

    end = before_each_change(copy)
    try:
        learn(model, folder)
    finally:
        end()
    whole, (expected, _) = Run(folder), summarise(find_runs([folder]))
    lagging = 0
    for killed in copies:
        run, done = Run(killed), len(task_folders(killed))
        for name in ("matrix", "options"):
            pd.testing.assert_frame_equal(getattr(run, name), getattr(whole, name)[:done])
        assert done < 3 or run.state_bytes == whole.state_bytes
        if done == 3:
            lagging += any((task_folders(killed)[-1] / name).exists() for name in RAISED)
            pd.testing.assert_frame_equal(summarise(find_runs([killed]))[0], expected)
            assert main(["report", str(killed)]) == 0
    assert lagging > 3


@pytest.mark.parametrize("name", ["matrix.csv", "matrix-options.csv"])
@pytest.mark.parametrize("how", ["short", "swapped", "columns", 500, -3, "inf", "gone"])
def test_a_table_that_is_not_what_the_finished_tasks_wrote_is_refused(model, tmp_path, name, how, capsys):
    learn(model, tmp_path / "run")
    file = tmp_path / "run" / name
    head, *rows = file.read_text().splitlines()
    first, last = rows[0].split(",", 2), rows[1]
    changed = {"short": [head, *rows[:-1]], "swapped": [head, rows[1], rows[0], *rows[2:]], "gone": [],
               "columns": ["after,prefixes,single,free", *rows]}.get(how, [head, f"{first[0]},{how},{first[2]}", last, *rows[2:]])
    file.write_text("\n".join(changed) + "\n") if changed else file.unlink()
    assert main(["report", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mbf: expected ") and name in said and said.count("\n") == 1


@POSIX
@pytest.mark.parametrize("kind", soak.ACTS)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(kind, tmp_path):
    soak.killed(kind, 4, tmp_path, random.Random(os.urandom(8)))


@POSIX
def test_ctrl_c_at_random_moments_leaves_model_and_folder_usable(tmp_path):
    soak.interrupted(4, tmp_path, random.Random(os.urandom(8)))


def test_what_a_killed_comparison_left_of_its_failures_is_cleared(model, stream, tmp_path):
    (tmp_path / "failures.csv").write_text("old")
    (tmp_path / ".failures.csv.tmp").write_text("ol")
    compare(stream[:1], "seqlora", 0, model, tmp_path, **FAST)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy-o1-seqlora-0", "toy-o1-seqlora-0.cost.json"]


# Ctrl-C

@POSIX
def test_ctrl_c_waits_while_a_model_is_taken_apart_and_comes_then():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            done.append("to its end")
        done.append("not reached")
    assert done == ["to its end"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@POSIX
@pytest.mark.parametrize("moment", ["get_peft_model", "unload"])
def test_ctrl_c_while_lora_is_put_on_or_taken_off_leaves_the_model_as_it_was(model, tmp_path, monkeypatch, undisturbed_run, moment):
    from mbf_utils import adapters
    before, usual = soak.state(model[0]), getattr(adapters if moment == "get_peft_model" else adapters.PeftModel, moment, None)
    place = adapters
    if moment == "unload":                                   # PeftModel passes it on to its tuner
        from peft.tuners.lora import LoraModel as place
        usual = place.unload

    def hit(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return usual(*arguments, **options)

    monkeypatch.setattr(place, moment, hit)
    with pytest.raises(KeyboardInterrupt):
        learn(model, tmp_path / "run")
    monkeypatch.undo()
    assert soak.same_state(soak.state(model[0]), before)
    learn(model, tmp_path / "run")
    assert contents(tmp_path / "run") == undisturbed_run


def test_a_loop_that_is_left_or_interrupted_frees_model_and_folder_though_the_error_is_kept(model, tmp_path, undisturbed_run):
    """As a notebook does: the last error stays, and with it everything in its frames."""
    before, kept = soak.state(model[0]), None

    def cell():
        for _ in walk_stream(toy_stream(), "slao", model, out=tmp_path / "run", **FAST):
            raise KeyboardInterrupt                          # while the cell draws, not while it learns
    try:
        cell()
    except KeyboardInterrupt as error:
        kept = error
    assert len(task_folders(tmp_path / "run")) == 1 and soak.same_state(soak.state(model[0]), before)
    learn(model, tmp_path / "run")
    assert contents(tmp_path / "run") == undisturbed_run and kept


# folders

def meddling(act):
    """SLAO in every setting, so that its folder is one run with it; in the second task it does something to the world."""
    method = SLAO()
    method.finish = lambda tuned, task: (act() if task.index == 2 else None, SLAO.finish(method, tuned, task))[1]
    return method


@POSIX
def test_a_folder_that_is_removed_under_its_run_is_one_sentence_and_the_run_begins_anew(model, tmp_path, undisturbed_run):
    with pytest.raises(InputError) as caught:
        learn(model, tmp_path / "run", meddling(lambda: shutil.rmtree(tmp_path / "run")))
    assert "found it removed" in one_sentence(caught)
    learn(model, tmp_path / "run")
    assert contents(tmp_path / "run") == undisturbed_run


@POSIX
def test_of_two_that_make_one_folder_one_succeeds_and_what_a_killed_one_left_is_cleared(tmp_path):
    final = tmp_path / "out"

    def killed():
        with new_folder(final) as folder:
            (folder / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(soak.child(killed), 0)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"] == ["half"]
    with pytest.raises(OSError):
        with new_folder(final) as slow:
            (slow / "who").write_text("slow")
            with new_folder(final) as quick:
                (quick / "who").write_text("quick")
            assert (slow / "who").read_text() == "slow"             # one at work is left alone
    assert (final / "who").read_text() == "quick" and [path.name for path in tmp_path.rglob("*")] == ["out", "who"]


def test_of_two_merges_into_one_folder_the_later_says_so(tmp_path, monkeypatch):
    from mbf_utils import merging
    usual = merging.save_adapter

    def slow(*arguments):
        monkeypatch.setattr(merging, "save_adapter", usual)
        soak.merge(tmp_path / "a")
        usual(*arguments)

    soak.merge(tmp_path / "first")                                   # writes the adapters
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(merging, "save_adapter", slow)
    with pytest.raises(InputError, match="^expected to write .*out, found: ") as caught:
        merging.merge_adapters([tmp_path / "adapters" / f"{i}" for i in range(3)], tmp_path / "a" / "out")
    one_sentence(caught)
    soak.check_whole(tmp_path / "a")
    assert not soak.leftovers(tmp_path) and soak.scores(tmp_path / "a") == soak.scores(tmp_path / "first")


def test_a_disk_that_is_full_leaves_the_saved_tables_whole(model, tmp_path, monkeypatch, capsys):
    learn(model, tmp_path / "run")
    save = ["report", str(tmp_path / "run"), "--save", "table", "--figures", str(tmp_path / "figures")]
    assert main(save) == 0
    before, write = {file.name: file.read_bytes() for file in (tmp_path / "figures").glob("*.csv")}, Path.write_text
    assert len(before) == 4

    def full(path, text, *arguments, **options):
        write(path, text[:len(text) // 2], *arguments, **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Path, "write_text", full)
    assert main(save) == 2 and "No space left" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir() if file.suffix != ".png"} == before


def mounts() -> bool:
    return shutil.which("mount") is not None and hasattr(os, "geteuid") and os.geteuid() == 0


@contextmanager
def small_disk(folder: Path, size: str):
    """A disk of its own at `folder`; skips where none may be mounted."""
    folder.mkdir(exist_ok=True)
    if not mounts() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_really_full_keeps_the_finished_tasks(model, tmp_path, undisturbed_run):
    with small_disk(tmp_path / "disk", "1m"):
        run = tmp_path / "disk" / "run"
        filler = tmp_path / "disk" / "filler"

        def fill():
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(bytes(2 << 20))
        with pytest.raises(InputError) as caught:
            learn(model, run, meddling(fill))
        assert "No space left on device" in one_sentence(caught) and "1 finished tasks are kept" in str(caught.value)
        assert not list(run.rglob(".*.tmp"))
        filler.unlink()
        learn(model, run)
        assert contents(run) == undisturbed_run


def test_a_disk_that_becomes_read_only_keeps_the_finished_tasks(model, tmp_path, undisturbed_run, capsys):
    def read_only(path):                                    # a second mount of it, for the first has an open lock
        subprocess.run(["mount", "--bind", path, path], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)

    with small_disk(tmp_path / "disk", "4m"):
        run = tmp_path / "disk" / "run"
        soak.merge(tmp_path / "disk" / "first")              # writes the adapters
        with pytest.raises(InputError) as caught:
            learn(model, run, meddling(lambda: read_only(tmp_path / "disk")))
        assert "Read-only file system" in one_sentence(caught)
        with pytest.raises(InputError, match="folder to write to"):
            learn(model, run)
        with pytest.raises(InputError, match="Read-only"):
            soak.merge(tmp_path / "disk" / "second")
        assert main(["run", "world-5", "--limit", "20", "--out", str(tmp_path / "disk" / "other")]) == 2
        assert "Read-only" in capsys.readouterr().err
        subprocess.run(["umount", tmp_path / "disk"], check=True)
        learn(model, run)
        assert contents(run) == undisturbed_run


@pytest.mark.parametrize("refused", ["mkdir", "replace", "fsync", "rmdir", "unlink"])
def test_whatever_the_disk_refuses_is_one_sentence(model, tmp_path, monkeypatch, undisturbed_run, refused):
    usual, calls = getattr(os, refused), []

    def refusing(*arguments, **options):
        calls.append(arguments)
        if len(calls) in range(3, 9):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))
        return usual(*arguments, **options)

    monkeypatch.setattr(os, refused, refusing)
    try:
        learn(model, tmp_path / "run", keep="last", checkpoint_minutes=0.0)
        assert len(calls) < 3 or refused in ("rmdir", "unlink")          # what may be left for the next run to clear
    except InputError as error:
        assert "Read-only file system" in str(error) and "\n" not in str(error)
    monkeypatch.undo()
    learn(model, tmp_path / "run", keep="last", checkpoint_minutes=0.0)
    learn(model, tmp_path / "plain", keep="last")
    assert {k: v for k, v in contents(tmp_path / "run").items() if k != "config.json"} == \
        {k: v for k, v in contents(tmp_path / "plain").items() if k != "config.json"}
    assert not soak.leftovers(tmp_path / "run")


@POSIX
def test_a_second_process_on_one_run_folder_is_refused_while_the_first_learns(model, tmp_path, undisturbed_run):
    def second():
        def act():
            try:
                learn(toy_model(), tmp_path / "run")
            except InputError as error:
                (tmp_path / "said").write_text(str(error))
        os.waitpid(soak.child(act), 0)

    learn(model, tmp_path / "run", meddling(second))
    said = (tmp_path / "said").read_text()
    assert said.startswith("expected ") and "another process" in said and contents(tmp_path / "run") == undisturbed_run


def test_a_clock_that_goes_backwards_changes_nothing(model, tmp_path, monkeypatch, undisturbed_run):
    now = iter(range(10 ** 9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    learn(model, tmp_path / "run")
    for _, path in enumerate((tmp_path / "run").rglob("*")):         # files of another day
        os.utime(path, (1, 1))
    learn(model, tmp_path / "run")
    assert contents(tmp_path / "run") == undisturbed_run


# damaged runs

@pytest.mark.parametrize("name", ["memory.json", "memory.safetensors", "matrix.csv", "checkpoint"])
@pytest.mark.parametrize("how", ["cut", "garbage", "gone"])
def test_a_damaged_file_of_a_run_is_named_in_one_sentence(model, tmp_path, name, how):
    run = tmp_path / "run"
    next(walk_stream(toy_stream(), "slao", model, out=run, **FAST))
    if name == "checkpoint":
        folder = run / "checkpoint-02-000001"
        folder.mkdir()
        (folder / "state.json").write_text("{}")
        (folder / "state.safetensors").write_bytes(bytes(100))
        file = folder / "state.json"
    else:
        file = run / name
    if how == "gone":
        if name == "matrix.csv":
            pytest.skip("a run without scores yet has no table")
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:len(file.read_bytes()) // 2] if how == "cut" else b"\xff{garbage\x00")
    if (name, how) == ("matrix.csv", "cut"):
        file.write_bytes(b"after,single\nsingle")
    try:
        learn(model, run)
    except InputError as error:
        assert file.stem in str(error) and "\n" not in str(error) and str(error).startswith("expected ")
    else:
        assert (name, how) == ("matrix.csv", "cut")                  # a short table is a table


@pytest.mark.parametrize("name, content, told", [
    ("config.json", {"settings": [1]}, "expected an object of settings in .*config.json"),
    ("config.json", {"settings": None}, "expected an object of settings in .*config.json"),
    ("memory.json", {"dict": {"other": 1}}, "expected in .*run the memory of SLAO, found one that is not this method's .KeyError: 'tuned'"),
    ("memory.json", {"dict": {"tuned": 7}}, "expected in .*run the memory of SLAO, found one that is not this method's"),
    ("memory.json", {"list": [1]}, "expected what a method remembers in .*memory.json, found a list"),
    ("state.json", {"dict": {"other": 1}}, "expected a checkpoint of this method inside task 2 .prefixes., .* remove the folder checkpoint-02-"),
    ("state.json", {"list": [1]}, "expected a checkpoint of this method"), ("state.json", 7, "expected a checkpoint of this method")])
def test_a_well_formed_file_of_another_shape_is_one_sentence_where_a_run_is_resumed(model, tmp_path, name, content, told):
    run = tmp_path / "run"
    next(walk_stream(toy_stream(), "slao", model, out=run, **FAST))
    file = run / name
    if name == "state.json":
        file = run / "checkpoint-02-000001" / name
        shutil.copytree(run, file.parent, ignore=lambda _, names: set(names) - {"memory.safetensors"})
        (file.parent / "memory.safetensors").rename(file.with_suffix(".safetensors"))
    file.write_text(json.dumps(json.loads(file.read_text()) | content if name == "config.json" else content))
    with pytest.raises(InputError, match=told) as caught:
        learn(model, run)
    one_sentence(caught)


def test_a_method_s_own_mistake_is_no_damaged_memory(model, tmp_path):
    method = SLAO()
    method.start = lambda task: SLAO.start(method, task) if task.index == 1 else {}["forgotten"]
    with pytest.raises(KeyError, match="forgotten"):
        learn(model, tmp_path / "run", method)


@pytest.mark.parametrize("costs", [{"peak_memory_mb": "much"}, {"peak_gpu_mb": [1]}, {"peak_gpu_mb": True}, [1], "text"])
def test_costs_of_another_shape_are_one_sentence(model, tmp_path, costs, capsys):
    learn(model, tmp_path / "run")
    (tmp_path / "run.cost.json").write_text(json.dumps(costs))
    assert main(["report", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mbf: expected ") and "run.cost.json" in said and said.count("\n") == 1


# memory

@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...\nSee documentation", "MPS backend out of memory",
                                   "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"])
def test_want_of_memory_says_what_to_lower_and_the_next_call_goes_on(model, tmp_path, undisturbed_run, words):
    def short():
        raise torch.OutOfMemoryError(words)

    before = soak.state(model[0])
    with pytest.raises(InputError) as caught:
        learn(model, tmp_path / "run", meddling(short))
    said = str(caught.value)
    assert said.startswith("expected enough memory to learn, found: ") and "lower batch_size (2;" in said and "eval_batch_size (8)" in said
    assert "\n" not in said and soak.same_state(soak.state(model[0]), before) and len(task_folders(tmp_path / "run")) == 1
    learn(model, tmp_path / "run")
    assert contents(tmp_path / "run") == undisturbed_run


def test_a_real_want_of_memory_is_recognised_and_what_its_frames_held_is_let_go():
    import weakref
    held = []

    def greedy():
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        return large, torch.empty(1 << 60)

    with pytest.raises(InputError, match="^expected enough memory to try, found: .*; lower it$") as caught:
        with enough_memory("to try", "lower it"):
            greedy()
    assert held[0]() is None and caught
    with pytest.raises(InputError), enough_memory("to try", "lower it"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes"), enough_memory("to try", "lower it"):
        raise RuntimeError("shapes do not fit")
    assert not guards.is_want_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("command, arguments", [("check", ["a", "world-5", "--max-drop", "1"]), ("merge", ["a", "b", "--out", "c"]), ("export", ["a", "--out", "c"]),
                                                ("make_base", ["c"])])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")])
def test_want_of_memory_in_any_command_is_one_sentence(monkeypatch, capsys, command, arguments, error):
    from mbf_utils import commands

    def short(arguments):
        raise error
    monkeypatch.setattr(commands, command, short)
    assert main([command.replace("_", "-"), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mbf: expected enough memory for this command, found: ") and said.count("\n") == 1


def test_a_model_that_does_not_fit_is_one_sentence(monkeypatch):
    def short(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 140.00 GiB.")

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", short)
    with pytest.raises(InputError, match="^expected enough memory for the model 'tiny', found: CUDA out of memory.*quantize=4"):
        models.load_model("tiny")


def test_a_loss_that_is_not_finite_keeps_the_finished_tasks_and_the_next_call_goes_on(model, tmp_path, undisturbed_run):
    before = soak.state(model[0])
    method = SLAO()
    method.penalty = lambda live, task, batch, out: float("nan") * next(iter(live.values())).B.sum() if task.index == 2 else 0.0
    with pytest.raises(InputError, match=r"step \d+ of task 2 \(prefixes\): lower lr or the penalty's weight; the last finished task is kept"):
        learn(model, tmp_path / "run", method)
    assert len(task_folders(tmp_path / "run")) == 1 and soak.same_state(soak.state(model[0]), before)
    learn(model, tmp_path / "run")
    assert contents(tmp_path / "run") == undisturbed_run


def test_the_command_ends_in_one_sentence_also_where_nobody_foresaw_the_disk_s_refusal(monkeypatch, capsys):
    from mbf_utils import commands
    for error, words in ((OSError(errno.EIO, "Input/output error", "runs/x"), "runs/x, found: Input/output error"), (PermissionError("no"), "found: no")):
        def refuse(arguments, error=error):
            raise error
        monkeypatch.setattr(commands, "methods", refuse)
        assert main(["methods"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("mbf: expected to read or write ") and words in said and said.count("\n") == 1
