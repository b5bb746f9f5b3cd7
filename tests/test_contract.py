"""One contract for every row of METHODS, no exceptions: each lives through eight tiny tasks and through a run with resumes.

The laws are mbf_utils.contract.LAWS, the same that a reader's method is held against.
"""
import copy
import math
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import count

import pytest
import torch
from peft import PeftModel
from tiny import tensors, tiny_llama, word_tokenizer
from toy import FAST, contents, rows, toy_model

from mbf_utils.adapters import Adapted
from mbf_utils.contract import LAWS, Broken, check_method
from mbf_utils.errors import InputError
from mbf_utils.lives import TASKS, Life, Toy
from mbf_utils.lora import Pair, Start, each
from mbf_utils.method import Card, Method
from mbf_utils.methods import METHODS
from mbf_utils.runs import run_stream, walk_stream
from mbf_utils.settings import Settings

ANSWERS = [("good", "bad"), ("red", "green", "blue"), ("one", "two"), ("bad", "good")] * 2      # of the key word, task by task
LIVED = Settings(**{**FAST, "targets": ("q_proj", "v_proj", "down_proj"), "dropout": 0.0, "lr": 0.03, "batch_size": 8,
                    "accumulation": 1, "epochs": 1})
MODEL, TOKENIZER = tiny_llama(hidden=32), word_tokenizer()
TOY = Toy(lambda: (copy.deepcopy(MODEL), TOKENIZER),
          [rows(16, answers, f"contract {i}") for i, answers in enumerate(ANSWERS, 1)], LIVED)


@lru_cache(maxsize=2)                               # all laws of one row come one after the other
def life(name: str) -> Life:
    assert len(TOY.rows) == TASKS
    return Life(METHODS[name], TOY)


def rows_of(names):
    return pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names])


every = rows_of(METHODS)
one_a_class = rows_of([name for name, make in METHODS.items() if not isinstance(make, partial)])


@pytest.mark.parametrize("law", LAWS, ids=[law.__name__ for law in LAWS])
@every
def test_a_law_holds(name, law):
    law(life(name))


@one_a_class
def test_a_run_resumed_after_each_task_ends_as_in_one_go_and_reloads_in_stock_peft(name, stream, tmp_path):
    model, tokenizer = toy_model()
    model = (model, tokenizer)
    whole = run_stream(stream, name, model, out=tmp_path / "whole", **FAST)
    for _ in stream:                                                 # a new method object for every task
        next(walk_stream(stream, name, model, out=tmp_path / "resumed", **FAST))
    assert contents(tmp_path / "resumed") == contents(whole.folder)
    assert whole.method == name and whole.matrix.shape == (3, 3)
    assert all(math.isfinite(loss) for log in whole.logs for loss in log["losses"] + [log["general_loss"]])
    assert all(math.isfinite(whole.metrics()[score]) for score in ("AA", "BWT", "forgetting", "learning_accuracy"))
    assert all(("plain_exact" in log) == METHODS[name]().card.routes for log in whole.logs)

    ids = torch.tensor([[2, 5, 9, 12, 7, 20]])
    adapted = Adapted(tiny_llama(), list(FAST["targets"]), FAST["rank"], FAST["alpha"])
    adapted.model.eval()
    adapted.wear(whole.lora(3))
    with torch.no_grad():
        stock = PeftModel.from_pretrained(tiny_llama(), whole.adapter(3))(input_ids=ids).logits
        assert torch.equal(stock, adapted.model(input_ids=ids).logits)
    assert all(factor.isfinite().all() for factor in tensors(whole.lora(3, "tuned")))


# ---- laws are broken in one way each: what the contract has to notice


def law(name: str):
    return next(law for law in LAWS if law.__name__ == name)


CHANCE = count()


@dataclass
class Hoarder(Method):
    """Keeps a tensor more each task."""
    def finish(self, tuned, task):
        self.memory[task.name] = tuned
        return super().finish(tuned, task)


@dataclass
class Scribbler(Method):
    """Writes into what it was given."""
    def finish(self, tuned, task):
        for pair in tuned.values():
            pair.B.mul_(0.5)
        return super().finish(tuned, task)


@dataclass
class Sidestepper(Method):
    """Remembers something outside its memory."""
    def finish(self, tuned, task):
        self.count = getattr(self, "count", 0) + 1
        self.memory["tuned"] = tuned
        return each(lambda pair: Pair(pair.A, pair.B / self.count), tuned)


@dataclass
class Gambler(Method):
    """Draws from chance that nobody seeds."""
    def finish(self, tuned, task):
        self.memory["tuned"] = tuned
        factor = 1 + next(CHANCE) / 1000
        return each(lambda pair: Pair(pair.A, pair.B * factor), tuned)


@dataclass
class Loser(Method):
    """Forgets a module."""
    def finish(self, tuned, task):
        super().finish(tuned, task)
        return dict(list(tuned.items())[1:])


@dataclass
class Sleeper(Method):
    """Says that it trains, and does not."""
    def start(self, task):
        return Start(task.fresh(), trains="")


@dataclass
class Thawer(Method):
    """Trains B alone, it says, and moves A too."""
    def start(self, task):
        return super().start(task)._replace(trains="B")

    def after_step(self, live, task):
        with torch.no_grad():
            next(iter(live.values())).A.add_(0.01)


@dataclass
class Accountant(Method):
    """Its penalty is a sum over rows."""
    def penalty(self, live, task, batch, logits):
        return 0.1 * batch.tokens


@dataclass
class Peeker(Method):
    """Trains on an old row, and its card is silent."""
    def data(self, task):
        old = self.memory.get("rows", [])
        self.memory["rows"] = [(task.train[0].prompt, task.train[0].answers[0])]
        return task.train + [replace(task.train[0], prompt=prompt, answers=(answer,)) for prompt, answer in old]


@dataclass
class Teller(Method):
    """Asks for the task's name when tested, and its card is silent."""
    def worn(self, name, result):
        return each(lambda pair: Pair(pair.A, 2 * pair.B), result) if name == "task1" else result


@dataclass
class Idler(Method):
    """The same result whatever comes."""
    def finish(self, tuned, task):
        self.memory["tuned"] = tuned
        return each(lambda pair: Pair(torch.ones_like(pair.A), torch.ones_like(pair.B)), tuned)


@dataclass
class Starer(Method):
    """Its statistics see padding."""
    def finish(self, tuned, task):
        self.memory["tuned"] = tuned
        seen = sum(batch.ids.numel() for batch in task.probe.batches()) / 10
        return each(lambda pair: Pair(pair.A, pair.B * seen), tuned)


@dataclass
class Gazer(Method):
    """The same of those that are taken in training's batches."""
    def finish(self, tuned, task):
        self.memory["tuned"] = tuned
        seen = sum(batch.ids.numel() for batch in task.probe.batches(size=task.probe._settings.batch_size)) / 10
        return each(lambda pair: Pair(pair.A, pair.B * seen), tuned)


@dataclass
class Stone(Method):
    """Does not move."""
    def edit_grads(self, live, task):
        for pair in live.values():
            pair.B.grad.zero_()


@dataclass
class Boaster(Method):
    """Says that it routes, and does not."""
    card = Card("Boaster", "", "own", "exact", routes=True)


@dataclass
class Neighbour(Method):
    """Its gate is a mean over the rows that happen to be in a batch."""
    gate: float = field(default=0.0, init=False, repr=False)
    card = Card("Neighbour", "", "own", "exact", routes=True)

    def before_batch(self, batch, task):
        self.gate = float(batch.ids.float().mean())

    def mix(self, h, x, site):
        return h * self.gate


@pytest.mark.parametrize("breaker, broken, found", [
    (Hoarder, "memory_grows_as_said", "bytes after 2, 4, 8 tasks; card.memory='constant'"),
    (Scribbler, "keeps_what_it_gave", "finish changed the factors that it was given, in task 1"),
    (Sidestepper, "goes_on_from_memory", "task 2 differs after a restart: something outlives a task"),
    (Gambler, "goes_on_from_memory", "task 1 differs when it is run again"),
    (Sleeper, "all_modules", "task 1: 0 steps, card.trains=True"), (Thawer, "frozen", "moved, though trains='B'"),
    (Accountant, "accumulation_changes_nothing", " and "), (Peeker, "card_is_true", "up to 17 rows a task"),
    (Teller, "card_is_true", "several adapters at test time; card.task_id=False"),
    (Idler, "all_modules", "the model changed in 0 of the 7 tasks"),
    (Idler, "order_matters", "in either order give the same model"),
    (Stone, "learns", " to "), (Boaster, "gates_see_the_prompt_alone", "the same logits; card.routes=True"),
    (Neighbour, "gates_see_the_prompt_alone", "logits that depend on the answer"), (Starer, "padding_changes_nothing", "another update"),
    (Gazer, "padding_changes_nothing", "another update"), (Starer, "card_is_true", "a pass over the rows beside the training; card.looks=False"),
])
def test_a_broken_law_is_told(breaker, broken, found):
    with pytest.raises(Broken, match=re.escape(found)):
        law(broken)(Life(breaker, TOY))


def test_a_check_is_a_table_of_all_laws():
    method = METHODS["slao_half"]()
    table = check_method(method)
    assert list(table.columns) == ["law", "holds", "found"] and len(table) == len(LAWS)
    assert table.holds.tolist() == [True] * len(LAWS) and table.found.str.len().gt(0).all() and not method.memory


def test_a_check_tells_the_broken_law_and_the_others():
    table = check_method(Sidestepper())
    found = table[~table.holds].found.tolist()
    assert found == ["task 2 differs after a restart: something outlives a task that is not in self.memory"]


def test_a_check_of_what_does_not_live():
    class Clumsy(Method):
        def finish(self, tuned, task):
            return self.memory["last"]

    table = check_method(Clumsy())
    assert table.holds.tolist() == [False] and re.fullmatch("KeyError in finish, line [0-9]+: 'last'", table.found[0])
    assert "InputError" in check_method(Loser()).found[0] and "adapted modules" in check_method(Loser()).found[0]
    for odd, words in ((Hoarder, "write Hoarder()"), ("sloa", "found 'sloa'")):
        with pytest.raises(InputError, match=re.escape(words)):
            check_method(odd)
