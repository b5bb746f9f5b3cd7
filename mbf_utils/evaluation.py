"""One row of the accuracy matrix: how well the model that is worn answers a task's rows.

Three readings, all in percent:
    exact     the answer that the model would generate equals a right one (the field's headline)
    options   of the task's labels, the right one is the likeliest: what is still known, whatever words come out
    score     the task's own score (scores.py); exact match, unless its answers are texts that have no one right wording

With labels, `exact` asks whether every token of the right answer and its end is the arg max when the answer is fed in:
greedy decoding writes exactly that answer if and only if this holds. The same pass scores the labels: those of several
tokens by a tree of their beginnings behind every prompt (where the architecture reads one; else prompts are read again).
Without labels the answer is generated and compared after `text.normalise`.

The likelihood of a label is that of its tokens; where one label is the beginning of another, its end counts too.
"""
from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Callable, NamedTuple

import torch
from torch import Tensor

from .last_layer import TRIED
from .scores import SCORES, score_of
from .streams import Example, TaskData
from .text import Batch, Encoded, answer_ids, answer_text, collate, encode, token_ids


class Score(NamedTuple):
    exact: float                                    # percent
    options: float                                  # percent; NaN where the task has no labels
    score: float = float("nan")                     # percent


def _nothing(batch: Batch) -> None:
    pass


def evaluate(model, tokenizer, task: TaskData, split: str = "test", max_length: int = 1024, batch_size: int = 50,
             max_new_tokens: int = 50, scores: str = "field", see: Callable[[Batch], None] = _nothing) -> Score:
    """The model's scores on a split of a task; the model is left in evaluation mode. `see` gets every batch before the model
    does: for adapters that are routed by the input (training.routed). `scores`: see scores.py."""
    examples, named = getattr(task, split), score_of(task.name, scores)
    if not examples:
        return Score(*[float("nan")] * 3)
    model.eval()
    if named != "exact" or not task.labels:
        answers = generate(model, tokenizer, examples, max_length, batch_size, max_new_tokens, see)

    def of_answers(name: str) -> float:
        return 100 * _mean([SCORES[name](answer, example) for answer, example in zip(answers, examples)])

    options = float("nan")
    if task.labels:
        right, tables = label_scores(model, tokenizer, examples, task.labels, max_length, batch_size, see)
        exact, options = 100 * _mean(right), 100 * _mean([max(row, key=row.get) in example.answers
                                                          for row, example in zip(tables, examples)])
    else:
        exact = of_answers("exact")
    return Score(exact, options, exact if named == "exact" else of_answers(named))


@torch.inference_mode()
def label_scores(model, tokenizer, examples: list[Example], labels, max_length: int = 1024, batch_size: int = 50,
                 see: Callable[[Batch], None] = _nothing):
    """For each example: is one of its answers what greedy decoding writes; and {label: log-likelihood in nats}."""
    exact, options = [False] * len(examples), [{}] * len(examples)
    device = next(model.parameters()).device
    for blank in ("", " "):                                          # what stands between a prompt and its answer
        rows = _rows(tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id, tuple(examples), blank, max_length)
        tails = dict(zip(labels, answer_ids(tokenizer, [blank + label for label in labels])))
        if any(a != b and tails[a] == tails[b][:len(tails[a])] for a in labels for b in labels):
            tails = {label: ids + [tokenizer.eos_token_id] for label, ids in tails.items()}
        for k in range(0, len(rows), batch_size):
            owners, chosen = zip(*rows[k:k + batch_size])
            for i, right, scores in zip(owners, *_score_batch(model, chosen, tails, tokenizer.pad_token_id, device, see)):
                exact[i], options[i] = exact[i] or right, scores
    return exact, options


@lru_cache(maxsize=512)                                              # a stream's rows are scored again after every task
def _rows(tokenizer, bos: int, eos: int, examples: tuple[Example, ...], blank: str, max_length: int) -> list[tuple[int, Encoded]]:
    """(place of its example, row) for each right answer that follows its prompt after `blank`, short prompts first."""
    flat = [(i, replace(example, answers=(answer,))) for i, example in enumerate(examples)
            if answer_text(example, "") == blank for answer in example.answers]
    rows = list(zip([i for i, _ in flat], encode(tokenizer, [example for _, example in flat], max_length)))
    return sorted(rows, key=lambda row: len(row[1].prompt))


def _score_batch(model, rows: tuple[Encoded, ...], tails: dict[str, list[int]], pad: int, device, see):
    batch = collate(rows, pad, device)
    see(batch)
    onward = sorted({tuple(ids[:n]) for ids in tails.values() for n in range(1, len(ids))})      # beginnings of labels
    grows = bool(onward) and _sees_trees(model, batch.ids.shape[1] + len(onward))
    ends = torch.tensor([len(row.prompt) for row in rows], device=device)                  # (b,)
    more = _tree(batch.ids, ends, onward, batch.keep, model) if grows else {"input_ids": batch.ids, "logits_to_keep": batch.keep}
    logits, tree = model(**more, use_cache=False).logits.split([len(batch.keep), len(onward) * grows], 1)
    wrong = (logits.argmax(-1) != batch.targets) & (batch.targets >= 0)
    first = (batch.keep[None] == ends[:, None] - 1).int().argmax(1)                        # column of each first answer token
    said: dict[tuple, Tensor] = {}                  # (beginning, the token that goes on) -> its log-probability (b,)

    def hear(path: tuple[int, ...], logits: Tensor) -> None:
        logs = logits.float().log_softmax(-1)       # (b, V), not kept: a vocabulary is large
        onto = {ids[len(path)] for ids in tails.values() if tuple(ids[:len(path)]) == path != tuple(ids)}
        said.update({(path, token): logs[:, token].clone() for token in onto})

    hear((), logits[torch.arange(len(rows), device=device), first])
    for k, path in enumerate(onward if grows else ()):
        hear(path, tree[:, k])
    if not grows:
        _read_anew(model, rows, onward, pad, device, see, hear)
    table = {label: sum(said[tuple(ids[:n]), ids[n]] for n in range(len(ids))).tolist() for label, ids in tails.items()}
    return (~wrong.any(1)).tolist(), [{label: values[i] for label, values in table.items()} for i in range(len(rows))]


def _tree(ids: Tensor, ends: Tensor, onward: list[tuple[int, ...]], keep: Tensor, model) -> dict[str, Tensor]:
    """Behind every row of ids (b, T) the last token of each beginning, K of them: it stands where it would behind the row's prompt
    alone, and sees that prompt, the beginnings that it continues, and itself."""
    (b, T), K, device = ids.shape, len(onward), ids.device
    column = torch.arange(T + K, device=device)
    sees = (column <= column[:, None]).repeat(b, 1, 1)                                     # (b, T + K, T + K)
    sees[:, T:, :T] = (column[:T] < ends[:, None])[:, None]
    sees[:, T:, T:] = torch.tensor([[path[:len(other)] == other for other in onward] for path in onward], device=device)
    sees = sees[:, None]
    if model.config.get_text_config()._attn_implementation == "eager":                     # which adds the mask
        sees = torch.where(sees, 0.0, torch.finfo(model.dtype).min).to(model.dtype)
    depth = torch.tensor([len(path) - 1 for path in onward], device=device)
    return {"input_ids": torch.cat([ids, torch.tensor([path[-1] for path in onward], device=device).expand(b, K)], 1),
            "attention_mask": sees,
            "position_ids": torch.cat([column[:T].expand(b, T), ends[:, None] + depth], 1),
            "logits_to_keep": torch.cat([keep, column[T:]])}


def _sees_trees(model, length: int) -> bool:
    """Whether every layer sees what a mask of ours says in rows of this length, and a token stands where our positions say: where a
    layer looks back less far (Mistral, Gemma), with another kernel or an architecture that was not tried, rows are read plainly."""
    config = model.config.get_text_config()
    return (config.model_type in TRIED and config._attn_implementation in ("sdpa", "eager")
            and length <= (getattr(config, "sliding_window", None) or length))


def _read_anew(model, rows: tuple[Encoded, ...], onward: list[tuple[int, ...]], pad: int, device, see, hear) -> None:
    """The same from plain rows: one of each prompt and each longest beginning, which tells the shorter ones too."""
    ends = torch.tensor([len(row.prompt) for row in rows], device=device)
    for path in onward:
        if any(len(other) > len(path) and other[:len(path)] == path for other in onward):
            continue
        batch = collate([Encoded(row.prompt, [*path, pad]) for row in rows], pad, device)
        see(batch)
        logits = model(input_ids=batch.ids, logits_to_keep=batch.keep, use_cache=False).logits
        first = (batch.keep[None] == ends[:, None]).int().argmax(1)  # column of the first token of the path
        for n in range(len(path)):
            hear(path[:n + 1], logits[torch.arange(len(rows), device=device), first + n])


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
