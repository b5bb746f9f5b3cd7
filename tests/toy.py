"""A toy stream for the tests of the loop: three tiny tasks, labels of several words, labels that begin with others, free text."""
import gc
import json
import os
import random
from pathlib import Path

import torch
from accelerate import Accelerator
from tiny import tiny_llama, word_tokenizer

from mbf_utils.adapters import Adapted
from mbf_utils.method import Method, Task
from mbf_utils.streams import Example, Stream, TaskData
from mbf_utils.training import Settings, train_task

gc.freeze()                                         # the loop collects garbage after every task; all of torch need not be searched
FILLERS = ["one", "two", "three", "four", "five", "six"]
LABELS = {"single": ("good", "bad"), "prefixes": ("red", "red green", "red green blue", "blue red")}
FAST = dict(targets=("q_proj", "v_proj"), rank=2, alpha=4.0, dropout=0.1, lr=0.05, epochs=1, batch_size=2, accumulation=2,
            max_length=32, max_new_tokens=4, eval_batch_size=8, checkpoint_minutes=1e9)


def rows(n: int, answers, seed) -> list[Example]:
    """n prompts of 2 to 7 words; the key word before the colon decides the answer."""
    chance = random.Random(f"{answers}{seed}")
    found = []
    for i in range(n):
        words = chance.choices(FILLERS, k=chance.randint(1, 5))
        found.append(Example(" ".join([*words, ["alpha", "beta", "gamma", "delta"][i % len(answers)], ":"]), (answers[i % len(answers)],)))
    return found


def toy_task(name: str, answers, labels=(), n: int = 6) -> TaskData:
    return TaskData(name, rows(n, answers, "train"), rows(4, answers, "dev"), rows(5, answers, "test"), labels)


def toy_stream(n: int = 6) -> Stream:
    return Stream("toy", "1", (toy_task("single", LABELS["single"], LABELS["single"], n),
                               toy_task("prefixes", LABELS["prefixes"], LABELS["prefixes"], n),
                               toy_task("free", ("seven eight", "nine"), (), n)), ("one two three", "red : green"))


def toy_model(seed: int = 0):
    """(model, tokenizer)."""
    return tiny_llama(seed), word_tokenizer()


def trained(method: Method, data: list[Example], index: int = 1, model=None, seed: int = 0, accelerator=None, load=lambda: None,
            save=None, **settings) -> tuple[Adapted, Task, list[float]]:
    """One task through the loop: (the adapted model after it, the task, the losses)."""
    model, tokenizer = model or toy_model()
    settings = Settings(**{**FAST, "dropout": 0.0, **settings})
    adapted = Adapted(model, list(settings.targets), settings.rank, settings.alpha, settings.dropout)
    adapted.model.eval()                                             # as scoring leaves it
    task = Task(index, f"task{index}", data, settings.rank, adapted.scaling, adapted.sites, seed)
    losses = train_task(adapted, method, task, tokenizer, settings, accelerator or Accelerator(cpu=True), load, save)
    return adapted, task, losses


def factors(adapted: Adapted) -> torch.Tensor:
    """Every live factor in one vector."""
    return torch.cat([factor.detach().flatten() for pair in adapted.live().values() for factor in pair])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run but its lock, and its logs without times."""
    found = {}
    for file in sorted(path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"):
        data = file.read_bytes()
        if file.name == "log.json":
            data = repr({key: value for key, value in json.loads(data).items() if not key.startswith("seconds")}).encode()
        found[str(file.relative_to(folder))] = data
    return found


CHANGES = ("replace", "rename", "mkdir", "unlink", "rmdir", "fsync")             # functions of os that change a disk, or see to it


def before_each_change(act):
    """From now on act(n) is called before the n-th change on disk by Python; returns a function that ends this."""
    kept, count = {name: getattr(os, name) for name in CHANGES}, [0]

    def wrapped(name):
        def function(*arguments, **options):
            count[0] += 1
            act(count[0])
            return kept[name](*arguments, **options)
        return function

    for name in CHANGES:
        setattr(os, name, wrapped(name))
    return lambda: [setattr(os, name, kept[name]) for name in CHANGES]


def in_child(act) -> int:
    """act() in a forked process: its exit status, minus the signal's number where one killed it."""
    child = os.fork()
    if not child:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
