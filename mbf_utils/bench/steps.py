"""A training step of a big model: our loop against bare PEFT loops and against the card's own rates; memory after many tasks."""
from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch.nn.functional import cross_entropy

from ..adapters import Adapted, installed
from ..lora import copied
from ..method import Method
from ..methods import make_method
from ..settings import Settings
from ..streams import Example
from ..text import IGNORE, collate, encode
from ..training import accelerator_for, train_task
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
        for _ in range(size.rounds):
            for name, loop in loops.items():
                device.peak(reset=True)
                ticks = loop()
                peaks[name] = device.peak()
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
