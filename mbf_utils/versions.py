"""Versions of one adapter that goes on learning, and the folder that holds them.

    adapter_model.safetensors, adapter_config.json      the latest, a plain PEFT adapter
    memory.safetensors, memory.json                     what the method remembers
    continual.json                                      the base, the LoRA, the method, the names of the tasks
    versions/002-name/                                  earlier versions: adapter and memory of each

A folder is written whole beside the old one and takes its place by a rename. A kill between two renames leaves the old one
under another name; whoever opens the folder next puts it back.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from reprlib import repr as brief
from typing import Any, Callable, NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn

from .adapter_files import load_adapter, load_config, scaling_of
from .adapters import Adapted
from .disk import commit, sync
from .errors import InputError
from .lora import Lora
from .method import Method
from .rows import json_of
from .settings import Settings
from .store import load_value, pack, safe, save_value, unpack

OURS = ("adapter_model.safetensors", "adapter_config.json", "memory.safetensors", "memory.json", "continual.json", "versions")


class Version(NamedTuple):
    """The adapter after a task."""
    names: list[str]                                # of all tasks so far
    result: Lora                                    # on the CPU
    memory: tuple                                   # packed: (JSON, tensors on the CPU)


def write_versions(path: str | Path, versions: list[Version], config: dict, adapted: Adapted) -> Path:
    """The folder `path`, new or instead of what an earlier call wrote there. Other files that lie in it stay."""
    path = Path(path).absolute()
    temporary, old = _recovered(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir()) and not (path / "continual.json").is_file()):
        raise InputError(f"expected a new or empty folder or one that save() wrote, found {path} in use: choose another")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        for version in versions:
            folder = temporary if version is versions[-1] else temporary / "versions" / _folder(version.names)
            adapted.save(version.result, folder)
            save_value(unpack(*version.memory), folder / "memory")
        names = [version.names for version in versions]
        (temporary / "continual.json").write_text(json.dumps(config | {"versions": names}, indent=2) + "\n", encoding="utf-8")
        for other in path.iterdir() if path.exists() else ():
            if other.name not in OURS:
                (shutil.copytree if other.is_dir() else shutil.copy2)(other, temporary / other.name)
        if path.exists():
            os.replace(path, old)
        commit(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _recovered(path)
        found = getattr(error, "strerror", None) or error
        raise InputError(f"expected to write {path}, found: {found}; what was there is kept") from error
    return path


def read_versions(path: str | Path) -> tuple[dict, Callable[[], list[Version]]]:
    """What continual.json says, and a function that reads the versions, the latest last."""
    path = Path(path).absolute()
    _recovered(path)
    if not os.path.isfile(file := path / "continual.json"):
        raise InputError(f"expected a folder that Continual.save wrote at {path}, found no continual.json to read there: for "
                         "another PEFT adapter use Continual.from_adapter")
    config = _checked(json_of(file), file)
    *earlier, last = config["versions"]

    def read() -> list[Version]:
        versions = [*(_read(path / "versions" / _folder(names), names) for names in earlier), _read(path, last)]
        _check_scaling(path, versions[-1].result, Settings(**config["lora"]))
        return versions

    return config, read


def base_of(model: nn.Module) -> dict[str, str]:
    """What names a base. The same weights in another type are another base: their values differ."""
    if any(".lora_A." in name for name, _ in model.named_parameters()):
        raise InputError("expected a base model without adapters, found one that wears some: load it anew")
    return {"name": getattr(model, "name_or_path", "") or "", "dtype": str(next(model.parameters()).dtype)}


def weights_hash(base: nn.Module) -> str:
    """SHA-256 over name, type, shape and all bytes of every parameter of a base, adapted or not: one changed weight is another
    hash, and the same weights have the same hash on the CPU and on a card. At most eight threads, a tensor each: some ten seconds
    for 7 billion parameters (14 GB at 0.4 GB a second and thread), not measured."""
    def one(item: tuple[str, nn.Parameter]) -> bytes:
        name, parameter = item
        digest = hashlib.sha256(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.digest()

    own = [(name.replace(".base_layer.", "."), parameter) for name, parameter in base.named_parameters() if ".lora_" not in name]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return hashlib.sha256(b"".join(pool.map(one, own))).hexdigest()


def settings_of(method: Method) -> dict[str, Any]:
    """A method's settings as JSON has them; a function as its first values."""
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}
    return json.loads(json.dumps({key: {"values": [value(i) for i in range(1, 9)]} if callable(value) else value
                                  for key, value in fields.items()}))


def _checked(config: Any, file: Path) -> dict:
    """What continual.json holds, if all that a load reads is there and of its kind; Settings and the method check their own."""
    found = config if isinstance(config, dict) else {}
    base, lora, method, versions = (found.get(key) for key in ("base", "lora", "method", "versions"))
    hashed = ("name", "dtype", "sha256" if "sha256" in (base or ()) else "fingerprint") if isinstance(base, dict) else ()
    told = {"base": bool(hashed) and all(isinstance(base.get(key), str) for key in hashed),
            "lora": isinstance(lora, dict) and set(lora) == {"targets", "rank", "alpha", "dropout"},
            "method": isinstance(method, dict) and isinstance(method.get("name"), str) and isinstance(method.get("settings"), dict),
            **{key: type(found.get(key)) is int for key in ("seed", "keep", "batch_size")},
            "versions": isinstance(versions, list) and bool(versions) and all(
                isinstance(names, list) and names and all(isinstance(name, str) for name in names) for names in versions)}
    if odd := [key for key, fits in told.items() if not fits]:
        raise InputError(f"expected {odd[0]} in {file} as Continual.save writes it, found {brief(found.get(odd[0]))}: bring it "
                         "back from a copy")
    return config


def _check_scaling(path: Path, lora: Lora, told: Settings) -> None:
    saved = load_config(path)
    for module, pair in lora.items():
        if not math.isclose(found := scaling_of(saved, module, pair.A.shape[0]), told.alpha / told.rank):
            raise InputError(f"expected the scaling {told.alpha:g} / {told.rank} of continual.json (alpha / rank) at {module} "
                             f"in {path}, found {found:g}: the adapter is another's, bring both back from a copy")


def _folder(names: list[str]) -> str:
    return f"{len(names):03d}-{safe(names[-1])}"


def _read(folder: Path, names: list[str]) -> Version:
    lora = load_adapter(folder)                     # says what is wrong with a damaged one
    try:
        return Version(names, lora, pack(load_value(folder / "memory")))
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
        raise InputError(f"expected what the method remembers in {folder}, found a damaged or missing file ({error})") from None


def _recovered(path: Path) -> tuple[Path, Path]:
    """Where a save writes, and where it puts the folder that it replaces; one killed in between left only the latter."""
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        os.replace(old, path)
        sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)
    return temporary, old
