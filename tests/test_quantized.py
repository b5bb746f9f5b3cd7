"""4- and 8-bit bases by bitsandbytes, where there is a card for it; test_layouts.py has a stand-in for machines without."""
import pytest
import torch
from tiny import equal

from mbf_utils.models import load_model
from mbf_utils.results import Run
from mbf_utils.runs import run_stream
from mbf_utils.sources import load_stream

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_is_read_and_never_written(bits, tmp_path):
    pytest.importorskip("bitsandbytes")
    model, tokenizer = load_model("tiny", quantize=bits)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert any(not parameter.is_floating_point() for parameter in before.values())
    settings = dict(epochs=1, rank=2, alpha=4.0, targets=("q_proj", "v_proj"))
    run = run_stream(load_stream("world-5", limit=20)[:2], "slao", (model, tokenizer), 0, tmp_path / "run", **settings)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    assert {factor.dtype for pair in run.lora(2).values() for factor in pair} == {torch.float32}
    assert equal(Run(tmp_path / "run").lora(2), run.lora(2))
