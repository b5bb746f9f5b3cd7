"""Is the newest version of an adapter worse than the ones before it? Asked before it is published.

A probe is a set of held-out rows, a score a number where higher is better; without a scorer of one's own it is minus the mean
loss on the rows' labelled tokens, in nats. A probe's drop is the best score of the earlier versions that are kept minus the
newest one's: measured against the best, so that many small steps down do not pass one by one.
"""
from __future__ import annotations

import math
from pathlib import Path
from typing import Callable

import pandas as pd
import torch

from .chats import chat_rows, read_chats
from .errors import InputError, Worse
from .loops import Rows, collated
from .sources import load_probes
from .text import IGNORE, encode


@torch.no_grad()
def held_out(model, rows, batch_size: int = 8) -> float:
    """Minus the mean loss of the labelled tokens, in nats. rows: a list, DataLoader or Dataset of dicts with input_ids, labels and
    attention_mask, each a row (T,) or a batch (b, T)."""
    rows, total, tokens = Rows(rows, "to check"), 0.0, 0
    device = next(model.parameters()).device
    for k in range(0, len(rows), batch_size):
        batch = collated(rows[k:k + batch_size], device)
        logits = model(input_ids=batch.ids, logits_to_keep=batch.keep, use_cache=False).logits      # (b, k, V)
        total += float(batch.loss(logits, "sum"))
        tokens += batch.tokens
    if not tokens:
        raise InputError("expected rows with labels to score, found none: -100 stands where no loss is wanted")
    return -total / tokens


def compared(versions: list[str], wear: Callable[[int], object], probes: dict, max_drop: float, scorer: Callable) -> pd.DataFrame:
    """One row a probe: each version's score, and the drop. wear(k) gives the model that wears version k; the last is the newest.

    Raises Worse, with this table, where a drop is above max_drop, and InputError where that is no finite number of 0 or more.
    """
    if not 0 <= max_drop < math.inf:                # nothing drops by more than nan
        raise InputError(f"expected max_drop to be a finite number, 0 or more, found {max_drop!r}")
    scores = {}
    for k, version in enumerate(versions):
        model = wear(k)
        scores[version] = [float(scorer(model, rows)) for rows in probes.values()]
        if odd := [name for name, score in zip(probes, scores[version]) if not math.isfinite(score)]:
            raise InputError(f"expected a finite score of every probe, found {scores[version]} ({odd[0]}, {version})")
    table = pd.DataFrame(scores, index=pd.Index(probes, name="probe"))
    table["drop"] = table[versions[:-1]].max(axis=1) - table[versions[-1]]
    bad = table[table["drop"] > max_drop]
    if len(bad):
        told = ", ".join(f"{name} by {drop:.4g}" for name, drop in bad["drop"].items())
        raise Worse(f"expected no probe to drop by more than {max_drop:g} with {versions[-1]}, found {told}: do not publish it, "
                    "rollback() goes back", table)
    return table


def read_probes(sources: list[str], tokenizer, max_length: int = 1024) -> dict[str, list[dict[str, list[int]]]]:
    """{name: rows}: a JSON Lines file with chat messages is one probe, whole; a stream (what load_stream takes) is one for each task
    with test rows, which are all rows of a table without a column split."""
    probes = {}
    for source in sources:
        if (chats := read_chats(source)) is not None:
            probes[Path(source).stem] = chat_rows(tokenizer, chats, max_length)
        else:
            probes |= {task.name: rows_of(tokenizer, task.test, max_length) for task in load_probes(source) if task.test}
    return probes


def rows_of(tokenizer, examples, max_length: int = 1024) -> list[dict[str, list[int]]]:
    """A task's examples as rows, with the loss on the first answer."""
    return [{"input_ids": row.prompt + row.answer, "attention_mask": [1] * len(row.prompt + row.answer),
             "labels": [IGNORE] * len(row.prompt) + row.answer} for row in encode(tokenizer, examples, max_length)]
