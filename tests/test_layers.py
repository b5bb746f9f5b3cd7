"""The architecture: which module may import which, and where the big libraries are let in. Imports inside functions count."""
import ast
from pathlib import Path

import pytest

from mbf_utils.methods import METHODS

PACKAGE = Path(__file__).resolve().parent.parent / "mbf_utils"
LAYERS = {
    0: "errors lora subspaces metrics streams words corpus rows disk prompts rouge guards fields folded last_layer",
    1: "world published folders tables hub text adapter_files adapters geometry theory updates sharding goals",
    2: "sources models method scores settings documents chats",
    3: "methods probe",
    4: "training evaluation store costs titles loops callback versions packing checks",
    5: "presets results runs abreast cells reports comparison reproduce search merging continual pretrain anatomy lives "
       "contract beliefs remerge similarity cluster serving findings",
    6: "plots looks plots_views plots_merge plots_similarity plots_results plots_geometry plots_pairs plots_explore "
       "plots_example plots_bench",
    7: "widgets explorers explorers_tasks lessons printing commands cli bench explorers_views",
    8: "__main__",
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names.split()}
# what neighbours in one layer may take from each other
NEIGHBOURS = {
    "settings": {"scores"},
    "models": {"settings"},
    "reproduce": {"comparison", "presets", "results"},
    "lora": {"errors", "subspaces"},
    "subspaces": {"errors"},
    "metrics": {"errors"},
    "streams": {"errors"},
    "fields": {"errors"},
    "words": {"errors"},
    "corpus": {"words"},
    "disk": {"errors", "rows"},
    "adapters": {"adapter_files"},
    "callback": {"loops"},
    "rows": {"errors", "streams"},
    "prompts": {"errors", "streams"},
    "theory": {"geometry"},
    "updates": {"geometry"},
    "runs": {"results"},
    "reports": {"results"},
    "anatomy": {"results"},
    "abreast": {"runs"},
    "cells": {"abreast", "runs"},
    "comparison": {"cells", "cluster", "reports", "results", "runs"},
    "search": {"comparison", "reports"},
    "costs": {"store"},
    "plots": {"looks"},
    "plots_results": {"looks", "plots"},
    "plots_geometry": {"looks", "plots"},
    "plots_explore": {"looks", "plots", "plots_geometry"},
    "plots_views": {"looks", "plots"},
    "plots_merge": {"looks", "plots", "plots_geometry"},
    "plots_similarity": {"looks", "plots", "plots_merge"},
    "plots_pairs": {"looks", "plots", "plots_geometry"},
    "plots_example": {"looks", "plots", "plots_explore"},
    "contract": {"lives"},
    "continual": {"runs"},
    "versions": {"packing", "store"},
    "beliefs": {"results", "runs"},
    "remerge": {"anatomy", "results", "runs"},
    "explorers": {"widgets"},
    "explorers_tasks": {"widgets"},
    "lessons": {"widgets"},
    "cli": {"commands"},
    "commands": {"bench", "printing"},
    "guards": {"errors"},
    "store": {"packing"},
    "sharding": {"adapters"},
    "checks": {"loops"},
    "findings": {"reports"},
    "explorers_views": {"explorers", "widgets"},
    "plots_bench": {"looks", "plots"},
    "bench": {"explorers", "explorers_tasks", "explorers_views", "lessons", "widgets"},
}
ONLY_IN = {"peft": {"adapters", "adapter_files", "folded"}, "matplotlib": {"plots"}, "seaborn": {"plots"}, "ipywidgets": {"widgets"}}

FILES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports(name: str) -> set[str]:
    """Every dotted name a file imports, absolute: mbf_utils.lora, torch.nn."""
    found, here = set(), ["mbf_utils", *name.split("/")[:-1]]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = here[:len(here) - node.level + 1] if node.level else []
            module = ".".join([*start, *(node.module or "").split(".")]).strip(".")
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "mbf_utils" else {module}
    return found


def own(name: str) -> set[str]:
    """The package's modules that a file imports; `methods` stands for all files of that folder."""
    modules = {other.split("/")[0] for other in FILES}
    return {dotted.split(".")[1] for dotted in imports(name) if dotted.startswith("mbf_utils.")} & modules


@pytest.mark.parametrize("name", [name for name in FILES if name != "__init__"])
def test_a_module_imports_only_from_layers_below(name):
    module = name.split("/")[0]
    assert module in LAYER, f"{module} has no place in the table of layers"
    allowed = {other for other in LAYER if LAYER[other] < LAYER[module]} | NEIGHBOURS.get(module, set())
    if module in ("methods", "bench"):
        allowed.add(module)                                             # a variant may build on another method's file
    assert own(name) <= allowed


def test_the_face_is_lazy():
    assert imports("__init__") == {"importlib"}


@pytest.mark.parametrize("library", ONLY_IN)
def test_big_libraries_have_one_door(library):
    users = {name for name in FILES if any(dotted.split(".")[0] == library for dotted in imports(name))}
    assert users <= ONLY_IN[library]


@pytest.mark.parametrize("name", FILES)
def test_a_module_is_short_and_says_what_it_is(name):
    assert FILES[name].stem not in {"utils", "misc", "base", "common"}
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 300
    assert ast.get_docstring(TREES[name]) or name == "__main__"


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("methods/")])
def test_nobody_asks_which_method_it_is(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, (ast.Compare, ast.MatchValue)):
            constants = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
            assert not any(isinstance(value, str) and value in METHODS for value in constants), f"line {node.lineno}"
