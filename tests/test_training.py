"""The loop against literal twins: one example at a time, the penalty once a window, frozen means frozen."""
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from toy import FAST, LABELS, factors, rows, toy_model, trained

from mbf_utils.adapters import Adapted
from mbf_utils.errors import InputError
from mbf_utils.lora import Pair, Start, copied
from mbf_utils.method import Method, Task, seed_of
from mbf_utils.methods import METHODS
from mbf_utils.methods.olora import OLoRA
from mbf_utils.results import Run
from mbf_utils.store import pack, unpack
from mbf_utils.training import Settings, accelerator_for, train_task, window_plan

DATA = rows(13, LABELS["prefixes"], "training")     # answers of 2 to 4 tokens: windows of unequal weight
SPLITS = [(8, 1), (4, 2), (2, 4), (3, 3)]


@dataclass
class Gated(Method):
    """One gate a rank and module, an extra parameter: h <- gate * h."""

    def start(self, task):
        self.extra = {path: nn.Parameter(torch.ones(task.rank)) for path in task.sites}      # names with dots
        return super().start(task)

    def mix(self, h, x, site):
        return h * self.extra[site.path]


@dataclass
class Stacked(OLoRA):
    """A past, a penalty and an extra parameter at once."""
    lambda1: float = 0.01

    def start(self, task):
        self.extra = {path: nn.Parameter(torch.ones(task.rank)) for path in task.sites}
        return super().start(task)

    def mix(self, h, x, site):
        return h * self.extra[site.path] if site.blocks.start == site.blocks.stop - 1 else h


def other_lora(adapted_or_sites, rank=2, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return {path: Pair(0.3 * torch.randn(rank, d_in, generator=generator), 0.3 * torch.randn(d_out, rank, generator=generator))
            for path, (d_in, d_out) in adapted_or_sites.items()}


def with_past(method: Method, rank=3) -> Method:
    """`method` (an IncLoRA) as if it had learned two tasks."""
    model, _ = toy_model()
    sites = Adapted(model, ["q_proj", "v_proj"], 2, 4.0).sites
    method.memory["stack"] = other_lora(sites, rank)
    return method


# the twin: plain torch, one example a forward pass, nothing of the kit's collation, windows' weights or Accelerate

def literal_training(data, settings: Settings, index=1, past=None, lambda1=0.0, seed=0, plan=None):
    model, tokenizer = toy_model()
    adapted = Adapted(model, list(settings.targets), settings.rank, settings.alpha)
    task = Task(index, "", data, settings.rank, adapted.scaling, adapted.sites, seed)
    adapted.wear(task.fresh(), past, "AB")
    live = adapted.live()
    parameters = [factor for pair in live.values() for factor in pair]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    size = settings.batch_size * settings.accumulation
    losses, left = [], math.ceil(len(data) * settings.epochs)
    windows = []
    for epoch in range(math.ceil(settings.epochs)):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(
            seed_of(seed_of(seed, index, "order"), epoch))).tolist()[:left]
        left -= len(order)
        while order:
            windows.append(order[:size])
            order = order[size:]
    for window in windows:
        tokens, total = 0, 0.0
        for i in window:
            example = data[i]
            prompt = [tokenizer.bos_token_id] + tokenizer(example.prompt, add_special_tokens=False)["input_ids"]
            answer = tokenizer(example.answers[0], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            logits = adapted.model(input_ids=torch.tensor([prompt + answer])).logits[0]
            for k, token in enumerate(answer):
                total = total - logits[len(prompt) + k - 1].log_softmax(-1)[token]
                tokens += 1
        loss = total / tokens
        whole = loss + lambda1 * sum((past[path].A @ pair.A.T).abs().sum() for path, pair in live.items()) if lambda1 else loss
        optimizer.zero_grad()
        whole.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
        if settings.clip and norm > settings.clip:
            for p in parameters:
                p.grad *= settings.clip / norm
        optimizer.step()
        losses.append(float(loss.detach()))
    return factors(adapted), losses


@pytest.mark.parametrize("batch_size, accumulation", SPLITS)
@pytest.mark.parametrize("kind", ["plain", "penalty and past"])
def test_accumulation_changes_nothing(batch_size, accumulation, kind):
    """13 rows: the last window is short (5 of 8, 4 of 9), its last micro-batch too."""
    settings = dict(batch_size=batch_size, accumulation=accumulation, epochs=2, lr=0.01, weight_decay=0.1, clip=1.0)
    method, index = (Method(), 1) if kind == "plain" else (with_past(OLoRA(lambda1=0.05)), 3)
    past = method.memory.get("stack")
    adapted, _, losses = trained(method, DATA, index, **settings)
    expected, expected_losses = literal_training(DATA, Settings(**{**settings, "rank": 2, "alpha": 4.0, "dropout": 0.0}), index,
                                                 past, 0.05 if past else 0.0)
    assert losses == pytest.approx(expected_losses, abs=1e-4) and len(losses) == 4
    assert torch.allclose(factors(adapted), expected, atol=2e-4), (factors(adapted) - expected).abs().max()


def test_the_twin_would_notice_a_penalty_counted_per_micro_batch():
    """The tolerance above is far below what one micro-batch more or less of the penalty does."""
    settings = Settings(rank=2, alpha=4.0, dropout=0.0, batch_size=2, accumulation=4, epochs=2, lr=0.01)
    past = with_past(OLoRA()).memory["stack"]
    once, _ = literal_training(DATA, settings, 3, past, 0.05)
    four, _ = literal_training(DATA, settings, 3, past, 0.2)
    assert (once - four).abs().max() > 20 * 2e-4


# which rows, which rate

@pytest.mark.parametrize("n, batch_size, accumulation, processes", [(13, 2, 2, 1), (8, 4, 2, 1), (5, 2, 2, 3), (1, 2, 4, 2)])
def test_every_row_once_an_epoch_in_windows_of_the_effective_batch(n, batch_size, accumulation, processes):
    settings, size = Settings(batch_size=batch_size, accumulation=accumulation, epochs=3), batch_size * accumulation * processes
    plan = window_plan(n, settings, processes, seed=1)
    per_epoch = -(-n // size)
    assert len(plan) == 3 * per_epoch
    for epoch in range(3):
        windows = plan[epoch * per_epoch:(epoch + 1) * per_epoch]
        assert [len(window) for window in windows] == [size] * (n // size) + ([n % size] if n % size else [])
        assert sorted(sum(windows, [])) == list(range(n))


@pytest.mark.parametrize("epochs, taken", [(0.5, 7), (2.25, 30), (0.01, 1), (1.0, 13)])
def test_a_part_of_an_epoch_takes_a_part_of_the_rows_each_once(epochs, taken):
    plan = window_plan(13, Settings(batch_size=2, accumulation=2, epochs=epochs), 1, seed=1)
    picked = sum(plan, [])
    assert len(picked) == taken
    assert all(len(set(part)) == len(part) for part in (picked[:13], picked[13:26], picked[26:]))


def test_a_share_of_an_epoch_is_not_rounded_up_by_binary_fractions():
    assert len(sum(window_plan(100, Settings(epochs=1.1), 1, 0), [])) == 110


def test_the_order_is_a_matter_of_seed_and_epoch_alone():
    settings = Settings(batch_size=50, accumulation=1, epochs=2)
    first, second = window_plan(50, settings, 1, seed=1)
    assert first != second and sorted(first) == sorted(second)
    torch.manual_seed(123)
    assert window_plan(50, settings, 1, seed=1) == [first, second]
    assert window_plan(50, settings, 1, seed=2)[0] != first


def test_the_order_of_a_task_depends_on_its_index():
    assert trained(Method(), DATA, 1, epochs=1)[2][0] == trained(Method(), DATA, 1, epochs=1)[2][0]
    seen = []

    @dataclass
    class Reads(Method):
        def before_batch(self, batch, task):
            seen.append(batch.ids.tolist())

    trained(Reads(), DATA, 1)
    first = list(seen)
    seen.clear()
    trained(Reads(), DATA, 2)
    assert seen != first


def test_the_learning_rate_by_hand():
    constant = Settings(warmup=0.3)
    assert [constant.rate(step, 10) for step in range(10)] == pytest.approx([1 / 3, 2 / 3] + [1] * 8)
    linear = Settings(schedule="linear")
    assert [linear.rate(step, 4) for step in range(4)] == [1, 0.75, 0.5, 0.25]
    both = Settings(schedule="linear", warmup=0.5)
    assert [both.rate(step, 4) for step in range(4)] == [0.5 * 1, 1 * 0.75, 0.5, 0.25]
    assert [Settings().rate(step, 3) for step in range(3)] == [1, 1, 1]


def test_the_optimiser_gets_each_steps_rate():
    """With Adam's first step every entry moves by lr times its sign: half the warm-up, half the way."""
    start = factors(trained(Method(), DATA, lr=1e-9)[0])
    moved = [(factors(trained(Method(), DATA[:4], warmup=warmup, epochs=epochs, lr=0.01)[0]) - start).abs().max()
             for warmup, epochs in ((0.0, 1), (1.0, 1))]
    assert moved[0] == pytest.approx(0.01, rel=1e-2) and moved[1] == pytest.approx(0.01, rel=1e-2)
    rates = []

    @dataclass
    class Watches(Method):
        def after_step(self, live, task):
            rates.append((task.step, factor_vector(live)))

    trained(Watches(), DATA[:4], epochs=4, warmup=1.0, lr=1e-3)
    steps = [rates[0][1] - start] + [b[1] - a[1] for a, b in zip(rates, rates[1:])]
    assert [step for step, _ in rates] == [0, 1, 2, 3]
    assert steps[0].abs().max() == pytest.approx(0.25e-3, rel=1e-2)
    assert steps[3].abs().max() > 2 * steps[0].abs().max()


def factor_vector(live):
    return torch.cat([factor.detach().flatten().clone() for pair in live.values() for factor in pair])


# clipping, hooks, what is frozen

@pytest.mark.parametrize("clip", [0.05, 0.5, 1e6, 0.0])
def test_the_whole_gradient_is_clipped_before_edit_grads_extras_included(clip):
    found = {}

    @dataclass
    class Reads(Gated):
        def start(self, task):
            return super().start(task)._replace(lora=other_lora(task.sites))     # with B = 0 only B has a gradient

        def edit_grads(self, live, task):
            found[task.step] = torch.cat([p.grad.flatten() for p in [*(f for pair in live.values() for f in pair), *self.extra.values()]])

    trained(Reads(), DATA[:4], clip=0.0)
    whole = found[0]
    trained(Reads(), DATA[:4], clip=clip)
    assert whole.norm() > 0.5 and whole[-2:].norm() > 0.01
    assert torch.allclose(found[0], whole * min(1.0, clip / whole.norm()) if clip else whole, rtol=1e-4, atol=1e-7)


def test_the_hooks_come_in_the_documented_order():
    calls, values = [], []

    @dataclass
    class Spy(Method):
        def data(self, task):
            calls.append("data")
            return super().data(task)

        def start(self, task):
            calls.append("start")
            return super().start(task)

        def before_batch(self, batch, task):
            calls.append("before_batch")

        def mix(self, h, x, site):
            assert site.batch is not None and site.path in task_sites and h.shape[-1] == site.live.A.shape[0] == 2
            assert site.blocks == slice(1, 2)       # the second task's own block
            if calls[-1] != "mix":
                calls.append("mix")
            return h

        def penalty(self, live, task, batch, logits):
            assert logits.shape[:2] == batch.targets.shape
            calls.append("penalty")
            return super().penalty(live, task, batch, logits)

        def edit_grads(self, live, task):
            assert all(factor.grad is not None for pair in live.values() for factor in pair)
            values.append(factor_vector(live))
            calls.append(f"edit_grads {task.step} of {task.steps}")

        def after_step(self, live, task):
            assert all(factor.grad is None for pair in live.values() for factor in pair)
            values.append(factor_vector(live))
            calls.append(f"after_step {task.step} of {task.steps}")

    model, _ = toy_model()
    task_sites = Adapted(model, ["q_proj", "v_proj"], 2, 4.0).sites
    trained(Spy(), DATA[:7], index=2)                        # windows of 4 and 3 rows: 2 micro-batches each
    micro = ["before_batch", "mix", "penalty"]
    assert calls == ["data", "start", *micro, *micro, "edit_grads 0 of 2", "after_step 0 of 2",
                     *micro, *micro, "edit_grads 1 of 2", "after_step 1 of 2"]
    assert not torch.equal(values[0], values[1]) and torch.equal(values[1], values[2]) and not torch.equal(values[2], values[3])


def test_after_training_no_hook_no_extra_parameter_and_no_gradient_is_left():
    adapted, *_ = trained(Gated(), DATA[:4])
    assert not any("extra" in name for name, _ in adapted.model.named_parameters())
    assert not any(module._forward_hooks for module in adapted.model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in adapted.model.parameters())
    assert not adapted.model.training


@pytest.mark.parametrize("trains", ["A", "B", "AB", ""])
def test_what_does_not_train_keeps_every_bit_also_under_weight_decay(trains):
    model, tokenizer = toy_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    begin = {}

    @dataclass
    class Fixed(Method):
        def start(self, task):
            begin.update(live=other_lora(task.sites), past=other_lora(task.sites, rank=3, seed=6))
            return Start(begin["live"], begin["past"], trains)

    adapted, _, losses = trained(Fixed(), DATA, model=(model, tokenizer), weight_decay=0.5, lr=0.1)
    assert all(torch.equal(p, before[name.removeprefix("base_model.model.").replace(".base_layer", "")])
               for name, p in adapted.model.named_parameters() if "lora_" not in name)
    for path, pair in adapted.live().items():
        assert torch.equal(pair.A, begin["live"][path].A) == ("A" not in trains)
        assert torch.equal(pair.B, begin["live"][path].B) == ("B" not in trains)
    for path, pair in adapted._lora("past").items():
        assert torch.equal(pair.A, begin["past"][path].A) and torch.equal(pair.B, begin["past"][path].B)
    assert bool(losses) == bool(trains)


def test_which_factors_train_may_differ_from_module_to_module():
    begin, chosen = {}, {}

    @dataclass
    class Mixed(Method):
        def start(self, task):
            begin.update(other_lora(task.sites))
            chosen.update({path: "A" if "q_proj" in path else "B" for path in task.sites})
            return Start(begin, trains=chosen)

    adapted, *_ = trained(Mixed(), DATA[:4])
    for path, pair in adapted.live().items():
        assert torch.equal(pair.A, begin[path].A) == (chosen[path] == "B") and torch.equal(pair.B, begin[path].B) == (chosen[path] == "A")


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("make", [Method, lambda: with_past(OLoRA())])
def test_torchs_own_chance_is_left_where_it_was_and_does_not_matter(dropout, make):
    results = []
    for seed in (1, 2):
        model, tokenizer = toy_model()
        adapted, method = Adapted(model, ["q_proj", "v_proj"], 2, 4.0, dropout), make()
        task = Task(2, "", DATA, 2, adapted.scaling, adapted.sites, seed=0)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        train_task(adapted, method, task, tokenizer, Settings(batch_size=4, lr=0.01, epochs=1), Accelerator(cpu=True))
        assert torch.equal(torch.get_rng_state(), before)
        results.append(factors(adapted))
    assert torch.equal(*results)


def test_dropout_is_new_at_every_step_and_follows_the_seed():
    masks = []

    @dataclass
    class Sees(Method):
        def mix(self, h, x, site):
            masks.append((x == 0).flatten())
            return h

    trained(Sees(), DATA[:1], epochs=2, dropout=0.5)
    first, second = masks[:len(masks) // 2], masks[len(masks) // 2:]
    assert 0.3 < torch.cat(first).float().mean() < 0.7
    assert not any(torch.equal(a, b) for a, b in zip(first, second))
    masks.clear()
    trained(Sees(), DATA[:1], epochs=1, dropout=0.5, seed=1)
    assert not any(torch.equal(a, b) for a, b in zip(first, masks))


def test_padding_changes_no_loss():
    short, long = rows(40, LABELS["single"], 1)[:2], max(rows(40, LABELS["prefixes"], 2), key=lambda row: len(row.prompt))
    alone = [trained(Method(), [row], lr=1e-9)[2][0] for row in (*short, long)]
    tokens = [1 + 1, 1 + 1, len(long.answers[0].split()) + 1]
    together = trained(Method(), [*short, long], lr=1e-9, batch_size=3)[2][0]
    assert together == pytest.approx(sum(a * t for a, t in zip(alone, tokens)) / sum(tokens), rel=1e-5)


# learnables beside A and B, restarts

def test_a_gate_a_rank_is_trained_and_matters():
    method = Gated()
    adapted, *_ = trained(method, DATA, epochs=2)
    assert all((gate - 1).abs().min() > 1e-3 for gate in method.extra.values())
    assert not torch.allclose(factors(adapted), factors(trained(Method(), DATA, epochs=2)[0]), atol=1e-3)


@dataclass
class Counts(Gated):
    """Also remembers within a task, and draws at random in each micro-batch."""

    def before_batch(self, batch, task):
        self.memory["drawn"] = self.memory.get("drawn", torch.zeros(3)) + torch.rand(3)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_restart_from_a_checkpoint_ends_with_the_same_bits(stop):
    """Stopped after `stop` of 7 steps: factors, gates, optimiser, memory and chance all go on."""
    settings = dict(epochs=1.75, dropout=0.3, weight_decay=0.1, schedule="linear", warmup=0.2)
    whole = Counts()
    adapted, _, losses = trained(whole, DATA, **settings)
    saved = []

    class Stopped(Exception):
        pass

    def save(state):
        saved.append(pack({"state": state}))
        saved[-1] = (saved[-1][0], {name: tensor.clone() for name, tensor in saved[-1][1].items()})
        if len(saved) == stop:
            raise Stopped

    with pytest.raises(Stopped):
        trained(Counts(), DATA, save=save, checkpoint_minutes=0, **settings)
    again = Counts()
    resumed, _, resumed_losses = trained(again, DATA, load=lambda: unpack(*saved[-1])["state"], **settings)
    assert len(losses) == 7 and resumed_losses == losses
    assert torch.equal(factors(resumed), factors(adapted))
    assert torch.equal(again.memory["drawn"], whole.memory["drawn"])
    assert all(torch.equal(again.extra[path], gate) for path, gate in whole.extra.items())


def test_checkpoints_are_not_made_after_the_last_step_nor_before_their_time():
    saved = []
    trained(Method(), DATA, save=saved.append, checkpoint_minutes=0)
    assert [len(state["losses"]) for state in saved] == [4, 4, 4]        # one list, which grew: 3 of 4 steps
    trained(Method(), DATA, save=saved.append, checkpoint_minutes=1e9)
    assert len(saved) == 3


@pytest.mark.parametrize("bad_after, found_at", [(1, 3), (3, 4)])
def test_a_loss_or_a_factor_that_is_not_finite_stops_in_one_sentence(bad_after, found_at):
    """After the last step no loss would tell; and attention may hide what is wrong in a query."""
    @dataclass
    class Breaks(Method):
        def after_step(self, live, task):
            if task.step == bad_after:
                live["model.layers.1.self_attn.v_proj"].B.data.fill_(float("nan"))

    with pytest.raises(InputError, match=f"^expected finite numbers, .*at step {found_at} of task 2 .*lower lr") as caught:
        trained(Breaks(), DATA, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [dict(rank=0), dict(lr=-1.0), dict(epochs=0), dict(schedule="cosine"), dict(keep="none"),
                                   dict(evaluate_on="train"), dict(batch_size=0), dict(clip=-1), dict(weight_decay=-5.0),
                                   dict(checkpoint_minutes=-1), dict(clip=float("nan")), dict(weight_decay=float("inf")),
                                   dict(epochs=10**12)])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError, match=f"expected {next(iter(wrong))} "):
        Settings(**wrong)


def test_an_earlier_accelerator_of_another_kind_does_not_disturb():
    """Accelerate keeps one process-wide state; a base of another type must not be refused because of it."""
    model, _ = toy_model()
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Accelerator(mixed_precision="bf16", cpu=True)
        made = accelerator_for(model)
        assert made.mixed_precision == "no" and made.device.type == "cpu"
        assert accelerator_for(model).state._shared_state is made.state._shared_state
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def half():
    """An Accelerator whose autocast is on, on the CPU: as a half-precision base has it on a card."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(mixed_precision="bf16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_every_task_of_a_run_learns_under_autocast(half):
    """Accelerate wraps a model once: a second task that leaned on its wrapper would have none."""
    model, seen = toy_model(), []
    model[0].bfloat16()

    @dataclass
    class Looks(Method):
        def penalty(self, live, task, batch, logits):
            seen.append((task.index, logits.dtype))
            return 0.0

        def mix(self, h, x, site):
            seen.append((task.index, torch.is_autocast_enabled("cpu"), h.dtype))
            return h

    tokenizer, settings = model[1], Settings(**FAST | {"dropout": 0.0})
    adapted = Adapted(model[0], list(settings.targets), settings.rank, settings.alpha)
    for index in (1, 2, 3):
        task = Task(index, f"task{index}", DATA, settings.rank, adapted.scaling, adapted.sites, 0)
        train_task(adapted, Looks(), task, tokenizer, settings, half)
    of_task = [{entry[1:] for entry in seen if entry[0] == index} for index in (1, 2, 3)]
    assert of_task[0] == of_task[1] == of_task[2] == {(torch.bfloat16,), (True, torch.bfloat16)}


def test_a_base_on_another_card_than_the_first_is_refused(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    model = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda:1"), dtype=torch.float32)]))
    with pytest.raises(InputError, match="found it on cuda:1: start with CUDA_VISIBLE_DEVICES=1"):
        accelerator_for(model)


# several processes

TWO = """
import sys
sys.path.insert(0, {tests!r})
import torch
from accelerate import Accelerator
from test_training import parallel_cases
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2, accelerator.num_processes
found = parallel_cases(accelerator, batch_size=2)
from toy import FAST, toy_model, toy_stream
from mbf_utils.errors import InputError
from mbf_utils.runs import run_stream, walk_stream
settings = {{**FAST, "dropout": 0.3, "batch_size": 1, "checkpoint_minutes": 0}}
folder = {out!r} + "-run"
next(walk_stream(toy_stream(), "slao", toy_model(), out=folder, **settings))             # left after one task
accelerator.wait_for_everyone()
found["run"] = torch.tensor(run_stream(toy_stream(), "slao", toy_model(), out=folder, **settings).options.values)
temporary = run_stream(toy_stream(), "slao", toy_model(), **settings)     # its folder goes with the main process's object
found["temporary"] = torch.tensor(temporary.options.values)
try:
    run_stream(toy_stream(), "slao", toy_model(), out=folder, seed=1, **settings)
except InputError as error:
    found["refused"] = str(error)
accelerator.wait_for_everyone()
torch.save(found, {out!r} + str(accelerator.process_index))
torch.distributed.destroy_process_group()
"""


def parallel_cases(accelerator, batch_size) -> dict[str, torch.Tensor]:
    """11 rows in windows of 8: the last has 3, so with one row a micro-batch one of two processes has a micro-batch without."""
    settings = dict(batch_size=batch_size, accumulation=2, epochs=2, lr=0.01, clip=1.0, weight_decay=0.1, accelerator=accelerator)
    slao = METHODS["slao"]()
    first, task, losses = trained(slao, DATA[:9], **settings)
    slao.finish(copied(first.live()), task)
    second, _, more = trained(slao, DATA[:11], 2, **settings)
    stacked = with_past(Stacked())
    third, _, last = trained(stacked, DATA[:11], 3, **{**settings, "batch_size": batch_size // 2, "accumulation": 4})
    sd_lora = METHODS["sd_lora"](rate=5.0)          # a stack of directions, bent bottlenecks, magnitudes for all
    fourth, task, _ = trained(sd_lora, DATA[:9], **settings)
    sd_lora.finish(copied(fourth.live()), task)
    fifth, _, lasts = trained(sd_lora, DATA[:11], 2, **settings)
    return {"slao": factors(second), "stacked": factors(third), "sd_lora": factors(fifth),
            "magnitudes": sd_lora.extra["a"].detach(), "losses": torch.tensor(losses + more + last + lasts),
            "gates": torch.cat([gate.detach() for gate in stacked.extra.values()])}


def distributed(script: Path, *arguments, processes=2):
    """The script on several processes that talk by gloo."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
                           str(script), *arguments], env=environment, capture_output=True, text=True, timeout=120)


def test_two_processes_learn_what_one_with_the_same_effective_batch_learns(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=str(Path(__file__).parent), out=str(tmp_path / "found")))
    done = distributed(script)
    assert done.returncode == 0, done.stderr
    here, there = (torch.load(tmp_path / f"found{rank}") for rank in (0, 1))
    assert here["refused"] == there["refused"] and "seed = 1" in here["refused"]
    for name in ("run", "temporary"):                       # the folder is one, and what was read from it too
        assert torch.equal(here[name].nan_to_num(-1), there[name].nan_to_num(-1))
    assert torch.equal(here["run"].nan_to_num(-1), here["temporary"].nan_to_num(-1))    # resumed or not
    run = Run(tmp_path / "found-run")
    assert run.config["effective_batch"] == 4 and len(run.logs) == 3 and not list(run.folder.rglob(".*.tmp"))
    one = parallel_cases(Accelerator(cpu=True), batch_size=4)
    assert (one["gates"] - 1).abs().max() > 1e-3 and (one["magnitudes"] - 0.8 / 5).abs().min() > 1e-3
    for name, expected in one.items():
        assert torch.equal(here[name], there[name]), name
        assert torch.allclose(here[name], expected, atol=2e-4), (name, (here[name] - expected).abs().max())


def test_a_task_learns_where_a_trainer_left_an_accumulation_unfinished():
    from accelerate.state import GradientState
    GradientState()._set_sync_gradients(False)                       # Accelerate's shared state: an optimizer would not step
    adapted, _, _ = trained(Method(), rows(6, ("good", "bad"), "train"))
    assert all(pair.B.abs().sum() > 0 for pair in adapted.live().values())
