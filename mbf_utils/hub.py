"""Streams from the Hugging Face Hub: "standard" and "long" (O-LoRA's orders 1 to 6) and "superni" (O1 and O2).

The rows are those of the same raw data sets, put into O-LoRA's or SAPT's sentences, but not the rows that these programs drew:
their seed is not known. Fetch their folders for those (`load_stream("path/to/CL_Benchmark:1")`).

    train   shuffle(seed), then the first 1000 rows a class (as O-LoRA's files have), fewer where there are not so many
    dev     the last tenth of that number in the same shuffle; no text (in MultiRC and BoolQA: no passage) of dev is in train. A set
            that is too small for both (CB, COPA) gives its tenth to dev and the rest to train, which a warning says
    test    the split with labels (validation in GLUE and SuperGLUE, whose test has none), of more than 7600 rows 7600 drawn

Rows without a class or a text are passed over and counted in a warning. Of several ids the first that can be read is used; a warning
says which it was. `datasets` keeps what it has fetched. Columns and class numbers are checked, never assumed: what does not fit is
a reason to try the next id. Nothing of a data set is run.
"""
from __future__ import annotations

import random
import warnings
from difflib import get_close_matches
from functools import partial
from typing import Callable, Iterable, NamedTuple

from mbf_utils.errors import InputError
from mbf_utils.prompts import KNOWN, SUPERNI_LABELS, Frame, frame_of, key_of, superni_frame
from mbf_utils.rows import SPLITS, check_draw, copies, draw, listed, unseen, usable
from mbf_utils.streams import ORDERS, Example, Stream, TaskData, find_order

TRAIN, TEST = 1000, 7600                            # rows a class, and at most
SUPERNI_ROWS = {"train": 1000, "dev": 100, "test": 100}      # SAPT's sizes
FIRST = {"standard": "1", "long": "4", "superni": "O1"}      # the order where none is given


class Source(NamedTuple):
    """Where one data set lies. columns: the first is the class; "a|b" is a, which may be called b. classes: (the Hub's name,
    O-LoRA's label) in the order of the class numbers. text: from a row with the columns' first names. apart: the column of
    which no value may be in both train and dev; else it is the whole text."""
    ids: tuple[tuple[str, str | None], ...]         # (id, configuration), tried in this order
    test: str
    columns: str
    classes: tuple[tuple[str, str], ...]
    text: Callable[[dict], str]
    apart: str = ""


def _same(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, name) for name in names)


def _pair(first: str, second: str) -> Callable[[dict], str]:
    return lambda row: f"sentence 1: {row[first]}\nsentence 2: {row[second]}"


def _yahoo(row: dict) -> str:
    if not row["question_content"]:
        return f"Question: {row['question_title']}\nAnswer: {row['best_answer']}\n"
    return f"Title: {row['question_title']}\nQuestion: {row['question_content']}\nAnswer: {row['best_answer']}\n"


def _superglue(config: str, more: tuple = ()) -> tuple[tuple[str, str | None], ...]:
    """The first is the official one, of which it was not seen whether it still needs a script; the others are parquet copies."""
    return tuple((name, config) for name in ("aps/super_glue", "hgissbkh/super_glue", "Hyukkyu/superglue")) + more


_GLUE = "nyu-mll/glue"
_FALSE_TRUE = ("false", "False"), ("true", "True")
# Names and class orders: dataset_infos in the history of huggingface/datasets. Sentences: CL_Benchmark/*/*/train.json of O-LoRA.
SOURCES = {
    "agnews": Source((("fancyzhx/ag_news", None), ("ag_news", None)), "test", "label text",
                     (*_same("World", "Sports", "Business"), ("Sci/Tech", "Science or Technology")),
                     lambda row: f"Text: {row['text']}\n"),  # the Hub joins title and body; O-LoRA has "Title: ...\nText: ...\n"
    "dbpedia": Source((("fancyzhx/dbpedia_14", "dbpedia_14"),), "test", "label title content",
                      tuple((label.replace(" ", ""), label) for label in KNOWN["dbpedia"].labels),
                      lambda row: f"Title: {row['title']}\nText: {row['content']}\n"),        # content starts with a blank
    "yelp": Source((("Yelp/yelp_review_full", "yelp_review_full"),), "test", "label text",
                   tuple(zip(("1 star", "2 star", "3 stars", "4 stars", "5 stars"), KNOWN["yelp"].labels)),
                   lambda row: f"Text: {row['text']}\n"),
    "amazon": Source((("vgaraujov/amazon_review_full", None),), "test", "label|class title|review_title text|content|body",
                     tuple(zip("12345", KNOWN["amazon"].labels)), lambda row: f"Title: {row['title']}\nText: {row['text']}\n"),
    "yahoo": Source((("community-datasets/yahoo_answers_topics", "yahoo_answers_topics"),), "test",
                    "topic question_title question_content best_answer", _same(*KNOWN["yahoo"].labels), _yahoo),
    "IMDB": Source((("stanfordnlp/imdb", "plain_text"),), "test", "label text", (("neg", "Bad"), ("pos", "Good")),
                   lambda row: row["text"]),
    "SST-2": Source(((_GLUE, "sst2"),), "validation", "label sentence", (("negative", "Bad"), ("positive", "Good")),
                    lambda row: f"Text: {(row['sentence'] or '').rstrip(' ')} "),
    "MNLI": Source(((_GLUE, "mnli"),), "validation_matched", "label premise hypothesis",
                   _same("entailment", "neutral", "contradiction"), _pair("premise", "hypothesis")),
    "CB": Source(_superglue("cb"), "validation", "label premise hypothesis", _same("entailment", "contradiction", "neutral"),
                 _pair("premise", "hypothesis")),
    "RTE": Source(((_GLUE, "rte"),), "validation", "label sentence1 sentence2",
                  (("entailment", "entailment"), ("not_entailment", "contradiction")), _pair("sentence1", "sentence2")),
    "QQP": Source(((_GLUE, "qqp"),), "validation", "label question1 question2",
                  (("not_duplicate", "False"), ("duplicate", "True")),
                  lambda row: f"first sentence: {row['question1']}\nsecond sentence: {row['question2']}"),
    "COPA": Source(_superglue("copa"), "validation", "label premise choice1 choice2 question",
                   (("choice1", "A"), ("choice2", "B")),
                   lambda row: f"Which sentence is the {row['question']} of \"{row['premise']}\"? Choose one between A and B.\n"
                               f"A: {row['choice1']}\nB: {row['choice2']}"),
    "MultiRC": Source(_superglue("multirc"), "validation", "label paragraph question answer", _FALSE_TRUE,
                      lambda row: f"paragraph: {row['paragraph']} \nquestion: {row['question']}\n"
                                  f"candidate answer: {row['answer']}",
                      "paragraph"),
    "BoolQA": Source(_superglue("boolq", (("google/boolq", None),)), "validation", "label|answer question passage", _FALSE_TRUE,
                     lambda row: f"question: {row['question']}\npassage: {row['passage']}", "passage"),
    "WiC": Source(_superglue("wic"), "validation", "label word sentence1 sentence2", _FALSE_TRUE,
                  lambda row: f"word: {row['word']}\n{row['sentence1']}\n{row['sentence2']}"),
}


def read_hub(benchmark: str, order=None, seed: int = 0, limit: int | None = None, named: bool = True,
             prompts: str | None = None) -> Stream:
    """The tasks of a benchmark in an order, fetched with the library `datasets`.

    order: a key of streams.ORDERS[benchmark], or task names of the benchmark; None is order 1, 4 or O1. limit: at most so many
    rows of each split, drawn with `seed` from those drawn as the module says. named, prompts: see sources.load_stream.
    Raises InputError where no id can be read (no network, say) or fits.
    """
    check_draw(limit, seed)
    label, names = _ordered(benchmark, order)
    if benchmark == "superni" and prompts == "O-LoRA":
        raise InputError("expected prompts to be SAPT or chat for superni, found 'O-LoRA', which has none for it; leave it out.")
    tasks, said = [], []
    for name in names:
        splits, labels, told = _superni(name, seed) if benchmark == "superni" else _classes(name, seed, named, prompts)
        drawn = {split: draw(splits[split], limit, f"{seed}/{name}/{split}") for split in SPLITS}
        said += told + [f"{name}: {word}" for word in [copies(splits), *unseen(labels, splits["train"], drawn["train"])] if word]
        tasks.append(TaskData(name, labels=labels, **drawn))
    if said:
        warnings.warn(f"{benchmark} from the Hub: {listed(said, '; ')}.", stacklevel=2)
    return Stream(benchmark, label, tuple(tasks), named=bool(named) and benchmark != "superni" and prompts != "SAPT")


def _ordered(benchmark: str, order) -> tuple[str, list[str]]:
    own = {key_of(name): name for names in ORDERS[benchmark].values() for name in names}
    key = next((key for key in ORDERS[benchmark] if str(order).strip().lower() == key.lower()), None)
    label, names = (key, ORDERS[benchmark][key]) if key else find_order(FIRST[benchmark] if order is None else order)
    for name in names:
        if key_of(name) not in own:
            likely = get_close_matches(key_of(name), own) or list(own)
            raise InputError(f"expected tasks of {benchmark} in the order {label!r}, found {name!r}; did you mean "
                             f"{' or '.join(own[other] for other in likely)}?")
        if (count := [key_of(other) for other in names].count(key_of(name))) > 1:
            raise InputError(f"expected every task once in the order {label!r}, found {name!r} {count} times.")
    return label, [own[key_of(name)] for name in names]


# ---- classification
Rows = dict[str, list[Example]]                    # by split


def _classes(name: str, seed: int, named: bool, prompts: str | None) -> tuple[Rows, tuple[str, ...], list[str]]:
    """({split: Examples}, labels, what has to be said) of one of the fifteen data sets."""
    source, frame = SOURCES[name], frame_of(name, prompts, named)

    def read(get) -> tuple[Rows, list[str]]:
        data, test = _with_columns(get, "train", source), _with_columns(get, source.test, source)
        asked, asked_test = (partial(_asked, frame, source, _label_of(part, source)) for part in (data, test))
        train, dev, few = _train_and_dev(data, source, name, seed, asked)
        test, _ = asked_test(f"test of {name}", test.shuffle(seed=seed) if len(test) > TEST else test, TEST)
        return {"train": train, "dev": dev, "test": test}, few

    used, (splits, few) = _first(name, source.ids, read)
    told = [f"{name} is {used}" + (", whose title and body stand in one text" if name == "agnews" else ""), *few]
    return splits, frame.labels, told


def _with_columns(get: Callable, split: str, source: Source):
    """A split with the columns that the source needs, by their first names."""
    data = get(split)
    if len(data.column_names) == 3 and data.column_names[0] in dict(source.classes):         # a row was taken for the header
        data = get(split, header=None, names=[names.partition("|")[0] for names in source.columns.split()])
    found = {}
    for names in source.columns.split():
        column = next((name for name in names.split("|") if name in data.column_names), None)
        if column is None:
            raise InputError(f"no column {' or '.join(names.split('|'))} among {', '.join(data.column_names)}")
        found[column] = names.partition("|")[0]
    if not len(data):
        raise InputError(f"no rows in {split}")
    data = data.select_columns(list(found))
    return data.rename_columns({old: new for old, new in found.items() if old != new})


def _label_of(data, source: Source) -> Callable:
    """The label of a class number or name, None where a row has no class. Numbers count from 0, or from 1 if there is no 0."""
    column = source.columns.split()[0].partition("|")[0]
    labels, feature = {name.lower(): label for name, label in source.classes}, data.features[column]
    ordered = list(labels.values())
    names = [name.lower() for name in feature.names] if type(feature).__name__ == "ClassLabel" else []
    if names and set(names) == set(labels):
        return lambda value: labels[names[value]] if value is not None and value >= 0 else None
    if names and (len(names) != len(ordered) or not all(name.isdigit() for name in names)):
        raise InputError(f"classes {', '.join(names)} in place of {', '.join(labels)}")
    values = {value for value in data.unique(column) if value not in (None, -1, "")}
    if all(isinstance(value, bool) for value in values) and set(labels) == {"false", "true"}:
        return lambda value: None if value is None else labels[str(value).lower()]
    if values and all(isinstance(value, str) and value.lower() in labels for value in values):
        return lambda value: labels[value.lower()] if value else None
    first = 0 if not names and 0 in values or names else 1 if len(ordered) in values else None
    if first is None or not all(isinstance(value, int) and first <= value < first + len(ordered) for value in values):
        raise InputError(f"classes {', '.join(sorted(map(str, values))[:9])} in place of {', '.join(labels)}")
    return lambda value: ordered[value - first] if value is not None and value >= 0 else None


def _train_and_dev(data, source: Source, name: str, seed: int, asked: Callable) -> tuple[list[Example], list[Example], list[str]]:
    """The first rows of the shuffled split, and the last, a tenth as many, which share no text (or passage) with them; and what has
    to be said where there are too few for both."""
    def about(row: dict) -> str:
        return row[source.apart] if source.apart else source.text(row)

    shuffled, count, last = data.shuffle(seed=seed), min(TRAIN * len(source.classes), len(data)), len(data)
    spare = count // 10 or int(count > 1)
    dev, seen = asked(f"dev of {name}", (shuffled[i] for i in reversed(range(last))), spare) if spare else ([], 0)
    taken = {about(row) for row in shuffled.select(range(last - seen, last))}
    rest = (row for row in shuffled.select(range(last - seen)) if about(row) not in taken)
    train, _ = asked(f"train of {name}", rest, count)
    few = f"{name}: too few rows for {count} of train and {spare} of dev, so train has {len(train)}"
    return train, dev[::-1], [few] if len(train) < count else []


def _asked(frame: Frame, source: Source, label: Callable, place: str, rows: Iterable[dict], count: int) -> tuple[list[Example], int]:
    """The first `count` rows with a class and a text as Examples, and how many rows were looked at; a warning counts the others."""
    column = source.columns.split()[0].partition("|")[0]
    found, good = [], 0
    for row in rows:
        whole = all(row[key] for key in row if key not in (column, "question_content"))
        told = label(row[column]) if whole else None
        found.append(frame.ask(source.text(row) if whole else "", *([told] if told else [])))
        good += told is not None
        if good == count:
            break
    return [example for example, keep in zip(found, usable(found, frame.labels, place)) if keep], len(found)


# ---- Super-NaturalInstructions
def _superni(name: str, seed: int) -> tuple[Rows, tuple[str, ...], list[str]]:
    """The same of one of SuperNI's fifteen tasks, with SAPT's prompt and sizes."""
    labels = SUPERNI_LABELS.get(name, ())

    def own(get) -> Rows:
        return {split: _drawn([_unwrapped(row) for row in get(part)], split, name, labels, seed)
                for split, part in zip(SPLITS, ("train", "valid", "test"))}

    def one_for_all(get) -> Rows:
        rows = [{**row, "text": row["inputs"], "output": row["targets"]} for part in ("train", "test")
                for row in get(part).filter(lambda task: task == name, input_columns="task_name")]
        random.Random(f"{seed}/{name}").shuffle(rows)
        shares = {"test": rows[::10], "dev": rows[1::10], "train": [row for i, row in enumerate(rows) if i % 10 > 1]}
        return {split: _drawn(shares[split], split, name, labels, seed) for split in SPLITS}

    used, splits = _first(name, ((f"Lots-of-LoRAs/{name}", None), ("Muennighoff/natural-instructions", None)),
                          lambda get: (own if get.args[0].startswith("Lots") else one_for_all)(get))
    return splits, labels, [f"{name} is {used}"]


def _drawn(rows: list[dict], split: str, name: str, labels: tuple[str, ...], seed: int) -> list[Example]:
    found = []
    for row in rows:
        answers = row["output"] if isinstance(row["output"], (list, tuple)) else [row["output"]]
        frame = superni_frame(row["definition"].strip())
        found.append(frame.ask(row["text"], *(answer for answer in answers if answer.strip())))
    good = [example for example, keep in zip(found, usable(found, labels, f"{split} of {name}")) if keep]
    return draw(good, SUPERNI_ROWS[split], f"{seed}/{name}/{split} of the Hub")


def _unwrapped(row: dict) -> dict:
    """Definition and text out of a whole prompt (definition, examples, text), as the parquet copies hold it."""
    head, middle, tail = row["input"].partition("Now complete the following example -\nInput: ")
    if not head.startswith("Definition: ") or not middle:
        raise InputError("no definition in its inputs")
    definition = head.removeprefix("Definition: ")
    for mark in ("\n\nPositive Example 1", "\n\nNegative Example 1"):
        definition = definition.partition(mark)[0]
    return {"definition": definition, "text": tail.rstrip().removesuffix("Output:").removesuffix("\n"), "output": row["output"]}


# ---- fetching
def _first(name: str, ids: tuple[tuple[str, str | None], ...], read: Callable):
    """(the id, what `read` makes of it) for the first of the ids that can be fetched and fits."""
    import datasets                                 # a moment to import, and only needed here
    reasons = []
    for place, config in ids:
        try:
            return place, read(partial(_fetched, place, config))
        except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reasons.append(f"{place}: {type(error).__name__ + ', ' if not isinstance(error, InputError) else ''}"
                           f"{(str(error).strip() or 'no reason given').splitlines()[0]}")
    raise InputError(f"expected the data set {name} on the Hugging Face Hub, found none that can be used ({'; '.join(reasons)}); "
                     "connect to the network (what was fetched once is found without it), or give the folder with the files.")


def _fetched(place: str, config: str | None, split: str, **options):
    import datasets
    return datasets.load_dataset(place, config, split=split, **options)
