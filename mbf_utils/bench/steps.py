"""A training step of a big model: our loop against bare PEFT loops and against the card's own rates; memory after many tasks."""
from __future__ import annotations

import gc
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from ..adapters import Adapted, installed
from ..lora import copied
from ..method import Method
from ..methods import make_method
from ..settings import Settings
from ..streams import Example
from ..text import IGNORE, collate, encode
from ..training import accelerator_for, train_task
from .scripts import padder
from .shape import TARGETS, Device, Numbers, Size, bytes_of, examples, task_of
from .table import Table, in_turns, ratio


@dataclass
class Timed(Method):
    """Sequential LoRA that notes when each step begins."""
    ticks: list = field(default_factory=list, repr=False)

    def before_batch(self, batch, task) -> None:
        self.ticks.append(time.perf_counter())


def settings_for(case: str, size: Size) -> Settings:
    return Settings(targets=TARGETS[case], epochs=1, batch_size=size.batch, accumulation=1)


def ceilings(table: Table, device: Device, side: int = 8192, gigabytes: float = 1.0) -> None:
    """What the device itself can do: a large copy (bytes read and written) and a large matrix product of random numbers."""
    source = torch.randn(int(gigabytes * 2 ** 28), device=device.name)
    target = torch.empty_like(source)
    spent = in_turns({"copy": lambda: target.copy_(source)}, 10, device.sync, 3)["copy"]
    table.add("ceilings", "copy", "bandwidth", [2 * source.numel() * 4 / 1e9 / each for each in spent], "GB/s")
    X, Y = (torch.randn(side, side, device=device.name, dtype=torch.bfloat16 if device.cuda else torch.float32) for _ in range(2))
    spent = in_turns({"product": lambda: X @ Y}, 10, device.sync, 3)["product"]
    table.add("ceilings", f"{X.dtype} product of side {side}".replace("torch.", ""), "rate",
              [2 * side ** 3 / 1e12 / each for each in spent], "TFLOP/s")


def throughput(case: str, table: Table, device: Device, size: Size, model) -> float:
    """Tokens a second of training.train_task and of the bare loops, in turns; peak memory of each. Returns our seconds a row."""
    settings, rows = settings_for(case, size), examples(size.batch * size.steps, size.length, size.vocabulary)
    tokens, times, peaks = size.batch * size.length, {}, {}
    with installed(model, settings.targets, settings.rank, settings.alpha, settings.dropout) as adapted:
        accelerator = accelerator_for(model)

        def ours() -> list[float]:
            method = Timed()
            train_task(adapted, method, task_of(adapted, 1, rows), Numbers(), settings, accelerator)
            return method.ticks

        loops = {"our loop": ours, "bare PEFT loop, same products": lambda: bare_loop(adapted, rows, settings, device, lean=True),
                 "bare PEFT loop, labels and all logits": lambda: bare_loop(adapted, rows, settings, device, lean=False)}
        if find_spec("trl"):
            loops["TRL's SFTTrainer"] = lambda: sft_loop(adapted, rows, settings, device)
        else:
            table.note("throughput", "TRL's SFTTrainer: not measured, TRL is not installed")
        for _ in range(size.rounds):
            for name, loop in loops.items():
                gc.collect()
                device.peak(reset=True)
                ticks = loop()
                peaks.setdefault(name, []).append(device.peak())
                times.setdefault(name, []).append((ticks[-1] - ticks[2]) / (len(ticks) - 3))         # two steps to warm up
    for name in loops:
        table.add("throughput", f"{case}, {name}", "tokens a second", [tokens / each for each in times[name]], "1/s")
        table.add("throughput", f"{case}, {name}", "peak memory", peaks[name], "GiB")
    for name in list(loops)[1:]:
        table.add("throughput", f"{case}, our loop over {name}", "ratio of tokens a second", ratio(times, name, "our loop"))
    weights = sum(p.numel() for layer in model.model.layers for p in layer.parameters())
    table.add("throughput", f"{case}, our loop", "rate, 4 operations a weight of the layers and a token",
              [4 * weights * tokens / 1e12 / each for each in times["our loop"]], "TFLOP/s")
    return sorted(times["our loop"])[len(times["our loop"]) // 2] / size.batch


def bare_loop(adapted: Adapted, rows: list[Example], settings: Settings, device: Device, lean: bool) -> list[float]:
    """The loop that one writes around a PEFT model; returns when each step began, as Timed does. It waits for the device only where
    its time is read. lean: only the answers' logits, without an attention mask, as our loop has it."""
    adapted.wear(task_of(adapted, 1).fresh(), trains="AB")
    model = adapted.model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    encoded, ticks = encode(Numbers(), rows, settings.max_length), []
    steps = range(0, len(rows), settings.batch_size)
    for k in steps:
        batch = collate(encoded[k:k + settings.batch_size], Numbers.pad_token_id, device.name)
        if len(ticks) in (2, len(steps) - 1):
            device.sync()
        ticks.append(time.perf_counter())
        with torch.autocast(device.name.partition(":")[0], torch.bfloat16, enabled=device.cuda):
            if lean:
                logits = model(input_ids=batch.ids, logits_to_keep=batch.keep, use_cache=False).logits
                loss = cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE)
            else:
                labels = batch.ids.masked_fill(batch.prompt | ~batch.mask, IGNORE)
                loss = model(input_ids=batch.ids, attention_mask=batch.mask.long(), labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimizer.step()
        optimizer.zero_grad()
    device.sync()
    model.eval().requires_grad_(False)
    return ticks


def sft_loop(adapted: Adapted, rows: list[Example], settings: Settings, device: Device) -> list[float]:
    """TRL's SFTTrainer on the same rows with the same settings; returns when each step began, as bare_loop does."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer
    adapted.wear(task_of(adapted, 1).fresh(), trains="AB")
    encoded, ticks = encode(Numbers(), rows, settings.max_length), []
    data = [{"input_ids": row.prompt + row.answer, "attention_mask": [1] * len(row.prompt + row.answer),
             "labels": [IGNORE] * len(row.prompt) + row.answer} for row in encoded]

    class Ticks(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            if len(ticks) in (2, state.max_steps - 1):
                device.sync()
            ticks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder, per_device_train_batch_size=settings.batch_size, num_train_epochs=1, learning_rate=settings.lr,
            weight_decay=settings.weight_decay, max_grad_norm=settings.clip, lr_scheduler_type="constant", optim="adamw_torch_fused",
            bf16=device.cuda, use_cpu=not device.cuda, max_length=None, gradient_checkpointing=False, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True})
        trainer = SFTTrainer(model=adapted.model, args=arguments, train_dataset=Dataset.from_list(data), callbacks=[Ticks()],
                             data_collator=padder(Numbers.pad_token_id, None), processing_class=processing())
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        trainer.accelerator.unwrap_model(adapted.model, keep_fp32_wrapper=False)
        vars(adapted.model).pop("_is_accelerate_prepared", None)     # else the next one would not be wrapped, and learn without autocast
    device.sync()
    adapted.model.eval().requires_grad_(False)
    return ticks


def processing() -> PreTrainedTokenizerFast:
    """A tokenizer that SFTTrainer accepts; the rows are tokens already."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "<eos>": 2}, "<pad>")), pad_token="<pad>", eos_token="<eos>")


def memory(name: str, table: Table, device: Device, size: Size, model) -> None:
    """The peak while task i is trained and merged, and the method's state after it. A task between those that are read is one short
    row: the state grows with the number of tasks, not with their rows."""
    settings, full = settings_for("q and v", size), examples(2 * size.batch, size.length, size.vocabulary)
    with installed(model, settings.targets, settings.rank, settings.alpha, settings.dropout) as adapted:
        accelerator, method = accelerator_for(model), make_method(name)
        for index in range(1, max(size.tasks) + 1):
            task = task_of(adapted, index, full if index in size.tasks else examples(1, 8, size.vocabulary))
            device.peak(reset=True)
            train_task(adapted, method, task, Numbers(), settings, accelerator)
            method.finish(copied(adapted.live()), task)
            if index in size.tasks:
                table.add("memory", f"{name}, task {index}", "peak", device.peak(), "GiB")
                table.add("memory", f"{name}, task {index}", "state", bytes_of(method.memory) / 2 ** 20, "MiB")
