"""Scoring a row against generating its answer."""
from __future__ import annotations

import random

from ..adapters import installed
from ..evaluation import generate, label_scores
from ..streams import Example
from .shape import Device, Numbers, Size, task_of, words
from .steps import settings_for
from .table import Table, in_turns


def scoring(table: Table, device: Device, size: Size, model) -> None:
    """Both readings of a row by evaluation.label_scores against greedy generation of as many tokens as an answer has, and of the
    field's usual 50; batched, and one prompt at a time (8 rows, scaled)."""
    settings, rng, tokenizer = settings_for("q and v", size), random.Random(1), Numbers()
    prompts = [words(size.prompt - 1, size.vocabulary, rng) for _ in range(size.rows)]
    with installed(model, settings.targets, settings.rank, settings.alpha) as adapted:
        adapted.wear(task_of(adapted, 1).fresh())
        model = adapted.model
        for tokens in (1, 3):
            labels = tuple(words(tokens, size.vocabulary, rng) for _ in range(4))
            rows = [Example(prompt, (labels[i % 4],)) for i, prompt in enumerate(prompts)]
            few = rows[:8]
            times = in_turns({
                "scoring": lambda: label_scores(model, tokenizer, rows, labels, 4096, size.rows),
                "generation, batched": lambda: generate(model, tokenizer, rows, 4096, size.rows, tokens + 1),
                "generation, one by one": lambda: generate(model, tokenizer, few, 4096, 1, tokens + 1)}, size.rounds, device.sync)
            times["generation, one by one"] = [each * len(rows) / len(few) for each in times["generation, one by one"]]
            if tokens == 1:
                times |= in_turns({f"generation, batched, {size.new_tokens} tokens":
                                   lambda: generate(model, tokenizer, rows, 4096, size.rows, size.new_tokens)}, 1, device.sync, 0)
            for name, spent in times.items():
                case = f"labels of {tokens} tokens, {name}"
                table.add("scoring", case, "time a row", [1e3 * each / len(rows) for each in spent], "ms")
                table.add("scoring", case, "time over scoring", [each / base for each, base in zip(spent, times["scoring"])])
