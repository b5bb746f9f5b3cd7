"""The offline world: streams of invented tasks that mirror the field's 15-task benchmark, made from a seed.

A text carries a meaning (a level of praise, a theme, whether one fact follows from another), and a task is a question
about that meaning with its own answer words. Nothing is read from disk and nothing is fetched.

What drives the differences between methods, and is so in the real benchmark too: the instruction names the kind of
task, not the data set, so tasks of one kind (amazon and yelp and sst2; yahoo and agnews and dbpedia) meet under the
same words and partly disagree about the answer; answer words collide ("true" and "false" serve four tasks, "neutral" a
star rating and a logical relation, "sports" two lists of topics); and one sort of meaning serves many tasks, so that
learning one can help another. Which of this harms or helps which method is left to the measurement.

No task can be solved to 100 %: nouns stray from the theme, clauses from the rating, and a known share of the answers
(`Design.noise`, in every split) is wrong on purpose.
"""
from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Callable, NamedTuple

from mbf_utils import corpus, words
from mbf_utils.errors import InputError
from mbf_utils.rows import check_draw
from mbf_utils.streams import Example, Stream, TaskData
from mbf_utils.words import Writer

TRAIN, DEV, TEST = 1000, 200, 200                               # rows of a task
SHORT = (200, 50, 100)                                          # rows of a task of world-100
ORDERS = {
    "world-5": {"1": "dbpedia amazon yahoo agnews yelp", "2": "yelp agnews dbpedia amazon yahoo",
                "3": "yahoo yelp amazon agnews dbpedia"},
    "world-15": {"4": "mnli cb wic copa qqp boolqa rte imdb yelp amazon sst2 dbpedia agnews multirc yahoo",
                 "5": "multirc boolqa wic mnli cb copa qqp rte imdb sst2 dbpedia agnews yelp amazon yahoo",
                 "6": "yelp amazon mnli cb copa qqp rte imdb sst2 dbpedia agnews yahoo multirc boolqa wic"},
    "world-100": {"1": ""},                                     # its one order is made by `_hundred`
}


class Design(NamedTuple):
    """A task: `answers` maps each answer to the meanings it stands for, `text(write, meaning)` writes a text of one."""
    kind: str
    instruction: str
    answers: dict[str, tuple]
    noise: float                                                # share of rows with a wrong answer
    text: Callable[[Writer, object], str]


SENTIMENT = "what is the sentiment of the following paragraph ?"
TOPIC = "what is the topic of the following paragraph ?"
LOGIC = "what is the logical relation between sentence one and sentence two ?"
STARS = {"very negative": (0,), "negative": (1,), "neutral": (2,), "positive": (3,), "very positive": (4,)}
GOOD_BAD = {"good": (3, 4), "bad": (0, 1)}
YAHOO = dict(zip("society science health education computers sports business entertainment family politics".split(),
                 ((theme,) for theme in words.THEMES)))
DBPEDIA = {answer: (theme,) for answer, theme in (pair.split(":") for pair in (
    "company:trade institution:schooling artist:painting athlete:games politician:government transportation:travel "
    "building:architecture nature:landscape village:hamlet animal:creature plant:botany album:music film:screen_art "
    "book:reading").split())}
AGNEWS = {"world": ("government",), "sports": ("games",), "business": ("trade",), "technology": ("computing", "research")}
RELATION = {"entailment": ("follows",), "contradiction": ("conflicts",), "neutral": ("open",)}
TRUE_FALSE = {"true": (True,), "false": (False,)}


def _review(domain, clauses):
    return lambda write, level: write.review(domain, level, clauses)


def _remarks(purity):
    return lambda write, theme: f"{write.remark(theme, purity)} {write.remark(theme, purity)}"


def _mnli(write, relation):
    first, second = write.claim(relation)
    return f"sentence one : {first} . sentence two : {second} ."


def _cb(write, relation):
    first, second = write.claim(relation)
    return f"{write.pick(words.NAMES)} believes it . sentence one : {first} . sentence two : {second} ."


def _rte(write, relation):
    first, second = write.claim(relation)
    return f"passage : {first} . sentence : {second} ."


def _qqp(write, same):
    who, verbs, thing = write.pick(words.NAMES), write.pick(words.VERBS), write.pick(words.THINGS)
    first, second = write.fact(who, verbs[0], thing), write.fact(who, verbs[1], thing)
    if not same:
        second = write.pick((write.fact(who, verbs[2], thing), write.fact(who, verbs[1], write.other(words.THINGS, thing))))
    return f"question one : why is it that {first} ? question two : what makes it so that {second} ?"


def _wic(write, same):
    word = write.pick(list(words.TWOFOLD))
    one, two = write.some(words.TWOFOLD[word], 2)
    return (f"word : {word} . sentence one : {write.remark(one, 0.95, word)} "
            f"sentence two : {write.remark(one if same else two, 0.95, word)}")


def _copa(write, fits):
    one, side = write.pick(words.CAUSES), write.pick((0, 1))
    two = one if fits else write.other(words.CAUSES, one)
    who, whom = write.some(words.NAMES, 2)
    return f"sentence {who} : {one[side]} . {('effect', 'cause')[side]} {whom} : {two[1 - side]} ."


def _passage_claim(write, true):
    return write.claim("follows" if true else write.pick(("conflicts", "open")))


def _boolqa(write, true):
    first, second = _passage_claim(write, true)
    return f"passage : {first} . question : {second} ."


def _multirc(write, true):
    first, second = _passage_claim(write, true)
    return f"{write.remark(write.pick(list(words.THEMES)))} passage : {first} . candidate : {second} ."


TASKS = {
    "mnli": Design("nli", LOGIC, RELATION, 0.04, _mnli),
    "cb": Design("nli", LOGIC, RELATION, 0.05, _cb),
    "rte": Design("nli", LOGIC, {"entailment": ("follows",), "contradiction": ("conflicts", "open")}, 0.04, _rte),
    "qqp": Design("qqp", "do question one and question two have the same meaning ?", TRUE_FALSE, 0.05, _qqp),
    "wic": Design("wic", "is the word used with the same sense in sentence one and sentence two ?", TRUE_FALSE, 0.04, _wic),
    "boolqa": Design("boolqa", "according to the passage is the question true or false ?", TRUE_FALSE, 0.04, _boolqa),
    "multirc": Design("multirc", "according to the passage and the question is the candidate true or false ?",
                      TRUE_FALSE, 0.04, _multirc),
    "copa": Design("copa", "is it the cause or the effect , a , or not , b ?", {"a": (True,), "b": (False,)}, 0.04, _copa),
    "imdb": Design("sc", SENTIMENT, GOOD_BAD, 0.03, _review("movie", 5)),
    "sst2": Design("sc", SENTIMENT, GOOD_BAD, 0.03, _review("movie", 2)),
    "amazon": Design("sc", SENTIMENT, STARS, 0.01, _review("product", 4)),
    "yelp": Design("sc", SENTIMENT, STARS, 0.01, _review("restaurant", 3)),
    "dbpedia": Design("tc", TOPIC, DBPEDIA, 0.02, _remarks(0.85)),
    "yahoo": Design("tc", TOPIC, YAHOO, 0.04, _remarks(0.7)),
    "agnews": Design("tc", TOPIC, AGNEWS, 0.04, _remarks(0.75)),
}


def rows(design: Design, key: str, count: int) -> list[tuple[str, str]]:
    """`count` pairs (text, answer), no text twice. The wrong answers are drawn apart: without them the texts are the same."""
    write, err = Writer(key), Writer(key + " noise")
    answers, found = list(design.answers), {}
    while len(found) < count:
        answer = write.pick(answers)
        text = design.text(write, write.pick(design.answers[answer]))
        if text not in found:
            found[text] = err.other(answers, answer) if err.chance(design.noise) else answer
    return list(found.items())


# ---- world-100
SHORT_NAMES = {themes[0]: answer for answer, themes in [*DBPEDIA.items(), *YAHOO.items()]}
TWO_ANSWERS = (("good", "bad"), ("true", "false"), ("a", "b"), ("positive", "negative"))
THREE_ANSWERS = (("entailment", "neutral", "contradiction"), ("true", "neutral", "false"), ("a", "b", "c"))


def variant(number: int, seed: int) -> Design:
    """The `number`-th new task of world-100: of eight, five ask for one of four topics, two for a sentiment, the last for
    a logical relation, each with answer words drawn anew.

    Topics are called by their own names or by the letters a to d; letters and the words of two or three answers mean
    something else in every task.
    """
    write = Writer(f"{seed} variant {number}")
    if number % 8 == 0:
        return Design("nli", LOGIC, dict(zip(write.some(write.pick(THREE_ANSWERS), 3), RELATION.values())), 0.03,
                      write.pick((_mnli, _cb, _rte)))
    if number % 4 == 1:
        levels = ((0, 1), (3, 4)) if write.chance(0.5) else ((0,), (1, 2))
        return Design("sc", SENTIMENT, dict(zip(write.some(write.pick(TWO_ANSWERS), 2), levels)), 0.03,
                      _review(write.pick(list(words.ASPECTS)), 4))
    themes = write.some(list(words.THEMES), 4)
    answers = [SHORT_NAMES[theme] for theme in themes] if number % 2 == 0 else "a b c d".split()
    return Design("tc", TOPIC, {answer: (theme,) for answer, theme in zip(answers, themes)}, 0.03, _remarks(0.85))


def hundred() -> list[str]:
    """The names of world-100 in order. Of each ten tasks eight are new ("v1" to "v80"); the ninth of the b-th ten is
    v(4b-3) again, row for row ("v1-again", "v5-again", ..., "v37-again"), and the tenth is v(4b-1) with the same prompts
    and every answer word moved on to the next ("v3-changed", ..., "v39-changed"). They return 7 to 54 tasks later.
    """
    names = []
    for block in range(1, 11):
        names += [f"v{number}" for number in range(8 * block - 7, 8 * block + 1)]
        names += [f"v{4 * block - 3}-again", f"v{4 * block - 1}-changed"]
    return names


# ---- from rows to tasks
def framed(name: str, design: Design, pairs: list, sizes: tuple[int, int, int], limit: int | None, named: bool) -> TaskData:
    """Cut the rows into train, dev and test and put the frame around each text."""
    words_of_name = " ".join(name.partition("-")[0]) if name[1:2].isdigit() else name      # v17-again is written "v 1 7"
    frame = (f"task : {design.kind} . dataset : {words_of_name} . " if named else "") + design.instruction + " "
    examples = [Example(f"{frame}{text} answer :", (answer,), (len(frame), len(frame) + len(text))) for text, answer in pairs]
    train, dev, test = sizes
    splits = examples[:train], examples[train:train + dev], examples[train + dev:train + dev + test]
    return TaskData(name, *(split[:limit] for split in splits), labels=tuple(design.answers))  # type: ignore[misc]


@lru_cache(maxsize=256)
def _made(name: str, seed: int, limit: int | None, named: bool) -> TaskData:
    if name in TASKS:
        pairs = rows(TASKS[name], f"{seed} {name}", TRAIN + DEV + TEST)
        return framed(name, TASKS[name], pairs, (TRAIN, DEV, TEST), limit, named)
    first, _, returned = name.partition("-")
    design = variant(int(first[1:]), seed)
    pairs = rows(design, f"{seed} {first}", sum(SHORT))
    if returned == "changed":
        answers = list(design.answers)
        moved = dict(zip(answers, answers[1:] + answers[:1]))
        pairs = [(text, moved[answer]) for text, answer in pairs]
    return framed(name, design, pairs, SHORT, limit, named)


def world_stream(name: str, order=None, seed: int = 0, limit: int | None = None, named: bool = False) -> Stream:
    """The stream "world-5", "world-15" or "world-100".

    order: its number in the field ("1" to "3" for world-5, "4" to "6" for world-15, "1" for world-100; the first is
    the default), or a list of the stream's task names. limit: at most that many rows in each of train, dev and test.
    named: whether a prompt begins with the kind of task and the data set ("task : sc . dataset : yelp . ..."), as the
    field's prompts do. A task has 1000, 200 and 200 rows (world-100: 200, 50 and 100), no prompt twice. The rows
    depend on the seed and the task alone, not on order, limit (which cuts) or named (which adds the frame). The short
    tasks of world-100 want more epochs than the long ones: four, of seven steps each at a batch of 32.
    Unusable arguments raise InputError.
    """
    if name not in ORDERS:
        raise InputError(f"the world has the streams {', '.join(ORDERS)}, not {name!r}.")
    orders = {key: text.split() or hundred() for key, text in ORDERS[name].items()}
    known = next(iter(orders.values()))
    if isinstance(order, (list, tuple)):
        tasks, order = list(order), ",".join(map(str, order))
        wrong = [task for task in tasks if task not in known]
        if wrong or not tasks or len(set(tasks)) < len(tasks):
            raise InputError(f"an order of {name} is a list of its tasks without repetition ({', '.join(known[:15])}), "
                             f"not {order!r}.")
    else:
        order = next(iter(orders)) if order is None else str(order)
        if order not in orders:
            raise InputError(f"{name} has the orders {', '.join(orders)}, or take a list of its task names; not {order!r}.")
        tasks = orders[order]
    check_draw(limit, seed)
    return Stream(name, order, tuple(_made(task, seed, limit, named) for task in tasks), general())


# ---- what the base is made from
@lru_cache(maxsize=1)
def general() -> tuple[str, ...]:
    """200 documents that no task contains and that pretraining leaves out: what a base knows besides the tasks."""
    write, found = Writer("general", CONTENT), {}
    while len(found) < 200:
        found[corpus.document(write)] = None
    return tuple(found)


def pretraining_document(write: Writer) -> str:
    """One document to make a base from: a text of `corpus.document`, or any words of the vocabulary to repeat or to choose."""
    if write.chance(0.92):
        return corpus.document(write)
    some = write.some(CONTENT, write.pick((2, 3, 4)))
    if write.chance(0.5):
        return f"repeat {' '.join(some)} reply : {' '.join(some)} ."
    place = write.pick(range(len(some)))
    return f"{' , '.join(some)} . take the {('first', 'second', 'third', 'fourth')[place]} reply : {some[place]} ."


FRAME = """task dataset answer one two sentence question word passage candidate choice believes why makes what does say so
    that is it was the cause effect repeat take first second third fourth a b c d v 0 1 2 3 4 5 6 7 8 9""".split()


@lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Every word of the world, after the four special tokens: the place of a word is its token id in the built-in bases."""
    found = {*corpus.FRAME, *FRAME, *words.LINKS, *words.NAMES, *words.PLACES, *words.COLORS, *words.MOODS, *words.TWOFOLD}
    for pool in (*words.LEVELS, *words.VERBS):
        found.update(pool)
    for table in (words.ASPECTS, words.THEMES, words.KINDS):
        found.update(*table.values(), table)
    for text in (part for pair in words.CAUSES for part in pair):
        found.update(text.split())
    for name, design in TASKS.items():
        found.update([name, design.kind], design.instruction.split(), *(answer.split() for answer in design.answers))
    return ("<pad>", "<s>", "</s>", "<unk>", *sorted(found))


CONTENT = tuple(word for word in vocabulary()[4:] if word not in {".", ",", ":", "?"})
VOCABULARY_HASH = "6e1e6a76b7d1cb96"                                           # of the built-in bases; a new word means new bases


def vocabulary_hash() -> str:
    return hashlib.sha256("\n".join(vocabulary()).encode()).hexdigest()[:16]
