"""From examples to batches: prompts as tokens, answers with their end, right padding, and the normalisation of answers.

A row is  [bos] prompt answer eos.  Only the answer and its eos carry loss. Padding stands on the right and needs no
attention mask: under a causal mask no real token sees it.
"""
from __future__ import annotations

import re
import string
from dataclasses import replace
from typing import Callable, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .errors import InputError
from .streams import Example, Stream
from .subspaces import lifted

IGNORE = -100
_DELETE = str.maketrans("", "", string.punctuation)


class Encoded(NamedTuple):
    prompt: list[int]                               # bos and prompt
    answer: list[int]                               # answer and eos


class Batch(NamedTuple):
    """b rows of length at most T; logits are asked for at the k columns where any row predicts an answer token."""
    ids: Tensor                                     # (b, T)
    mask: Tensor                                    # (b, T) bool, False on padding
    keep: Tensor                                    # (k,) columns
    targets: Tensor                                 # (b, k) the next token where it belongs to the answer, else -100
    prompt: Tensor                                  # (b, T) bool, True on the prompt and its bos: all that a router may see

    @property
    def tokens(self) -> int:
        return int((self.targets != IGNORE).sum())

    def loss(self, logits: Tensor, reduction: str = "mean") -> Tensor:
        """Cross entropy of the answer tokens under logits (b, k, V), in nats, computed in float32 or better."""
        return cross_entropy(lifted(logits).flatten(0, 1), self.targets.flatten(), ignore_index=IGNORE, reduction=reduction)

    def rows(self, which: Tensor) -> Batch:
        """The rows that `which` (b,) names, a mask or indices; the columns stay."""
        return Batch(self.ids[which], self.mask[which], self.keep, self.targets[which], self.prompt[which])


def normalise(answer: str) -> str:
    """Lower case, ASCII punctuation deleted (not replaced by a blank), white space collapsed: the field's exact match."""
    return " ".join(answer.lower().translate(_DELETE).split())


def token_ids(tokenizer, texts: list[str], literal: bool = False) -> list[list[int]]:
    """Token ids of each text, without special tokens; what is too long is cut later, so no warning. literal: a special token's
    name in a text ("</s>") is text."""
    some = {"split_special_tokens": True} if literal else {}
    return tokenizer(texts, add_special_tokens=False, verbose=False, **some)["input_ids"] if texts else []


def answer_ids(tokenizer, texts: list[str], literal: bool = True) -> list[list[int]]:
    """Token ids of texts that follow another text. Llama 2's tokenizer begins every text with a blank of its own, which does not
    belong between a prompt and its answer: such a tokenizer reads them behind a mark, which is taken off again."""
    alone = token_ids(tokenizer, texts, literal)
    mark, blank, both = token_ids(tokenizer, [":", " a", ": a"])
    if mark + blank == both:
        return alone
    behind = token_ids(tokenizer, [f":{text}" for text in texts], literal)
    return [ids[len(mark):] if ids[:len(mark)] == mark else own for ids, own in zip(behind, alone)]


def special_names(tokenizer) -> list[str]:
    """What a tokenizer reads as one of its special tokens, wherever it stands: "</s>", "<|im_end|>"."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def marked_ids(tokenizer, texts: list[str], marks: dict[str, str]) -> list[list[int]]:
    """Token ids of texts in which a special token's name is the token, and its mark stands for the name as text. marks: {name: mark},
    each mark one character."""
    back = {ord(mark): name for name, mark in marks.items()}
    found = token_ids(tokenizer, texts)
    names = "|".join(map(re.escape, sorted(special_names(tokenizer), key=len, reverse=True)))
    for i, text in enumerate(texts):
        if set(text) & set(marks.values()):
            found[i] = []
            for k, part in enumerate(re.split(f"({names})", text)):
                read = token_ids if k == 0 else answer_ids                       # which follows another text
                found[i] += [tokenizer.convert_tokens_to_ids(part)] if k % 2 else read(tokenizer, [part.translate(back)], literal=True)[0]
    return found


def _prompt_ids(tokenizer, examples: list[Example]) -> list[list[int]]:
    """Token ids of each prompt. What stands in its body is text, whatever it says: a review that quotes "</s>" does not end there.
    Outside (in a chat template, or in a prompt without a body) a special token's name is the token."""
    found = token_ids(tokenizer, [example.prompt for example in examples])
    names = special_names(tokenizer)

    def holds(text: str) -> bool:
        return any(name in text for name in names)

    for i, example in enumerate(examples):
        start, end = example.body or (0, 0)
        before, body, after = example.prompt[:start], example.prompt[start:end], example.prompt[end:]
        if holds(body) and not holds(before) and not holds(after):
            found[i], = token_ids(tokenizer, [example.prompt], literal=True)
        elif holds(body):
            head, = token_ids(tokenizer, [before])
            found[i] = head + answer_ids(tokenizer, [body])[0] + answer_ids(tokenizer, [after], literal=False)[0]
    return found


def answer_text(example: Example, answer: str) -> str:
    """The answer as it follows the prompt: after a blank, unless the prompt ends in white space."""
    return answer if example.prompt[-1:].isspace() else " " + answer


def in_chat(stream: Stream, tokenizer) -> Stream:
    """The stream with each prompt as the user's turn of the tokenizer's chat template, up to where the assistant answers.

    The template's own bos is left out, as `encode` begins with it. Raises InputError where the tokenizer has no template, or one
    that does not hold the prompt.
    """
    if tokenizer.chat_template is None:
        raise InputError(f"expected a tokenizer with a chat template, found none in {tokenizer.name_or_path!r}; take a chat "
                         "model, or leave out prompts='chat'.")
    tasks = tuple(replace(task, **{split: [_turn(tokenizer, row) for row in getattr(task, split)]
                                   for split in ("train", "dev", "test")}) for task in stream)
    return replace(stream, tasks=tasks, chat=False)


def _turn(tokenizer, example: Example) -> Example:
    turns = [{"role": "user", "content": example.prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    text = text.removeprefix(tokenizer.bos_token or "")
    kept = example.prompt if example.prompt in text else example.prompt.strip()            # many templates strip the turn
    at = text.find(kept)
    if not kept or at < 0:
        raise InputError(f"expected the prompt {example.prompt[:60]!r} in the chat template's text, found {text[:60]!r}; the "
                         "template changes it.")
    shift = at - example.prompt.index(kept)
    start, end = (min(max(place + shift, at), at + len(kept)) for place in example.body or (0, 0))
    return Example(text, example.answers, example.body and (start, end))


def encode(tokenizer, examples: list[Example], max_length: int) -> list[Encoded]:
    """Tokens of each example's prompt and first answer, together at most max_length.

    A prompt that is too long loses characters at the end of its `body`, never of its frame; where the frame alone is too
    long (or there is no body to cut), or the answer, which is never cut, an InputError says so, also of a tokenizer without eos.
    """
    if tokenizer.eos_token_id is None:
        raise InputError(f"expected a tokenizer with an eos token, for every answer ends with it, found none in "
                         f"{tokenizer.name_or_path!r}: set tokenizer.eos_token to a token of its vocabulary")
    bos = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    answers = answer_ids(tokenizer, [answer_text(example, example.answers[0]) for example in examples])
    prompts = _prompt_ids(tokenizer, examples)
    rows = []
    for example, prompt, answer in zip(examples, prompts, answers):
        answer = answer + [tokenizer.eos_token_id]
        room = max_length - len(bos) - len(answer)
        if room < 0:
            most = max(0, max_length - len(bos) - 1)
            raise InputError(f"expected an answer of at most {most} tokens and its eos within max_length {max_length}, found one "
                             f"of {len(answer) - 1} ({example.answers[0][:60]!r}, to the prompt {example.prompt[:60]!r}): "
                             "raise max_length, or leave the row out")
        if len(prompt) > room:
            prompt = _shortened(tokenizer, example, prompt, room)
        if not bos + prompt:
            raise InputError(f"expected a token before the answer {example.answers[0]!r}, found an empty prompt and no bos")
        rows.append(Encoded(bos + prompt, answer))
    return rows


def _shortened(tokenizer, example: Example, prompt: list[int], room: int) -> list[int]:
    start, end = example.body or (0, 0)
    text, cut = example.prompt, end
    while len(prompt) > room:
        if cut <= start:
            raise InputError(f"expected a prompt of at most {room} tokens once its body is cut away, found a frame of "
                             f"{len(prompt)} ({example.prompt[:60]!r}...): raise max_length")
        excess = (len(prompt) - room) / len(prompt)
        cut = max(start, cut - max(1, int(excess * len(text))))
        text = example.prompt[:cut] + example.prompt[end:]
        prompt = _prompt_ids(tokenizer, [replace(example, prompt=text, body=(start, cut))])[0]
    return prompt


def check_fit(tokenizer, stream: Stream, max_length: int, splits: tuple[str, ...]) -> None:
    """Raises what `encode` would raise for a row of these splits that is longer than max_length tokens even without its text, in the
    time that it takes to read each different frame and answer once."""
    def lengths(read: Callable, texts: list[str]) -> list[int]:
        known = list(dict.fromkeys(texts))
        found = dict(zip(known, map(len, read(tokenizer, known))))
        return [found[text] for text in texts]

    bos = int(tokenizer.bos_token_id is not None)
    for task in stream:
        rows = [replace(row, answers=(answer,)) for split in splits for row in getattr(task, split)
                for answer in (row.answers if task.labels else row.answers[:1])]              # as scoring asks for them
        bodies = [row.body or (0, 0) for row in rows]
        frames = lengths(token_ids, [row.prompt[:start] + row.prompt[end:] for row, (start, end) in zip(rows, bodies)])
        answers = lengths(answer_ids, [answer_text(row, row.answers[0]) for row in rows])
        encode(tokenizer, [row for row, frame, answer in zip(rows, frames, answers)
                           if max(1, bos + frame) + answer + 1 > max_length], max_length)


def collate(rows: list[Encoded], pad: int | None, device="cpu") -> Batch:
    """Rows padded on the right to the longest. pad: the tokenizer's pad_token_id; InputError where it has none."""
    if pad is None:
        raise InputError("expected a tokenizer with a pad token, found none: set tokenizer.pad_token, to its eos_token say")
    lengths = [len(prompt) + len(answer) for prompt, answer in rows]
    length = max(lengths)
    ids = torch.tensor([prompt + answer + [pad] * (length - n) for (prompt, answer), n in zip(rows, lengths)])
    starts, ends = torch.tensor([[len(row.prompt) for row in rows], lengths])[..., None]           # (b, 1) each
    places = torch.arange(length)
    mask, prompt = places < ends, places < starts
    told = (places >= starts - 1) & (places < ends - 1)             # where the next token belongs to the answer
    targets = ids.roll(-1, 1).masked_fill(~told, IGNORE)
    keep = told.any(0).nonzero()[:, 0]
    return Batch(*(tensor.to(device) for tensor in (ids, mask, keep, targets[:, keep], prompt)))
