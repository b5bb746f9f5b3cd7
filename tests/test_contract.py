"""One contract for every row of METHODS, no exceptions: each lives through eight tiny tasks and through a run with resumes.

What a card says (trains, looks, routes, task_id, old_data, memory) is believed only where the life of the method shows it.
"""
import copy
import json
import math
from functools import lru_cache
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from tiny import equal, tensors, tiny_llama, word_tokenizer
from toy import FAST, contents, rows, toy_model

from mbf_utils.adapters import PAST, Adapted
from mbf_utils.lora import Lora, copied
from mbf_utils.method import Method, Task
from mbf_utils.methods import METHODS
from mbf_utils.probe import Probe
from mbf_utils.runs import run_stream, walk_stream
from mbf_utils.settings import Settings
from mbf_utils.store import pack, unpack
from mbf_utils.text import collate, encode
from mbf_utils.training import routed, train_task

TASKS = 8
KEYS = ("alpha", "beta", "gamma", "delta")
ANSWERS = [("good", "bad"), ("red", "green", "blue"), ("one", "two"), ("bad", "good")] * 2      # what the key word means, task by task
LIVED = Settings(**{**FAST, "targets": ("q_proj", "v_proj", "down_proj"), "dropout": 0.0, "lr": 0.03, "batch_size": 8,
                    "accumulation": 1, "epochs": 1})


class Step(NamedTuple):
    """What one task left behind."""
    start: Lora
    trains: object
    past: tuple[Lora, Lora] | None                  # before and after the training
    tuned: Lora
    result: Lora
    memory: tuple                                   # packed: (JSON, tensors)
    rows: int
    losses: list[float]


def example_rows(index: int, n: int = 16):
    return rows(n, ANSWERS[index - 1], f"contract {index}")


def begin(name: str, settings: Settings = LIVED, seed: int = 0):
    """(method, adapted model, its tokenizer, a maker of tasks) on a small Llama of hidden size 32."""
    tokenizer = word_tokenizer()
    adapted = Adapted(tiny_llama(hidden=32), list(settings.targets), settings.rank, settings.alpha)
    adapted.model.eval()

    def task(index: int, data=None) -> Task:
        data = data or example_rows(index)
        return Task(index, f"task{index}", data, settings.rank, adapted.scaling, adapted.sites, seed, TASKS,
                    probe=Probe(adapted, tokenizer, data, settings))
    return METHODS[name](), adapted, tokenizer, task


def live(name: str, tasks: int, settings: Settings = LIVED):
    """The steps of a life, and the method and all else at its end."""
    method, adapted, tokenizer, task_of = begin(name, settings)
    steps, given = [], []
    for index in range(1, tasks + 1):
        task, seen = task_of(index), {}
        start_of, data_of = method.start, method.data
        method.start = lambda task: seen.setdefault("start", start_of(task))
        method.data = lambda task: seen.setdefault("rows", data_of(task))
        losses = train_task(adapted, method, task, tokenizer, settings, Accelerator(cpu=True))
        del method.start, method.data
        start = seen["start"]
        past = (start.past, copied(adapted._lora(PAST))) if start.past else None
        tuned = copied(adapted.live())
        kept = copied(tuned)
        result = method.finish(tuned, task)
        assert equal(tuned, kept), "finish changed what was trained"
        tree, stored = pack(method.memory)
        tree = json.loads(json.dumps(tree))
        adapted.wear(result)
        steps.append(Step(copied(start.lora), start.trains, past, kept, copied(result), (tree, stored), len(seen["rows"]), losses))
        given.append((tuned, result))
        method.memory = unpack(tree, {key: value.clone() for key, value in stored.items()})     # as a resumed run has it
    for step, (tuned, result) in zip(steps, given):
        assert equal(step.tuned, tuned) and equal(step.result, result), "a later task changed what an earlier one gave"
    return steps, (method, adapted, tokenizer, task_of)


def same(one: Lora, two: Lora) -> bool:
    """They are the same function."""
    return all(torch.equal(one[path].B @ one[path].A, two[path].B @ two[path].A) for path in one)


@lru_cache(maxsize=None)
def life(name: str):
    return live(name, TASKS)


every = pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in METHODS])


@every
def test_its_result_is_finite_on_all_modules_and_not_what_it_started_from(name):
    steps, (method, adapted, *_) = life(name)
    for step in steps:
        assert step.result.keys() == step.tuned.keys() == adapted.sites.keys()
        for path, (d_in, d_out) in adapted.sites.items():
            A, B = step.result[path]
            assert A.shape == (B.shape[1], d_in) and B.shape == (d_out, A.shape[0]) and A.shape[0] >= 1
            assert A.isfinite().all() and B.isfinite().all() and A.dtype == B.dtype == torch.float32
        assert bool(step.losses) == method.card.trains
        assert all(math.isfinite(loss) for loss in step.losses)
    some = [(one.result, two.result) for one, two in zip(steps, steps[1:])]
    assert all(same(one, two) for one, two in some) != method.card.trains


@every
def test_it_learns_two_tasks(name):
    """After training on a task the loss on its own rows is lower than before, on both of two tasks."""
    method, adapted, tokenizer, task_of = begin(name, LIVED)
    settings = Settings(**{**LIVED.__dict__, "epochs": 6})
    if not method.card.trains:
        assert not train_task(adapted, method, task_of(1), tokenizer, settings, Accelerator(cpu=True))
        return
    for index in (1, 2):
        losses = train_task(adapted, method, task_of(index), tokenizer, settings, Accelerator(cpu=True))
        adapted.wear(method.finish(copied(adapted.live()), task_of(index)))
        assert sum(losses[-2:]) < 0.9 * sum(losses[:2])


@every
def test_what_is_frozen_stays_bit_for_bit(name):
    steps, (method, adapted, *_) = life(name)
    base = tiny_llama(hidden=32)
    for path, module in base.named_modules():
        if path in adapted.layers:
            assert torch.equal(adapted.layers[path].get_base_layer().weight, module.weight)
    for step in steps:
        if step.past:
            assert equal(step.past[0], step.past[1])
        for path, pair in step.start.items():
            trains = step.trains if isinstance(step.trains, str) else step.trains[path]
            for factor, before, after in zip("AB", pair, step.tuned[path]):
                assert factor in trains or torch.equal(before, after)


@every
def test_its_state_grows_as_the_card_says(name):
    steps, (method, *_) = life(name)

    def size(step) -> int:
        tree, stored = step.memory
        return sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) + len(texts(tree))
    two, four, eight = (size(steps[t - 1]) for t in (2, 4, 8))
    if method.card.memory == "constant":
        assert two == four == eight
    else:
        assert method.card.memory == "linear" and two < four < eight and eight - four < 3 * (four - two)


def texts(tree) -> str:
    """Every text that lasts inside lists, where rows are kept."""
    if isinstance(tree, dict):
        (kind, inside), = tree.items()
        if kind == "dict":
            return "".join(texts(item) for item in inside.values() if isinstance(item, dict))
        return "".join(item if isinstance(item, str) else texts(item) for item in inside) if kind in ("list", "tuple") else ""
    return ""


@every
def test_the_card_is_true_about_old_rows_and_task_ids(name):
    steps, (method, *_) = life(name)
    fewer, adapted, tokenizer, task_of = begin(name)
    task = task_of(1, example_rows(1, 8))
    train_task(adapted, fewer, task, tokenizer, LIVED, Accelerator(cpu=True))
    fewer.finish(copied(adapted.live()), task)
    of_16, of_8 = lengths(unpack(*steps[0].memory)), lengths(fewer.memory)
    a_row = [place for place in of_16 if (of_16[place], of_8.get(place)) == (16, 8)]                # an entry for every row
    assert (any(step.rows > 16 for step in steps) or bool(a_row)) == method.card.old_data
    result = steps[-1].result
    chosen = [method.worn(f"task{index}", result) for index in range(1, TASKS + 1)]
    assert any(not equal(one, result) for one in chosen) == method.card.task_id


def lengths(value, place: str = "") -> dict[str, int]:
    """{place: length} of all lists and tensors inside a memory."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    found = {place: len(value)} if isinstance(value, (list, tuple)) or isinstance(value, torch.Tensor) and value.ndim else {}
    for key, item in inside:
        found |= lengths(item, f"{place}/{key}")
    return found


@every
def test_it_repeats_to_the_bit_and_changes_nothing_that_it_gave(name):
    steps, _ = life(name)                                            # asserts the second
    again, _ = live(name, 3)
    for one, two in zip(steps, again):
        assert equal(one.result, two.result) and equal(one.tuned, two.tuned) and one.losses == two.losses


@every
def test_the_order_of_tasks_matters(name):
    method, adapted, tokenizer, task_of = begin(name)
    for index, data in ((1, example_rows(2)), (2, example_rows(1))):
        train_task(adapted, method, task_of(index, data), tokenizer, LIVED, Accelerator(cpu=True))
        result = method.finish(copied(adapted.live()), task_of(index, data))
        adapted.wear(result)
    assert same(result, life(name)[0][1].result) != method.card.trains


@every
def test_its_gates_at_test_time_come_from_memory_and_the_prompt_alone(name):
    _, (method, adapted, tokenizer, task_of) = life(name)
    result, task = life(name)[0][-1].result, task_of(TASKS)
    fresh = METHODS[name]()
    fresh.memory = copy.deepcopy(method.memory)
    adapted.wear(result)
    prompts = encode(tokenizer, example_rows(1), 32)

    def logits(method, rows, at):
        batch = collate(rows, 0)
        with torch.no_grad(), routed(adapted, method, task) as see:
            see(batch)
            return adapted.model(input_ids=batch.ids).logits[0, :at]
    at = len(prompts[0].prompt)
    one = logits(method, prompts[:1], at)
    torch.testing.assert_close(one, logits(fresh, prompts[:1], at))
    torch.testing.assert_close(one, logits(fresh, prompts[:5], at), atol=1e-4, rtol=1e-3)     # neighbours and padding change nothing
    other = [prompts[0]._replace(answer=prompts[0].answer[::-1])]
    torch.testing.assert_close(one, logits(fresh, other, at))        # nor does the answer
    with torch.no_grad():
        plain = adapted.model(input_ids=collate(prompts[:1], 0).ids).logits[0, :at]
    assert torch.equal(one, plain) != method.card.routes


@every
def test_accumulation_does_not_change_its_penalty(name):
    """Rows [a, b, a, b] in one micro-batch, or [a, b] twice: the same."""
    _, (method, adapted, tokenizer, task_of) = life(name)
    method, task = copy.deepcopy(method), task_of(3)
    method.memory = unpack(*copy.deepcopy(life(name)[0][1].memory))
    start = method.start(task)
    method.extra.update({key: torch.nn.Parameter(value.detach() + 0.1) for key, value in method.extra.items()})
    adapted.wear(start.lora, start.past, "AB")
    task.steps, task.step = 4, 2
    pair = encode(tokenizer, example_rows(3), 32)[:2]
    found = []
    for chosen in (pair, pair * 2):
        batch = collate(chosen, 0)
        torch.manual_seed(0)
        method.before_batch(batch, task)
        with adapted.mixing(method.mix, slice(2, 3), lambda: batch):
            out = adapted.model(input_ids=batch.ids, logits_to_keep=batch.keep).logits
        value = method.penalty(adapted.live(), task, batch, out)
        found.append(float(torch.as_tensor(value).detach()))
    assert math.isfinite(found[0]) and found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-6)
    adapted.wear(life(name)[0][-1].result)


@every
def test_padding_does_not_change_its_statistics(name):
    """The passes beside training see batches of 8 or of 3 rows; what is learned is the same but for rounding."""
    steps, _ = life(name)
    other, _ = live(name, 2, Settings(**{**LIVED.__dict__, "eval_batch_size": 3}))
    for one, two in zip(steps, other):
        for pair, again in zip(one.result.values(), two.result.values()):
            torch.testing.assert_close(pair.B @ pair.A, again.B @ again.A, atol=2e-3, rtol=1e-2)


@every
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


def test_the_contract_would_notice():
    """A method that breaks a rule is caught: it keeps a tensor more each task, though its card says constant."""
    class Hoarder(Method):
        card = METHODS["seqlora"]().card

        def finish(self, tuned, task):
            self.memory[task.name] = tuned
            return super().finish(tuned, task)

    METHODS["hoarder"] = Hoarder
    try:
        with pytest.raises(AssertionError):
            test_its_state_grows_as_the_card_says("hoarder")
    finally:
        del METHODS["hoarder"]
