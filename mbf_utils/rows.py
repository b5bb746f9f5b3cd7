"""What the readers of rows share: a file's text, refusals in one sentence, labels that scoring can tell apart, limits."""
from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import stat
import string
import warnings
from numbers import Integral
from pathlib import Path
from reprlib import repr as brief
from typing import Callable, Iterable, Sequence

from mbf_utils.errors import InputError
from mbf_utils.streams import Example

SPLITS = ("train", "dev", "test")
MOST = 2 * 10 ** 9                                             # bytes of one file: it is read whole
MANY = 20                                                      # names that a sentence lists
SUFFIXES = (".csv", ".jsonl", ".ndjson", ".json")              # of files that are tables
_NOISE = (string.punctuation + string.whitespace).encode()


def listed(names: Iterable[str], between: str = ", ") -> str:
    """All of them, or of more than MANY the first few and the number of the others."""
    names = list(names)
    return between.join(names) if len(names) <= MANY else f"{between.join(names[:MANY // 2])} and {len(names) - MANY // 2:,} more"


def wrong(expected: str, where, found, todo: str) -> InputError:
    return InputError(f"expected {expected} in {where}, found {brief(found)}; {todo}.")


def check_draw(limit, seed) -> None:
    """Both have to be whole numbers, limit a positive one or None."""
    if limit is not None and (not isinstance(limit, Integral) or isinstance(limit, bool) or limit < 1):
        raise InputError(f"expected limit to be a positive whole number or None, found {limit!r}; give how many rows a task.")
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise InputError(f"expected seed to be a whole number, found {seed!r}; give for example seed=0.")


def draw(rows: list, limit: int | None, key: str) -> list:
    """At most `limit` of the rows, in their order; a smaller limit draws some of what a larger one draws."""
    numbers = list(range(len(rows)))
    random.Random(key).shuffle(numbers)
    return [rows[i] for i in sorted(numbers[:limit])]


def refusal(file: Path, kind: str) -> Callable[[str, str], None]:
    """fail(found, todo) raises an InputError about this file."""
    def fail(found: str, todo: str):
        raise InputError(f"expected {kind} in UTF-8 in {file}, found {found}; {todo}.") from None
    return fail


def text_of(file: Path, fail) -> str:
    """The file's text without its byte order mark."""
    try:
        if (found := os.stat(file)).st_size > MOST or not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            if found.st_size > MOST:
                fail(f"{found.st_size / 1e9:.1f} GB", f"give a part of it, at most {MOST / 1e9:.0f} GB")
            fail("a pipe or a device", "put a file there")             # which may never end
        data = Path(file).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        fail(f"no file that can be read ({error.strerror})", "put the file there")
    except UnicodeDecodeError as error:
        fail(f"the byte 0x{data[error.start]:02x} at place {error.start}, which is not UTF-8", "save it as UTF-8")
    if text.startswith("version https://git-lfs"):
        fail("a Git LFS pointer in place of the data", "run git lfs pull where it came from")
    return text


def parsed(text: str, fail, where: str = ""):
    """A JSON value whose objects have each key once and whose numbers are finite. Other ValueErrors are the caller's."""
    objects = []                                              # they close in the text's order, so their number is known

    def once(pairs):
        objects.append(dict(pairs))
        if len(objects[-1]) < len(pairs):
            keys = [key for key, _ in pairs]
            fail(f"the key {max(keys, key=keys.count)!r} twice in {where or f'object {len(objects)}'}", "leave one of them")
        return objects[-1]

    def number(name):
        fail(f"the number {name}{f' in {where}' if where else ''}", "give texts")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=number)
    except RecursionError:
        fail("lists in lists without end", "give rows of texts")


def json_of(file: Path):
    """The value in a JSON file that the kit, PEFT or a base's author wrote."""
    fail = refusal(file, "JSON")
    text = text_of(file, fail)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(f"something else ({error})", "bring it back from a copy")


def is_table(name) -> bool:
    """Whether a text or a Path names a file of rows, or any file that is there."""
    path = os.path.expanduser(name)
    return os.path.isfile(path) or not os.path.isdir(path) and Path(path).suffix.lower() in SUFFIXES


def csv_rows(file: Path) -> tuple[list[str], list[dict]]:
    """(columns, rows) of a CSV file with a header."""
    fail = refusal(file, "CSV with commas")
    reader = csv.reader(io.StringIO(text_of(file, fail), newline=""), strict=True)
    usual = csv.field_size_limit(2 ** 31 - 1)                 # a prompt may be long
    try:
        lines = [line for line in reader if line]
    except csv.Error as error:
        fail(f"something else ({error}) on line {reader.line_num}", "put a text with commas, quotes or line ends into quotes")
    finally:
        csv.field_size_limit(usual)
    if not lines:
        fail("nothing", "write a header and rows")
    header, *rows = lines
    if len(header) == 1 and set(header[0]) & {";", "\t"}:
        fail(f"the header {header[0]!r}", "separate the cells by commas")
    for i, row in enumerate(rows, 1):
        if len(row) != len(header):
            fail(f"{len(row)} cells in row {i}, where the header has {len(header)}", "put a text with commas into double quotes")
    return header, [dict(zip(header, row)) for row in rows]


def json_lines(file: Path) -> tuple[list[str], list[dict]]:
    """(columns, rows) of a JSON Lines file: the keys of all its objects, which need not all have all of them."""
    fail, rows = refusal(file, "JSON Lines, an object on each line,"), []
    text = text_of(file, fail)
    if text.lstrip().startswith("["):
        fail("a list", "write each of its objects on a line of its own, or give the folder if it is a benchmark's")
    for number, line in enumerate(text.split("\n"), 1):       # not splitlines: U+2028 may stand in a text
        if line.strip():
            try:
                row = parsed(line, fail, f"line {number}")
            except InputError:
                raise
            except ValueError as error:
                fail(f"something else ({error}) on line {number}", "write one whole object a line")
            if not isinstance(row, dict):
                fail(f"{brief(row)} on line {number}", "write an object")
            rows.append(row)
    if not rows:
        fail("nothing", "write an object a line")
    return list(dict.fromkeys(key for row in rows for key in row)), rows


def plain(label: str) -> str:
    """As exact match sees it: lower case, ASCII punctuation deleted, blanks collapsed."""
    return " ".join(label.lower().translate(str.maketrans("", "", string.punctuation)).split())


def told_apart(labels: Iterable[tuple[str, str]], kept_out: str, todo: str) -> tuple[str, ...]:
    """The labels of pairs (where it stands, label), all of which scoring can tell from each other, without the characters
    `kept_out` and without outer blanks; `todo` says how to be rid of those."""
    seen: dict[str, str] = {}
    for where, label in labels:
        if not isinstance(label, str) or not plain(label):
            raise wrong("a text with letters or digits", where, label, "name the label")
        if set(label) & set(kept_out) or label != label.strip():
            raise wrong("a label that fits into one line of options", where, label, todo)
        if plain(label) in seen:
            raise wrong(f"a label that scoring can tell from {seen[plain(label)]!r}", where, label, "rename or remove one")
        seen[plain(label)] = label
    return tuple(seen.values())


def usable(examples: list[Example], labels: tuple[str, ...], file, places: Sequence[str] = ()) -> list[bool]:
    """Of each row whether it can be used: it has an answer, and one of the labels where there are labels. A warning says how
    many cannot; InputError where none can. places: what to call the rows; else by their number in the file."""
    if not examples:
        raise wrong("at least one row", file, [], "fetch it again")
    places = places or [f"row {i} of {file}" for i in range(1, len(examples) + 1)]
    for place, row in zip(places, examples):
        if half := re.search("[\ud800-\udfff]", row.prompt + "".join(row.answers)):     # no tokenizer reads it
            raise wrong("whole characters", place, half[0], "replace this half of a surrogate pair")
    good = [bool(row.answers) and (not labels or set(row.answers) <= set(labels)) for row in examples]
    if not all(good):
        first = good.index(False)
        wanted = f"one of the labels {listed(labels)}" if labels else "an answer that is not empty"
        found = f"{brief(list(examples[first].answers))} in {places[first].removesuffix(f' of {file}')}"
        if not any(good):
            raise InputError(f"expected {wanted} in the rows of {file}, found {found} and no row to use; correct the file.")
        warnings.warn(f"{file}: dropped {good.count(False)} of {len(examples)} rows: expected {wanted}, found {found}.")
    return good


def copies(splits: dict[str, list[Example]]) -> str:
    """What has to be said about texts that stand in two splits, or in train twice or with two answers, and about passages (of
    reading questions) that stand in train and in another split; "" where there are none."""
    train = [_text(row) for row in splits["train"]]
    answers: dict[str, set] = {}
    alike: dict[bytes, set] = {}
    for text, row in zip(train, splits["train"]):
        answers.setdefault(text, set()).add(row.answers)
        alike.setdefault(_bare(text), set()).add(row.answers)
    said = []
    if double := sum(len(each) > 1 for each in answers.values()):
        said.append(f"{double} texts of train have different answers")
    if again := len(train) - sum(map(len, alike.values())):
        said.append(f"{again} of {len(train)} rows of train repeat another, case, punctuation and blanks aside")
    passages = {passage for text in answers if (passage := _passage(text))}
    for split in ("dev", "test"):
        texts = [_text(row) for row in splits.get(split, [])]
        new = [text for text in texts if _bare(text) not in alike]
        if count := len(texts) - len(new):
            near = count - sum(text in answers for text in texts)
            said.append(f"{count} of {len(texts)} texts of {split} stand in train too"
                        + (f" ({near} of them but for case, punctuation or blanks)" if near else ""))
        if count := sum(_passage(text) in passages for text in new if passages):
            said.append(f"{count} of {len(texts)} rows of {split} ask about a passage of train")
    return ", ".join(said)


def about(row: Example) -> str | bytes:
    """What should not stand in two splits: the passage that a row asks about, else its text without case, punctuation and blanks."""
    text = _text(row)
    return _passage(text) or _bare(text)


def unseen(labels: Iterable[str], train: list[Example], drawn: list[Example]) -> list[str]:
    """What has to be said about labels of which train has no row, or none among those that a limit left of it."""
    def lacking(rows: list[Example]) -> list[str]:
        seen = {answer for row in rows for answer in row.answers}
        return [label for label in labels if label not in seen]

    never = lacking(train)
    lost = [label for label in lacking(drawn) if label not in never]
    return ([f"no row of train has the label {listed(never, ' or ')}"] if never else []) + (
        [f"none of the {len(drawn)} rows of train that limit leaves has the label {listed(lost, ' or ')} (raise it)"]
        if lost else [])


def _text(row: Example) -> str:
    return " ".join(row.prompt[slice(*row.body)].split()) if row.body else row.prompt


def _bare(text: str) -> bytes:
    """The text in lower case without ASCII punctuation and blanks, many times as fast as `plain`; itself if nothing is left."""
    return text.lower().encode("utf-8", "surrogatepass").translate(None, _NOISE) or text.encode("utf-8", "surrogatepass")


def _passage(text: str) -> str | None:
    """The passage in "passage: ... question: ..." or the other way round (BoolQA, MultiRC, Quoref)."""
    found = re.search(r"(?i)\b(?:passage|paragraph): ?(.+?)(?= question: |$)", text, re.S)
    return found[1].strip() if found else None
