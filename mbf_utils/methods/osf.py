"""OSF: all of W trains but its strongest singular directions. Nayak et al., "Sculpting Subspaces", ICLR 2026,
arXiv 2504.07097.

    W = U_h S_h V_h + U_l S_l V_l;   the k strongest triples (h) are frozen, the others (l) train
    the gradient is kept orthogonal:   dU_l <- dU_l - U_h U_h^T dU_l,   dV_l <- dV_l - dV_l V_h^T V_h
    after each task W is decomposed anew, and k grows

This is no small adapter: the pair that trains has rank min(d_out, d_in) - k, as many parameters as W, and wants a lower
learning rate than LoRA. As a pair: B = U_l (S_l / s)^(1/2), A = (S_l / s)^(1/2) V_l, so s B A is the lower part; it is taken
out of W by a frozen pair, and a task ends with delta W + B A - B_0 A_0, of rank at most min(d_out, d_in).

Ours: S_l has no parameter of its own; A and B are projected after every step too, for AdamW turns an orthogonal gradient into
one that is not. k_t = t x `share` x min(d_out, d_in), the same for every module: the paper weighs modules by the cosine of
their inputs and outputs, a released script adds 0.07 a task, which is more than all after 14.
"""
from dataclasses import dataclass
from typing import ClassVar

from ..errors import InputError
from ..fields import number
from ..lora import Lora, Pair, Start, stack, svd, whole
from ..method import Card, Method, Task
from .corda import exchanged, negative
from .oplora import keep_outside, weight_now


@dataclass
class OSF(Method):
    share: float = number(0.0625, above=0, below=1)  # of the singular directions that each task adds to the frozen ones

    card: ClassVar[Card] = Card("OSF", "Nayak et al., ICLR 2026, arXiv 2504.07097", "subspaces", "adapted",
                                "singular values train inside the factors, every module keeps the same share, and factors are "
                                "projected after the step as well as gradients before it")

    def start(self, task: Task) -> Start:
        past, s, low, high = self.memory.get("result"), task.scaling, {}, {}
        path, n = min(((path, min(sides)) for path, sides in task.sites.items()), key=lambda one: one[1])     # frozen first
        if task.index == 1 and task.total and round(task.total * self.share * n) >= n:
            raise InputError(f"expected singular directions of {path} that are free until task {task.total}, found all {n} frozen by "
                             f"then: take a share below {(n - 0.5) / (n * task.total):.3g}, or train fewer tasks")
        for path in task.sites:
            U, S, Vt = svd(whole(weight_now(task, path, past)))
            k = max(1, round(task.index * self.share * len(S)))
            if k >= len(S):
                raise InputError(f"expected singular directions of {path} that are free at task {task.index}, found all {len(S)} "
                                 "frozen: lower share, or train fewer tasks")
            root = (S[k:] / s).sqrt()
            low[path], high[path] = Pair(root[:, None] * Vt[k:], U[:, k:] * root), Pair(Vt[:k], U[:, :k])
        self.memory.update(begun=low, high=high)
        return Start(low, stack(past, negative(low)) if past else negative(low))

    def edit_grads(self, live: Lora, task: Task) -> None:
        keep_outside({path: Pair(pair.A.grad, pair.B.grad) for path, pair in live.items()}, self.memory["high"])

    def after_step(self, live: Lora, task: Task) -> None:
        keep_outside(live, self.memory["high"])

    def finish(self, tuned: Lora, task: Task) -> Lora:
        del self.memory["high"]
        return exchanged(self.memory, tuned)
