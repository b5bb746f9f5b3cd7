"""Streams from tables of one's own: CSV and JSON Lines files, pandas DataFrames, objects of the library `datasets`.

    prompt   the whole prompt, used letter for letter. What all prompts of a task have in common at their beginnings and ends is its
             frame; between them stands the text, which alone is shortened where it is too long, and in which "</s>" is no token
    answer   a text, or a list of texts (not in CSV): any of them is right, the first is trained on
    task     the row's task; without this column a file is one task and is called as the file
    split    train, dev (or validation) or test; without it the rows are drawn, see `_drawn`
    labels   the answers to choose from, a list or a text with commas, the same in all rows of a task; blank: free text.
             Without this column a task's answers are its labels where they are few, see FEW and EACH

Nothing is guessed in silence: what cannot be used raises one sentence with file, row and value; what was drawn, found, left out
or not used, and prompts that stand in two splits, are in warnings.
"""
from __future__ import annotations

import ast
import os
import sys
import warnings
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Iterator, Mapping, NamedTuple

import numpy as np
import pandas as pd

from mbf_utils.errors import InputError
from mbf_utils.prompts import bodies
from mbf_utils.rows import (SPLITS, SUFFIXES, check_draw, csv_rows, draw, is_table, json_lines, listed, plain, told_apart, usable,
                            wrong)
from mbf_utils.streams import Example, Stream, TaskData, find_order

COLUMNS = ("prompt", "answer", "task", "split", "labels")
ALIASES = {"validation": "dev"}                     # as `datasets` calls it
FEW, EACH = 20, 4                                   # at most so many answers, each in so many rows on average, are labels
TEST, DEV = 5, 8                                    # without a split one prompt in five is test, one in eight of the others dev
HELD_OUT = 10                                       # where only dev is missing, one prompt of train in so many


class Row(NamedTuple):
    where: str                                      # "row 3 of reviews.csv"
    task: str
    split: str                                      # "" where there is no such column
    example: Example
    labels: tuple[str, ...] | None                  # None where there is no such column


def read_tables(given, order=None, seed: int = 0, limit: int | None = None, probes: bool = False) -> Stream:
    """The tasks of a file, a DataFrame or a `datasets` object, in the order in which they come in it.

    given: one of these; several as a list, then a file without a column task is a task of its own; or {task: one of these, or
    {split: one of these}}. order: a list of task names, or what streams.find_order takes; None is "given". limit: at most so
    many rows of each split of a task, drawn with `seed`. probes: nothing is to be learned, so without a column split all rows are
    test. Raises InputError for whatever cannot be used.
    """
    check_draw(limit, seed)
    tasks: dict[str, list[Row]] = {}
    for row in _rows_of(given, "", ""):
        tasks.setdefault(row.task, []).append(row)
    name = Path(given).stem if isinstance(given, (str, Path)) else "tables"
    if not tasks:
        raise InputError(f"expected at least one row in {name}, found none; give prompts and answers.")
    _check_names(list(tasks))
    label, names = _ordered(order, list(tasks), name)
    return Stream(name, label, tuple(_task(task, tasks[task], seed, limit, probes) for task in names))


# ---- from what was given to rows
def _rows_of(given, task: str, split: str) -> Iterator[Row]:
    """Every row in what was given; `task` and `split` are those of the keys under which it lies."""
    library = sys.modules.get("datasets")                            # what has not been imported has no objects here
    splits = isinstance(given, Mapping) and (bool(task) or library is not None and isinstance(given, library.DatasetDict))
    if isinstance(given, Mapping) and not split:
        for key, part in given.items():
            if not isinstance(key, str) or not key.strip():
                raise wrong(f"names of {'splits' if splits else 'tasks'} as keys", "the tables", key, "name it by a text")
            if splits:
                yield from _rows_of(part, task, _split(key, f"the keys of {task or 'the tables'}"))
            else:
                yield from _rows_of(part, key, "")
    elif isinstance(given, (list, tuple)) and not task:
        for part in given:
            if isinstance(part, (str, Path)) and not is_table(part):
                raise wrong("CSV or JSON Lines files", f"the {type(given).__name__}", str(part), "check the path")
            yield from _rows_of(part, "", "")
    elif isinstance(given, (str, Path)):
        file = Path(os.path.expanduser(given))
        yield from _checked(*_file(file), str(given), task, split, file.stem)
    elif isinstance(given, pd.DataFrame):
        columns, rows = list(map(str, given.columns)), given.astype(object).where(given.notna(), None)
        records = [dict(zip(columns, row)) for row in rows.itertuples(index=False, name=None)]
        yield from _checked(columns, records, "the DataFrame", task, split, "")
    elif library is not None and isinstance(given, library.Dataset):
        yield from _checked(given.column_names, _named_classes(given, library.ClassLabel), "the Dataset", task, split, "")
    else:
        raise InputError("expected a stream's name, a folder, a CSV or JSON Lines file, a DataFrame, a Dataset, or several "
                         f"tables as a list or as {{task: table}}, found {type(given).__name__}; see load_stream.")


def _named_classes(dataset, kind) -> list[dict]:
    """The rows of a Dataset; an answer that is a class number becomes the name that the data set has for it."""
    rows, feature = dataset.to_list(), dataset.features.get("answer")
    if isinstance(feature, kind):
        for row in rows:                                             # -1 is how unlabelled rows are marked
            row["answer"] = "" if row["answer"] in (None, -1) else feature.int2str(row["answer"])
    return rows


def _file(file: Path) -> tuple[list[str], list[dict]]:
    """(columns, rows) of a file; a row lacks the keys that it does not have."""
    if file.suffix.lower() == ".csv":
        return csv_rows(file)
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"expected a table as .csv or .jsonl, found {file}; write it in one of these forms.")
    return json_lines(file)



def _checked(columns: list[str], records: list[dict], place: str, task: str, split: str, stem: str) -> Iterator[Row]:
    """The rows of one table, each value looked at. task, split: from the keys, or "". stem: what a file without tasks is."""
    place = f"{place} of {task}" if task and not stem else place
    _check_columns(columns, place, task, split)
    if not task and "task" not in columns:
        if not stem:
            raise wrong("a column task", place, columns, "add it, or give the table under its task's name: {'mood': table}")
        if stem.lower() in (*SPLITS, *ALIASES, "valid"):
            raise wrong("a file called as its task", place, stem, "put the splits into one file with a column split, or give "
                        "{task: {split: file}}")
    for i, record in enumerate(records, 1):
        where = f"row {i} of {place}"
        yield Row(where, task or (_text(record, "task", where) if "task" in columns else stem),
                  split or (_split(_text(record, "split", where), where) if "split" in columns else ""),
                  Example(_text(record, "prompt", where), _answers(record, where, place.lower().endswith(".csv"))),
                  _labels(record.get("labels"), where) if "labels" in columns else None)


def _check_columns(columns: list[str], place: str, task: str, split: str) -> None:
    for column in columns:
        if columns.count(column) > 1:
            raise wrong("every column once", place, column, "rename or remove one")
        if column not in COLUMNS and (known := column.strip().lower()) in COLUMNS:
            raise wrong(f"the column {known} in this spelling", place, column, "rename it")
    for column in ("prompt", "answer"):
        if column not in columns:
            raise wrong(f"a column {column}", place, columns, "add it, or rename the one that holds it")
    for column, key in (("task", task), ("split", split)):
        if key and column in columns:
            raise wrong(f"the {column} once", place, f"the key {key!r} and a column {column}", "leave one of them out")
    if unused := [column for column in columns if column not in COLUMNS]:
        warnings.warn(f"{place}: columns that are not used: {listed(unused)}.")


def _text(record: dict, key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise wrong(f'"{key}" as a text that is not empty', where, value, "correct or remove the row")
    return value


def _split(value: str, where: str) -> str:
    if (split := ALIASES.get(value, value)) not in SPLITS:
        raise wrong(f"a split among {', '.join((*SPLITS, *ALIASES))}", where, value, "rename it")
    return split


def _listed(value):
    """A list or a tuple or an array as a list; a single value as a list of one, nothing as none."""
    return [] if value is None else list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]


def _answers(record: dict, where: str, flat: bool) -> tuple[str, ...]:
    """All right answers; none where they are blank, so that the row is left out. flat: the cells hold no lists."""
    found = _listed(record.get("answer"))
    if not all(isinstance(answer, str) for answer in found):
        raise wrong('"answer" as a text or a list of texts', where, record["answer"], "write numbers as texts, or correct it")
    if flat and found[0].startswith("["):
        try:
            several = isinstance(ast.literal_eval(found[0]), list)
        except (ValueError, SyntaxError):
            several = False
        if several:
            raise wrong('"answer" as one text', where, found[0], "CSV has no lists: write JSON Lines for several right answers")
    return tuple(answer for answer in found if answer.strip())


def _labels(value, where: str) -> tuple[str, ...]:
    found = [part.strip() for part in value.split(",")] if isinstance(value, str) else _listed(value)
    return told_apart([(where, label) for label in found], "\r\n", "remove line end, outer blank") if found != [""] else ()


# ---- from rows to tasks
def _check_names(names: list[str]) -> None:
    for i, name in enumerate(names):
        for other in names[:i]:
            if name.strip().lower() == other.strip().lower():
                raise InputError(f"expected tasks whose names differ in more than case and outer blanks, found {other!r} and "
                                 f"{name!r}; write one of them like the other, or rename it.")


def _ordered(order, names: list[str], place: str) -> tuple[str, list[str]]:
    if order is None or isinstance(order, str) and order == "given":
        return "given", names
    label, wanted = find_order(order)
    for name in wanted:
        if name not in names:
            raise InputError(f"expected tasks of {place} in the order {label!r}, found {name!r}; did you mean "
                             f"{' or '.join(get_close_matches(name, names) or names)}?")
        if wanted.count(name) > 1:
            raise InputError(f"expected every task once in the order {label!r}, found {name!r} {wanted.count(name)} times.")
    return label, wanted


def _task(name: str, rows: list[Row], seed: int, limit: int | None, probes: bool) -> TaskData:
    rows = [row._replace(example=replace(row.example, body=body)) for row, body in
            zip(rows, bodies([row.example.prompt for row in rows]))]
    labels, told = _labels_of(name, rows)
    good = usable([row.example for row in rows], labels, f"task {name}", [row.where for row in rows])
    splits, drawn = _splits(name, [row for row, keep in zip(rows, good) if keep], seed, probes)
    if said := [sentence for sentence in (drawn, told) if sentence]:
        warnings.warn(f"task {name}: {'; '.join(said)}.")
    _warn_of_copies(name, splits)
    return TaskData(name, labels=labels, **{split: draw([row.example for row in splits[split]], limit, f"{seed}/{name}/{split}")
                                            for split in SPLITS})


def _labels_of(name: str, rows: list[Row]) -> tuple[tuple[str, ...], str]:
    """(the task's labels, what has to be said about them)."""
    declared = next((row for row in rows if row.labels is not None), None)
    if declared is not None:                                         # a table among several may lack the column
        for row in rows:
            if row.labels != declared.labels:
                raise wrong(f"the labels of {declared.where}, {', '.join(declared.labels) or 'none'}", row.where,
                            ", ".join(row.labels or ()), "give all rows of a task the same")
        return declared.labels, ""
    found: dict[str, str] = {}                                       # where an answer comes first
    for row in rows:
        for answer in row.example.answers:
            found.setdefault(answer, row.where)
    if not found or len(set(map(plain, found))) > FEW or len(rows) < EACH * len(set(map(plain, found))):
        return (), f"{len(found)} different answers in {len(rows)} rows are taken as free text (a column labels gives options)"
    labels = sorted(told_apart([(where, answer) for answer, where in found.items()], "\r\n", "remove line end, outer blank"))
    return tuple(labels), f"{len(labels)} different answers in {len(rows)} rows are taken as its labels: {listed(labels)}"


def _splits(name: str, rows: list[Row], seed: int, probes: bool) -> tuple[dict[str, list[Row]], str]:
    """(rows by split, what has to be said about it)."""
    given = {split: [row for row in rows if row.split == split] for split in ("", *SPLITS)}
    if given[""] and len(given[""]) < len(rows):
        raise wrong("a split in all rows of a task or in none", given[""][0].where, None, f"complete the task {name}")
    if given[""]:
        return ({"train": [], "dev": [], "test": rows}, "") if probes else _drawn(name, rows, seed)
    for split in ("train", "test"):
        if not given[split]:
            raise wrong(f"rows of the split {split}", f"task {name}", [part for part in SPLITS if given[part]],
                        "add some, or leave the column split out to have them drawn")
    if given["dev"]:
        return given, ""
    apart = _some(given["train"], HELD_OUT, f"{seed}/{name}/dev of train")
    given["dev"] = [row for row in given["train"] if row.example.prompt in apart]
    given["train"] = [row for row in given["train"] if row.example.prompt not in apart]
    count = len(given["dev"]) + len(given["train"])
    return given, f"{len(given['dev'])} of {count} rows of train, drawn with seed {seed}, became dev"


def _drawn(name: str, rows: list[Row], seed: int) -> tuple[dict[str, list[Row]], str]:
    """A split of our own, drawn among different prompts (see TEST and DEV), so none of them stands in two splits."""
    if (count := len({row.example.prompt for row in rows})) < 3:
        raise InputError(f"expected at least 3 different prompts in task {name} to draw train, dev and test from, found {count}; "
                         "add rows, or a column split.")
    test = _some(rows, TEST, f"{seed}/{name}/test")
    rest = [row for row in rows if row.example.prompt not in test]
    dev = _some(rest, DEV, f"{seed}/{name}/dev")
    found = {"train": [row for row in rest if row.example.prompt not in dev],
             "dev": [row for row in rest if row.example.prompt in dev],
             "test": [row for row in rows if row.example.prompt in test]}
    sizes = ", ".join(f"{len(found[split])} {split}" for split in SPLITS)
    return found, f"without a column split, {sizes} rows were drawn with seed {seed}"


def _some(rows: list[Row], one_in: int, key: str) -> set[str]:
    """One different prompt in so many, rounded up, but never all."""
    prompts = list(dict.fromkeys(row.example.prompt for row in rows))
    return set(draw(prompts, min(-(-len(prompts) // one_in), len(prompts) - 1), key))


def _warn_of_copies(name: str, splits: dict[str, list[Row]]) -> None:
    first = {}
    for split in ("train", "dev", "test"):
        copies = [row for row in splits[split] if row.example.prompt in first]
        if copies:
            source = first[copies[0].example.prompt]
            warnings.warn(f"task {name}: {len(copies)} of {len(splits[split])} prompts of {split} stand in {source.split} too "
                          f"(first: {copies[0].where} is {source.where}): the score there is not of new texts.")
        first = {row.example.prompt: row for row in reversed(splits[split])} | first
