"""Replay: sequential LoRA that meets a few rows of every earlier task again.

    rows of task t = train_t and, for every k < t, `share` of train_k (at least one row), drawn when task k ends

A reference: 2 % is what MIGU (arXiv 2406.17245) and others keep. The loop shuffles old rows among the new ones, so that each
is met as often as a new one. What is kept grows with the tasks.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..fields import number
from ..lora import Lora
from ..method import Card, Method, Task
from ..streams import Example


@dataclass
class Replay(Method):
    share: float = number(0.02, above=0, most=1)

    card: ClassVar[Card] = Card("Replay", "", "reference", "exact", memory="linear", old_data=True)

    def data(self, task: Task) -> list[Example]:
        return [Example(*row) for row in self.memory.get("rows", [])] + task.train

    def finish(self, tuned: Lora, task: Task) -> Lora:
        count = max(1, round(self.share * len(task.train)))
        chosen = torch.randperm(len(task.train), generator=task.rng("replay"))[:count].tolist()
        kept = [[task.train[i].prompt, task.train[i].answers, task.train[i].body] for i in sorted(chosen)]
        self.memory["rows"] = [*self.memory.get("rows", []), *kept]
        return super().finish(tuned, task)
