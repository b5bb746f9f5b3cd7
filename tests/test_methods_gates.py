"""Gates, other parametrisations, N-LoRA and TreeLoRA beside twins with dense matrices and plain loops, and their laws."""
import copy
import math

import numpy as np
import pytest
import torch
from tiny import SITES, equal, make_task, random_lora
from toy import rows, trained
from torch.nn.functional import cross_entropy, linear

from mbf_utils.lora import Pair, Site, copied
from mbf_utils.methods import METHODS
from mbf_utils.methods.c_lora import CLoRA, used
from mbf_utils.methods.codyra import CoDyRA
from mbf_utils.methods.lilora import LiLoRA, cosine
from mbf_utils.methods.lorac import LoRAC
from mbf_utils.methods.mora import MoRA, maps
from mbf_utils.methods.nlora import NLoRA, entries
from mbf_utils.methods.sd_lora import SDLoRA
from mbf_utils.methods.share import Share, leading
from mbf_utils.methods.tree import changes, split
from mbf_utils.methods.treelora import TreeLoRA
from mbf_utils.methods.treelora_released import ReleasedTreeLoRA
from mbf_utils.store import pack, unpack
from mbf_utils.text import IGNORE, Batch

S = 2.0                                             # the scaling of make_task
FOLDED = ["sd_lora", "sd_lora_keep", "codyra", "lorac", "c_lora", "mora", "lilora", "lilora_released", "share", "nlora"]


@pytest.fixture
def exact():
    """float64 everywhere: what a method makes is as exact as its twin."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def chance(seed):
    return torch.Generator().manual_seed(seed)


def dense(pair):
    return pair.B @ pair.A


def close(found, expected, atol=1e-9):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), atol=atol, rtol=1e-7, check_dtype=False)


def forward(method, live, past, path, x, index):
    """What one module adds to W x, as the model computes it: both adapters, each with its bottleneck bent."""
    y = S * linear(method.mix(linear(x, live[path].A), x, Site(path, slice(index - 1, index), live[path], None)), live[path].B)
    if past:
        h = linear(x, past[path].A)
        y = y + S * linear(method.mix(h, x, Site(path, slice(0, index - 1), live[path], None)), past[path].B)
    return y


def move(method, start, index, scale=1.0, seed=0):
    """A stand-in for training: normal moves of all that trains, then the hard part of a step. Returns the trained pair."""
    rng, tuned = chance(1000 * seed + index), {}
    for path, pair in start.lora.items():
        letters = start.trains if isinstance(start.trains, str) else start.trains[path]
        tuned[path] = Pair(*(factor + scale * torch.randn(factor.shape, generator=rng) * (letter in letters)
                             for letter, factor in zip("AB", pair)))
    with torch.no_grad():
        for parameter in method.extra.values():
            parameter += scale * torch.randn(parameter.shape, generator=rng)
    task = make_task(index)
    task.steps, task.step = 4, 0
    method.after_step(tuned, task)
    return tuned


def learn(method, tasks, seed=0):
    """`tasks` tasks: for each the start, what was trained and the result."""
    history = []
    for index in range(1, tasks + 1):
        start = method.start(make_task(index))
        tuned = move(method, start, index, seed=seed)
        history.append((start, copied(tuned), copied(method.finish(tuned, make_task(index)))))
    return history


# all of them

@pytest.mark.parametrize("name", FOLDED)
def test_the_folded_pair_is_the_function_that_was_trained(name, exact):
    method = METHODS[name]()
    for index in (1, 2, 3):
        start = method.start(make_task(index))
        past = copied(start.past) if start.past else None
        tuned = move(method, start, index)
        x = {path: torch.randn(2, 4, d_in, generator=chance(9)) for path, (d_in, _) in SITES.items()}
        before = {path: forward(method, tuned, past, path, x[path], index).detach() for path in SITES}
        result = method.finish(tuned, make_task(index))
        for path in SITES:
            close(before[path], S * linear(x[path], dense(result[path])))


@pytest.mark.parametrize("name", ["sd_lora_keep", "codyra", "lorac", "c_lora", "mora", "lilora", "share", "nlora", "treelora"])
def test_a_task_starts_from_what_is_kept(name, exact):
    """The function at the start is the last result, where the method is meant to keep it."""
    method = METHODS[name]()
    result = learn(method, 2)[-1][-1]
    start = method.start(make_task(3))
    for path, (d_in, _) in SITES.items():
        x = torch.randn(2, 4, d_in, generator=chance(3))
        expected = dense(result[path])
        if name == "lilora":                                         # a new task has only its share of B_0
            share = method.extra[f"{path}.f"].sigmoid()
            expected = share * method.memory["shared"][path].B @ method.memory["shared"][path].A
        close(forward(method, start.lora, start.past, path, x, 3).detach(), S * linear(x, expected.detach()))


@pytest.mark.parametrize("name", ["sd_lora", "codyra", "lorac", "c_lora", "mora", "lilora_released", "share", "treelora",
                                  "treelora_released"])
def test_a_restart_in_the_middle_of_a_task_ends_with_the_same_bits(name):
    method, again, saved, ends = METHODS[name](), METHODS[name](), [], []
    adapted, task, _ = trained(method, rows(8, ("good", "bad"), 1), rank=4)
    method.finish(copied(adapted.live()), task)
    again.memory = unpack(*copy.deepcopy(pack(method.memory)))
    for method, load in ((method, lambda: None), (again, lambda: unpack(*saved[0]))):  # noqa: B020
        adapted, task, _ = trained(method, rows(12, ("red", "blue"), 2), 2, rank=4, load=load, checkpoint_minutes=0,
                                   save=lambda state: saved.append(copy.deepcopy(pack(state))))
        ends.append(method.finish(copied(adapted.live()), task))
    assert len(saved) == 3 and equal(*ends)                          # three steps: saved after 1 and 2, then after 2


# SD-LoRA

def test_sd_lora_is_its_equation_over_three_tasks(exact):
    method, path = SDLoRA(), "layer.q"
    trained_pairs = []
    for index in (1, 2, 3):
        start = method.start(make_task(index))
        close(method.extra["a"].detach(), [0.8] * index)             # all magnitudes begin anew
        tuned = move(method, start, index)
        a = method.extra["a"].detach().numpy().copy()
        result = method.finish(tuned, make_task(index))
        for other in SITES:                                          # one scalar a task, the same for all modules
            A, B = (factor.numpy() for factor in tuned[other])
            expected = a[-1] * B @ A
            for i, pairs in enumerate(trained_pairs):
                A, B = pairs[other]
                expected = expected + a[i] * B @ A / (np.sqrt((B ** 2).sum()) * np.sqrt((A ** 2).sum()))
            close(dense(result[other]), expected)
        trained_pairs.append({other: [factor.numpy() for factor in tuned[other]] for other in SITES})
    assert result[path].A.shape[0] == 9


def test_sd_lora_keep_goes_on_with_its_magnitudes_and_lengths(exact):
    method = SDLoRA(reset=False)
    (_, first, _), = learn(method, 1)
    a = method.memory["a"].clone()
    start = method.start(make_task(2))
    close(method.extra["a"].detach(), [float(a[0]), 0.8])
    assert equal(start.past, first)


def test_a_rate_moves_the_magnitudes_faster_and_changes_nothing_else(exact):
    slow, fast = SDLoRA(), SDLoRA(rate=50.0)
    results = []
    for method in (slow, fast):
        start = method.start(make_task(1))
        x, live = torch.ones(1, 1, 9), random_lora()
        results.append(forward(method, live, start.past, "layer.q", x, 1))
        results[-1].sum().backward()
    close(results[0].detach(), results[1].detach())
    close(fast.extra["a"].grad, 50 * slow.extra["a"].grad)
    with torch.no_grad():
        fast.extra["a"] += 0.01
    result = fast.finish(random_lora(), make_task(1))
    close(dense(result["layer.q"]), (0.8 + 0.5) * dense(random_lora()["layer.q"]))


def test_a_direction_of_zero_stays_zero(exact):
    method = SDLoRA()
    method.start(make_task(1))
    method.finish(make_task(1).fresh(), make_task(1))
    assert all(not pair.B.any() for pair in method.memory["stack"].values())


# CoDyRA

def shrunk(w, kappa_max, steps):
    """The proximal steps of a whole task on numbers that nothing else moves."""
    history = []
    for step in range(1, steps + 1):
        if step > 0.5 * steps:
            kappa = kappa_max * (500 / steps) * min(1, (step - 0.5 * steps) / (0.1 * steps))
            w = [math.copysign(max(abs(v) - kappa, 0), v) for v in w]
        history.append(list(w))
    return history


@pytest.mark.parametrize("steps", [1, 7, 20, 500])
def test_codyra_shrinks_its_gates_in_the_second_half(steps, exact):
    method, task = CoDyRA(kappa=2e-3), make_task(1)
    start = method.start(task)
    w = method.extra["layer.q"]
    expected, task.steps = shrunk(w.tolist(), 2e-3, steps), steps
    for task.step in range(steps):
        method.after_step(start.lora, task)
        close(w.detach(), expected[task.step])
    assert steps == 1 or np.allclose(expected[steps // 2 - 1], expected[0])              # the first half is left alone


def test_the_whole_shrinkage_does_not_depend_on_the_number_of_steps():
    totals = [10 - shrunk([10.0], 7e-4, steps)[-1][0] for steps in (20, 100, 500, 5000)]
    assert totals == pytest.approx([0.158] * 4, rel=0.08)


def test_codyra_keeps_the_ranks_with_a_gate_and_counts_without_s(exact):
    method = CoDyRA()
    method.start(make_task(1))
    for path, w in method.extra.items():
        w.data = torch.tensor([0.0, -2.0, 0.5] if path == "layer.q" else [0.0, 0.0, 0.0])
    tuned = random_lora()
    result = method.finish(tuned, make_task(1))
    A, B = tuned["layer.q"]
    close(S * dense(result["layer.q"]), -2.0 * torch.outer(B[:, 1], A[1]) + 0.5 * torch.outer(B[:, 2], A[2]))
    assert result["layer.q"].A.shape == (2, 9) and result["layer.v"].A.shape == (1, 7) and not dense(result["layer.v"]).any()
    start = method.start(make_task(2))
    assert equal(start.past, result) and not equal(start.lora, tuned)
    method.finish(random_lora(seed=2), make_task(2))
    assert method.memory["stack"]["layer.q"].A.shape == (5, 9)


def test_codyra_draws_its_gates_from_the_normal_distribution_anew_for_each_task():
    method, task = CoDyRA(), make_task(1, rank=2000)
    method.start(task)
    w = {path: value.detach().clone() for path, value in method.extra.items()}
    assert not torch.equal(w["layer.q"], w["layer.v"])
    assert abs(float(w["layer.q"].mean())) < 0.1 and float(w["layer.q"].std()) == pytest.approx(1, abs=0.1)
    method.start(make_task(2, rank=2000))
    assert not torch.equal(method.extra["layer.q"], w["layer.q"])


def test_codyra_in_the_loop_loses_ranks_for_good():
    method = CoDyRA(kappa=0.02)
    adapted, task, _ = trained(method, rows(16, ("good", "bad"), "gates"), rank=8, epochs=2)
    result = method.finish(copied(adapted.live()), task)
    kept = [pair.A.shape[0] for pair in result.values()]
    assert all(1 <= rank <= 8 for rank in kept) and sum(kept) < 8 * len(kept)


# LoRAC-IPC

def test_lorac_weighs_old_tasks_by_module(exact):
    method = LoRAC(freeze=0.0)
    pairs = []
    for index in (1, 2, 3):
        start = method.start(make_task(index))
        if index == 3:
            for path in SITES:                                       # the trained one stays, the newest begins at 1
                close(method.extra[path].detach(), [float(last[path][0]), 1.0])  # noqa: F821 (bound at the end of the round before)
        pairs.append(copied(move(method, start, index)))
        last = {path: value.detach().clone() for path, value in method.extra.items()}
        result = method.finish(pairs[-1], make_task(index))
        for path in SITES:
            expected = dense(pairs[-1][path])
            for i, omega in enumerate(last.get(path, [])):
                expected = expected + omega * dense(pairs[i][path])
            close(dense(result[path]), expected)
    assert not torch.equal(last["layer.q"], last["layer.v"])


def test_the_penalty_of_lorac_is_the_distance_from_orthonormal_rows(exact):
    method = LoRAC(lam=0.3, freeze=0.0)
    (_, first, _), = learn(method, 1)
    method.start(make_task(2))
    live = {path: Pair(A.clone().requires_grad_(), B) for path, (A, B) in random_lora(seed=4).items()}
    expected = 0.0
    for path in SITES:
        rows_of = [*first[path].A.numpy(), *live[path].A.detach().numpy()]
        squares = [(float(a @ b) - (i == j)) ** 2 for i, a in enumerate(rows_of) for j, b in enumerate(rows_of)]
        expected += 0.3 * math.sqrt(sum(squares))
    value = method.penalty(live, make_task(2), None, None)
    assert float(value.detach()) == pytest.approx(expected)
    value.backward()
    assert all(pair.A.grad.abs().sum() > 0 for pair in live.values())
    orthonormal = {path: Pair(torch.eye(3, d_in), torch.zeros(d_out, 3)) for path, (d_in, d_out) in SITES.items()}
    alone = LoRAC()
    alone.start(make_task(1))                                        # active in the first task too
    assert float(alone.penalty(orthonormal, make_task(1), None, None)) == 0
    assert float(alone.penalty(random_lora(), make_task(1), None, None)) > 1


def graded(seed, size=1.0):
    live = {path: Pair(*(torch.nn.Parameter(factor) for factor in pair)) for path, pair in random_lora(seed=seed).items()}
    for path, pair in random_lora(seed=seed + 50).items():
        live[path].A.grad, live[path].B.grad = (size * factor for factor in pair)
    return live


def test_lorac_measures_importance_with_two_running_means(exact):
    method = LoRAC(b1=0.7, b2=0.6)
    method.start(make_task(1))
    old = {path: [(0.0, 0.0), (0.0, 0.0)] for path in SITES}
    for step, size in enumerate((1.0, 2.0, 0.1, 1.0)):               # importance rises and falls
        live = graded(step, size)
        kept = {path: [factor.grad.clone() for factor in pair] for path, pair in live.items()}
        method.edit_grads(live, make_task(1))
        for path in SITES:
            for k, (p, g) in enumerate(zip(live[path], kept[path])):
                u, v = old[path][k]
                I = np.abs(p.detach().numpy() * g.numpy())           # of every entry
                u = 0.7 * u + 0.3 * I
                v = 0.6 * v + 0.4 * np.abs(I - u)
                close(method.memory["importance"][path][k], np.stack([u, v]))
                assert torch.equal(p.grad, g)                        # looks, does not touch
                old[path][k] = u, v
    expected = {path: sum(float((u * v).mean()) for u, v in pair) for path, pair in old.items()}
    assert method.scores() == pytest.approx(expected)


def test_lorac_freezes_the_modules_that_matter_most_for_good(exact):
    method = LoRAC(freeze=0.5)
    learn(method, 1)
    method.memory["frozen"] = []                                     # the first task again, with numbers of our own
    start = method.start(make_task(2))
    assert start.trains == {"layer.q": "AB", "layer.v": "AB"}
    method.memory["importance"] = {"layer.q": [torch.tensor([[1.0, 3.0], [1.0, 1.0]]), torch.tensor([[2.0], [1.0]])],
                                   "layer.v": [torch.tensor([[9.0, 9.0], [0.0, 0.1]]), torch.tensor([[0.0], [9.0]])]}
    method.finish(move(method, start, 2), make_task(2))
    assert method.memory["frozen"] == ["layer.q"]                    # 2 + 2 > 0.45 + 0
    omega, block = method.memory["omega"]["layer.q"].clone(), method.memory["stack"]["layer.q"]
    start = method.start(make_task(3))
    assert start.trains == {"layer.q": "", "layer.v": "AB"} and list(method.extra) == ["layer.v"]
    assert list(method.memory["importance"]) == ["layer.v"] and not start.lora["layer.q"].B.any()
    only_v = LoRAC()
    only_v.memory = {**method.memory, "stack": {**method.memory["stack"], "layer.q": Pair(torch.ones(3, 9), torch.ones(5, 3))}}
    live = random_lora(seed=8)
    close(method.penalty(live, make_task(3), None, None), only_v.penalty(live, make_task(3), None, None))
    result = method.finish(move(method, start, 3), make_task(3))
    assert torch.equal(method.memory["omega"]["layer.q"], omega) and method.memory["stack"]["layer.q"] is block
    assert result["layer.q"].A.shape[0] == 6 and result["layer.v"].A.shape[0] == 9
    assert method.memory["frozen"] == ["layer.q", "layer.v"]
    start = method.start(make_task(4))                               # nothing is left to learn
    assert set(start.trains.values()) == {""} and not method.extra
    assert all(torch.equal(dense(pair), dense(result[path])) for path, pair in method.finish(start.lora, make_task(4)).items())


def test_the_share_of_frozen_modules_is_rounded_down(exact):
    method = LoRAC(freeze=0.49)
    learn(method, 3)
    assert method.memory["frozen"] == []


# C-LoRA

def test_c_lora_gives_no_gradient_to_a_and_b_through_the_old_route(exact):
    method, path, r = CLoRA(), "layer.v", 3
    learn(method, 2)
    R_old = method.memory["now"][path][2].clone()
    start = method.start(make_task(3))
    method.extra[path].data.normal_(generator=chance(0))
    live = {path: Pair(*(torch.nn.Parameter(factor.clone()) for factor in start.lora[path]))}
    x = torch.randn(2, 4, 7, generator=chance(1), requires_grad=True)
    found = forward(method, live, None, path, x, 3)
    weights = torch.randn(found.shape, generator=chance(2))
    (found * weights).sum().backward()

    A, B = (torch.nn.Parameter(factor) for factor in (start.lora[path].A[:r].clone(), start.lora[path].B[:, :r].clone()))
    R_d, x_twin = torch.nn.Parameter(method.extra[path].detach().clone()), x.detach().clone().requires_grad_()
    expected = S * (x_twin @ A.detach().T @ R_old.T @ B.detach().T + x_twin @ A.T @ R_d.T @ B.T)
    (expected * weights).sum().backward()
    close(found.detach(), expected.detach())
    close(live[path].A.grad[:r], A.grad)
    close(live[path].B.grad[:, :r], B.grad)
    close(method.extra[path].grad, R_d.grad)
    close(x.grad, x_twin.grad)


def test_the_mirror_of_c_lora_follows_each_step_and_r_adds_up(exact):
    method = CLoRA()
    assert all(not R.any() and B.any() for _, B, R in (method.start(make_task(1)) and method.memory["now"]).values())
    R = {path: torch.zeros(3, 3) for path in SITES}
    for index in (1, 2, 3):
        start = method.start(make_task(index))
        assert all(not R_d.any() for R_d in method.extra.values())
        tuned = move(method, start, index)
        for path, (A, B) in tuned.items():
            close(A[3:], A[:3])
            close(B[:, 3:], B[:, :3] @ R[path])
            R[path] = R[path] + method.extra[path].detach()
        result = method.finish(tuned, make_task(index))
        for path, (A, B) in tuned.items():
            close(dense(result[path]), B[:, :3] @ R[path] @ A[:3])


def test_the_penalty_of_c_lora_keeps_the_new_route_off_the_used_directions(exact):
    method = CLoRA(lam=0.7, energy=0.9)
    learn(method, 1)
    R = {"layer.q": torch.diag(torch.tensor([3.0, 0.5, 0.1])), "layer.v": torch.diag(torch.tensor([1.0, 1.0, 1.0]))}
    method.memory["now"] = {path: [A, B, R[path]] for path, (A, B, _) in method.memory["now"].items()}
    method.start(make_task(2))
    for R_d in method.extra.values():
        R_d.data = torch.arange(9.0).reshape(3, 3)
    squares = [0 + 1 + 4, sum(k * k for k in range(9))]              # only the first row; all of them
    assert float(method.penalty(None, make_task(2), None, None).detach()) == pytest.approx(0.7 * sum(squares))
    assert used(torch.zeros(3, 3), 0.9).shape == (3, 0)              # nothing used: the first task is free
    for energy, k in ((0.5, 1), (0.96, 1), (0.98, 2), (0.9999, 3)):  # 9, 0.25, 0.01 of 9.26: 0.9719, 0.9989
        assert used(R["layer.q"], energy).shape == (3, k)
    turned = used(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), 0.9)       # left, not right, singular vectors
    close(turned.abs(), [[0.0], [1.0]])


def test_c_lora_in_the_loop_mirrors_after_every_step():
    method = CLoRA()
    for index in (1, 2):
        adapted, task, losses = trained(method, rows(8, ("good", "bad"), index), index)
        for path, (A, B) in adapted.live().items():
            R = method.memory["now"][path][2]
            torch.testing.assert_close(B[:, 2:], B[:, :2] @ R)
            assert torch.equal(A[2:], A[:2]) and bool(R.any()) == (index == 2)
        method.finish(copied(adapted.live()), task)


# MoRA

@pytest.mark.parametrize("d_in, d_out, rank", [(9, 5, 3), (7, 6, 3), (12, 4, 1), (4, 12, 2), (8, 8, 1)])
def test_the_maps_of_mora_add_up_groups_and_repeat_outputs(d_in, d_out, rank, exact):
    C, D = maps(d_in, d_out, rank)
    r = C.shape[0]
    assert r == math.floor(math.sqrt((d_in + d_out) * rank) + 0.5) and abs(r * r - (d_in + d_out) * rank) <= r + 1
    assert C.shape == (r, d_in) and D.shape == (d_out, r) and set(C.unique().tolist()) | set(D.unique().tolist()) <= {0.0, 1.0}
    x = np.random.default_rng(0).normal(size=d_in)
    filled = list(x) + list(x[:-d_in % r])                           # whole groups, filled from the front
    summed = [sum(filled[j + g * r] for g in range(len(filled) // r)) for j in range(r)]
    close(C @ torch.tensor(x), summed)
    out = (list(range(r)) * d_out)[:d_out]                           # repeated, cut to length
    close(D @ torch.arange(float(r)), [float(v) for v in out])


def test_mora_trains_m_alone_from_zero_and_goes_on_with_it(exact):
    method = MoRA()
    history = learn(method, 2)
    for start, tuned, _ in history:
        assert start.trains == "" and start.past is None and equal(start.lora, tuned)
    start = method.start(make_task(3))
    for path, (d_in, d_out) in SITES.items():
        C, D = maps(d_in, d_out, 3)
        M = method.extra[path].detach()
        close(S * dense(history[-1][-1][path]), D @ M @ C)           # no s
        assert M.any() and torch.equal(M, method.memory["tuned"][path])
    fresh = MoRA()
    fresh.start(make_task(1))
    assert all(not M.any() and M.shape[0] == M.shape[1] for M in fresh.extra.values())


def test_a_merged_m_is_the_merged_update_exactly(exact):
    method = MoRA(schedule=lambda i: 1 / i)
    updates = {path: [] for path in SITES}
    for index in (1, 2, 3, 4):
        start = method.start(make_task(index))
        tuned = move(method, start, index)
        for path, (C, D) in tuned.items():
            updates[path].append(D @ method.extra[path].detach() @ C)
        result = method.finish(tuned, make_task(index))
        for path in SITES:
            close(dense(result[path]), sum(updates[path]) / index)
            assert torch.equal(method.memory["tuned"][path], method.extra[path])         # a task starts from the trained M


# LiLoRA

def test_lilora_composes_b_of_a_shared_and_an_own_part(exact):
    method = LiLoRA()
    history = learn(method, 3)
    assert method.extra["layer.q.A"].shape == (1, 3)                 # r~ = r // 2
    A_last, B_last = history[-1][1]["layer.q"].A[:3], history[-1][1]["layer.q"].B[:, :3]
    for index, (_, tuned, _) in enumerate(history, start=1):
        f, A_in, B_in = method.memory["own"][f"task{index}"]["layer.q"]
        close(B_in, tuned["layer.q"].B[:, 3:])
        gate = 1 / (1 + math.exp(-float(f)))
        expected = (gate * B_last + (1 - gate) * B_in @ A_in) @ A_last           # today's A and B_0, that task's own part
        close(dense(method.worn(f"task{index}", None)["layer.q"]), expected)
    assert equal(method.worn("task3", None), history[-1][-1])
    assert equal(method.worn("unseen", history[0][-1]), history[0][-1])


def test_lilora_starts_from_the_shared_pair_with_fresh_parts_of_its_own(exact):
    method = LiLoRA()
    _, tuned, _ = learn(method, 1)[0]
    draws = {key: value.detach().clone() for key, value in method.extra.items()}
    start = method.start(make_task(2))
    for path, (A, B) in start.lora.items():
        close(A, torch.cat([tuned[path].A[:3], torch.zeros(1, A.shape[1])]))
        close(B, torch.cat([tuned[path].B[:, :3], torch.zeros(len(B), 1)], 1))
        assert not torch.equal(method.extra[f"{path}.f"], draws[f"{path}.f"])
        assert method.extra[f"{path}.A"].abs().max() <= 1 / math.sqrt(3)
    wide = LiLoRA()
    wide.start(make_task(1, rank=40, sites={f"{k}": (50, 50) for k in range(300)}))
    f = torch.cat([wide.extra[f"{k}.f"].detach() for k in range(300)])
    assert abs(float(f.mean())) < 0.2 and float(f.std()) == pytest.approx(1, abs=0.15)
    assert wide.extra["0.A"].shape == (20, 40)
    assert float(wide.extra["0.A"].detach().std()) == pytest.approx(1 / math.sqrt(3 * 40), rel=0.1)


def test_the_zero_rows_of_lilora_never_meet_a_gradient(exact):
    method = LiLoRA()
    learn(method, 1)
    start, path = method.start(make_task(2)), "layer.q"
    live = {path: Pair(*(torch.nn.Parameter(factor + 1.0) for factor in start.lora[path]))}
    forward(method, live, None, path, torch.randn(1, 2, 9, generator=chance(0)), 2).square().sum().backward()
    assert not live[path].A.grad[3:].any() and live[path].A.grad[:3].any() and live[path].B.grad.all()
    assert method.extra[f"{path}.f"].grad.any() and method.extra[f"{path}.A"].grad.any()


def test_the_penalty_of_lilora_protects_b0_where_tasks_differ(exact):
    method = LiLoRA(lam=0.4)
    learn(method, 2)
    start = method.start(make_task(3))
    assert float(METHODS["lilora_released"]().penalty(start.lora, make_task(3), None, None)) == 0
    live, expected = copied(move(method, start, 3)), 0.0
    for path in SITES:
        own = (live[path].B[:, 3:] @ method.extra[f"{path}.A"].detach()).numpy()
        _, A_in, B_in = method.memory["own"]["task2"][path]
        last = (B_in @ A_in).numpy()
        cos = (own * last).sum() / math.sqrt((own ** 2).sum() * (last ** 2).sum())
        moved = (live[path].B[:, :3] - method.memory["shared"][path].B).numpy()
        expected += 0.4 * (1 - cos) * (moved ** 2).sum()
    assert float(method.penalty(live, make_task(3), None, None).detach()) == pytest.approx(expected)
    assert METHODS["lilora"]().penalty(live, make_task(1), None, None) == 0.0
    one = random_lora()["layer.q"]
    assert float(cosine(one, Pair(one.A, 5 * one.B))) == pytest.approx(1)
    assert float(cosine(one, Pair(one.A, 0 * one.B))) == 0


def test_the_released_lilora_holds_b0_after_the_first_task():
    method, kept = METHODS["lilora_released"](), None
    for index in (1, 2):
        adapted, task, _ = trained(method, rows(8, ("good", "bad"), index), index, rank=4)
        live = copied(adapted.live())
        assert all(pair.B[:, 4:].any() and not pair.A[4:].any() for pair in live.values())
        assert kept is None or all(torch.equal(live[path].B[:, :4], kept[path]) for path in kept)
        kept = {path: pair.B[:, :4].clone() for path, pair in live.items()}
        assert all(value.any() for value in kept.values())
        method.finish(live, task)


# Share

def test_the_bases_of_share_are_the_leading_singular_vectors(exact):
    X = torch.randn(7, 9, generator=chance(0))
    U, sizes, _ = np.linalg.svd(X.numpy())
    found = leading(X, 4)
    close(found.T @ found, torch.eye(4))
    close((found @ found.T), U[:, :4] @ U[:, :4].T)
    low = torch.randn(7, 2, generator=chance(1)) @ torch.randn(2, 9, generator=chance(2))
    found = leading(low, 9)                                          # two directions exist, seven places would be noise
    assert found.shape == (7, 9) and not found[:, 2:].any()
    close(found @ (found.T @ low), low)


def test_share_rebuilds_every_task_while_the_bases_hold_all_of_them(exact):
    method, kept = Share(), []
    for index in (1, 2, 3, 4):
        start = method.start(make_task(index))
        past = copied(start.past) if start.past else None
        tuned = move(method, start, index)
        kept.append({})
        for path in SITES:
            if index == 1:
                kept[-1][path] = dense(tuned[path])
                continue
            ea, eb = method.extra[f"{path}.A"].detach(), method.extra[f"{path}.B"].detach()
            A = (torch.cat([past[path].A.T, tuned[path].A.T], 1) @ ea).T
            B = torch.cat([past[path].B, tuned[path].B], 1) @ eb
            kept[-1][path] = B @ A
        result = method.finish(tuned, make_task(index))
        assert equal(result, method.worn(f"task{index}", None))
        for i, updates in enumerate(kept, start=1):
            for path in SITES:
                close(dense(method.worn(f"task{i}", None)[path]), updates[path], atol=1e-8)
    assert equal(method.worn("unseen", result), result)
    assert method.memory["basis"]["layer.q"].A.shape == (12, 9)
    alpha = method.memory["basis"]["layer.q"].A
    close(alpha @ alpha.T, torch.diag((alpha != 0).any(1).double()))


def test_share_with_few_directions_projects_on_the_leading_ones(exact):
    method, path = Share(k=2), "layer.q"
    _, tuned, result = learn(method, 1)[0]
    A, B = (factor.numpy() for factor in tuned[path])
    U, V = np.linalg.svd(A.T)[0][:, :2], np.linalg.svd(B)[0][:, :2]
    close(dense(result[path]), V @ V.T @ B @ A @ U @ U.T)
    assert result[path].A.shape == (3, 9) and method.memory["basis"][path].A.shape == (2, 9)


def test_new_directions_of_share_have_no_effect_at_first_and_then_all_of_them_learn(exact):
    method, path = Share(phi=2), "layer.v"
    learn(method, 1)
    start = method.start(make_task(2))
    assert start.lora[path].A.shape == (2, 7) and start.lora[path].A.any() and not start.lora[path].B.any()
    ea, eb = method.extra[f"{path}.A"], method.extra[f"{path}.B"]
    assert ea.shape == eb.shape == (5, 3) and not ea[3:].any() and eb[3:].all()
    live = {path: Pair(*(torch.nn.Parameter(factor.clone()) for factor in start.lora[path]))}
    x = torch.randn(2, 3, 7, generator=chance(4))
    forward(method, live, start.past, path, x, 2).square().sum().backward()
    assert ea.grad.any() and eb.grad[:3].any() and live[path].B.grad.any() and ea.grad[3:].any()
    assert all(not factor.requires_grad for factor in start.past[path])
    tuned = move(method, start, 2)
    old = method.memory["basis"][path].A
    A = method.finish(tuned, make_task(2))[path].A
    outside = A - A @ old.T @ old
    assert torch.linalg.matrix_rank(outside) == 2                    # phi directions more than before


# N-LoRA

def test_the_penalty_of_n_lora_is_the_sum_of_absolute_changes_and_its_gradient(exact):
    for shape, rows_of in (((9, 5), 512), ((9, 5), 2), ((4, 7), 3)):
        pair = random_lora({"w": shape}, seed=3)["w"]
        one, two = (Pair(*(torch.nn.Parameter(factor.clone()) for factor in pair)) for _ in range(2))
        value, expected = entries(one, rows_of), (two.B @ two.A).abs().sum()
        (3 * value).backward()
        (3 * expected).backward()
        assert float(value) == pytest.approx(float(expected))
        close(one.A.grad, two.A.grad)
        close(one.B.grad, two.B.grad)
    live = random_lora(seed=5)
    by_hand = sum(abs(float(pair.B[i] @ pair.A[:, j])) for pair in live.values()
                  for i in range(len(pair.B)) for j in range(pair.A.shape[1]))
    assert float(NLoRA(lam=0.2).penalty(live, make_task(1), None, None)) == pytest.approx(0.2 * by_hand)
    fresh = {path: Pair(*(torch.nn.Parameter(factor) for factor in pair)) for path, pair in make_task(1).fresh().items()}
    NLoRA().penalty(fresh, make_task(1), None, None).backward()
    assert not any(factor.grad.any() for pair in fresh.values() for factor in pair)      # B = 0: nothing to shrink


def test_the_released_n_lora_sums_the_small_product_where_there_is_one(exact):
    live = random_lora({"square": (6, 6), "wide": (8, 5)}, seed=6)
    A, B = live["square"]
    by_hand = sum(abs(float(A[i] @ B[:, j])) for i in range(3) for j in range(3))
    method = METHODS["nlora_released"]()
    assert float(method.penalty(live, make_task(1), None, None)) == pytest.approx(0.4 * by_hand)


def test_n_lora_makes_updates_sparser_than_a_plain_stack():
    small = []
    for name, fields in (("inclora", {}), ("nlora", {"lam": 0.05})):
        adapted, *_ = trained(METHODS[name](**fields), rows(16, ("good", "bad"), "sparse"), epochs=4)
        small.append(torch.cat([dense(pair).detach().abs().flatten() for pair in adapted.live().values()]).sum())
    assert small[1] < 0.5 * small[0]


# TreeLoRA

def tree(tasks, released=False, seed=0):
    """A method that has `tasks` tasks behind it, with random G, and is about to begin the next."""
    method = (ReleasedTreeLoRA if released else TreeLoRA)(reg=0.5)
    method.memory = {"tuned": random_lora(seed=seed),
                     "G": [{path: pair.A for path, pair in random_lora(seed=seed + 10 + k).items()} for k in range(tasks)]}
    task = make_task(tasks + 1)
    task.steps = 8
    method.start(task)
    return method, task


def graded_batch():
    logits = torch.randn(2, 3, 5, generator=chance(0))
    targets = torch.tensor([[1, 4, IGNORE], [0, IGNORE, 2]])
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    return Batch(None, None, None, targets, None), logits, float(loss)


def test_treelora_is_one_lora_trained_on_and_remembers_the_mean_of_a(exact):
    method = TreeLoRA()
    task = make_task(1)
    start = method.start(task)
    assert equal(start.lora, task.fresh()) and start.past is None and method.penalty(start.lora, task, None, None) == 0.0
    task.steps = 3
    seen = [random_lora(seed=k) for k in range(3)]
    for task.step in range(3):
        method.after_step(seen[task.step], task)
    assert equal(method.finish(seen[-1], task), seen[-1]) and set(method.memory) == {"G", "tuned"}
    for path in SITES:
        close(method.memory["G"][0][path], sum(lora[path].A for lora in seen) / 3)
    assert equal(method.start(make_task(2)).lora, seen[-1])


def test_the_penalty_of_treelora_has_a_fixed_size_and_points_to_the_chosen_task(exact):
    method, task = tree(3)
    method.memory["chosen"] = [2, 1]
    task.step = 6
    batch, logits, loss = graded_batch()
    live = {path: Pair(torch.nn.Parameter(pair.A), torch.nn.Parameter(pair.B)) for path, pair in random_lora(seed=77).items()}
    value = method.penalty(live, task, batch, logits)
    assert float(value) == pytest.approx(0.5 * 6 / 8 * loss, rel=1e-5)
    value.backward()
    D = sum(float((live[path].A - method.memory["G"][k][path]).abs().sum()) for k, path in ((2, "layer.q"), (1, "layer.v")))
    for k, path in ((2, "layer.q"), (1, "layer.v")):
        close(live[path].A.grad, 0.5 * 6 / 8 * loss / D * (live[path].A - method.memory["G"][k][path]).sign(), atol=1e-6)
        assert live[path].B.grad is None
    task.step = 0
    assert float(method.penalty(live, task, batch, logits)) == 0     # the ramp begins at 0


def test_treelora_tries_every_task_and_then_goes_by_its_lower_bound(exact):
    method, task = tree(1)
    assert method.memory["chosen"] == [0, 0]
    method, task = tree(2)
    method.memory.update(visits=[[1, 0], [4, 5]], far=[[10.0, 0.0], [4 * 8.5, 5 * 3.0]])
    for step in (2, 50, 10 ** 9):
        bounds = [10.0 - 2 * math.sqrt(math.log(step) / 1), 8.5 - 2 * math.sqrt(math.log(step) / 4)]
        assert [method.bound(k, 0, step) for k in (0, 1)] == pytest.approx(bounds)
        assert method.search(task, step)[0] == int(np.argmin(bounds))
    assert method.search(task, 2)[0] == 1 and method.search(task, 10 ** 9)[0] == 0       # rare visits are trusted less
    assert method.bound(0, 1, 5) == -math.inf


def test_the_search_goes_down_the_half_that_holds_its_choice(exact):
    method, task = tree(5)
    G = method.memory["G"]
    close(changes(G, [0, 3], "layer.q")[0], G[0]["layer.q"].flatten())
    close(changes(G, [0, 3], "layer.q")[1], (G[3]["layer.q"] - G[2]["layer.q"]).flatten())
    for best in range(5):
        method.memory.update(visits=[[9, 9]] * 5, far=[[9.0 * (1 + abs(k - best)), 9.0 * k] for k in range(5)])
        left, right, _ = split(changes(method.memory["G"], list(range(5)), "layer.q"), list(range(5)))
        half = left if best in left else right
        assert method.search(task, 20) == [best, min(half)]          # at the second level the smallest of that half


def test_a_node_is_split_at_its_median_task(exact):
    rows_of = torch.tensor([[1.0, 0.0], [3.0, 1.0], [-2.0, 0.0], [2.0, 0.0]])
    mean = rows_of.mean(0)
    like = {k: float(rows_of[i] @ mean) for i, k in enumerate((4, 5, 6, 7))}
    left, right, middle = split(rows_of, [4, 5, 6, 7])
    assert middle == pytest.approx(sorted(like.values())[1])         # the lower median of four
    assert left == [k for k in (4, 5, 6, 7) if like[k] >= middle] == [4, 5, 7] and right == [6]
    assert split(torch.ones(3, 2), [0, 1, 2]) == ([0], [1, 2], 2.0)  # all alike: by their order
    assert split(torch.eye(2), [3, 8])[:2] == ([3], [8])


def test_treelora_notes_visits_and_distances_of_what_it_chose(exact):
    for released in (False, True):
        method, task = tree(2, released)
        method.memory["chosen"], live = [1, 0], random_lora(seed=5)
        method.after_step(live, task)
        G, far = method.memory["G"], method.memory["far"]
        here = {path: 2 * live[path].A / 8 if released else live[path].A for path in SITES}      # two modules; one step of 8
        assert method.memory["visits"] == [[0, 1], [1, 0]] and far[0][0] == far[1][1] == 0
        assert far[1][0] == pytest.approx(float((here["layer.q"] - G[1]["layer.q"]).abs().sum()))
        assert far[0][1] == pytest.approx(float((here["layer.v"] - G[0]["layer.v"]).abs().sum()))
        if not released:
            assert method.memory["chosen"] == method.search(task, task.step + 1)


def test_treelora_is_drawn_to_the_task_that_is_near_and_the_released_code_to_one_that_is_far(exact):
    for released in (False, True):
        method, task = tree(2, released)
        live = random_lora(seed=10)                                  # G of task 0 is its own A
        for path in SITES:
            method.memory["G"][1][path] = live[path].A + 5.0
        count, task.steps = [0, 0], 200
        for task.step in range(200):
            method.memory["mean"] = {path: live[path].A * (0.5 - 1 / 400) for path in SITES}       # so that 2 x mean is A
            method.after_step(live, task)
            count[method.memory["chosen"][0]] += 1
        assert (count[0] > count[1]) != released


def test_the_released_pull_has_a_fixed_size_and_makes_the_product_grow(exact):
    method, task = tree(2, released=True)
    method.memory["chosen"] = [1, 0]
    task.step = 4
    batch, logits, loss = graded_batch()
    for sign in (1.0, -1.0):
        G = {path: sign * method.memory["G"][k][path] for k, path in ((1, "layer.q"), (0, "layer.v"))}
        live = {path: Pair(torch.nn.Parameter(G[path] + 0.01), pair.B) for path, pair in random_lora().items()}
        value = method.penalty(live, task, batch, logits)
        assert float(value) == pytest.approx(-0.5 * 4 / 8 * loss, rel=1e-4)
        value.backward()
        S = sum(float((live[path].A * sign * G[path]).sum()) for path in SITES)
        for path in SITES:                                           # -w grad log |S|
            close(live[path].A.grad, -0.5 * 4 / 8 * loss * sign * G[path] / S, atol=1e-5)


def test_the_released_search_is_its_formula_and_repeats(exact):
    method, task = tree(3, released=True)
    visits, far = [[3, 1], [2, 1], [2, 4]], [[6.0, 1.0], [8.0, 2.0], [6.5, 2.0]]
    method.memory.update(visits=visits, far=far)
    left, right, _ = split(changes(method.memory["G"], [0, 1, 2], "layer.q"), [0, 1, 2])
    drawn = set()
    for step in range(60):
        found = method.search(task, step)
        assert found == method.search(task, step)
        drawn.add(tuple(found))
        bonus = np.log(2 * 8 * (step + 1) * (step + 2)) / (2 * np.array(visits) + 1e-5)
        score = np.array(far) / np.array(visits) + np.sqrt(bonus)
        score = score + score.min()
        rng = task.rng(f"draw {step}")
        summed = np.exp(score.sum(1) - score.sum(1).max())
        first = int(torch.multinomial(torch.tensor(summed / summed.sum()), 1, generator=rng))
        half = left if first in left else right
        if len(half) > 1:
            score[half] = score[half] * min(split(changes(method.memory["G"], half, "layer.v"), half)[2], 1.5)
        score = score / (score.max() - score.min() + 1e-5)
        share = np.exp(score) / np.exp(score).sum(0)
        assert found == torch.multinomial(torch.tensor(share.T), 1, generator=rng)[:, 0].tolist()
    assert len(drawn) > 4


def test_the_released_g_is_the_mean_times_the_modules(exact):
    method, task = tree(1, released=True)
    live = random_lora(seed=2)
    task.steps = 1
    method.after_step(live, task)
    method.finish(live, task)
    close(method.memory["G"][1]["layer.q"], 2 * live["layer.q"].A)
