r"""PEFT's LoRA layer, computed as one product where that is cheaper: the same function, up to rounding.

    PEFT      y = x W^T + s (x A^T) B^T         three products, and two more passes over the rows to scale and to add
    folded    y = x (W + s B A)^T               one product; W + s B A is of the weight's size, whatever the rows

Nothing of the rows is kept for the backward pass but x:

    dx = dy (W + s B A),    dB = s dy^T (x A^T),    dA = s (dy B)^T x       in thin products, never the dense dy^T x

A frozen stack beside the pair that trains is folded with it, so its rank costs nothing per row. In half precision W + s B A would
round the update away, few rows do not pay for it, and a bent bottleneck (adapters.mixing), dropout, a merged or disabled adapter,
a hook on a part, a weight that trains or is offloaded ask for PEFT's own steps: all these go PEFT's way.
"""
from __future__ import annotations

from contextlib import contextmanager
from inspect import signature

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear


def fold(layers) -> None:
    """Lets these LoRA layers fold, those that stand on a plain nn.Linear."""
    for layer in layers:
        if type(layer) is Linear and type(layer.get_base_layer()) is nn.Linear:
            layer.__class__ = FoldedLinear                          # PEFT knows its own layers by "Linear" in the name


@contextmanager
def unfolded(layers):
    """While open, these layers compute as PEFT has it: what ours is compared with."""
    ours = [layer for layer in layers if type(layer) is FoldedLinear]
    for layer in ours:
        layer.__class__ = Linear
    try:
        yield
    finally:
        fold(ours)


class FoldedLinear(Linear):
    """A LoRA layer of PEFT in all but how it computes; x (..., d_in) to (..., d_out)."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        names = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or not names or not self._folds(x, names):
            return super().forward(x, *args, **kwargs)
        base, scales = self.get_base_layer(), [self.scaling[name] for name in names]
        factors = [factor for name in names for factor in (self.lora_A[name].weight, self.lora_B[name].weight)]
        if not torch.is_grad_enabled():
            return linear(x, _whole(base.weight, scales, factors), base.bias)
        return _Product.apply(x.flatten(0, -2), base.weight, base.bias, scales, *factors).unflatten(0, x.shape[:-1])

    def _folds(self, x: Tensor, names: list[str]) -> bool:          # asked at every call: the cheapest questions first, in a plain loop
        base = self.get_base_layer()
        if (x.dtype not in (torch.float32, torch.float64) or x.dim() < 2 or self.disable_adapters or self.merged
                or x.numel() < x.shape[-1] * min(self.in_features, self.out_features)      # as many rows as dimensions, or more
                or x.device.type not in ("cpu", "cuda", "mps") or torch.is_autocast_enabled(x.device.type)):
            return False
        parts = [base]
        for name in names:
            dropout, A, B = self.lora_dropout[name], self.lora_A[name], self.lora_B[name]
            if name in self.lora_variant or B.bias is not None or dropout.training and not isinstance(dropout, nn.Identity):
                return False
            parts += A, B
        for part in parts:
            weight = part.weight
            if (type(part) is not nn.Linear or weight.dtype != x.dtype or weight.device != x.device or "forward" in vars(part)
                    or part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks):
                return False
        return not base.weight.requires_grad and not (base.bias is not None and base.bias.requires_grad)


def _whole(W: Tensor, scales: list[float], factors) -> Tensor:
    """W + sum of s B A, (d_out, d_in)."""
    for s, A, B in zip(scales, factors[::2], factors[1::2]):
        W = torch.addmm(W, B, A, alpha=s)
    return W


class _Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, bias, scales, *factors):
        return linear(x, _whole(W, scales, factors), bias)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, W, _, ctx.scales, *factors = inputs
        ctx.save_for_backward(x if any(ctx.needs_input_grad[4:]) else None, W, *factors)

    @staticmethod
    def backward(ctx, dy):                                                          # (n, d_out); x (n, d_in)
        x, W, *factors = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dx = dy @ _whole(W, ctx.scales, factors) if needs[0] else None
        found = []
        for s, A, B, (wants_A, wants_B) in zip(ctx.scales, factors[::2], factors[1::2], zip(needs[4::2], needs[5::2])):
            found.append((dy @ B.mul(s)).T @ x if wants_A else None)           # (r, d_in)
            found.append(dy.T @ (x @ A.mul(s).T) if wants_B else None)         # (d_out, r)
        return dx, None, None, None, *found


# autograd binds the signature at every call, and would find it out anew each time
_Product.forward.__signature__ = signature(_Product.forward)        # type: ignore[attr-defined]
