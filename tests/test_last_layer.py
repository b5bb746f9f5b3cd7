"""Of the last layer only what is read: the same logits and gradients, fewer operations, and the whole of it for whoever looks there."""
from contextlib import nullcontext

import pytest
import torch
import transformers
from test_layouts import LAYOUTS, tiny
from tiny import random_lora, tiny_llama, word_tokenizer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toy import FAST, toy_stream
from transformers.pytorch_utils import Conv1D

from mbf_utils import adapters
from mbf_utils.adapters import installed
from mbf_utils.last_layer import PARTS, TRIED, shortened
from mbf_utils.lora import Pair
from mbf_utils.probe import Probe
from mbf_utils.runs import run_stream
from mbf_utils.settings import Settings

IDS = torch.tensor([[2, 7, 4, 11, 5, 9, 12, 6, 30, 8], [2, 9, 4, 17, 6, 9, 3, 0, 0, 0]])
KEEP = torch.tensor([4, 5, 8])


def parts_of(model) -> list[nn.Module]:
    """Written out: what of the last layer comes after its keys and values."""
    last = [module for module in model.modules() if isinstance(module, nn.ModuleList)][0][-1]
    attention = getattr(last, "self_attn", None) or last.attn
    return [getattr(attention, name) for name in ("q_proj", "o_proj", "c_proj") if hasattr(attention, name)] + [last.mlp]


def operations(model, **inputs) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=IDS, **{"logits_to_keep": KEEP, **inputs})
    return counter.get_total_flops()


@pytest.mark.parametrize("name", LAYOUTS)
def test_logits_are_the_same_and_their_operations_fewer_by_those_of_the_columns_left_out(name):
    model = tiny(name)
    plain, spent = model(input_ids=IDS, logits_to_keep=KEEP).logits, operations(model)
    with shortened(model):
        torch.testing.assert_close(model(input_ids=IDS, logits_to_keep=KEEP).logits, plain, rtol=1e-4, atol=1e-4)
        less = operations(model)
    weights = sum(module.weight.numel() for part in parts_of(model) for module in part.modules() if isinstance(module, (nn.Linear, Conv1D)))
    assert spent - less == 2 * len(IDS) * (IDS.shape[1] - len(KEEP)) * weights
    assert operations(model) == spent               # afterwards it is as it was
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_every_layout_that_is_shortened_is_tried_here():
    assert {make().model_type for make, _ in LAYOUTS.values()} == TRIED
    assert len({len(parts_of(tiny(name))) for name in LAYOUTS}) == 2 and len(PARTS) == 4                # with queries of their own, and without


@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_are_those_of_the_whole_layer_in_float64(name, monkeypatch):
    def gradients() -> list[torch.Tensor]:
        with installed(tiny(name).double(), "all-linear", 3, 6.0) as adapted:
            adapted.model.double()
            adapted.wear({path: Pair(0.1 * pair.A, pair.B) for path, pair in random_lora(adapted.sites).items()}, trains="AB")
            logits = adapted.model(input_ids=IDS, logits_to_keep=KEEP).logits
            logits.log_softmax(-1)[..., 5].sum().backward()
            return [logits.detach(), *(factor.grad for pair in adapted.live().values() for factor in pair)]
    ours = gradients()
    monkeypatch.setattr(adapters, "shortened", lambda model: nullcontext())
    for one, other in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert all(gradient.abs().sum() > 0 for gradient in ours)


@pytest.mark.parametrize("inputs", [{"logits_to_keep": 3}, {"logits_to_keep": 0}, {"logits_to_keep": torch.arange(6)},
                                    {"output_hidden_states": True}], ids=str)
def test_other_questions_are_answered_by_the_whole_layer(inputs):
    model = tiny_llama()
    spent = operations(model, **inputs)
    with shortened(model):
        assert operations(model, **inputs) == spent > operations(model)
    with shortened(model):
        assert torch.equal(*(model(input_ids=IDS, **{"output_hidden_states": True} | inputs).hidden_states[-1] for _ in range(2)))


def test_a_configuration_that_asks_for_hidden_states_gets_them_whole():
    model = tiny_llama()
    whole = model(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
    model.config.output_hidden_states = True
    with shortened(model):
        assert torch.equal(model(input_ids=IDS, logits_to_keep=KEEP).hidden_states[-1], whole)


def test_embeddings_instead_of_tokens_are_read_whole():
    model = tiny_llama()
    embedded = model.get_input_embeddings()(IDS)
    plain = model(inputs_embeds=embedded, logits_to_keep=KEEP).logits
    with shortened(model):
        assert torch.equal(model(inputs_embeds=embedded, logits_to_keep=KEEP).logits, plain)


@pytest.mark.parametrize("place", ["self_attn.q_proj", "mlp", "mlp.down_proj", "mlp.act_fn"])
@pytest.mark.parametrize("how", ["hook", "pre_hook", "forward"])
def test_whoever_listens_in_a_part_or_changes_it_sees_every_token(place, how):
    model, seen = tiny_llama(), []
    part = model.model.layers[-1].get_submodule(place)
    with shortened(model):
        if how == "forward":
            forward = part.forward
            part.forward = lambda x: (seen.append(x), forward(x))[1]
        elif how == "hook":
            handle = part.register_forward_hook(lambda module, args, y: seen.append(y))
        else:
            handle = part.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        whole = operations(model)
        assert [x.shape[:2] for x in seen] == [IDS.shape]
        if how == "forward":
            del part.forward
        else:
            handle.remove()
        assert operations(model) < whole


def test_checkpointed_layers_are_computed_whole_in_training():
    model = tiny_llama()
    with shortened(model):
        less = operations(model)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        assert operations(model) == less            # nothing is kept in evaluation
        model.train()
        assert operations(model) > less


def test_another_architecture_is_left_alone():
    torch.manual_seed(0)
    model = transformers.OlmoForCausalLM(transformers.OlmoConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                                                 num_attention_heads=2, pad_token_id=0)).eval()
    spent = operations(model)
    with shortened(model):
        assert operations(model) == spent and model.config.model_type not in TRIED


def test_a_pass_that_fails_leaves_nothing_behind():
    model = tiny_llama()
    x = torch.randn(2, 10, 16)
    right = model.model.layers[-1].mlp(x)
    with shortened(model):
        model(input_ids=IDS, logits_to_keep=KEEP)
        assert torch.equal(model.model.layers[-1].mlp(x), right)
        with pytest.raises(IndexError):
            model(input_ids=IDS, logits_to_keep=torch.tensor([99]))
        assert torch.equal(model.model.layers[-1].mlp(x), right)


def test_statistics_are_of_every_token_and_the_shortened_pass_goes_on_after_them():
    rows, settings = list(toy_stream()[0].train), Settings(**FAST)
    with installed(tiny_llama(), ("q_proj", "o_proj", "down_proj"), 2, 4.0) as adapted:
        probe, lora = Probe(adapted, word_tokenizer(), rows, settings), random_lora(adapted.sites, 2, dtype=torch.float32)
        spent = operations(adapted.model)
        found = probe.covariance(lora)
        assert operations(adapted.model) == spent
    bare = Probe(adapters.Adapted(tiny_llama(), ("q_proj", "o_proj", "down_proj"), 2, 4.0), word_tokenizer(), rows, settings)
    for path, right in bare.covariance(lora).items():
        torch.testing.assert_close(found[path], right)


@pytest.mark.parametrize("method", ["slao", "sapt", "gainlora"])
def test_a_run_is_the_one_that_computes_everything(method, tmp_path, monkeypatch):
    settings = FAST | dict(targets="all-linear", dropout=0.0)
    ours = run_stream(toy_stream()[:2], method, (tiny_llama(), word_tokenizer()), 0, tmp_path / "ours", **settings)
    monkeypatch.setattr(adapters, "shortened", lambda model: nullcontext())
    whole = run_stream(toy_stream()[:2], method, (tiny_llama(), word_tokenizer()), 0, tmp_path / "whole", **settings)
    for path, pair in whole.lora(2).items():
        for one, other in zip(pair, ours.lora(2)[path]):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
