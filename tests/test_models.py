"""Loading models: the built-in bases, the rules for device and dtype, and errors of one sentence."""
import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from mbf_utils import models, world
from mbf_utils.errors import InputError
from mbf_utils.models import BASES, BUILT_IN, choose_device, choose_dtype, load_model, suggested
from mbf_utils.pretrain import LORA
from mbf_utils.runs import run_stream
from mbf_utils.sources import load_stream


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_base_is_ready_to_wear_a_lora(name):
    model, tokenizer = load_model(name, device="cpu")
    assert type(model) is LlamaForCausalLM and not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    assert model.dtype == torch.float32 and model.config._attn_implementation == "sdpa"
    assert model.name_or_path == model.config._name_or_path == tokenizer.name_or_path == name
    assert tokenizer.pad_token == "<pad>" and tokenizer.padding_side == "right"
    assert suggested(model).keys() == LORA.keys()


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_base_knows_exactly_the_words_of_the_world(name):
    _, tokenizer = load_model(name, device="cpu")
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == list(world.vocabulary())


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_base_predicts_text_it_was_not_trained_on(name):
    model, tokenizer = load_model(name, device="cpu")
    losses = [model(input_ids=ids, labels=ids).loss.item() for ids in
              (torch.tensor([tokenizer(text)["input_ids"]]) for text in world.general()[:50])]
    assert sum(losses) / 50 < 0.5 * torch.log(torch.tensor(len(tokenizer)))


def test_built_in_files_hold_no_pickle_and_no_path():
    for file in (file for name in BUILT_IN for file in (BASES / name).iterdir()):
        assert file.suffix in (".json", ".safetensors"), file
        if file.suffix == ".json":
            assert "/" + "tmp" not in file.read_text() and "_name_or_path\": \"/" not in file.read_text()


def test_a_copy_in_a_folder_is_the_same_model(tmp_path):
    model, tokenizer = load_model("tiny", device="cpu")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    copy, _ = load_model(tmp_path, device="cpu")
    ids = tokenizer("the plot was", return_tensors="pt")["input_ids"]
    assert torch.equal(copy(input_ids=ids).logits, model(input_ids=ids).logits)
    assert suggested(copy) == {}                                # no lora.json there
    (tmp_path / "lora.json").write_text('{"rank": 3}')
    assert suggested(copy) == {"rank": 3}


def test_padding_falls_back_to_unk_then_eos(tmp_path):
    model, tokenizer = load_model("tiny", device="cpu")
    model.save_pretrained(tmp_path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu")[1].pad_token == "<unk>"
    tokenizer.unk_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu")[1].pad_token == "</s>"


def test_a_base_whose_tokenizer_has_no_eos_is_refused_when_it_is_to_learn(tmp_path):
    """It loads: to be merged or looked at it needs none."""
    model, tokenizer = load_model("tiny", device="cpu")
    model.save_pretrained(tmp_path)
    tokenizer.pad_token = tokenizer.unk_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    with pytest.raises(InputError, match="expected a tokenizer with an eos token, .* found none in .*: set tokenizer.eos_token"):
        run_stream(load_stream("world-5", limit=2)[:1], model=loaded)


@pytest.mark.parametrize("how", ["missing", "another shape"])
def test_a_base_without_some_of_its_weights_is_refused_by_name(tmp_path, how):
    shutil.copytree(BASES / "tiny", tmp_path / "base")
    file, name = tmp_path / "base" / "model.safetensors", "model.layers.0.self_attn.q_proj.weight"
    weights = load_file(file)
    whole = weights.pop(name)
    if how == "another shape":
        weights[name] = whole[:5].contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"^expected all weights of the model '.*base', found 1 missing or of another shape \({name}\)"):
        load_model(tmp_path / "base", device="cpu")
    save_file({**weights, name: whole, "more.weight": whole.clone()}, file, metadata={"format": "pt"})
    assert torch.equal(load_model(tmp_path / "base", device="cpu")[0].get_parameter(name), whole)


@pytest.mark.parametrize("content, told", [("{garbage", "expected JSON in"), (b"\xff\xfe", "expected JSON in"), ("[1]", "found list"), ("null", "found NoneType"),
                                           ('{"rnk": 3}', "found rnk"), ('{"rank": "3"}', "expected rank to be a whole number")])
def test_a_base_s_own_settings_that_cannot_be_used_are_one_sentence(tmp_path, content, told):
    shutil.copytree(BASES / "tiny", tmp_path / "base")
    (tmp_path / "base" / "lora.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    model = load_model(tmp_path / "base", device="cpu")
    with pytest.raises(InputError, match=told) as caught:
        run_stream(load_stream("world-5", limit=2)[:1], model=model, out=tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_token_that_the_base_has_no_vector_for_is_one_sentence_and_one_that_never_occurs_is_none(tmp_path):
    model, tokenizer = load_model("tiny", device="cpu")
    tokenizer.add_tokens(["zeugma"])                          # more tokens than vectors: as in Gemma 3 1B
    stream = load_stream("world-5", limit=2)[:1]
    run_stream(stream, model=(model, tokenizer), epochs=1)
    tokenizer.add_tokens([stream[0].train[0].prompt[:9]])
    with pytest.raises(InputError, match="expected a base with a vector for every token, .*resize_token_embeddings") as caught:
        run_stream(stream, model=(model, tokenizer), out=tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_auto_takes_the_best_device(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert choose_device("auto") == expected
        assert choose_device("cuda:1") == "cuda:1"


def test_auto_takes_bfloat16_only_where_the_hardware_has_it(monkeypatch):
    native = {"now": True}

    def supported(including_emulation=True):
        return True if including_emulation else native["now"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_dtype("auto", "cuda:0") == torch.bfloat16
    native["now"] = False
    assert choose_dtype("auto", "cuda") == torch.float16
    assert choose_dtype("auto", "cpu") == choose_dtype("auto", "mps") == torch.float32
    assert choose_dtype("bfloat16", "cpu") == choose_dtype(torch.bfloat16, "cpu") == torch.bfloat16
    assert load_model("tiny", device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16
    with pytest.raises(InputError, match="dtype"):
        choose_dtype("float8", "cpu")


def test_a_built_in_base_is_float32_also_where_others_are_not(monkeypatch, tmp_path):
    monkeypatch.setattr("mbf_utils.models.choose_dtype", lambda dtype, device: torch.bfloat16)
    model, tokenizer = load_model("tiny", "cpu")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert (model.dtype, load_model(tmp_path, "cpu")[0].dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("arguments, says", [
    (dict(name_or_path="tinny"), "built in .tiny"), (dict(name_or_path="./nowhere"), "nowhere"),
    (dict(name_or_path="/nowhere/at/all"), "folder"), (dict(name_or_path="nobody-here/no-such-model"), "offline"),
    (dict(quantize=3), "4 or 8"), (dict(quantize=4, device="cpu"), "CUDA"), (dict(dtype="half"), "dtype")])
def test_what_cannot_be_loaded_is_said_in_one_sentence(arguments, says):
    with pytest.raises(InputError, match=says) as caught:
        load_model(**arguments)
    assert "\n" not in str(caught.value) and caught.value.__cause__ is None and caught.value.__context__ is None


def test_a_folder_that_is_no_model_and_one_without_weights(tmp_path):
    with pytest.raises(InputError, match="config.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text((BASES / "tiny" / "config.json").read_text())
    with pytest.raises(InputError, match="could not be loaded"):
        load_model(tmp_path)


def test_quantizing_asks_for_its_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="bitsandbytes"):
        models._quantization(4, "cuda", torch.float16)


def test_importing_the_package_loads_neither_torch_nor_transformers():
    code = "import sys, mbf_utils; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], env=os.environ, check=True, capture_output=True, text=True)
    assert result.stdout == "[]\n" and result.stderr == ""
