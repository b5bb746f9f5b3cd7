"""One row of the accuracy matrix: how well the model that is worn answers a task's rows.

Two readings, both in percent:
    exact     the answer that the model would generate equals a right one (the field's headline)
    options   of the task's labels, the right one is the likeliest: what is still known, whatever words come out

With labels, `exact` asks whether every token of the right answer and its end is the arg max when the answer is fed in:
greedy decoding writes exactly that answer if and only if this holds. The same pass scores labels of one token; longer
labels run on from the cached prompt. Without labels the answer is generated and compared after `text.normalise`.

The likelihood of a label is that of its tokens; where one label is the beginning of another, its end counts too.
"""
from __future__ import annotations

import copy
import logging
import warnings
from dataclasses import replace
from typing import Callable, NamedTuple

import torch

from .streams import Example, TaskData
from .text import Batch, Encoded, answer_text, collate, encode, normalise, token_ids

# transformers 5.2x has another name for the cache's argument and says so at every call; older ones know this name only
warnings.filterwarnings("ignore", "`past_key_values`", FutureWarning)
logging.getLogger("transformers.utils.generic").addFilter(lambda record: "`past_key_values`" not in record.getMessage())


class Score(NamedTuple):
    exact: float                                    # percent
    options: float                                  # percent; NaN where the task has no labels


def _nothing(batch: Batch) -> None:
    pass


def evaluate(model, tokenizer, task: TaskData, split: str = "test", max_length: int = 1024, batch_size: int = 50,
             max_new_tokens: int = 50, see: Callable[[Batch], None] = _nothing) -> Score:
    """The model's two accuracies on a split of a task; the model is left in evaluation mode. `see` gets every batch before
    the model does: for adapters that are routed by the input (training.routed)."""
    examples = getattr(task, split)
    if not examples:
        return Score(float("nan"), float("nan"))
    model.eval()
    if not task.labels:
        return Score(100 * _mean(_generated(model, tokenizer, examples, max_length, batch_size, max_new_tokens, see)), float("nan"))
    exact, options = label_scores(model, tokenizer, examples, task.labels, max_length, batch_size, see)
    return Score(100 * _mean(exact), 100 * _mean([max(row, key=row.get) in example.answers
                                                  for row, example in zip(options, examples)]))


@torch.inference_mode()
def label_scores(model, tokenizer, examples: list[Example], labels, max_length: int = 1024, batch_size: int = 50,
                 see: Callable[[Batch], None] = _nothing):
    """For each example: is one of its answers what greedy decoding writes; and {label: log-likelihood in nats}."""
    exact, options = [False] * len(examples), [{}] * len(examples)
    device = next(model.parameters()).device
    for blank in ("", " "):                                          # what stands between a prompt and its answer
        flat = [(i, replace(example, answers=(answer,))) for i, example in enumerate(examples)
                if answer_text(example, "") == blank for answer in example.answers]
        rows = list(zip([i for i, _ in flat], encode(tokenizer, [example for _, example in flat], max_length)))
        rows.sort(key=lambda row: len(row[1].prompt))
        tails = dict(zip(labels, token_ids(tokenizer, [blank + label for label in labels])))
        if any(a != b and tails[a] == tails[b][:len(tails[a])] for a in labels for b in labels):
            tails = {label: ids + [tokenizer.eos_token_id] for label, ids in tails.items()}
        for k in range(0, len(rows), batch_size):
            owners, chosen = zip(*rows[k:k + batch_size])
            for i, right, scores in zip(owners, *_score_batch(model, chosen, tails, tokenizer.pad_token_id, device, see)):
                exact[i], options[i] = exact[i] or right, scores
    return exact, options


def _score_batch(model, rows: tuple[Encoded, ...], tails: dict[str, list[int]], pad: int, device, see):
    batch = collate(rows, pad, device)
    see(batch)
    onward = {tuple(ids[:-1]) for ids in tails.values()} - {()}      # beginnings of labels, to be read from the cache
    onward = [path for path in sorted(onward) if not any(len(o) > len(path) and o[:len(path)] == path for o in onward)]
    out = model(input_ids=batch.ids, logits_to_keep=batch.keep, use_cache=bool(onward))
    wrong = (out.logits.argmax(-1) != batch.targets) & (batch.targets >= 0)
    ends = torch.tensor([len(row.prompt) for row in rows], device=device)                  # (b,)
    first = (batch.keep[None] == ends[:, None] - 1).int().argmax(1)                        # column of each first answer token
    each = torch.arange(len(rows), device=device)
    known: dict[tuple, torch.Tensor] = {(): out.logits[each, first].float().log_softmax(-1)}    # beginning of a label -> (b, V) for what follows
    length = batch.ids.shape[1]
    prompt_only = torch.arange(length, device=device) < ends[:, None]
    for path in onward:
        k = len(path)
        step = model(input_ids=torch.tensor(path, device=device).expand(len(rows), k),
                     attention_mask=torch.cat([prompt_only, prompt_only.new_ones(len(rows), k)], 1).long(),
                     position_ids=ends[:, None] + torch.arange(k, device=device),
                     past_key_values=copy.deepcopy(out.past_key_values), use_cache=True).logits    # (b, k, V)
        for n in range(k):
            known[path[:n + 1]] = step[:, n].float().log_softmax(-1)
    table = {label: sum(known[tuple(ids[:n])][:, ids[n]] for n in range(len(ids))).tolist() for label, ids in tails.items()}
    return (~wrong.any(1)).tolist(), [{label: values[i] for label, values in table.items()} for i in range(len(rows))]


@torch.inference_mode()
def generate(model, tokenizer, examples: list[Example], max_length: int = 1024, batch_size: int = 50,
             max_new_tokens: int = 50, see: Callable[[Batch], None] = _nothing) -> list[str]:
    """Greedy answers as text."""
    rows = encode(tokenizer, examples, max_length)
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt))
    answers = [""] * len(rows)
    device = next(model.parameters()).device
    for k in range(0, len(rows), batch_size):
        chosen = by_length[k:k + batch_size]
        length = max(len(rows[i].prompt) for i in chosen)
        ids = torch.tensor([[tokenizer.pad_token_id] * (length - len(rows[i].prompt)) + rows[i].prompt for i in chosen], device=device)
        mask = torch.tensor([[0] * (length - len(rows[i].prompt)) + [1] * len(rows[i].prompt) for i in chosen], device=device)
        see(Batch(ids, mask.bool(), ids.new_empty(0), ids.new_empty(len(ids), 0), mask.bool()))
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1,
                             repetition_penalty=1.0,                 # some bases bring another: that is not greedy
                             eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
        for i, text in zip(chosen, tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)):
            answers[i] = text.strip()
    return answers


def _generated(model, tokenizer, examples, max_length, batch_size, max_new_tokens, see) -> list[bool]:
    answers = generate(model, tokenizer, examples, max_length, batch_size, max_new_tokens, see)
    return [normalise(answer) in {normalise(right) for right in example.answers} for answer, example in zip(answers, examples)]


@torch.inference_mode()
def general_loss(model, tokenizer, texts, max_length: int = 1024, batch_size: int = 50,
                 see: Callable[[Batch], None] = _nothing) -> float:
    """Mean loss on text that no task contains, nats per token: what the base knew before. NaN without texts."""
    if not texts:
        return float("nan")
    model.eval()
    first = [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id]
    rows = [Encoded(first, (ids + [tokenizer.eos_token_id])[:max_length - 1]) for ids in token_ids(tokenizer, list(texts))]
    rows.sort(key=lambda row: len(row.answer))
    total, tokens = 0.0, 0
    for k in range(0, len(rows), batch_size):
        batch = collate(rows[k:k + batch_size], tokenizer.pad_token_id, next(model.parameters()).device)
        see(batch)
        logits = model(input_ids=batch.ids, logits_to_keep=batch.keep, use_cache=False).logits
        total += float(batch.loss(logits, "sum"))
        tokens += batch.tokens
    return total / tokens


def _mean(values) -> float:
    return sum(values) / len(values)
