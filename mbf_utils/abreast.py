"""Runs abreast: several runs of one method (other seeds, other orders) learn in one process, each forward pass for all of them.

A small model leaves a GPU idle: a step is a few hundred little kernels, whatever they hold. Side by side, n runs share them:

    y_n = W0 x_n + s B_n (A_n x_n)                  rows of run n, with the factors of run n; W0 once for all rows

Each run keeps its own rows, chance, penalty, clipping, optimiser and folder, so it is the run that `run_stream` makes, up to
rounding: alone, W0 + s B A is one product (folded.py), and a product of more rows adds up in another order. It can be gone on
with by either. One that fails leaves the others, unless it fails inside a pass that they share. Not for dropout (its chance is
the batch's), half precision, or several processes.
"""
from __future__ import annotations

import math
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .adapters import Adapted, installed
from .errors import InputError
from .guards import enough_memory
from .lora import Lora, Pair, Site, Start, copied, each
from .method import Method, Task, seed_of
from .methods import make_method
from .runs import begin, conclude, config_of, lower, prepared, settings_for, targets_of
from .settings import Settings
from .store import Store
from .streams import Stream
from .text import Batch, collate, encode
from .titles import name_of
from .training import accelerator_for, window_plan


class Plan(NamedTuple):
    """One run: where, of what, and from which seed."""
    folder: Path
    stream: Stream
    method: str | Method
    seed: int


class Lane:
    """What one run has while it learns a task: factors that train, windows of rows, an optimiser."""

    def __init__(self, adapted: Adapted, method: Method, task: Task, tokenizer, settings: Settings):
        torch.manual_seed(seed_of(task.seed, task.index, "start"))
        self.method, self.task, self.settings, self.pad = method, task, settings, tokenizer.pad_token_id
        self.rows = encode(tokenizer, method.data(task), settings.max_length)
        start: Start = method.start(task)
        dtype = next(iter(adapted.live().values())).A.dtype
        self.live: Lora = {path: self._trained(path, pair, start.trains, dtype) for path, pair in start.lora.items()}
        self.past: Lora | None = start.past and each(lambda pair: Pair(*(f.detach().to(dtype, copy=True) for f in pair)), start.past)
        self.trained = [factor for pair in self.live.values() for factor in pair if factor.requires_grad]
        self.trained += method.extra.values()
        order = seed_of(task.seed, task.index, "order")
        self.windows = window_plan(len(self.rows), settings, 1, order) if self.trained else []
        task.steps = len(self.windows)
        self.optimizer = self.trained and torch.optim.AdamW(self.trained, lr=settings.lr, weight_decay=settings.weight_decay,
                                                            fused=torch.device(task.device).type in ("cpu", "cuda"))
        self.bends = type(method).mix is not Method.mix
        self.losses: list[float] = []
        self.batches: list[Batch] = []              # the micro-batches of the step, `batch` the one under way
        self.counts: list[int] = []                 # answer tokens of each
        self.batch: Batch | None = None
        self.share = 0.0                            # its part of the step's answer tokens
        self.loss = torch.zeros(())                 # of the step so far
        self.chance: Tensor | None = None           # state of the generator between micro-batches

    @staticmethod
    def _trained(path: str, pair: Pair, trains: str | dict[str, str], dtype: torch.dtype) -> Pair:
        chosen = trains if isinstance(trains, str) else trains[path]
        return Pair(*(nn.Parameter(factor.detach().to(dtype, copy=True), name in chosen) for name, factor in zip("AB", pair)))

    def begin(self, step: int) -> None:
        """Draws up the micro-batches of a step."""
        window, size, self.loss, self.chance, self.task.step = self.windows[step], self.settings.batch_size, torch.zeros(()), None, step
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * self.settings.rate(step, len(self.windows))
        chosen = [[self.rows[i] for i in window[k:k + size]] for k in range(0, len(window), size)]
        self.batches = [collate(rows, self.pad, self.task.device) for rows in chosen]
        self.counts = [sum(len(row.answer) for row in rows) for rows in chosen]

    def see(self, k: int, length: int) -> None:
        """Meets micro-batch k, padded to `length`, with this run's own chance."""
        if self.chance is None:
            torch.manual_seed(seed_of(self.task.seed, self.task.index, "step", self.task.step, 0))
        else:
            torch.set_rng_state(self.chance)
        self.batch, self.share = _wider(self.batches[k], length, self.pad), self.counts[k] / sum(self.counts)
        self.method.before_batch(self.batch, self.task)
        self.chance = torch.get_rng_state()

    def whole(self, logits: Tensor) -> Tensor:
        """The micro-batch's part of the step's loss and penalty. logits (b, k, V)."""
        mean = self.batch.loss(logits)
        self.loss = self.loss + self.share * mean.detach()
        return self.share * (mean + self.method.penalty(self.live, self.task, self.batch, logits))

    def learn(self) -> None:
        """One step of the optimiser, on the gradients that are there."""
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.trained, self.settings.clip)
        self.method.edit_grads(self.live, self.task)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.method.after_step(self.live, self.task)

    def check(self) -> None:
        """Numbers stay finite."""
        last = len(self.losses) == len(self.windows)
        if not math.isfinite(self.losses[-1]) or last and not all(parameter.isfinite().all() for parameter in self.trained):
            raise InputError(f"expected finite numbers, found others (loss {self.losses[-1]}) at step {len(self.losses)} of task "
                             f"{self.task.index} ({self.task.name}): lower lr or the penalty's weight; the last finished task is kept")


def _wider(batch: Batch, length: int, fill: int) -> Batch:
    """More padding on the right, to `length`."""
    more = (0, length - batch.ids.shape[1])
    if not more[1]:
        return batch
    return batch._replace(ids=pad(batch.ids, more, value=fill), mask=pad(batch.mask, more), prompt=pad(batch.prompt, more))


@contextmanager
def _side_by_side(adapted: Adapted, lanes: list[Lane]):
    """While open, every adapted module adds to the base's output each lane's own update, on the lane's own rows."""
    for path, layer in adapted.layers.items():
        layer.forward = partial(_forward, layer, path, adapted.scaling, lanes)
    try:
        yield
    finally:
        for layer in adapted.layers.values():
            del layer.forward


def _forward(layer, path: str, scaling: float, lanes: list[Lane], x: Tensor, *_, **__) -> Tensor:
    """x (n b, T, d_in), lane after lane."""
    rows = [len(lane.batch.ids) for lane in lanes]
    now = [slice(lane.task.index - 1, lane.task.index) for lane in lanes]
    update = _update(path, lanes, [lane.live[path] for lane in lanes], now, x, rows)
    if any(lane.past for lane in lanes):
        nothing = [Pair(pair.A[:0], pair.B[:, :0]) for pair in (lane.live[path] for lane in lanes)]
        past = [lane.past[path] if lane.past else none for lane, none in zip(lanes, nothing)]
        update = update + _update(path, lanes, past, [slice(0, blocks.start) for blocks in now], x, rows)
    return layer.base_layer(x) + scaling * update


def _update(path: str, lanes: list[Lane], pairs: list[Pair], blocks: list[slice], x: Tensor, rows: list[int]) -> Tensor:
    """B_n mix_n(A_n x_n) of every lane, (n b, T, d_out); in one product each where the lanes' shapes are alike."""
    length = x.shape[1]
    alike = len(set(rows)) == 1 and len({(pair.A.shape, pair.B.shape) for pair in pairs}) == 1
    if alike:
        by_lane = x.view(len(lanes), -1, x.shape[-1])                              # (n, b T, d_in)
        h = torch.bmm(by_lane, torch.stack([pair.A for pair in pairs]).mT)         # (n, b T, r)
        if any(lane.bends for lane in lanes):
            h = torch.stack([_mixed(lane, path, held, h_n.view(rows[0], length, -1), x_n).flatten(0, 1)
                             for lane, held, h_n, x_n in zip(lanes, blocks, h, x.split(rows))])
        return torch.bmm(h, torch.stack([pair.B for pair in pairs]).mT).view(len(x), length, -1)
    return torch.cat([_mixed(lane, path, held, x_n @ pair.A.T, x_n) @ pair.B.T
                      for lane, pair, held, x_n in zip(lanes, pairs, blocks, x.split(rows))])


def _mixed(lane: Lane, path: str, blocks: slice, h: Tensor, x: Tensor) -> Tensor:
    """h (b, T, r) of one lane, bent where its method bends it and the adapter holds any task."""
    if not lane.bends or not h.shape[-1]:
        return h
    return lane.method.mix(h, x, Site(path, blocks, lane.live[path], lane.batch))


def train_abreast(adapted: Adapted, lanes: list[Lane]) -> dict[Lane, Exception]:
    """Trains the lanes' tasks to their ends. A lane that raises learns no further: {lane: what it raised}."""
    errors: dict[Lane, Exception] = {}

    def of_each(act, lanes: list[Lane]) -> dict[Lane, Any]:
        """{lane: act(lane)} of those that do not raise."""
        found = {}
        for lane in lanes:
            try:
                found[lane] = act(lane)
            except Exception as error:
                errors[lane] = error
        return found

    adapted.model.train()
    for step in range(max((len(lane.windows) for lane in lanes), default=0)):
        running = [*of_each(lambda lane: lane.begin(step), [lane for lane in lanes if step < len(lane.windows) and lane not in errors])]
        for k in range(max((len(lane.batches) for lane in running), default=0)):
            now = [lane for lane in running if k < len(lane.batches) and lane not in errors]
            length = max((lane.batches[k].ids.shape[1] for lane in now), default=0)
            if now := [*of_each(lambda lane: lane.see(k, length), now)]:
                try:
                    with _side_by_side(adapted, now):
                        logits = dict(zip(now, _logits(adapted, now)))
                    if wholes := of_each(lambda lane: lane.whole(logits[lane]), now):
                        with _side_by_side(adapted, now):   # a checkpointed block is computed again in here
                            sum(wholes.values()).backward()
                except Exception as error:          # one pass for all of them: nobody can tell whose it was
                    errors |= dict.fromkeys(now, error)
        running = [*of_each(Lane.learn, [lane for lane in running if lane not in errors])]
        for lane, loss in zip(running, torch.stack([lane.loss for lane in running]).tolist() if running else []):
            lane.losses.append(loss)                # read all at once
        of_each(Lane.check, running)
    adapted.model.eval()
    return errors


def _logits(adapted: Adapted, lanes: list[Lane]) -> list[Tensor]:
    """One forward pass; the logits of every lane at its own columns, (b, k, V)."""
    keep = torch.cat([lane.batch.keep for lane in lanes]).unique()
    logits = adapted.model(input_ids=torch.cat([lane.batch.ids for lane in lanes]), logits_to_keep=keep, use_cache=False).logits
    parts = logits.split([len(lane.batch.ids) for lane in lanes])
    return [part[:, torch.searchsorted(keep, lane.batch.keep)] for part, lane in zip(parts, lanes)]


def run_abreast(plans: list[Plan], model, resume: bool = True, **settings) -> dict[Path, Exception]:
    """Learns the runs of `plans` to their ends, or goes on with them; returns what went wrong with those that failed.

    model: (model, tokenizer). settings: fields of settings.Settings, for all. Raises InputError for what cannot be learned so.
    """
    model, tokenizer = model
    settings, accelerator = settings_for(model, settings), accelerator_for(model)
    if settings.dropout or accelerator.num_processes > 1 or model.dtype not in (torch.float32, torch.float64):
        raise InputError(f"expected a float32 base, dropout 0 and one process to learn several runs abreast, found "
                         f"{model.dtype}, {settings.dropout} and {accelerator.num_processes}: learn them one by one")
    failures: dict[Path, Exception] = {}
    plans = [plan._replace(stream=prepared(plan.stream, tokenizer, model, settings)) for plan in plans]
    methods = [make_method(plan.method) for plan in plans]
    names = [plan.method if isinstance(plan.method, str) else name_of(method) for plan, method in zip(plans, methods)]
    configs = [config_of(plan.stream, name, method, model, plan.seed, settings, accelerator)        # of the bare model
               for plan, name, method in zip(plans, names, methods)]
    with enough_memory("to learn abreast", "let fewer runs learn side by side; " + lower(settings)), ExitStack() as opened:
        adapted = opened.enter_context(installed(model, targets_of(settings), settings.rank, settings.alpha, 0.0, settings.checkpointing))
        runs: list[tuple[Plan, Method, Store]] = []
        for plan, method, config in zip(plans, methods, configs):
            try:
                store = opened.enter_context(Store(plan.folder, config, resume))
                if store.finished():
                    method.memory = store.memory(adapted.device)
                runs.append((plan, method, store))
            except Exception as error:
                failures[plan.folder] = error
        for index in range(1, max((len(plan.stream) for plan, _, _ in runs), default=0) + 1):
            due = [run for run in runs if run[0].folder not in failures and run[2].finished() == index - 1 < len(run[0].stream)]
            failures |= _learn_task(index, due, adapted, tokenizer, settings)
    return failures


def _learn_task(index: int, due: list[tuple[Plan, Method, Store]], adapted: Adapted, tokenizer, settings: Settings) -> dict[Path, Exception]:
    """Task `index` of every run that is due: trained together, then finished, scored and stored one by one. What failed."""
    began, lanes, failures = time.perf_counter(), {}, {}
    with torch.random.fork_rng(devices=[adapted.device] if torch.device(adapted.device).type == "cuda" else []):
        for plan, method, store in due:
            try:
                task, log = begin(index, plan.stream, adapted, tokenizer, plan.seed, settings)
                lanes[Lane(adapted, method, task, tokenizer, settings)] = plan, store, log
            except Exception as error:
                failures[plan.folder] = error
        errors = train_abreast(adapted, [*lanes])
    seconds = (time.perf_counter() - began) / max(1, len(lanes))     # a run's share of the time
    for lane, (plan, store, log) in lanes.items():
        try:
            if lane in errors:
                raise errors[lane]
            conclude(plan.stream, lane.method, lane.task, copied(lane.live), adapted, tokenizer, settings, store,
                     log | {"losses": lane.losses, "seconds_train": seconds, "abreast": len(lanes)})
        except Exception as error:
            failures[plan.folder] = error
    return failures
