"""PEFT on a model: installing LoRA, wearing factors, bending bottlenecks. Its folders on disk are those of adapter_files.py.

Traps of PEFT that this file guards against: `set_adapter` turns gradients back on for frozen adapters, so freezing comes
after it; `from_pretrained` costs a hundred reads, so factors are copied in place. GPT-2's Conv1D holds W0 as (d_in, d_out);
A and B are what they are everywhere. s = alpha / r is fixed by the configured rank.
"""
from __future__ import annotations

import re
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from .adapter_files import PREFIX, is_pattern, save_adapter
from .errors import InputError
from .folded import fold
from .guards import undisturbed
from .last_layer import shortened
from .lora import Lora, Pair, Site

LIVE, PAST = "default", "past"                      # PEFT's names of the two adapters


class Adapted:
    """A base model that wears LoRA: one adapter that trains, and beside it a frozen one where a method stacks.

    `model` is the PeftModel; `sites` maps each adapted module's path to (d_in, d_out); `scaling` is s. `sharded`: the base's
    weights lie on several cards (sharding.py).
    """

    def __init__(self, model: nn.Module, targets, rank: int, alpha: float, dropout: float = 0.0):
        self.base_name = getattr(model, "name_or_path", "") or ""
        self.rank, self.scaling, self.targets, self.sharded = rank, alpha / rank, targets, False
        self.turned = _check_targets(model, targets)
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM",
                            fan_in_fan_out=self.turned)
        if hasattr(model, "peft_config"):
            raise InputError("expected a base model without adapters, found one that wears some: merge_and_unload() or unload() them first")
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):       # PEFT draws a start that is not used
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)         # PEFT 0.21 on transformers 5.2x
            self.model: PeftModel = get_peft_model(model, config)
        self.layers: dict[str, LoraLayer] = {
            name.removeprefix(PREFIX): module for name, module in self.model.named_modules() if isinstance(module, LoraLayer)}
        fold(self.layers.values())
        self.sites = {path: (layer.in_features, layer.out_features) for path, layer in self.layers.items()}
        self.device = next(iter(self.layers.values())).lora_A[LIVE].weight.device

    def live(self) -> Lora:
        """The parameters that train, themselves (not copies)."""
        return self._lora(LIVE)

    def _lora(self, adapter: str) -> Lora:
        return {path: Pair(layer.lora_A[adapter].weight, layer.lora_B[adapter].weight) for path, layer in self.layers.items()}

    def wear(self, lora: Lora, past: Lora | None = None, trains: str | dict[str, str] = "") -> None:
        """Copies `lora` (and `past`) in; `trains` says which of lora's factors get gradients. Nothing else does."""
        if past is not None and PAST not in self.model.peft_config:
            self.model.add_adapter(PAST, LoraConfig(r=self.rank, lora_alpha=self.scaling * self.rank,
                                                    target_modules=self.targets, task_type="CAUSAL_LM",
                                                    fan_in_fan_out=self.turned))
        self.model.base_model.set_adapter([LIVE] if past is None else [LIVE, PAST])
        self._copy_in(LIVE, lora)
        if past is not None:
            self._copy_in(PAST, past)
        self.model.requires_grad_(False)
        for path, pair in self.live().items():
            chosen = trains if isinstance(trains, str) else trains[path]
            pair.A.requires_grad_("A" in chosen)
            pair.B.requires_grad_("B" in chosen)

    @torch.no_grad()
    def _copy_in(self, adapter: str, lora: Lora) -> None:
        if lora.keys() != self.layers.keys():
            odd = sorted(lora.keys() ^ self.layers.keys())
            raise InputError(f"expected factors for the model's {len(self.layers)} adapted modules, found {len(lora)}; "
                             f"not in both: {', '.join(odd[:3])}")
        for path, layer in self.layers.items():
            for linear, factor in zip((layer.lora_A[adapter], layer.lora_B[adapter]), lora[path]):
                if linear.weight.shape == factor.shape:
                    linear.weight.copy_(factor)
                else:                               # another rank, as of a stack
                    linear.weight = nn.Parameter(factor.detach().to(linear.weight, copy=True), requires_grad=False)

    def base_weight(self, path: str) -> torch.Tensor:
        """W0 of one module, (d_out, d_in), the base's own tensor (or a view of it); of a sharded base a whole copy, for which all
        processes ask."""
        module = self.layers[path].get_base_layer()
        weight = module.weight.T if isinstance(module, Conv1D) else module.weight
        if not weight.is_floating_point():
            raise InputError(f"expected a base with plain weights, found a quantised one at {path}: choose a method that does not "
                             "look at them, or load the model without quantize")
        if self.sharded:
            from torch.distributed.tensor import DTensor
            return weight.full_tensor().detach() if isinstance(weight, DTensor) else weight.detach()
        return weight.detach()

    def instead(self, lora: Lora) -> dict[str, torch.Tensor]:
        """Parameters by name under which the model wears `lora` and nothing else: for torch.func.functional_call."""
        found = {}
        for path, (A, B) in lora.items():
            layer = self.layers[path]
            found |= {f"{PREFIX}{path}.lora_A.{LIVE}.weight": A, f"{PREFIX}{path}.lora_B.{LIVE}.weight": B}
            if PAST in layer.lora_A:
                found |= {f"{PREFIX}{path}.lora_A.{PAST}.weight": A.new_zeros(1, A.shape[1]),
                          f"{PREFIX}{path}.lora_B.{PAST}.weight": B.new_zeros(B.shape[0], 1)}
        return found

    @contextmanager
    def mixing(self, mix, blocks: slice, batch_of):
        """While open, every bottleneck h = A x goes through `mix(h, x, site)`. blocks: the tasks that the adapter which trains
        (or, at evaluation, is worn) holds; those before them lie in the frozen stack."""
        hooks = []
        for path, layer in self.layers.items():
            live = Pair(layer.lora_A[LIVE].weight, layer.lora_B[LIVE].weight)
            for adapter, held in ((LIVE, blocks), (PAST, slice(0, blocks.start))):
                if adapter in layer.lora_A:
                    def bent(module, inputs, h, path=path, held=held, live=live):
                        return mix(h, inputs[0], Site(path, held, live, batch_of()))
                    hooks.append(layer.lora_A[adapter].register_forward_hook(bent))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def save(self, lora: Lora, folder: str | Path) -> None:
        """Writes a standard PEFT adapter: its targets are module names, or paths where a name would mean further modules."""
        names = {path.rpartition(".")[2] for path in self.layers}
        named = [name for name, _ in self.model.named_modules() if name.rpartition(".")[2] in names]
        save_adapter(lora, folder, self.scaling, list(names if len(named) == len(self.layers) else self.layers), self.base_name,
                     self.turned)


def _check_targets(model: nn.Module, targets) -> bool:
    """Every target has to name linear modules. PEFT skips a misspelt one in silence, and where it refuses a module it leaves
    those before it wrapped. True where they are Conv1D, as in GPT-2."""
    linear = {path: module for path, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    turned = any(isinstance(module, Conv1D) for module in linear.values())
    if isinstance(targets, str) and not is_pattern(targets):
        raise InputError(f"expected targets to be names of modules or a regular expression, found {targets!r}")
    for target in [targets] if isinstance(targets, str) else targets:
        chosen = [path for path, _ in model.named_modules() if (
            re.fullmatch(target, path) if isinstance(targets, str) else f".{path}".endswith(f".{target}"))]
        if targets != "all-linear" and not (chosen and linear.keys() >= set(chosen)):
            raise InputError(f"expected targets among this model's linear modules "
                             f"({', '.join(sorted({path.rpartition('.')[2] for path in linear}))}), found {target!r}")
    return turned


@contextmanager
def installed(model: nn.Module, targets, rank: int, alpha: float, dropout: float = 0.0, checkpointing: bool = False):
    """LoRA on `model` while open; afterwards the model is as it was. checkpointing: in training, activations are computed again
    in the backward pass instead of being kept."""
    training, adapted = model.training, None
    state = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    checkpointing = checkpointing and not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    try:
        with undisturbed():                         # Ctrl-C in the middle would leave a model half wrapped
            adapted = Adapted(model, targets, rank, alpha, dropout)
            if checkpointing:
                _checkpointing(model, True)
        with shortened(model):
            yield adapted
    finally:
        with undisturbed():
            if adapted and checkpointing:
                _checkpointing(model, False)
            if adapted:
                adapted.model.unload()
            if adapted and hasattr(model, "peft_config"):
                del model.peft_config
            model.train(training)
            for parameter, requires_grad in state:
                parameter.requires_grad_(requires_grad)


def _checkpointing(model, on: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`gradient_checkpointing_", FutureWarning)     # transformers 5.2x has another name for it
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
            model.disable_input_require_grads()
