"""ruff and mypy, as `make lint` runs them: what is likely wrong, and what annotations say."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("command", [("ruff", "check", "--no-cache", "."), ("mypy", f"--cache-dir={os.devnull}")], ids=lambda command: command[0])
def test_nothing_is_found(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
