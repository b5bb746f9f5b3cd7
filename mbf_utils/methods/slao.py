"""SLAO: one LoRA by continual merging. Qiao and Mahdavi, "Merge before Forget", ICLR 2026, arXiv 2512.23017, Algorithm 1.

Task 1 is plain LoRA. For task i >= 2 and every adapted weight, with (A_ft, B_ft) the last FINE-TUNED pair:

    A_ft,i-1^T = Q R,  Q <- Q sign(diag R)                  orthogonal start, sign(0) := +1
    A_init = Q^T,  B_init = B_ft,i-1                        not the merged B
    train both -> A_ft,i, B_ft,i
    A_merge = A_ft,i                                        replaced
    B_merge = B_merge + lambda(i) (B_ft,i - B_merge),  lambda(i) = 1 / sqrt(i), no floor
    the model is W0 + s B_merge A_merge, for all tasks, without a task id

State: A_ft (it is A_merge), B_ft, B_merge; constant in the number of tasks.

Ours: the rule for zero (the paper is silent), and the fields, whose defaults are the paper's. They span its ablations:
`begin` (random, merged, tuned), `qr`, `merge` (which factors), `freeze` ("A" from the first task, "B" from the second:
with B = 0 nothing would ever learn), `schedule`. `preserve` is not in the paper: dropping R changes the function at the
start, B A = (B R^T) Q^T; with it B_init = B R^T and the task starts where the last one ended.
"""
from dataclasses import dataclass
from typing import Callable, ClassVar

from ..errors import InputError
from ..fields import choice, function
from ..lora import Lora, Pair, Start, each
from ..method import Card, Method, Task
from ..subspaces import orthonormal_rows


def time_aware_scale(i: int) -> float:
    """lambda(i) = 1 / sqrt(i), task i counted from 1; no floor."""
    return i ** -0.5


def one_over(i: int) -> float:
    """lambda(i) = 1 / i: the plain mean of all fine-tuned factors."""
    return 1 / i


@dataclass
class SLAO(Method):
    begin: str = choice("tuned", "merged", "random")  # the pair a task starts from
    qr: bool = True                                 # orthonormalise A at the start
    merge: str = choice("B", "A", "AB", "")         # factors that are merged (the others are replaced)
    freeze: str = choice("", "A", "B")              # "A": always; "B": from task 2 on
    schedule: Callable[[int], float] = function(time_aware_scale)
    preserve: bool = False                          # B R^T with Q^T: start from the function that the last task ended with

    card: ClassVar[Card] = Card("SLAO", "Qiao and Mahdavi, ICLR 2026, arXiv 2512.23017", "single adapter", "exact",
                                merges="descending")

    def __post_init__(self):
        super().__post_init__()
        if self.freeze == "B" and self.begin == "random":
            raise InputError("expected B to be other than 0 where it is frozen, found freeze='B' with begin='random', under which nothing "
                             "learns: choose one of them")

    def start(self, task: Task) -> Start:
        trains = "B" if self.freeze == "A" else "A" if self.freeze == "B" and task.index > 1 else "AB"
        if narrow := [path for path, (d_in, _) in task.sites.items() if self.qr and task.rank > d_in]:
            raise InputError(f"expected a rank of at most {task.sites[narrow[0]][0]}, for the rows of A are made orthonormal, found "
                             f"{task.rank} at {narrow[0]}: choose a lower one, or qr=False")
        if task.index == 1 or self.begin == "random":
            return Start(task.fresh(), trains=trains)
        return Start(each(self.turned, self.memory[self.begin]), trains=trains)

    def turned(self, last: Pair) -> Pair:
        if not self.qr:
            return last
        A = orthonormal_rows(last.A)                                 # Q^T (r, d_in)
        return Pair(A, last.B @ (last.A @ A.T) if self.preserve else last.B)    # A_ft Q = R^T (r, r)

    def finish(self, tuned: Lora, task: Task) -> Lora:
        weight = self.schedule(task.index)

        def blend(merged: Pair, tuned: Pair) -> Pair:
            return Pair(*((t - m).mul_(weight).add_(m) if factor in self.merge else t          # m + lambda (t - m), in one new tensor
                          for factor, m, t in zip("AB", merged, tuned)))

        merged = tuned if task.index == 1 else each(blend, self.memory["merged"], tuned)
        self.memory.update(tuned=tuned, merged=merged)
        return merged
