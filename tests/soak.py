"""Faults at random moments: processes that are killed, and Ctrl-C, until everything was finished all the same.

    python tests/soak.py [MOMENTS] [SEED]       100 moments of each kind, seed 0; then test_faults.py with every
                                                crash point, and test_fuzz.py with more examples

Every kind ends with the bytes of an undisturbed one, nothing temporary left, and after each fault whatever lies in the folders
is whole. tests/test_faults.py calls the same functions with few moments.
"""
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

if __name__ == "__main__":
    os.environ |= {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import torch
from toy import FAST, contents, toy_model, toy_stream

from mbf_utils.adapter_files import load_adapter, save_adapter
from mbf_utils.comparison import compare
from mbf_utils.lora import Pair
from mbf_utils.merging import merge_adapters
from mbf_utils.results import Run
from mbf_utils.runs import run_stream
from mbf_utils.store import task_folders

SETTINGS = {**FAST, "checkpoint_minutes": 0.0}      # a checkpoint after every step
GRID = ["slao", "seqlora"]


def learn(folder: Path, model=None) -> None:
    run_stream(toy_stream(), "slao", model or toy_model(), out=folder, **SETTINGS)


def grid(folder: Path, model=None, workers: int = 1) -> None:
    found = compare(toy_stream()[:2], GRID, [0], model or toy_model(), folder, workers, **SETTINGS)
    assert not len(found.failures), found.failures["error"][0]


def merge(folder: Path) -> None:
    """Three adapters, each a little on from the one before, into folder/out; nothing where that is there already."""
    adapters = [folder.parent / "adapters" / f"{i}" for i in range(3)]
    if not adapters[-1].exists():
        chance = torch.Generator().manual_seed(0)
        lora = {"m.q_proj": Pair(torch.randn(3, 20, generator=chance), torch.randn(10, 3, generator=chance))}
        for adapter in adapters:
            lora = {path: Pair(*(factor + 0.1 * torch.randn(factor.shape, generator=chance) for factor in pair)) for path, pair in lora.items()}
            save_adapter(lora, adapter, 2.0, ["q_proj"], "base")
    if not (folder / "out" / "merge.json").exists():
        merge_adapters(adapters, folder / "out")


ACTS = {"run": learn, "compare": grid, "merge": merge}


def scores(folder: Path) -> dict[str, bytes]:
    """All bytes but times and costs."""
    return {name: data for name, data in contents(folder).items() if not name.endswith(".cost.json")}


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != ".lock"]


def check_whole(folder: Path) -> None:
    """Whatever has its final name can be read to its end."""
    for config in folder.rglob("config.json"):
        run = Run(config.parent)
        finished = task_folders(run.folder)
        assert len(run.matrix) == len(run.options) == len(run.logs) == len(finished)         # also where the move up is to come
        assert not finished or run.metrics()["AA"] == run.matrix.iloc[-1, :len(finished)].mean()
        for i in range(1, len(finished) + 1):
            assert run.lora(i) and run.lora(i, "tuned")
    if (folder / "out").is_dir() and any((folder / "out").iterdir()):
        assert load_adapter(folder / "out") and (folder / "out" / "merge.json").is_file()


def child(act: Callable[[], None]) -> int:
    """act() in a forked process, whose number is returned."""
    number = os.fork()
    if number:
        return number
    try:
        act()
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(1)


def killed(kind: str, moments: int, root: Path, chance: random.Random) -> int:
    """Kills the act `moments` times at random, each time giving it again in the same folder; returns how often it was begun
    from nothing."""
    act, model = ACTS[kind], () if kind == "merge" else (toy_model(),)
    began = time.monotonic()
    act(root / "expected", *model)
    longest = time.monotonic() - began
    expected, landed, rounds = scores(root / "expected"), 0, 0
    while landed < moments:
        rounds += 1
        folder, status = root / f"{kind}{rounds}", 1
        while status:
            number = child(lambda: act(folder, *model))
            wait = chance.uniform(0, longest) if landed < moments else 60.0
            end = time.monotonic() + wait
            while not (done := os.waitpid(number, os.WNOHANG))[0] and time.monotonic() < end:
                time.sleep(min(0.001, longest / 50))
            if not done[0]:
                os.kill(number, signal.SIGKILL)
                done = os.waitpid(number, 0)
            status = os.waitstatus_to_exitcode(done[1])
            assert status in (0, -signal.SIGKILL), f"{kind} failed when it was given again"
            landed += status != 0
            check_whole(folder)
        assert scores(folder) == expected and not leftovers(folder), (kind, rounds, leftovers(folder))
    return rounds


def killed_workers(moments: int, root: Path, chance: random.Random) -> int:
    """The same with two worker processes, which are killed together with the one that started them."""
    def started(folder: Path) -> subprocess.Popen:
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import soak; soak.grid(soak.Path({str(folder)!r}), workers=2)"
        return subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE, text=True)

    began = time.monotonic()
    started(root / "expected").communicate()
    longest = time.monotonic() - began
    expected, landed, rounds = scores(root / "expected"), 0, 0
    while landed < moments:
        rounds += 1
        folder, status = root / f"workers{rounds}", 1
        while status:
            process = started(folder)
            try:
                process.communicate(timeout=chance.uniform(longest / 3, longest) if landed < moments else 300)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            status = process.returncode
            assert status in (0, -signal.SIGKILL), status
            landed += status != 0
            check_whole(folder)
        assert scores(folder) == expected and not leftovers(folder), rounds
    return rounds


@contextmanager
def ctrl_c_after(seconds: float):
    """SIGINT to this process after some seconds, unless what is inside ends before. A job in the background ignores SIGINT: not here."""
    usual, ctrl_c = (signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT)),
                     signal.signal(signal.SIGINT, signal.default_int_handler))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
        signal.signal(signal.SIGINT, ctrl_c)


def state(model) -> dict:
    """What could tell a model from what it was before."""
    return {"values": {name: tensor.clone() for name, tensor in model.state_dict().items()}, "training": model.training,
            "modules": [(name, type(module), sorted(vars(module)), len(module._forward_hooks)) for name, module in model.named_modules()],
            "trains": [parameter.requires_grad for parameter in model.parameters()]}


def same_state(one: dict, other: dict) -> bool:
    return all(one[key] == other[key] for key in ("training", "modules", "trains")) and one["values"].keys() == other["values"].keys() \
        and all(torch.equal(tensor, other["values"][name]) for name, tensor in one["values"].items())


def interrupted(moments: int, root: Path, chance: random.Random) -> int:
    """Ctrl-C at random moments of a run in one process with one model, as in a notebook; the next call goes on."""
    model = toy_model()
    before, began = state(model[0]), time.monotonic()
    learn(root / "expected", model)
    longest, expected, landed, rounds = time.monotonic() - began, contents(root / "expected"), 0, 0
    while landed < moments:
        rounds += 1
        folder, going = root / f"interrupted{rounds}", True
        while going:
            try:
                with ctrl_c_after(chance.uniform(0, longest) if landed < moments else 60.0):
                    learn(folder, model)
                    going = False
            except KeyboardInterrupt:
                landed += 1
            assert same_state(state(model[0]), before), "the model is not what it was"
        assert contents(folder) == expected and not leftovers(folder)
    return rounds


def main(moments: int = 100, seed: int = 0) -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)        # of transformers and PEFT
    jobs = {**{f"SIGKILL in {kind}": (lambda *given, kind=kind: killed(kind, *given), moments) for kind in ACTS},
            "SIGKILL in compare with two workers": (killed_workers, max(1, moments // 10)), "Ctrl-C in run": (interrupted, moments)}
    for name, (job, count) in jobs.items():
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as root:
            rounds = job(count, Path(root), random.Random(f"{name}{seed}"))
        print(f"{name}: {count} moments in {rounds} rounds, every one ended with the undisturbed bytes ({time.monotonic() - began:.0f} s)", flush=True)
    tests = [str(Path(__file__).with_name(name)) for name in ("test_faults.py", "test_fuzz.py")]
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", "-q", *tests], env={**os.environ, "MBF_EXAMPLES": str(10 * moments)}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
