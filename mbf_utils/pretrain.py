"""Make a small base model from scratch, and prove it by what a LoRA then learns on it.

A base is a little Llama with its tokenizer and a `lora.json` of settings that suit it. Made of the offline world's own
text it is what `load_model("tiny")` brings; made of other text it is a reader of that text and no writer: it starts with
word vectors from what occurs together there and learns to tell which words were cut out of a passage (documents.py).
The number of steps and the seed are fixed, so a recipe makes the same bytes again on the same machine and thread count.
`accept` is the gate: a base is good when a fresh LoRA learns every task on it, whatever its own loss says.
"""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mbf_utils import world
from mbf_utils.adapters import Adapted
from mbf_utils.disk import new_folder
from mbf_utils.documents import BOS, EOS, PAD, batches, padded, text_documents, word_vectors, world_documents
from mbf_utils.errors import InputError
from mbf_utils.evaluation import evaluate
from mbf_utils.models import load_model, no_bars, suggested

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
POSITIONS = 512
MOST_PIECES = 1_000_000
SPREAD = 0.12                                                   # root mean square of a token's word vector at the start, own text
SOFT, EMPTY, SOFT_LR, SOFT_SEED = 0.1, 0.2, 1e-3, 77            # of the last stage, see make_base


class Size(NamedTuple):
    hidden: int
    layers: int
    heads: int
    inner: int
    steps: int
    batch: int
    lr: float


SIZES = {                                                       # 0.19, 0.95 and 0.86 million parameters
    "tiny": Size(64, 3, 4, 160, steps=10000, batch=64, lr=4e-3),
    "small": Size(128, 4, 4, 384, steps=12000, batch=64, lr=2.5e-3),
    "text": Size(128, 2, 4, 256, steps=2000, batch=32, lr=3e-3),
}
LORA = {"targets": "all-linear", "rank": 8, "alpha": 16, "dropout": 0.0, "lr": 0.005, "epochs": 2, "batch_size": 32, "accumulation": 1,
        "warmup": 0.05, "schedule": "linear", "max_length": 512}
SMALL_LORA = {**LORA, "lr": 0.002, "epochs": 6, "batch_size": 16, "warmup": 0.1}     # at larger steps cb and copa can stay at chance
TEXT_LORA = {**LORA, "epochs": 3, "batch_size": 8, "max_length": 192}


# ---- tokenizers
def world_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, split at white space; the ids are the places in `world.vocabulary`."""
    ids = {word: place for place, word in enumerate(world.vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _finish(tokenizer)


def text_tokenizer(text: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `vocab_size` pieces, learned from `text`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL.values()), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return _finish(tokenizer)


def _finish(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, padding_side="right",
                                   clean_up_tokenization_spaces=False, **SPECIAL)


# ---- training
def loss_of(model, ids: torch.Tensor, weights: torch.Tensor, soft: float = 0.0) -> torch.Tensor:
    """Weighted mean of -log p(next token), computed where the weight is not 0. No mask: padding is on the right.

    soft: the label smoothing, the share of the target that is spread over all words.
    """
    weights = weights[:, 1:]
    keep = weights > 0                                                          # (batch, length - 1)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]      # (batch, length - 1, d)
    losses = F.cross_entropy(model.lm_head(hidden[keep]), ids[:, 1:][keep], reduction="none", label_smoothing=soft)
    return (losses * weights[keep]).sum() / weights[keep].sum()


def _train(model, data, steps: int, lr: float, quiet: bool, soft: float = 0.0) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    warmup = min(100, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / warmup) * (
        0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))))
    model.train()
    bar = tqdm(range(steps), desc="make base", disable=quiet)
    for step in bar:
        loss = loss_of(model, *next(data), soft)  # type: ignore[call-arg]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


def make_base(out, text: list[str] | None = None, size: str = "tiny", steps: int | None = None, seed: int = 0,
              vocab_size: int = 4096, quiet: bool = False) -> Path:
    """Pretrain a small Llama from scratch and save it, with its tokenizer and lora.json, in the new folder `out`.

    text: None for the offline world's text and one token a word; or a list of texts, from which a byte-level BPE of
    `vocab_size` pieces is learned too. size: "tiny" (0.19 million parameters on the world), "small" (0.9) or "text"
    (0.9 with 4096 pieces). steps: None is the size's own number. The same arguments make the same bytes on the same
    machine. The folder appears whole or not at all; one that exists and is not empty raises InputError.

    On the world's text a last stage follows, a 25th of the steps long, with smoothed targets and with some replies
    replaced by the tasks' answer words: a base that is too sure of its own words, or has never seen those of a task as a
    reply, loses what it knows while a LoRA drags it to them (a LoRA's accuracy on wic: 49 % before that stage, 94 % after).
    Of other text the words start from `word_vectors`: from random ones, the minutes that this takes would teach the model
    how common words are and little about which go together. Made of the 5,762 training texts of O-LoRA's benchmark in
    6 to 7 CPU-minutes, it let a fresh LoRA reach 76 % of dbpedia's dev rows (14 classes), 81 % of agnews' (4), 28 % of yahoo's
    (10) and 20 %, which is chance, of amazon's five degrees of praise.
    """
    out = Path(out)
    if size not in SIZES:
        raise InputError(f"size is one of {', '.join(SIZES)}, not {size!r}.")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise InputError(f"steps is a whole number from 1 on, or None for the size's own, not {steps!r}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"the folder {out} exists and is not empty; choose another, or remove it first.")
    if text is not None and (isinstance(text, str) or not any(part.strip() for part in text)):
        raise InputError("text is a list of texts, at least one of them not empty, or None for the offline world's text.")
    least = 256 + len(SPECIAL)                                       # the bytes themselves
    if text is not None and (not isinstance(vocab_size, int) or not least <= vocab_size <= MOST_PIECES):
        raise InputError(f"expected a vocab_size from {least} to {MOST_PIECES}, found {vocab_size!r}.")
    plan = SIZES[size]
    lora = TEXT_LORA if text is not None else SMALL_LORA if size == "small" else LORA
    tokenizer = world_tokenizer() if text is None else text_tokenizer(text, vocab_size)
    documents = world_documents(seed) if text is None else text_documents(text, tokenizer, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=plan.hidden, intermediate_size=plan.inner, num_hidden_layers=plan.layers,
            num_attention_heads=plan.heads, num_key_value_heads=plan.heads, max_position_embeddings=POSITIONS,
            tie_word_embeddings=True, initializer_range=0.04, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS))
        if text is not None:
            start = model.get_input_embeddings().weight.data                    # (V, d)
            noise = torch.randn_like(start) / 4                                 # tells words of one meaning apart
            start.copy_(SPREAD * (word_vectors(text, tokenizer, plan.hidden) + noise))
        steps = steps or plan.steps
        _train(model, batches(documents, plan.batch, seed), steps, plan.lr, quiet)
        if text is None:
            documents = world_documents(seed + SOFT_SEED, EMPTY)
            _train(model, batches(documents, plan.batch, seed + SOFT_SEED), max(1, steps // 25), SOFT_LR, quiet, SOFT)
    with new_folder(out) as unfinished:
        with no_bars():
            model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        (unfinished / "lora.json").write_text(json.dumps(lora, indent=2) + "\n", encoding="utf-8")
        for file in unfinished.iterdir():
            file.chmod(0o644)                                   # a package's files are for everyone to read
    return out


# ---- the gate
def _row(tokenizer, prompt: str, answer: str) -> tuple[list[int], list[float]]:
    """Prompt, answer and end, with weight on the answer and the end alone."""
    prompt_ids, answer_ids = tokenizer(prompt)["input_ids"], tokenizer(answer, add_special_tokens=False)["input_ids"]
    return prompt_ids + answer_ids + [EOS], [0.0] * len(prompt_ids) + [1.0] * (len(answer_ids) + 1)


def _learn(model, examples: list, plan: dict) -> None:
    """Train what of the model is not frozen on (ids, weights) rows, by the plan of a lora.json."""
    factors = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(factors, lr=plan["lr"], weight_decay=0.0)
    steps = plan["epochs"] * math.ceil(len(examples) / plan["batch_size"])
    warmup = max(1, int(plan["warmup"] * steps))
    data = (padded([examples[i] for i in part]) for _ in range(plan["epochs"])
            for part in torch.randperm(len(examples)).split(plan["batch_size"]))
    for step, (ids, weights) in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = plan["lr"] * min((step + 1) / warmup, (steps - step) / (steps - warmup))
        loss_of(model, ids, weights).backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def accept(name_or_path="tiny", seed: int = 0, tasks=None) -> dict[str, float]:
    """What a fresh LoRA learns on a base: {task of world-15: share of right answers among the label options, on dev rows}.

    Every task begins anew from the base and trains by the base's own lora.json. A base is accepted when no task falls
    below 0.8. tasks: a list of names, None for all fifteen. About a minute for "tiny".
    """
    table = {}
    for task in world.world_stream("world-15", order=tasks, seed=seed):
        model, tokenizer = load_model(name_or_path, device="cpu")
        plan = suggested(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            Adapted(model, plan["targets"], plan["rank"], plan["alpha"])
            _learn(model, [_row(tokenizer, example.prompt, example.answers[0]) for example in task.train], plan)
        table[task.name] = evaluate(model, tokenizer, task, split="dev").options / 100
    return table
