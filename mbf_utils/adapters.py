"""The only file that knows PEFT: installing LoRA on a model, wearing factors, bending bottlenecks, saving and loading.

Traps of PEFT that this file guards against: `set_adapter` turns gradients back on for frozen adapters, so freezing comes
after it; `from_pretrained` costs a hundred reads, so factors are copied in place; configurations hold sets, so they are
written sorted. GPT-2's Conv1D holds W0 as (d_in, d_out); A and B are what they are everywhere. s = alpha / r is fixed by the
configured rank; a pair of another rank keeps it (lora_alpha = s x rank on disk).
"""
from __future__ import annotations

import json
import os
import re
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from .errors import InputError
from .guards import undisturbed
from .lora import Lora, Pair, Site
from .rows import json_of

LIVE, PAST = "default", "past"                      # PEFT's names of the two adapters
PREFIX = "base_model.model."
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)            # of factors that are read


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
    if isinstance(targets, str) and not _is_pattern(targets):
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


def save_adapter(lora: Lora, folder: str | Path, scaling: float | dict[str, float], target_modules: list[str] | str,
                 base_name: str = "", fan_in_fan_out: bool = False) -> None:
    """A PEFT adapter folder: factors in safetensors, sorted JSON beside it. `scaling` is s, one for all or one a module;
    where modules differ in rank or in lora_alpha = s x rank, PEFT's patterns say so."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rank = {path: pair.A.shape[0] for path, pair in lora.items()}
    alpha = {path: rank[path] * (scaling[path] if isinstance(scaling, dict) else scaling) for path in lora}
    r, lora_alpha = (max(values, key=values.count) for values in (list(rank.values()), list(alpha.values())))
    config = LoraConfig(r=r, lora_alpha=lora_alpha, target_modules=target_modules, task_type="CAUSAL_LM", inference_mode=True,
                        base_model_name_or_path=base_name or None, fan_in_fan_out=fan_in_fan_out,
                        rank_pattern={path: value for path, value in rank.items() if value != r},
                        alpha_pattern={path: value for path, value in alpha.items() if value != lora_alpha}).to_dict()
    tensors = {f"{PREFIX}{path}.lora_{factor}.weight": tensor.detach().cpu().contiguous()
               for path, pair in sorted(lora.items()) for factor, tensor in zip("AB", pair)}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True, default=sorted) + "\n")


def load_config(folder: str | Path) -> dict:
    """adapter_config.json of a PEFT LoRA adapter, as a dict."""
    file = Path(folder) / "adapter_config.json"
    if not os.path.exists(file):
        raise InputError(f"expected a PEFT adapter in {folder}, found no adapter_config.json there")
    config = json_of(file)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise InputError(f"expected a LoRA adapter in {folder}, found peft_type {found!r}")
    _check_config(config, file)
    return config


def _check_config(config: dict, file: Path) -> None:
    """That the values which the kit reads are of PEFT's kinds."""
    def number(value) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max

    targets, patterns = config.get("target_modules"), config.get("alpha_pattern") or {}
    told = {"lora_alpha": number(config.get("lora_alpha")), "lora_dropout": number(config.get("lora_dropout") or 0.0),
            "alpha_pattern": isinstance(patterns, dict) and all(map(number, patterns.values()))
            and all(_is_pattern(_pattern(key)) for key in patterns),
            "target_modules": isinstance(targets, str) or isinstance(targets, list) and all(isinstance(name, str) for name in targets),
            "base_model_name_or_path": isinstance(config.get("base_model_name_or_path") or "", str)}
    if odd := [key for key, fits in told.items() if not fits]:
        raise InputError(f"expected {odd[0]} in {file} as PEFT writes it, found {config.get(odd[0])!r:.80}")


def _pattern(key: str) -> str:
    """The regular expression in which PEFT looks a key of a pattern up."""
    return rf"(.*\.)?({key})$"


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def scaling_of(config: dict, path: str, rank: int) -> float:
    """s of one module of a saved adapter: alpha / r, or alpha / sqrt(r) with rsLoRA, patterns looked up as PEFT does."""
    patterns = config.get("alpha_pattern") or {}
    alpha = next((value for key, value in patterns.items() if re.match(_pattern(key), path)), config["lora_alpha"])
    return alpha / (rank ** 0.5 if config.get("use_rslora") else rank)


def unusual(config: dict) -> list[str]:
    """The settings of a saved adapter under which its product B A is not all of it, or not an update of the plain base."""
    plain = LoraConfig().to_dict()
    means_nothing = {"peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "r", "target_modules",
                     "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "use_rslora", "layers_to_transform",
                     "layers_pattern", "rank_pattern", "alpha_pattern", "auto_mapping", "peft_version", "ensure_weight_tying"}
    starts_plain = (True, False, "gaussian", "orthogonal", "eva")    # the others change the base's weights
    odd = [f"{key}={value!r}" for key, value in sorted(config.items())
           if key not in means_nothing | {"init_lora_weights"} and value and value != plain.get(key)]
    if config.get("init_lora_weights", True) not in starts_plain:
        odd.append(f"init_lora_weights={config['init_lora_weights']!r}")
    return odd


def load_adapter(folder: str | Path, device="cpu") -> Lora:
    """The factors of a saved PEFT LoRA adapter of linear layers, by module path. Copied out of the file's own memory: Windows renames
    no folder whose file is in use, and what is written over the file would change them."""
    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():
        raise InputError(f"expected adapter_model.safetensors in {folder}, found "
                         f"{', '.join(sorted(os.listdir(folder))[:5]) or 'nothing' if Path(folder).is_dir() else 'no such folder'}")
    try:
        tensors = load_file(file, device=str(device))
    except (SafetensorError, OSError) as error:
        raise InputError(f"expected a whole safetensors file at {file}, found a damaged one ({error})") from None
    if not tensors:
        raise InputError(f"expected lora_A and lora_B matrices in {file}, found none")
    factors: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        path, dot, factor = key.removesuffix(".weight").removeprefix(PREFIX).rpartition(".lora_")
        if not dot or factor not in ("A", "B") or tensor.dim() != 2:
            raise InputError(f"expected only lora_A and lora_B matrices of linear layers in {file}, "
                             f"found {key} of shape {tuple(tensor.shape)} and {tensor.dtype}: this kit cannot merge or wear it")
        if tensor.dtype not in DTYPES:
            able = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise InputError(f"expected {able} in {file}, found {tensor.dtype} in {key}: save it in one of these")
        if factor in factors.get(path, {}):
            raise InputError(f"expected each factor once in {file}, found lora_{factor} of {path} twice, the second time as {key}: "
                             "leave one of them")
        if not tensor.isfinite().all():
            raise InputError(f"expected finite numbers in {file}, found NaN or infinity in {key}: train it again, more slowly")
        factors.setdefault(path, {})[factor] = tensor
    for path, pair in factors.items():
        if set(pair) != {"A", "B"} or pair["A"].shape[0] != pair["B"].shape[1] or not all(map(torch.numel, pair.values())):
            shapes = {name: tuple(tensor.shape) for name, tensor in pair.items()}
            raise InputError(f"expected factors A (r, d_in) and B (d_out, r) for {path} in {file}, found {shapes}")
    return {path: Pair(pair["A"].clone(), pair["B"].clone()) for path, pair in sorted(factors.items())}
