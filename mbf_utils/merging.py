"""Saved PEFT adapters, in the order in which they were trained, into one: a method's `finish` replayed without data.

What a merge would get wrong is refused in one sentence: other bases, modules, ranks or scalings, DoRA and everything else
under which B A is not the whole update. And a method is only given adapters of its kind. SLAO averages B's, which means
something only while each B continues the last one; adapters trained apart have unrelated B's. So the kinship is measured:

    kinship(k) = <B_k-1, B_k> / (||B_k-1|| ||B_k||),  over all modules together

It is near 1 where adapter k was trained on from adapter k - 1, and near 0 where each began at B = 0. Below KIN they count
as independent.
"""
from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from .adapter_files import load_adapter, load_config, save_adapter, scaling_of, unusual
from .disk import new_folder
from .errors import InputError
from .lora import Lora, Pair, each
from .method import Method, Task
from .methods import METHODS, make_method

KIN = 0.5


def merge_adapters(paths, out, method="slao", **options) -> Path:
    """Merges the PEFT adapters in the folders `paths`, in the order trained, into the new PEFT adapter `out`.

    method: a name in METHODS whose card says what adapters it merges, or a Method; options: its hyper-parameters. Beside
    the adapter, merge.json says what was merged, how, and the kinship. Raises InputError for whatever it would get wrong.
    """
    paths, out = [Path(path) for path in paths], Path(out)
    method = make_method(method, **options)
    if not method.card.merges:
        able = [name for name, make in METHODS.items() if make().card.merges]
        raise InputError(f"expected a method that merges saved adapters without data ({', '.join(able)}), found {method.card.title}")
    if len(paths) < 2:
        raise InputError(f"expected at least two adapters to merge, found {len(paths)}")
    places = [path.resolve() for path in paths]
    if twice := next((path for path, place in zip(paths, places) if places.count(place) > 1), None):
        raise InputError(f"expected every adapter once, found {twice} given twice: leave one out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"expected a new or empty folder to write to, found {out} in use")
    configs = [load_config(path) for path in paths]
    loras = [load_adapter(path) for path in paths]
    base = _same_base(paths, configs)
    scaling = _same_shape(paths, configs, loras)
    kinship = [kin(earlier, later) for earlier, later in zip(loras, loras[1:])]
    _right_kind(method, kinship, len(loras))

    dtype = next(iter(loras[0].values())).B.dtype
    first = loras[0]
    sites = {path: (pair.A.shape[1], pair.B.shape[0]) for path, pair in first.items()}
    rank = max(pair.A.shape[0] for pair in first.values())
    for index, lora in enumerate(loras, 1):
        task = Task(index, paths[index - 1].name, [], rank, next(iter(scaling.values())), sites, 0, len(loras))
        merged = method.finish(cast(lora, torch.float32), task)
    some = configs[0].get("layers_to_transform") or configs[0].get("exclude_modules")     # then names mean more modules
    try:
        with new_folder(out) as temporary:
            save_adapter(cast(merged, dtype), temporary, scaling, sorted(first) if some else configs[0]["target_modules"], base,
                         configs[0].get("fan_in_fan_out", False))
            (temporary / "merge.json").write_text(json.dumps(
                {"method": repr(method), "adapters": [str(path) for path in paths], "kinship": kinship}, indent=2) + "\n")
    except (OSError, SafetensorError) as error:                      # safetensors reports a full disk in its own way
        raise InputError(f"expected to write {out}, found: {getattr(error, 'strerror', None) or error}") from error
    return out


def kin(earlier: Lora, later: Lora) -> float:
    """Cosine of the B's of two adapters over all modules together: near 1 if one continues the other, near 0 if not."""
    pairs = [(earlier[path].B.double(), later[path].B.double()) for path in earlier]
    dot, one, two = (sum(float((x * y).sum()) for x, y in some) for some in
                     (pairs, [(b, b) for b, _ in pairs], [(b, b) for _, b in pairs]))
    return dot / (one * two) ** 0.5 if one and two else 0.0


def first_weight(method: Method, count: int) -> float:
    """The weight of the first adapter's B in the merged one, found by merging scalars: 1, then zeros."""
    task = {"name": "", "train": [], "rank": 1, "scaling": 1.0, "sites": {"": (1, 1)}, "seed": 0, "total": count}
    fresh = replace(method)                         # without memory
    for i in range(1, count + 1):
        merged = fresh.finish({"": Pair(torch.ones(1, 1), torch.full((1, 1), float(i == 1)))}, Task(index=i, **task))
    return float(merged[""].B)


def cast(lora: Lora, dtype: torch.dtype) -> Lora:
    return each(lambda pair: Pair(pair.A.to(dtype), pair.B.to(dtype)), lora)


def _same_base(paths: list[Path], configs: list[dict]) -> str:
    names = [config.get("base_model_name_or_path") for config in configs]
    for path, config, name in zip(paths, configs, names):
        if odd := unusual(config):
            raise InputError(f"expected plain LoRA in {path}, found {', '.join(odd)}: merging B and A would get it wrong")
        if name and (other := next(n for n in names if n)) != name:
            raise InputError(f"expected adapters of one base model, found {other} and, in {path}, {name}")
    if not any(names):
        warnings.warn("none of the adapters names its base model: whether they belong to one base was not checked", stacklevel=3)
    return next((name for name in names if name), "")


def _same_shape(paths: list[Path], configs: list[dict], loras: list[Lora]) -> dict[str, float]:
    """s of every module; refuses adapters that differ in modules, shapes or s."""
    first, scalings = loras[0], []
    for path, config, lora in zip(paths, configs, loras):
        if lora.keys() != first.keys():
            raise InputError(f"expected the same adapted modules in every adapter, found in {path} a difference at "
                             f"{sorted(lora.keys() ^ first.keys())[0]}")
        for module, pair in lora.items():
            shapes = [tuple(pair.A.shape), tuple(pair.B.shape)]
            if shapes != (expected := [tuple(first[module].A.shape), tuple(first[module].B.shape)]):
                raise InputError(f"expected A and B of shapes {expected} at {module}, found {shapes} in {path}: ranks must agree")
        scalings.append({module: scaling_of(config, module, pair.A.shape[0]) for module, pair in lora.items()})
        if scalings[-1] != scalings[0]:
            module = next(module for module in lora if scalings[-1][module] != scalings[0][module])
            about = ["alpha / sqrt(r), rsLoRA" if c.get("use_rslora") else "alpha / r" for c in (configs[0], config)]
            raise InputError(f"expected one scaling for {module}, found {scalings[0][module]:g} ({about[0]}) in {paths[0]} and "
                             f"{scalings[-1][module]:g} ({about[1]}) in {path}: train with one rank, alpha and kind of scaling")
    return scalings[0]


def _right_kind(method: Method, kinship: list[float], count: int) -> None:
    lowest = min(kinship)
    kind = "descending" if lowest >= KIN else "independent"
    if method.card.merges != kind:
        able = [name for name, make in METHODS.items() if make().card.merges == kind]
        if kind == "independent":
            raise InputError(
                f"expected adapters each trained on from the one before, found independent ones (kinship {lowest:.2f}, below {KIN}): "
                f"{method.card.title} would merge unrelated factors and give the first a weight of {first_weight(method, count):.4f}; "
                f"for independent adapters: {', '.join(able)}")
        raise InputError(
            f"expected independent adapters, found each trained on from the one before (kinship {lowest:.2f} or more): "
            f"{method.card.title} would count the first ones again with every later one; for such adapters: {', '.join(able)}")
