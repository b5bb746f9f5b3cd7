"""InfLoRA: each task trains inside a subspace that its inputs use and that earlier tasks' inputs do not.
Liang and Li, CVPR 2024, arXiv 2404.00228.

    before task t   C = E[x x^T] of the task's inputs;  A_t = U_r^T / sqrt(3), U_r the first r left singular vectors of
                    (I - M M^T) C;  B_t = 0;  only B_t trains
    after task t    C anew;  M <- [M, U] until M holds the share eps_t of ||C||_F^2
                    eps_t = eps_start + (eps_end - eps_start) t / T
    the model is W0 + s sum_t B_t A_t

The share is of C's squared singular values, as in the released code (which counts t from 0, so that its eps_t lags by a task).
design="projected" is the authors' version for language models: A_t is random, from task 2 on projected with I - M M^T and its
rows scaled to length 1 / sqrt(3), eps from 0.995.

Ours: padding is not counted; s = alpha / r of the kit (the paper has s = 1); M is always stored itself, never as its complement
when it grows beyond n / 2 (a matter of memory alone). M, kept as rows (k, n), fills up: where k + r > n an InputError says so
before the training. On the tiny base (n = 64, rank 8) and 15 tasks eps from 0.95 lasts to the end, from 0.995 for 8 tasks.
"""
import math
from dataclasses import dataclass
from typing import Callable, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from ..errors import InputError
from ..fields import choice, number
from ..lora import Lora, Pair, Start
from ..method import Card, Task
from ..subspaces import directions, project_out, widen
from .inclora import IncLoRA


def per_input(function: Callable[[str], Tensor], C: dict[str, Tensor]) -> dict[str, Tensor]:
    """function(path) for every module, computed once where modules read the same tensor and so share one C."""
    found = {}
    for path in C:
        if id(C[path]) not in found:
            found[id(C[path])] = function(path)
    return {path: found[id(C[path])] for path in C}


def check_room(M: dict[str, Tensor], task: Task) -> None:
    """An InputError where fewer than `rank` directions are left beside the rows of M."""
    for path, basis in M.items():
        k, n = basis.shape
        if k + task.rank > n:
            raise InputError(f"expected {task.rank} free input directions at {path} for task {task.index}, found {n - k} of {n}: "
                             "lower the rank or the share that each task keeps, or train fewer tasks")


@dataclass
class InfLoRA(IncLoRA):
    design: str = choice("inputs", "projected")     # A_t from the task's "inputs" (the paper), or "projected" from a random one
    eps_start: float = number(0.95, 0, 1)
    eps_end: float = number(1.0, 0, 1)
    total_tasks: int | None = number(None, 1)       # T of the schedule, where the stream does not say it

    card: ClassVar[Card] = Card("InfLoRA", "Liang and Li, CVPR 2024, arXiv 2404.00228", "subspaces", "adapted",
                                "the update is scaled by the kit's s = alpha/r where the paper has s = 1",
                                memory="linear", looks=True)

    def eps(self, task: Task) -> float:
        T = self.total_tasks or task.total
        if T is None or task.index > T:
            raise InputError("expected a number of tasks, for eps_t rises to eps_end over them, "
                             f"found {T or 'none'} at task {task.index}: set total_tasks")
        return self.eps_start + (self.eps_end - self.eps_start) * task.index / T

    def start(self, task: Task) -> Start:
        past, M, lora = self.memory.get("stack"), self.memory.get("basis", {}), task.fresh()
        self.eps(task)                                               # asks for T before the training, not after it
        check_room(M, task)
        if self.design == "inputs":
            C = task.probe.covariance(past or lora)                  # (n, n) per module
            A = per_input(lambda path: directions(C[path], task.rank, M.get(path)) / math.sqrt(3), C)
        else:
            A = {path: normalize(project_out(pair.A, M[path])) / math.sqrt(3) if M else pair.A for path, pair in lora.items()}
        return Start({path: Pair(A[path], pair.B) for path, pair in lora.items()}, past, trains="B")

    def finish(self, tuned: Lora, task: Task) -> Lora:
        result, M = super().finish(tuned, task), self.memory.get("basis", {})
        if task.index < (self.total_tasks or task.total):            # M is for the tasks to come
            C = task.probe.covariance(result)
            self.memory["basis"] = per_input(lambda path: widen(M.get(path), C[path], self.eps(task)), C)
        return result
