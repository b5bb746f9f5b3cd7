"""The layouts of the field's models, each as a tiny random one: modules, Conv1D, heads, windows, and what a run does with them."""
import copy
from contextlib import nullcontext
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from test_evaluation import literal_greedy, literal_likelihood
from tiny import random_lora, word_tokenizer
from toy import FAST, LABELS, rows, toy_stream
from torch import nn

from mbf_utils import adapters, evaluation
from mbf_utils.adapter_files import load_config
from mbf_utils.adapters import Adapted, installed
from mbf_utils.errors import InputError
from mbf_utils.evaluation import generate, label_scores
from mbf_utils.folded import unfolded
from mbf_utils.lora import Pair
from mbf_utils.merging import merge_adapters
from mbf_utils.runs import run_stream

SHAPE = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
             max_position_embeddings=128, head_dim=8, pad_token_id=0, bos_token_id=2, eos_token_id=3)
QV = ("q_proj", "v_proj")
LAYOUTS = {                                         # configuration, targets
    "Llama": (lambda: transformers.LlamaConfig(**SHAPE), QV),
    "Mistral": (lambda: transformers.MistralConfig(**SHAPE, sliding_window=6), QV),
    "Qwen2": (lambda: transformers.Qwen2Config(**SHAPE), QV),
    "Qwen3": (lambda: transformers.Qwen3Config(**SHAPE), ("q_proj", "v_proj", "down_proj")),
    "Gemma2": (lambda: transformers.Gemma2Config(**SHAPE, sliding_window=6, query_pre_attn_scalar=8), QV),
    "Gemma3": (lambda: transformers.Gemma3TextConfig(**SHAPE, sliding_window=6, query_pre_attn_scalar=8), QV),
    "Phi3": (lambda: transformers.Phi3Config(**SHAPE), ("qkv_proj",)),
    "GPT2": (lambda: transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=128, bos_token_id=2,
                                             eos_token_id=3), ("c_attn", "mlp.c_proj")),
}


def tiny(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(LAYOUTS[name][0]())
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[2, 7, 4, 11, 5, 9, 12, 6, 30, 8]])).logits


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_adapter_changes_the_weights_by_s_b_a_and_reloads_in_plain_peft(name, tmp_path):
    model, by_hand = tiny(name), tiny(name)
    adapted = Adapted(model, list(LAYOUTS[name][1]), 3, 7.0)
    lora = random_lora(adapted.sites, seed=1, dtype=torch.float32)
    lora = {path: Pair(0.1 * pair.A, pair.B) for path, pair in lora.items()}
    for path, (A, B) in lora.items():
        assert adapted.base_weight(path).shape == (B.shape[0], A.shape[1])
        weight = by_hand.get_submodule(path).weight
        weight.data += 7 / 3 * (B @ A).T if name == "GPT2" else 7 / 3 * B @ A
    adapted.wear(lora)
    torch.testing.assert_close(logits(adapted.model), logits(by_hand), atol=2e-3, rtol=2e-3)
    adapted.wear({path: Pair(pair.A, 0 * pair.B) for path, pair in lora.items()}, past=lora)           # the same, stacked
    torch.testing.assert_close(logits(adapted.model), logits(by_hand), atol=2e-3, rtol=2e-3)
    adapted.wear(lora)
    adapted.save(lora, tmp_path / "adapter")
    plain = peft.PeftModel.from_pretrained(tiny(name), tmp_path / "adapter")
    torch.testing.assert_close(logits(plain), logits(adapted.model), rtol=1e-4, atol=1e-5)
    with unfolded(adapted.layers.values()):
        assert torch.equal(logits(plain), logits(adapted.model))
    assert load_config(tmp_path / "adapter")["fan_in_fan_out"] == (name == "GPT2")


@pytest.mark.parametrize("name", LAYOUTS)
def test_scores_are_those_of_each_sequence_read_alone(name):
    """Labels of several tokens, prompts longer than the window of those that have one, batches with padding."""
    model, tokenizer = tiny(name), word_tokenizer()
    examples = [replace(row, prompt=f"{'one two three ' * (k % 4)}{row.prompt}")
                for k, row in enumerate(rows(9, LABELS["prefixes"], "new"))]
    exact, options = label_scores(model, tokenizer, examples, LABELS["prefixes"], batch_size=9)
    for row, right, table in zip(examples, exact, options):
        answer = tokenizer(row.answers[0], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        assert right == (literal_greedy(model, tokenizer, row.prompt, answer=answer) == answer)
        for label, found in table.items():
            assert found == pytest.approx(literal_likelihood(model, tokenizer, row.prompt, label, True), abs=2e-3), label
    texts = generate(model, tokenizer, examples, batch_size=9, max_new_tokens=4)
    for row, text in zip(examples, texts):          # padded on the left, all at once
        ids = [token for token in literal_greedy(model, tokenizer, row.prompt, 4)]
        assert text == tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("name, kernel", [(name, kernel) for name in LAYOUTS for kernel in ("sdpa", "eager")
                                          if (name, kernel) != ("Gemma2", "sdpa")])        # which transformers does not have
def test_a_tree_of_labels_is_read_as_plain_rows_are(name, kernel, monkeypatch):
    torch.manual_seed(0)
    config = LAYOUTS[name][0]()
    if getattr(config, "sliding_window", None):
        config.sliding_window = 128                 # wider than every row
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=kernel)
    tokenizer, trees, tree = word_tokenizer(), [], evaluation._tree
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn_like(parameter)
    examples = [replace(row, prompt=f"{'one two three ' * (k % 4)}{row.prompt}") for k, row in enumerate(rows(9, LABELS["prefixes"], "new"))]
    monkeypatch.setattr(evaluation, "_tree", lambda *given: (trees.append(1), tree(*given))[1])
    exact, options = label_scores(model.eval(), tokenizer, examples, LABELS["prefixes"], batch_size=9)
    assert trees and config.model_type in evaluation.TRIED
    monkeypatch.setattr(evaluation, "TRIED", frozenset())
    plain = label_scores(model, tokenizer, examples, LABELS["prefixes"], batch_size=9)
    assert len(trees) == 1 and exact == plain[0]
    for one, other in zip(options, plain[1]):
        assert one == pytest.approx(other, abs=1e-3)


def test_every_architecture_that_reads_trees_is_held_to_plain_rows():
    assert {make().model_type for make, _ in LAYOUTS.values()} == evaluation.TRIED


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_learns_and_gives_the_base_back_and_checkpointing_changes_no_factor(name, checkpointing, tmp_path, monkeypatch):
    if checkpointing and name not in ("Llama", "GPT2", "Gemma3"):
        pytest.skip("three of them are enough")
    model, before = tiny(name), tiny(name).state_dict()
    settings = FAST | dict(targets=LAYOUTS[name][1], dropout=0.0)
    run = run_stream(toy_stream()[:2], "slao", (model, word_tokenizer()), 0, tmp_path / "run", **settings,
                     checkpointing=checkpointing)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.isfinite(factor).all() and factor.abs().sum() > 0 for pair in run.lora(2).values() for factor in pair)
    if checkpointing:                               # which computes the last layer whole
        monkeypatch.setattr(adapters, "shortened", lambda model: nullcontext())
        plain = run_stream(toy_stream()[:2], "slao", (model, word_tokenizer()), 0, tmp_path / "plain", **settings)
        for path, pair in plain.lora(2).items():
            assert all(torch.allclose(*both, atol=1e-5) for both in zip(pair, run.lora(2)[path]))


def test_checkpointing_recomputes_activations():
    """Layers begin twice for one backward pass, and only in training."""
    model, calls = tiny("Llama"), []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    run_stream(toy_stream()[:1], "seqlora", (model, word_tokenizer()), **FAST)
    plain = len(calls)
    run_stream(toy_stream()[:1], "seqlora", (model, word_tokenizer()), checkpointing=True, **FAST)
    steps = 6 // FAST["batch_size"]
    assert len(calls) - plain == plain + steps


def test_adapters_of_conv1d_merge_as_they_were_trained(tmp_path):
    run = run_stream(toy_stream()[:2], "slao", (tiny("GPT2"), word_tokenizer()), 0, tmp_path / "run",
                     **FAST | dict(targets=("c_attn",)))
    out = merge_adapters([run.adapter(i, "tuned") for i in (1, 2)], tmp_path / "merged")
    plain = [peft.PeftModel.from_pretrained(tiny("GPT2"), folder) for folder in (out, run.adapter(2))]
    assert torch.equal(*map(logits, plain)) and load_config(out)["fan_in_fan_out"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_targets_that_are_not_there_are_answered_with_those_that_are(name):
    with pytest.raises(InputError, match="found 'query_key_value'") as caught:
        Adapted(tiny(name), ["query_key_value"], 2, 4.0)
    assert all(target.rpartition(".")[2] in str(caught.value) for target in LAYOUTS[name][1]) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_are_float32_whatever_the_base_is(dtype):
    with installed(tiny("Llama").to(dtype), ["q_proj"], 2, 4.0) as adapted:
        adapted.wear(random_lora(adapted.sites, 2, dtype=torch.float32), random_lora(adapted.sites, 3, dtype=torch.float32), "AB")
        assert {tensor.dtype for name, tensor in adapted.model.named_parameters() if "lora_" in name} == {torch.float32}


class Packed(nn.Linear):
    """In the place of a quantised layer: whole numbers of 8 bits as its weight, written out at each use."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.scale = linear.weight.abs().max() / 127
        self.weight = nn.Parameter((linear.weight / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x):
        return x @ (self.weight.to(x.dtype) * self.scale).T


def packed_llama() -> nn.Module:
    model = tiny("Llama")
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "proj" in name:
            model.set_submodule(name, Packed(module))
    return model.requires_grad_(False)


@pytest.mark.parametrize("method", ["slao", "olora", "knots", "inflora"])
def test_orthogonal_start_and_merging_never_touch_a_quantised_base(method, tmp_path):
    model = packed_llama()
    before = copy.deepcopy(model.state_dict())
    run = run_stream(toy_stream()[:2], method, (model, word_tokenizer()), 0, tmp_path / "run", **FAST)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[key]) for key, value in before.items())
    assert {value.dtype for key, value in after.items() if key.endswith("q_proj.weight")} == {torch.int8}
    assert {factor.dtype for pair in run.lora(2).values() for factor in pair} == {torch.float32}


def test_a_method_that_looks_at_weights_says_so_of_a_quantised_base():
    with pytest.raises(InputError, match="quantised"):
        run_stream(toy_stream()[:1], "keeplora", (packed_llama(), word_tokenizer()), **FAST)
