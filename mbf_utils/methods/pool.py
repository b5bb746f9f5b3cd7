"""Adapters trained apart, each from the base alone, and merged anew after every task: what TIES, KnOTS and LoRA-LEGO share.

    tau_k = B_k A_k,   model after task t = weight * merge(tau_1, ..., tau_t)      s is common to all and stays outside

The papers merge all adapters at once, so all are kept: the state grows with t. running=True keeps the last merge alone, which
then stands for t - 1 adapters beside the new one: constant, but no longer the papers' rule (the first task is merged again and
again). A merge of higher rank is cut to the task's rank by its SVD (exact=True leaves it whole), and the share of squared norm
that the cut discards is kept in memory["discarded"]. Not a method of its own: a subclass says how one module is merged.
"""
from dataclasses import dataclass
from typing import ClassVar

from ..fields import number
from ..lora import Lora, Pair, Start, truncate
from ..method import Card, Method, Task


@dataclass
class Pool(Method):
    weight: float = number(1.0, 0)                  # lambda, on what is merged
    running: bool = False                           # merge into the last result instead of keeping all adapters
    exact: bool = False                             # the merge as it is; else cut to the task's rank

    about: ClassVar[Card]                           # the card with all adapters kept

    @property
    def card(self) -> Card:  # type: ignore[override]
        return self.about._replace(memory="constant", fidelity="adapted",
                                   differs="the last merge stands for all earlier adapters, which the paper keeps") \
            if self.running else self.about

    def start(self, task: Task) -> Start:
        return Start(task.fresh())

    def merge(self, pairs: list[Pair], counts: list[int], task: Task, path: str) -> Pair:
        """One module: pairs[k] stands for counts[k] adapters. The result may have any rank."""
        raise NotImplementedError

    def finish(self, tuned: Lora, task: Task) -> Lora:
        pool = [*self.memory.get("pool", []), tuned]
        counts = [task.index - 1, 1] if self.running and len(pool) > 1 else [1] * len(pool)
        cut = {path: self.merged([lora[path] for lora in pool], counts, task, path) for path in tuned}
        merged = {path: pair for path, (pair, _) in cut.items()}
        self.memory["pool"] = [merged] if self.running else pool
        self.memory["discarded"] = {path: lost for path, (_, lost) in cut.items()}
        return {path: Pair(pair.A, self.weight * pair.B) for path, pair in merged.items()}

    def merged(self, pairs, counts, task, path) -> tuple[Pair, float]:
        pair = self.merge(pairs, counts, task, path)
        return truncate(pair, None if self.exact or pair.A.shape[0] <= task.rank else task.rank)
