"""What only a card can show; skipped where there is none. The runs are the CPU's, to the tolerance of float32 sums in another order."""
import json

import pytest
import torch
from tiny import tensors

from mbf_utils.evaluation import evaluate
from mbf_utils.models import load_model
from mbf_utils.runs import run_stream, walk_stream
from mbf_utils.sources import load_stream
from mbf_utils.subspaces import orthonormal_rows
from mbf_utils.versions import weights_hash

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.fixture(scope="module")
def stream():
    return load_stream("world-5", limit=32)


def run(device, method, stream, out, dtype="float32", **settings):
    return run_stream(stream, method, load_model("tiny", device, dtype), 0, out, epochs=1, **settings)


def losses(run):
    return torch.tensor([loss for file in sorted(run.folder.glob("tasks/*/log.json")) for loss in json.loads(file.read_text())["losses"]])


@pytest.mark.parametrize("method", ["slao", "olora", "inflora", "sd_lora"])
def test_a_run_on_the_card_is_the_run_on_the_cpu(method, stream, tmp_path):
    here, there = (run(device, method, stream, tmp_path / device) for device in ("cuda", "cpu"))
    assert torch.allclose(losses(here), losses(there), rtol=1e-3, atol=1e-4)
    for one, other in zip(tensors(here.lora(5, "result")), tensors(there.lora(5, "result"))):
        assert (one.cpu() - other.cpu()).norm() <= 1e-2 * other.norm()
    assert (here.options - there.options).abs().max().max() <= 100 / 32 + 1e-9       # a row on the edge may fall either way


def test_the_same_weights_have_the_same_hash_on_the_card():
    for dtype in ("float32", "bfloat16"):
        assert weights_hash(load_model("tiny", "cuda", dtype)[0]) == weights_hash(load_model("tiny", "cpu", dtype)[0])


def test_half_bases_keep_float32_factors_and_learn(stream, tmp_path):
    found = run("cuda", "slao", stream[:1], tmp_path / "half", "bfloat16")
    factors = list(tensors(found.lora(1, "result")))
    assert {factor.dtype for factor in factors} == {torch.float32}
    assert all(factor.isfinite().all() for factor in factors)
    whole = run("cuda", "slao", stream[:1], tmp_path / "whole")
    assert torch.allclose(losses(found), losses(whole), rtol=0.05)


@pytest.mark.parametrize("dtype, apart", [("float32", 1e-3), ("bfloat16", 1e-2), ("float16", 1e-2)])
def test_a_run_on_the_card_goes_on_where_it_was_stopped(dtype, apart, stream, tmp_path):
    """Sums on a card may take another order the second time, so to tolerance."""
    whole = run("cuda", "slao", stream[:2], tmp_path / "whole", dtype)
    steps = walk_stream(stream[:2], "slao", load_model("tiny", "cuda", dtype), 0, tmp_path / "part", epochs=1)
    next(steps)
    steps.close()
    part = run("cuda", "slao", stream[:2], tmp_path / "part", dtype)
    for one, other in zip(tensors(whole.lora(2, "result")), tensors(part.lora(2, "result"))):
        assert (one - other).norm() <= apart * other.norm()


def test_scores_on_the_card_are_those_of_the_cpu(stream):
    for task in stream:
        here, there = (evaluate(*load_model("tiny", device, "float32"), task) for device in ("cuda", "cpu"))
        assert abs(here.exact - there.exact) <= 100 / 32 + 1e-9 and abs(here.options - there.options) <= 100 / 32 + 1e-9


def test_orthonormal_rows_are_the_same_on_the_card():
    A = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(orthonormal_rows(A.cuda()).cpu(), orthonormal_rows(A), atol=1e-5)
