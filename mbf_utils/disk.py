"""Files and folders that are there whole or not at all, whenever a process is killed."""
from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from .errors import InputError
from .rows import json_of


def read_json(file: Path, kind: type = dict) -> Any:
    """The object (or list) in a JSON file of a run."""
    value = json_of(file)
    if not isinstance(value, kind):
        raise InputError(f"expected an object in {file}, found {type(value).__name__}: it is no file of this kit")
    return value


def sync(path: Path) -> None:
    """Forces a file or a folder to disk (a folder only where the system can)."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def commit(temporary: Path, final: Path) -> None:
    """Syncs everything below `temporary`, then renames it to `final`: there whole, or not at all."""
    for path in sorted(temporary.rglob("*"), reverse=True) if temporary.is_dir() else []:
        sync(path)
    sync(temporary)
    os.replace(temporary, final)
    sync(final.parent)


def write_whole(text: str, file: Path) -> None:
    """The file with this text: whole, or as it was before."""
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        commit(temporary, file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def new_folder(final: Path):
    """Yields a folder under a name of its own, which then becomes `final`: whole, or not at all. Of several processes at once the first
    to end makes it; the others get OSError, as where `final` is not empty. What killed ones left under such names is cleared."""
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f".{escape(final.name)}.{'[0-9a-f]' * 8}.tmp"):
        with suppress(Timeout):                     # its process is at work
            with FileLock(left / ".lock", timeout=0):
                pass
            shutil.rmtree(left, ignore_errors=True)
    temporary = final.with_name(f".{final.name}.{uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir()
        with FileLock(temporary / ".lock", timeout=0):
            yield temporary
        (temporary / ".lock").unlink(missing_ok=True)
        if final.exists():
            final.rmdir()                           # an empty one
        commit(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(value: Any, file: Path) -> None:
    write_whole(json.dumps(value, indent=2) + "\n", file)
