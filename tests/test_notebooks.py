"""The build of the notebooks on a toy, then the committed notebooks: fresh, executed, small, free of this machine's paths."""
import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

import mbf_utils as mbf

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
BUILT = sorted(NOTEBOOKS.glob("*.ipynb"))
LEARNERS = sorted((NOTEBOOKS / "exercises").glob("*.ipynb"))
SOURCES = sorted((NOTEBOOKS / "src").glob("*.py"))
SET_UP = re.compile(r"import mbf_utils as mbf\n\nFAST = mbf\.lessons\.setup\(cpu_minutes=[\d.]+(, gpu_minutes=[\d.]+)?\)")
MINUTES = re.compile(r"^\| device \| machine minutes \| your minutes \|\n\|---\|---:\|---:\|\n((?:\|.*\|\n?)+)", re.MULTILINE)
LINK = re.compile(r"\]\(([^):#]+?)(?:#[^)]*)?\)")

TOY = '''\
# %% [markdown]
# # A toy
# %%
import os, sys
import toy_package
import mbf_utils.lora
print(toy_package.answer, os.environ["HF_HUB_OFFLINE"], os.environ["OMP_NUM_THREADS"])
print("a warning", file=sys.stderr)
print("more")
# %%
from ipywidgets import IntSlider
from tqdm.auto import tqdm
for _ in tqdm(range(3)):
    pass
IntSlider()
# %%
object()
# %% tags=["solution"]
mine = 6 * 7
# %%
assert mine == toy_package.answer   # check
'''


def build(root: Path, *arguments: str, fast: bool = False) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, root / "notebooks" / "build.py", *arguments], capture_output=True, text=True,
                          env=os.environ | {"MBF_FAST": str(int(fast))})


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def code(path: Path) -> list[dict]:
    return [cell for cell in cells(path) if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tagged(cell: dict, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", [])


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    (root / "notebooks" / "src").mkdir(parents=True)
    (root / "mbf_utils").mkdir()
    (root / "mbf_utils" / "__init__.py").write_text("")
    (root / "mbf_utils" / "lora.py").write_text("rank = 4\n")
    (root / "mbf_utils" / "world.py").write_text("tasks = 5\n")
    (root / "toy_package.py").write_text("answer = 42\n")
    (root / "notebooks" / "src" / "00_toy.py").write_text(TOY)
    for name in ("build.py", "uses.py"):
        shutil.copy(NOTEBOOKS / name, root / "notebooks")
    built = build(root)
    assert built.returncode == 0, built.stderr
    return root


def load(folder: Path):
    """The build script of a folder as a module."""
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("build", folder / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(folder))
    return module


@pytest.fixture(scope="module")
def builder(toy):
    return load(toy / "notebooks")


def test_the_build_executes_and_cleans(toy):
    first, bar, bare, *_ = code(toy / "notebooks" / "00_toy.ipynb")
    assert first["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["42 1 1\n", "more\n"]}]
    assert [output["data"] for output in bar["outputs"]] == [{"text/plain": ["(interactive: run this cell to use it)"]}]
    assert bare["outputs"][0]["data"]["text/plain"] == ["<object>"]
    notebook = json.loads((toy / "notebooks" / "00_toy.ipynb").read_text())
    assert [cell["id"] for cell in notebook["cells"]] == [f"c{n:02d}" for n in range(6)]
    assert set(notebook["metadata"]) == {"kernelspec", "language_info", "mbf"}
    assert all(set(cell["metadata"]) <= {"tags"} for cell in notebook["cells"])


def test_two_builds_are_the_same_bytes(toy):
    path = toy / "notebooks" / "00_toy.ipynb"
    before = path.read_bytes()
    assert build(toy).stdout == "all notebooks are fresh\n"
    assert build(toy, "00").stdout == "built 00_toy\n"
    assert path.read_bytes() == before
    assert not [*toy.rglob("*.unfinished")]


def test_the_learners_copy_has_no_solutions(toy):
    copy = code(toy / "notebooks" / "exercises" / "00_toy.ipynb")
    assert [source(cell) for cell in copy[-2:]] == ["mine = ...   # your turn", "assert mine == toy_package.answer   # check"]
    assert "6 * 7" in source(code(toy / "notebooks" / "00_toy.ipynb")[-2])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in copy)


@pytest.mark.parametrize("file, reason", [("notebooks/src/00_toy.py", "its source or something that it uses changed"),
                                          ("mbf_utils/lora.py", "its source or something that it uses changed"),
                                          ("notebooks/exercises/00_toy.ipynb", "the learners' copy differs")])
def test_a_change_makes_it_stale(toy, builder, capsys, file, reason):
    path = toy / file
    before = path.read_bytes()
    path.write_bytes(before.replace(b"\n", b"\r\n"))
    assert builder.check() == 0                                         # line ends do not count
    path.write_bytes(before + b"\n")
    assert builder.check() == 1
    path.write_bytes(before)
    assert capsys.readouterr().err == f"00_toy: {reason}\n"


def test_a_change_that_it_cannot_reach_leaves_it_fresh(toy, builder):
    path = toy / "mbf_utils" / "world.py"
    path.write_text("tasks = 15\n")
    assert builder.check() == 0


@pytest.mark.parametrize("pattern", ["bench*.csv", "*-runs.csv", "*.csv"])
def test_tables_that_are_named_by_a_pattern_count(builder, tmp_path, pattern):
    (tmp_path / "figures").mkdir()
    for name in ("bench.csv", "bench-gpu.csv", "world-runs.csv", "notes.txt"):
        (tmp_path / "figures" / name).write_text("a\n1\n")
    found = sys.modules[builder.used.__module__].runs_and_tables([ast.parse(f"files = folder.glob('{pattern}')")], tmp_path)
    assert {file.name for file in found} >= {file.name for file in (tmp_path / "figures").glob(pattern)} and "notes.txt" not in str(found)


def test_a_notebook_without_a_source_is_named(toy, builder, capsys):
    orphan = shutil.copy(toy / "notebooks" / "00_toy.ipynb", toy / "notebooks" / "07_old.ipynb")
    assert builder.check() == 1
    orphan.unlink()
    assert capsys.readouterr().err == "07_old.ipynb: has no source\n"


def test_the_check_is_a_command(toy):
    path = toy / "mbf_utils" / "lora.py"
    assert build(toy, "--check").returncode == 0
    path.write_text("rank = 8\n")
    checked = build(toy, "--check")
    path.write_text("rank = 4\n")
    assert (checked.returncode, checked.stdout) == (1, "")
    assert checked.stderr == "00_toy: its source or something that it uses changed\n"


def test_a_failing_cell_leaves_the_old_notebook(toy):
    path, notebook = toy / "notebooks" / "src" / "00_toy.py", toy / "notebooks" / "00_toy.ipynb"
    before = notebook.read_bytes()
    path.write_text(TOY + "# %%\nraise KeyError('the reason')\n")
    failed = build(toy)
    path.write_text(TOY)
    assert failed.returncode == 1 and "00_toy.py" in failed.stderr and "the reason" in failed.stderr
    assert notebook.read_bytes() == before


def test_an_unknown_number_is_refused(toy):
    assert build(toy, "99").returncode == 2


# ---- the committed notebooks


@pytest.fixture(scope="module")
def committed_builder():
    return load(NOTEBOOKS)


def test_the_notebooks_are_fresh():
    checked = build(ROOT, "--check")
    assert checked.returncode == 0, f"{checked.stderr}\nmake notebooks builds them"


def test_together_they_are_small():
    assert sum(path.stat().st_size for path in BUILT) < 3_500_000


@pytest.mark.parametrize("path", BUILT, ids=lambda path: path.stem)
def test_a_notebook_ran_from_top_to_bottom(path):
    ran = [cell for cell in code(path) if source(cell).strip() and not tagged(cell, "skip-execution")]
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    assert any(cell["outputs"] for cell in ran)
    assert not [output for cell in ran if not tagged(cell, "raises-exception") for output in cell["outputs"]
                if output["output_type"] == "error"]


@pytest.mark.parametrize("path", BUILT + LEARNERS, ids=lambda path: path.relative_to(NOTEBOOKS).as_posix())
def test_a_notebook_shows_anywhere(path):
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 500_000
    assert "widgets" not in json.loads(text)["metadata"]
    assert not re.search(r"pip install[^\"\n]*(-U|--upgrade)|pip install \"?torch", text)
    images = re.sub(r'"image/\w+": "[^"]*"', "", text)
    assert not re.search(r"(?<![\w.:/])/(home|root|Users|tmp|mnt|var|opt)/|[A-Z]:\\\\", images)
    assert str(ROOT) not in images and str(Path.home()) not in images


@pytest.mark.parametrize("path", BUILT, ids=lambda path: path.stem)
def test_every_exercise_has_its_check(path):
    following = code(path)[1:] + [{"source": []}]
    for cell, after in zip(code(path), following):
        assert not tagged(cell, "solution") or "check" in source(after), source(cell)


# ---- what every notebook has


def read(path: Path) -> tuple[list[str], list]:
    """(the texts of a source's markdown cells, its code cells)."""
    found = jupytext.read(path).cells
    return [cell.source for cell in found if cell.cell_type == "markdown"], [cell for cell in found if cell.cell_type == "code"]


def minutes(path: Path) -> dict[str, list[str]]:
    """The rows of the table of minutes at the top of a source: device -> [machine minutes, human minutes]."""
    table = MINUTES.search(read(path)[0][0])
    assert table, f"{path.name}: a table with the head | device | machine minutes | your minutes | is in the first cell"
    rows = [[field.strip() for field in row.strip("|").split("|")] for row in table.group(1).splitlines()]
    return {device: fields for device, *fields in rows}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_top_tells_goals_and_minutes_of_the_machine_and_of_the_reader(path):
    assert "**You will be able to**" in read(path)[0][0] and read(path)[0][0].startswith("# ")
    devices = minutes(path)
    for device in ("laptop, CPU", "Colab, T4"):
        (machine, human), = [fields for name, fields in devices.items() if name.startswith(device)]
        assert re.fullmatch(r"\d+|\d+ to \d+|not measured", machine) and human.isdigit(), device
    assert "not measured" not in next(fields[0] for name, fields in devices.items() if name.startswith("laptop, CPU"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_set_up_cell_is_the_same_in_all(path):
    assert SET_UP.fullmatch(read(path)[1][0].source)


@pytest.mark.parametrize("path", BUILT + LEARNERS, ids=lambda path: path.relative_to(NOTEBOOKS).as_posix())
def test_the_set_up_cell_is_built_from_one_text(path, committed_builder):
    first = source(code(path)[0])
    assert first.startswith(committed_builder.SETUP) and SET_UP.fullmatch(first.removeprefix(committed_builder.SETUP))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_asks_checks_and_leads_on(path):
    texts, codes = read(path)
    exercises = [int(number) for text in texts for number in re.findall(r"^## Exercise (\d+):", text, re.MULTILINE)]
    solutions = [cell for cell in codes if "solution" in cell.metadata.get("tags", [])]
    assert exercises in ([1, 2], [1, 2, 3]) and len(solutions) >= len(exercises)
    assert any("**Predict" in text for text in texts)
    assert any(link.endswith(".ipynb") and Path(link).stem != path.stem for link in LINK.findall(texts[-1]))


@pytest.mark.parametrize("path", [*SOURCES, *NOTEBOOKS.glob("*.md")], ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    text = "\n".join(read(path)[0]) if path.suffix == ".py" else path.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        made = NOTEBOOKS / "src" / f"{Path(link).stem}.py"
        assert (made if link.endswith(".ipynb") else NOTEBOOKS / link).exists(), link


@pytest.mark.parametrize("path", LEARNERS, ids=lambda path: path.stem)
def test_the_learners_copies_lead_to_the_pages_too(path):
    text = "\n".join(source(cell) for cell in cells(path) if cell["cell_type"] == "markdown")
    assert all((path.parent / link).exists() for link in LINK.findall(text) if not link.endswith(".ipynb"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_cells_are_short(path):
    for cell in read(path)[1]:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        defines = re.search(r"^(def|class) ", cell.source, re.MULTILINE)
        assert len(lines) <= (18 if defines else 12), cell.source


# Training cells without a twin of their own, and why
ALONE = {"01_lora_pairs": "the next cell draws the committed table", "03_slao_from_scratch": "two tasks, the reader's own rule is what is checked",
         "04_why_qr_why_sqrt": "the next cell merges the committed run anew", "06_the_field": "16 rows a task", "11_real_models": "two seconds"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_who_does_not_wait_for_training_can_catch_up(path):
    _, codes = read(path)
    trains = [cell for cell in codes if re.search(r"\b(run_stream|walk_stream|compare)\(", cell.source)
              and not {"solution", "skip-execution", "raises-exception"} & {*cell.metadata.get("tags", [])}]
    twins = {name for cell in codes if "skip-execution" in cell.metadata.get("tags", [])
             for name in re.findall(r"^(\w+) = mbf\.lessons\.committed\(", cell.source, re.MULTILINE)}
    alone = [cell.source for cell in trains if not twins & {*re.findall(r"^(\w+) = ", cell.source, re.MULTILINE)}]
    assert len(alone) <= (path.stem in ALONE) * 3 and bool(alone) == (path.stem in ALONE), alone


def test_the_notebooks_own_runs_are_stored_by_a_command():
    names = {path.stem: {*re.findall(r'committed\("(own_\w+)"\)', path.read_text(encoding="utf-8"))} for path in SOURCES}
    assert set().union(*names.values()) == {path.name for path in (NOTEBOOKS / "runs").glob("own_*")}
    for path in SOURCES:
        code = load(NOTEBOOKS).storing(jupytext.read(path))
        assert all(code.count(f"/{name}'") == 2 for name in names[path.stem]) and code.count("copytree") == len(names[path.stem])


@pytest.mark.parametrize("path", BUILT, ids=lambda path: path.stem)
def test_pictures_have_a_text_for_who_does_not_see_them(path):
    pictures = [output for cell in code(path) for output in cell["outputs"] if "image/png" in output.get("data", {})]
    assert pictures
    for output in pictures:
        assert len(output["metadata"].get("image/png", {}).get("alt", "")) > 20


def test_the_row_of_notebooks_is_the_table_of_the_readme():
    text = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    rows = [[field.strip() for field in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| [")]
    assert [name for name, *_ in rows] == [f"[{path.stem}]({path.stem}.ipynb)" for path in SOURCES]
    for path, (_, question, human, machine, _) in zip(SOURCES, rows):
        own = next(fields for device, fields in minutes(path).items() if device.startswith("laptop, CPU"))
        assert question.endswith("?") and [machine, human] == own, path.stem
    front = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
    assert all("| " + " | ".join([name.replace("](", "](notebooks/"), *rest]).rstrip() in front for name, *rest in rows)
    marked = [int(human) for _, _, human, _, mark in rows if mark]
    assert len(marked) == 5 and f"The marked five make a short workshop of {sum(marked)} minutes" in text


def test_every_letter_leads_to_code():
    names = set(re.findall(r"`mbf\.([\w.]+)`", (NOTEBOOKS / "symbols.md").read_text(encoding="utf-8")))
    assert len(names) > 25
    for name in names:
        place = mbf
        for part in name.split("."):
            place = getattr(place, part)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_source(path, tmp_path):
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks",
                    ignore=shutil.ignore_patterns("*.ipynb", "__pycache__", ".ipynb_checkpoints"))
    shutil.copytree(ROOT / "mbf_utils", tmp_path / "mbf_utils", ignore=shutil.ignore_patterns("__pycache__"))
    if (ROOT / "figures").is_dir():
        shutil.copytree(ROOT / "figures", tmp_path / "figures")
    built = build(tmp_path, path.name[:2], fast=True)
    assert built.returncode == 0, built.stderr
