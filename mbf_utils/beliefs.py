"""What the models of a finished run believe of one example: before the first task and after each, from the stored adapters.

Nothing is trained. The base is loaded once and wears one stored adapter after the other; on the tiny base an example takes some
hundredths of a second an adapter.
"""
from __future__ import annotations

import math

import numpy as np
import pandas as pd

from .adapters import Adapted
from .errors import InputError
from .evaluation import generate, label_scores
from .lora import Lora, Pair, each
from .models import load_model
from .results import Run
from .runs import fingerprint
from .streams import Example, Stream, TaskData
from .text import token_ids
from .titles import card_of

MOMENTS = 13                                            # at most so many adapters answer; of longer runs every nth


class Beliefs:
    """`table(task, number)` asks the run's models about one test row of a task.

    moments: the numbers of tasks learned at which the models are asked, 0 for the base. Runs that need more than their adapter to
    answer (the task's name, a router) are refused.
    """

    def __init__(self, run: Run, stream: Stream, device="auto"):
        card, settings = card_of(run.method), run.config["settings"]
        if card and (card.task_id or card.routes):
            raise InputError(f"expected a run whose stored adapter answers alone, found {run.method}, which also needs "
                             f"{'the name of the task' if card.task_id else 'its router'}")
        if stream.names != run.names:
            raise InputError(f"expected the stream of the run, {', '.join(run.names)}, found {', '.join(stream.names)}")
        model, self.tokenizer = load_model(run.config["model"]["name"], device)
        if fingerprint(model) != run.config["model"]["fingerprint"]:
            raise InputError(f"expected the base of {run.folder.name}, {run.config['model']['name']}, found another of that name")
        self.run, self.stream, self.settings = run, stream, settings
        self.adapted = Adapted(model, settings["targets"], settings["rank"], settings["alpha"])
        T = len(run.logs)
        self.moments = [int(moment) for moment in np.unique(np.linspace(0, T, min(T + 1, MOMENTS)).round())]
        self.loras = {moment: run.lora(moment) if moment else _nothing(run.lora(1)) for moment in self.moments}

    def row(self, task: str, number: int) -> tuple[TaskData, Example]:
        """Test row `number` (from 1) of a task."""
        data = self.stream[task]
        if not 1 <= number <= len(data.test):
            raise InputError(f"expected a test row of {task} from 1 to {len(data.test)}, found {number}")
        return data, data.test[number - 1]

    def table(self, task: str, number: int) -> pd.DataFrame:
        """Columns: after, option, probability (that it is what follows, of all that could), wrote (the greedy answer), right
        (whether that is a right one, as exact match has it); a row for every moment and option."""
        data, example = self.row(task, number)
        if not data.labels:
            raise InputError(f"expected a task with options to choose from, found {task}, whose answers are free text")
        rows, most = [], self.settings["max_length"]
        for moment, lora in self.loras.items():
            self.adapted.wear(lora)
            (right,), (scores,) = label_scores(self.adapted.model, self.tokenizer, [example], data.labels, most)
            wrote, = generate(self.adapted.model, self.tokenizer, [example], most, max_new_tokens=self._length())
            rows += [(moment, option, math.exp(score), wrote, right) for option, score in scores.items()]
        return pd.DataFrame(rows, columns=["after", "option", "probability", "wrote", "right"])

    def _length(self) -> int:
        """Tokens that the longest option of the whole stream needs, its end included."""
        labels = [" " + label for other in self.stream for label in other.labels]
        return max(len(ids) for ids in token_ids(self.tokenizer, labels)) + 1


def _nothing(lora: Lora) -> Lora:
    """An adapter of the same shape under which the model is the base: B = 0."""
    return each(lambda pair: Pair(pair.A, pair.B.new_zeros(pair.B.shape)), lora)
