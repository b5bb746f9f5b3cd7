"""What grows with what: state, disk and resident memory with the number of tasks; activations with what a step asks for; time with
tasks, rank, modules and length, each with its slope on a log-log scale (1: linear, 0: constant)."""
from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..adapters import installed
from ..costs import memory as resident
from ..lora import Pair, copied
from ..method import Task
from ..methods import make_method
from ..models import load_model, suggested
from ..settings import Settings
from ..sources import load_stream
from ..store import Store, save_value
from ..text import collate, encode
from ..training import accelerator_for, train_task
from .shape import bytes_of
from .table import Table, in_turns


def slope(sizes, times) -> float:
    """The exponent k of time ~ size^k, fitted to the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def small(limit: int = 64):
    """The tiny base, its tokenizer, its settings and rows to train on."""
    base, tokenizer = load_model("tiny", "cpu", "float32")
    return base, tokenizer, Settings(**{**suggested(base), "epochs": 1}), load_stream("world-5", limit=limit)[0].train


def over_tasks(name: str, table: Table, counts: tuple[int, ...]) -> None:
    """One method over max(counts) tasks of one step, stored as a run stores them with keep="last"."""
    base, tokenizer, settings, rows = small(16)
    state, held = [], []
    with tempfile.TemporaryDirectory(prefix="mbf-bench-") as folder, \
            installed(base, settings.targets, settings.rank, settings.alpha) as adapted, \
            Store(Path(folder) / "run", {"settings": {"keep": "last"}}) as store:
        method, accelerator = make_method(name), accelerator_for(base)
        for index in range(1, max(counts) + 1):
            task = Task(index, f"t{index}", rows, settings.rank, adapted.scaling, adapted.sites, 0)
            train_task(adapted, method, task, tokenizer, settings, accelerator)
            result = method.finish(copied(adapted.live()), task)

            def write(folder: Path) -> None:
                adapted.save(result, folder / "result")
                save_value(method.memory, folder / "memory")

            store.commit_task(index, task.name, write, "last")
            method.memory = store.memory()
            if index in counts:
                case = f"{name}, after {index} tasks"
                disk = sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file())
                state.append(bytes_of(method.memory))
                held.append(resident("VmRSS"))
                table.add("memory", case, "state", state[-1] / 2 ** 20, "MiB")
                table.add("memory", case, "state over one adapter", state[-1] / bytes_of(adapted.live()))
                table.add("memory", case, "disk, only the last adapter kept", disk / 2 ** 20, "MiB")
                table.add("memory", case, "resident size", held[-1], "MB")
    table.add("memory", f"{name}, declared {method.card.memory}", "slope of the state", slope(counts[1:], state[1:]))
    table.add("memory", f"{name}, declared {method.card.memory}", f"drift of the resident size, {counts[1]} to {counts[-1]} tasks",
              100 * (held[-1] / held[1] - 1), "%")


def activations(table: Table) -> None:
    """What a forward pass keeps for the backward pass, by the logits that it is asked for and by its padding."""
    base, tokenizer, settings, rows = small(128)
    encoded = encode(tokenizer, rows, settings.max_length)
    batch = collate(encoded[:settings.batch_size], tokenizer.pad_token_id)
    stream = [row for data in load_stream("world-5", limit=128) for row in encode(tokenizer, data.train, settings.max_length)]
    longest = max(len(row.prompt) + len(row.answer) for row in stream)
    wide = torch.nn.functional.pad(batch.ids, (0, longest - batch.ids.shape[1]), value=tokenizer.pad_token_id)
    forms = {"the answers' logits": {"input_ids": batch.ids, "logits_to_keep": batch.keep}, "all logits": {"input_ids": batch.ids},
             "all logits, padded to the longest row": {"input_ids": wide}}
    with installed(base, settings.targets, settings.rank, settings.alpha) as adapted:
        adapted.wear(Task(1, "t", rows, settings.rank, adapted.scaling, adapted.sites, 0).fresh(), trains="AB")
        weights = {parameter.untyped_storage().data_ptr() for parameter in adapted.model.parameters()}
        for form, inputs in forms.items():
            kept = {}

            def note(tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in weights:
                    kept[storage.data_ptr()] = storage.nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                logits = adapted.model(**inputs, use_cache=False).logits
                logits.float().logsumexp(-1).sum()
            table.add("activations", form, "kept for the backward pass", sum(kept.values()) / 2 ** 20, "MiB")


def scaling(table: Table, rounds: int, hidden: int = 2048) -> None:
    """Time against rank, modules, tasks and length."""
    merge = make_method("slao")
    ranks, modules = (8, 16, 32, 64), (8, 16, 32, 64)

    def stack_of(count, rank):
        return {str(k): Pair(torch.randn(rank, hidden), torch.randn(hidden, rank)) for k in range(count)}

    def merged(lora):
        merge.memory = {"merged": lora, "tuned": lora}
        return merge.finish(lora, Task(3, "t", [], 8, 1.0, {}, 0))

    def started(lora):
        merge.memory = {"merged": lora, "tuned": lora}
        return merge.start(Task(3, "t", [], 8, 1.0, {}, 0))

    for what, loras in (("rank", {rank: stack_of(16, rank) for rank in ranks}),
                        ("modules", {count: stack_of(count, 8) for count in modules})):
        growth(table, f"merge over {what}", {size: partial(merged, lora) for size, lora in loras.items()}, rounds)
        growth(table, f"orthogonal start over {what}", {size: partial(started, lora) for size, lora in loras.items()}, rounds)
    base, tokenizer, settings, rows = small(16)
    with installed(base, settings.targets, settings.rank, settings.alpha) as adapted:
        task = Task(1, "t", rows, settings.rank, adapted.scaling, adapted.sites, 0)

        def step(length, past=None, penalty=None):
            adapted.wear(task.fresh(), past, "AB")
            ids = torch.randint(3, base.config.vocab_size, (4, length), generator=torch.Generator().manual_seed(0))

            def act():
                loss = adapted.model(input_ids=ids, logits_to_keep=1, use_cache=False).logits.logsumexp(-1).sum()
                (loss + (penalty(adapted.live()) if penalty else 0.0)).backward()
                adapted.model.zero_grad()
            return act

        growth(table, "step over tokens a row", {length: step(length) for length in (64, 128, 256, 512)}, rounds)
        counts, method = (2, 8, 32, 128), make_method("slao")
        growth(table, "SLAO's merge over tasks", {count: partial(finished, method, task, count) for count in counts}, rounds)
        olora = make_method("olora")

        def stacked(count):
            wide = count * settings.rank
            past = {path: Pair(torch.randn(wide, d_in), torch.randn(d_out, wide)) for path, (d_in, d_out) in adapted.sites.items()}
            act = step(64, past, lambda live: olora.penalty(live, task, None, None))

            def worn():
                olora.memory["stack"] = past
                adapted.wear(task.fresh(), past, "AB")
                act()
            return worn

        growth(table, "O-LoRA's step over tasks, wearing its stack", {count: stacked(count) for count in counts}, rounds)


def finished(method, task: Task, index: int):
    """The merge of task `index`: a tensor of state, whatever the number of tasks before."""
    lora = task.fresh()
    method.memory = {"merged": lora, "tuned": lora}
    return method.finish(lora, Task(index, "t", [], task.rank, task.scaling, task.sites, 0))


def growth(table: Table, what: str, acts: dict, rounds: int) -> None:
    times = in_turns(acts, rounds)
    middles = [table.add("scaling", f"{what}: {size}", "time", [1e3 * each for each in spent], "ms")
               for size, spent in times.items()]
    table.add("scaling", what, "slope", slope(list(times), middles))
