"""Scoring a row against generating its answer; labels read as a tree behind the prompt against a whole row for each label."""
from __future__ import annotations

import random

import torch

from ..adapters import installed
from ..evaluation import generate, label_scores
from ..models import load_model, suggested
from ..settings import Settings
from ..sources import load_stream
from ..streams import Example
from ..text import collate, encode, token_ids
from .shape import Device, Numbers, Size, task_of, words
from .steps import settings_for
from .table import Table, in_turns, ratio


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


def small_scoring(table: Table, limit: int, rounds: int, tasks: int = 5) -> None:
    """The small world's own tasks on the tiny base: the two readings against generation, and how often they say the same."""
    base, tokenizer = load_model("tiny", "cpu", "float32")
    settings = Settings(**suggested(base))
    for data in load_stream("world-5", limit=limit)[:tasks]:
        found, longest = {}, max(map(len, token_ids(tokenizer, [" " + label for label in data.labels])))

        def keep(name, act):
            return lambda: found.update({name: act()})

        size = settings.eval_batch_size
        rivals = {"scoring": lambda: label_scores(base, tokenizer, data.test, data.labels, settings.max_length, size),
                  "generation, batched": lambda: generate(base, tokenizer, data.test, settings.max_length, size),
                  "generation, one by one": lambda: generate(base, tokenizer, data.test, settings.max_length, 1),
                  "a whole row for each label": lambda: rows_of_labels(base, tokenizer, data.test, data.labels, settings, size)}
        times = in_turns({name: keep(name, act) for name, act in rivals.items()}, rounds)
        case = f"{data.name}, {len(data.labels)} labels of at most {longest} tokens"
        for name in list(times)[1:]:
            table.add("scoring", f"{case}, {name}", "time over scoring", ratio(times, name, "scoring"))
        exact, options = found["scoring"]
        for name in ("generation, batched", "generation, one by one"):
            same = [(text in row.answers) == right for text, row, right in zip(found[name], data.test, exact)]
            table.add("scoring", f"{case}, {name}", "rows that agree", 100 * sum(same) / len(same), "%")
        apart = max(abs(one[label] - other[label]) for label in data.labels
                    for one, other in zip(options, found["a whole row for each label"]))
        table.add("scoring", f"{case}, a whole row for each label", "largest difference of a log-likelihood", apart, "nats")


@torch.inference_mode()
def rows_of_labels(model, tokenizer, examples: list[Example], labels, settings: Settings, size: int) -> list[dict[str, float]]:
    """evaluation.label_scores' log-likelihoods without a tree: every prompt is read anew for each of its labels."""
    ends = {label: ids for label, ids in zip(labels, token_ids(tokenizer, [" " + label for label in labels]))}
    whole = any(a != b and ends[a] == ends[b][:len(ends[a])] for a in labels for b in labels)         # then their ends count
    rows = [(i, label, row) for label in labels
            for i, row in enumerate(encode(tokenizer, [Example(each.prompt, (label,)) for each in examples], settings.max_length))]
    rows.sort(key=lambda row: len(row[2].prompt))
    table: list[dict[str, float]] = [{} for _ in examples]
    for k in range(0, len(rows), size):
        batch = collate([row for _, _, row in rows[k:k + size]], tokenizer.pad_token_id)
        logs = model(input_ids=batch.ids, logits_to_keep=batch.keep, use_cache=False).logits.float().log_softmax(-1)
        chosen = logs.gather(2, batch.targets.clamp(min=0)[..., None])[..., 0]                       # (b, k)
        counted = batch.targets >= 0 if whole else (batch.targets >= 0) & (batch.targets != tokenizer.eos_token_id)
        for (i, label, _), value in zip(rows[k:k + size], (chosen * counted).sum(1).tolist()):
            table[i][label] = value
    return table
