"""One product in place of three: PEFT's own steps are the reference, in float64 to the last digits."""
import peft
import pytest
import torch
from peft.tuners.lora import Linear
from tiny import tiny_llama
from torch import nn

from mbf_utils import folded
from mbf_utils.adapters import Adapted
from mbf_utils.folded import FoldedLinear, fold


class Block(nn.Module):
    def __init__(self, d_in: int, d_out: int, bias: bool, dtype: torch.dtype):
        super().__init__()
        self.inside = nn.Linear(d_in, d_out, bias, dtype=dtype)

    def forward(self, x):
        return self.inside(x)


def layer_of(d_in=6, d_out=10, ranks=(3,), bias=False, dtype=torch.float64, dropout=0.0, folds=True) -> Linear:
    """A LoRA layer of PEFT with an adapter of each rank, all active, B not zero."""
    torch.manual_seed(0)
    model = Block(d_in, d_out, bias, dtype)
    for k, rank in enumerate(ranks):
        config = peft.LoraConfig(r=rank, lora_alpha=7 * (k + 1), target_modules=["inside"], lora_dropout=dropout)
        if k:
            model.add_adapter(str(k), config)
        else:
            model = peft.get_peft_model(model, config, adapter_name="0", autocast_adapter_dtype=False)
    model.base_model.set_adapter([str(k) for k in range(len(ranks))])
    layer = model.base_model.model.inside
    for k in range(len(ranks)):
        layer.lora_A[str(k)].weight.data.normal_()
        layer.lora_B[str(k)].weight.data.normal_()
    layer.to(dtype)
    if folds:
        fold([layer])
    return layer


def answers(layer, trains="AB", shape=(4, 5)):
    """y and the gradients of a fixed sum of y's entries by x and by every factor."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(*shape, layer.in_features, generator=g, dtype=torch.float64).to(layer.get_base_layer().weight.dtype).requires_grad_()
    factors = [part[name].weight.requires_grad_(which in trains)
               for name in layer.lora_A for which, part in (("A", layer.lora_A), ("B", layer.lora_B))]
    y = layer(x)
    (y * torch.randn(y.shape, generator=g, dtype=torch.float64).to(y)).sum().backward()
    return y, x.grad, *(factor.grad for factor in factors)


@pytest.fixture
def count(monkeypatch):
    """How often a weight was folded."""
    calls, whole = [], folded._whole
    monkeypatch.setattr(folded, "_whole", lambda *given: (calls.append(1), whole(*given))[1])
    return calls


@pytest.mark.parametrize("trains", ["AB", "A", "B"])
@pytest.mark.parametrize("shape", [(4, 5), (30,), (2, 3, 4)])
@pytest.mark.parametrize("ranks, bias", [((3,), False), ((3,), True), ((2, 5), False), ((4, 1, 2), True)])
def test_outputs_and_gradients_are_those_of_pefts_three_products(count, ranks, bias, shape, trains):
    ours, reference = (answers(layer_of(ranks=ranks, bias=bias, folds=folds), trains, shape) for folds in (True, False))
    assert len(count) == 2                          # forward and backward
    for one, other in zip(ours, reference, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_without_gradients_the_output_is_the_same(count):
    layer, x = layer_of(ranks=(2, 3), bias=True), torch.randn(20, 6, dtype=torch.float64)
    with torch.no_grad():
        y = layer(x)
    assert count
    torch.testing.assert_close(y, Linear.forward(layer, x), rtol=1e-12, atol=1e-12)


def merged(layer):
    layer.merge()


def hooked(layer):
    layer.lora_A["0"].register_forward_hook(lambda module, inputs, h: 2 * h)


def hooked_base(layer):
    layer.base_layer.register_forward_pre_hook(lambda module, inputs: (3 * inputs[0],))


def offloaded(layer):
    forward = layer.base_layer.forward
    layer.base_layer.forward = lambda x: forward(x) + 1


def other_factors(layer):
    layer.lora_A["0"].to(torch.float64)
    layer.lora_B["0"].to(torch.float64)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def of_another_class(layer):
    layer.lora_A["0"].__class__ = Doubled


def unfrozen(layer):
    layer.base_layer.requires_grad_(True)


def bias_unfrozen(layer):
    layer.base_layer.bias.requires_grad_(True)


def biased(layer):
    layer.lora_B["0"].bias = nn.Parameter(torch.ones(10))


CASES = {
    "too few rows": (dict(d_in=50, d_out=40, dtype=torch.float32), lambda layer: None),
    "half precision": (dict(dtype=torch.bfloat16), lambda layer: None),
    "factors of another precision": (dict(dtype=torch.float32), other_factors),
    "dropout": (dict(dropout=0.5, dtype=torch.float32), lambda layer: layer.train()),
    "dropout in evaluation": (dict(dropout=0.5, dtype=torch.float32), lambda layer: layer.eval().lora_dropout.train()),
    "a factor with a forward of its class": (dict(dtype=torch.float32), of_another_class),
    "disabled": (dict(dtype=torch.float32), lambda layer: layer.enable_adapters(False)),
    "merged": (dict(dtype=torch.float32), merged),
    "a bent bottleneck": (dict(dtype=torch.float32), hooked),
    "a hook on the weight": (dict(dtype=torch.float32), hooked_base),
    "another forward of the weight": (dict(dtype=torch.float32), offloaded),
    "a weight that trains": (dict(dtype=torch.float32), unfrozen),
    "a bias that trains": (dict(dtype=torch.float32, bias=True), bias_unfrozen),
    "a bias in B": (dict(dtype=torch.float32), biased),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_folded_goes_pefts_own_way(count, case):
    arguments, change = CASES[case]
    layer = layer_of(**arguments)
    change(layer)
    x = torch.randn(30, layer.in_features).to(layer.get_base_layer().weight.dtype)
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    assert torch.equal(y, Linear.forward(layer, x)) and not count


def test_under_autocast_too(count):
    layer, x = layer_of(dtype=torch.float32), torch.randn(30, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert torch.equal(y, Linear.forward(layer, x)) and y.dtype == torch.bfloat16
    assert not count


def test_dropout_does_not_matter_in_evaluation(count):
    layer_of(dropout=0.5).eval()(torch.randn(30, 6, dtype=torch.float64))
    assert count


def test_only_plain_linear_layers_of_peft_fold():
    adapted = Adapted(tiny_llama(), "all-linear", 3, 7)
    assert {type(layer) for layer in adapted.layers.values()} == {FoldedLinear}

    class Quantised(nn.Linear):
        pass
    layer = layer_of(folds=False)
    layer.base_layer.__class__ = Quantised
    fold([layer])
    assert type(layer) is Linear


def test_gradients_of_gradients():
    layer = layer_of(d_in=4, d_out=3, ranks=(2,), bias=True)
    x, A, B = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 4), (2, 4), (3, 2)))
    assert torch.autograd.gradgradcheck(
        lambda *given: folded._Product.apply(given[0], layer.base_layer.weight, layer.base_layer.bias, [1.5], *given[1:]), (x, A, B))


@pytest.mark.parametrize("trains", [True, False])
def test_nothing_as_long_as_the_rows_is_kept_but_x_and_that_where_a_factor_trains(trains):
    layer, kept = layer_of(d_in=6, d_out=10, ranks=(3, 2), dtype=torch.float32).requires_grad_(False), []
    layer.lora_A.requires_grad_(trains)
    x = torch.randn(40, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor):
        layer(x)
    assert [tuple(tensor.shape) for tensor in kept if len(tensor) == 40] == [(40, 6)] * trains
    assert all(tensor.data_ptr() in {part.data_ptr() for part in [x, *layer.parameters()]} for tensor in kept)


def test_what_comes_out_may_be_changed_in_place_and_one_vector_goes_pefts_way():
    layer, x = layer_of(bias=True), torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True)
    layer(x).mul_(2).sum().backward()
    alone = torch.randn(6, dtype=torch.float64, requires_grad=True)
    layer_of(d_out=1)(alone).sum().backward()
    assert x.grad.isfinite().all() and alone.grad.shape == (6,)


def test_transforms_of_torch_func_see_through():
    layer, x = layer_of().requires_grad_(False), torch.randn(3, 12, 6, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(layer)(x), Linear.forward(layer, x))
    torch.testing.assert_close(torch.func.grad(lambda x: layer(x).square().sum())(x), torch.func.grad(lambda x: Linear.forward(layer, x).square().sum())(x))


def test_a_model_answers_as_in_stock_peft(tmp_path, count):
    adapted, ids = Adapted(tiny_llama(), "all-linear", 3, 7), torch.arange(60).reshape(3, 20) % 30
    lora = {path: pair._replace(B=torch.randn_like(pair.B)) for path, pair in adapted.live().items()}
    adapted.wear(lora)
    adapted.save(lora, tmp_path)
    stock = peft.PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()
    with torch.no_grad():
        ours = adapted.model.eval()(input_ids=ids).logits
    assert count
    torch.testing.assert_close(ours, stock(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
