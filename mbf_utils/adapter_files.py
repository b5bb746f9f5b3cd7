"""PEFT adapters on disk: written whole and sorted, read with every doubt said.

PEFT's configurations hold sets, so they are written sorted. A pair of another rank than the configured one keeps s = alpha / r
(lora_alpha = s x rank on disk).
"""
from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import InputError
from .lora import Lora, Pair
from .rows import json_of

PREFIX = "base_model.model."
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)            # of factors that are read


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
            and all(is_pattern(_pattern(key)) for key in patterns),
            "target_modules": isinstance(targets, str) or isinstance(targets, list) and all(isinstance(name, str) for name in targets),
            "base_model_name_or_path": isinstance(config.get("base_model_name_or_path") or "", str)}
    if odd := [key for key, fits in told.items() if not fits]:
        raise InputError(f"expected {odd[0]} in {file} as PEFT writes it, found {config.get(odd[0])!r:.80}")


def _pattern(key: str) -> str:
    """The regular expression in which PEFT looks a key of a pattern up."""
    return rf"(.*\.)?({key})$"


def is_pattern(text: str) -> bool:
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


def plain_adapter(folder: str | Path) -> tuple[dict, Lora, int, float]:
    """(configuration, factors, r, s) of a saved adapter that is plain LoRA of one rank and scaling everywhere."""
    config, lora = load_config(folder), load_adapter(folder)
    shapes = {(pair.A.shape[0], scaling_of(config, module, pair.A.shape[0])) for module, pair in lora.items()}
    if (odd := unusual(config)) or len(shapes) != 1:
        raise InputError(f"expected plain LoRA of one rank and scaling in {folder}, found {', '.join(odd) or f'{len(shapes)} of them'}")
    (rank, s), = shapes
    return config, lora, rank, s
