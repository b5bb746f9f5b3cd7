"""Statistics beside plain autograd, row by row and without padding; and that asking changes nothing."""
import pytest
import torch
from tiny import random_lora, tensors, tiny_llama, word_tokenizer
from toy import FAST, toy_task

from mbf_utils.adapters import Adapted
from mbf_utils.errors import InputError
from mbf_utils.lora import copied, stack
from mbf_utils.probe import Probe
from mbf_utils.settings import Settings
from mbf_utils.text import collate, encode

ROWS = toy_task("t", ("red green", "blue", "four five six"), n=7).train
TARGETS = ["q_proj", "k_proj", "o_proj", "down_proj"]


def probing(batch: int = 3, rank: int = 2):
    """(Adapted, Probe, a LoRA): the model wears another LoRA and a frozen stack beside it."""
    adapted = Adapted(tiny_llama(), TARGETS, rank, 3.0)
    adapted.wear(random_lora(adapted.sites, rank, 1, torch.float32), random_lora(adapted.sites, 3, 2, torch.float32), "AB")
    probe = Probe(adapted, word_tokenizer(), ROWS, Settings(**{**FAST, "batch_size": batch, "eval_batch_size": batch}))
    return adapted, probe, {path: type(pair)(*(0.3 * factor for factor in pair)) for path, pair in
                            random_lora(adapted.sites, rank, 5, torch.float32).items()}


def merged(adapted, lora):
    """A plain Llama whose weights are W0 + s B A, by hand; with its adapted weights by path."""
    model = tiny_llama()
    weights = {}
    for path, (A, B) in lora.items():
        module = model.get_submodule(path)
        module.weight.data += adapted.scaling * B @ A
        weights[path] = module.weight.requires_grad_()
    return model, weights


def nll(model, row, lora=None):
    """-log p(answer | prompt) of one row, alone."""
    batch = collate([row], 0)
    logits = model(input_ids=batch.ids).logits[0].double().log_softmax(-1)
    return -sum(logits[len(row.prompt) - 1 + k, token] for k, token in enumerate(row.answer))


def encoded():
    return encode(word_tokenizer(), ROWS, 32)


def test_some_rows_are_spread_over_the_whole():
    _, probe, _ = probing(batch=1)
    every = [batch.ids.tolist() for batch in probe.batches()]
    assert [batch.ids.tolist() for batch in probe.batches(4)] == [every[i] for i in (0, 1, 3, 5)]
    assert len(list(probe.batches(99))) == len(every) == 7 and len(list(probe.batches(size=3))) == 3


def test_the_lora_that_is_asked_about_stands_for_everything_that_is_worn():
    adapted, probe, lora = probing()
    model, _ = merged(adapted, lora)
    batch = next(probe.batches())
    torch.testing.assert_close(probe.logits(lora, batch), model(input_ids=batch.ids, logits_to_keep=batch.keep).logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(probe.logits(lora, batch), adapted.model(input_ids=batch.ids, logits_to_keep=batch.keep).logits, atol=1e-2)
    of_higher_rank = stack(lora, lora)
    twice = {path: type(pair)(pair.A, 2 * pair.B) for path, pair in lora.items()}
    torch.testing.assert_close(probe.logits(of_higher_rank, batch), probe.logits(twice, batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_asking_changes_nothing(training):
    adapted, probe, lora = probing()
    adapted.model.train(training)
    before = {name: (value.clone(), value.requires_grad) for name, value in adapted.model.named_parameters()}
    chance, kept = torch.get_rng_state(), copied(lora)
    batch = next(probe.batches())
    for ask in (probe.covariance, probe.gradient, probe.fisher, probe.weight_fisher):
        ask(lora)
    probe.logits(lora, batch), probe.loss(lora, batch), probe.grads(lora, batch), probe.embeddings(batch.ids)
    assert adapted.model.training is training and torch.equal(chance, torch.get_rng_state())
    for name, value in adapted.model.named_parameters():
        assert torch.equal(value, before[name][0]) and value.requires_grad == before[name][1] and value.grad is None
    assert all(torch.equal(one, two) for one, two in zip(tensors(lora), tensors(kept)))
    assert not any(module._forward_hooks for module in adapted.layers.values())


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_covariance_is_the_mean_outer_product_of_the_inputs_whatever_the_padding(batch):
    adapted, probe, lora = probing(batch)
    model, weights = merged(adapted, lora)
    inputs = {path: [] for path in weights}
    hooks = [model.get_submodule(path).register_forward_pre_hook(lambda m, x, path=path: inputs[path].extend(x[0][0])) for path in weights]
    for row in encoded():
        model(input_ids=torch.tensor([row.prompt + row.answer]))
    for hook in hooks:
        hook.remove()
    C = probe.covariance(lora)
    assert C.keys() == weights.keys()
    for path, vectors in inputs.items():
        torch.testing.assert_close(C[path], sum(torch.outer(x, x) for x in vectors) / len(vectors), atol=1e-4, rtol=1e-4)
    q, k = (next(path for path in C if path.endswith(name)) for name in ("0.self_attn.q_proj", "0.self_attn.k_proj"))
    assert C[q] is C[k]                                              # they read the same tensor


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_gradients_and_fishers_are_those_of_autograd_row_by_row(batch):
    adapted, probe, lora = probing(batch)
    model, weights = merged(adapted, lora)
    G, F = ({path: 0 for path in weights} for _ in range(2))
    for row in encoded():
        for path, g in zip(weights, torch.autograd.grad(nll(model, row), list(weights.values()))):
            G[path], F[path] = G[path] + g / 7, F[path] + g ** 2 / 7
    gradient, dense = probe.gradient(lora), probe.weight_fisher(lora)
    for path in weights:
        torch.testing.assert_close(gradient[path], G[path], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(dense[path], F[path], atol=1e-4, rtol=1e-3)
    adapted.wear(lora, None, "AB")
    live = [factor for pair in adapted.live().values() for factor in pair]
    total = [torch.zeros_like(factor) for factor in live]
    for row in encoded():
        for sum_, g in zip(total, torch.autograd.grad(nll(adapted.model, row), live)):
            sum_ += g ** 2 / 7
    for one, two in zip(tensors(probe.fisher(lora)), total):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3)


def test_loss_and_grads_are_those_of_the_model_that_wears_it():
    adapted, probe, lora = probing()
    batch = next(probe.batches())
    adapted.wear(lora, None, "AB")
    live = [factor for pair in adapted.live().values() for factor in pair]
    logits = adapted.model(input_ids=batch.ids, logits_to_keep=batch.keep).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
    torch.testing.assert_close(probe.loss(lora, batch), loss)
    with torch.no_grad():
        found = probe.grads(lora, batch)
    for one, two in zip(tensors(found), torch.autograd.grad(loss, live)):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    shifted = {path: type(pair)(*(factor.requires_grad_() for factor in pair)) for path, pair in copied(lora).items()}
    probe.loss(shifted, batch).backward()
    assert all(torch.allclose(factor.grad, g, atol=1e-5) for factor, g in zip(tensors(shifted), tensors(found)))


def test_a_count_takes_rows_from_the_whole_and_never_more():
    _, probe, lora = probing(batch=2)
    assert sum(len(batch.ids) for batch in probe.batches()) == 7
    some = [row for batch in probe.batches(3) for row in batch.ids[batch.mask].tolist()]
    expected = [token for k in (0, 2, 4) for token in encoded()[k].prompt + encoded()[k].answer]
    assert some == expected
    assert sum(len(batch.ids) for batch in probe.batches(100)) == 7
    assert not torch.allclose(next(iter(probe.covariance(lora, 3).values())), next(iter(probe.covariance(lora).values())))


def test_weights_are_the_bases_own_and_quantised_ones_are_refused():
    adapted, probe, _ = probing()
    for path in adapted.sites:
        assert torch.equal(probe.weight(path), tiny_llama().get_submodule(path).weight)
    layer = next(iter(adapted.layers.values()))
    layer.get_base_layer().weight = torch.nn.Parameter(torch.zeros(3, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(InputError, match="quantised one at .*without quantize"):
        probe.weight(next(iter(adapted.sites)))


def test_embeddings_are_the_bases_table():
    _, probe, _ = probing()
    ids = torch.tensor([[3, 1], [0, 2]])
    assert torch.equal(probe.embeddings(ids), tiny_llama().get_input_embeddings().weight[ids])
