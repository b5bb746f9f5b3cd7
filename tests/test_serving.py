"""An adapter written into its base: the weights to the last bit, and the difference that is told measured again."""
import re
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny import random_lora, tiny_llama, word_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from mbf_utils import cli
from mbf_utils.adapter_files import save_adapter
from mbf_utils.errors import InputError
from mbf_utils.models import load_model
from mbf_utils.serving import merge_into_base

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
TOLD = re.compile(r"difference of a logit ([\d.]+) .*deviation is ([\d.]+)\), another likeliest token at (\d+) of (\d+) places")
SITES = {f"model.layers.{k}.self_attn.{name}": (16, d) for k in (0, 1) for name, d in (("q_proj", 16), ("v_proj", 8))}


@pytest.fixture
def base(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path):
    lora = random_lora(SITES, 2, dtype=torch.float32)
    lora["model.layers.1.self_attn.v_proj"] = random_lora({"x": (16, 8)}, 3, 7, torch.float32)["x"]       # a rank of its own
    save_adapter(lora, tmp_path / "adapter", 0.25, ["q_proj", "v_proj"])
    return lora, tmp_path / "adapter"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_are_summed_in_float32_and_rounded_once_and_the_difference_is_the_one_peft_shows(base, adapter, tmp_path, dtype):
    lora, folder = adapter
    texts = ["one two three red", "good bad alpha beta gamma delta", ""]
    found = merge_into_base(folder, tmp_path / "out", base, "cpu", dtype, texts)
    written, before = load_file(tmp_path / "out" / "model.safetensors"), load_file(base / "model.safetensors")
    kind = getattr(torch, dtype)
    for name, weight in written.items():
        pair = lora.get(name.removesuffix(".weight"))
        assert torch.equal(weight, (before[name] + 0.25 * (pair.B @ pair.A) if pair else before[name]).to(kind)), name

    peft = PeftModel.from_pretrained(load_model(base, "cpu", "float32")[0], folder)
    plain, tokenizer = load_model(tmp_path / "out", "cpu", dtype)
    differences, changed, places = [], 0, 0
    with torch.no_grad():
        for text in texts[:2]:
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
            one, other = peft(input_ids=ids).logits[0], plain(input_ids=ids).logits[0].float()
            differences.append(float((one - other).abs().max()))
            changed, places = changed + int((one.argmax(-1) != other.argmax(-1)).sum()), places + ids.shape[1]
    assert found.difference == pytest.approx(max(differences), abs=1e-4) and (found.changed, found.places) == (changed, places)
    assert found.difference < 1e-4 if dtype == "float32" else found.difference > 1e-3
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_command_prints_the_largest_difference(base, adapter, tmp_path, capsys):
    command = ["export", str(adapter[1]), "--model", str(base), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    assert re.search(r"out: largest difference of a logit 0\.\d+ .* token at \d+ of 512 places", capsys.readouterr().out)
    assert cli.main(command) == 2 and "new or empty folder" in capsys.readouterr().err


def test_the_page_shows_what_its_command_prints(tmp_path):
    """To the rounding of another machine's kernels."""
    page = (NOTEBOOKS / "serving.md").read_text(encoding="utf-8")
    adapter, told = re.search(r"mbf export notebooks/(\S+) --model tiny", page)[1], TOLD.search(page)
    found = TOLD.search(str(merge_into_base(NOTEBOOKS / adapter, tmp_path / "merged", "tiny", "cpu")))
    assert told[4] == found[4] and abs(int(told[3]) - int(found[3])) <= 5
    assert [float(value) for value in told.groups()[:2]] == pytest.approx([float(value) for value in found.groups()[:2]], rel=0.5)


def test_layers_that_lie_the_other_way_are_turned(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=64)).eval()
    model.save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    worn = get_peft_model(model, LoraConfig(target_modules=["c_attn"], r=2, lora_alpha=4, fan_in_fan_out=True,
                                            task_type="CAUSAL_LM", init_lora_weights=False))
    worn.save_pretrained(tmp_path / "adapter")
    found = merge_into_base(tmp_path / "adapter", tmp_path / "out", tmp_path / "base", "cpu", "float32")
    plain, _ = load_model(tmp_path / "out", "cpu", "float32")
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        assert torch.allclose(plain(input_ids=ids).logits, worn.eval()(input_ids=ids).logits, atol=1e-4) and found.difference < 1e-4


@pytest.mark.parametrize("sites, sentence", [
    ({"model.layers.7.self_attn.q_proj": (16, 16)}, "a model without the module model.layers.7"),
    ({"model.layers.0.self_attn.q_proj": (16, 5)}, r"found an update of shape \(5, 16\)")])
def test_an_adapter_of_another_base_is_refused_and_nothing_is_written(base, tmp_path, sites, sentence):
    save_adapter(random_lora(sites, 2, dtype=torch.float32), tmp_path / "other", 1.0, ["q_proj"])
    with pytest.raises(InputError, match=sentence):
        merge_into_base(tmp_path / "other", tmp_path / "out", base, "cpu")
    with pytest.raises(InputError, match="expected dtype among"):
        merge_into_base(tmp_path / "other", tmp_path / "out", base, "cpu", "int8")
    assert not (tmp_path / "out").exists()


def test_a_built_in_base_refuses_an_adapter_that_names_another_and_a_folder_is_warned_of(base, tmp_path):
    save_adapter(random_lora(SITES, 2, dtype=torch.float32), tmp_path / "named", 1.0, ["q_proj", "v_proj"], "owner/other")
    with pytest.raises(InputError, match="^expected the base 'owner/other', which the adapter .*named names, found 'tiny': give it"):
        merge_into_base(tmp_path / "named", tmp_path / "out", "tiny", "cpu")
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match="names the base 'owner/other', the model is '.*base': whether they fit was not checked"):
        merge_into_base(tmp_path / "named", tmp_path / "out", base, "cpu")
    save_adapter(random_lora(SITES, 2, dtype=torch.float32), tmp_path / "same", 1.0, ["q_proj", "v_proj"], str(base))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the adapter")
        merge_into_base(tmp_path / "same", tmp_path / "again", base, "cpu")


def test_a_full_disk_leaves_nothing_behind(base, adapter, tmp_path, monkeypatch):
    def full(temporary, final):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mbf_utils.disk.commit", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="expected to write .*out, found: No space left on device"):
        merge_into_base(adapter[1], tmp_path / "out", base, "cpu")
    assert sorted(tmp_path.iterdir()) == before
