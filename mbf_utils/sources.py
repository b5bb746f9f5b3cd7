"""load_stream: a stream of tasks from a name, a folder of a benchmark's files, or tables of one's own."""
from __future__ import annotations

import os
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from reprlib import repr as brief

from mbf_utils.errors import InputError
from mbf_utils.folders import read_folder
from mbf_utils.hub import read_hub
from mbf_utils.prompts import FORMS, form_of
from mbf_utils.rows import check_draw, is_table
from mbf_utils.streams import Stream

WORLDS = ("world-5", "world-15", "world-100")                 # made by the package itself, see world.py
BENCHMARKS = ("standard", "long", "superni", "trace")         # fetched from the Hub, see hub.py


def load_stream(name_or_path, order=None, seed: int = 0, limit: int | None = None, named: bool | None = None,
                prompts: str | None = None) -> Stream:
    """A stream of tasks by name (the package's own "world-5", "world-15", "world-100"; from the Hugging Face Hub "standard",
    "long", "superni"), from the folder of a benchmark, or from tables.

    name_or_path: a name, a folder or a file (text or Path), a DataFrame, a Dataset or DatasetDict, several of these as a list or
        as {task: table}, or a Stream, which is returned as it is. A text may carry its order: "world-5:2", "CL_Benchmark:6".
        A table has the columns prompt and answer, perhaps task, split and labels: see tables.py.
    order: the order's name or a list of task names; None is the first order (see world.py and `folders.read_folder`), or the
        order in which tasks come in the tables.
    seed: of the drawn rows. limit: at most so many train, dev and test rows a task.
    named: whether prompts name their task; None is no for the worlds and yes, as O-LoRA has it, for folders and the Hub; prompts
        of tables are used as they are.
    prompts: of the benchmarks: "O-LoRA" or "SAPT", to the letter of these programs; None is the folder's own, and O-LoRA's for
        the Hub's "standard" and "long". "chat" puts whatever prompts these are into the chat template of a run's model.
    Raises InputError for an unknown name and for whatever the stream's own reader refuses.
    """
    prompts = form_of(prompts)
    if prompts == "chat":
        return replace(load_stream(name_or_path, order, seed, limit, named), chat=True)
    if isinstance(name_or_path, Stream):
        return name_or_path
    check_draw(limit, seed)
    drawn = {"data_seed": int(seed), "limit": None if limit is None else int(limit)}
    return replace(_read(name_or_path, order, seed, limit, named, prompts), drawn=drawn)


def _read(name_or_path, order, seed: int, limit: int | None, named: bool | None, prompts: str | None) -> Stream:
    if not isinstance(name_or_path, (str, Path)):
        return _read_tables(name_or_path, order, seed, limit, named)
    name, inner = _split(name_or_path)
    if inner is not None:
        if order is not None and str(order) != inner:
            raise InputError(f"expected one order, found {inner!r} in {name_or_path!r} and order={order!r}; leave one out.")
        order = inner
    if prompts in FORMS[:2] and (name in WORLDS or is_table(name)):
        raise InputError(f"expected prompts to be left out for {brief(str(name))}, found {prompts!r}: its prompts are its own.")
    if name in WORLDS:
        from mbf_utils.world import world_stream
        if isinstance(order, str) and "," in order:
            order = [task.strip() for task in order.split(",")]
        return replace(world_stream(name, order=order, seed=seed, limit=limit, named=bool(named)), named=bool(named))
    if name == "trace":
        raise InputError("expected the folder with TRACE's files, found its name, and they are not on the Hugging Face Hub; "
                         "fetch them by the link in the README of github.com/BeyonderXX/TRACE and give the path of the folder.")
    if name in BENCHMARKS:
        return read_hub(name, order, seed, limit, named is None or named, prompts)
    if is_table(name):
        return _read_tables(name, order, seed, limit, named)
    if isinstance(name, Path) or _is_folder(name) or any(mark in name for mark in "/\\") or name.startswith(("~", ".")):
        return read_folder(name, order, seed, limit, named is None or named, prompts)
    likely = get_close_matches(name, WORLDS + BENCHMARKS)
    raise InputError(f"expected {', '.join(WORLDS + BENCHMARKS)}, a folder or a table, found {brief(name)}, which is neither"
                     + (f"; did you mean {' or '.join(likely)}?" if likely else "; check the name or the path."))


def load_probes(name_or_path) -> Stream:
    """The stream whose test rows are to be scored and nothing learned: load_stream's, but of a table without a column split all rows
    are test rows."""
    name, order = _split(name_or_path)
    if name in WORLDS + BENCHMARKS or not is_table(name):
        return load_stream(name_or_path)
    from mbf_utils.tables import read_tables
    return read_tables(name, order=order, probes=True)


def _read_tables(given, order, seed: int, limit: int | None, named: bool | None) -> Stream:
    if named:
        raise InputError("expected named to be left out, found True: prompts of tables are used as they are; write names into them.")
    from mbf_utils.tables import read_tables                         # which needs pandas
    return read_tables(given, order=order, seed=seed, limit=limit)


def _split(name_or_path):
    """The name and the order in it, or None. What exists as a path stays whole; so does C:\\data, for C is no stream."""
    if isinstance(name_or_path, Path) or _exists(name_or_path):
        return name_or_path, None
    name, colon, order = name_or_path.rpartition(":")
    return (name, order) if colon and (name in WORLDS + BENCHMARKS or _exists(name)) else (name_or_path, None)


def _exists(name: str) -> bool:
    return os.path.exists(os.path.expanduser(name))


def _is_folder(name: str) -> bool:
    return os.path.isdir(os.path.expanduser(name))
