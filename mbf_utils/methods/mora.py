"""MoRA: one square matrix between a fixed compression and a fixed decompression. Jiang et al., 2024, arXiv 2405.12130.

    delta W = D M C,   M (r^, r^) trained from 0,   r^ = floor(sqrt((d_in + d_out) r) + 1/2): as many numbers as LoRA's
    sharing (Eq. 6, type 1 in the released code):
        C (r^, d_in) adds up the inputs j, j + r^, j + 2 r^, ...; inputs that fill the last group come from the front again
        D (d_out, r^) repeats the outputs: row i is unit vector i mod r^

No alpha / r: D is divided by the kit's s. Of the paper's maps only sharing is a bottleneck; the rotated one (type 6, its
advice for small r) acts on many groups side by side, a pair of full rank. For a stream of tasks, which the paper does not
treat, M goes on where the last task left it. Since delta W is linear in M, merging M merges delta W exactly: `schedule` sets
M_merged += lambda(i) (M - M_merged) after task i (the next task still starts from the trained M), as SLAO does with B.
"""
import math
from dataclasses import dataclass
from typing import Callable, ClassVar

import torch
from torch import Tensor, nn

from ..fields import function
from ..lora import Lora, Pair, Site, Start
from ..method import Card, Method, Task


def maps(d_in: int, d_out: int, rank: int) -> Pair:
    """The fixed maps (C, D) of one module; `rank` is that of a LoRA with as many parameters."""
    r = math.floor(math.sqrt((d_in + d_out) * rank) + 0.5)
    C, D = torch.zeros(r, d_in), torch.zeros(d_out, r)
    whole = torch.arange(math.ceil(d_in / r) * r)                    # the inputs, filled up to whole groups
    C[whole % r, whole % d_in] = 1.0
    rows = torch.arange(d_out)
    D[rows, rows % r] = 1.0
    return Pair(C, D)


@dataclass
class MoRA(Method):
    schedule: Callable[[int], float] | None = function(None)  # how M is merged over the tasks; None: it is replaced

    card: ClassVar[Card] = Card("MoRA", "Jiang et al., preprint 2024, arXiv 2405.12130", "parametrisation", "adapted",
                                "only its sharing maps (type 1), and the paper trains one task: a stream is our use")

    def start(self, task: Task) -> Start:
        lora = {path: Pair(*(factor.to(task.device) for factor in maps(d_in, d_out, task.rank)))
                for path, (d_in, d_out) in task.sites.items()}
        last = self.memory.get("tuned") or {path: pair.A.new_zeros(2 * pair.A.shape[:1]) for path, pair in lora.items()}
        self.extra = {path: nn.Parameter(M.clone()) for path, M in last.items()}
        return Start({path: Pair(C, D / task.scaling) for path, (C, D) in lora.items()}, trains="")

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        return nn.functional.linear(h, self.extra[site.path])        # M C x

    def finish(self, tuned: Lora, task: Task) -> Lora:
        M = {path: value.detach().clone() for path, value in self.extra.items()}
        self.memory["tuned"] = M
        if self.schedule:
            weight, old = self.schedule(task.index), self.memory.get("merged", M)
            M = self.memory["merged"] = {path: old[path] + weight * (new - old[path]) for path, new in M.items()}
        return {path: Pair(M[path] @ C, D.clone()) for path, (C, D) in tuned.items()}
