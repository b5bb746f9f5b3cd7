"""The notebooks with controls in a real JupyterLab: every control is moved by keyboard, and picture and read-out have to follow.

Needs Playwright and a Chromium of the system; skipped with a reason where one is missing. Nothing of the user's Jupyter is
touched: its folders lie in a temporary place, and so does what is opened. MBF_SHOTS names a folder for screenshots, to look at.
"""
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def explorers_in(path: Path) -> int:
    """How many widgets a built notebook shows."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return sum("(interactive: run this cell to use it)" in "".join(output.get("data", {}).get("text/plain", ""))
               for cell in cells for output in cell.get("outputs", ()))


MOVING = [path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if explorers_in(path)]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
ABSENT = [name for name in ("playwright", "jupyterlab") if not importlib.util.find_spec(name)]
MISSING = "no Chromium is on PATH" if not CHROMIUM else f"not installed: {', '.join(ABSENT)}" if ABSENT else ""
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=f"browser test: {MISSING}"), pytest.mark.xdist_group("browser")]

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
TOKEN = "teach"
# Lab's own command, awaited: a click on the menu may come before the kernel is ready. Errors of the kernel are kept, also those
# of a moved control, which no cell shows.
RUN = """async () => {
  const app = window.jupyterapp; await app.restored;
  const nb = app.shell.currentWidget; await nb.context.ready; await nb.sessionContext.ready;
  const kernel = nb.sessionContext.session.kernel; await kernel.info;
  window.kernelErrors = [];
  kernel.iopubMessage.connect((_, message) => {
    if (message.header.msg_type === 'error') window.kernelErrors.push(message.content.ename + ': ' + message.content.evalue);
  });
  await app.commands.execute('notebook:run-all-cells');
}"""
# The bytes of an explorer's picture (not its pixels on the page: a focus ring would change those), and its read-out.
STATE = """async (n) => {
  const box = document.querySelectorAll('.mbf-explorer')[n], picture = box.querySelector('img');
  const bytes = picture ? new Uint8Array(await (await fetch(picture.src)).arrayBuffer()) : new Uint8Array();
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
  return {picture: Array.from(digest, byte => byte.toString(16).padStart(2, '0')).join(''), bytes: bytes.length,
          words: box.querySelector('.mbf-readout').textContent, failed: box.querySelector('.mbf-failed') !== null,
          width: picture.naturalWidth};
}"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on copies of the notebooks."""
    root = tmp_path_factory.mktemp("lab")
    settings = root / "config" / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')       # all cells stay in the page
    (root / "config" / "labconfig").mkdir()
    (root / "config" / "labconfig" / "page_config.json").write_text(
        '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    (root / "notebooks").mkdir()
    for path in MOVING:
        shutil.copy(path, root / "notebooks")
    port = free_port()
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(root / "config"), "JUPYTERLAB_SETTINGS_DIR": str(root / "config" / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "config" / "workspaces"), "JUPYTER_DATA_DIR": str(root / "data"),
        "JUPYTER_RUNTIME_DIR": str(root / "runtime"), "IPYTHONDIR": str(root / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])), "MBF_FAST": "1"}
    log = open(root / "lab.log", "w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
         "--no-browser", "--allow-root", f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True",
         f"--ServerApp.root_dir={root / 'notebooks'}"],
        env=environment, stdout=log, stderr=subprocess.STDOUT)
    address, began = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() - began < 120, (root / "lab.log").read_text()[-2000:]
                time.sleep(0.3)
        yield address
    finally:
        server.terminate()                          # it ends its kernels
        server.wait(30)
        log.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


def wait_for(page, n: int, holds, seconds: float = 30) -> dict:
    """The state of explorer n as soon as `holds` is true of it; after the time whatever it is then."""
    began = time.monotonic()
    while not holds(state := page.evaluate(STATE, n)) and time.monotonic() - began < seconds:
        page.wait_for_timeout(50)
    return state


def shoot(element, name: str) -> None:
    if folder := os.environ.get("MBF_SHOTS"):
        element.scroll_into_view_if_needed()
        element.screenshot(path=f"{folder}/{name}.png")


def keys(control) -> list[tuple]:
    """What can be moved in one control: (name, element to focus, key, element to focus, key that takes it back)."""
    moves = []
    for handle in control.query_selector_all(".noUi-handle"):
        low, value = (float(handle.get_attribute(f"aria-value{name}")) for name in ("min", "now"))
        there, back = ("ArrowLeft", "ArrowRight") if value > low else ("ArrowRight", "ArrowLeft")
        moves.append(("slider", handle, there, handle, back))
    if control.query_selector("input[type=checkbox]"):
        fold = control.query_selector("button")
        if fold:
            fold.focus()
            fold.press("Space")
        boxes = [box for box in control.query_selector_all("input[type=checkbox]") if box.is_enabled() and box.is_visible()]
        moves += [("box", box, "Space", box, "Space") for box in (boxes[0], boxes[-1])]
    else:
        buttons = control.query_selector_all("button")
        on = next((button for button in buttons if "mod-active" in button.get_attribute("class")), None)
        moves += [("button", button, "Space", on, "Space") for button in buttons if button != on]
    return moves


REVIEW = "<script>window.harm = 1</script><img src=x onerror='window.harm = 2'> good"
READER = f'''\
import pandas as pd
import mbf_utils as mbf
from mbf_utils.widgets import Buttons, Choice, Several, Steps
review = {REVIEW!r}
def draw(k, **others):
    return mbf.plots.canvas(4, 2, review, review), f"row {{k}}: {{review}}"
controls = {{"k": Steps(review, 1, 2, 1), "task": Buttons(review, [review, "other"], review), "choice": Choice(review, [review, "other"], review),
            "several": Several(review, [review, "other"], (review,))}}
display(mbf.widgets.explore(draw, controls, static=[{{}}]))
pd.DataFrame({{"prompt": [review]}})'''


def test_text_of_a_data_set_is_shown_as_text(lab, browser):
    """A review that holds HTML runs nothing, neither in a read-out nor as the label of a control nor in a table."""
    import nbformat
    page = browser.new_page(viewport={"width": 1200, "height": 1100})
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}       # else JupyterLab asks for one
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(READER)], metadata=kernel)
    urllib.request.urlopen(urllib.request.Request(f"{lab}/api/contents/review.ipynb?token={TOKEN}", method="PUT", data=json.dumps(
        {"type": "notebook", "format": "json", "content": book}).encode(), headers={"Content-Type": "application/json"}), timeout=30).close()
    page.goto(f"{lab}/doc/tree/review.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    page.evaluate(RUN)
    page.wait_for_selector(".mbf-explorer img", timeout=120_000)
    page.wait_for_selector(".jp-OutputArea-output table", timeout=120_000)
    shoot(page.query_selector(".jp-Cell"), "review")
    assert REVIEW in page.inner_text(".mbf-readout").replace("\xa0", " ") and "<script>" in page.inner_text(".jp-OutputArea-output table")
    assert page.evaluate("window.harm") is None and page.evaluate("window.kernelErrors") == []
    page.close()


@pytest.mark.parametrize("path", MOVING, ids=lambda path: path.stem)
def test_every_control_moves_picture_and_words(path, lab, browser):
    page = browser.new_page(viewport={"width": 1200, "height": 1100})
    page.set_default_timeout(60_000)
    outside, errors = [], []
    page.on("request", lambda request: None if request.url.startswith((lab, lab.replace("http", "ws"), "data:", "blob:"))
            else outside.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{lab}/doc/tree/{path.name}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    page.set_default_timeout(240_000)
    page.evaluate(RUN)
    count = explorers_in(path)                      # a cell has run before the page shows what it made: wait for all of them
    page.wait_for_function("n => document.querySelectorAll('.mbf-explorer img').length >= n", arg=count)
    explorers = page.query_selector_all(".mbf-explorer")
    moved = 0
    for n, explorer in enumerate(explorers):
        start = wait_for(page, n, lambda state: state["width"] > 0)
        assert start["width"] > 400 and start["words"] and not start["failed"], f"{path.stem}, explorer {n + 1}: {start}"
        shoot(explorer, f"{path.stem[:2]}-{n + 1}")
        for k, control in enumerate(explorer.query_selector_all(".mbf-control")):
            for name, element, key, other, back in keys(control):
                where = f"{path.stem}, explorer {n + 1}, control {k + 1} ({name})"
                element.focus()
                page.keyboard.press(key)
                after = wait_for(page, n, lambda state: state["picture"] != start["picture"] and state["words"] != start["words"])
                assert after["picture"] != start["picture"], f"{where}: the picture stayed ({after['words']})"
                assert after["words"] != start["words"], f"{where}: the read-out stayed"
                assert after["width"] > 400 and not after["failed"], f"{where}: {after['words']}"
                shoot(explorer, f"{path.stem[:2]}-{n + 1}-{k + 1}-{moved}")
                assert explorer.evaluate("box => box.contains(document.activeElement)"), f"{where}: the key took the focus away"
                other.focus()
                page.keyboard.press(back)
                again = wait_for(page, n, lambda state: state == start)
                assert again == start, f"{where}: not back where it began"
                moved += 1
    assert len(explorers) == count and moved >= count
    if os.environ.get("MBF_SHOTS"):
        for at, cell in enumerate(page.query_selector_all(".jp-Cell")):
            shoot(cell, f"{path.stem[:2]}-cell-{at:02d}")
    assert page.evaluate("window.kernelErrors") == []
    assert page.query_selector_all(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']") == []
    assert (outside, errors) == ([], [])
    page.close()
