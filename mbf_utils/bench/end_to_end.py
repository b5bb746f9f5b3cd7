"""End to end: sequential LoRA over the embedded stream, with the full matrix, by the kit and by the script that a PEFT user writes.

Every form trains each task from the same pair with the same batches; every evaluation scores the same adapters. How far the trained
factors are apart and how many answers differ stands in the table beside the times.
"""
from __future__ import annotations

import tempfile
from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..adapters import Adapted, installed
from ..evaluation import label_scores
from ..folded import unfolded
from ..lora import Lora, copied
from ..method import Task, seed_of
from ..models import load_model, suggested
from ..settings import Settings
from ..sources import load_stream
from ..text import collate, encode
from ..training import accelerator_for, train_task, window_plan
from . import scripts
from .steps import Timed
from .table import Table, ratio, seconds

KIT, EXACT, CAREFUL, USUAL = "the kit", "the kit's exact match alone", "a careful script", "the usual script"
aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default,
            aten._scaled_dot_product_flash_attention_for_cpu.default,
            aten._scaled_dot_product_flash_attention_for_cpu_backward.default}


class Products(TorchDispatchMode):
    """Notes every matrix product and attention that is computed inside, with its operands."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in PRODUCTS:
            self.found.append((function, args, kwargs or {}))
        return function(*args, **(kwargs or {}))

    @torch.no_grad()
    def again(self) -> None:
        """The same products in a loop, and nothing else."""
        for function, args, kwargs in self.found:
            function(*args, **kwargs)


@contextmanager
def stock(adapted: Adapted):
    """PEFT's own layers, as a script has them. The Trainer leaves a model in training mode and may change how it is called."""
    forward = adapted.model.forward
    with unfolded(adapted.layers.values()):
        yield
    adapted.model.forward = forward
    adapted.model.eval()


def end_to_end(table: Table, tasks: int, limit: int, epochs: float, model: str = "tiny") -> None:
    """The first `tasks` tasks of world-5, `limit` train and test rows each."""
    base, tokenizer = load_model(model, "cpu", "float32")
    settings = Settings(**{**suggested(base), "epochs": epochs})
    stream = load_stream("world-5", limit=limit)[:tasks]
    train, score, step, floors, apart, differ = {}, {}, {}, {}, [], {EXACT: 0, CAREFUL: 0, USUAL: 0}
    with tempfile.TemporaryDirectory(prefix="mbf-bench-") as out, \
            installed(base, settings.targets, settings.rank, settings.alpha, settings.dropout) as adapted:
        lora: Lora | None = None
        for index, data in enumerate(stream, 1):
            task = Task(index, data.name, data.train, settings.rank, adapted.scaling, adapted.sites, 0)
            start, tuned = lora or task.fresh(), {}
            for form in (KIT, CAREFUL, USUAL):
                ticks = []
                spent = seconds(lambda: ticks.extend(learned(form, adapted, task, start, tokenizer, settings, out)))
                train.setdefault(form, []).append(spent)
                step.setdefault(form, []).append((ticks[-1] - ticks[2]) / (len(ticks) - 3))
                tuned[form] = copied(adapted.live())
            for whose, form in (("its", nullcontext), ("PEFT's", stock)):
                with form(adapted):
                    floors.setdefault(whose, []).append(product_seconds(adapted, data.train, tokenizer, settings, form is stock))
            apart += [distance(tuned[form], tuned[KIT]) for form in (CAREFUL, USUAL)]
            lora = tuned[KIT]
            adapted.wear(lora)
            found = {}
            for form in (KIT, EXACT, CAREFUL, USUAL):
                def act(form=form):
                    found[form] = [scored(form, adapted, tokenizer, other, settings) for other in stream[:index]]
                score.setdefault(form, []).append(seconds(act))
            for form in differ:
                differ[form] += sum(a != b for one, other in zip(found[form], found[KIT]) for a, b in zip(one, other))
    for form in (KIT, CAREFUL, USUAL):
        table.add("end to end", f"{form}, training", "time a step", [1e3 * each for each in step[form]], "ms")
        table.add("end to end", f"{form}, training", "sum", sum(train[form]), "s")
        table.add("end to end", f"{form}, scoring", "sum", sum(score[form]), "s")
        table.add("end to end", f"{form}, whole", "sum", sum(train[form]) + sum(score[form]), "s")
    for form in (CAREFUL, USUAL):
        table.add("end to end", f"{form} over the kit", "ratio of time a step", ratio(step, form, KIT))
        table.add("end to end", f"{form} over the kit", "ratio of scoring", ratio(score, form, KIT))
        table.add("end to end", f"{form} over the kit", "ratio of the whole",
                  (sum(train[form]) + sum(score[form])) / (sum(train[KIT]) + sum(score[KIT])))
        table.add("end to end", f"{form} over {EXACT}", "ratio of scoring", ratio(score, form, EXACT))
    for form, count in differ.items():
        table.add("end to end", f"{form} and the kit", "answers that differ", count)
    for whose, floor in floors.items():
        products = f"{whose} bare matrix products"
        table.add("end to end", products, "time a step", [1e3 * each for each in floor], "ms")
        table.add("end to end", f"the kit over {products}", "ratio of time a step", [a / b for a, b in zip(step[KIT], floor)])
    table.add("end to end", "scripts and the kit", "largest relative difference of the trained factors", max(apart))


def learned(form: str, adapted: Adapted, task: Task, start: Lora, tokenizer, settings: Settings, out: str) -> list[float]:
    """Trains `start` on the task's rows; returns when each step began."""
    if form == KIT:
        method = Timed()
        method.memory["tuned"] = start
        train_task(adapted, method, task, tokenizer, settings, accelerator_for(adapted.model))
        return method.ticks
    adapted.wear(start, trains="AB")
    windows = window_plan(len(task.train), settings, 1, seed_of(task.seed, task.index, "order"))
    with stock(adapted):
        return scripts.learn(adapted.model, encode(tokenizer, task.train, settings.max_length), windows, settings,
                             tokenizer.pad_token_id, form == CAREFUL, out)


def scored(form: str, adapted: Adapted, tokenizer, data, settings: Settings) -> list[bool]:
    """Which test rows the model answers rightly."""
    if form in (KIT, EXACT):                        # without labels only what generation tells is read
        labels = data.labels if form == KIT else ()
        return label_scores(adapted.model, tokenizer, data.test, labels, settings.max_length, settings.eval_batch_size)[0]
    with stock(adapted):
        return scripts.score(adapted.model, tokenizer, data.test, settings, form == CAREFUL)


def product_seconds(adapted: Adapted, rows, tokenizer, settings: Settings, whole: bool, count: int = 8) -> float:
    """The median seconds of the matrix products of one step, over steps on `count` batches of these rows. whole: with all of the
    last layer, as it is computed for one who asks for hidden states."""
    adapted.wear(copied(adapted.live()), trains="AB")
    encoded, spent = encode(tokenizer, rows, settings.max_length), []
    for k in range(0, min(len(encoded), count * settings.batch_size), settings.batch_size):
        batch = collate(encoded[k:k + settings.batch_size], tokenizer.pad_token_id)
        with Products() as products:
            batch.loss(adapted.model(input_ids=batch.ids, logits_to_keep=batch.keep, use_cache=False, output_hidden_states=whole).logits).backward()
        products.again()
        spent.append(min(seconds(products.again) for _ in range(3)))
    adapted.model.zero_grad()
    return sorted(spent)[len(spent) // 2]


def distance(one: Lora, other: Lora) -> float:
    """The largest ||X - Y|| / ||Y|| over all factors."""
    return max(float((x - y).norm() / y.norm()) for path in one for x, y in zip(one[path], other[path]))
