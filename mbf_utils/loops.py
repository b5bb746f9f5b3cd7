"""What a training loop of somebody else's needs: its batches as rows, and a method's hooks at the right moments.

Batches are those of Hugging Face: input_ids, attention_mask and labels, each (b, T), labels not shifted and -100 where no
loss is wanted. The moments, none of which the loop has to know of:

    before the forward          before_batch
    after it                    loss <- loss + w penalty, where the forward was given labels
    before optimizer.step()     edit_grads, after whatever clipping the loop does
    after it                    after_step

w makes a penalty count once a window, however many micro-batches it has. transformers' Trainer hands a forward the number N
of answer tokens in its window, takes the loss as a sum over N and does not divide it again: w = tokens / N, whose sum over
the window is 1. Without N the loss is a mean that the loop divides by its micro-batches, the penalty with it: w = 1.
TRL's SFTTrainer makes its loss itself, of the log-probabilities l of the labelled tokens that its forward returns, -sum l / N:
there l <- l - penalty for each of them, which comes to the same w. Logits it has none, and a penalty that asks for them is refused.

The steps are seen through PyTorch's hooks on all optimizers, so also inside Accelerate and under a gradient scaler, which
leaves them out where it skips a step. An optimizer that is none of PyTorch's (DeepSpeed's) is not seen, and said to be missing.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .adapters import Adapted
from .errors import InputError
from .lora import Lora
from .method import Method, Task
from .probe import Probe
from .settings import Settings
from .text import IGNORE, Batch


def overrides(method: Method, *hooks: str) -> bool:
    """Whether the method has a rule of its own at any of these hooks."""
    return any(getattr(type(method), hook) is not getattr(Method, hook) for hook in hooks)


def fitting(method: Method) -> Method:
    """The method, if its result is one plain adapter and it leaves the rows to the loop; else an InputError."""
    card = method.card
    if overrides(method, "data"):
        raise InputError(f"expected a method that leaves the rows to the loop, found {card.title}, which chooses them: take "
                         "'seqlora' and mix earlier rows into your batches")
    if card.routes or card.task_id:
        raise InputError(f"expected a method whose result is one plain adapter, found {card.title}, which needs more at test "
                         "time")
    return method


# ---- batches and rows
class Row(NamedTuple):
    """One row without its padding."""
    ids: Tensor                                     # (T,)
    labels: Tensor                                  # (T,), -100 where no loss is wanted


def batch_of(ids: Tensor, mask: Tensor | None = None, labels: Tensor | None = None, shifted: Tensor | None = None) -> Batch:
    """ids, mask, labels (b, T) as a Batch; `shifted` (b, T) are labels that already stand where they are predicted."""
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    if mask.shape[0] != ids.shape[0] or mask.dim() != 2 or mask.shape[1] < ids.shape[1]:
        raise InputError(f"expected an attention_mask of the shape of input_ids {tuple(ids.shape)}, found {tuple(mask.shape)}")
    mask = mask[:, -ids.shape[1]:]                  # longer where a cache holds what came before
    if not mask[:, 0].all():
        raise InputError("expected padding on the right, found it on the left: set tokenizer.padding_side = 'right' for training")
    if shifted is None:
        shifted = torch.full_like(ids, IGNORE)
        if labels is not None:
            shifted[:, :-1] = labels[:, 1:]
    predicts = shifted != IGNORE                    # (b, T)
    keep = predicts.any(0).nonzero()[:, 0]          # (k,)
    before = predicts.cumsum(1) - predicts.long() == 0               # up to the token that predicts the first of the answer
    return Batch(ids, mask, keep, shifted[:, keep], before & mask)


class Rows(Sequence):
    """The rows of a task, read out of its batches when they are first asked for. batches: a list, a DataLoader or a Dataset of
    dicts, each a batch (b, T) or one row (T,); a DataLoader that shuffles is read in one of its orders."""

    def __init__(self, batches, name: str):
        if isinstance(batches, Iterator):
            raise InputError("expected batches that can be read more than once (a list, a DataLoader, a Dataset) for task "
                             f"{name}, found a {type(batches).__name__}: make a list of it")
        self._batches, self._name = batches, name

    @cached_property
    def _rows(self) -> list[Row]:
        if self._batches is None:
            raise InputError(f"expected the batches of task {self._name}, for this method looks at its rows, found none: give "
                             "them to task(name, batches)")
        with torch.random.fork_rng(devices=[]):     # a DataLoader draws its order: the loop's own chance stays as it is
            rows = [row for k, batch in enumerate(self._batches) for row in self._split(batch, k)]
        if not rows:
            raise InputError(f"expected rows in the batches of task {self._name}, found none")
        return rows

    def _split(self, batch, k: int) -> list[Row]:
        try:
            ids, labels = (torch.as_tensor(batch[key]) for key in ("input_ids", "labels"))
        except (KeyError, TypeError, IndexError, ValueError):
            found = ", ".join(map(str, batch)) if isinstance(batch, dict) else type(batch).__name__
            raise InputError("expected dicts of numbers with input_ids and labels (-100 where no loss is wanted), "
                             f"found {found} (task {self._name}, batch {k})") from None
        mask = batch["attention_mask"] if "attention_mask" in batch else None
        if ids.dim() == 2 and mask is None and len(ids) > 1:
            raise InputError("expected an attention_mask, for padding is never counted, found a batch without one "
                             f"(task {self._name}, batch {k})")
        ids, labels = ids.reshape(-1, ids.shape[-1]), labels.reshape(-1, ids.shape[-1])
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else torch.as_tensor(mask).reshape(ids.shape).bool()
        return [Row(i[m].cpu(), y[m].cpu()) for i, y, m in zip(ids, labels, real)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        return self._rows[index]


class RowsProbe(Probe):
    """The model, asked about such rows, in batches of `size`."""

    def __init__(self, adapted: Adapted, rows: Rows, size: int):
        super().__init__(adapted, None, rows, Settings(batch_size=size, eval_batch_size=size), summed)

    @cached_property
    def _rows(self) -> list[Row]:
        return list(self._examples)

    def _collate(self, rows: list[Row]) -> Batch:
        return collated(rows, self._adapted.device)


def collated(rows: list[Row], device="cpu") -> Batch:
    """Rows padded on the right to the longest."""
    ids, mask, labels = (nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value).to(device)
                         for parts, value in (([row.ids for row in rows], 0), ([torch.ones_like(row.ids) for row in rows], 0),
                                              ([row.labels for row in rows], IGNORE)))
    return batch_of(ids, mask, labels)


def summed(value: Tensor) -> Tensor:
    """The sum over all processes, where there are several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


class OpenTask(Task):
    """A task of a loop that we do not run: the number of its steps is known where the loop says it."""

    @property
    def steps(self) -> int:
        if not self._steps:
            raise InputError(f"expected the number of optimizer steps of task {self.name}, for this method plans with it, found "
                             "none: give steps to task(name, batches, steps)")
        return self._steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._steps = value


# ---- the hooks
class Absent:
    """In place of logits that a forward did not make: whoever looks at them is told so."""

    def __init__(self, title: str):
        self._title = title

    def __getattr__(self, name):
        raise InputError(f"expected logits for the penalty of {self._title}, found a forward that makes none (TRL's fused loss): "
                         "use transformers' Trainer")

    def __getitem__(self, index):
        return self.shape


class Hooks:
    """A method's hooks in the loop of somebody else's, until remove(). trained: all that the loop's optimizer has to hold."""

    def __init__(self, adapted: Adapted, method: Method, task: Task, trained: list[nn.Parameter]):
        self.steps, self._method, self._task, self._trained = 0, method, task, trained
        self._live: Lora = adapted.live()
        self._optimizer = self._outer = None
        self._batch: Batch | None = None
        self._counted = not overrides(method, "penalty")             # a penalty is in the loss since the last step
        self._open = ExitStack()
        handles = [register_optimizer_step_pre_hook(self._before_step), register_optimizer_step_post_hook(self._after_step)]
        if overrides(method, "before_batch", "mix", "penalty"):
            for module in (adapted.model, adapted.model.get_base_model()):      # a loop may call either, one calls the other
                handles += [module.register_forward_pre_hook(self._before_forward, with_kwargs=True),
                            module.register_forward_hook(self._after_forward, with_kwargs=True)]
        for handle in handles:
            self._open.callback(handle.remove)
        if overrides(method, "mix"):
            self._open.enter_context(adapted.mixing(method.mix, slice(task.index - 1, task.index), lambda: self._batch))

    def remove(self) -> None:
        self._open.close()

    def penalty(self, logits: Tensor, labels: Tensor):
        """The method's penalty of the last forward, logits (b, T, V) or at the labelled columns alone (b, k, V)."""
        if not overrides(self._method, "penalty"):
            return 0.0
        if self._batch is None:
            raise InputError("expected a forward of the model before its penalty, found none")
        return self._penalty(logits, batch_of(self._batch.ids, self._batch.mask, labels))

    def _penalty(self, logits: Tensor | None, batch: Batch):
        self._counted = True
        if logits is None:
            logits = Absent(self._method.card.title)
        elif logits.shape[1] == batch.ids.shape[1]:
            logits = logits[:, batch.keep]
        return self._method.penalty(self._live, self._task, batch, logits)

    def _before_forward(self, module, args, kwargs) -> None:
        if self._outer not in (None, module):
            return                                  # inside the call of the other
        self._outer = module
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise InputError("expected input_ids in the forward of a method that looks at its batches, found none")
        mask = kwargs.get("attention_mask")
        self._batch = batch_of(ids, mask if mask is None or mask.dim() == 2 else None, kwargs.get("labels"), kwargs.get("shift_labels"))
        if module.training and torch.is_grad_enabled():
            self._method.before_batch(self._batch, self._task)

    def _after_forward(self, module, args, kwargs, out):
        if module is not self._outer:
            return None
        self._outer = None
        trains = module.training and torch.is_grad_enabled()
        if not trains or kwargs.get("labels") is None or not overrides(self._method, "penalty"):
            return None                             # an evaluation's loss stays plain; a loop without labels asks for the penalty
        if isinstance(out, tuple):
            raise InputError("expected the forward's output by name, to add a penalty to its loss, found a tuple: leave out "
                             "return_dict")
        count = kwargs.get("num_items_in_batch")
        weight = 1.0 if count is None else self._batch.tokens / count
        penalty, log_probs = self._penalty(out.logits if "logits" in out else None, self._batch), getattr(out, "log_probs", None)
        out.loss = out.loss + weight * penalty
        if log_probs is not None:                   # TRL's: (b, T - 1), or (b, T) of shifted labels
            out.log_probs = log_probs - penalty * out.label_mask
        return out

    def _ours(self, optimizer) -> bool:
        if optimizer is self._optimizer:
            return True
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        missing = sum(id(parameter) not in held for parameter in self._trained)
        if missing == len(self._trained):
            return False                            # another model's
        if missing or self._optimizer is not None:
            found = f"one without {missing} of these {len(self._trained)}" if missing else "a second one"
            raise InputError(f"expected one optimizer over continual.parameters() for the whole task, found {found}")
        self._optimizer = optimizer
        return True

    def _before_step(self, optimizer, args, kwargs) -> None:
        if not self._ours(optimizer):
            return
        title = self._method.card.title
        if not self._counted:
            raise InputError(f"expected the penalty of {title} in the loss, found a step without it: give the model labels in "
                             "train mode and use the loss that it returns, or add continual.penalty(logits, labels) to yours")
        if overrides(self._method, "edit_grads"):
            if any(value is not None for value in (*args[1:], kwargs.get("closure"))):
                raise InputError(f"expected gradients before optimizer.step(), for {title} edits them, found a closure: call "
                                 "backward first")
            self._method.edit_grads(self._live, self._task)

    def _after_step(self, optimizer, args, kwargs) -> None:
        if optimizer is not self._optimizer:
            return
        self._method.after_step(self._live, self._task)
        self._task.step += 1
        self.steps += 1
        self._counted = not overrides(self._method, "penalty")
