"""What a PEFT user writes today: transformers.Trainer to learn, generate() to score. In two forms: as most write it (rows padded to
the longest of all, one prompt at a time) and with care (padded to the longest of the batch, prompts in batches). Both take the loss
as the model gives it, with logits of every token. They are here to be compared with.
"""
from __future__ import annotations

import time

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ..streams import Example
from ..text import Encoded, encode

IGNORE = -100


class Ticks(TrainerCallback):
    """When each step begins."""

    def __init__(self):
        self.times: list[float] = []

    def on_step_begin(self, args, state, control, **_):
        self.times.append(time.perf_counter())


class InOrder(Trainer):
    """A Trainer that takes the batches it is given, in their order: the same steps for every rival."""
    windows: list[list[int]] = []

    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_sampler=self.windows, collate_fn=self.data_collator)


def padder(pad: int, length: int | None):
    """A collator: rows padded to `length`, or to the longest of their batch."""
    def collate(rows: list[dict]) -> dict:
        width = length or max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": pad, "attention_mask": 0, "labels": IGNORE}
        return {key: torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows]) for key, value in fill.items()}
    return collate


def learn(model, rows: list[Encoded], windows: list[list[int]], settings, pad: int, careful: bool, out: str) -> list[float]:
    """Trains what has gradients in a PEFT model by transformers.Trainer; returns when each step began."""
    data = [{"input_ids": row.prompt + row.answer, "attention_mask": [1] * (len(row.prompt) + len(row.answer)),
             "labels": [IGNORE] * len(row.prompt) + row.answer} for row in rows]
    longest = max(len(row["input_ids"]) for row in data)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)     # the Trainer's own
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: settings.rate(step, len(windows)))
    arguments = TrainingArguments(out, per_device_train_batch_size=settings.batch_size, max_steps=len(windows),
                                  max_grad_norm=settings.clip, logging_strategy="no", save_strategy="no", report_to=[],
                                  disable_tqdm=True, use_cpu=model.device.type == "cpu", remove_unused_columns=False)
    ticks = Ticks()
    trainer = InOrder(model, arguments, data_collator=padder(pad, None if careful else longest), train_dataset=data,
                      optimizers=(optimizer, schedule), callbacks=[ticks])
    trainer.remove_callback(PrinterCallback)
    trainer.windows = windows
    trainer.train()
    return ticks.times


@torch.inference_mode()
def score(model, tokenizer, examples: list[Example], settings, careful: bool) -> list[bool]:
    """Which rows greedy generation answers rightly, to the letter."""
    rows = encode(tokenizer, examples, settings.max_length)
    size, right = settings.eval_batch_size if careful else 1, []
    for k in range(0, len(rows), size):
        prompts = [row.prompt for row in rows[k:k + size]]
        width = max(map(len, prompts))
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=settings.max_new_tokens, do_sample=False,
                             pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
        texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        right += [text.strip() in example.answers for text, example in zip(texts, examples[k:k + size])]
    return right
