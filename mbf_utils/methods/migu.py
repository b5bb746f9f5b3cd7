"""MIGU: from the second task on, each step updates only the rows whose outputs are large. Du et al., Findings of EMNLP 2024,
arXiv 2406.17245.

    c_A = sum_tokens |A x|  (r),   c_B = sum_tokens |B A x|  (d_out),   over the rows of one step
    before the step:  row j of A's gradient <- 0 where c_A[j] < quantile(c_A, q),  B's likewise;   q = 0.7

The adapter is sequential LoRA's and nothing is kept between tasks. Padding is not counted. Rows that tie with the threshold
keep their gradient, so that outputs of zero mask nothing. As in the paper a row without gradient may still move by Adam's
momentum. The released code for LoRA does not run; what it leaves open is taken from the paper.
"""
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..fields import number
from ..lora import Lora, Site
from ..method import Card, Method, Task


@dataclass
class MIGU(Method):
    q: float = number(0.7, 0, 1)

    card: ClassVar[Card] = Card("MIGU", "Du et al., Findings of EMNLP 2024, arXiv 2406.17245", "single adapter", "adapted",
                                "padding is not counted, and ties keep their gradient; the released code for LoRA does not run")
    c: dict[str, list[Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)      # within one step

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        real = h.detach()[site.batch.mask].float()                   # (tokens, r)
        now = [real.abs().sum(0), (real @ site.live.B.detach().float().T).abs().sum(0)]
        self.c[site.path] = [one + two for one, two in zip(self.c[site.path], now)] if site.path in self.c else now
        return h

    @torch.no_grad()
    def edit_grads(self, live: Lora, task: Task) -> None:
        c, self.c = self.c, {}
        for path, pair in live.items() if task.index > 1 else ():
            for factor, sums in zip(pair, c[path]):
                sums = task.probe.total(sums)                        # over all processes
                factor.grad[sums < sums.quantile(self.q)] = 0
