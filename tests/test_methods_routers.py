"""References, routers, regularisers: each beside a slow twin in the paper's letters, its laws, and two tasks through the loop."""
import copy
import math
from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from tiny import SITES, equal, make_task, random_lora, tiny_llama, word_tokenizer
from toy import FAST, rows

from mbf_utils.adapters import Adapted
from mbf_utils.errors import InputError
from mbf_utils.lora import Pair, Site, copied, stack
from mbf_utils.method import Task
from mbf_utils.methods import METHODS
from mbf_utils.methods.am_lora import AMLoRA
from mbf_utils.methods.ewc import EWC
from mbf_utils.methods.gainlora import GainLoRA, inputs, opened
from mbf_utils.methods.inflora import InfLoRA
from mbf_utils.methods.lwf import LwF
from mbf_utils.methods.migu import MIGU
from mbf_utils.methods.olora import OLoRA
from mbf_utils.methods.p_and_m import PAndM
from mbf_utils.methods.rank1_pool import Rank1Pool, top
from mbf_utils.methods.replay import Replay
from mbf_utils.methods.routers import gated, prompt_max, prompt_mean
from mbf_utils.methods.sapt import SAPT
from mbf_utils.probe import Probe
from mbf_utils.settings import Settings
from mbf_utils.streams import Example
from mbf_utils.text import Batch, Encoded, collate, encode
from mbf_utils.training import routed, train_task

D, R = 8, 3                                         # width of the embeddings, rank
TABLE = torch.randn(30, D, generator=torch.Generator().manual_seed(9))


def batch_of(prompts, answers=None) -> Batch:
    """Rows of token ids, padded on the right."""
    return collate([Encoded(prompt, answer) for prompt, answer in zip(prompts, answers or [[1]] * len(prompts))], 0)


class Asked:
    """A probe that answers what it is told, and remembers what it was asked."""

    def __init__(self, *batches, factor=1.0, **answers):
        self._batches, self.factor, self.answers, self.questions = batches, factor, answers, []

    def embeddings(self, ids):
        return TABLE[ids]

    def batches(self, count=None):
        self.questions.append(count)
        yield from self._batches

    def total(self, tensor):
        return self.factor * tensor

    def __getattr__(self, name):
        def answer(lora, what=None):
            self.questions.append((lora, what))
            return self.answers[name]
        return answer


def task_of(index, *batches, rank=R, train=(), **answers) -> Task:
    task = make_task(index, rank=rank, train=train)
    task.probe = Asked(*batches, **answers)
    return task


def tuned(index, rank=R, dtype=torch.float64):
    return random_lora(rank=rank, seed=index, dtype=dtype)


def dense(pair):
    return pair.B @ pair.A


def site_of(path, blocks, live=None, batch=None) -> Site:
    return Site(path, blocks, live, batch)


FIRST = batch_of([[3, 4, 5], [6], [7, 8, 9, 10, 11]])
SECOND = batch_of([[12, 13], [14, 15, 16]])
THIRD = batch_of([[17, 18, 19], [20], [21, 22]])


# what routers share

def test_a_prompt_is_pooled_over_its_own_tokens_wherever_the_padding_is():
    prompts = [[3, 4, 5], [6], [7, 8, 9, 10]]
    right = batch_of(prompts, [[1, 2], [2], [1]])
    ids, mask = torch.zeros(3, 4, dtype=torch.long), torch.zeros(3, 4, dtype=torch.bool)
    for i, prompt in enumerate(prompts):            # as the generator sees them: padded on the left, no answer
        ids[i, 4 - len(prompt):], mask[i, 4 - len(prompt):] = torch.tensor(prompt), True
    left = Batch(ids, mask, ids.new_empty(0), ids.new_empty(3, 0), mask)
    for batch in (right, left):
        mean, most = prompt_mean(batch, task_of(1)), prompt_max(batch, task_of(1))
        for i, prompt in enumerate(prompts):
            torch.testing.assert_close(mean[i], sum(TABLE[token] for token in prompt) / len(prompt))
            torch.testing.assert_close(most[i], torch.tensor([max(float(TABLE[token][k]) for token in prompt) for k in range(D)]))


@pytest.mark.parametrize("blocks", [slice(0, 3), slice(2, 3), slice(0, 2)])
def test_gates_scale_each_task_s_own_block(blocks):
    gates, tasks = torch.rand(2, 3), range(3)[blocks]
    h = torch.randn(2, 4, R * len(tasks))
    found = gated(h, gates, site_of("layer.q", blocks))
    for row in range(2):
        for k, task in enumerate(tasks):
            for j in range(R):
                torch.testing.assert_close(found[row, :, k * R + j], h[row, :, k * R + j] * gates[row, task])


# references

def test_replay_keeps_a_share_of_each_task_s_rows_and_adds_them_to_the_next_tasks():
    method = Replay(share=0.1)
    tasks = {k: [Example(f"{k} {i}", (f"a{i}",), (0, 1)) for i in range(n)] for k, n in ((1, 40), (2, 3), (3, 25))}
    kept = []
    for index, train in tasks.items():
        task = make_task(index, train=train)
        found = method.data(task)
        assert found == kept + train
        assert equal(method.finish(tuned(index), task), tuned(index))
        mine = [row for row in method.data(make_task(index + 1, train=[]))][len(kept):]
        assert len(mine) == max(1, round(0.1 * len(train))) and set(mine) <= set(train) and len(set(mine)) == len(mine)
        kept += mine
    assert kept[:4] != tasks[1][:4]                                  # drawn, not the first ones
    assert equal(method.start(make_task(4)).lora, tuned(3))
    again = Replay(share=0.1)
    again.finish(tuned(1), make_task(1, train=tasks[1]))
    assert again.memory["rows"] == method.memory["rows"][:4]
    other = Replay(share=0.1)
    other.finish(tuned(1), make_task(1, train=tasks[1], seed=1))
    assert other.memory["rows"] != again.memory["rows"]
    assert METHODS["replay"]().share == 0.02


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_replay_refuses_a_share_that_is_none(share):
    with pytest.raises(InputError, match="share"):
        Replay(share=share)


def test_ewc_is_the_quadratic_of_every_entry():
    method, lam, gamma = EWC(lam=3.0, gamma=0.5, count=17), 3.0, 0.5
    F1, F2 = ({path: Pair(pair.A ** 2, pair.B ** 2) for path, pair in random_lora(seed=20 + k).items()} for k in (1, 2))
    assert method.penalty(tuned(0), make_task(1), None, None) == 0
    flat, expected = (lambda lora: torch.cat([factor.flatten() for pair in lora.values() for factor in pair])), 0.0
    for index, F in ((1, F1), (2, F2)):
        task = task_of(index, fisher=F)
        assert equal(method.finish(tuned(index), task), tuned(index))
        (asked, count), = task.probe.questions
        assert equal(asked, tuned(index)) and count == 17            # at the task's own optimum
        expected = gamma * expected + flat(F) / flat(F).mean()
        live = tuned(7)
        by_hand = 0.0
        for f, theta, star in zip(expected.tolist(), flat(live).tolist(), flat(tuned(index)).tolist()):
            by_hand += lam / 2 * f * (theta - star) ** 2
        assert float(method.penalty(live, make_task(index + 1), None, None)) == pytest.approx(by_hand)
        assert float(method.penalty(tuned(index), make_task(index + 1), None, None)) == 0
    assert equal(method.start(make_task(3)).lora, tuned(2))


def test_lwf_is_the_divergence_from_the_last_result_on_answer_tokens():
    batch = batch_of([[3, 4], [5, 6, 7]], [[8, 9, 10], [11]])
    z_old, z_new = (torch.randn(2, batch.keep.numel(), 12, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
                    for k in (1, 2))
    z_new.requires_grad_()
    method, T = LwF(lam=0.7, T=3.0), 3.0
    assert method.penalty(tuned(0), task_of(1), batch, z_new) == 0
    method.finish(tuned(1), make_task(1))
    task = task_of(2, logits=z_old)
    found = method.penalty(tuned(0), task, batch, z_new)
    (teacher, asked), = task.probe.questions
    assert equal(teacher, tuned(1)) and asked is batch
    total, tokens = 0.0, 0
    for i in range(2):
        for j in range(batch.keep.numel()):
            if batch.targets[i, j] >= 0:
                p, q = ([math.exp(v / T) for v in z[i, j].tolist()] for z in (z_old, z_new))
                p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
                total, tokens = total + sum(a * math.log(a / b) for a, b in zip(p, q)), tokens + 1
    assert tokens == 4 and float(found.detach()) == pytest.approx(0.7 * T ** 2 * total / tokens, rel=1e-5)
    found.backward()
    assert z_new.grad[batch.targets >= 0].abs().sum() > 0 and not z_new.grad[batch.targets < 0].any()
    task.probe.answers["logits"] = z_new.detach()
    assert float(method.penalty(tuned(0), task, batch, z_new).detach()) == pytest.approx(0, abs=1e-6)


# MIGU

def migu_step(index, q=0.6, scale=None, zero=False):
    """One step of two micro-batches: (method, live with gradients, the sums by hand)."""
    method, live = MIGU(q=q), tuned(1)
    if zero:
        live = {path: Pair(pair.A, 0 * pair.B) for path, pair in live.items()}
    sums = {path: ([0.0] * R, [0.0] * SITES[path][1]) for path in SITES}
    for batch in (FIRST, SECOND):
        for path, pair in live.items():
            rng = torch.Generator().manual_seed(len(path))
            x = torch.randn(*batch.ids.shape, SITES[path][0], dtype=torch.float64, generator=rng)
            h = x @ pair.A.T
            assert method.mix(h, x, site_of(path, slice(index - 1, index), pair, batch)) is h
            for row, column in batch.mask.nonzero().tolist():
                for j in range(R):
                    sums[path][0][j] += abs(float(h[row, column, j]))
                for j in range(SITES[path][1]):
                    sums[path][1][j] += abs(sum(float(pair.B[j, k] * h[row, column, k]) for k in range(R)))
    for pair in live.values():
        for factor in pair:
            factor.requires_grad_().grad = torch.ones_like(factor)
    task = task_of(index)
    task.probe.factor = scale if scale is not None else 1.0
    method.edit_grads(live, task)
    return method, live, sums


def test_migu_keeps_the_gradient_of_rows_with_large_outputs():
    method, live, sums = migu_step(2)
    for path, pair in live.items():
        for factor, c in zip(pair, sums[path]):
            ordered, place = sorted(c), 0.6 * (len(c) - 1)           # the quantile, between two values
            low = math.floor(place)
            threshold = ordered[low] + (place - low) * (ordered[min(low + 1, len(c) - 1)] - ordered[low])
            kept = [value >= threshold for value in c]
            assert factor.grad.tolist() == [[float(keep)] * factor.shape[1] for keep in kept]
            assert 0 < sum(kept) < len(kept)
    assert method.c == {} and method.memory == {}


def test_migu_masks_nothing_in_the_first_task_nor_where_all_outputs_are_equal():
    for index, options in ((1, {}), (2, {"q": 0.0}), (2, {"scale": 0.0})):
        method, live, _ = migu_step(index, **options)
        assert all(bool((factor.grad == 1).all()) for pair in live.values() for factor in pair) and method.c == {}
    _, live, _ = migu_step(2, zero=True)                             # B = 0: its outputs are all 0
    assert all(bool((pair.B.grad == 1).all()) and not bool((pair.A.grad == 1).all()) for pair in live.values())


# P&M

def fishers(index):
    rng = torch.Generator().manual_seed(40 + index)
    return {path: torch.rand(d_out, d_in, generator=rng, dtype=torch.float64) for path, (d_in, d_out) in SITES.items()}


@pytest.mark.parametrize("exact", [True, False])
def test_p_and_m_goes_as_far_as_the_fishers_of_all_tasks_say(exact):
    method = PAndM(exact=exact, count=11)
    merged, F, stars = {path: torch.zeros(d_out, d_in, dtype=torch.float64) for path, (d_in, d_out) in SITES.items()}, [], []
    for index in (1, 2, 3):
        start = method.start(make_task(index))
        assert equal(start.lora, make_task(index).fresh())
        assert (start.past is None) == (index == 1)
        task, kept = task_of(index, weight_fisher=fishers(index)), copied(tuned(index))
        result = method.finish(tuned(index), task)
        assert equal(tuned(index), kept)
        D = {path: dense(pair) for path, pair in tuned(index).items()}
        F.append(fishers(index))
        stars.append({path: merged[path] + D[path] for path in SITES})
        (asked, count), = task.probe.questions
        assert count == 11 and all(torch.allclose(dense(asked[path]), stars[-1][path]) for path in SITES)
        above = sum((F[i][path] * (merged[path] - stars[i][path]) * D[path]).sum() for i in range(index) for path in SITES)
        below = sum((F[i][path] * D[path] ** 2).sum() for i in range(index) for path in SITES)
        alpha = 1.0 if index == 1 else float(-above / below)
        assert 0 < alpha <= 1 and method.memory["alpha"] == pytest.approx(alpha)
        for path in SITES:
            sum_ = merged[path] + alpha * D[path]
            U, S, V = torch.linalg.svd(sum_, full_matrices=False)
            rank = index * R if exact else R
            best = (U[:, :rank] * S[:rank]) @ V[:rank]
            torch.testing.assert_close(dense(result[path]), best)
            assert method.memory["discarded"][path] == pytest.approx(float(S[rank:].square().sum() / S.square().sum()), abs=1e-9)
            assert result[path].A.shape[0] == rank
            merged[path] = best

        def increase(a):                                             # of all tasks' losses, to second order, before the cut
            before = {path: stars[-1][path] - D[path] for path in SITES}
            return sum((F[i][path] * (before[path] + a * D[path] - stars[i][path]) ** 2).sum()
                       for i in range(index) for path in SITES)
        assert all(increase(alpha) <= increase(alpha + step) for step in (-0.1, -1e-3, 1e-3, 0.1))
    assert len(method.memory["sums"]["layer.q"]) == 2                # nothing grows with the tasks


def test_p_and_m_stays_between_the_old_model_and_the_new_one():
    for sign, expected in ((1, 1.0), (-1, 0.0)):
        method = PAndM()
        method.memory["sums"] = {path: [torch.ones(1), sign * 100 * dense(tuned(2)[path])] for path in SITES}
        assert method.alpha({path: Pair(0 * pair.A, pair.B) for path, pair in tuned(1).items()}, tuned(2)) == expected


def test_p_and_m_shakes_the_length_of_what_trains_and_nothing_else():
    method, h = PAndM(e=0.25), torch.randn(2, 4, R)
    torch.manual_seed(0)
    lengths = Counter()
    for _ in range(300):
        method.before_batch(None, make_task(3))
        live = method.mix(h, None, site_of("layer.q", slice(2, 3)))
        assert torch.equal(method.mix(h, None, site_of("layer.q", slice(0, 2))), h)
        lengths[round(float((live / h).mean()), 4)] += 1
        torch.testing.assert_close(live, h * (live / h).mean())
    assert set(lengths) == {1.0, 1.25, 0.75} and min(lengths.values()) > 70


# SAPT

def attention_by_hand(p, query, keys):
    """softmax_i(k_i . q / sqrt d), plainly."""
    inner = [sum(float(query["P1"][m, n] * p[n]) for n in range(D)) for m in range(len(query["P1"]))]
    z = [sum(float(query["P2"][k, m]) * inner[m] for m in range(len(inner))) for k in range(D)]
    z = [v / (1 + math.exp(-v)) for v in z]
    mean = sum(z) / D
    spread = math.sqrt(sum((v - mean) ** 2 for v in z) / D + 1e-5)
    q = [float(query["scale"][k]) * (v - mean) / spread + float(query["shift"][k]) for k, v in enumerate(z)]
    e = [math.exp(sum(a * float(b) for a, b in zip(q, key)) / math.sqrt(D)) for key in keys]
    return [v / sum(e) for v in e]


def pooled_by_hand(batch):
    return [torch.stack([TABLE[token] for token in ids[inside]]).max(0).values for ids, inside in zip(batch.ids, batch.prompt)]


def shaken(method):
    """As if trained: every learnable moved."""
    with torch.no_grad():
        for k, value in enumerate(method.extra.values()):
            value += 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(k))
    return {name: value.detach().clone() for name, value in method.extra.items()}


def test_sapt_weighs_the_tasks_by_an_attention_on_the_prompt():
    method = SAPT(lam=0.3, hidden=5, buffer=4)
    stored, keys, bars = [], [], []
    for index, batch in ((1, FIRST), (2, SECOND), (3, THIRD)):
        task = task_of(index, batch)
        start = method.start(task)
        assert equal(start.lora, task.fresh()) and (start.past is None) == (index == 1)
        if index > 1:                                                # one query goes on, each task has a key of its own
            assert all(torch.equal(value, query[name]) for name, value in method.extra.items() if name != "key")  # noqa: F821
            assert not torch.equal(method.extra["key"], keys[-1])
        assert method.extra["key"].abs().max() <= 1
        learned = shaken(method)
        query, now = learned, [*keys, learned["key"]]
        method.before_batch(batch, task)
        expected = [attention_by_hand(p, query, [key[0] for key in now]) for p in pooled_by_hand(batch)]
        torch.testing.assert_close(method.gates, torch.tensor(expected), atol=1e-5, rtol=1e-4)
        if index == 1:
            assert torch.equal(method.gates, torch.ones(3, 1))
        by_hand = sum(sum(b * math.log(b / a) for b, a in zip(bar, attention_by_hand(p, query, [key[0] for key in now])))
                      / len(old) for old, bar in zip(stored, bars) for p in old)
        found = torch.as_tensor(method.penalty({}, task, batch, None)).detach()
        assert float(found) == pytest.approx(0.3 * by_hand, rel=1e-3, abs=1e-6)
        keys = now
        method.finish(tuned(index), task)
        assert task.probe.questions == [4] and method.extra == {} and method.gates is None
        stored.append(pooled_by_hand(batch))
        mean = torch.tensor(expected).mean(0)
        bars.append(mean.tolist())
        torch.testing.assert_close(method.memory["prompts"][-1][1], mean, atol=1e-5, rtol=1e-4)
        method.before_batch(batch, task)                             # at test time, from memory
        torch.testing.assert_close(method.gates, torch.tensor(expected), atol=1e-5, rtol=1e-4)
        assert torch.equal(gated(torch.ones(len(batch.ids), 2, R), method.gates, site_of("", slice(0, 1))),
                           method.mix(torch.ones(len(batch.ids), 2, R), None, site_of("", slice(0, 1))))
    assert by_hand > 0.01 and method.card.old_data is True


def test_sapt_s_router_learns_from_the_penalty_and_old_keys_do_not():
    method = SAPT(hidden=5)
    method.start(task_of(1, FIRST))
    method.finish(tuned(1), task_of(1, FIRST))
    method.start(task_of(2, SECOND))
    method.penalty({}, task_of(2), None, None).backward()
    assert all(bool(value.grad.abs().sum() > 0) for value in method.extra.values())
    assert not any(value.requires_grad for value in (*method.memory["keys"], *method.memory["query"].values()))


# AM-LoRA

def test_am_lora_weighs_the_tasks_token_by_token():
    method, path, (d_in, _) = AMLoRA(lam=0.4), "layer.q", SITES["layer.q"]
    selectors, As = [], []
    x = torch.randn(*FIRST.ids.shape, d_in, generator=torch.Generator().manual_seed(5))
    for index in (1, 2, 3):
        task, lora = task_of(index), tuned(index, dtype=torch.float32)
        start = method.start(task)
        assert (start.past is None) == (index == 1)
        shaken(method)
        selectors.append(method.extra[path].detach().clone()[0])
        As.append(lora[path].A)
        method.before_batch(FIRST, task)
        found = {}
        for blocks in (slice(index - 1, index), slice(0, index - 1))[:index]:            # what trains, and the frozen stack
            h = x @ torch.cat(As[blocks]).T
            found[blocks.start] = method.mix(h, x, site_of(path, blocks, lora[path], FIRST))
        found = torch.cat([found[0], found[index - 1]] if index > 1 else [found[0]], -1)
        size, tokens = 0.0, 0
        for row, column in [(i, j) for i in range(3) for j in range(FIRST.ids.shape[1])]:
            u = [A @ x[row, column] for A in As]
            e = [max(0.0, float(sum(w[j] * v[j] for j in range(R)) + w[R])) for w, v in zip(selectors, u)]
            g = [math.exp(v) / sum(math.exp(w) for w in e) for v in e]
            torch.testing.assert_close(found[row, column], torch.cat([a * v for a, v in zip(g, u)]), atol=1e-5, rtol=1e-4)
            if FIRST.mask[row, column]:
                size, tokens = size + sum(e), tokens + 1
        live = {path: lora[path]}
        assert float(method.penalty(live, task, FIRST, None).detach()) == pytest.approx(0.4 * size / tokens, rel=1e-4)
        other = site_of("layer.v", slice(index - 1, index), lora["layer.v"], FIRST)
        method.mix(torch.zeros(*FIRST.ids.shape, R), torch.zeros(*FIRST.ids.shape, 7), other)        # a second module
        second = sum(max(0.0, float(w[R])) for w in [*(method.memory["selectors"]["layer.v"] if index > 1 else []),
                                                     method.extra["layer.v"].detach()[0]])
        both = (size / tokens + second) / 2
        assert float(method.penalty(lora, task, FIRST, None).detach()) == pytest.approx(0.4 * both, rel=1e-4)
        method.finish(lora, task)
        assert method.extra == {} and method.memory["selectors"][path].shape == (index, R + 1)
        whole = method.mix(x @ torch.cat(As).T, x, site_of(path, slice(0, index), None, FIRST))      # at test time, from memory
        torch.testing.assert_close(whole, found, atol=1e-5, rtol=1e-4)
    assert not method.memory["selectors"][path].requires_grad


def test_am_lora_s_first_task_is_plain_lora():
    method, lora = AMLoRA(), tuned(1, dtype=torch.float32)
    method.start(task_of(1))
    h = torch.randn(*FIRST.ids.shape, R)
    site = site_of("layer.q", slice(0, 1), lora["layer.q"], FIRST)
    assert torch.equal(method.mix(h, torch.randn(*FIRST.ids.shape, 9), site), h)


# the rank-1 pool

def test_the_first_among_equals_is_on():
    assert top(torch.tensor([1.0, 3.0, 3.0, 0.0, 3.0]), 2).tolist() == [False, True, True, False, False]
    assert [Rank1Pool().sizes(r) for r in (12, 8, 4, 2, 1)] == [(8, 4), (5, 3), (3, 2), (1, 1), (1, 1)]


def test_the_pool_turns_on_what_most_rows_want_and_learns_straight_through():
    method, r = Rank1Pool(), 6
    task = task_of(2, rank=r, factor=2.0)
    method.start(task)
    shaken(method)
    V, c = method.extra["V"], method.extra["c"]
    by_hand = V.detach(), c.detach()
    used = [0.0] * r
    for batch in (FIRST, SECOND):
        method.before_batch(batch, task)
        votes, probabilities = [0] * r, []
        for ids, inside in zip(batch.ids, batch.prompt):
            v = torch.stack([TABLE[token] for token in ids[inside]]).mean(0)
            v = (v - v.mean()) / (v - v.mean()).square().mean().sqrt()
            z = [math.exp(float((by_hand[0][j] * v).sum() + by_hand[1][j])) for j in range(r)]
            probabilities.append([value / sum(z) for value in z])
            for j in sorted(range(r), key=lambda j: -z[j])[:4]:
                votes[j] += 1
        on = [float(j in sorted(range(r), key=lambda j: (-votes[j], j))[:4]) for j in range(r)]
        used = [a + 2.0 * b for a, b in zip(used, votes)]            # summed over processes
        h = torch.ones(len(batch.ids), 3, r)
        found = method.mix(h, None, site_of("layer.q", slice(1, 2)))
        torch.testing.assert_close(found, h * torch.tensor(on))
        assert torch.equal(method.mix(h, None, site_of("layer.q", slice(0, 1))), h)                  # what was merged
        weights = torch.randn(len(batch.ids), r, generator=torch.Generator().manual_seed(3))
        gradient, = torch.autograd.grad((found[:, 0] * weights).sum(), c)
        expected = torch.zeros(r)
        for p, w in zip(torch.tensor(probabilities), weights):       # of sum_j w_j p_j
            expected += p * (w - (p * w).sum())
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)
    assert not method.memory["used"].any()
    method.after_step({}, task)
    assert method.memory["used"].tolist() == used and method.votes is None
    lora = tuned(2, rank=r)
    best = sorted(sorted(range(r), key=lambda j: (-used[j], j))[:2])
    result = method.finish(lora, task)
    assert method.extra == {} and set(method.memory) == {"stack"}
    for path, pair in lora.items():
        torch.testing.assert_close(dense(result[path]), sum(torch.outer(pair.B[:, j], pair.A[j]) for j in best))
        assert result[path].A.shape[0] == 2


def test_the_pool_s_loss_is_the_overlap_of_used_experts_with_merged_ones():
    method, r = Rank1Pool(lam=0.2), 6
    method.start(task_of(1, rank=r))
    assert method.penalty(tuned(1, r), task_of(1, rank=r), None, None) == 0
    method.memory["used"] = torch.tensor([0.0, 5, 1, 0, 2, 0])
    method.finish(tuned(1, r), task_of(1, rank=r))                   # 1 and 4 are merged
    task = task_of(2, rank=r)
    assert equal(method.start(task).lora, task.fresh())
    method.memory["used"] = torch.tensor([3.0, 1, 0, 4, 3, 0])       # 3 and 0
    by_hand = 0.0
    for path, pair in tuned(2, r).items():
        for j in (1, 4):
            for k in (0, 3):
                by_hand += abs(float(tuned(1, r)[path].B[:, j] @ pair.B[:, k])) / len(SITES)
    assert float(method.penalty(tuned(2, r), task, None, None)) == pytest.approx(0.2 * by_hand)
    merged = method.finish(tuned(2, r), task)
    for path in SITES:
        torch.testing.assert_close(dense(merged[path]), sum(torch.outer(tuned(t, r)[path].B[:, j], tuned(t, r)[path].A[j])
                                                            for t, j in ((1, 1), (1, 4), (2, 0), (2, 3))))


# GainLoRA

def opened_by_hand(gate, p):
    silu = lambda v: v / (1 + math.exp(-v))         # noqa: E731
    p1 = [silu(sum(float(g * v) for g, v in zip(row, p))) for row in gate["G1"]]
    p2 = [silu(sum(float(g) * v for g, v in zip(row, p1))) for row in gate["G2"]]
    dot = sum(float(g) * v for g, v in zip(gate["G3"][0], p2))
    cosine = dot / math.sqrt(sum(float(g) ** 2 for g in gate["G3"][0])) / math.sqrt(sum(v ** 2 for v in p2))
    return abs(2 / (1 + math.exp(-4 * cosine)) - 1)


def means(batch):
    return torch.stack([TABLE[ids[inside]].mean(0) for ids, inside in zip(batch.ids, batch.prompt)])


def gained(*batches, **fields):
    """Tasks on these batches, as if trained, each step projected."""
    method, gates = GainLoRA(**{"hidden": 20, "energy": 1.0, **fields}), []
    for index, batch in enumerate(batches, 1):
        task = task_of(index, batch)
        method.start(task)
        shaken(method)
        method.after_step({}, task)
        gates.append({name: G.detach().clone() for name, G in method.extra.items()})
        method.finish(tuned(index), task)
    return method, gates


def test_gainlora_s_gates_are_a_small_network_on_the_mean_embedding():
    method, gates = gained(FIRST, SECOND)
    method.before_batch(THIRD, task_of(2))                           # from memory
    assert method.gates.shape == (3, 2)
    for row, p in enumerate(means(THIRD)):
        for k, gate in enumerate(gates):
            assert float(method.gates[row, k]) == pytest.approx(opened_by_hand(gate, p), rel=1e-4)
    assert bool((method.gates >= 0).all()) and bool((method.gates <= 1).all())
    task = task_of(3, THIRD)
    method.start(task)
    method.before_batch(THIRD, task)                                 # while task 3 trains
    assert method.gates.shape == (3, 3) and method.gates.requires_grad
    assert not any(G.requires_grad for gate in method.memory["gates"] for G in gate.values())      # only its own gate learns
    h = torch.randn(3, 4, R)
    torch.testing.assert_close(method.mix(h, None, site_of("", slice(2, 3))), h * method.gates[:, 2, None, None])


def test_gainlora_begins_with_the_last_network_and_the_main_direction_that_is_free():
    method, gates = gained(FIRST)
    task = task_of(2, SECOND)
    start = method.start(task)
    assert task.probe.questions == [1000] and equal(start.lora, task.fresh()) and start.past is not None
    G, M = {name: value.detach() for name, value in method.extra.items()}, method.memory["M"]
    assert torch.equal(G["G1"], gates[0]["G1"]) and torch.equal(G["G2"], gates[0]["G2"])
    torch.testing.assert_close(G["G3"] @ M[2].T, torch.zeros(1, len(M[2])), atol=1e-6, rtol=0)
    p2 = inputs(G, means(SECOND))[2]
    free = p2 - p2 @ M[2].T @ M[2]
    main = torch.linalg.eigh(free.T @ free).eigenvectors[:, -1]
    assert abs(float(torch.cosine_similarity(G["G3"][0], main, dim=0))) == pytest.approx(1, abs=1e-4)
    assert float(G["G3"].norm()) == pytest.approx(math.sqrt(D / 3), rel=1e-4)
    assert float(opened(G, means(SECOND)).max()) > 0.05              # not shut on its own prompts


def test_gainlora_s_new_gate_is_shut_on_earlier_prompts_before_and_after_training():
    method, gates = gained(FIRST)
    old = means(FIRST)
    before = inputs(gates[0], old)
    task = task_of(2, SECOND)
    method.start(task)
    assert float(opened(method.extra, old).max()) < 1e-4
    for _ in range(3):                                               # steps of any kind
        wanted = shaken(method)
        assert float(opened(method.extra, old).max()) > 1e-2
        method.after_step({}, task)
        assert float(opened(method.extra, old).max()) < 1e-4
        for (name, G), M in zip(method.extra.items(), method.memory["M"]):       # elsewhere the step is what it was
            free = torch.eye(M.shape[1]) - M.T @ M
            torch.testing.assert_close(G @ free, wanted[name] @ free, atol=1e-5, rtol=1e-4)
    for one, two in zip(before, inputs(method.extra, old)):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)
    assert float(opened(method.extra, means(SECOND)).max()) > 0.05
    moved = [float((method.extra[name] - gates[0][name]).norm()) for name in ("G1", "G2")]
    assert min(moved) > 0.1                                          # free elsewhere


def test_gainlora_s_third_gate_is_shut_on_the_prompts_of_both_earlier_tasks():
    method, _ = gained(FIRST, SECOND)
    task = task_of(3, THIRD)
    method.start(task)
    shaken(method)
    method.after_step({}, task)
    assert float(opened(method.extra, torch.cat([means(FIRST), means(SECOND)])).max()) < 1e-4
    assert float(opened(method.extra, means(THIRD)).max()) > 0.05


def test_gainlora_s_first_gate_moves_freely_and_its_subspaces_hold_the_energy():
    method = GainLoRA(hidden=20, energy=0.9)
    method.start(task_of(1, FIRST))
    learned = shaken(method)
    method.after_step({}, task_of(1))
    assert all(torch.equal(method.extra[name], learned[name]) for name in learned)
    method.finish(tuned(1), task_of(1, FIRST))
    for M, H in zip(method.memory["M"], inputs(learned, means(FIRST))):
        torch.testing.assert_close(M @ M.T, torch.eye(len(M)), atol=1e-5, rtol=0)
        assert float((H @ M.T).square().sum() / H.square().sum()) >= 0.9 - 1e-5
        assert len(M) == 1 or float((H @ M[:-1].T).square().sum() / H.square().sum()) < 0.9


def test_gainlora_says_when_no_direction_is_left():
    wide = batch_of([[token] for token in range(1, 25)])
    with pytest.raises(InputError, match=f"gate of task 2.*all {D} directions.*energy"):
        gained(wide, SECOND)


def test_gainlora_takes_its_loras_from_inclora_or_olora():
    plain, o = GainLoRA(), METHODS["gainlora_olora"]()
    for method in (plain, o):
        method.memory["stack"] = tuned(1)
    assert plain.penalty(tuned(2), task_of(2), None, None) == 0
    like = OLoRA(lambda1=0.5)
    like.memory["stack"] = tuned(1)
    assert float(o.penalty(tuned(2), task_of(2), None, None)) == float(like.penalty(tuned(2), task_of(2), None, None)) > 0


def test_gainlora_on_inflora_trains_inside_the_subspace_that_inflora_designs():
    """A_t, what trains, the basis and the stack are InfLoRA's, as it has them alone; the gates are GainLoRA's."""
    gated, plain = METHODS["gainlora_inflora"](hidden=20, energy=1.0), InfLoRA()
    for index, batch in ((1, FIRST), (2, SECOND)):
        rng = torch.Generator().manual_seed(index)
        X = {path: torch.randn(3, d_in, generator=rng) for path, (d_in, _) in SITES.items()}         # inputs in three directions
        for method in (gated, plain):
            task = task_of(index, batch, rank=2, covariance={path: x.T @ x for path, x in X.items()})
            task.total = 3
            start = method.start(task)
            assert start.trains == "B"
            lora = {path: Pair(start.lora[path].A, pair.B.float()) for path, pair in tuned(index, 2).items()}
            if method is gated:
                first = start
                shaken(method)
            method.after_step({}, task)
            method.finish(lora, task)
        assert equal(first.lora, start.lora) and (index == 1 or equal(first.past, start.past))
        assert equal(gated.memory["stack"], plain.memory["stack"])
    assert all(torch.equal(gated.memory["basis"][path], M) for path, M in plain.memory["basis"].items())
    assert len(gated.memory["gates"]) == 2 and float(opened(gated.memory["gates"][1], means(FIRST)).max()) < 1e-4
    assert gated.penalty(tuned(3, 2), task_of(3), None, None) == 0


# through the loop

TRAINED = Settings(**{**FAST, "dropout": 0.0, "batch_size": 4, "accumulation": 1, "epochs": 2})


def lived(name, tasks=2, **fields):
    """`tasks` tasks through the loop: (method, adapted, tokenizer, tasks, tuned); the last one is trained, but not finished."""
    tokenizer, found = word_tokenizer(), []
    adapted = Adapted(tiny_llama(), list(TRAINED.targets), TRAINED.rank, TRAINED.alpha)
    adapted.model.eval()
    method = METHODS[name](**fields)
    for index in range(1, tasks + 1):
        data = rows(8, ("good", "bad") if index == 1 else ("red", "green", "blue"), f"routers {index}")
        task = Task(index, f"task{index}", data, TRAINED.rank, adapted.scaling, adapted.sites, 0, tasks,
                    probe=Probe(adapted, tokenizer, data, TRAINED))
        train_task(adapted, method, task, tokenizer, TRAINED, Accelerator(cpu=True))
        found.append(copied(adapted.live()))
        if index < tasks:
            method.finish(found[-1], task)
    return method, adapted, tokenizer, task, found


@pytest.mark.parametrize("name", ["sapt", "am_lora", "gainlora"])
def test_what_is_scored_is_what_was_trained(name):
    """The frozen stack and the new LoRA under gates that learn are the same function as the result under gates from memory."""
    method, adapted, tokenizer, task, found = lived(name)
    batch = collate(encode(tokenizer, task.train[:4], 32), 0)
    with torch.no_grad(), adapted.mixing(method.mix, slice(1, 2), lambda: batch):
        method.before_batch(batch, task)
        before = adapted.model(input_ids=batch.ids).logits
    result = method.finish(found[-1], task)
    adapted.wear(result)
    with torch.no_grad(), routed(adapted, method, task) as see:
        see(batch)
        torch.testing.assert_close(adapted.model(input_ids=batch.ids).logits, before, atol=1e-4, rtol=1e-4)
        if name == "am_lora":
            return
        method.before_batch(batch, task)                             # and for one row the gates can be folded into B
        gates = method.gates
    assert float((gates[:, 0] - gates[:, 1]).abs().max()) > 1e-3
    for row in range(4):
        adapted.wear({path: Pair(pair.A, pair.B * gates[row].repeat_interleave(2)) for path, pair in result.items()})
        with torch.no_grad():
            alone = adapted.model(input_ids=batch.ids[row:row + 1]).logits[0]
        torch.testing.assert_close(alone, before[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["sapt", "am_lora", "gainlora", "rank1_pool"])
def test_the_router_learns_and_earlier_loras_stay(name):
    method, adapted, tokenizer, task, found = lived(name)
    learned = {key: value.detach().clone() for key, value in method.extra.items()}
    kept, first = copied(method.memory["stack"]), copy.deepcopy(method.memory)
    fresh = METHODS[name]()
    fresh.memory = first
    fresh.start(task)
    assert learned.keys() == fresh.extra.keys()
    assert all(not torch.equal(value, fresh.extra[key].detach()) for key, value in learned.items())
    result = method.finish(found[-1], task)
    for path, pair in result.items():
        r = kept[path].A.shape[0]
        assert torch.equal(pair.A[:r], kept[path].A) and torch.equal(pair.B[:, :r], kept[path].B)
    if name == "rank1_pool":
        assert all(pair.A.shape[0] == 2 for pair in result.values())                                 # m = 1 of rank 2, twice
    else:
        assert equal(result, stack(kept, found[-1]))


def test_gainlora_trained_by_the_loop_is_shut_on_the_first_task():
    method, adapted, tokenizer, task, found = lived("gainlora")
    first = prompt_mean(collate(encode(tokenizer, rows(8, ("good", "bad"), "routers 1"), 32), 0), task)
    method.finish(found[-1], task)
    one, two = (opened(gate, first) for gate in method.memory["gates"])
    assert float(two.mean()) < 0.4 * float(one.mean())


def test_lwf_and_ewc_hold_the_model_near_what_it_was():
    """Through the loop, with a weight that outweighs all else, the second task's function stays that of the first."""
    def drift(name, **fields):
        method, adapted, tokenizer, task, (one, two) = lived(name, **fields)
        batch = next(task.probe.batches())
        before, after = (task.probe.logits(lora, batch).log_softmax(-1)[batch.targets >= 0] for lora in (one, two))
        return float((before.exp() * (before - after)).sum(-1).mean())
    free = drift("seqlora")
    assert drift("lwf", lam=30.0) < 0.3 * free
    assert drift("ewc", lam=1e4) < 0.3 * free
