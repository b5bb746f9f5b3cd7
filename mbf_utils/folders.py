"""Streams from the folders of three benchmarks, with the prompts of their own programs, letter for letter.

O-LoRA (cmnfriend/O-LoRA)   <TaskType>/<dataset>/{train,dev,test}.json, a list of {"label", "sentence"}, and labels.json.
SAPT (circle-hit/SAPT)      <task>/{train,dev,test}.json, an object with "Definition" and "Instances", a list of {"input",
                            "output"}. The fifteen data sets of the long benchmark take the prompt of SAPT's folder
                            Long_Sequence, every other task that of its folder SuperNI.
TRACE (BeyonderXX/TRACE)    <task>/{train,eval,test}.json, a list of {"prompt", "answer"}; the prompt is used as it is.

Nothing is guessed: what cannot be used raises one sentence with file and row, and rows that are left out are in a warning.
"""
from __future__ import annotations

import os
import random
import warnings
from difflib import get_close_matches
from pathlib import Path

from mbf_utils.errors import InputError
from mbf_utils.prompts import (FORMS, INSTRUCTIONS, KNOWN, SAYS, SUPERNI_LABELS, TRACE_LABELS, Frame, bodies, frame_of, key_of, known,
                               olora_frame, sapt_frame, superni_frame)
from mbf_utils.rows import (SPLITS, about, check_draw, copies, draw, listed, parsed, plain, refusal, text_of, told_apart, unseen,
                            usable, wrong)
from mbf_utils.streams import ORDERS, Example, Stream, TaskData, find_order


def read_folder(path, order=None, seed: int = 0, limit: int | None = None, named: bool = True,
                prompts: str | None = None) -> Stream:
    """The tasks of a benchmark's folder in an order, each with train, dev and test rows.

    order: a key of `streams.ORDERS` ("1" to "6", "O1", "O2", also 4 or "long:4"), or task names as a list or with commas.
        None is order 1, O1 or TRACE's, the first whose tasks are all in the folder, otherwise "sorted": the tasks by name.
        Case does not count in names, and boolq is BoolQA, sst2 is SST-2.
    limit: at most so many rows of each split of a task, drawn with `seed` and left in the file's order. A smaller limit
        gives some of the rows of a larger one.
    named: whether O-LoRA's prompts start with their two lines "Task:" and "Dataset:", which tell the model which task it
        has. SAPT's prompts have no such lines, so there it makes no difference.
    prompts: "O-LoRA" or "SAPT", whose prompts and labels the fifteen data sets of the long benchmark get, whichever folder they
        come from; None is the folder's own.

    Labels come from labels.json (O-LoRA), from `SUPERNI_LABELS`, or are the outputs of the whole train.json, sorted (SAPT's
    long benchmark, whose labels.json contradicts its rows for QQP), or from `TRACE_LABELS`. Rows with another label or without
    an answer are dropped with a warning. Where there is no dev.json, a tenth of train, drawn with `seed`, is dev and leaves
    train, with all rows that ask about the same passages (MultiRC).
    Raises InputError for a folder, file, row, order or limit that cannot be used.
    """
    check_draw(limit, seed)
    root = Path(os.path.expanduser(path))
    found = _scan(root)                                       # {name that counts: (task type or None, folder)}
    order_name, names = _resolve(order, found, root)
    tasks, same, said = [], [], []
    for task_type, folder in (found[name] for name in names):
        rows, labels = (_olora_task(folder, task_type, named, prompts) if task_type else _flat_task(folder, named, prompts))
        if "dev" not in rows:
            rows["train"], rows["dev"] = _hold_out(rows["train"], folder, seed)
        elif rows["dev"] == rows["test"]:
            same.append(folder.name)
        drawn = {split: draw(rows[split], limit, f"{seed}/{folder.name}/{split}") for split in SPLITS}
        said += [f"{folder.name}: {told}" for told in [copies(rows), *unseen(labels, rows["train"], drawn["train"])] if told]
        tasks.append(TaskData(folder.name, labels=labels, **drawn))
    if same:
        warnings.warn(f"dev.json and test.json have the same rows in {root} for {listed(same)}: "
                      "choosing a model or a setting on dev there chooses on test.", stacklevel=2)
    if said:
        warnings.warn(f"{root}: {listed(said, '; ')}.", stacklevel=2)
    olora = any(prompts != "SAPT" if found[name][0] else prompts == "O-LoRA" for name in names)
    return Stream(root.resolve().name, order_name, tuple(tasks), named=bool(named) and olora)


def _scan(root: Path) -> dict[str, tuple[str | None, Path]]:
    """The tasks that lie in a folder, by the name that counts (lower case, aliases resolved), sorted."""
    if not os.path.isdir(root):
        raise InputError(f"expected a folder with a benchmark's files, found {'a file' if os.path.isfile(root) else 'nothing'} "
                         f"at {root}; give the folder that holds the tasks.")
    types = {name.lower(): name for name in INSTRUCTIONS}
    folders = {file.parent for depth in ("[!.]*", "[!.]*/[!.]*") for split in ("train", "test")
               for file in root.glob(f"{depth}/{split}.json")}
    found = {}
    for folder in sorted(folders, key=lambda folder: (key_of(folder.name), folder)):
        task_type = None if folder.parent == root else types.get(folder.parent.name.lower(), "unknown")
        if task_type == "unknown":
            raise wrong(f"tasks (SAPT) or task types (O-LoRA: {', '.join(INSTRUCTIONS)})", root, folder.parent.name,
                        f"rename it, or give {folder.parent} itself")
        if (name := key_of(folder.name)) in found:
            raise InputError(f"expected every task once, found {found[name][1]} and {folder} of one name; remove one of them.")
        found[name] = task_type, folder
    if not found:
        raise InputError(f"expected tasks in {root}, as <TaskType>/<dataset>/train.json (O-LoRA) or <task>/train.json (SAPT), "
                         "found none; give the folder that holds the tasks.")
    return found


def _resolve(order, found, root: Path) -> tuple[str, list[str]]:
    """The order's name and its tasks' names, which are looked up among the folder's and never joined to a path."""
    if order is None:
        order = next((key for key in ("1", "O1", "trace:1") if _all_in(find_order(key)[1], found)), "sorted")
    if isinstance(order, str) and order == "sorted":
        label, names = "sorted", list(found)
    elif str(order) == "1" and _all_in(ORDERS["trace"]["1"], found) and not _all_in(ORDERS["standard"]["1"], found):
        label, names = find_order("trace:1")
    else:
        label, names = find_order(order)
    keys = [key_of(name) for name in names]
    for name, key in zip(names, keys):
        if key not in found:
            likely = [found[k][1].name for k in get_close_matches(key, found)] or [place[1].name for place in found.values()]
            raise InputError(f"expected tasks of {root} in the order {label!r}, found {name!r}, which has no folder with "
                             f"train.json there; did you mean {' or '.join(likely)}?")
        if keys.count(key) > 1:
            raise InputError(f"expected every task once in the order {label!r}, found {name!r} {keys.count(key)} times.")
    return label, keys


def _all_in(names: list[str], found) -> bool:
    return {key_of(name) for name in names} <= set(found)


Read = tuple[dict[str, list[Example]], tuple[str, ...]]         # rows by split, and the labels


def _olora_task(folder: Path, task_type: str, named: bool, prompts: str | None) -> Read:
    labels = _labels(folder / "labels.json")
    frame = olora_frame(task_type, folder.name, labels, named)
    if prompts == "SAPT":
        frame = sapt_frame(folder.name)
        labels = tuple(sorted(map(frame.says, labels)))
    splits = {}
    for split, file, rows in _splits(folder):
        if not isinstance(rows, list):
            raise wrong("one list of rows (O-LoRA's form)", file, rows, "an object belongs in SAPT's form, <task>/train.json")
        examples = [frame.ask(_text(row, "sentence", file, i), _text(row, "label", file, i, blank=True))
                    for i, row in enumerate(rows, 1)]
        splits[split] = _keep(examples, labels, file)
    return splits, labels


def _flat_task(folder: Path, named: bool, prompts: str | None) -> Read:
    """A task without a task type above it: SAPT's, or TRACE's where the rows have prompts."""
    files = list(_splits(folder))
    rows = files[0][2]
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict) or "prompt" not in rows[0]:
        return _sapt_task(folder, files, named, prompts)
    if prompts in FORMS[:2]:
        raise InputError(f"expected prompts to be left out or chat for {folder}, found {prompts!r}: TRACE's rows hold whole "
                         "prompts.")
    return _trace_task(folder, files)


def _trace_task(folder: Path, files: list) -> Read:
    """What the prompts of train have in common is the frame, the rest may be shortened."""
    labels, splits, shown = TRACE_LABELS.get(folder.name.lower(), ()), {}, []
    for split, file, rows in files:                           # train comes first
        if not isinstance(rows, list):
            raise wrong("one list of rows (TRACE's form)", file, rows, 'write [{"prompt": ..., "answer": ...}, ...]')
        prompts = [_text(row, "prompt", file, i) for i, row in enumerate(rows, 1)]
        answers = [_text(row, "answer", file, i, blank=True).strip() for i, row in enumerate(rows, 1)]
        shown = prompts if split == "train" else shown
        examples = [Example(prompt, (answer,) if answer else (), body) for prompt, answer, body in
                    zip(prompts, answers, bodies(prompts, shown))]
        splits[split] = _keep(examples, labels, file)
    return splits, labels


def _sapt_task(folder: Path, files: list, named: bool, prompts: str | None) -> Read:
    long, labels, olora = known(folder.name), SUPERNI_LABELS.get(key_of(folder.name), ()), prompts == "O-LoRA"
    if olora and not long:
        raise InputError(f"expected one of the data sets that O-LoRA has a prompt for ({', '.join(KNOWN)}), found "
                         f"{folder.name!r}; leave prompts out.")
    labels = KNOWN[long].labels if olora else labels
    splits = {}
    for split, file, content in files:                        # train comes first, so that its outputs are the labels
        if not isinstance(content, dict):
            raise wrong("one object with Definition and Instances (SAPT's form)", file, content,
                        "for O-LoRA's form give the folder above the task types")
        definition = _definition(content.get("Definition"), file, bool(long))
        frame = (_asking_olora(long, named) if olora else superni_frame(definition) if not long else
                 sapt_frame(long)._replace(before=definition and f"{definition}\n", says=str))
        rows = content.get("Instances")
        if not isinstance(rows, list):
            raise wrong('a list of rows under "Instances"', file, rows, "see SAPT's form")
        examples, ids = [], set()
        for i, row in enumerate(rows, 1):
            examples.append(frame.ask(_text(row, "input", file, i), *_references(row, file, i)))
            if "id" in row and str(row["id"]) in ids:
                raise wrong("every id once", f"row {i} of {file}", row["id"], "remove or rename one of the rows")
            ids.add(str(row.get("id")))
        if long and not olora and split == "train":
            labels = tuple(sorted({answer for row in examples for answer in row.answers}))
            _warn_of_equals(labels, file)
        splits[split] = _keep(examples, labels, file)
    return splits, labels


def _warn_of_equals(labels: tuple[str, ...], file: Path) -> None:
    """Labels that are a program's outputs cannot be refused; what scoring cannot tell apart is said."""
    seen: dict[str, list[str]] = {}
    for label in labels:
        seen.setdefault(plain(label), []).append(label)
    if equals := [" and ".join(map(repr, some)) for some in seen.values() if len(some) > 1]:
        warnings.warn(f"{file}: exact match cannot tell {listed(equals)} apart.")


def _asking_olora(name: str, named: bool) -> Frame:
    """O-LoRA's frame for SAPT's rows, whose answers may be other words."""
    back = {said: label for label, said in SAYS.get(name, {}).items()}
    return frame_of(name, "O-LoRA", named)._replace(says=lambda answer: back.get(answer, answer))


def _splits(folder: Path):
    """Name, file and content of the splits, train first; dev, which TRACE calls eval, only where it is there."""
    for split, name in (("train", "train"), ("test", "test"), ("dev", "dev"), ("dev", "eval")):
        if split != "dev" or os.path.lexists(folder / f"{name}.json"):
            yield split, folder / f"{name}.json", _read(folder / f"{name}.json")
            if name == "dev":
                return


def _definition(value, file: Path, long: bool) -> str:
    if long and value == []:                                  # SAPT's COPA
        return ""
    texts = value if isinstance(value, list) else [value]
    if len(texts) == 1 and isinstance(texts[0], str) and texts[0].strip():
        return texts[0].strip()
    raise wrong('one text under "Definition"', file, value, "write it as a list of one text")


def _references(row: dict, file: Path, i: int) -> tuple[str, ...]:
    """All right answers of a row; the empty ones are left out, so that a row without any can be dropped."""
    value = row.get("output")
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise wrong('"output" as a text or a list of texts', f"row {i} of {file}", value, "correct or remove the row")
    return tuple(text for text in texts if text.strip())


def _text(row, key: str, file: Path, i: int, blank: bool = False) -> str:
    if not isinstance(row, dict):
        raise wrong(f'an object with "{key}"', f"row {i} of {file}", row, "correct or remove the row")
    if key not in row:
        raise wrong(f'the key "{key}"', f"row {i} of {file}", list(row), "add it, in this spelling")
    if not isinstance(row[key], str) or not (blank or row[key].strip()):
        raise wrong(f'"{key}" as a text that is not empty', f"row {i} of {file}", row[key], "correct or remove the row")
    return row[key]


def _labels(file: Path) -> tuple[str, ...]:
    labels = _read(file)
    if not isinstance(labels, list) or not labels:
        raise wrong("a list of labels", file, labels, "write one text for each label")
    return told_apart([(f"label {i} of {file}", label) for i, label in enumerate(labels, 1)], ",\r\n",
                      "remove comma, line end, outer blank")


def _keep(examples: list[Example], labels: tuple[str, ...], file: Path) -> list[Example]:
    return [row for row, keep in zip(examples, usable(examples, labels, file)) if keep]


def _hold_out(train: list[Example], folder: Path, seed: int) -> tuple[list[Example], list[Example]]:
    """Train without dev, and dev: a tenth of the rows, drawn one by one, each with all that share its passage or its text; what
    would make it more than half of train stays there."""
    keys, groups = [about(row) for row in train], {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    numbers, dev, wanted = list(range(len(train))), set(), -(-len(train) // 10)
    random.Random(f"{seed}/{folder.name}/dev of train").shuffle(numbers)
    for i in numbers:
        group = groups.pop(keys[i], [])
        if len(dev) < wanted and 2 * (len(dev) + len(group)) <= len(train):
            dev.update(group)
    warnings.warn(f"{folder} has no dev.json: {len(dev)} of {len(train)} rows of train, drawn with seed {seed}, became dev.")
    return [row for i, row in enumerate(train) if i not in dev], [row for i, row in enumerate(train) if i in dev]


def _read(file: Path):
    """The content of a JSON file, or one InputError that says what is wrong with it."""
    fail = refusal(file, "JSON")
    text = text_of(file, fail)
    try:
        return parsed(text, fail)
    except InputError:
        raise
    except ValueError as error:
        if text.lstrip().startswith("{") and "Extra data" in str(error):
            fail("JSON Lines or several objects", "write them as one list, [{...}, {...}]")
        fail(f"something else ({error})" if text.strip() else "nothing", "it may be cut short: fetch it again")
