"""What is measured on, and how big: a device with its clock, a random model of a given shape, rows of exact length."""
from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from typing import Sequence

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from ..adapters import Adapted
from ..method import Task
from ..streams import Example

TARGETS = {"q and v": ("q_proj", "v_proj"), "all linear": "all-linear"}


@dataclass(frozen=True)
class Size:
    """The shapes and numbers of the benchmarks; the defaults are Llama-2-7B's shape and about three minutes on an H100."""
    hidden: int = 4096
    inner: int = 11008
    layers: int = 32
    heads: int = 32
    vocabulary: int = 32000
    length: int = 512                               # tokens a row
    batch: int = 4                                  # rows a step
    steps: int = 8
    rounds: int = 3
    tasks: tuple[int, ...] = (1, 5, 20)             # after which of them memory is read
    ranks: tuple[int, ...] = (8, 64)
    cold: int = 256 * 2 ** 20                       # bytes over which factors rotate: more than a cache holds
    repeats: int = 30
    prompt: int = 256                               # tokens of a scored row
    rows: int = 48                                  # scored rows
    new_tokens: int = 50                            # the field's usual length of generation
    stream: str = "world-5"
    limit: int | None = None                        # rows a task of that stream
    epochs: float = 2.0


TOY = Size(32, 48, 2, 2, 64, length=12, batch=2, steps=5, rounds=1, tasks=(1, 2), ranks=(2,), cold=4096, repeats=2, prompt=8,
           rows=4, new_tokens=5, limit=16, epochs=1)                 # for tests


class Device:
    """A device, its clock and its memory."""

    def __init__(self, name: str):
        self.name, self.cuda = name, name.startswith("cuda")

    def sync(self) -> None:
        """Waits until everything asked of the device is done."""
        if self.cuda:
            torch.cuda.synchronize()

    def now(self) -> float:
        """Seconds, once the device is idle."""
        self.sync()
        return time.perf_counter()

    def held(self) -> float:
        """GiB allocated on the card; NaN without one."""
        return torch.cuda.memory_allocated() / 2 ** 30 if self.cuda else math.nan

    def peak(self, reset: bool = False) -> float:
        """GiB, the most that was allocated on the card since the last reset; NaN without one."""
        if not self.cuda:
            return math.nan
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2 ** 30


class Numbers:
    """A tokenizer whose words are token ids: "17 4 250" is [17, 4, 250], so a text has just the length one asks for. Other words are 3."""
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0
    added_tokens_decoder: dict = {}

    def __call__(self, texts, **_):
        return {"input_ids": [[int(word) if word.isdecimal() else 3 for word in text.split()] for text in texts]}

    def batch_decode(self, ids, **_):
        return [" ".join(map(str, row)) for row in ids.tolist()]


def llama(size: Size) -> LlamaConfig:
    return LlamaConfig(vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=size.inner,
                       num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
                       max_position_embeddings=4096,
                       pad_token_id=Numbers.pad_token_id, bos_token_id=Numbers.bos_token_id, eos_token_id=Numbers.eos_token_id)


def random_model(size: Size, device: Device):
    """A Llama of that shape with random weights, drawn on the device itself: bfloat16 on CUDA, else float32."""
    torch.manual_seed(0)
    with torch.device(device.name):
        model = AutoModelForCausalLM.from_config(llama(size), dtype=torch.bfloat16 if device.cuda else torch.float32,
                                                 attn_implementation="sdpa")
    return model.eval().requires_grad_(False)


def hollow_model(size: Size):
    """A Llama of that shape whose weights are all one number in memory: adapters can be put on, worn, merged and saved, and nothing
    can be computed with it."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(llama(size), dtype=torch.float32)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False))
    return model.eval()


def words(count: int, vocabulary: int, rng: random.Random) -> str:
    """`count` random words of Numbers, none of them special."""
    return " ".join(str(rng.randrange(3, vocabulary)) for _ in range(count))


def examples(count: int, length: int, vocabulary: int, seed: int = 0) -> list[Example]:
    """Rows of exactly `length` tokens: bos, a random prompt, two tokens of an answer, eos."""
    rng = random.Random(seed)
    return [Example(words(length - 4, vocabulary, rng), (words(2, vocabulary, rng),)) for _ in range(count)]


def task_of(adapted: Adapted, index: int, rows: Sequence[Example] = ()) -> Task:
    return Task(index, f"task{index}", list(rows), adapted.rank, adapted.scaling, adapted.sites, 0, device=adapted.device)


def bytes_of(value) -> int:
    """Bytes of all tensors inside nested dicts, lists and Pairs; one that occurs twice is counted once."""
    found: dict[int, int] = {}

    def walk(value) -> None:
        if isinstance(value, torch.Tensor):
            found[value.data_ptr()] = value.numel() * value.element_size()
        elif isinstance(value, (dict, list, tuple)):
            for inside in value.values() if isinstance(value, dict) else value:
                walk(inside)

    walk(value)
    return sum(found.values())
