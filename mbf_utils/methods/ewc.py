"""EWC, online, on one LoRA that is trained on task after task. Kirkpatrick et al., PNAS 2017, arXiv 1612.00796; its online
form: Schwarz et al., ICML 2018, arXiv 1805.06370.

    L = L_task + (lambda / 2) sum_i F_i (theta_i - theta*_i)^2        theta: every entry of A and B
    after task t:   F <- gamma F + F_t,   theta* <- theta
    F_t = E_n[(d loss_n / d theta)^2] / mean:  the empirical Fisher of `count` rows, one gradient a row, in a pass of its own

A reference. The diagonal in LoRA's coordinates depends on how A and B share their product; no one corrects that. Dividing by
the mean entry (Schwarz et al. normalise too) makes the tasks' Fishers comparable and lambda independent of the loss's scale;
published values of lambda do not carry over. lambda = 1 and gamma = 0.95 are ours: choose lambda on development rows.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..fields import number
from ..lora import Lora, Pair, each
from ..method import Card, Method, Task


@dataclass
class EWC(Method):
    lam: float = number(1.0, 0)
    gamma: float = number(0.95, 0, 1)
    count: int = number(200, 1)                     # rows for F_t

    card: ClassVar[Card] = Card("EWC (online)", "Kirkpatrick et al., PNAS 2017, arXiv 1612.00796", "regularisation", "adapted",
                                "the Fisher is LoRA's factors', taken over some of the rows and divided by its mean", looks=True)

    def penalty(self, live: Lora, task: Task, batch, logits):
        if "F" not in self.memory:
            return 0.0
        F, old = self.memory["F"], self.memory["tuned"]
        return self.lam / 2 * sum((f * (theta - star).square()).sum() for path, pair in live.items()
                                  for f, theta, star in zip(F[path], pair, old[path]))

    def finish(self, tuned: Lora, task: Task) -> Lora:
        F = task.probe.fisher(tuned, self.count)
        mean = torch.cat([f.flatten() for pair in F.values() for f in pair]).mean().clamp_min(1e-30)
        F = each(lambda pair: Pair(pair.A / mean, pair.B / mean), F)
        if "F" in self.memory:
            F = each(lambda old, new: Pair(self.gamma * old.A + new.A, self.gamma * old.B + new.B), self.memory["F"], F)
        self.memory["F"] = F
        return super().finish(tuned, task)
