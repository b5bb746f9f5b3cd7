"""How every task of a run is trained and scored."""
from __future__ import annotations

import sys
from dataclasses import dataclass, fields

from .errors import InputError
from .scores import score_of

MOST = sys.float_info.max                           # a whole number may be larger, and is no float then
LATER = ("scores", "checkpointing", "score_every")                 # came later: a run's config has them only where they differ
MOST_EPOCHS = 100_000
KINDS = {"int": (lambda value: type(value) is int, "a whole number"), "bool": (lambda value: type(value) is bool, "True or False"),
         "float": (lambda value: isinstance(value, (int, float)) and type(value) is not bool and abs(value) <= MOST,
                   "a finite number"),
         "str": (lambda value: isinstance(value, str), "a text")}


def _is_targets(value) -> bool:
    return isinstance(value, str) or isinstance(value, tuple) and bool(value) and all(isinstance(name, str) and name for name in value)


@dataclass(frozen=True)
class Settings:
    """How every task is trained and scored. The defaults are for real models: SLAO's where the paper states them (rank 8,
    q and v, lr 5e-5, 5 epochs, batch 2 x 4), its replication's where it does not (alpha 32, dropout 0.1, constant lr, no
    weight decay, clip 1). A base may bring its own (models.suggested)."""
    targets: str | tuple[str, ...] = ("q_proj", "v_proj")            # module names, or "all-linear"
    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.1
    lr: float = 5e-5
    epochs: float = 5                               # 0.5: half of the rows
    batch_size: int = 2                             # examples a forward pass, per process
    accumulation: int = 4                           # forward passes a step
    schedule: str = "constant"                      # or "linear": down to zero
    warmup: float = 0.0                             # share of the steps
    weight_decay: float = 0.0
    clip: float = 1.0                               # gradient norm; 0 for none
    max_length: int = 1024                          # tokens of prompt and answer
    max_new_tokens: int = 50                        # for answers that are free text
    eval_batch_size: int = 50
    scores: str = "field"                           # which score each task has: see scores.py
    evaluate_on: str = "test"                       # or "dev": choose settings there, never on test
    score_every: int = 1                            # score all tasks so far after every so many, after the others the newest alone
    unseen: bool = False                            # also score tasks that are still to come (for FWT)
    keep: str = "all"                               # or "last": adapters of earlier tasks are deleted
    checkpointing: bool = False                     # recompute activations in the backward pass: less memory, about a third slower
    checkpoint_minutes: float = 10.0                # between checkpoints inside a task

    def __post_init__(self):
        if isinstance(self.targets, list):
            object.__setattr__(self, "targets", tuple(self.targets))
        for field in fields(self):
            fits, word = KINDS.get(field.type, (_is_targets, "a text, or texts"))
            if not fits(getattr(self, field.name)):
                raise InputError(f"expected {field.name} to be {word}, found {getattr(self, field.name)!r}")
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1 + (name == "warmup"):
                raise InputError(f"expected {name} between 0 and 1, found {getattr(self, name)!r}")
        positive = ("rank", "alpha", "lr", "epochs", "batch_size", "accumulation", "max_length", "max_new_tokens", "eval_batch_size",
                    "score_every")
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"expected {name} above 0, found {getattr(self, name)!r}")
        for name in ("weight_decay", "clip", "checkpoint_minutes"):
            if getattr(self, name) < 0:
                raise InputError(f"expected {name} of 0 or more, found {getattr(self, name)!r}")
        if self.epochs > MOST_EPOCHS:
            raise InputError(f"expected epochs up to {MOST_EPOCHS}, found {self.epochs!r}: every step's rows are drawn beforehand")
        score_of("", self.scores)
        for name, choices in (("schedule", ("constant", "linear")), ("evaluate_on", ("test", "dev")), ("keep", ("all", "last"))):
            if getattr(self, name) not in choices:
                raise InputError(f"expected {name} to be {' or '.join(choices)}, found {getattr(self, name)!r}")

    def record(self) -> dict:
        """The settings as a run's config.json has them."""
        return {field.name: getattr(self, field.name) for field in fields(self)
                if field.name not in LATER or getattr(self, field.name) != field.default}

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0 .. steps - 1, as a share of lr."""
        warm = min(1.0, (step + 1) / max(1, round(self.warmup * steps)))
        return warm * (1 - step / steps if self.schedule == "linear" else 1.0)
