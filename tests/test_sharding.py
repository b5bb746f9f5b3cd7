"""Several processes from the command line, and a base in shards: the same run as one process makes."""
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from test_training import distributed
from toy import FAST, toy_model, toy_stream

from mbf_utils import cli
from mbf_utils.adapter_files import load_adapter
from mbf_utils.errors import InputError
from mbf_utils.methods import make_method
from mbf_utils.results import Run
from mbf_utils.runs import run_stream
from mbf_utils.sharding import prepare

SETTINGS = {**FAST, "dropout": 0.0, "lr": 0.01, "batch_size": 1}
METHODS = {"slao": {}, "sd_lora": {"rate": 5.0}, "keeplora": {"weight_energy": 0.1, "task_energy": 0.2}}
# of the last: statistics of rows and the base's own weights, which every process has to ask for together


def command(*arguments, launcher=(), **environment):
    """mbf with these arguments, started by a launcher; without a card, unless the environment says so."""
    start = ["-m", *launcher] if launcher else []
    found = subprocess.run([sys.executable, *start, "-m", "mbf_utils", *map(str, arguments)], text=True, timeout=300,
                           capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment})
    return found.returncode, found.stdout, found.stderr


CPU = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}


@pytest.fixture
def small(tmp_path):
    """A command that learns one small task."""
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,answer,split\n" + "".join(f"{k} is,{'even' if k % 2 == 0 else 'odd'},{split}\n" for k, split in
                                                     enumerate(["train"] * 8 + ["test"] * 2)))
    return ("run", str(rows), "--epochs", "1", "--method", "slao")


def test_the_command_trains_in_two_processes_and_says_how_many_there_are(small, tmp_path):
    two = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    status, told, error = command(*small, "--processes", 2, "--out", tmp_path / "two", "--batch-size", 1, launcher=two, **CPU)
    assert status == 0, error[-3000:]
    run = Run(tmp_path / "two")
    assert told.count("exact match") == 1 and f"2 processes, {run.config['effective_batch']} examples a step" in told
    assert run.config["effective_batch"] == 2 * run.config["settings"]["accumulation"] and len(run.logs) == 1


def test_accelerate_launches_the_command_and_one_process_too_few_is_said(small, tmp_path, capsys):
    """On the CPU it starts one process, whatever it is asked for: with --processes that is no silence."""
    status, told, error = command(*small, "--out", tmp_path / "one", **CPU,
                                  launcher=("accelerate.commands.launch", "--cpu", "--num_processes", "2"))
    assert status == 0, error[-3000:]
    config = Run(tmp_path / "one").config
    assert "exact match" in told
    assert config["effective_batch"] == config["settings"]["batch_size"] * config["settings"]["accumulation"]
    assert cli.main([*small, "--processes", "2", "--out", str(tmp_path / "none")]) == 2 and not (tmp_path / "none").exists()
    assert "mbf: expected 2 processes that train together, found 1: launch them with python -m torch" in capsys.readouterr().err


SHARDED = """
import sys
sys.path.insert(0, {tests!r})
from test_sharding import sharded
sharded({out!r})
"""


def sharded(out: str) -> None:
    """In each of two processes that talk by gloo: runs over a base in shards. Accelerate shards on CUDA alone, so it is told here
    what its launcher would tell it there; PyTorch's FSDP2 itself works on the CPU."""
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap",
                                            cpu_ram_efficient_loading=False)
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state.update(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
    for name, fields in METHODS.items():
        model = toy_model()
        run_stream(toy_stream(), make_method(name, **fields), model, out=f"{out}/{name}", **SETTINGS)
        weight = model[0].model.layers[0].self_attn.q_proj.weight
        assert weight.to_local().numel() * 2 == weight.numel()                   # each process holds half of it
    try:
        run_stream(toy_stream(), "slao", model, out=f"{out}/again", **SETTINGS)
    except InputError as error:
        assert "found one that an earlier run sharded" in str(error)
    else:
        raise AssertionError("a sharded base was taken again")
    plugin.fsdp_version = 1
    try:
        run_stream(toy_stream(), "slao", toy_model(), out=f"{out}/again", **SETTINGS)
    except InputError as error:
        assert "expected FSDP in version 2" in str(error)
    else:
        raise AssertionError("FSDP in version 1 was taken")
    torch.distributed.destroy_process_group()


def close(one: Run, other: Run, tolerance: float) -> None:
    for i in (1, 2, 3):
        for which in ("tuned", "result"):
            mine, theirs = (load_adapter(run.adapter(i, which)) for run in (one, other))
            for path, pair in mine.items():
                for factor, expected in zip(pair, theirs[path]):
                    assert torch.allclose(factor, expected, atol=tolerance), (i, which, path, (factor - expected).abs().max())


def test_a_base_in_shards_on_two_processes_learns_what_a_whole_one_learns_in_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(SHARDED.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    done = distributed(script)
    assert done.returncode == 0, done.stderr
    for name, fields in METHODS.items():
        one = run_stream(toy_stream(), make_method(name, **fields), toy_model(), out=tmp_path / f"{name}-one",
                         **{**SETTINGS, "batch_size": 2})
        there = Run(tmp_path / name)
        assert there.config["effective_batch"] == one.config["effective_batch"] == 4
        close(there, one, 5e-4)
        assert there.options.fillna(-1).equals(one.options.fillna(-1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="Accelerate shards on CUDA alone")
@pytest.mark.parametrize("name", ["slao", "sd_lora"])
def test_accelerates_own_fsdp_on_the_cards_there_are_learns_what_one_card_learns(name, tmp_path):
    """With one card the world is of size 1, and the path through Accelerate's launcher is the same."""
    cards = torch.cuda.device_count()
    fsdp = ("accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
            "--fsdp_cpu_ram_efficient_loading", "false", "--mixed_precision", "no", "--num_machines", "1", "--dynamo_backend", "no",
            "--num_processes", str(cards))
    small = ("run", "world-5", "--limit", 8 * cards, "--epochs", 2, "--method", name, "--dtype", "float32", "--dropout", 0,
             "--batch-size")
    status, _, error = command(*small, 2, "--processes", cards, "--out", tmp_path / "shards", launcher=fsdp)
    assert status == 0, error[-4000:]
    status, _, error = command(*small, 2 * cards, "--out", tmp_path / "one", CUDA_VISIBLE_DEVICES="0")
    assert status == 0, error[-4000:]
    shards, one = Run(tmp_path / "shards"), Run(tmp_path / "one")
    assert shards.config["effective_batch"] == one.config["effective_batch"] and len(shards.logs) == 5
    close(shards, one, 1e-3 if cards == 1 else 1e-2)


def test_a_scaler_begins_anew_with_each_task():
    """As in a run that is resumed at its boundary; elsewhere there is none."""
    worn = torch.amp.GradScaler("cpu", init_scale=3.0)
    accelerator = SimpleNamespace(scaler=worn, device=torch.device("cpu"), num_processes=1, distributed_type=DistributedType.NO,
                                  prepare_optimizer=lambda optimizer: optimizer)
    model, optimizer = prepare(SimpleNamespace(model="model"), "optimizer", accelerator)
    assert (model, optimizer) == ("model", "optimizer") and accelerator.scaler.get_scale() == 65536.0
    accelerator.scaler = None
    prepare(SimpleNamespace(model="model"), "optimizer", accelerator)
    assert accelerator.scaler is None
