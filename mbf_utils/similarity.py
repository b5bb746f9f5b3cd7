"""How alike two tasks are, and what that does: the first is learned, then the second, and the first is asked again.

Two things about a pair of tasks can be set in the generated world:

    agreement  `alike_pair`: the same question about the same texts; of ten answer words a share means the same in both
               tasks, the others are exchanged. At 0 every answer of the first task is wrong in the second.
    surface    `shared_pair`: reviews of restaurants, then of products, the same five levels of praise; whether the second task
               asks the same question and answers in the same words is chosen. No answer of the one is wrong in the other's sense.

With `named` a prompt begins with its task's name, so that one model can answer both tasks; without it and at agreement 0 it
cannot: the same prompt has two right answers.

Every method here trains the first task as a plain LoRA, so it is trained once for all of them.
"""
from __future__ import annotations

import numpy as np
import pandas as pd

from . import geometry, updates
from .adapters import Adapted, installed
from .errors import InputError
from .evaluation import evaluate
from .lora import Lora, copied
from .method import Method, Task
from .methods import make_method
from .models import suggested
from .probe import Probe
from .rows import check_draw
from .settings import Settings
from .streams import Stream, TaskData
from .training import accelerator_for, train_task
from .words import Writer
from .world import DEV, STARS, TASKS, TEST, TRAIN, YAHOO, framed, general, rows

OTHER_QUESTION = "tell the mood of the writer ."
OTHER_WORDS = "1 2 3 4 5".split()


def alike_pair(likeness: float, seed: int = 0, limit: int | None = None, named: bool = False) -> Stream:
    """Two tasks, "first" and "second", whose likeness from 0 to 1 the reader sets.

    Both ask for the topic of the same prompts (yahoo's ten topics). Of the ten answer words, round(10 * likeness),
    drawn by the seed, mean the same in both tasks; each other word of the first task becomes the next word of the list
    in the second. 1: the second task is the first once more; 0: every answer of the first is wrong in the second.
    """
    if not 0 <= likeness <= 1:
        raise InputError(f"likeness is a number from 0 (every answer differs) to 1 (the same task), not {likeness!r}.")
    check_draw(limit, seed)
    design, answers = TASKS["yahoo"], list(YAHOO)
    kept = Writer(f"{seed} alike").some(answers, 10)[:round(10 * likeness)]
    second = {answer: answer if answer in kept else after for answer, after in zip(answers, answers[1:] + answers[:1])}
    pairs = rows(design, f"{seed} alike", TRAIN + DEV + TEST)
    tasks = (framed("first", design, pairs, (TRAIN, DEV, TEST), limit, named),
             framed("second", design, [(text, second[answer]) for text, answer in pairs], (TRAIN, DEV, TEST), limit, named))
    return Stream("alike", f"{likeness:g}", tasks, general())


def shared_pair(question: bool, words: bool, seed: int = 0, limit: int | None = None, named: bool = False) -> Stream:
    """Two tasks, "first" and "second": five levels of praise, of restaurants and then of products.

    question: whether the second task asks as the first does; words: whether it answers in the same words, else in the numbers 1
    to 5. Both tasks' texts and meanings depend on the seed alone.
    """
    one, two = TASKS["yelp"], TASKS["amazon"]
    second = two._replace(instruction=two.instruction if question else OTHER_QUESTION)
    said = dict(zip(STARS, STARS if words else OTHER_WORDS))
    sizes, count = (TRAIN, DEV, TEST), TRAIN + DEV + TEST
    found = [(text, said[answer]) for text, answer in rows(two, f"{seed} shared second", count)]
    second = second._replace(answers={said[answer]: levels for answer, levels in two.answers.items()})
    tasks = (framed("first", one, rows(one, f"{seed} shared first", count), sizes, limit, named),
             framed("second", second, found, sizes, limit, named))
    which = [f"{'same' if shared else 'other'} {what}" for shared, what in ((question, "question"), (words, "words"))]
    return Stream("shared", ", ".join(which), tasks, general(), named)


def learn_pairs(streams: list[Stream], methods: list[str], base, seed: int = 0, **settings) -> pd.DataFrame:
    """Learns each pair with each method, in (model, tokenizer) = `base`, which is given back as it was.

    streams: pairs with one and the same first task. methods: names in METHODS whose first task is a plain LoRA. settings: fields
    of settings.Settings. Columns: pair (the stream's order), method, and for both readings ("" exact match, "_labels" the best of
    the task's labels) learned (the first task when learned), left (after the second), second (the second when learned); of the
    two updates (`updates.updates`) cosine and the shares of the second in the span of the first (`updates.shares`): rows,
    columns, both, own, each with ..._expected; size: norm of the second by that of the first.
    """
    if not streams or any(len(stream) != 2 or stream[0] != streams[0][0] for stream in streams):
        raise InputError("expected pairs of tasks with one and the same first task, found others or none")
    model, tokenizer = base
    settings = Settings(**{**suggested(model), **settings})
    found = []
    with installed(model, settings.targets, settings.rank, settings.alpha, settings.dropout) as adapted:
        def task(index: int, data: TaskData) -> Task:
            return Task(index, data.name, data.train, settings.rank, adapted.scaling, adapted.sites, seed, 2, adapted.device,
                        probe=Probe(adapted, tokenizer, data.train, settings))

        def ask(lora: Lora, data: TaskData) -> tuple[float, float]:
            adapted.wear(lora)
            return evaluate(adapted.model, tokenizer, data, settings.evaluate_on, settings.max_length, settings.eval_batch_size)[:2]

        first = task(1, streams[0][0])
        started, tuned, _ = _trained(adapted, Method(), first, tokenizer, settings)
        learned, one = ask(tuned, streams[0][0]), updates.updates([tuned], [started])[0]
        for stream in streams:
            for name in methods:
                method = make_method(name)
                method.finish(copied(tuned), first)
                start, after, result = _trained(adapted, method, task(2, stream[1]), tokenizer, settings)
                scores = {"learned": learned, "left": ask(result, stream[0]), "second": ask(result, stream[1])}
                flat = {key + tail: score[k] for k, tail in enumerate(("", "_labels")) for key, score in scores.items()}
                found.append({"pair": stream.order, "method": name, **flat, **_beside(one, updates.updates([after], [start])[0])})
    return pd.DataFrame(found)


def _trained(adapted: Adapted, method: Method, task: Task, tokenizer, settings: Settings) -> tuple[Lora, Lora, Lora]:
    """(where training began, where it ended, the model from then on)."""
    start = copied(method.start(task).lora)
    train_task(adapted, method, task, tokenizer, settings, accelerator_for(adapted.model))
    tuned = copied(adapted.live())
    return start, tuned, method.finish(copied(tuned), task)


def _beside(one: Lora, two: Lora) -> dict[str, float]:
    """The geometry of two updates, all modules as one block-diagonal matrix."""
    dots = sum(geometry.dots([one, two], path)["dW"].numpy() for path in one)                  # (2, 2)
    table = updates.over_modules(updates.shares([one, two])).set_index("part")
    sizes = np.sqrt(dots.diagonal())
    found = {"cosine": dots[0, 1] / sizes.prod(), "size": sizes[1] / sizes[0]}  # type: ignore[index]
    for part in updates.PARTS:
        found |= {part: table.value[part], f"{part}_expected": table.expected[part]}
    return {name: float(value) for name, value in found.items()}
