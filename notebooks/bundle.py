"""Packs the kit into one file that can be carried and opened without the network.

    python notebooks/bundle.py [FILE]        by default dist/mbf-kit.zip; the same tree gives the same bytes

In it: the package with its bases, the notebooks with their sources, learners' copies and committed runs, the tables and
pictures of figures/, and the pages. In Colab, or anywhere a notebook lies alone, put the file beside the notebook: its set-up cell unpacks it. At home,
unpack it and open the notebooks inside.
"""
from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOP = ("LICENSE", "README.md", "pyproject.toml", "constraints.txt", "constraints-colab.txt", "environment.yml", "Makefile",
       "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md")
INSIDE = {"mbf_utils": (".py", ".json", ".csv", ".safetensors"), "figures": (".csv", ".png"),
          "notebooks": (".ipynb", ".py", ".md", ".csv", ".json", ".jsonl", ".safetensors")}
DATE = (1980, 1, 1, 0, 0, 0)                            # the earliest that a zip can say


def contents(root: Path = ROOT) -> list[Path]:
    """The files of the bundle, in order: no caches, nothing hidden, and no kit that lies beside a notebook."""
    found = [root / name for name in TOP if (root / name).is_file()]
    for folder, kinds in INSIDE.items():
        inside = [path.relative_to(root) for path in sorted((root / folder).rglob("*")) if path.suffix in kinds]
        found += [root / path for path in inside
                  if not any(part.startswith(".") or part in ("__pycache__", "mbf-kit") for part in path.parts)]
    return found


def pack(file: Path, root: Path = ROOT) -> Path:
    """Writes the bundle: nothing of this machine's clock, users or order of files goes into it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as bundle:
        for path in contents(root):
            entry = zipfile.ZipInfo(path.relative_to(root).as_posix(), DATE)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16                # a plain file, as Unix says it
            bundle.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return file


if __name__ == "__main__":
    made = pack(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist" / "mbf-kit.zip")
    print(f"{made}: {made.stat().st_size / 1e6:.1f} MB")
