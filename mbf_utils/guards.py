"""Guards around work that must not end halfway: Ctrl-C waits its turn, SIGTERM is as Ctrl-C, want of memory is one sentence."""
from __future__ import annotations

import gc
import signal
import sys
import threading
import traceback
from contextlib import contextmanager

from .errors import InputError

SHORT = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "status_alloc_failed")      # the last: cuBLAS, cuDNN


@contextmanager
def undisturbed():
    """While open, Ctrl-C waits; it raises KeyboardInterrupt at the end. For the moments in which a model is taken apart."""
    if threading.current_thread() is not threading.main_thread():            # signals come to the main thread alone
        yield
        return
    waiting = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if usual is None else usual)
        if waiting:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def told_to_end():
    """While open, SIGTERM (`kill`, a scheduler whose time is up) does what Ctrl-C does: worker processes end too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if usual is None else usual)


def is_want_of_memory(error: BaseException) -> bool:
    """Whether Python, torch on a CPU, CUDA or MPS says that no memory was left: each has words of its own."""
    return isinstance(error, MemoryError) or isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SHORT)


@contextmanager
def enough_memory(doing: str, todo: str):
    """Want of memory inside becomes an InputError: "expected enough memory DOING, found ...: TODO". What the failed step held
    is let go before, so that the next one finds room."""
    found = None
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_want_of_memory(error):
            raise
        found = (str(error).strip() or "none left").splitlines()[0]
        traceback.clear_frames(error.__traceback__)                          # a notebook keeps the error, but not what its frames held
    if found is not None:
        gc.collect()
        if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        raise InputError(f"expected enough memory {doing}, found: {found.rstrip('.')}; {todo}")
