"""K-Merge: a budget of K adapters; a new one takes a free slot or is merged into the slot it resembles most.
Shenaj et al., ACL 2026, arXiv 2510.13537.

    similarity(c) = mean over modules of cos(B A, B_c A_c)
    a slot is free:   slot c = (A_t, B_t),  n_c = 1
    none is:          c = the most similar;  A_c <- sqrt(n_c / (n_c + 1)) A_c + sqrt(1 / (n_c + 1)) A_t,  B_c alike,  n_c += 1
    K-Merge++:        a free slot is taken only where every similarity stays below `threshold`

So a slot holds [sum_k B_k / sqrt(n)] [sum_k A_k / sqrt(n)]: the mean of the B_k A_k and cross terms B_j A_k / n. That is the
released code's mean (PEFT's "linear"), which made the published numbers; mean="update" averages B A and cuts it back to rank r
(the discarded share of squared norm in memory["discarded"]).

At test time a task wears its own slot, so the task's name must be known; a name never trained on wears the slot written last,
which is also what `finish` returns. Adapters are trained from the base alone. K = 3 is ours: the paper goes from 1 to 8 for 40
tasks. Its threshold is the median similarity of other adapters; the released value for Llama-3.2-1B is 0.02.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..fields import choice, number
from ..lora import Lora, Pair, Start, each, inner, stack, truncate
from ..method import Card, Method, Task


def similarity(one: Lora, other: Lora) -> float:
    """The mean over modules of the cosine between the two updates B A; r x r matrices only."""
    def cosine(x: Pair, y: Pair) -> torch.Tensor:
        return inner(x, y) / (inner(x, x) * inner(y, y)).clamp_min(1e-30).sqrt()

    return float(torch.stack([cosine(one[path], other[path]) for path in one]).mean())


def zeros(lora: Lora) -> Lora:
    return each(lambda pair: Pair(*map(torch.zeros_like, pair)), lora)


@dataclass
class KMerge(Method):
    slots: int = number(3, 1, 1000)                 # K
    threshold: float | None = number(None, -1, 1)   # K-Merge++
    mean: str = choice("factors", "update")         # what is averaged

    card: ClassVar[Card] = Card("K-Merge", "Shenaj et al., ACL 2026, arXiv 2510.13537", "merging", "exact", task_id=True)

    def start(self, task: Task) -> Start:
        return Start(task.fresh())

    def finish(self, tuned: Lora, task: Task) -> Lora:
        slots = [*self.memory.get("slots", [zeros(tuned) for _ in range(self.slots)])]   # the budget is taken at once
        counts = [*self.memory.get("counts", [0] * self.slots)]
        alike = [similarity(tuned, slot) for slot, n in zip(slots, counts) if n]      # used slots come first
        free = len(alike) < self.slots and (self.threshold is None or all(one < self.threshold for one in alike))
        c = len(alike) if free else alike.index(max(alike))
        n = counts[c]
        slots[c], counts[c] = self.joined(slots[c], tuned, n, task) if n else tuned, n + 1
        self.memory.update(slots=slots, counts=counts, slot_of={**self.memory.get("slot_of", {}), task.name: c})
        return slots[c]

    def joined(self, slot: Lora, tuned: Lora, n: int, task: Task) -> Lora:
        """The slot's mean of n adapters with one more."""
        if self.mean == "factors":
            old, new = (n / (n + 1)) ** 0.5, (1 / (n + 1)) ** 0.5
            return each(lambda c, t: Pair(old * c.A + new * t.A, old * c.B + new * t.B), slot, tuned)
        both = stack(each(lambda c: Pair(c.A, n / (n + 1) * c.B), slot), each(lambda t: Pair(t.A, t.B / (n + 1)), tuned))
        cut = {path: truncate(pair, task.rank) for path, pair in both.items()}
        self.memory["discarded"] = {path: lost for path, (_, lost) in cut.items()}
        return {path: pair for path, (pair, _) in cut.items()}

    def worn(self, name: str, result: Lora) -> Lora:
        slot_of = self.memory.get("slot_of", {})
        return self.memory["slots"][slot_of[name]] if name in slot_of else result
