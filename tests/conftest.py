"""What all tests share: one quiet CPU thread, no network, and where real rows of the benchmarks lie."""
import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")                 # before torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:         # as in a job in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Folders cl_benchmark (O-LoRA's form, 15 tasks) and superni (SAPT's form, 15 tasks). They are not part of the project.
REAL_ROWS = Path(os.environ.get("MBF_DATA") or Path(__file__).resolve().parents[1] / "../shared/data")


def pytest_collection_finish(session) -> None:
    """The loop collects garbage after every task; what is there before the first test need not be searched."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_rows() -> Path:
    """The folder with real rows; tests that ask for it are skipped where it is absent."""
    if not (REAL_ROWS / "cl_benchmark").is_dir() or not (REAL_ROWS / "superni").is_dir():
        pytest.skip(f"no benchmark rows at {REAL_ROWS}; set MBF_DATA to a folder with cl_benchmark and superni")
    return REAL_ROWS


@pytest.fixture(autouse=True)
def accelerate_forgets():
    """A Trainer that ends inside an accumulation leaves Accelerate's shared state so that no optimizer steps."""
    yield
    from accelerate.state import GradientState
    GradientState._reset_state()


@pytest.fixture(scope="session")
def model():
    """A toy model with its tokenizer; runs give it back as it was."""
    from toy import toy_model
    return toy_model()


@pytest.fixture(scope="session")
def stream():
    """Three toy tasks."""
    from toy import toy_stream
    return toy_stream()
