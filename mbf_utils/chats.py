"""Conversations as rows to train on: the loss lies on the assistant's turns, each with its end, and on nothing else.

    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}

A conversation is written by the tokenizer's own chat template. Each turn of the assistant is cut out of that text: it begins
where the prompt for it ends (the template up to there, with its generation prompt), so a model trained on the rows is asked
at test time exactly what it was trained on; prompt and answer are tokenised apart for the same reason. Some templates write earlier
turns in another way than the last one (a reasoning model's thoughts are dropped): a conversation then becomes one row a turn.

Special tokens are the template's alone. A message that quotes "</s>" holds these letters, not the token: names of special tokens in
messages are replaced by characters of their own while the template is applied, and read as text. A name that the template itself
looks for in the messages (a mark around thoughts, say) stays what it is.
"""
from __future__ import annotations

import json
import os
import re
from pathlib import Path
from reprlib import repr as brief

import torch
from jinja2 import TemplateError

from .errors import InputError
from .rows import refusal, text_of
from .text import IGNORE, marked_ids, special_names


def chat_rows(tokenizer, conversations, max_length: int = 1024) -> list[dict[str, list[int]]]:
    """Rows of input_ids, attention_mask and labels (-100 where there is no loss), for Continual.task, a Trainer or in_batches.

    conversations: dicts with `messages`, or lists of messages. Of a conversation longer than max_length tokens the last turns are
    left out, whole. Raises InputError where the tokenizer has no template, or a conversation no turn that fits.
    """
    if tokenizer.chat_template is None:
        raise InputError(f"expected a tokenizer with a chat template, found none in {tokenizer.name_or_path!r}: take a chat model")
    found = []
    for k, given in enumerate(conversations):
        messages, marks = _quoting(tokenizer, list(_messages(given, f"conversation {k}")), k)
        rows = [_fitting(tokenizer, pieces, marks, max_length) for pieces in _pieces(tokenizer, messages, k)]
        if not any(rows):
            raise InputError(f"expected a first turn of at most {max_length} tokens in conversation {k}, found a longer one: raise "
                             "max_length or leave it out")
        found += filter(None, rows)
    return found


def read_chats(file: str | Path) -> list[dict] | None:
    """The conversations of a JSON Lines file with `messages`; None where it is something else, or no file. Raises InputError for a
    line that is no conversation, and for a file that cannot be read."""
    if not os.path.isfile(file := Path(file)):
        return None
    fail, found = refusal(file, "rows"), []
    for number, line in enumerate(text_of(file, fail).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not found:
                    return None
                fail(f"something else ({error}) on line {number}", "write one whole object a line")
            if not isinstance(row, dict) or "messages" not in row:
                if not found:
                    return None
                fail(f"{brief(row)} on line {number}", "write an object with messages, as on the lines before")
            _messages(row, f"line {number} of {file}")
            found.append(row)
    return found or None


def _messages(given, where: str) -> list[dict]:
    """The messages of a conversation: one of the assistant among them, each with a role and a text, which a call of tools may lack."""
    messages = given["messages"] if isinstance(given, dict) and "messages" in given else given
    if not isinstance(messages, (list, tuple)) or not all(
            isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise InputError(f"expected messages, each an object with role and content, in {where}, found {brief(given)}")
    for message in messages:
        text = message.get("content")
        if isinstance(text, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in text):
            text = "".join(part["text"] for part in text)            # in parts, which the template puts together
        if not isinstance(text, str) and (text is not None or not message.get("tool_calls")):
            raise InputError(f"expected a text as content of each message in {where}, found {brief(message)}: write it as one text")
        if half := re.search("[\ud800-\udfff]", text or ""):
            raise InputError(f"expected whole characters in {where}, found {half[0]!r}: replace this half of a surrogate pair")
    if not any(message["role"] == "assistant" for message in messages):
        raise InputError(f"expected messages with a turn of the assistant in {where}, found {brief(given)}")
    return list(messages)


def in_batches(rows: list[dict], size: int, pad: int = 0) -> list[dict[str, torch.Tensor]]:
    """The rows in their order, `size` a batch, padded on the right: input_ids, attention_mask and labels (b, T)."""
    fill = {"input_ids": pad, "attention_mask": 0, "labels": IGNORE}
    return [{key: torch.nn.utils.rnn.pad_sequence([torch.as_tensor(row[key]) for row in rows[k:k + size]], True, value)
             for key, value in fill.items()} for k in range(0, len(rows), size)]


def _pieces(tokenizer, messages: list[dict], k: int) -> list[list[tuple[str, str]]]:
    """Rows of (text without loss, turn of the assistant): one row for the conversation, or where need be one a turn."""
    ends = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    turns = []
    for i in ends:
        before, after = _written(tokenizer, messages[:i], k, True), _written(tokenizer, messages[:i + 1], k)
        if not after.startswith(before):
            raise InputError("expected a chat template that begins the assistant's turn with its generation prompt, found in "
                             f"conversation {k} {after[:len(before)][-40:]!r} instead of {before[-40:]!r}")
        stripped = after.rstrip()                   # white space after the end of a turn is no part of it
        turns.append((before, stripped if stripped.endswith(tuple(tokenizer.all_special_tokens)) else after))
    if all(later[0].startswith(earlier[1]) for earlier, later in zip(turns, turns[1:])):
        begins = ["", *(after for _, after in turns[:-1])]
        return [[(before[len(begin):], after[len(before):]) for begin, (before, after) in zip(begins, turns)]]
    return [[(before, after[len(before):])] for before, after in turns]


def _written(tokenizer, messages: list[dict], k: int, prompt: bool = False) -> str:
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        text.encode()                               # half a surrogate pair, in a call of tools say, is no text
        return text
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise InputError(f"expected messages that the chat template takes in conversation {k}, found: {error}") from None


def _quoting(tokenizer, messages: list[dict], k: int) -> tuple[list[dict], dict[str, str]]:
    """The messages with a character in place of each special token's name that they quote; and {name: character}."""
    def swapped(value, name: str, mark: str):
        if isinstance(value, dict):
            return {key: swapped(item, name, mark) for key, item in value.items()}
        if isinstance(value, list):
            return [swapped(item, name, mark) for item in value]
        return value.replace(name, mark) if isinstance(value, str) else value

    marks: dict[str, str] = {}
    held = json.dumps(messages, ensure_ascii=False, default=str)
    unused = (chr(code) for code in range(0xE000, 0xF900) if chr(code) not in held)         # for private use: no letters
    for name in sorted(special_names(tokenizer), key=len, reverse=True):
        if name in held:
            mark = next(unused)
            trial = swapped(messages, name, mark)
            if _written(tokenizer, trial, k).replace(mark, name) == _written(tokenizer, messages, k):
                messages, marks[name] = trial, mark
    return messages, marks


def _fitting(tokenizer, pieces: list[tuple[str, str]], marks: dict[str, str], max_length: int) -> dict[str, list[int]] | None:
    """The row of as many whole pieces as fit; None where the first does not."""
    ids, labels = [], []
    for prompt, turn in zip(*(marked_ids(tokenizer, list(texts), marks) for texts in zip(*pieces))):
        if len(ids) + len(prompt) + len(turn) > max_length:
            break
        ids += prompt + turn
        labels += [IGNORE] * len(prompt) + turn
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels} if ids else None
