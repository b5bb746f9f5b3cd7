"""One task of continual.py in transformers' Trainer, or in TRL's SFTTrainer, which is one."""
from __future__ import annotations

from transformers import TrainerCallback

from .errors import InputError
from .loops import overrides


class TaskCallback(TrainerCallback):
    """One task in transformers' Trainer, whose names the events and their arguments have. `continual` begins and finishes it."""

    def __init__(self, continual, name: str, batches):
        self._continual, self._name, self._batches, self._task = continual, name, batches, None

    def on_init_end(self, args, state, control, model=None, **others):
        if model is not self._continual.model:
            raise InputError("expected Trainer(model=continual.model, ...), found another model")
        if args.label_smoothing_factor and overrides(self._continual.method, "penalty"):
            raise InputError("expected label_smoothing_factor=0, for the Trainer then makes a loss without the penalty, found "
                             f"{args.label_smoothing_factor}")
        mine = overrides(self._continual.method, "before_batch", "mix", "penalty")
        if mine and (getattr(args, "packing", False) or getattr(args, "padding_free", False)):              # TRL's settings
            raise InputError("expected rows that are not packed, for the method looks at each, found packing or padding_free")
        if mine and (kind := getattr(args, "loss_type", "nll")) != "nll":
            raise InputError(f"expected loss_type='nll', for a penalty is added to that loss, found {kind!r}")
        self._task = self._continual.begin(self._name, self._batches)

    def on_train_begin(self, args, state, control, **others):
        self._task.steps = state.max_steps

    def on_train_end(self, args, state, control, **others):
        try:
            self._continual.finish()
        except BaseException:
            self._continual.abandon()
            raise
