"""What a notebook uses, read off its source without running anything: modules of the package, bases, committed runs, tables.

A name after `mbf.` is a module or leads to one through the package's lazy face; from there on the modules' own imports count,
those inside functions too. `methods` is one module, all its files. The face itself does not count: what it leads to does.
"""
from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

NAME = "mbf_utils"
READERS = {"committed": "notebooks/runs/{}", "pool": "notebooks/{}", "measured": "figures/{}-matrices.csv",
           "scores": "figures/{}-matrices.csv", "table": "figures/{}.csv", "runs_of": "figures/{}-runs.csv",
           "results": "figures/{}-runs.csv", "matrices_of": "figures/{}-matrices.csv", "first_measured": "figures/{}-matrices.csv"}                  # functions of lessons
MAGIC = re.compile(r"^(\s*)[!%].*$", re.MULTILINE)


def used(source: Path, root: Path) -> list[Path]:
    """The files, sorted, on which the outputs of a notebook depend, beside its source. root: the repository."""
    package, text = root / NAME, source.read_text(encoding="utf-8")
    tree = parsed(MAGIC.sub(r"\1pass", text))
    modules = reached(named(tree) | ({"cli"} if re.search(r"!\s*mbf\b", text) else set()), package)
    code = {file: parsed(file.read_text(encoding="utf-8")) for module in modules for file in files_of(module, package)}
    data = [file for kind in ("*.json", "*.csv") for file in package.glob(kind)]
    found = {*code, *(file for file in data if any(file.name in strings(other) for other in code.values()))}
    if "models" in modules:                                              # "tiny" is what every function loads by default
        found |= {file for file in (package / "bases").glob("*/*") if file.parent.name in {"tiny", *strings(tree)}}
    found |= runs_and_tables([tree, *(other for other in code.values() if "committed" in map(last_name, calls(other)))], root)
    return sorted(file for file in found if file.is_file() and file.name != ".lock")


def reached(names: set[str], package: Path) -> set[str]:
    """The modules that these names of the package lead to, and all that those import."""
    known = {file.stem for file in package.glob("*.py")} | {file.parent.name for file in package.glob("*/__init__.py")}
    face = next((ast.literal_eval(node.value) for node in parsed((package / "__init__.py").read_text(encoding="utf-8")).body
                 if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_FACE"), {})
    found, new = set(), names
    while new := {face.get(name, name) for name in new} & known - {"__init__"} - found:
        found |= new
        files = [file for module in new for file in files_of(module, package)]
        new = set().union(*(named(parsed(file.read_text(encoding="utf-8"))) for file in files))
    return found


@lru_cache(maxsize=None)
def named(tree: ast.Module) -> set[str]:
    """The first names after the package: mbf.lora.each, from mbf_utils.lora import each, from .lora import each all give lora."""
    found, called = set(), {NAME}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.split(".")[0] == NAME]
            called |= {alias.asname for alias in ours if alias.asname and alias.name == NAME}
            found |= {alias.name.split(".")[1] for alias in ours if "." in alias.name}
        elif isinstance(node, ast.ImportFrom):                           # dots, one or more, stand for the package
            parts = [*([NAME] if node.level else []), *(node.module or "").split(".")]
            inside = [part for part in parts[1:] if part] or [alias.name for alias in node.names]
            found |= set(inside) if parts[0] == NAME else set()
    return found | {node.attr for node in ast.walk(tree)
                    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in called}


def runs_and_tables(trees: list[ast.Module], root: Path) -> set[Path]:
    """Files of runs and tables that code names (the notebook first): by path, or in a call of lessons that reads them."""
    words, notebooks, figures = set().union(*map(strings, trees)), root / "notebooks", root / "figures"
    for pattern in {word for word in words if re.fullmatch(r"[^*/]*[*][^*/]*[.]csv", word)}:  # what it stands for are names too
        tail = pattern.partition("*")[2]
        words |= {name for file in figures.glob(pattern) for name in (file.name, file.name.removesuffix(tail))}
    found = [notebooks / word for word in words if word.startswith("runs/")]
    tables = [word for word in words if word.endswith((".csv", ".json", ".jsonl"))]
    found += [start / word for start in (root, notebooks, figures) for word in tables]
    for node in [node for tree in trees for node in calls(tree)]:
        if last_name(node) in READERS and node.args:
            told = set().union(*map(strings, node.args)) if all(isinstance(arg, ast.Constant) for arg in node.args) else words
            named = [root / READERS[last_name(node)].format(word) for word in told if re.fullmatch(r"[\w-][\w.-]*", word)]
            named = [path for path in named if path.exists()]
            found += named if named or last_name(node) != "committed" else [notebooks / "runs"]      # a name put together: all
    return {file for path in found for file in (path.rglob("*") if path.is_dir() else [path])}


@lru_cache(maxsize=None)
def calls(tree: ast.Module) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def last_name(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


@lru_cache(maxsize=None)
def strings(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def files_of(module: str, package: Path) -> list[Path]:
    return sorted((package / module).glob("*.py")) or [package / f"{module}.py"]


@lru_cache(maxsize=None)                                             # one tree a text, so that what is found in it is kept too
def parsed(text: str) -> ast.Module:
    return ast.parse(text)
