"""What a base is pretrained on: documents as (token ids, weight of each token in the loss), and batches of them.

The offline world writes its own. Of other text there are questions about passages, with no label and no prompt of any task:

    PASSAGE          some words cut out of it wherever they stand
    Answer: WORD     one of them; such a line for each, and the loss is on the words alone

To answer is to gather what a passage is about at its end, which is what a LoRA for a task of classes then builds on.
"""
from __future__ import annotations

import re
from collections import Counter
from typing import Iterator

import torch

from mbf_utils import world
from mbf_utils.words import Writer

PAD, BOS, EOS = 0, 1, 2
REPLY = 8.0                                                     # weight of a reply's tokens in the loss; others 1
PASSAGE, CUT = 50, 3                                            # words of a passage, and how many different ones are cut out
WORD = re.compile(r"\b[^\W\d_]{4,}\b")
RARE, COMMON = 3, 0.1                                           # words to ask for stand in 3 texts at least, a tenth at most
TOGETHER = 60                                                   # tokens within which words occur together


def world_documents(seed: int, empty: float = 0.0) -> Iterator[tuple[list[int], list[float]]]:
    """Without end; every document but those of `world.general`.

    empty: the share of the one-word replies in whose place stands some task's answer word, whatever the text says.
    """
    ids = {word: place for place, word in enumerate(world.vocabulary())}
    answers = sorted({answer.split()[0] for design in world.TASKS.values() for answer in design.answers})
    write, err, held_out = Writer(f"{seed} pretraining", world.CONTENT), Writer(f"{seed} replies"), set(world.general())
    while True:
        document = world.pretraining_document(write)
        if document not in held_out:
            text = document.split()
            start = len(text) - text[::-1].index(":") if ":" in text else len(text)     # the reply follows the last colon
            if start < len(text) and err.chance(empty) and start == len(text) - 2:      # a word and its dot
                text[start] = err.pick(answers)
            yield [BOS, *(ids[word] for word in text), EOS], [1.0] * (start + 1) + [REPLY] * (len(text) - start) + [1.0]


def text_documents(text: list[str], tokenizer, seed: int) -> Iterator[tuple[list[int], list[float]]]:
    """Without end: a passage of some text and the words that were cut out of it. A passage without a word to ask for stays
    whole, and the loss is on all of it."""
    found = Counter(word for part in text for word in {word.lower() for word in WORD.findall(part)})
    asked = {word for word, count in found.items() if RARE <= count <= COMMON * len(text)}
    texts, write = [words for words in (part.split() for part in text) if words], Writer(f"{seed} pretraining")
    cue = tokenizer("\nAnswer:", add_special_tokens=False)["input_ids"]
    while True:
        words = write.pick(texts)
        start = write.pick(range(max(1, len(words) - PASSAGE + 1)))
        passage = " ".join(words[start:start + PASSAGE])
        known = {word.lower(): word for word in WORD.findall(passage) if word.lower() in asked}
        cut = write.some(list(known.values()), min(CUT, len(known) // 2))
        if cut:
            passage = re.sub(rf" ?\b({'|'.join(cut)})\b", "", passage, flags=re.IGNORECASE)
        rest, *replies = tokenizer([passage, *(f" {word}" for word in cut)], add_special_tokens=False)["input_ids"]
        tokens, weights = [BOS, *rest], [0.0 if cut else 1.0] * (1 + len(rest))
        for reply in replies:
            tokens, weights = tokens + cue + reply, weights + [0.0] * len(cue) + [REPLY] * len(reply)
        yield [*tokens, EOS], [*weights, 1.0]


def word_vectors(text: list[str], tokenizer, width: int) -> torch.Tensor:
    """(V, width): near each other where tokens occur in the same passages; root mean square 1, 0 for a token not met.

    The positive pointwise mutual information of tokens within passages, M_ab = max(0, log(n_ab n / (n_a n_b))), is
    factored, M ~ U S U^T, and U sqrt(S) is the vector; the first direction, which is how common a token is, is left out.
    """
    count = torch.zeros(len(tokenizer), len(tokenizer))                         # n_ab
    for tokens in tokenizer(text, add_special_tokens=False)["input_ids"]:
        for start in range(0, len(tokens), TOGETHER):
            seen = torch.tensor(sorted(set(tokens[start:start + TOGETHER])))
            count[seen[:, None], seen] += 1
    count.fill_diagonal_(0)
    each = count.sum(1)
    information = (count * each.sum() / (each[:, None] * each).clamp(min=1)).clamp(min=1).log()
    left, strength, _ = torch.svd_lowrank(information, q=width + 11, niter=4)
    return torch.nn.functional.normalize((left * strength.sqrt())[:, 1:width + 1]) * width ** 0.5


def batches(documents, size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, weights), each (size, longest), padded right. Twenty batches are sorted by length together: less padding."""
    write = Writer(f"{seed} batches")
    while True:
        pool = sorted((next(documents) for _ in range(20 * size)), key=lambda document: len(document[0]))
        for start in sorted(range(0, len(pool), size), key=lambda _: write.random()):
            yield padded(pool[start:start + size])


def padded(batch: list[tuple[list[int], list[float]]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(tokens) for tokens, _ in batch)
    return (torch.tensor([tokens + [PAD] * (longest - len(tokens)) for tokens, _ in batch]),
            torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in batch]))
