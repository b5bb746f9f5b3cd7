"""The references: what a stream looks like with nothing learned, nothing kept, everything kept, everything at once.

    zero_shot    the base alone
    seqlora      one LoRA trained on task after task, nothing else (the defaults of Method)
    per_task     a fresh LoRA a task, chosen by the task's name at test time: no forgetting, but a cheat where the task is unknown
    multi_task   after task i a fresh LoRA on the rows of tasks 1..i together (so i times the steps): keeps all data
"""
from dataclasses import dataclass
from typing import ClassVar

from ..lora import Lora, Start
from ..method import Card, Method, Task
from ..streams import Example


@dataclass
class ZeroShot(Method):
    card: ClassVar[Card] = Card("Zero-shot", "", "reference", "exact", trains=False)

    def start(self, task: Task) -> Start:
        return Start(task.fresh(), trains="")                        # B = 0: the base's own function


@dataclass
class SeqLoRA(Method):
    card: ClassVar[Card] = Card("Sequential LoRA", "", "reference", "exact", merges="descending")


@dataclass
class PerTask(Method):
    card: ClassVar[Card] = Card("One adapter a task (oracle)", "", "reference", "exact", memory="linear", task_id=True)

    def start(self, task: Task) -> Start:
        return Start(task.fresh())

    def finish(self, tuned: Lora, task: Task) -> Lora:
        self.memory[task.name] = tuned
        return tuned

    def worn(self, name: str, result: Lora) -> Lora:
        return self.memory.get(name, result)


@dataclass
class MultiTask(Method):
    card: ClassVar[Card] = Card("Multi-task", "", "reference", "exact", memory="linear", old_data=True)

    def data(self, task: Task) -> list[Example]:
        return [Example(*row) for row in self.memory.get("rows", [])] + task.train

    def start(self, task: Task) -> Start:
        return Start(task.fresh())

    def finish(self, tuned: Lora, task: Task) -> Lora:
        self.memory.setdefault("rows", []).extend([row.prompt, row.answers, row.body] for row in task.train)
        return tuned
