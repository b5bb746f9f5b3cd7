"""TreeLoRA as its code was released: the same frame, another pull and another search. Qian et al., ICML 2025, arXiv 2506.10355.

    L = L_task - w S / (S + 1e-5),   S = -sum_l <A_l, G_{k(l),l}>, in the denominator without a gradient: |S| grows
    score of task k at module l:   mean distance + sqrt(log(2 steps (step + 1)(step + 2)) / (2 visits)), shifted by its minimum
    one task is drawn by the scores summed over the modules; the half of the tree's root that holds it is multiplied by the
    median of its own split (at most 1.5); then k(l) is drawn for each module from a softmax over the tasks

A larger score is likelier, so a task that is far is drawn to rather than one that is near, against the paper. What is
compared with G is the running sum of A / steps so far; both are multiplied by the number of modules. The span of step and
steps is an epoch there, a task here.
"""
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..lora import Lora
from ..method import Card, Task
from .treelora import TreeLoRA


@dataclass
class ReleasedTreeLoRA(TreeLoRA):
    card: ClassVar[Card] = Card("TreeLoRA, released", "Qian et al., ICML 2025, arXiv 2506.10355", "regularisation", "adapted",
                                "the span of the ramp and of the means is a task, there an epoch", memory="linear")

    def pull(self, near: list[tuple[Tensor, Tensor]]) -> Tensor:
        S = -sum((A * G).sum() for A, G in near)
        return -S / (S.detach() + 1e-5)

    def observed(self, live: Lora) -> dict[str, Tensor]:
        return {path: len(live) * mean for path, mean in self.memory["mean"].items()}

    def search(self, task: Task, step: int) -> list[int]:
        G, paths, chance = self.memory["G"], list(task.sites), task.rng(f"draw {step}")
        tasks = list(range(len(G)))
        visits, far = (torch.tensor(self.memory[name]) for name in ("visits", "far"))                  # (tasks, modules)
        width = math.log(2 * max(task.steps, 1) * (step + 1) * (step + 2))
        score = far / visits.clamp_min(1) + (width / (2 * visits + 1e-5)).sqrt()
        score = score + score.min()
        first = int(torch.multinomial(score.sum(1).softmax(0), 1, generator=chance))
        if len(tasks) > 1:
            half = next(half for half in self.split(paths[0], tasks)[:2] if first in half)
            if len(half) > 1 and len(paths) > 1:
                score[half] *= min(self.split(paths[1], half)[2], 1.5)
        score = score / (score.max() - score.min() + 1e-5)
        return torch.multinomial(score.softmax(0).T, 1, generator=chance)[:, 0].tolist()

    def finish(self, tuned: Lora, task: Task) -> Lora:
        self.memory["mean"] = {path: len(tuned) * mean for path, mean in self.memory["mean"].items()}
        return super().finish(tuned, task)
