"""The pages and the packaging: what they claim is so, what they link to is there, texts of data sets show as texts, and the main
job asks no network for anything."""
import ast
import doctest
import html.parser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pandas as pd
import pytest
import yaml

import mbf_utils
from mbf_utils.errors import InputError
from mbf_utils.streams import Example, TaskData

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "notebooks/README.md", "notebooks/workshop.md")]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
SETUPTOOLS = next((found.version for found in distributions(name="setuptools")), "")
EVIL = '<script>document.title=2</script><img src=x onerror="document.title=1"> good & <b>bold</b>'


# pages

def test_the_solutions_of_the_workshop_are_right():
    assert doctest.testfile(str(ROOT / "notebooks" / "workshop.md"), module_relative=False) == (0, 15)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        there = page.parent / link
        assert there.exists() or (there.parent / "src" / f"{there.stem}.py").exists(), link          # a notebook may be still to be built


def test_one_version_everywhere():
    version = mbf_utils.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version and f"\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "mbf_utils", "--version"], capture_output=True, text=True)
    assert done.stdout == f"mbf {version}\n"


def test_the_citation_names_paper_and_kit():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys() and paper["title"].startswith("Merge before Forget")
    assert [author["family-names"] for author in paper["authors"]] == ["Qiao", "Mahdavi"] and paper["year"] == 2026
    assert "2512.23017" in paper["url"] and citation["title"] != paper["title"]


@pytest.mark.parametrize("page", ["Makefile", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "notebooks/workshop.md"])
def test_targets_of_make_that_are_named_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^|^# )make ([a-z][a-z-]+)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE))
    assert named and named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)), named


class Page(html.parser.HTMLParser):
    """Its tags, its pictures' and links' addresses."""
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.addresses, self.names = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href") and value]
        self.names += [value for key, value in attributes if key == "id"]


def test_the_hand_out_holds_every_notebook_and_fetches_nothing(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "notebooks" / "handout.py", tmp_path / "out.html"], capture_output=True, text=True)
    if "No template sub-directory" in done.stderr:
        pytest.skip("nbconvert's templates are not in this environment")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    page, notebooks = Page(text), sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert [name for name in page.names if name in notebooks] == notebooks
    inside = [address[1:] for address in page.addresses if address.startswith("#")]
    assert set(notebooks) <= set(inside) and "script" not in page.tags and "math" in page.tags
    pictures = [address for address in page.addresses if address.startswith("data:image/png")]
    assert len(pictures) >= len(notebooks) and not re.search(r"@import|url\(", text)
    assert not [address for address in page.addresses if not address.startswith(("#", "data:", "https://")) and not address.endswith(".md")]


# texts of data sets

def test_a_text_that_holds_html_shows_as_text_in_tables_and_read_outs():
    from mbf_utils import lessons, widgets
    lessons.setup(cpu_minutes=1)
    frame = pd.DataFrame({"prompt": [EVIL], "answer": ["good"]})
    parts = [frame._repr_html_(), frame.style._repr_html_(), frame.style.hide().to_html()]
    explorer = widgets.Explorer.__new__(widgets.Explorer)
    explorer.picture, explorer.readout = widgets.ipywidgets.Image(), widgets.ipywidgets.HTML()
    explorer._say(EVIL, failed=True)
    parts.append(explorer.readout.value)
    for part in parts:
        assert not {"img", "script", "b"} & set(Page(part).tags) and "&lt;script&gt;" in part


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on PATH")
def test_in_a_browser_nothing_of_it_runs(tmp_path):
    from mbf_utils import lessons, widgets
    lessons.setup(cpu_minutes=1)
    frame = pd.DataFrame({"prompt": [EVIL], "answer": ["good"]})
    explorer = widgets.Explorer.__new__(widgets.Explorer)
    explorer.picture, explorer.readout = widgets.ipywidgets.Image(), widgets.ipywidgets.HTML()
    explorer._say(EVIL, failed=False)
    page = tmp_path / "page.html"

    def shown(*parts: str) -> str:
        page.write_text(f"<!DOCTYPE html><meta charset=utf-8><title>safe</title><body>{''.join(parts)}", encoding="utf-8")
        done = subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
                              capture_output=True, text=True, timeout=120)
        return re.search("<title>(.*?)</title>", done.stdout)[1]

    assert shown(frame._repr_html_(), frame.style._repr_html_(), explorer.readout.value) == "safe"
    assert shown(EVIL) != "safe"                             # the test would see it


@pytest.mark.parametrize("name", ["<b>", "a>b", "line\nend", "nul\0", 3])
def test_a_task_s_name_which_heads_tables_holds_no_html(name):
    with pytest.raises(InputError, match="a task's name as a text without <, > and control characters"):
        TaskData(name, [], [], [Example("a", ("b",))])


# network and code

OFFLINE = """
import socket, sys
def refuse(*arguments, **options):
    raise OSError("the network is cut")
asked = []
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, lambda *a, **k: (asked.append(a), refuse()))
socket.getaddrinfo = socket.create_connection = lambda *a, **k: (asked.append(a), refuse())
from mbf_utils import runs
from mbf_utils.cli import main
from mbf_utils.sources import load_stream
whole = runs.run_stream
runs.run_stream = lambda stream, *given, **more: whole(load_stream(stream, limit=8) if isinstance(stream, str) else stream, *given, **more | {"epochs": 1})   # short
code = (main(["demo", "--out", sys.argv[1] + "-demo"])
        or main(["run", "world-5", "--limit", "8", "--epochs", "1", "--out", sys.argv[1]]) or main(["report", sys.argv[1]]))
print("asked", asked, "code", code)
"""


def test_the_main_job_needs_and_asks_no_network(tmp_path):
    """Without HF_HUB_OFFLINE, with every way out refused and noted; in a network namespace of its own where the system lets us."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    command = [sys.executable, "-c", OFFLINE, str(tmp_path / "run")]
    if shutil.which("unshare") and subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0:
        command = ["unshare", "-n", *command]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"HF_HOME": str(tmp_path / "hf")})
    assert done.stdout.endswith("asked [] code 0\n"), done.stdout + done.stderr


def test_no_pickle_no_remote_code_no_shell():
    """In the whole package: no import of pickle, no torch.load, eval, exec or shell, and trust_remote_code only as False."""
    for path in (ROOT / "mbf_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not {name.split(".")[0] for name in names} & {"pickle", "dill", "shelve", "marshal", "cloudpickle"}, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "os.system", "joblib.load", "np.load", "pd.read_pickle"), (path, called)
            if isinstance(node, ast.keyword):
                assert node.arg not in ("trust_remote_code", "shell", "allow_pickle") or ast.unparse(node.value) == "False", path


# packages

@pytest.mark.skipif(not shutil.which("git") or not (ROOT / ".git").exists(), reason="builds from the files that git holds")
def test_wheel_and_source_carry_the_bases_and_nothing_of_this_machine(tmp_path):
    tree = tmp_path / "tree"
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n"):
        if name.startswith(("mbf_utils/", "pyproject", "README", "LICENSE", "MANIFEST", "CITATION", "CHANGELOG")) and (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    if not SETUPTOOLS or int(SETUPTOOLS.partition(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or newer")
    for kind in ("wheel", "sdist"):
        code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=tree, capture_output=True, text=True)
        assert done.returncode == 0 and list(tmp_path.glob("*.whl" if kind == "wheel" else "*.tar.gz")), done.stdout + done.stderr
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sdist:
        source = [name.partition("/")[2] for name in sdist.getnames()]
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "mbf_utils").rglob("*")
             if path.is_file() and "__pycache__" not in path.parts]
    for held in (wheel, source):
        assert set(files) <= set(held), sorted(set(files) - set(held))
        assert "mbf_utils/bases/tiny/model.safetensors" in held and not [name for name in held if "__pycache__" in name or name.startswith("tests")]
    assert {"CITATION.cff", "CHANGELOG.md", "LICENSE"} <= set(source)


# figures

def test_a_re_made_table_is_equal_within_or_other(tmp_path):
    import importlib.util
    spec = importlib.util.spec_from_file_location("check", ROOT / "figures" / "check.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    for name, text in (("one.csv", "a,b\nx,1.0\ny,2.0\n"), ("same.csv", "a,b\nx,1.0\ny,2.0\n"), ("near.csv", "a,b\nx,1.0\ny,2.5\n"),
                       ("fewer.csv", "a,b\nx,1.0\n"), ("text.csv", "a,b\nx,1.0\nz,2.0\n"), ("columns.csv", "a,c\nx,1.0\ny,2.0\n")):
        (tmp_path / name).write_text(text)
    found = [check.apart(tmp_path / name, tmp_path / "one.csv") for name in ("same.csv", "near.csv", "fewer.csv", "text.csv", "columns.csv")]
    assert found == ["equal", "within 0.5", "other: 1 rows, 2 committed", "other: a", "other: columns"]
    for text, how in (("a,b\nx,1.0\ny,\n", "other: numbers where the other has none"), ("a,b\nx,1.0\ny,3.5\n", "other: b up to 1.5 apart")):
        (tmp_path / "wrong.csv").write_text(text)
        assert check.apart(tmp_path / "wrong.csv", tmp_path / "one.csv") == how
