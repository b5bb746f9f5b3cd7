"""LoRA on a model: wearing, freezing, mixing and taking off, on a random tiny Llama; saved adapters in stock PEFT."""
import json
import os
import subprocess
import sys
import textwrap

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from tiny import equal, random_lora, tensors, tiny_llama

from mbf_utils.adapter_files import PREFIX, load_adapter, load_config, save_adapter
from mbf_utils.adapters import LIVE, Adapted, installed
from mbf_utils.errors import InputError
from mbf_utils.folded import unfolded
from mbf_utils.lora import Pair, copied, stack

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
Q0 = "model.layers.0.self_attn.q_proj"
TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture
def adapted():
    """s = 7 / 3: no power of two, so a factor lost or doubled shows."""
    return Adapted(tiny_llama(), TARGETS, rank=3, alpha=7)


def lora_for(adapted, rank=3, seed=0):
    return random_lora(adapted.sites, rank, seed, torch.float32)


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def by_hand(lora, scaling):
    """The logits of the base whose weights are W + s B A."""
    model = tiny_llama()
    for path, pair in lora.items():
        model.get_submodule(path).weight.data += scaling * pair.B @ pair.A
    return logits(model)


def test_sites_are_the_linear_modules_that_the_targets_name(adapted):
    base = tiny_llama()
    expected = {path: (module.in_features, module.out_features) for path, module in base.named_modules()
                if path.rpartition(".")[2] in TARGETS}
    assert adapted.sites == expected and len(expected) == 6
    assert adapted.scaling == 7 / 3


def test_what_is_worn_is_live_and_changes_the_weights_by_s_b_a(adapted):
    for seed in (1, 2):
        lora = lora_for(adapted, seed=seed)
        adapted.wear(lora)
        assert equal(adapted.live(), lora)
        torch.testing.assert_close(logits(adapted.model), by_hand(lora, 7 / 3), atol=1e-4, rtol=1e-4)


def test_wearing_copies(adapted):
    lora = lora_for(adapted)
    adapted.wear(lora)
    kept = copied(lora)
    for tensor in tensors(adapted.live()):
        tensor.data.zero_()
    assert equal(lora, kept)
    wide = lora_for(adapted, rank=5)
    adapted.wear(wide)
    assert not any(worn.data_ptr() == given.data_ptr() for worn, given in zip(tensors(adapted.live()), tensors(wide)))


def test_a_past_is_active_beside_the_live_pair(adapted):
    lora, past = lora_for(adapted, seed=1), lora_for(adapted, rank=5, seed=2)
    adapted.wear(lora, past)
    x = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    expected = x @ tiny_llama().get_submodule(Q0).weight.T
    for pair in (lora[Q0], past[Q0]):
        expected = expected + 7 / 3 * (x @ pair.A.T @ pair.B.T)
    torch.testing.assert_close(adapted.layers[Q0](x).detach(), expected)
    torch.testing.assert_close(logits(adapted.model), by_hand(stack(lora, past), 7 / 3), atol=1e-3, rtol=1e-3)
    adapted.wear(lora)                                               # and gone again
    torch.testing.assert_close(logits(adapted.model), by_hand(lora, 7 / 3), atol=1e-4, rtol=1e-4)


def test_pairs_of_any_rank_are_worn_one_after_the_other(adapted):
    for rank in (3, 7, 1, 3):
        lora = lora_for(adapted, rank=rank)
        adapted.wear(lora)
        assert equal(adapted.live(), lora)
        torch.testing.assert_close(logits(adapted.model), by_hand(lora, 7 / 3), atol=1e-4, rtol=1e-4)


def test_a_stack_is_the_same_model_as_its_parts_side_by_side(adapted):
    first, second = lora_for(adapted, seed=1), lora_for(adapted, seed=2)
    adapted.wear(second, past=first)
    apart = logits(adapted.model)
    adapted.wear(stack(first, second))
    torch.testing.assert_close(logits(adapted.model), apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [3, 5])
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("trains", ["", "A", "B", "AB", "mixed"])
def test_gradients_arise_where_trains_says_and_nowhere_else(adapted, trains, stacked, rank):
    if trains == "mixed":
        trains = dict(zip(adapted.sites, ["A", "B", "AB", "", "A", "B"]))
    adapted.wear(lora_for(adapted), lora_for(adapted, seed=9), "AB")             # what was worn before leaves no trace
    adapted.wear(lora_for(adapted, rank), lora_for(adapted, seed=1) if stacked else None, trains)
    expected = {f"{PREFIX}{path}.lora_{factor}.{LIVE}.weight" for path in adapted.sites
                for factor in (trains if isinstance(trains, str) else trains[path])}
    named = dict(adapted.model.named_parameters())
    assert {name for name, parameter in named.items() if parameter.requires_grad} == expected
    loss = adapted.model(input_ids=IDS).logits.square().sum()
    if expected:
        loss.backward()
    assert {name for name, parameter in named.items() if parameter.grad is not None and parameter.grad.any()} == expected


def test_factors_of_other_modules_are_refused(adapted):
    lora = lora_for(adapted)
    for wrong in ({Q0: lora[Q0]}, {**lora, "elsewhere": lora[Q0]}):
        with pytest.raises(InputError, match=f"expected factors for the model's 6 adapted modules, found {len(wrong)}"):
            adapted.wear(wrong)


def state_of(model):
    """All that could tell a model from what it was: values, gradients' switches, modes, classes and attributes."""
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    switches = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modules = {name: (type(module), module.training, sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
               for name, module in model.named_modules()}
    return values, (switches, modules, model.config.to_dict())


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_afterwards_the_model_is_what_it_was(broken, training):
    model = tiny_llama().train(training)
    model.lm_head.weight.requires_grad_(True)
    values, rest = state_of(model)
    before = logits(model)
    try:
        with installed(model, TARGETS, 3, 7) as adapted:
            adapted.wear(lora_for(adapted), lora_for(adapted, rank=5, seed=1), "AB")
            adapted.model.train(not training)
            adapted.model(input_ids=IDS).logits.sum().backward()
            assert not torch.equal(logits(model), before)
            if broken:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert broken
    after, others = state_of(model)
    assert others == rest
    assert after.keys() == values.keys() and all(torch.equal(after[name], values[name]) for name in values)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("targets", [["nope"], ["q_proj", "nope"], ["q_proj", "norm"], "nope", ["layers.0"], "all", ["embed_tokens"]])
def test_unknown_targets_are_answered_with_the_linear_modules_and_leave_the_model_alone(targets):
    model = tiny_llama()
    _, before = state_of(model)
    with pytest.raises(InputError) as error:
        with installed(model, targets, 3, 7):
            pass
    assert "(down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj)" in str(error.value)
    assert repr(targets if isinstance(targets, str) else targets[-1]) in str(error.value) and "\n" not in str(error.value)
    assert state_of(model)[1] == before


@pytest.mark.parametrize("targets, count", [("all-linear", 14), (["layers.1.self_attn.q_proj"], 1), (r".*\.[qv]_proj", 4), (("q_proj",), 2)])
def test_targets_are_names_or_paths_or_a_pattern_also_with_a_past(targets, count):
    with installed(tiny_llama(), targets, 2, 4) as adapted:
        assert len(adapted.sites) == count
        adapted.wear(lora_for(adapted), lora_for(adapted, seed=1))
        assert all("past" in layer.lora_A for layer in adapted.layers.values())
        assert sum(isinstance(module, LoraLayer) for module in adapted.model.modules()) == count


def test_mixing_sees_h_x_and_the_blocks_of_every_bottleneck(adapted):
    lora, past = lora_for(adapted, seed=1), lora_for(adapted, rank=6, seed=2)
    adapted.wear(lora, past, "AB")
    with unfolded(adapted.layers.values()):
        plain, seen, batch = logits(adapted.model), {}, object()

    def mix(h, x, site):
        seen[site.path, site.blocks.start, site.blocks.stop] = (h, x, site)
        return h

    with adapted.mixing(mix, slice(2, 3), lambda: batch):
        assert torch.equal(logits(adapted.model), plain)
    assert set(seen) == {(path, *blocks) for path in adapted.sites for blocks in ((0, 2), (2, 3))}
    for (path, first, _), (h, x, site) in seen.items():
        torch.testing.assert_close(h, x @ (past if first == 0 else lora)[path].A.T)
        assert x.shape == (1, 8, adapted.sites[path][0]) and site.batch is batch
        assert site.live.A is adapted.live()[path].A and site.live.B is adapted.live()[path].B
    seen.clear()
    logits(adapted.model)
    assert not seen                                                  # nothing is left behind


def test_a_mix_to_zero_switches_the_adapter_off_and_one_by_blocks_a_part_of_it(adapted):
    lora, past = lora_for(adapted, seed=1), lora_for(adapted, seed=2)
    adapted.wear(lora, past)
    with adapted.mixing(lambda h, x, site: 0 * h, slice(1, 2), lambda: None):
        torch.testing.assert_close(logits(adapted.model), logits(tiny_llama()))
    with adapted.mixing(lambda h, x, site: h * (site.blocks == slice(1, 2)), slice(1, 2), lambda: None):
        alone = logits(adapted.model)
    torch.testing.assert_close(alone, by_hand(lora, 7 / 3), atol=1e-4, rtol=1e-4)


def test_mixing_ends_with_an_exception_too(adapted):
    adapted.wear(lora_for(adapted))
    plain = logits(adapted.model)
    with pytest.raises(ZeroDivisionError):
        with adapted.mixing(lambda h, x, site: 1 / 0, slice(0, 1), lambda: None):
            logits(adapted.model)
    assert torch.equal(logits(adapted.model), plain)


def mixed_ranks(adapted):
    return {path: lora_for(adapted, rank=1 + k % 3, seed=k)[path] for k, path in enumerate(adapted.sites)}


KINDS = {"plain": lora_for, "stack": lambda adapted: stack(lora_for(adapted, seed=1), lora_for(adapted, rank=4, seed=2)),
         "mixed ranks": mixed_ranks}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [TARGETS, "all-linear", ["layers.1.self_attn.q_proj", "down_proj"]])
def test_a_saved_adapter_is_the_same_model_in_stock_peft(tmp_path, targets, kind):
    adapted = Adapted(tiny_llama(), targets, 3, 7)
    lora = KINDS[kind](adapted)
    adapted.wear(lora)
    adapted.save(lora, tmp_path)
    stock = peft.PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()
    torch.testing.assert_close(logits(stock), logits(adapted.model), rtol=1e-4, atol=1e-5)
    with unfolded(adapted.layers.values()):
        assert torch.equal(logits(stock), logits(adapted.model))
    assert {name.removeprefix(PREFIX) for name, module in stock.named_modules() if isinstance(module, LoraLayer)} == set(lora)
    again = load_adapter(tmp_path)
    assert list(again) == sorted(lora) and equal(again, dict(sorted(lora.items())))


def test_a_module_may_have_its_own_scaling(tmp_path, adapted):
    lora, scaling = mixed_ranks(adapted), {path: 0.5 + k for k, path in enumerate(adapted.sites)}
    save_adapter(lora, tmp_path, scaling, TARGETS)
    stock = peft.PeftModel.from_pretrained(tiny_llama(), tmp_path)
    for path in lora:
        assert stock.get_submodule(PREFIX + path).scaling[LIVE] == pytest.approx(scaling[path])


def test_targets_stay_names_where_names_say_enough(tmp_path, adapted):
    adapted.save(lora_for(adapted), tmp_path)
    config = load_config(tmp_path)
    assert config["target_modules"] == sorted(TARGETS) and config["r"] == 3 and config["lora_alpha"] == pytest.approx(7)
    save_adapter(lora_for(adapted), tmp_path, 1.0, r".*\.[qv]_proj")
    assert load_config(tmp_path)["target_modules"] == r".*\.[qv]_proj"


def test_the_bytes_of_a_saved_adapter_do_not_depend_on_the_hash_seed(tmp_path):
    """Sets of names come in an order of the process: a second one, with another seed of hashes, writes the same."""
    code = textwrap.dedent("""
        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        lora = {f"layers.{i}.{name}": Pair(torch.ones(1 + i, 4), torch.ones(4, 1 + i)) for i in range(2) for name in names}
        save_adapter(lora, folder, 1.0, names, "base")
    """)
    exec(code, {"torch": torch, "Pair": Pair, "save_adapter": save_adapter, "folder": tmp_path / "here"})
    start = "import sys, torch\nfrom mbf_utils.adapter_files import save_adapter\nfrom mbf_utils.lora import Pair\nfolder = sys.argv[1]"
    subprocess.run([sys.executable, "-c", start + code, str(tmp_path / "there")], env={**os.environ, "PYTHONHASHSEED": "1"}, check=True)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    config = load_config(tmp_path / "here")
    assert list(config) == sorted(config) and config["target_modules"] == sorted(config["target_modules"])


A, B, MORE, THIN = torch.ones(2, 4), torch.ones(5, 2), torch.ones(5), torch.ones(5, 1)
WRONG = {
    "embedding": ({f"{PREFIX}x.lora_embedding_A": A, f"{PREFIX}x.lora_embedding_B": B}, "linear layers"),
    "convolution": ({f"{PREFIX}x.lora_A.weight": torch.ones(2, 4, 3, 3), f"{PREFIX}x.lora_B.weight": B}, "linear layers"),
    "DoRA": ({f"{PREFIX}x.lora_A.weight": A, f"{PREFIX}x.lora_B.weight": B, f"{PREFIX}x.lora_magnitude_vector": MORE}, "magnitude"),
    "whole module": ({f"{PREFIX}x.weight": A}, "linear layers"),
    "bias of B": ({f"{PREFIX}x.lora_A.weight": A, f"{PREFIX}x.lora_B.weight": B, f"{PREFIX}x.lora_B.bias": MORE}, "bias"),
    "other ranks": ({f"{PREFIX}x.lora_A.weight": A, f"{PREFIX}x.lora_B.weight": THIN}, r"found \{.*\(2, 4\).*\(5, 1\)\}"),
    "no B": ({f"{PREFIX}x.lora_A.weight": A}, r"found \{'A': \(2, 4\)\}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_factors_that_are_no_pairs_of_matrices_are_refused_in_one_line(tmp_path, name):
    factors, words = WRONG[name]
    save_file(factors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=f"^expected .*{words}") as error:
        load_adapter(tmp_path)
    assert "\n" not in str(error.value) and "adapter_model.safetensors" in str(error.value)


def test_a_missing_or_damaged_file_is_named_in_one_line(tmp_path):
    for folder, found in ((tmp_path / "none", "no such folder"), (tmp_path, "nothing")):
        with pytest.raises(InputError, match=f"expected adapter_model.safetensors in .*, found {found}$"):
            load_adapter(folder)
        with pytest.raises(InputError, match="found no adapter_config.json there$"):
            load_config(folder)
    (tmp_path / "other.bin").touch()
    with pytest.raises(InputError, match="found other.bin$"):
        load_adapter(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({f"{PREFIX}x.lora_A.weight": A, f"{PREFIX}x.lora_B.weight": B}, file)
    assert equal(load_adapter(tmp_path), {"x": Pair(A, B)})
    whole = file.read_bytes()
    for length in (0, 4, 40, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match="expected a whole safetensors file.*found a damaged one") as error:
            load_adapter(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("other", [f"{PREFIX}x.lora_A", "x.lora_A.weight"])
def test_a_factor_under_two_names_is_refused(tmp_path, other):
    save_file({f"{PREFIX}x.lora_A.weight": A, other: A + 1, f"{PREFIX}x.lora_B.weight": B}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"^expected each factor once in .*, found lora_A of x twice, .*: leave one of them$"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_types_without_arithmetic_are_refused(tmp_path, dtype):
    save_file({f"{PREFIX}x.lora_A.weight": A.to(dtype), f"{PREFIX}x.lora_B.weight": B}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"^expected float16, bfloat16, float32, float64 in .*, found torch\.float8_.* in .*x\.lora_A\.weight: save"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("key, value", [("lora_alpha", 10 ** 400), ("alpha_pattern", {"(?i)q_proj": 4}), ("lora_dropout", float("nan")),
                                        ("alpha_pattern", {"q_proj": -10 ** 400})], ids=["large", "flag", "nan", "small"])
def test_a_config_with_values_that_are_not_peft_s_is_refused_by_their_name(tmp_path, key, value):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 2, "target_modules": "x", key: value}))
    with pytest.raises(InputError, match=f"^expected {key} in .* as PEFT writes it, found ") as error:
        load_config(tmp_path)
    assert len(str(error.value)) < 500


def test_what_was_read_does_not_hang_on_its_file(tmp_path):
    save_adapter({"x": Pair(A, B)}, tmp_path, 1.0, ["x"])
    found, file = load_adapter(tmp_path), tmp_path / "adapter_model.safetensors"
    with open(file, "r+b") as raw:                  # in place, where a mapping would see it
        raw.seek(-8, os.SEEK_END)
        raw.write(b"\x7f" * 8)
    assert equal(found, {"x": Pair(A, B)}) and not equal(load_adapter(tmp_path), found)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused_by_file_and_tensor(tmp_path, value):
    spoilt = B.clone()
    spoilt[0, 0] = value
    save_file({f"{PREFIX}x.lora_A.weight": A, f"{PREFIX}x.lora_B.weight": spoilt}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"^expected finite numbers in .*model\.safetensors, found NaN or infinity in .*x\.lora_B\.weight: "):
        load_adapter(tmp_path)


@pytest.mark.parametrize("text, words", [('{"peft_type": "IA3"}', "found peft_type 'IA3'"), ("{}", "found peft_type None"),
                                         ("[]", "found peft_type 'list'"), ('{"peft', "expected JSON"), ("", "expected JSON")])
def test_a_config_of_something_else_is_refused_in_one_line(tmp_path, text, words):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        load_config(tmp_path)
    assert "\n" not in str(error.value)
