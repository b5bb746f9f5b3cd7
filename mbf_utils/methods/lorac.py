"""LoRAC-IPC, its core: weighted old LoRAs, orthogonal A's, and modules that are frozen once they matter.
Ling et al., Pattern Recognition 2025, arXiv 2504.13407.

    h = W x + s (sum_{i<t} omega_i B_i A_i + B_t A_t) x,   one omega per old task and module, trained from 1
    L = L_task + lambda sum_modules ||A^ A^^T - I||_F,   A^ (t r, d_in): all A's of the module, only A_t with a gradient
    importance of a module (IPC), entry by entry of A and of B before every step:
        I = |theta dL/dtheta|,   u <- b1 u + (1 - b1) I,   v <- b2 v + (1 - b2) |I - u|;   mean of u v in A + mean of u v in B
    after the task the share `freeze` of modules with the largest learns no more: no new LoRA there, its omegas stay

The penalty drives the rows of A to unit length, and from t r > d_in on it cannot reach zero. What belongs to a classifier
(replay of class centroids, inference of the task) is left out. The newest released code takes I from the composed d x d
weight and its gradient, an older one from the factors as here. Its learning rate for the omegas, 0.0005 to 1 times that of
A and B, is 1 here. s = alpha / r is the kit's; there alpha is 1.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..fields import number
from ..lora import Lora, Pair, Site, Start, stack
from ..method import Card, Method, Task


@dataclass
class LoRAC(Method):
    lam: float = number(1.0, 0)
    freeze: float = number(0.1, 0, 1)               # share of all modules, rounded down
    b1: float = number(0.85, 0, 1)
    b2: float = number(0.85, 0, 1)

    card: ClassVar[Card] = Card("LoRAC-IPC", "Ling et al., Pattern Recognition 2025, arXiv 2504.13407", "gates", "adapted",
                                "without the replay and the task inference of the vision version; importance from the factors, "
                                "not from the composed weight", memory="linear")

    def start(self, task: Task) -> Start:
        frozen, omega = self.memory.setdefault("frozen", []), self.memory.get("omega", {})
        self.extra = {path: nn.Parameter(value.clone()) for path, value in omega.items() if path not in frozen}
        lora, trains = task.fresh(), {path: "" if path in frozen else "AB" for path in task.sites}
        self.memory["importance"] = {path: [torch.stack([0 * factor, 0 * factor]) for factor in pair]
                                     for path, pair in lora.items() if path not in frozen}           # (u, v) of A, of B
        return Start(lora, self.memory.get("stack"), trains)

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        if site.blocks.start > 0 or "stack" not in self.memory:      # A_t x
            return h
        omega = self.extra.get(site.path, self.memory["omega"][site.path])
        return h * omega.repeat_interleave(h.shape[-1] // len(omega))

    def penalty(self, live: Lora, task: Task, batch, logits):
        def distance(path: str) -> Tensor:
            A = live[path].A
            if "stack" in self.memory:
                A = torch.cat([self.memory["stack"][path].A, A])
            return (A @ A.T - torch.eye(len(A), device=A.device, dtype=A.dtype)).norm()

        return self.lam * sum(distance(path) for path in self.memory["importance"])

    @torch.no_grad()
    def edit_grads(self, live: Lora, task: Task) -> None:
        for path, pair in self.memory["importance"].items():
            for factor, (u, v) in zip(live[path], pair):
                I = (factor * factor.grad).abs()
                u.lerp_(I, 1 - self.b1)
                v.lerp_((I - u).abs(), 1 - self.b2)

    def scores(self) -> dict[str, float]:
        """The importance of every module that learns."""
        return {path: float(sum((u * v).mean() for u, v in pair)) for path, pair in self.memory["importance"].items()}

    def finish(self, tuned: Lora, task: Task) -> Lora:
        scores = self.scores()
        del self.memory["importance"]
        old, omega = self.memory.get("stack"), dict(self.memory.get("omega", {}))
        new = {path: tuned[path] for path in scores}                 # the modules that learned
        one = torch.ones(1, device=task.device)
        omega |= {path: torch.cat([self.extra[path].detach(), one]) if old else one for path in new}
        top = sorted(scores, key=scores.get, reverse=True)[:int(self.freeze * len(task.sites))]
        self.memory["stack"] = {**old, **stack({path: old[path] for path in new}, new)} if old and new else old or new
        self.memory.update(omega=omega, frozen=self.memory["frozen"] + top)
        return {path: Pair(A, B * omega[path].repeat_interleave(B.shape[1] // len(omega[path])))
                for path, (A, B) in self.memory["stack"].items()}
