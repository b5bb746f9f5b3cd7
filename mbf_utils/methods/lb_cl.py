"""LB-CL: a new task starts from the old singular directions that matter to it, and learns beside them. Qiao and Mahdavi,
"Learn more, but bother less", NeurIPS 2024.

    delta W = s sum_t U_t diag(S_t) V_t;   older ones are frozen, U_t, S_t and V_t train
    before task t   a few rows of it give each old triplet j a sensitivity; the r most sensitive begin U_t and V_t, S_t = 0
    each step       dU <- dU - Q_U Q_U^T dU,   dV <- dV - dV Q_V^T Q_V,   Q_U and Q_V span all old U and all old V

There is no public code, and of the paper we know the outline. Ours: the sensitivity is AdaLoRA's score without its moving
average, |sigma dL/dsigma| + mean_i |u_i dL/du_i| + mean_k |v_k dL/dv_k|, with the gradient of the mean loss over `count` rows;
the first U and V are random and orthonormal. AdamW makes of a projected gradient a step that is not quite orthogonal. Where the
old U (or V) span the whole space, U (or V) rests and S_t alone learns. S_t stands between the factors, h = diag(S) V x, and is
folded into B at the end. One number moves a whole triplet of unit length, so at LoRA's learning rate little is learned; `gain`
makes S quicker.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..fields import number
from ..lora import Lora, Pair, Site, Start, each, stack
from ..method import Card, Method, Task
from ..subspaces import orthonormal_rows, project_out, widen


def sensitivity(pair: Pair, grad: Pair) -> Tensor:
    """A score (R,) for each triplet of `pair`, A = V and B = U diag(S), from the gradient by both factors: sigma dL/dsigma is
    sum_i b_i dL/db_i, and u dL/du is b dL/db."""
    A, B = pair.A * grad.A, pair.B * grad.B                          # (R, d_in), (d_out, R)
    return B.sum(0).abs() + B.abs().mean(0) + A.abs().mean(1)


@dataclass
class LBCL(Method):
    count: int = number(8, 1)                       # rows that the sensitivity is taken on
    gain: float = number(16.0, above=0)             # S = gain x its parameter: AdamW moves it so many times as far a step

    card: ClassVar[Card] = Card("LB-CL", "Qiao and Mahdavi, NeurIPS 2024, OpenReview ZxtaNh5UYB", "subspaces", "reconstructed",
                                "the score of a triplet follows AdaLoRA and the first task's start is ours; of the paper only "
                                "the outline is known", memory="linear", looks=True)

    def start(self, task: Task) -> Start:
        old = self.memory.get("triplets")                            # A = V (R, d_in), B = U (d_out, R), without S
        begun = self.sensitive(old, task) if old else self.random(task)
        self.extra = {path: nn.Parameter(torch.zeros(len(pair.A), device=task.device)) for path, pair in begun.items()}
        if not old:
            return Start(begun)
        self.memory["spans"] = {path: {"U": widen(None, U.T, 1.0), "V": widen(None, V, 1.0)} for path, (V, U) in old.items()}
        return Start(begun, self.folded(old, self.memory["S"]))

    def random(self, task: Task) -> Lora:
        rng, lora = task.rng("triplets"), {}
        for path, (d_in, d_out) in task.sites.items():
            V, U = (orthonormal_rows(torch.randn(task.rank, d, generator=rng)) for d in (d_in, d_out))
            lora[path] = Pair(V.to(task.device), U.T.contiguous().to(task.device))
        return lora

    def sensitive(self, old: Lora, task: Task) -> Lora:
        past, total = self.folded(old, self.memory["S"]), 0
        for batch in task.probe.batches(self.count):                 # the gradient of the mean over all their tokens
            part = each(lambda pair: Pair(*(batch.tokens * factor for factor in pair)), task.probe.grads(past, batch))
            total = each(lambda one, two: Pair(one.A + two.A, one.B + two.B), total, part) if total else part

        def chosen(pair: Pair, begun: Pair, grad: Pair) -> Pair:
            j = sensitivity(pair, grad).topk(task.rank).indices
            return Pair(begun.A[j], begun.B[:, j])
        return each(chosen, past, old, total)

    def folded(self, triplets: Lora, S: dict[str, Tensor]) -> Lora:
        return {path: Pair(pair.A, pair.B * S[path]) for path, pair in triplets.items()}

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        past = "triplets" in self.memory and site.blocks.start == 0
        return h if past else h * self.gain * self.extra[site.path]

    def edit_grads(self, live: Lora, task: Task) -> None:
        for path, span in self.memory.get("spans", {}).items():
            A, B = live[path]
            A.grad.copy_(project_out(A.grad, span["V"]))
            B.grad.copy_(project_out(B.grad.T, span["U"]).T)

    def finish(self, tuned: Lora, task: Task) -> Lora:
        self.memory.pop("spans", None)
        old, S = self.memory.get("triplets"), {path: self.gain * gate.detach() for path, gate in self.extra.items()}
        self.memory["S"] = {path: torch.cat([self.memory["S"][path], S[path]]) for path in S} if old else S
        self.memory["triplets"] = stack(old, tuned) if old else tuned
        return self.folded(self.memory["triplets"], self.memory["S"])
