"""The contract of all methods, as a check of one: it lives through small tasks, and every law says what it found.

    check_method(MyMethod())                        # a table: law, holds, found

A law is a function of a Life; it returns what it found, or raises Broken with it. The tests hold every row of METHODS to the
same laws. What a card says (trains, routes, task_id, old_data, memory) is believed only where the life of the method shows it.
"""
from __future__ import annotations

import copy
import gc
import math
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from .errors import InputError
from .folded import unfolded
from .lives import TASKS, Life, equal, same, small_world
from .method import Method
from .methods import make_method
from .models import no_bars
from .packing import unpack
from .text import collate, encode
from .training import routed


class Broken(AssertionError):
    """A law that does not hold; the message is what was found."""


def check_method(method: Method | str) -> pd.DataFrame:
    """Every law of the contract, held against one method on the built-in base "tiny": columns law, holds, found. A few seconds.

    method: an object like MyMethod(), which stays as it is (fresh ones with its settings learn), or a name in METHODS.
    """
    if isinstance(method, type):
        raise InputError(f"expected a method as an object, found the class {method.__name__}: write {method.__name__}()")
    method = make_method(method)
    mine = not gc.get_freeze_count()
    gc.collect()
    gc.freeze()                                     # every task collects garbage; what was there before need not be searched
    try:
        life, found = _attempt(lambda: Life(lambda: replace(method), small_world()))
        if life is None:
            return _table([(f"It lives through {TASKS} small tasks.", False, found)])
        rows = [(law, *_attempt(lambda: law(life))) for law in LAWS]
        return _table([(sentence(law), told is not None, told or found) for law, told, found in rows])
    finally:
        if mine:
            gc.unfreeze()


def _attempt(act) -> tuple:
    """(act(), "") or (None, what was found): whatever a method of one's own may raise."""
    try:
        return act(), ""
    except Broken as error:
        return None, str(error)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not {"mbf_utils", "site-packages"} & set(Path(frame.filename).parts)]
        where = (own or frames)[-1]
        return None, f"{type(error).__name__} in {where.name}, line {where.lineno}: {error}"


def _table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["law", "holds", "found"])


def sentence(law) -> str:
    """A law in words: the first line of its docstring."""
    return law.__doc__.splitlines()[0]


# ---- the laws
def all_modules(life: Life) -> str:
    """Its result is finite, has a pair for every adapted module, and training changes what the model is."""
    sites, trains = life.adapted.sites, life.method.card.trains
    for index, step in enumerate(life.steps, 1):
        need(step.result.keys() == sites.keys(), f"task {index}: a pair for {len(step.result)} modules of {len(sites)}")
        for path, (d_in, d_out) in sites.items():
            A, B = step.result[path]
            need(A.dim() == B.dim() == 2 and A.shape == (B.shape[1], d_in) and B.shape == (d_out, A.shape[0]) and len(A) >= 1,  # type: ignore[index]
                 f"task {index}, {path}: A {tuple(A.shape)} and B {tuple(B.shape)}, not (r, {d_in}) and ({d_out}, r)")
            need(A.dtype == B.dtype == torch.float32, f"task {index}, {path}: {A.dtype} and {B.dtype}, not float32")
            need(bool(A.isfinite().all() and B.isfinite().all()), f"task {index}, {path}: numbers that are not finite")
        need(all(map(math.isfinite, step.losses)), f"task {index}: a loss that is not finite")
        need(bool(step.losses) == trains, f"task {index}: {len(step.losses)} steps, card.trains={trains}")
    moved = sum(not same(one.result, two.result) for one, two in zip(life.steps, life.steps[1:]))
    need((moved > 0) == trains, f"the model changed in {moved} of the {len(life.steps) - 1} tasks after the first")
    return f"{len(sites)} modules, {len(life.steps)} tasks"


def learns(life: Life) -> str:
    """It learns: on the rows of each of two tasks the loss falls by a tenth or more."""
    two = Life(life.make, life.toy, life.toy.rows[:2], settings=replace(life.settings, epochs=6))
    if not two.method.card.trains:
        need(not any(step.losses for step in two.steps), "it trains, but card.trains=False")
        return "nothing to train, as its card says"
    falls = [(sum(step.losses[:2]) / 2, sum(step.losses[-2:]) / 2) for step in two.steps]
    told = ", ".join(f"{before:.2f} to {after:.2f}" for before, after in falls)
    need(all(after < 0.9 * before for before, after in falls), told)
    return told


def keeps_what_it_gave(life: Life) -> str:
    """Nothing changes the factors that finish was given or that it returned."""
    need(not life.changed, life.changed)
    return "unchanged"


def frozen(life: Life) -> str:
    """What is frozen stays bit for bit: the base, a frozen stack, the factors that do not train."""
    base, _ = life.toy.base()
    for path, module in base.named_modules():
        if path in life.adapted.layers:
            now = life.adapted.layers[path].get_base_layer().weight
            need(torch.equal(now, module.weight), f"the base changed at {path}")
    for index, step in enumerate(life.steps, 1):
        need(not step.past or equal(*step.past), f"task {index} changed the frozen stack")
        for path, pair in step.start.items():
            trains = step.trains if isinstance(step.trains, str) else step.trains[path]
            for factor, before, after in zip("AB", pair, step.tuned[path]):
                need(factor in trains or torch.equal(before, after),
                     f"task {index}: {factor} of {path} moved, though trains={trains!r}")
    return "the same bits"


def memory_grows_as_said(life: Life) -> str:
    """Its memory grows with the number of tasks as its card says."""
    two, four, eight = (_size(*life.steps[t - 1].memory) for t in (2, 4, 8))
    card = life.method.card.memory
    told = f"{two}, {four}, {eight} bytes after 2, 4, 8 tasks; card.memory={card!r}"
    grows = two < four < eight and eight - four < 3 * (four - two)
    need(card == "constant" and two == four == eight or card == "linear" and grows, told)
    return told


def goes_on_from_memory(life: Life) -> str:
    """Run again it gives the same bits, also if each task gets a new object that has the memory alone."""
    anew = Life(life.make, life.toy, life.toy.rows[:3], anew=True)
    if (index := _parted(life, anew)) is None:
        return "the same bits in three tasks"
    if _parted(life, Life(life.make, life.toy, life.toy.rows[:3])) is None:
        raise Broken(f"task {index} differs after a restart: something outlives a task that is not in self.memory")
    raise Broken(f"task {index} differs when it is run again: draw chance from task.rng(purpose) alone")


def order_matters(life: Life) -> str:
    """The order of tasks matters, unless nothing trains."""
    turned = Life(life.make, life.toy, life.toy.rows[1::-1])
    alike = same(turned.steps[1].result, life.steps[1].result)
    need(alike != life.method.card.trains, f"tasks 1 and 2 in either order give {'the same' if alike else 'another'} model")
    return f"tasks 1 and 2 in the other order give {'the same' if alike else 'another'} model"


def card_is_true(life: Life) -> str:
    """Only where its card says so it keeps single rows or trains on old ones, passes over rows beside the training, or asks for the task."""
    card, result, (first, *_) = life.method.card, life.steps[-1].result, life.toy.rows
    most, half = max(step.rows for step in life.steps), len(first) // 2
    fewer = Life(life.make, life.toy, [first[:half]])
    of_all, of_half = _lengths(unpack(*life.steps[0].memory)), _lengths(unpack(*fewer.steps[0].memory))
    kept = any((of_all[place], of_half.get(place)) == (len(first), half) for place in of_all)        # an entry for every row
    told = f"up to {most} rows a task, {'an entry' if kept else 'nothing'} for each row in memory"
    need((most > max(map(len, life.toy.rows)) or kept) == card.old_data, f"{told}; card.old_data={card.old_data}")
    looks = any(step.looked for step in life.steps)
    need(looks == card.looks, f"{'a' if looks else 'no'} pass over the rows beside the training; card.looks={card.looks}")
    chooses = any(not equal(life.method.worn(f"task{index}", result), result) for index in range(1, len(life.steps) + 1))
    adapters = f"{'several adapters' if chooses else 'one adapter'} at test time"
    need(chooses == card.task_id, f"{adapters}; card.task_id={card.task_id}")
    return f"{told}; {adapters}"


def gates_see_the_prompt_alone(life: Life) -> str:
    """At test time nothing counts but memory and prompt: no other row, no padding, no answer."""
    result, task, fresh = life.steps[-1].result, life.task(len(life.steps)), life.make()
    fresh.memory = copy.deepcopy(life.method.memory)
    life.adapted.wear(result)
    prompts = encode(life.tokenizer, life.toy.rows[0], life.settings.max_length)
    at = len(prompts[0].prompt)

    def logits(method, rows):
        batch = collate(rows, 0)
        with torch.no_grad(), routed(life.adapted, method, task) as see:
            see(batch)
            return life.adapted.model(input_ids=batch.ids).logits[0, :at]
    one = logits(life.method, prompts[:1])
    other = [next(prompts[0]._replace(answer=row.answer) for row in prompts if row.answer != prompts[0].answer)]
    for what, again, loose in (("more than memory", logits(fresh, prompts[:1]), 1), ("the answer", logits(fresh, other), 1),
                               ("other rows", logits(fresh, prompts[:5]), 10)):
        need(bool(torch.isclose(one, again, atol=1e-5 * loose, rtol=1e-5 * loose).all()), f"logits that depend on {what}")
    with torch.no_grad():
        plain = torch.equal(one, life.adapted.model(input_ids=collate(prompts[:1], 0).ids).logits[0, :at])
    routes = life.method.card.routes
    need(plain != routes, f"the plain adapter gives {'the same' if plain else 'other'} logits; card.routes={routes}")
    return "routed by the prompt" if routes else "a plain adapter"


def accumulation_changes_nothing(life: Life) -> str:
    """Its penalty is a mean: rows [a, b, a, b] cost what [a, b] cost."""
    method, task = life.make(), life.task(3)
    method.memory = unpack(*copy.deepcopy(life.steps[1].memory))
    start = method.start(task)
    method.extra.update({key: torch.nn.Parameter(value.detach() + 0.1) for key, value in method.extra.items()})
    life.adapted.wear(start.lora, start.past, "AB")
    with torch.no_grad():                           # away from the start, where many a penalty is 0
        for factor in (factor for pair in life.adapted.live().values() for factor in pair):
            factor.mul_(1.1).add_(0.01)
    task.steps, task.step = 4, 2
    pair, found = encode(life.tokenizer, life.toy.rows[2], life.settings.max_length)[:2], []
    for chosen in (pair, pair * 2):
        batch = collate(chosen, 0)
        torch.manual_seed(0)
        method.before_batch(batch, task)
        with life.adapted.mixing(method.mix, slice(2, 3), lambda: batch):
            out = life.adapted.model(input_ids=batch.ids, logits_to_keep=batch.keep).logits
        found.append(float(torch.as_tensor(method.penalty(life.adapted.live(), task, batch, out)).detach()))
    life.adapted.wear(life.steps[-1].result)
    need(math.isfinite(found[0]) and math.isclose(*found, rel_tol=1e-4, abs_tol=1e-6), f"{found[0]:.6g} and {found[1]:.6g}")
    return f"{found[0]:.4g} and {found[1]:.4g}"


def padding_changes_nothing(life: Life) -> str:
    """Its statistics do not see padding: with smaller batches beside the training it learns the same, but for rounding."""
    other = Life(life.make, life.toy, life.toy.rows[:2], beside=3)
    for index, (one, two) in enumerate(zip(life.steps, other.steps), 1):
        for path in one.result:
            mine, theirs = (step.result[path].B @ step.result[path].A for step in (one, two))
            need(bool(torch.isclose(mine, theirs, atol=2e-3, rtol=1e-2).all()), f"task {index}, {path}: another update")
    return f"the same with batches of {life.settings.eval_batch_size} and of 3"


def exports(life: Life) -> str:
    """Saved as a PEFT adapter and loaded without this kit, its result gives the same logits: 0 apart in PEFT's own steps."""
    model, _ = life.toy.base()
    ids = collate(encode(life.tokenizer, life.toy.rows[0][:8], life.settings.max_length), 0).ids
    life.adapted.wear(life.steps[-1].result)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), no_bars():
        life.adapted.save(life.steps[-1].result, folder)
        model.load_adapter(folder)                  # transformers' own, which asks PEFT
        right, folded = model(input_ids=ids).logits, life.adapted.model(input_ids=ids).logits
        with unfolded(life.adapted.layers.values()):
            apart = float((right - life.adapted.model(input_ids=ids).logits).abs().max())
    need(apart == 0, f"logits {apart:.2g} apart")
    need(torch.allclose(right, folded, rtol=1e-3, atol=1e-3), f"logits {float((right - folded).abs().max()):.2g} apart where one product is computed")
    return "logits 0 apart"


LAWS = (all_modules, learns, keeps_what_it_gave, frozen, memory_grows_as_said, goes_on_from_memory, order_matters, card_is_true,
        gates_see_the_prompt_alone, accumulation_changes_nothing, padding_changes_nothing, exports)


# ---- what they share
def need(holds: bool, found: str) -> None:
    if not holds:
        raise Broken(found)


def _parted(life: Life, other: Life) -> int | None:
    """The first task whose results or losses differ."""
    return next((index for index, (one, two) in enumerate(zip(life.steps, other.steps), 1)
                 if not (equal(one.result, two.result) and equal(one.tuned, two.tuned) and one.losses == two.losses)), None)


def _size(tree, stored) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) + len(_texts(tree))


def _texts(tree) -> str:
    """Every text that lasts inside lists, where rows are kept."""
    if isinstance(tree, dict):
        (kind, inside), = tree.items()
        if kind == "dict":
            return "".join(_texts(item) for item in inside.values() if isinstance(item, dict))
        return "".join(item if isinstance(item, str) else _texts(item) for item in inside) if kind in ("list", "tuple") else ""
    return ""


def _lengths(value, place: str = "") -> dict[str, int]:
    """{place: length} of all lists and tensors inside a memory."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    found = {place: len(value)} if isinstance(value, (list, tuple)) or isinstance(value, torch.Tensor) and value.ndim else {}
    for key, item in inside:
        found |= _lengths(item, f"{place}/{key}")
    return found
