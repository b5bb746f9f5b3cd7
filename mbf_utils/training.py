"""The loop: one task, one LoRA, any method. It never asks which method it runs.

A window is what one optimiser step sees: batch_size x accumulation x processes examples (fewer at an epoch's end).
Each micro-batch counts by its share of the window's answer tokens:

    loss = sum over micro-batches of share (mean token loss + penalty),   the shares of a window add up to 1

so a short last window is a true mean, a penalty of the parameters counts once, and a penalty of the batch is a mean over
tokens. Then: clip, edit_grads, step, after_step. AdamW is made anew for every task. Accelerate moves the loop to several
processes: the bare model is prepared afresh for each task, after everything that trains has been registered and frozen.
"""
from __future__ import annotations

import math
import os
import sys
import time
from contextlib import contextmanager, nullcontext
from typing import Callable

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from tqdm.auto import tqdm

from .adapters import Adapted
from .errors import InputError
from .lora import Start
from .method import Method, Task, seed_of
from .settings import Settings
from .sharding import average, prepare, wanted
from .text import collate, encode


def window_plan(n: int, settings: Settings, processes: int, seed: int) -> list[list[int]]:
    """The rows of every optimiser step: one permutation an epoch, cut into windows; the last epoch may be a part."""
    size = settings.batch_size * settings.accumulation * processes
    windows, left = [], math.ceil(round(n * settings.epochs, 6))     # 100 x 1.1 is 110 rows, not 111
    for epoch in range(math.ceil(settings.epochs)):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(seed, epoch))).tolist()[:left]
        windows += [order[k:k + size] for k in range(0, len(order), size)]
        left -= len(order)
    return windows


def accelerator_for(model: nn.Module) -> Accelerator:
    """An Accelerator whose autocast follows the base's own type on CUDA; elsewhere there is none."""
    first = next(model.parameters())
    if first.device.type == "cuda" and first.device.index and "LOCAL_RANK" not in os.environ:
        raise InputError(f"expected the base on this process's first card, found it on {first.device}: start with "
                         f"CUDA_VISIBLE_DEVICES={first.device.index} and leave device out")
    kind = "cuda" if wanted() else first.device.type                 # to be sharded, it waits on the CPU
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(first.dtype, "no") if kind == "cuda" else "no"
    made = {**PartialState._shared_state, **AcceleratorState._shared_state}     # Accelerate keeps its first choices for good
    if made and (made.get("_mixed_precision", precision), made["device"].type) != (precision, kind):
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=precision, cpu=kind == "cpu")


def on_main(accelerator: Accelerator, act: Callable):
    """act() of the main process: its value, or what it raised, on every process. All wait for it."""
    if accelerator.num_processes == 1:
        return act()
    found: list = [None, None]
    mine = None
    if accelerator.is_main_process:
        try:
            found[0] = act()
        except InputError as error:
            found[1] = str(error)
        except Exception as error:                  # the others shall not wait for what never comes
            found[1], mine = f"the main process failed with {type(error).__name__}: {error}", error
    broadcast_object_list(found)
    if found[1]:
        raise mine or InputError(found[1])
    return found[0]


def train_task(adapted: Adapted, method: Method, task: Task, tokenizer, settings: Settings, accelerator: Accelerator,
               load: Callable[[], dict | None] = lambda: None, save: Callable[[dict], None] | None = None, resumed: str = "") -> list[float]:
    """Trains `method` on `task` in the adapters of `adapted`; returns the loss of every step (nats per answer token).

    `save` gets everything that a restart needs, every settings.checkpoint_minutes; `load` gives it back (or None).
    A restarted task ends with the same bytes, for chance begins anew at every step. Of several processes the main one saves.
    resumed: the run's folder where the method's memory was read there; one that is not this method's raises InputError.
    """
    with torch.random.fork_rng(devices=[accelerator.device] if accelerator.device.type == "cuda" else []):
        torch.manual_seed(seed_of(task.seed, task.index, "start"))
        return _train(adapted, method, task, tokenizer, settings, accelerator, load, save, resumed)


def _train(adapted, method, task, tokenizer, settings, accelerator, load, save, resumed) -> list[float]:
    rows = encode(tokenizer, method.data(task), settings.max_length)
    _begin(adapted, method, task, resumed)
    live = adapted.live()
    trained = [factor for pair in live.values() for factor in pair if factor.requires_grad] + list(method.extra.values())
    if not trained:
        return []
    adapted.model.extra = nn.ParameterList(method.extra.values())
    windows = window_plan(len(rows), settings, accelerator.num_processes, seed_of(task.seed, task.index, "order"))
    task.steps = len(windows)
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay,
                                  fused=accelerator.device.type in ("cpu", "cuda"))
    GradientState._reset_state()                    # a Trainer that ended inside an accumulation lets no optimizer step
    model, optimizer = prepare(adapted, optimizer, accelerator)
    bends = type(method).mix is not Method.mix
    batch = None
    mixing = adapted.mixing(method.mix, slice(task.index - 1, task.index), lambda: batch) if bends else nullcontext()
    losses: list[float] = []
    bar = tqdm(total=len(windows), desc=f"task {task.index}{f'/{task.total}' if task.total else ''} {task.name}",
               disable=not sys.stderr.isatty() or not accelerator.is_main_process)
    with mixing:
        model.train()
        if (state := load()) is not None:
            losses = _restore(state, method, task, trained, optimizer, accelerator)
            bar.update(len(losses))
        saved = time.monotonic()
        for step in range(len(losses), len(windows)):
            task.step = step
            torch.manual_seed(seed_of(task.seed, task.index, "step", step, accelerator.process_index))
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * settings.rate(step, len(windows))
            loss = 0.0
            batches = _micro_batches(windows[step], rows, settings, tokenizer, accelerator)
            total = sum(len(rows[i].answer) for i in windows[step])              # of all processes
            for k, (batch, tokens) in enumerate(batches):
                with accelerator.no_sync(model) if k + 1 < len(batches) else nullcontext():
                    method.before_batch(batch, task)
                    with accelerator.autocast():
                        logits = model(input_ids=batch.ids, logits_to_keep=batch.keep, use_cache=False).logits    # (b, k, V)
                    mean = batch.loss(logits)
                    share = tokens / total
                    whole = share * (mean + method.penalty(live, task, batch, logits))
                    accelerator.backward(whole * accelerator.num_processes)           # processes average their gradients
                    loss = loss + share * mean.detach()
            average(trained, accelerator)
            if settings.clip:
                accelerator.clip_grad_norm_(trained, settings.clip)
            else:
                accelerator.unscale_gradients()
            method.edit_grads(live, task)
            optimizer.step()
            optimizer.zero_grad()
            method.after_step(live, task)
            losses.append(float(accelerator.reduce(loss)))
            last = step + 1 == len(windows)
            if not math.isfinite(losses[-1]) or last and not all(parameter.isfinite().all() for parameter in trained):
                raise InputError(f"expected finite numbers, found others (loss {losses[-1]}) at step {step + 1} of task {task.index} "
                                 f"({task.name}): lower lr or the penalty's weight; the last finished task is kept")
            bar.update()
            late = time.monotonic() - saved >= 60 * settings.checkpoint_minutes
            if save and late and accelerator.is_main_process and not last:
                save(_state(losses, method, trained, optimizer, accelerator))
                saved = time.monotonic()
    bar.close()
    logits = mean = whole = loss = batch = batches = None             # what they hold is freed below
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model, optimizer = accelerator.free_memory(model, optimizer)
    del adapted.model.extra
    adapted.model.requires_grad_(False)
    adapted.model.eval()
    return losses


@contextmanager
def routed(adapted: Adapted, method: Method, task: Task):
    """For scoring what `finish` gave: yields see(batch), to be called before each batch. A method whose gates depend on the
    input meets every batch and bends every bottleneck; for the others nothing happens."""
    if not method.card.routes:
        yield lambda batch: None
        return
    seen = [None]

    def see(batch) -> None:
        seen[0] = batch
        method.before_batch(batch, task)

    with adapted.mixing(method.mix, slice(0, task.index), lambda: seen[0]):
        yield see


def _micro_batches(window: list[int], rows, settings: Settings, tokenizer, accelerator: Accelerator):
    """This process's share of a window: (batch, answer tokens) pairs, the same number of them on every process."""
    mine = window[accelerator.process_index::accelerator.num_processes]
    batches = []
    for k in range(0, math.ceil(len(window) / accelerator.num_processes), settings.batch_size):
        chosen = mine[k:k + settings.batch_size]
        batch = collate([rows[i] for i in chosen or window[:1]], tokenizer.pad_token_id, accelerator.device)
        batches.append((batch, sum(len(rows[i].answer) for i in chosen)))        # a process without rows goes along with weight 0
    return batches


def _begin(adapted: Adapted, method: Method, task: Task, resumed: str) -> None:
    """Puts on what the method starts from."""
    try:
        start: Start = method.start(task)
        adapted.wear(start.lora, start.past, start.trains)
    except (LookupError, TypeError, AttributeError) as error:
        if not resumed:                             # a method's own mistake
            raise
        raise InputError(f"expected in {resumed} the memory of {method.card.title}, found one that is not this method's "
                         f"({type(error).__name__}: {error}): learn into another folder, or bring it back from a copy") from error


def _state(losses, method, trained, optimizer, accelerator) -> dict:
    """Everything a restart in the middle of a task needs."""
    state = {"losses": losses, "trained": [parameter.detach() for parameter in trained], "memory": method.memory,
             "optimizer": {str(i): values for i, values in optimizer.state_dict()["state"].items()}}
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    return state


def _restore(state: dict, method, task: Task, trained, optimizer, accelerator) -> list[float]:
    shapes = [parameter.shape for parameter in trained]
    try:
        fits = (len(state["losses"]) < task.steps and [value.shape for value in state["trained"]] == shapes and isinstance(state["memory"], dict)
                and all(values[name].shape == shapes[int(i)] for i, values in state["optimizer"].items() for name in ("exp_avg", "exp_avg_sq")))
    except (LookupError, TypeError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise InputError(f"expected a checkpoint of this method inside task {task.index} ({task.name}), found another state: remove the "
                         f"folder checkpoint-{task.index:02d}-* of the run, and the task begins anew")
    with torch.no_grad():
        for parameter, value in zip(trained, state["trained"]):
            parameter.copy_(value)
    method.memory = state["memory"]
    whole = optimizer.state_dict()
    whole["state"] = {int(i): values for i, values in state["optimizer"].items()}
    optimizer.load_state_dict(whole)
    if "scaler" in state:
        accelerator.scaler.load_state_dict(state["scaler"])
    return state["losses"]
