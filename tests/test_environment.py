"""The set-up files agree with each other, with what is installed and with Colab; nothing here needs conda or a network."""
import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib                                             # comes with pytest there

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CORE = {Requirement(line).name: Requirement(line) for line in PROJECT["dependencies"]}
ALL = CORE | {Requirement(line).name: Requirement(line) for extra in EXTRAS.values() for line in extra}
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
PIP = next(entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
CONSTRAINTS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()
               if line and not line.startswith("#")]
MAKEFILE = (ROOT / "Makefile").read_text()

# what a Colab notebook finds; the kit installs nothing over it. Its torch is older than the CPU build that stands in for it
COLAB = {Requirement(line).name: str(Requirement(line).specifier).removeprefix("==")
         for line in (ROOT / "constraints-colab.txt").read_text().splitlines() if not line.startswith("#")} | {"torch": "2.11.0"}


def test_environment_is_valid():
    assert set(ENVIRONMENT) == {"name", "channels", "dependencies"}
    assert ENVIRONMENT["channels"] == ["conda-forge", "nodefaults"]
    python, pip, packages = ENVIRONMENT["dependencies"]
    assert (pip, list(packages)) == ("pip", ["pip"])
    assert Requirement(python).name == "python"
    assert Requirement(python).specifier == SpecifierSet(PROJECT["requires-python"])


def test_environment_names_the_packages_with_the_bounds_of_pyproject():
    options = [entry for entry in PIP if entry.startswith("-")]
    named = [Requirement(entry) for entry in PIP if not entry.startswith("-")]
    assert options == ["-c constraints.txt", "-e .[notebooks]"]
    assert [package.name for package in named] == ["torch", "transformers", "peft", "jupyterlab", "matplotlib", "seaborn",
                                                   "ipywidgets", "datasets", "playwright"]
    assert all(package.specifier == ALL[package.name].specifier for package in named)


def test_constraints_pin_torch_alone_within_its_bounds():
    assert [pin.name for pin in CONSTRAINTS] == ["torch"]
    pinned = str(CONSTRAINTS[0].specifier).removeprefix("==").replace(".*", ".0")
    assert pinned in ALL["torch"].specifier


@pytest.mark.parametrize("name", [*CORE, *(Requirement(line).name for key in ("notebooks", "test") for line in EXTRAS[key])])
def test_what_is_installed_satisfies_the_bounds(name):
    assert ALL[name].specifier.contains(version(name), prereleases=True)


@pytest.mark.parametrize("name", [name for name in COLAB if name in ALL])
def test_the_bounds_admit_colab(name):
    assert COLAB[name] in ALL[name].specifier


def test_colab_has_every_package_the_kit_needs():
    assert set(CORE) - set(COLAB) <= {"filelock", "joblib"}              # come with torch and with scikit-learn


def test_python_versions_agree():
    low, high = re.search(r"\((3, \d+)\) <= sys.version_info\[:2\] <= \((3, \d+)\)", MAKEFILE).groups()
    accepted = SpecifierSet(PROJECT["requires-python"])
    minors = [minor for minor in range(5, 30) if Version(f"3.{minor}") in accepted]
    assert (low, high) == (f"3, {minors[0]}", f"3, {minors[-1]}")
    assert f"Python 3.{minors[0]} to 3.{minors[-1]} is needed" in MAKEFILE


def test_the_demo_needs_no_extras_and_the_tests_get_theirs():
    assert installs(MAKEFILE.replace("$(PIP)", "pip install -c constraints.txt")) == {"", "notebooks,test"}
    assert "demo: .venv/demo.stamp" in MAKEFILE and "test: .venv/all.stamp" in MAKEFILE


def test_the_readme_gives_the_same_in_plain_pip():
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md yet")
    named = installs(readme.read_text(encoding="utf-8"))
    assert named >= {"", "notebooks,test"}
    assert all(extra in EXTRAS for extras in named for extra in extras.split(",") if extra)


def installs(text: str) -> set[str]:
    """The extras of every `pip install -c constraints.txt -e .` in a text, "" for none."""
    lines = re.findall(r"pip install -c constraints\.txt -e (\S+)", text)
    return {re.fullmatch(r"""["']?\.(?:\[([\w,]+)\])?["']?`?""", line).group(1) or "" for line in lines}


def ci(folder: Path, *programs: str) -> subprocess.CompletedProcess:
    """.ci/run where these programs alone are on PATH, and a make that fails with 3; apt-get fails and notes that it was called."""
    does = {"make": 'echo "$PWD $*"; exit 3', "apt-get": f'echo "$*" >> {folder}/apt.log; exit 1', "chromium": "exit 1"}
    for name in ("bash", "dirname"):
        (folder / name).symlink_to(shutil.which(name))
    for name in ("make", *programs):
        (folder / name).write_text(f"#!{shutil.which('sh')}\n{does[name]}\n")
        (folder / name).chmod(0o755)
    return subprocess.run([ROOT / ".ci" / "run"], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PATH": str(folder)})


@pytest.mark.parametrize("programs, asked", [((), False), (("apt-get",), True), (("apt-get", "chromium"), False)])
def test_continuous_integration_reports_what_make_reports_and_asks_for_a_missing_browser(tmp_path, programs, asked):
    ran = ci(tmp_path, *programs)
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, f"{ROOT} test\n", "")
    assert (tmp_path / "apt.log").exists() == asked                     # it failed, and the tests ran all the same


def test_importing_the_package_is_quick_and_silent():
    heavy = ("torch", "transformers", "peft", "accelerate", "datasets", "pandas", "matplotlib", "ipywidgets")
    ran = subprocess.run([sys.executable, "-c", f"import sys, mbf_utils; print([m for m in {heavy} if m in sys.modules])"],
                         cwd=ROOT, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("[]\n", "", 0)


def test_the_face_finds_everything_it_names():
    import mbf_utils
    assert all(getattr(mbf_utils, name) is not None for name in mbf_utils.__all__)


@pytest.mark.parametrize("path", [path.relative_to(ROOT).as_posix() for folder in ("mbf_utils", "notebooks", "tests")
                                  for path in sorted((ROOT / folder).rglob("*.py"))])
def test_the_lowest_python_can_read_it(path):
    ast.parse((ROOT / path).read_text(encoding="utf-8"), path, feature_version=(3, 10))
