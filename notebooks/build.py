"""Builds the notebooks from notebooks/src: executed with their outputs, and the learners' copies without solutions.

    python notebooks/build.py            builds those that are not fresh
    python notebooks/build.py 00 04      builds these, fresh or not
    python notebooks/build.py --runs 09  builds it, and stores the runs that its catch-up cells load (notebooks/runs/own_...)
    python notebooks/build.py --check    executes nothing; names those that are not fresh and exits with 1

A notebook is fresh if its metadata carries the digest of its source and of what it uses (uses.py): the package's modules that
it reaches, the base that it loads, the committed runs and tables that it names.
"""
from __future__ import annotations

import argparse
import ast
import hashlib
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError

from uses import used

HERE = Path(__file__).resolve().parent
# The repository's address stands here alone. This one is a placeholder: put the real one in its place, then `make notebooks`.
REPOSITORY = "https://github.com/OWNER/REPO"
# Goes before the import of every notebook's set-up cell, so that it is the same text in all.
SETUP = f'''\
import importlib.util, os, shutil, sys

REPOSITORY = "{REPOSITORY}"    # nothing is installed: the kit lies above, or in mbf-kit.zip, or is cloned
sys.path += map(os.path.abspath, ("..", "../..", "mbf-kit"))
if not importlib.util.find_spec("mbf_utils"):
    if os.path.exists("mbf-kit.zip"): shutil.unpack_archive("mbf-kit.zip", "mbf-kit")
    elif "/OWNER/" in REPOSITORY or os.system(f"git clone -q --depth 1 {{REPOSITORY}} mbf-kit"):
        sys.exit(f"There is no kit here and none at {{REPOSITORY}}: put mbf-kit.zip beside this notebook and run the cell again.")
    importlib.invalidate_caches()
'''
PLACEHOLDER = "# your turn"
DEAD_WIDGET = "(interactive: run this cell to use it)"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python",
                      "pygments_lexer": "ipython3"},
}


def sources() -> list[Path]:
    """The notebooks' sources, jupytext percent, in their order."""
    return sorted((HERE / "src").glob("[0-9][0-9]_*.py"))


def notebook_path(source: Path) -> Path:
    return HERE / f"{source.stem}.ipynb"


def exercise_path(source: Path) -> Path:
    return HERE / "exercises" / f"{source.stem}.ipynb"


def digest(source: Path) -> str:
    """sha256 over set-up cell, source and what the notebook uses, each with its name; line ends do not count in text."""
    total = hashlib.sha256(SETUP.encode())
    for path in (source, *used(source, HERE.parent)):
        content = path.read_bytes()
        if path.suffix != ".safetensors":
            content = content.replace(b"\r\n", b"\n")
        total.update(f"{path.relative_to(HERE.parent).as_posix()}\n{len(content)}\n".encode() + content)
    return total.hexdigest()


def read(source: Path) -> nbformat.NotebookNode:
    """The source as a notebook without outputs: fixed cell ids, fixed metadata; SETUP before the import of the set-up cell."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"c{number:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code" and "mbf.lessons.setup(" in cell.source:
            cell.source = SETUP + cell.source
    return notebook


def as_text(notebook: nbformat.NotebookNode) -> str:
    return nbformat.writes(notebook, version=4) + "\n"


def clean(cell: nbformat.NotebookNode) -> list:
    """Outputs worth keeping: no stderr, streams in one piece, a sentence in the place of a widget, no progress bars.

    The random ids of styled tables become the cell's, and addresses of objects go: equal runs give equal bytes.
    """
    kept = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
                continue
        elif WIDGET_VIEW in output.get("data", {}):
            if re.search(r"\d%\||it/s\]", output.data.get("text/plain", "")):
                continue
            output.data = nbformat.from_dict({"text/plain": DEAD_WIDGET})
        data = output.get("data", {})
        if "text/html" in data:
            data["text/html"] = re.sub(r"\bT_[0-9a-f]{5}(?![0-9a-f])", f"T_{cell.id}_{len(kept)}", data["text/html"])
        if "text/plain" in data:
            data["text/plain"] = re.sub(r" at 0x[0-9a-f]+>", ">", data["text/plain"])
        kept.append(output)
    return kept


def storing(notebook: nbformat.NotebookNode) -> str:
    """Code that stores a notebook's own runs under the names by which its catch-up cells load them."""
    loads = [re.fullmatch(r'(\w+) = mbf\.lessons\.committed\("(own_\w+)"\)', line) for cell in notebook.cells
             if "skip-execution" in cell.metadata.get("tags", []) for line in cell.source.splitlines()]
    return "import shutil\n" + "".join(f"""\
shutil.rmtree({str(HERE / "runs" / load[2])!r}, ignore_errors=True)
shutil.copytree({load[1]}.folder, {str(HERE / "runs" / load[2])!r}, ignore=shutil.ignore_patterns(".*"))
""" for load in loads if load)


def execute(source: Path, store: bool = False) -> str:
    """The executed notebook as text. store: its own runs into notebooks/runs too."""
    notebook, built_from = read(source), digest(source)
    if store:
        notebook.cells.append(nbformat.v4.new_code_cell(storing(notebook)))
    NotebookClient(notebook, kernel_name="python3", startup_timeout=300, timeout=900, record_timing=False,
                   store_widget_state=False, extra_arguments=["--log-level=40"],
                   resources={"metadata": {"path": str(HERE)}}).execute()
    if store:
        notebook.cells.pop()
        built_from = digest(source)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = clean(cell)
    notebook.metadata = nbformat.from_dict(METADATA | {"mbf": {"source": built_from}})
    return as_text(notebook)


def blank(solution: str, check: str) -> str:
    """What stands in a solution's place: the names that the check asks for, still to be given a value."""
    given = {target.id for node in ast.parse(solution).body if isinstance(node, ast.Assign)
             for target in ast.walk(ast.Tuple(node.targets, ast.Load())) if isinstance(target, ast.Name)}
    asked = {node.id: None for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Name) and node.id in given}
    return "\n".join(f"{name} = ..." for name in asked) + "   " * bool(asked) + PLACEHOLDER


def exercises(source: Path) -> str | None:
    """The learners' copy as text: not executed, cells tagged `solution` emptied; None where there is no such cell."""
    notebook = read(source)
    solutions = [cell for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])]
    for cell, check in zip(notebook.cells, notebook.cells[1:]):
        if cell in solutions:
            cell.source = blank(cell.source, check.source)
            del cell.metadata["tags"]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":                             # pages lie a folder above, learners' copies side by side
            cell.source = re.sub(r"\]\((\w+\.md)\)", r"](../\1)", cell.source)
    return as_text(notebook) if solutions else None


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    os.replace(unfinished, path)


def build(source: Path, store: bool = False) -> str | None:
    """Executes and writes one notebook and its learners' copy; returns what went wrong, having written nothing."""
    try:
        text = execute(source, store)
    except (CellExecutionError, CellControlSignal, RuntimeError) as error:
        return f"{source.name}: {error}"
    write(notebook_path(source), text)
    copy = exercises(source)
    if copy is None:
        exercise_path(source).unlink(missing_ok=True)
    else:
        write(exercise_path(source), copy)
    return None


def stale(source: Path) -> str | None:
    """Why a notebook is not fresh, or None."""
    path, copy = notebook_path(source), exercise_path(source)
    if not path.exists():
        return "not built"
    if nbformat.read(path, as_version=4).metadata.get("mbf", {}).get("source") != digest(source):
        return "its source or something that it uses changed"
    if (copy.read_text(encoding="utf-8") if copy.exists() else None) != exercises(source):
        return "the learners' copy differs"
    return None


def check() -> int:
    """Names what is not fresh, and notebooks that no source makes; 1 if there are any."""
    problems = {source.stem: reason for source in sources() if (reason := stale(source))}
    made = {source.stem for source in sources()}
    for path in [*sorted(HERE.glob("*.ipynb")), *sorted((HERE / "exercises").glob("*.ipynb"))]:
        if path.stem not in made:
            problems[path.relative_to(HERE).as_posix()] = "has no source"
    for name, reason in problems.items():
        print(f"{name}: {reason}", file=sys.stderr)
    return 1 if problems else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", metavar="NN", help="notebooks to build, by number")
    parser.add_argument("--runs", action="store_true", help="also store the runs that catch-up cells load")
    parser.add_argument("--check", action="store_true", help="compare digests only")
    chosen = parser.parse_args(arguments)
    if chosen.check:
        return check()
    unknown = set(chosen.numbers) - {source.name[:2] for source in sources()}
    if unknown:
        parser.error(f"no notebook numbered {', '.join(sorted(unknown))} in {HERE / 'src'}")
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0",
                   "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))}
    wanted = [source for source in sources() if (source.name[:2] in chosen.numbers if chosen.numbers else stale(source))]
    failed = False
    with ThreadPoolExecutor(max_workers=2) as workers:
        for source, problem in zip(wanted, workers.map(partial(build, store=chosen.runs), wanted)):
            print(problem or f"built {source.stem}", file=sys.stderr if problem else sys.stdout, flush=True)
            failed = failed or bool(problem)
    if not wanted:
        print("all notebooks are fresh")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
