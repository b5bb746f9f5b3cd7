"""GainLoRA: every task's LoRA has a gate on the prompt that is made to stay shut on the prompts of earlier tasks. Liang and Li,
NeurIPS 2025, arXiv 2505.15424.

    h = W x + s sum_i a_i B_i A_i x,   a_i = g_i(prompt), the same in every module
    g_i:  p_0 = mean embedding of the prompt,  p_1 = SiLU(G_1 p_0),  p_2 = SiLU(G_2 p_1),  a = |2 sigmoid(4 cos(G_3, p_2)) - 1|
    trained: A_t, B_t and task t's G_1 (100, d), G_2 (d, 100), G_3 (1, d);  earlier LoRAs and gates are frozen
    M_l: an orthonormal basis of what went into G_l in earlier tasks, 99.5 % of its energy (gradient projection memory)
    start:  G_1, G_2 <- the last gate's,   G_3 <- the main direction of p_2 over the new task's prompts, off M_3
    after each step:  G_l <- G_l - (G_l - G_l at the start) M_l M_l^T

So on earlier prompts p_1 and p_2 stay what they were and G_3 p_2 = 0: the new gate is shut there, as far as M_l holds them.
The start of G_3 and the measure of the step (the optimiser's, not the gradient) are the released code's, the cosine and its
slope 4 too as others report of it (the paper: a = |2 sigmoid(G_3 p_2) - 1|). Not here: the code rescales the rows of G_1 and
G_2 after each step, which would move p_1 and p_2, and lets the energy rise to 1 over 15 tasks. The LoRAs are IncLoRA's; with
lambda1 > 0 O-LoRA's, in gainlora_inflora.py InfLoRA's: the paper has these two. A plain adapter has every gate wide open.
"""
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, silu

from ..errors import InputError
from ..fields import number
from ..lora import Lora, Site, Start
from ..method import Card, Task
from ..subspaces import directions, project_out, widen
from .olora import OLoRA
from .routers import gated, prompt_mean, uniform

def inputs(gate: dict[str, Tensor], p: Tensor) -> list[Tensor]:
    """What goes into G_1, G_2 and G_3 for mean embeddings p (n, d): (n, d), (n, hidden), (n, d)."""
    p1 = silu(p @ gate["G1"].T)
    return [p, p1, silu(p1 @ gate["G2"].T)]


def opened(gate: dict[str, Tensor], p: Tensor) -> Tensor:
    """a (n,) in [0, 1]: how far the gate is open."""
    return (2 * torch.sigmoid(4 * cosine_similarity(gate["G3"], inputs(gate, p)[2], dim=-1)) - 1).abs()


@dataclass
class GainLoRA(OLoRA):
    lambda1: float = number(0.0, 0)
    hidden: int = number(100, 1, 10_000)
    energy: float = number(0.995, 0, 1)
    count: int = number(1000, 1)                    # prompts that are looked at, before and after the training

    card: ClassVar[Card] = Card("GainLoRA", "Liang and Li, NeurIPS 2025, arXiv 2505.15424", "router", "adapted",
                                "on IncLoRA's adapters, the paper has O-LoRA's and InfLoRA's; the cosine in the gate follows a report of "
                                "the released code, rows are not rescaled, and the same energy is kept in all tasks",
                                memory="linear", looks=True, routes=True)
    gates: Tensor | None = field(default=None, init=False, repr=False, compare=False)        # (b, tasks), of one batch

    def prompts(self, task: Task) -> Tensor:
        return torch.cat([prompt_mean(batch, task) for batch in task.probe.batches(self.count)])         # (n, d)

    def start(self, task: Task) -> Start:
        p = self.prompts(task)
        d, M = p.shape[1], self.memory.get("M", [None, None, None])
        if M[2] is not None and len(M[2]) == d:
            raise InputError(f"expected room for the gate of task {task.index}, found that the prompts of earlier tasks fill "
                             f"all {d} directions: choose an energy below {self.energy}")
        first = {"G1": (self.hidden, d), "G2": (d, self.hidden)}
        begun = self.memory["gates"][-1] if M[2] is not None else {
            name: uniform(shape, shape[1] ** -0.5, task, name) for name, shape in first.items()}
        G3 = directions(inputs(begun, p)[2], 1, M[2]) * (d / 3) ** 0.5       # as long as one of U(-1, 1)^d
        self.extra = {name: nn.Parameter(G.clone()) for name, G in {**begun, "G3": G3}.items()}
        return super().start(task)

    def before_batch(self, batch, task: Task) -> None:
        p = prompt_mean(batch, task)
        known = [*self.memory.get("gates", []), *([self.extra] if self.extra else [])]
        self.gates = torch.stack([opened(gate, p) for gate in known], 1)

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        return gated(h, self.gates, site)

    @torch.no_grad()
    def after_step(self, live: Lora, task: Task) -> None:
        for name, M in zip(("G1", "G2", "G3"), self.memory.get("M", ())):
            begun = self.memory["gates"][-1][name] if name != "G3" else 0.0      # at the start G_3 M_3 = 0
            self.extra[name].copy_(begun + project_out(self.extra[name] - begun, M))

    @torch.no_grad()
    def finish(self, tuned: Lora, task: Task) -> Lora:
        gate = {name: G.detach().clone() for name, G in self.extra.items()}
        seen = inputs(gate, self.prompts(task))
        self.memory["M"] = [widen(M, H, self.energy) for M, H in zip(self.memory.get("M", [None, None, None]), seen)]
        self.memory["gates"] = [*self.memory.get("gates", []), gate]
        self.extra, self.gates = {}, None
        return super().finish(tuned, task)
