"""TreeLoRA: one LoRA, drawn module by module towards the most similar earlier task. Qian et al., ICML 2025, arXiv 2506.10355.

    G_k,l: the mean of module l's A over the training of task k; it stands for the task's gradient, as in the released code
    L = L_task + w D / sg(D),   D = sum_l ||A_l - G_{k(l),l}||_1,   w = reg (step / steps) sg(L_task)      sg: no gradient
    k(l): the earlier task with the smallest lower bound of its distance,   mean distance - 2 sqrt(log step / visits)

The modules, in their order, are the levels of a tree: at level l the tasks of a node are split in two (`split`, the released
code's), and the search goes on in the half that holds k(l). The strength w, which does not depend on the model's size, is
the released code's too; the paper adds lambda ||g_t - g_k||_1 of gradients. What else the released code does differently
is in treelora_released.py.
"""
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..fields import number
from ..lora import Lora, Start
from ..method import Card, Method, Task
from .tree import changes, split


@dataclass
class TreeLoRA(Method):
    reg: float = number(0.5, 0)

    card: ClassVar[Card] = Card("TreeLoRA", "Qian et al., ICML 2025, arXiv 2506.10355", "regularisation", "adapted",
                                "distances, tree and strength as in the released code, of values of A instead of gradients",
                                memory="linear")
    halves: dict[tuple, tuple] = field(default_factory=dict, init=False, repr=False, compare=False)      # of this task's tree

    def start(self, task: Task) -> Start:
        past, start, modules = self.memory.setdefault("G", []), super().start(task), len(task.sites)
        self.memory.update(visits=[[0] * modules for _ in past], far=[[0.0] * modules for _ in past],
                           mean={path: torch.zeros_like(pair.A) for path, pair in start.lora.items()})
        self.halves = {}
        self.memory["chosen"] = self.search(task, 0) if past else []
        return start

    def penalty(self, live: Lora, task: Task, batch, logits):
        if not self.memory["G"]:
            return 0.0
        near = [(pair.A, self.memory["G"][k][path]) for k, (path, pair) in zip(self.memory["chosen"], live.items())]
        return self.reg * task.step / task.steps * batch.loss(logits.detach()) * self.pull(near)

    def pull(self, near: list[tuple[Tensor, Tensor]]) -> Tensor:
        """D / sg(D) of the modules' A and the G that each is drawn to."""
        D = sum((A - G).abs().sum() for A, G in near)
        return D / (D.detach() + 1e-5)

    @torch.no_grad()
    def after_step(self, live: Lora, task: Task) -> None:
        memory = self.memory
        for path, pair in live.items():
            memory["mean"][path] += pair.A / task.steps
        if memory["G"]:
            here = self.observed(live)
            far = torch.stack([(here[path] - memory["G"][k][path]).abs().sum() for k, path in zip(memory["chosen"], live)])
            for l, (k, distance) in enumerate(zip(memory["chosen"], far.tolist())):
                memory["visits"][k][l] += 1
                memory["far"][k][l] += distance
            memory["chosen"] = self.search(task, task.step + 1)

    def observed(self, live: Lora) -> dict[str, Tensor]:
        """What is compared with G."""
        return {path: pair.A for path, pair in live.items()}

    def search(self, task: Task, step: int) -> list[int]:
        """The earlier task that each module is drawn to after `step` steps."""
        tasks, chosen = list(range(len(self.memory["G"]))), []
        for l, path in enumerate(task.sites):
            chosen.append(min(tasks, key=lambda k: self.bound(k, l, step)))
            if len(tasks) > 1:
                left, right, _ = self.split(path, tasks)
                tasks = left if chosen[l] in left else right
        return chosen

    def split(self, path: str, tasks: list[int]) -> tuple[list[int], list[int], float]:
        """`tree.split` of a node at one module: the same all through a task."""
        key = (path, *tasks)
        if key not in self.halves:
            self.halves[key] = split(changes(self.memory["G"], tasks, path), tasks)
        return self.halves[key]

    def bound(self, k: int, l: int, step: int) -> float:
        visits, far = self.memory["visits"][k][l], self.memory["far"][k][l]
        return far / visits - 2 * math.sqrt(math.log(step) / visits) if visits else -math.inf

    def finish(self, tuned: Lora, task: Task) -> Lora:
        for name in ("visits", "far", "chosen"):
            del self.memory[name]
        self.memory["G"] = [*self.memory["G"], self.memory.pop("mean")]
        return super().finish(tuned, task)
