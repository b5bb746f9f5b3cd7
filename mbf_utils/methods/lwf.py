"""LwF, learning without forgetting, on one LoRA that is trained on task after task. Li and Hoiem, ECCV 2016, arXiv 1606.09282.

    L = L_task + lambda T^2 mean_tokens KL(softmax(z_old / T) || softmax(z_new / T)),   T = 2, lambda = 1
    z_old: logits of the model as the last task left it, on the new task's rows

A reference. Only positions that predict a token of the answer count: prompts and padding do not, and the mean over tokens is
the loss's own. A language model has no head for each task, so one distribution over the vocabulary is kept.
"""
from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import kl_div

from ..fields import number
from ..lora import Lora
from ..method import Card, Method, Task
from ..text import IGNORE


@dataclass
class LwF(Method):
    lam: float = number(1.0, 0)
    T: float = number(2.0, above=0)                 # the temperature

    card: ClassVar[Card] = Card("LwF", "Li and Hoiem, ECCV 2016, arXiv 1606.09282", "regularisation", "adapted",
                                "keeps the distribution of answer tokens, where the paper keeps the outputs of old tasks' heads")

    def penalty(self, live: Lora, task: Task, batch, logits):
        if "tuned" not in self.memory:
            return 0.0
        answer = batch.targets != IGNORE                             # (b, k)
        z_old = task.probe.logits(self.memory["tuned"], batch)       # (b, k, V)
        old, new = ((z[answer].float() / self.T).log_softmax(-1) for z in (z_old, logits))       # (tokens, V)
        return self.lam * self.T ** 2 * kl_div(new, old, reduction="batchmean", log_target=True)     # KL(old || new)
