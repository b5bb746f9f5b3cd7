"""Re-makes the tables and figures of this folder in a copy of the tree and says which of the committed ones differ.

    python figures/check.py [--keep FOLDER] [SCRIPT ...]      some of this folder's scripts; by default all that make something of
                                                              it: search.sh (settings), make.sh (runs, tables), pictures.sh

bench.csv and bench-gpu.csv with their pictures are measured times: `mbf bench` takes them anew, and they are not the same twice.
Nothing in this folder changes. A table is *equal* (the same bytes), *within N* (the same rows, no number further apart than N, and no
score more than a point; times and memory aside) or *other*; a picture is equal or differs. On another processor or with another torch, "within" is what to expect. The runs of an earlier
check are resumed where --keep names its folder. Exits with 1 where something is missing or other.
"""
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
POINTS = 1.0                                            # what another machine may change (tests/test_repeat.py)
COSTS = ("seconds_train", "seconds_evaluate", "peak_memory_mb", "peak_gpu_mb")       # measured anew, never the same
COPIED = ("mbf_utils", "figures", "notebooks", "pyproject.toml")


def copy_tree(to: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, to / name)
    environment = Path(sys.prefix)
    if not (to / ".venv").exists():
        (to / ".venv").symlink_to(environment, target_is_directory=True)         # make.sh looks for the command there


def apart(one: Path, other: Path) -> str:
    """How a re-made file differs from the committed one, in a word or two."""
    if one.read_bytes() == other.read_bytes():
        return "equal"
    if one.suffix != ".csv":
        return "differs"
    first, second = pd.read_csv(one), pd.read_csv(other)
    if list(first.columns) != list(second.columns) or len(first) != len(second):
        return f"other: {len(first)} rows, {len(second)} committed" if len(first) != len(second) else "other: columns"
    numbers = first.select_dtypes("number").columns
    texts = [column for column in first if column not in numbers or column not in second.select_dtypes("number").columns]
    if texts and not first[texts].astype(str).equals(second[texts].astype(str)):
        wrong = [column for column in texts if not first[column].astype(str).equals(second[column].astype(str))]
        return f"other: {', '.join(wrong)}"
    if not first[numbers].isna().equals(second[numbers].isna()):
        return "other: numbers where the other has none"
    most = (first[numbers] - second[numbers]).abs().max()
    far = [column for column in numbers if most[column] > (POINTS if column not in COSTS else float("inf"))]
    return f"other: {', '.join(far)} up to {most[far].max():.4g} apart" if far else f"within {most.max():.4g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", nargs="*", default=["search.sh", "make.sh", "pictures.sh"])
    parser.add_argument("--keep", help="folder of the copy; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(arguments.keep or temporary).absolute()
        tree.mkdir(parents=True, exist_ok=True)
        copy_tree(tree)
        made = tree / "figures"
        committed = [path for path in sorted(HERE.iterdir()) if path.suffix in (".csv", ".png")]
        before = {path.name: (made / path.name).stat().st_mtime_ns for path in committed}
        for script in arguments.scripts:
            runner = [sys.executable] if script.endswith(".py") else ["bash"]
            subprocess.run([*runner, str(made / script)], cwd=tree, check=True, env=os.environ | {"PYTHONPATH": str(tree)})
        found = {path.name: "not re-made here" if not (made / path.name).exists() or (made / path.name).stat().st_mtime_ns == before[path.name]
                 else apart(made / path.name, path) for path in committed}
        found |= {path.name: "new" for path in made.iterdir() if path.suffix in (".csv", ".png") and path.name not in found}
    for name, how in found.items():
        print(f"{how:24} {name}")
    if left := [name for name, how in found.items() if how.startswith("not")]:
        print(f"\n{len(left)} of {len(found)} were not re-made: {', '.join(left)}")
    return 1 if any(how.startswith(("other", "new")) for how in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
