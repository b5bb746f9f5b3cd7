"""Nested values as JSON and tensors, without pickle: what a method remembers, and what a checkpoint holds."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .errors import InputError
from .lora import Pair
from .rows import json_of


def pack(value: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A nested value of dicts with string keys, lists, tuples, Pairs, strings, numbers and tensors as JSON and tensors.

    A tensor that occurs twice is stored once (SLAO's merged A is its last A) and comes back as one tensor.
    """
    tensors: dict[str, torch.Tensor] = {}
    seen: dict[tuple, str] = {}

    def walk(value, name):
        if isinstance(value, torch.Tensor):
            value = value.detach()
            key = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else (len(seen),)
            if key not in seen:
                while name in tensors:                               # the keys "a.b" and "a", "b" are two places of one name
                    name += "_"
                seen[key] = name
                tensors[name] = value.to("cpu", copy=True, memory_format=torch.contiguous_format)
            return {"tensor": seen[key]}
        if isinstance(value, Pair):
            return {"pair": [walk(value.A, f"{name}.A"), walk(value.B, f"{name}.B")]}
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise TypeError(f"memory holds a dict with a key that is no string at {name}: {list(value)[:3]}")
            return {"dict": {key: walk(item, f"{name}.{key}" if name else key) for key, item in value.items()}}
        if isinstance(value, (list, tuple)):
            if type(value) not in (list, tuple):
                raise TypeError(f"memory holds a {type(value).__name__} at {name}: a plain tuple or list comes back as it was")
            return {type(value).__name__: [walk(item, f"{name}.{i}") for i, item in enumerate(value)]}
        if value is None or isinstance(value, (str, bool, int, float)):
            return value
        raise TypeError(f"memory holds a {type(value).__name__} at {name}: only tensors, Pairs, lists, dicts, strings and numbers last")

    return walk(value, ""), tensors


def unpack(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The value that `pack` took apart."""
    if not isinstance(tree, dict):
        return tree
    (kind, inside), = tree.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in inside.items()}
    items = [unpack(item, tensors) for item in inside]
    return Pair(*items) if kind == "pair" else tuple(items) if kind == "tuple" else items


def save_value(value: Any, stem: Path) -> None:
    """Writes STEM.safetensors and STEM.json."""
    tree, tensors = pack(value)
    save_file(tensors, stem.with_suffix(".safetensors"))
    stem.with_suffix(".json").write_text(json.dumps(tree, indent=1))


def load_value(stem: Path, device="cpu") -> Any:
    """The value that `save_value` wrote. Copied out of the file's own memory: a matrix product may differ by alignment."""
    file = stem.with_suffix(".safetensors")
    try:
        tree = json_of(stem.with_suffix(".json"))
        if not file.is_file():                      # a pipe would be waited for
            raise FileNotFoundError(f"no file {file.name}")
        return unpack(tree, {name: tensor.clone() for name, tensor in load_file(file, device=str(device)).items()})
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"expected whole files {stem}.safetensors and .json, as the kit wrote them, found missing or damaged ones "
                         f"({brief(error)}): learn into another folder, or bring them back from a copy") from None


def brief(error: Exception) -> str:
    """An error of a library in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
