"""Other people's training loops: one adapter that goes on learning, month after month, in whatever loop one has.

    continual = Continual(model, method="slao", rank=8, alpha=16)
    with continual.task("january", batches):
        optimizer = torch.optim.AdamW(continual.parameters(), lr=1e-4)     # made anew for every task
        for batch in batches:                                              # input_ids, attention_mask, labels
            continual.model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    continual.save("adapter")                       # a plain PEFT adapter, and beside it what the method remembers

    continual = Continual.load("adapter", model)    # next month, in a new process
    continual.check({"support": rows}, max_drop=0.05)                      # raises before a worse adapter is published

What the loop has to do, and all of it: one optimizer over continual.parameters(); the loss that the model returns for labels,
divided by the micro-batches of a step where gradients accumulate. loops.py puts the method's hooks where they belong, and a
loop that lets one of them out is stopped with a sentence. A loop with a loss of its own adds continual.penalty(logits, labels)
to it. transformers' Trainer (and TRL's SFTTrainer, which is one) takes continual.callback("january", batches) as a callback.
The reported loss holds the penalty. Rows are not packed, and padded on the right.

When a task ends well the model wears the method's result. When it ends with an error the model is again what it was before.
Several processes (DDP): the same batches in task() on each, save on one; not with DataParallel, DeepSpeed or FSDP.
"""
from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pandas as pd
import torch
from torch import Tensor, nn

from .adapter_files import plain_adapter
from .adapters import Adapted
from .callback import TaskCallback
from .checks import compared, held_out
from .errors import InputError
from .loops import Hooks, OpenTask, Rows, RowsProbe, fitting
from .lora import Lora, Pair, apart, copied, each
from .method import Method, seed_of
from .methods import make_method
from .models import suggested
from .runs import fingerprint
from .settings import Settings
from .store import pack, unpack
from .titles import name_of
from .versions import Version, base_of, read_versions, settings_of, weights_hash, write_versions

ALIKE = 1e-3                                        # relative difference below which two updates count as one


class Continual:
    """One adapter on `model` that learns task after task by `method`.

    model: a base of transformers without adapters; it is adapted in place. method: a name in METHODS or a Method; one whose
    result is one plain adapter and that leaves the rows to the loop. targets, rank, alpha, dropout: of the LoRA, by default
    the base's own or those of settings.Settings. seed: of the method's own draws (a fresh start); the loop's chance is its own.
    keep: versions to roll back to, the latest among them. batch_size: rows a forward pass where the method looks at them beside
    the training. `model` is the PeftModel to train and to use, `names` the tasks so far.
    """

    def __init__(self, model: nn.Module, method: str | Method = "slao", targets=None, rank: int | None = None,
                 alpha: float | None = None, dropout: float | None = None, seed: int = 0, keep: int = 3, batch_size: int = 8):
        given = {"targets": targets, "rank": rank, "alpha": alpha, "dropout": dropout}
        settings = Settings(**{**suggested(model), **{key: value for key, value in given.items() if value is not None}})
        if min(keep, batch_size) < 1:
            raise InputError(f"expected keep and batch_size to be 1 or more, found {keep} and {batch_size}")
        self.method, self.seed, self.keep, self.batch_size = fitting(make_method(method)), seed, keep, batch_size
        self._named = method if isinstance(method, str) else name_of(method)
        self._base = base_of(model)
        self._lora = {"targets": settings.targets if isinstance(settings.targets, str) else list(settings.targets),
                      "rank": settings.rank, "alpha": settings.alpha, "dropout": settings.dropout}
        self._adapted = Adapted(model, *self._lora.values())
        self._versions: list[Version] = []
        self._task: OpenTask | None = None
        self._hooks: Hooks | None = None
        self._trained: list[nn.Parameter] = []
        self._wear_last()

    def __repr__(self) -> str:
        return f"Continual({self._named}, {len(self.names)} tasks{': ' if self.names else ''}{', '.join(self.names)})"

    @property
    def model(self) -> nn.Module:
        return self._adapted.model

    @property
    def names(self) -> list[str]:
        """The tasks learned so far, in their order."""
        return list(self._versions[-1].names) if self._versions else []

    # ---- a task
    @contextmanager
    def task(self, name: str, batches=None, steps: int | None = None):
        """While open, `parameters()` train and the method's hooks are in place.

        batches: what the loop trains on, for methods that look at the rows beside it; any list, DataLoader or Dataset of dicts
        that can be read more than once. steps: the number of optimizer steps, for methods that plan with it.
        """
        self.begin(name, batches, steps)
        try:
            yield self
            self.finish()
        except BaseException:
            self.abandon()
            raise

    def begin(self, name: str, batches=None, steps: int | None = None) -> OpenTask:
        """Opens a task, as `task` does: to be closed by finish() or abandon()."""
        self._need_closed()
        task = self._new_task(name, batches)
        task.steps = steps
        try:
            start = self._start(task)
            self._adapted.wear(start.lora, start.past, start.trains)
            self._trained = [factor for pair in self._adapted.live().values() for factor in pair if factor.requires_grad]  # type: ignore[misc]
            self._trained += self.method.extra.values()
            if not self._trained:
                raise InputError(f"expected a method that trains something, found {self.method.card.title}")
            if self.method.extra:
                self.model.extra = nn.ParameterList(self.method.extra.values())
            self._task, self._hooks = task, Hooks(self._adapted, self.method, task, self._trained)
            self.model.train()
            return task
        except BaseException:
            self.abandon()
            raise

    def parameters(self) -> list[nn.Parameter]:
        """What the open task trains: all of it belongs into one optimizer."""
        self._need_open()
        return list(self._trained)

    def penalty(self, logits: Tensor, labels: Tensor):
        """The method's penalty of the forward just made, for a loss of one's own: to be added to the micro-batch's mean loss, and
        weighted with it. logits: (b, T, V); labels: (b, T), -100 where no loss is wanted. 0 where the method has none."""
        self._need_open()
        return self._hooks.penalty(logits, labels)

    def finish(self) -> None:
        """Closes the task: what was trained becomes the model from here on."""
        self._need_open()
        task, name = self._task, self._task.name
        if not self._hooks.steps:
            raise InputError(f"expected at least one step of a PyTorch optimizer over continual.parameters() in task {name}, found none")
        if not all(parameter.isfinite().all() for parameter in self._trained):
            raise InputError(f"expected finite numbers after task {name}, found others: lower the learning rate or the penalty's "
                             "weight")
        self._close()
        self._keep(name, self.method.finish(copied(self._adapted.live()), task))

    def abandon(self) -> None:
        """Drops the open task, if there is one: the model is what it was before."""
        self._close()
        self._wear_last()

    def _close(self) -> None:
        if self._hooks:
            self._hooks.remove()
        if "extra" in dict(self.model.named_children()):
            del self.model.extra
        self._task, self._hooks, self._trained = None, None, []

    def _new_task(self, name: str, batches) -> OpenTask:
        if name in self.names:
            raise InputError(f"expected a new task's name, found {name!r}, which was learned already")
        adapted = self._adapted
        adapted.device = next(iter(adapted.live().values())).A.device            # the Trainer moves the model
        self._remember()
        rows = Rows(batches, name)
        probe = RowsProbe(adapted, rows, self.batch_size)
        return OpenTask(len(self.names) + 1, name, rows, adapted.rank, adapted.scaling, adapted.sites, self.seed, None,
                        adapted.device, probe=probe)

    def _remember(self) -> None:
        """The method's memory is always read back from what a version holds, as after a restart."""
        tree, tensors = self._versions[-1].memory if self._versions else pack({})
        self.method.memory = unpack(tree, {key: value.to(self._adapted.device, copy=True) for key, value in tensors.items()})

    def _start(self, task: OpenTask):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(task.seed, task.index, "start"))
            return self.method.start(task)

    def _keep(self, name: str, result: Lora) -> None:
        result = each(lambda pair: Pair(*(factor.detach().to("cpu", copy=True) for factor in pair)), result)
        self._versions = [*self._versions, Version([*self.names, name], result, pack(self.method.memory))][-self.keep:]
        self._wear_last()

    def _wear_last(self) -> None:
        self._wear(self._versions[-1] if self._versions else None)

    def _wear(self, version: Version | None) -> nn.Module:
        """The model with that version's adapter, or with none."""
        sites, rank = self._adapted.sites, self._adapted.rank
        nothing = {path: Pair(torch.zeros(rank, d_in), torch.zeros(d_out, rank)) for path, (d_in, d_out) in sites.items()}
        self._adapted.wear(version.result if version else nothing)
        return self.model.eval()

    def _need_closed(self) -> None:
        if self._task:
            raise InputError(f"expected no open task, found {self._task.name!r}: finish() or abandon() it first")

    def _need_open(self) -> None:
        if not self._task:
            raise InputError("expected an open task, found none: write `with continual.task(name, batches):` around the loop")

    def callback(self, name: str, batches=None) -> TaskCallback:
        """For transformers.Trainer(model=continual.model, ..., callbacks=[continual.callback(name, batches)]): the task begins
        when the Trainer is constructed, before it makes its optimizer, and ends with trainer.train(). After a train() that
        failed, abandon() the task. One Trainer a task. The Trainer's checkpoints do not hold what a method has beside A and B."""
        return TaskCallback(self, name, batches)

    # ---- versions
    def rollback(self, count: int = 1) -> None:
        """Forgets the last `count` tasks: adapter and memory are what they were before them."""
        self._need_closed()
        if not 0 < count < len(self._versions):
            raise InputError(f"expected to go back by 1 to {len(self._versions) - 1} of the versions kept, found {count}: "
                             "a larger keep holds more of them")
        self._versions = self._versions[:-count]
        self._wear_last()

    def check(self, probes, max_drop: float, scorer: Callable = held_out) -> pd.DataFrame:
        """Is the newest version worse than an earlier one that is kept (after the first task: than the base)? Returns the scores
        and the drop of every probe; raises errors.Worse where a drop is above max_drop, so that a script ends there, with a status
        that is not 0, before it publishes. From a shell: mbf check.

        probes: {name: held-out rows}, or rows alone. scorer: scorer(model, rows) -> a number, higher is better; by default minus
        the mean loss of the rows' labelled tokens in nats (checks.held_out), and max_drop is in the scorer's units.
        """
        self._need_closed()
        if not self._versions:
            raise InputError("expected a learned task before check(), found none")
        versions = self._versions if len(self._versions) > 1 else [None, *self._versions]
        names = [f"{len(version.names)} {version.names[-1]}" if version else "0 base" for version in versions]
        try:
            return compared(names, lambda k: self._wear(versions[k]), probes if isinstance(probes, dict) else {"held out": probes},
                            max_drop, scorer)
        finally:
            self._wear_last()

    def save(self, path: str | Path) -> Path:
        """Writes the folder `path`, or replaces what an earlier save wrote there: a plain PEFT adapter, beside it the method's
        memory and earlier versions (versions.py). Other files that lie there stay. A kill leaves the old or the new folder."""
        self._need_closed()
        if not self._versions:
            raise InputError("expected a learned task before save(), found none")
        method = {"name": self._named, "settings": settings_of(self.method)}
        base = self._base | {"sha256": weights_hash(self._adapted.model.get_base_model())}
        config = {"base": base, "lora": self._lora, "method": method, "seed": self.seed, "keep": self.keep,
                  "batch_size": self.batch_size}
        return write_versions(path, self._versions, config, self._adapted)

    @classmethod
    def load(cls, path: str | Path, model: nn.Module, method: Method | None = None) -> Continual:
        """Goes on where save() stopped: the same method, settings, tasks and versions. model: the base that it was learned on, which
        is checked by all its weights, or by some of each tensor where save() was an earlier version's. method: only for one that is
        no row of METHODS, or has a function among its settings: the same as then."""
        config, read = read_versions(path)
        base, found = config["base"], base_of(model)
        kind, hashed = ("sha256", weights_hash) if "sha256" in base else ("fingerprint", fingerprint)
        if (found := found | {kind: hashed(model)})[kind] != base[kind]:
            told = [f"{one['name'] or 'no name'}, {one['dtype']}, fingerprint {one[kind][:16]}" for one in (base, found)]
            raise InputError(f"expected the base that {path} was learned on ({told[0]}), found another ({told[1]}): load that "
                             "model in that type")
        name, settings = config["method"]["name"], config["method"]["settings"]
        if method is None:
            method = make_method(name, **{key: value for key, value in settings.items() if not isinstance(value, dict)})
        if (now := settings_of(method)) != settings:
            raise InputError(f"expected the method that {path} was learned by ({name}, {settings}), found "
                             f"{type(method).__name__}, {now}: give that one as method=")
        versions = read()
        continual = cls(model, method, **config["lora"], **{key: config[key] for key in ("seed", "keep", "batch_size")})
        continual._named, continual._versions = name, versions
        continual._wear_last()
        return continual

    @classmethod
    def from_adapter(cls, path: str | Path, model: nn.Module, method: str | Method = "slao", name: str | None = None,
                     batches=None, seed: int = 0, keep: int = 3, batch_size: int = 8) -> Continual:
        """Takes an existing PEFT adapter as task 1, with its modules, rank, alpha and dropout. name: of that task (the folder's).
        batches: what it was trained on, for methods that look at the rows."""
        config, lora, rank, s = plain_adapter(path)
        mine, theirs = getattr(model, "name_or_path", "") or "", config.get("base_model_name_or_path") or ""
        if mine != theirs:
            warnings.warn(f"the adapter {path} names the base {theirs!r}, the model is {mine!r}: whether they fit was not "
                          "checked", stacklevel=2)
        continual = cls(model, method, sorted(lora), rank, s * rank, config.get("lora_dropout") or 0.0, seed, keep, batch_size)
        task = continual._new_task(name or Path(path).absolute().name, batches)
        lora = each(lambda pair: Pair(*(factor.to(continual._adapted.device, torch.float32) for factor in pair)), lora)
        continual._start(task)                      # for what it puts into the method's memory
        result = continual.method.finish(copied(lora), task)
        if apart(lora, result) > ALIKE:
            raise InputError(f"expected a method that keeps a first adapter as it is, found {continual.method.card.title}, which "
                             "makes another of it: train the first task with it")
        continual._keep(task.name, result)
        return continual
