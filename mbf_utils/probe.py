"""What a method may ask of the model and of its task's rows. Everything is given back as it was; padding is never counted.

Statistics come from two things at each adapted weight W (d_out, d_in), row n and token t:

    x_nt (d_in)       what goes into W
    delta_nt (d_out)  the gradient of row n's loss by what comes out,  loss_n = -log p(answer_n | prompt_n) in nats

    covariance   C = E_nt[x x^T]                          (d_in, d_in)
    gradient     G = E_n[sum_t delta x^T]                 (d_out, d_in), the gradient by W
    fisher       F_B = E_n[(s sum_t delta (A x)^T)^2],  F_A = E_n[(s sum_t (B^T delta) x^T)^2]     in LoRA's factors

Every question names the LoRA that the model wears while it is asked, instead of whatever it wears otherwise, a frozen
stack included. The model is in evaluation mode: no dropout, no checkpointing.
"""
from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import Callable, Iterator

import torch
from torch import Tensor
from torch.func import functional_call

from .adapters import Adapted
from .lora import Lora, Pair
from .settings import Settings
from .streams import Example
from .text import Batch, collate, encode


class Probe:
    """The model, asked about `examples` (a task's training rows)."""

    def __init__(self, adapted: Adapted, tokenizer, examples: list[Example], settings: Settings, total: Callable = lambda x: x):
        self._adapted, self._tokenizer, self._examples, self._settings = adapted, tokenizer, examples, settings
        self.total = total                          # the sum of a tensor over all processes

    @cached_property
    def _rows(self) -> list:
        return encode(self._tokenizer, self._examples, self._settings.max_length)

    def batches(self, count: int | None = None, size: int | None = None) -> Iterator[Batch]:
        """The rows in order, `count` of them at most, spread over the whole; `size` a batch (None: as many as are scored at once)."""
        n = len(self._rows)
        rows = self._rows if count is None or count >= n else [self._rows[i * n // count] for i in range(count)]
        size = size or self._settings.eval_batch_size
        for k in range(0, len(rows), size):
            yield self._collate(rows[k:k + size])

    def _collate(self, rows: list) -> Batch:
        return collate(rows, self._tokenizer.pad_token_id, self._adapted.device)

    @contextmanager
    def _still(self):
        training = self._adapted.model.training
        self._adapted.model.eval()
        try:
            yield
        finally:
            self._adapted.model.train(training)

    def _forward(self, lora: Lora, batch: Batch) -> Tensor:
        inputs = {"input_ids": batch.ids, "logits_to_keep": batch.keep, "use_cache": False}
        with self._still():
            return functional_call(self._adapted.model, self._adapted.instead(lora), kwargs=inputs).logits

    def weight(self, path: str) -> Tensor:
        """W0 of a module in float32, (d_out, d_in)."""
        return self._adapted.base_weight(path).float()

    def embeddings(self, ids: Tensor) -> Tensor:
        """The base's input embeddings of token ids (b, T): (b, T, d)."""
        return self._adapted.model.get_input_embeddings()(ids).detach().float()

    @torch.no_grad()
    def logits(self, lora: Lora, batch: Batch) -> Tensor:
        """Without gradient, at the batch's columns: (b, k, V)."""
        return self._forward(lora, batch)

    def loss(self, lora: Lora, batch: Batch) -> Tensor:
        """Mean loss over the batch's answer tokens, in nats; its gradient flows into `lora`."""
        return batch.loss(self._forward(lora, batch))

    def grads(self, lora: Lora, batch: Batch) -> Lora:
        """The gradient of that loss by every factor."""
        leaves = _leaves(lora)
        with torch.enable_grad():
            found = torch.autograd.grad(self.loss(leaves, batch), [factor for pair in leaves.values() for factor in pair])
        return {path: Pair(*found[2 * k:2 * k + 2]) for k, path in enumerate(leaves)}

    @torch.no_grad()
    def covariance(self, lora: Lora, count: int | None = None) -> dict[str, Tensor]:
        """C (d_in, d_in) of every module's inputs, uncentred, over the tokens of prompt and answer. Modules that read the
        same tensor (q, k and v) share one C."""
        sums, tokens = {}, 0
        for batch in self.batches(count):
            seen: dict[int, list[str]] = {}         # one tensor, the modules that read it
            inputs: dict[int, Tensor] = {}

            def keep(path, x, y):
                seen.setdefault(id(x), []).append(path)
                inputs[id(x)] = x                   # held, so that no other tensor takes its place
            with self._hooked(keep):
                self._forward(lora, batch)
            for key, x in inputs.items():
                x = x[batch.mask].float()           # (tokens, d_in)
                share = tuple(seen[key])
                sums[share] = sums.get(share, 0) + x.T @ x
            tokens += int(batch.mask.sum())
        return {path: C for share, C in ((share, C / tokens) for share, C in sums.items()) for path in share}

    def gradient(self, lora: Lora, count: int | None = None) -> dict[str, Tensor]:
        """G (d_out, d_in), the mean gradient of the rows' losses by every adapted weight."""
        G, n = {}, 0
        for signals, size in self._signals(lora, count):
            n += size
            for path, x, delta in signals:
                G[path] = G.get(path, 0) + delta.flatten(0, 1).T @ x.flatten(0, 1)
        return {path: sum_ / n for path, sum_ in G.items()}

    def fisher(self, lora: Lora, count: int | None = None) -> Lora:
        """The diagonal of the empirical Fisher information in the factors: mean over rows of squared gradients."""
        s, F, n = self._adapted.scaling, {path: Pair(torch.zeros_like(A), torch.zeros_like(B)) for path, (A, B) in lora.items()}, 0
        for signals, size in self._signals(lora, count):
            n += size
            for path, x, delta in signals:
                A, B = lora[path]
                F[path].A.add_((s * torch.einsum("ntr,nti->nri", delta @ B, x)).square().sum(0))
                F[path].B.add_((s * torch.einsum("nto,ntr->nor", delta, x @ A.T)).square().sum(0))
        return {path: Pair(A / n, B / n) for path, (A, B) in F.items()}

    def weight_fisher(self, lora: Lora, count: int | None = None) -> dict[str, Tensor]:
        """The same in the adapted weights themselves, (d_out, d_in): one dense matrix a module."""
        F, n = {}, 0
        for signals, size in self._signals(lora, count):
            n += size
            for path, x, delta in signals:
                F[path] = F.get(path, 0) + sum((delta[k].T @ x[k]).square() for k in range(size))
        return {path: sum_ / n for path, sum_ in F.items()}

    def _signals(self, lora: Lora, count: int | None) -> Iterator[tuple[Iterator[tuple[str, Tensor, Tensor]], int]]:
        """Batch by batch: (path, x (b, T, d_in), delta (b, T, d_out) of one module after the other, in float32; b). delta is 0 on padding:
        no loss depends on it. Batches are those of training: with gradients more may not fit."""
        leaves = _leaves(lora)
        for batch in self.batches(count, self._settings.batch_size):
            inputs, outputs = {}, {}

            def keep(path, x, y):
                inputs[path], outputs[path] = x.detach(), y
            with torch.enable_grad(), self._hooked(keep):
                loss = batch.loss(self._forward(leaves, batch), "sum")
                deltas = torch.autograd.grad(loss, list(outputs.values()))
            yield ((path, inputs[path].float(), delta.float()) for path, delta in zip(outputs, deltas)), len(batch.ids)

    @contextmanager
    def _hooked(self, keep: Callable):
        hooks = [layer.register_forward_hook(lambda module, inputs, y, path=path: keep(path, inputs[0], y))
                 for path, layer in self._adapted.layers.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _leaves(lora: Lora) -> Lora:
    return {path: Pair(*(factor.detach().clone().requires_grad_() for factor in pair)) for path, pair in lora.items()}
