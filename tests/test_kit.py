"""Around the notebooks: what each of them uses, the set-up cell that finds or fetches the kit, and the bundle to carry away."""
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))

from build import REPOSITORY, SETUP
from bundle import contents, pack
from uses import used

# ---- what a notebook uses

PACKAGE = {
    "mbf_utils/__init__.py": "_FACE = {'Pair': 'lora', 'run': 'loop'}\n_MODULES = ('far',)\n",
    "mbf_utils/lora.py": "import torch\n",
    "mbf_utils/loop.py": "from .lora import Pair\ndef run():\n    from . import models, shapes\n",
    "mbf_utils/models.py": "BASES = 'bases'\n",
    "mbf_utils/shapes.py": "from mbf_utils.chosen import choice\nimport mbf_utils.pictures as drawing\n",
    "mbf_utils/chosen.py": "FILE = 'chosen.json'\n",
    "mbf_utils/pictures.py": "",
    "mbf_utils/far.py": "from .methods.one import One\n",
    "mbf_utils/cli.py": "",
    "mbf_utils/widgets.py": "committed('ours')",
    "mbf_utils/methods/__init__.py": "from .one import One\n",
    "mbf_utils/methods/one.py": "from ..pictures import x",
    "mbf_utils/methods/two.py": "",
    "mbf_utils/chosen.json": "{}",
    "mbf_utils/bases/tiny/model.safetensors": "t",
    "mbf_utils/bases/small/model.safetensors": "s",
    "notebooks/runs/slao/matrix.csv": "1",
    "notebooks/runs/slao/.lock": "",
    "notebooks/runs/ours/tasks/1/log.json": "2",
    "figures/world-5-matrices.csv": "3",
    "figures/world-5.csv": "4",
    "figures/world-5-runs.csv": "6",
    "figures/other.csv": "5",
}
ONE = {"methods/__init__", "methods/one", "methods/two", "pictures"}
LOOP = {"loop", "lora", "models", "shapes", "chosen", "pictures"}
DATA = {"chosen.json", "tiny/model"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    for name, text in PACKAGE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("code, expected", [
    ("1 + 1", set()),
    ("import mbf_utils as mbf", set()),
    ("import mbf_utils as mbf\nmbf.Pair", {"lora"}),
    ("import mbf_utils as mbf\nmbf.Pair.lora.far", {"lora"}),
    ("from mbf_utils import Pair as P", {"lora"}),
    ("from mbf_utils.lora import Pair", {"lora"}),
    ("import mbf_utils.lora", {"lora"}),
    ("import other as mbf\nmbf.Pair", set()),
    ("import mbf_utils as mbf\nmbf.run", LOOP | DATA),
    ("import mbf_utils as mbf\nmbf.run('small')", LOOP | DATA | {"small/model"}),
    ("import mbf_utils as mbf\nmbf.far", ONE | {"far"}),
    ("from mbf_utils.methods.two import Two", ONE),
    ("import mbf_utils as mbf\n%timeit 3\nmbf.methods", ONE),
    ("# !mbf demo", {"cli"}),
    ("import mbf_utils as mbf\nmbf.widgets", {"widgets", "ours/tasks/1/log.json"}),
    ("committed('slao')", {"slao/matrix.csv"}),
    ("[committed(name) for name in ('slao', 'ours')]", {"slao/matrix.csv", "ours/tasks/1/log.json"}),
    ("committed('sl' + x)", {"slao/matrix.csv", "ours/tasks/1/log.json"}),
    ("run('slao')", set()),
    ("pool('runs')", {"slao/matrix.csv", "ours/tasks/1/log.json"}),
    ("pool('runs/ours')", {"ours/tasks/1/log.json"}),
    ("measured('world-5')", {"world-5-matrices.csv"}),
    ("load_stream('world-5')", set()),
    ("mbf.lessons.scores('world-5', 'AA')", {"world-5-matrices.csv"}),
    ("mbf.lessons.table('other')", {"other.csv"}),
    ("mbf.lessons.results('world-5'), mbf.lessons.results('world-6')", {"world-5-runs.csv"}),
    ("mbf.lessons.first_measured('world-6', 'world-5')", {"world-5-matrices.csv"}),
    ("[file for file in figures.glob('*-matrices.csv')]", {"world-5-matrices.csv"}),
    ("[mbf.lessons.table(file.name[:7]) for file in figures.glob('*-matrices.csv')]", {"world-5-matrices.csv", "world-5.csv"}),
    ("read_csv('../figures/other.csv')", {"other.csv"}),
    ("read_csv(figures / 'other.csv')", {"other.csv"}),
])
def test_a_notebook_uses_what_its_code_reaches_and_nothing_else(repository, tmp_path, code, expected):
    source = tmp_path / "00_toy.py"
    source.write_text(f"# %% [markdown]\n# mbf.far is told of, not used.\n\n# %%\n{code}\n")
    found = {path.resolve().relative_to(repository).as_posix() for path in used(source, repository)}
    short = {re.sub("^(mbf_utils/(bases/)?|notebooks/runs/|figures/)|[.](py|safetensors)$", "", name) for name in found}
    assert short == expected


def test_no_notebook_uses_the_face_but_every_one_the_lessons():
    for source in (ROOT / "notebooks" / "src").glob("*.py"):
        found = [path.relative_to(ROOT).as_posix() for path in used(source, ROOT)]
        assert "mbf_utils/lessons.py" in found and "mbf_utils/__init__.py" not in found


def test_what_a_module_really_imports_is_among_what_is_found(tmp_path):
    """The static closure against the interpreter: importing a module loads no module of the package that is not in it."""
    source = tmp_path / "00_toy.py"
    source.write_text("import mbf_utils as mbf\nmbf.reports, mbf.geometry\n")
    loaded = subprocess.run([sys.executable, "-c", "import sys, mbf_utils.reports, mbf_utils.geometry\n"
                             "print(*(sys.modules[n].__file__ for n in sys.modules if n.startswith('mbf_utils.')), sep='\\n')"],
                            capture_output=True, text=True, check=True, cwd=ROOT).stdout.split("\n")[:-1]
    assert len(loaded) > 20 and set(loaded) <= set(map(str, used(source, ROOT)))


# ---- the set-up cell

FOUND = SETUP + "import mbf_utils; print(mbf_utils.__file__)"


def set_up(folder: Path, cell: str = FOUND, bare: bool = True):
    """The cell run in a folder by a Python that knows nothing of the repository; a bare one knows no site-packages either."""
    switches = ["-I", "-S"] if bare else ["-I"]
    return subprocess.run([sys.executable, *switches, "-c", cell], cwd=folder, capture_output=True, text=True)


def toy_kit(root: Path) -> Path:
    (root / "mbf_utils").mkdir(parents=True)
    (root / "mbf_utils" / "__init__.py").write_text("")
    return root


@pytest.mark.parametrize("inside", ["notebooks", "notebooks/exercises"])
def test_the_set_up_cell_finds_the_kit_above(tmp_path, inside):
    folder = toy_kit(tmp_path) / inside
    folder.mkdir(parents=True)
    assert set_up(folder).stdout.strip() == str(tmp_path / "mbf_utils" / "__init__.py")


def test_the_set_up_cell_unpacks_a_bundle_beside_the_notebook_once(tmp_path):
    alone = tmp_path / "a" / "b" / "c"
    alone.mkdir(parents=True)
    shutil.make_archive(str(alone / "mbf-kit"), "zip", toy_kit(tmp_path / "kit"))
    expected = str(alone / "mbf-kit" / "mbf_utils" / "__init__.py")
    assert set_up(alone).stdout.strip() == expected
    (alone / "mbf-kit.zip").unlink()
    assert set_up(alone).stdout.strip() == expected                     # a restarted kernel finds what was unpacked


@pytest.mark.skipif(not shutil.which("git"), reason="there is no git to clone with")
def test_the_set_up_cell_clones_the_kit(tmp_path):
    kit, alone = toy_kit(tmp_path / "kit"), tmp_path / "a" / "b" / "c"
    alone.mkdir(parents=True)
    who = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(kit)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*who, *command], check=True)
    cloned = set_up(alone, FOUND.replace(REPOSITORY, kit.as_uri()))
    assert cloned.stdout.strip() == str(alone / "mbf-kit" / "mbf_utils" / "__init__.py"), cloned.stderr


@pytest.mark.parametrize("address", ["https://github.com/OWNER/REPO", "file:///nowhere"])
def test_without_kit_bundle_and_a_true_address_one_sentence_is_said(tmp_path, address):
    alone = tmp_path / "a" / "b"
    alone.mkdir(parents=True)
    told = set_up(alone, FOUND.replace(REPOSITORY, address))
    assert told.returncode == 1 and told.stdout == "" and "Traceback" not in told.stderr
    assert told.stderr.splitlines()[-1] == (f"There is no kit here and none at {address}: put mbf-kit.zip beside this notebook "
                                            "and run the cell again.")


def test_the_address_stands_in_one_place():
    files = [path for path in contents() if path.suffix == ".py"]
    assert [path.name for path in files if REPOSITORY in path.read_text(encoding="utf-8")] == ["build.py"]


# ---- the bundle


def test_the_bundle_is_the_same_bytes_and_holds_what_is_needed_and_no_more(tmp_path):
    first, second = pack(tmp_path / "a" / "kit.zip"), pack(tmp_path / "kit.zip")
    assert first.read_bytes() == second.read_bytes() and first.stat().st_size < 25_000_000
    with ZipFile(first) as bundle:
        names = bundle.namelist()
    assert {"LICENSE", "notebooks/00_start_here.ipynb", "notebooks/exercises/00_start_here.ipynb",
            "notebooks/runs/slao/matrix.csv", "figures/world-5-matrices.csv"} <= set(names)
    parts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mbf_utils").rglob("*") if path.is_file()}
    assert {name for name in parts if "__pycache__" not in name} <= set(names)
    assert len(names) == len(set(names)) and not [name for name in names if re.search(r"__pycache__|/\.|^tests|mbf-kit", name)]


ALONE = """
assert FAST and "LONELY" in mbf.__file__, mbf.__file__
run = mbf.run_stream(mbf.load_stream("world-5", limit=16), method="slao", batch_size=16)
assert run.matrix.shape == mbf.lessons.committed("slao").matrix.shape == (5, 5)
assert "slao" in mbf.lessons.measured("world-5", order="1", model="tiny", named=False)
"""
# as in Colab: neither the repository nor an installed mbf-utils can be seen; what else is installed can, where its venv lies in the
# repository too
AWAY = f"""
import sys
import importlib.metadata as installed
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [folder for folder in sys.path if not folder.startswith({str(ROOT)!r}) or "site-packages" in folder]
def from_name(name, real=installed.Distribution.from_name):
    if name == "mbf-utils":
        raise installed.PackageNotFoundError(name)
    return real(name)
installed.Distribution.from_name = from_name
"""


def test_a_run_from_the_bundle_with_the_repository_out_of_sight(tmp_path, monkeypatch):
    alone = tmp_path / "LONELY" / "content"
    pack(alone / "mbf-kit.zip")
    monkeypatch.setenv("MBF_FAST", "1")
    cell = SETUP + "import mbf_utils as mbf\n\nFAST = mbf.lessons.setup(cpu_minutes=1)\n"
    ran = set_up(alone, AWAY + cell + ALONE, bare=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("mbf-utils") and (alone / "mbf-kit" / "notebooks" / "00_start_here.ipynb").is_file()
