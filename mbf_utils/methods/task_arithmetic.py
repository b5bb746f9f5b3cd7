"""Task arithmetic: independent LoRAs, their updates added with one weight. Ilharco et al., ICLR 2023, arXiv 2212.04089.

    delta W = lambda sum_t B_t A_t,   each (A_t, B_t) trained from the base alone

The sum has rank T r; after every task it is cut back to `rank` by its SVD (exact=True keeps it whole). lambda = 0.3 is
the paper's advice for many tasks. The share of squared norm that the cuts discarded is kept in memory["discarded"].
"""
from dataclasses import dataclass
from typing import ClassVar

from ..fields import number
from ..lora import Lora, Pair, Start, stack, truncate
from ..method import Card, Method, Task


@dataclass
class TaskArithmetic(Method):
    weight: float = number(0.3, 0)
    exact: bool = False                             # keep the sum whole, rank t r; else cut to the task's rank

    about: ClassVar[Card] = Card("Task arithmetic", "Ilharco et al., ICLR 2023, arXiv 2212.04089", "merging", "adapted",
                                 "the sum is cut back to rank r after every task; the paper merges full weights",
                                 merges="independent")

    @property
    def card(self) -> Card:  # type: ignore[override]
        return self.about._replace(memory="linear") if self.exact else self.about

    def start(self, task: Task) -> Start:
        return Start(task.fresh())

    def finish(self, tuned: Lora, task: Task) -> Lora:
        scaled = {path: Pair(pair.A, self.weight * pair.B) for path, pair in tuned.items()}
        merged = stack(self.memory["merged"], scaled) if "merged" in self.memory else scaled
        if not self.exact:
            cut = {path: truncate(pair, task.rank) for path, pair in merged.items()}
            self.memory["discarded"] = {path: lost for path, (_, lost) in cut.items()}
            merged = {path: pair for path, (pair, _) in cut.items()}
        self.memory["merged"] = merged
        return merged
