"""SAPT: an attention over the tasks, read off the prompt, weighs their LoRAs, the same in every layer. Zhao et al., ACL 2024,
arXiv 2401.08295.

    h = W x + s sum_i a_i B_i A_i x,   a = softmax_i(k_i . q / sqrt d),   q = LayerNorm(SiLU(P2 P1 p))
    p (d): for each dimension the largest value among the embeddings of the prompt's tokens
    P1 (100, d), P2 (d, 100): one query for all tasks, which goes on learning;   k_i ~ U(-1, 1)^d: one key a task
    trained: A_t, B_t, k_t, P1, P2, the norm;  earlier A, B and k are frozen
    L = L_task + lambda sum_{i<t} mean_p KL(abar_i || a(p)),   p: prompts of task i;  abar_i: the mean of a when task i ended

The paper generates prompts of old tasks with a LoRA made for that. Here `buffer` real prompts of each task stand for them, of
which only the vectors p are kept; the language model itself never meets an old row. abar_i is taken over the same prompts
(the paper: a development set). lambda = 2 is the paper's for Llama-2 on 15 tasks. A plain adapter gives every task weight 1.
"""
import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from ..fields import number
from ..lora import Lora, Site, Start
from ..method import Card, Task
from .inclora import IncLoRA
from .routers import gated, prompt_max, uniform


@dataclass
class SAPT(IncLoRA):
    lam: float = number(2.0, 0)
    hidden: int = number(100, 1, 10_000)
    buffer: int = number(50, 1)                     # prompts kept of each task

    card: ClassVar[Card] = Card("SAPT (real inputs)", "Zhao et al., ACL 2024, arXiv 2401.08295", "router", "adapted",
                                "pooled embeddings of real old prompts, for the router alone, where the paper generates prompts; "
                                "the language model trains on no old row", memory="linear", old_data=True, looks=True, routes=True)
    gates: Tensor | None = field(default=None, init=False, repr=False, compare=False)        # (b, tasks), of one batch

    def start(self, task: Task) -> Start:
        d = task.probe.embeddings(torch.zeros(1, 1, dtype=torch.long, device=task.device)).shape[-1]
        query = self.memory.get("query") or {
            "P1": uniform((self.hidden, d), d ** -0.5, task, "P1"),
            "P2": uniform((d, self.hidden), self.hidden ** -0.5, task, "P2"),
            "scale": torch.ones(d, device=task.device), "shift": torch.zeros(d, device=task.device)}
        key = uniform((1, d), 1.0, task, "key")
        self.extra = {name: nn.Parameter(value.clone()) for name, value in (query | {"key": key}).items()}
        return super().start(task)

    def log_attention(self, p: Tensor) -> Tensor:
        """log a (n, tasks) for pooled prompts p (n, d); after a task from memory alone."""
        now = self.extra or self.memory["query"]
        keys = [*self.memory.get("keys", []), *([self.extra["key"]] if self.extra else [])]
        q = layer_norm(silu(p @ now["P1"].T @ now["P2"].T), p.shape[-1:], now["scale"], now["shift"])   # (n, d)
        return (q @ torch.cat(keys).T / math.sqrt(p.shape[-1])).log_softmax(-1)

    def before_batch(self, batch, task: Task) -> None:
        self.gates = self.log_attention(prompt_max(batch, task)).exp()

    def mix(self, h: Tensor, x: Tensor, site: Site) -> Tensor:
        return gated(h, self.gates, site)

    def penalty(self, live: Lora, task: Task, batch, logits):
        total = 0.0
        for p, bar in self.memory.get("prompts", []):                # (n, d), (i,)
            log_a = self.log_attention(p)[:, :len(bar)]              # abar_i gives no weight to later tasks
            total = total + (torch.xlogy(bar, bar) - bar * log_a).sum(-1).mean()
        return self.lam * total

    @torch.no_grad()
    def finish(self, tuned: Lora, task: Task) -> Lora:
        p = torch.cat([prompt_max(batch, task) for batch in task.probe.batches(self.buffer)])
        self.memory["prompts"] = [*self.memory.get("prompts", []), [p, self.log_attention(p).exp().mean(0)]]
        self.memory["keys"] = [*self.memory.get("keys", []), self.extra["key"].detach().clone()]
        self.memory["query"] = {name: value.detach().clone() for name, value in self.extra.items() if name != "key"}
        self.extra, self.gates = {}, None
        return super().finish(tuned, task)
