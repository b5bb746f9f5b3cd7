"""AM-LoRA: in every module an attention over the tasks' LoRAs, read off what each makes of a token. Liu et al., 2024,
arXiv 2409.19611.

    u_i = A_i x (r),   e_i = relu(w_i . u_i + c_i),   g = softmax_i(e),   h = W x + s sum_i g_i B_i u_i
    L = L_task + lambda mean_{modules, tokens} sum_i e_i
    trained: A_t, B_t and the selector (w_t, c_t) of each module; those of earlier tasks are frozen

Reconstructed: there is no code, and what we could read gives no formula for the selector. Ours: it looks at u_i (the paper
speaks of the LoRA's features), for each token; earlier selectors are frozen; relu; c starts at 1, where relu passes a
gradient; lambda. The paper puts its L1 norm on the attention, but a softmax has norm 1 whatever it says, so here it lies on
the scores e. Under dropout the frozen LoRAs see x whole and the new one a thinned x, each with its own g. A plain adapter
gives every task weight 1.
"""
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..fields import number
from ..lora import Lora, Site, Start
from ..method import Card, Task
from .inclora import IncLoRA
from .routers import uniform


@dataclass
class AMLoRA(IncLoRA):
    lam: float = number(0.01, 0)

    card: ClassVar[Card] = Card("AM-LoRA", "Liu et al., preprint 2024, arXiv 2409.19611", "router", "reconstructed",
                                "no public code; the selector's form, its L1 norm on the scores and lambda are ours",
                                memory="linear", routes=True)
    sizes: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)        # of one micro-batch

    def start(self, task: Task) -> Start:
        self.extra = {}
        for path in task.sites:
            w = uniform((1, task.rank), task.rank ** -0.5, task, f"w {path}")
            self.extra[path] = nn.Parameter(torch.cat([w, torch.ones_like(w[:, :1])], 1))    # w_t and, last, c_t
        return super().start(task)

    def before_batch(self, batch, task: Task) -> None:
        self.sizes = {}

    def scores(self, x: Tensor, site: Site) -> Tensor:
        """e (b, length, tasks) of all tasks, wherever their LoRAs lie; after a task from memory alone."""
        past = [self.memory["stack"][site.path].A] if "stack" in self.memory else []
        old = [self.memory["selectors"][site.path]] if "selectors" in self.memory else []
        selectors = torch.cat([*old, *([self.extra[site.path]] if self.extra else [])])     # (tasks, r + 1)
        u = linear(x, torch.cat([*past, *([site.live.A] if self.extra else [])]))           # (b, length, tasks r)
        u = u.unflatten(-1, (len(selectors), -1))                                           # (b, length, tasks, r)
        return ((u * selectors[:, :-1]).sum(-1) + selectors[:, -1]).relu()

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        e = self.scores(x, site)
        if self.extra:
            self.sizes[site.path] = e[site.batch.mask].sum(-1).mean()            # over the tokens
        g = e.softmax(-1)[..., site.blocks]                          # (b, length, k), the tasks that h (b, length, k r) holds
        return h * g.repeat_interleave(h.shape[-1] // g.shape[-1], -1)

    def penalty(self, live: Lora, task: Task, batch, logits):
        return self.lam * sum(self.sizes.values()) / len(live)

    def finish(self, tuned: Lora, task: Task) -> Lora:
        old, self.sizes = self.memory.get("selectors", {}), {}
        self.memory["selectors"] = {path: torch.cat([old[path], new.detach()]) if old else new.detach().clone()
                                    for path, new in self.extra.items()}
        self.extra = {}
        return super().finish(tuned, task)
