"""Designed and projected subspaces, each beside a slow twin in its paper's letters: numpy, plain loops, dense matrices.

Most of it asks no model: `Told` answers a method's questions with fixed matrices and notes which LoRA it was asked about.
"""
import numpy as np
import pytest
import scipy.linalg
import torch
from accelerate import Accelerator
from tiny import equal, make_task, random_lora, tiny_llama, widened_by_hand, word_tokenizer
from toy import FAST, toy_task

from mbf_utils.adapters import Adapted
from mbf_utils.errors import InputError
from mbf_utils.lora import Pair, Site, copied, stack
from mbf_utils.method import Task
from mbf_utils.methods import METHODS
from mbf_utils.methods.corda import CorDA
from mbf_utils.methods.inflora import InfLoRA, per_input
from mbf_utils.methods.keeplora import KeepLoRA
from mbf_utils.methods.lb_cl import LBCL, sensitivity
from mbf_utils.methods.loda import LoDA, halves
from mbf_utils.methods.oplora import OPLoRA
from mbf_utils.methods.osf import OSF
from mbf_utils.methods.slora import SLoRA, scores
from mbf_utils.probe import Probe
from mbf_utils.settings import Settings
from mbf_utils.streams import Example
from mbf_utils.subspaces import contrast, principal_angles
from mbf_utils.text import collate, encode
from mbf_utils.training import train_task

SITES = {"a.q": (14, 10), "a.v": (14, 6), "b.o": (12, 16)}           # q and v read the same inputs
READ = {"a.q": "a", "a.v": "a", "b.o": "b"}
S, RANK = 2.0, 2                                                     # make_task's scaling
NAMES = ("inflora", "inflora_projected", "keeplora", "loda", "lb_cl", "oplora", "corda", "corda_ipm", "osf", "slora")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(width: int, seed: int, tokens: int = 30):
    """X (tokens, d) with a few strong directions, as activations have."""
    X = normal(tokens, width, seed=seed) * torch.logspace(0.5, -1, width, dtype=torch.float64)
    return X @ normal(width, width, seed=seed + 1)


class Told:
    """The answers to a task's questions, other ones each time; the LoRA of every question is noted."""

    def __init__(self, index: int):
        self.index, self.asked, self.counts = index, [], []

    def weight(self, path):
        d_in, d_out = SITES[path]
        return normal(d_out, d_in, seed=900 + list(SITES).index(path))

    def covariance(self, lora, count=None):
        self.asked.append(copied(lora))
        seed = 100 * self.index + 10 * len(self.asked)
        X = {"a": inputs(14, seed), "b": inputs(12, seed + 5)}
        C = {name: x.T @ x / len(x) for name, x in X.items()}
        return {path: C[READ[path]] for path in SITES}

    def gradient(self, lora, count=None):
        self.asked.append(copied(lora))
        self.counts.append(count)
        seed = 100 * self.index + 10 * len(self.asked)
        return {path: inputs(d_in, seed + k, d_out) for k, (path, (d_in, d_out)) in enumerate(SITES.items())}


def asking(index: int, total=None, rows=10) -> Task:
    task = make_task(index, train=[Example(f"row {k}", ("a",)) for k in range(rows)], rank=RANK, sites=SITES)
    fresh = {path: Pair(pair.A.double(), pair.B.double()) for path, pair in task.fresh().items()}
    task.total, task.probe, task.fresh = total, Told(index), lambda: fresh
    return task


def tuned(start, index: int):
    """What a training makes of `start`: the factors that train get other values."""
    lora = {}
    for k, (path, pair) in enumerate(start.lora.items()):
        A, B = pair
        trains = start.trains if isinstance(start.trains, str) else start.trains[path]
        A = A + 0.3 * normal(*A.shape, seed=1000 * index + k) if "A" in trains else A
        B = B + 0.5 * normal(*B.shape, seed=2000 * index + k) if "B" in trains else B
        lora[path] = Pair(A, B)
    return lora


def dense(pair):
    return (pair.B.double() @ pair.A.double()).detach().numpy()


def live_of(lora, trains="AB"):
    return {path: Pair(torch.nn.Parameter(pair.A.clone(), "A" in trains), torch.nn.Parameter(pair.B.clone(), "B" in trains))
            for path, pair in lora.items()}


def close(one, two, atol=1e-8):
    np.testing.assert_allclose(np.asarray(one), np.asarray(two), atol=atol, rtol=1e-6)


def learn(method, tasks: int, total=None):
    """(tasks, starts, tuned pairs, results) of a life without a model."""
    found = [], [], [], []
    for index in range(1, tasks + 1):
        task = asking(index, total)
        start = method.start(task)
        lora = tuned(start, index)
        if method.extra:                                             # gates move too
            for k, gate in enumerate(method.extra.values()):
                gate.data = 1.0 + 0.3 * normal(*gate.shape, seed=3000 * index + k)
        for kept, value in zip(found, (task, start, lora, method.finish(copied(lora), task))):
            kept.append(value)
    return found


# --- InfLoRA ---------------------------------------------------------------------------------------------------------


def test_inflora_trains_b_alone_along_what_only_the_new_task_reads():
    method = InfLoRA(eps_start=0.3, eps_end=0.6)
    tasks, starts, loras, results = learn(method, 3, total=4)
    for path, (n, m) in SITES.items():
        M = np.zeros((n, 0))
        for index, (start, result) in enumerate(zip(starts, results), start=1):
            told = Told(index)
            C = told.covariance(result)[path].numpy()
            U = np.linalg.svd(C - M @ M.T @ C)[0][:, :RANK]          # (I - M M^T) C
            A, B = start.lora[path]
            close(A.T @ A, U @ U.T / 3)
            close(A @ A.T, np.eye(RANK) / 3)
            close(A @ M, np.zeros((RANK, M.shape[1])))
            assert start.trains == "B" and B.shape == (m, RANK) and not B.any()
            close(dense(result[path]), sum(dense(lora[path]) for lora in loras[:index]))
            M = widened_by_hand(M, told.covariance(result)[path].numpy(), 0.3 + 0.3 * index / 4)
            assert 0 < M.shape[1] < n
        Q = method.memory["basis"][path].numpy()                     # rows
        close(Q.T @ Q, M @ M.T)
        assert Q.shape == (M.shape[1], n)
    assert method.memory.keys() == {"stack", "basis"}


def test_inflora_asks_the_model_as_it_is_before_and_after_a_task():
    method = InfLoRA(eps_start=0.3, eps_end=0.6)
    tasks, starts, loras, results = learn(method, 3, total=4)
    for index, task in enumerate(tasks):
        before, after = task.probe.asked
        assert equal(after, results[index])
        assert equal(before, results[index - 1]) if index else all(not pair.B.any() for pair in before.values())
    assert starts[0].past is None and equal(starts[2].past, results[1])


def test_modules_that_read_the_same_share_a_and_m():
    method = InfLoRA(eps_start=0.3, eps_end=0.6)
    _, starts, _, _ = learn(method, 2, total=4)
    for start in starts:
        assert start.lora["a.q"].A is start.lora["a.v"].A
    assert method.memory["basis"]["a.q"] is method.memory["basis"]["a.v"]
    C = torch.eye(3)
    calls = []
    per_input(calls.append, {"x": C, "y": C, "z": torch.eye(3)})
    assert calls == ["x", "z"]


def test_the_authors_version_for_language_models_projects_a_random_a():
    method = METHODS["inflora_projected"](eps_start=0.3, eps_end=0.6)
    tasks, starts, loras, results = learn(method, 3, total=4)
    for path in SITES:
        assert torch.equal(starts[0].lora[path].A, tasks[0].fresh()[path].A)
        M = widened_by_hand(np.zeros((SITES[path][0], 0)), told_after(1, path), 0.3 + 0.3 / 4)
        A = tasks[1].fresh()[path].A.numpy()
        A = A - A @ M @ M.T
        A = A / np.linalg.norm(A, axis=1, keepdims=True) / np.sqrt(3)
        close(starts[1].lora[path].A, A)
        close(starts[1].lora[path].A @ M, np.zeros((RANK, M.shape[1])))
    assert [len(task.probe.asked) for task in tasks] == [1, 1, 1]    # after the task alone
    assert METHODS["inflora_projected"]().eps_start == 0.995 and starts[1].trains == "B"
    with pytest.raises(InputError, match="found 'random'"):
        InfLoRA(design="random")


def told_after(index, path):
    """What the first question of task `index` is answered with."""
    return Told(index).covariance({})[path].numpy()


def test_inflora_says_in_time_that_no_directions_are_left():
    method = InfLoRA(eps_start=0.999, eps_end=1.0)
    with pytest.raises(InputError, match=r"expected 2 free input directions at \S+ for task \d, found [01] of 1[24]: lower"):
        learn(method, 5, total=5)
    for known, match in ((None, "found none at task 1"), (1, "found 1 at task 2")):
        with pytest.raises(InputError, match=match):
            learn(InfLoRA(eps_start=0.3, total_tasks=known), 2)


def test_the_share_that_inflora_keeps_rises_to_its_end_with_the_last_task():
    assert [InfLoRA(total_tasks=5).eps(asking(t)) for t in (1, 2, 5)] == pytest.approx([0.96, 0.97, 1.0])
    assert InfLoRA(eps_start=0.5, eps_end=0.7).eps(asking(3, total=4)) == pytest.approx(0.65)
    assert InfLoRA(eps_start=0.5, total_tasks=2).eps(asking(1, total=4)) == pytest.approx(0.75)  # the field comes first


def test_inflora_keeps_nothing_for_tasks_that_do_not_come():
    method = InfLoRA(eps_start=0.3)
    tasks, *_ = learn(method, 2, total=2)
    assert len(tasks[1].probe.asked) == 1                            # no pass after the last task


# --- KeepLoRA --------------------------------------------------------------------------------------------------------


def test_keeplora_follows_the_gradient_outside_of_what_weights_and_tasks_use():
    method = KeepLoRA(weight_energy=0.3, task_energy=0.5, share=0.25)
    tasks, starts, loras, results = learn(method, 3)
    for path, (n, m) in SITES.items():
        M = widened_by_hand(np.zeros((n, 0)), Told(1).weight(path).numpy().T, 0.3)
        assert M.shape[1] > 0
        for index, (start, result) in enumerate(zip(starts, results), start=1):
            told = Told(index)
            G = told.gradient({})[path].numpy()                      # (m, n)
            U = np.linalg.svd(G.T - M @ M.T @ G.T)[0][:, :RANK]
            A, B = start.lora[path]
            close(A.T @ A, U @ U.T)
            close(A @ M, np.zeros((RANK, M.shape[1])))
            assert start.trains == "B" and B.shape == (m, RANK) and not B.any()
            close(dense(result[path]), sum(dense(lora[path]) for lora in loras[:index]))
            M = widened_by_hand(M, told.gradient({})[path].numpy().T, 0.5)
        Q = method.memory["basis"][path].numpy()
        close(Q.T @ Q, M @ M.T)
    for index, task in enumerate(tasks):
        before, after = task.probe.asked
        assert equal(after, results[index]) and task.probe.counts == [3, 3]      # a quarter of ten rows, rounded up
        assert equal(before, results[index - 1]) if index else all(not pair.B.any() for pair in before.values())
    assert method.memory.keys() == {"stack", "basis"} and equal(starts[2].past, results[1])


def test_keeplora_says_in_time_that_no_directions_are_left():
    with pytest.raises(InputError, match=r"expected 2 free input directions at b.o for task 1, found 0 of 12: lower"):
        KeepLoRA(weight_energy=1.0).start(asking(1))                 # 16 outputs use all inputs
    with pytest.raises(InputError, match=r"expected 2 free input directions at \S+ for task \d, found [01] of 1[24]: lower"):
        learn(KeepLoRA(weight_energy=0.5), 5)
    assert KeepLoRA() == KeepLoRA(weight_energy=0.6, task_energy=0.99, share=0.2)


# --- LoDA ------------------------------------------------------------------------------------------------------------


def seen(path: str, tasks: int):
    """(S before the training, S after it) of every task."""
    tolds = [Told(index) for index in range(1, tasks + 1)]
    return [tuple(told.covariance({})[path].numpy() for _ in range(2)) for told in tolds]


def test_loda_has_a_general_and_an_isolated_branch():
    method = LoDA(ridge=0.02, general=0.7)
    tasks, starts, loras, results = learn(method, 3)
    for path, (n, m) in SITES.items():
        S_new, S_after = zip(*seen(path, 3))
        first = starts[0].lora[path].A
        assert first.shape == (RANK, n) and starts[0].trains == "AB"             # nothing is old yet: one branch
        close(first.T @ first, 0.49 / 3 * span(np.linalg.eigh(S_new[0])[1][:, -RANK:]))
        for t in (1, 2):
            S_old = sum(S_after[:t])
            A, B = starts[t].lora[path]
            assert A.shape == (2 * RANK, n) and B.shape == (m, 2 * RANK) and not B.any() and starts[t].trains == "B"
            A_G, A_I = A[:RANK], A[RANK:]
            close(A_G.T @ A_G, 0.49 / 3 * span(np.linalg.eigh(S_old + S_new[t])[1][:, -RANK:]))
            ridge = 0.02 * np.diag(S_old).mean() * np.eye(n)
            values, U = scipy.linalg.eigh(S_new[t], S_old + ridge)   # ascending
            close(A_I.T @ A_I, span(U[:, -RANK:]) / 3)
            close(A_I @ A_I.T, np.eye(RANK) / 3)
    for index, task in enumerate(tasks):
        before, after = task.probe.asked
        assert equal(before, results[index - 1]) if index else all(not pair.B.any() for pair in before.values())
        assert equal(after, stack(results[index - 1], loras[index]) if index else loras[0])
    assert method.memory.keys() == {"stack", "inputs"} and equal(starts[2].past, results[1])
    assert method.memory["inputs"]["a.q"] is method.memory["inputs"]["a.v"]


def span(U):
    """The projector on the columns of U."""
    Q = np.linalg.qr(U)[0]
    return Q @ Q.T


def test_the_isolated_directions_have_the_largest_ratio_of_all():
    S_new, S_old = (torch.from_numpy(np.cov(inputs(8, seed).numpy().T)) for seed in (1, 7))
    Q = contrast(S_new, S_old, 2)
    ratio = scipy.linalg.eigh(S_new.numpy(), S_old.numpy(), eigvals_only=True)
    for u in (normal(200, 8, seed=3), Q):
        values = (u @ S_new * u).sum(1) / (u @ S_old * u).sum(1)
        assert float(values.max()) <= ratio[-1] * (1 + 1e-9)
    inside = torch.linalg.eigvals(torch.linalg.solve(Q @ S_old @ Q.T, Q @ S_new @ Q.T)).real.sort().values
    close(inside, ratio[-2:])


def test_loda_recalibrates_the_general_branch_direction_by_direction():
    """For each direction a of the general branch and its column b the c with the least gamma |c b - b|^2 |a x|^2 on new inputs +
    |c b|^2 |a x|^2 on old ones; the isolated branch stays."""
    method = LoDA(gamma=1.7)
    tasks, starts, loras, results = learn(method, 3)
    for path, (n, m) in SITES.items():
        close(dense(results[0][path]), dense(loras[0][path]))
        total = dense(loras[0][path])
        for t in (1, 2):
            S = [after for _, after in seen(path, t + 1)]
            X_new, X_old = np.linalg.cholesky(S[t]).T, np.linalg.cholesky(sum(S[:t])).T          # X^T X = S
            A, B = (factor.double().numpy() for factor in loras[t][path])
            total = total + B[:, RANK:] @ A[RANK:]
            for i in range(RANK):
                new, old = X_new @ A[i], X_old @ A[i]
                (c,), *_ = np.linalg.lstsq(np.concatenate([1.7 ** 0.5 * new, old])[:, None],
                                           np.concatenate([1.7 ** 0.5 * new, 0 * old]), rcond=None)
                total = total + c * np.outer(B[:, i], A[i])
            close(dense(results[t][path]), total)
    assert LoDA() == LoDA(rho=0.5, general=0.5, gamma=3.0, ridge=1e-4)


class Bowl:
    """A loss that can be derived by hand: L(B; rows) = 1/2 sum over modules, mean over rows, |B A x - y|^2, and its weight by
    answer tokens."""

    def __init__(self, sites):
        self.sites = sites

    def data(self, path, ids):
        d_in, d_out = self.sites[path]
        return [torch.stack([normal(d, seed=first + int(i)) for i in ids[:, 0]], 1) for d, first in ((d_in, 0), (d_out, 99))]

    def loss(self, lora, batch):
        weights = (batch.targets != -100).sum(1) / batch.tokens
        total = 0
        for path, (A, B) in lora.items():
            x, y = self.data(path, batch.ids)
            total = total + 0.5 * ((B @ A @ x - y).square().sum(0) * weights).sum()
        return total


def words(*answers):
    """A batch with these answers, the rows all different."""
    rows = [Example(f"one two {['three', 'four', 'five', 'six', 'seven'][k]} :", (answer,)) for k, answer in enumerate(answers)]
    batch = collate(encode(word_tokenizer(), rows, 32), 0)
    return batch._replace(ids=batch.ids + 10 * torch.arange(len(rows))[:, None])     # a row is told by its first id


@pytest.mark.parametrize("rho", [0.7, -0.4])
@pytest.mark.parametrize("past", [False, True])
def test_gao_is_the_loss_of_each_half_a_step_down_the_other(rho, past):
    sites = {"x": (4, 3), "y": (5, 2)}
    method, bowl = LoDA(rho=rho), Bowl(sites)
    task = make_task(2, rank=2, sites=sites)
    task.probe, task.step = bowl, 5
    frozen = random_lora(sites, 3, 8)
    if past:
        method.memory["stack"] = frozen
    live = live_of(random_lora(sites, 2, 4), "B")
    batch = words("red", "blue green", "red blue", "red")                # 7 and 3 answer tokens
    chance = task.rng("GAO 5")
    step = rho * float(torch.rand((), generator=chance))
    one, two = halves(batch, chance)
    assert one.tokens + two.tokens == 10
    logits = normal(*batch.targets.shape, 40, seed=6).requires_grad_()
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100)
    value = method.penalty(live, task, batch, logits) + plain
    value.backward()
    assert not logits.grad.abs().max() > 1e-7                        # the plain loss is taken back whole

    offset = {path: dense(frozen[path]) if past else 0.0 for path in sites}

    def by_hand(rows, moved):
        """(loss, gradient by each B), x and y in columns."""
        weights = ((rows.targets != -100).sum(1) / rows.tokens).double().numpy()
        loss, gradient = 0.0, {}
        for path in sites:
            x, y = (part.numpy() for part in bowl.data(path, rows.ids))
            A = live[path].A.detach().numpy()
            rest = (offset[path] + moved[path] @ A) @ x - y
            loss += 0.5 * ((rest ** 2).sum(0) * weights).sum()
            gradient[path] = (rest * weights) @ (A @ x).T
        return loss, gradient

    B = {path: pair.B.detach().numpy() for path, pair in live.items()}
    expected, gradient = 0.0, {path: 0.0 for path in sites}
    for rows, other in ((one, two), (two, one)):
        g = by_hand(other, B)[1]
        loss, part = by_hand(rows, {path: B[path] - step * g[path] / np.linalg.norm(g[path]) for path in sites})
        expected += rows.tokens / batch.tokens * loss
        gradient = {path: gradient[path] + rows.tokens / batch.tokens * part[path] for path in sites}
    assert value.item() == pytest.approx(expected)
    for path in sites:
        close(live[path].B.grad, gradient[path])
        assert live[path].A.grad is None


def test_a_small_step_of_gao_pays_for_gradients_of_the_halves_that_agree():
    """To first order the loss becomes L_1 + L_2 - rho (<g_1, g_2> / |g_2| + <g_1, g_2> / |g_1|), halves of equal weight."""
    sites = {"x": (4, 3)}
    task = make_task(1, rank=2, sites=sites)
    task.probe = Bowl(sites)
    live, batch = live_of(random_lora(sites, 2, 4), "B"), words("red", "blue")
    one, two = halves(batch, torch.Generator())                      # either way round
    g = [torch.autograd.grad(task.probe.loss(live, half), live["x"].B)[0] for half in (one, two)]
    share = float(torch.rand((), generator=task.rng("GAO 0")))
    logits = torch.zeros(*batch.targets.shape, 40, dtype=torch.float64)
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100)
    inner = (g[0] * g[1]).sum()
    slope = -0.5 * inner * (1 / g[0].norm() + 1 / g[1].norm())
    at = [(LoDA(rho=rho).penalty(live, task, batch, logits) + plain).item() for rho in (1e-5 / share, -1e-5 / share)]
    assert (at[0] - at[1]) / 2e-5 == pytest.approx(float(slope), rel=1e-4)


def test_halves_have_no_answer_in_common_and_copies_of_rows_change_nothing():
    batch = words("red", "blue", "red green", "good", "red")
    def drawn(seed):
        return halves(batch, torch.Generator().manual_seed(seed))

    one, two = drawn(0)
    first = [sorted(int(row[row != -100][0]) for row in half.targets) for half in (one, two)]
    assert not set(first[0]) & set(first[1]) and len(first[0]) + len(first[1]) == 5 and first[0] and first[1]
    assert len({tuple(sorted(map(int, drawn(seed)[0].ids[:, 0]))) for seed in range(20)}) == 3       # of 3 answers one is drawn
    for half in (one, two):
        for row, target, mask, prompt in zip(half.ids, half.targets, half.mask, half.prompt):
            k = int(row[0] - 2) // 10
            assert torch.equal(row, batch.ids[k]) and torch.equal(target, batch.targets[k])
            assert torch.equal(mask, batch.mask[k]) and torch.equal(prompt, batch.prompt[k])
    assert halves(words("red", "red green", "red"), torch.Generator()) == []
    sites = {"x": (4, 3)}
    task = make_task(1, rank=2, sites=sites)
    task.probe, live = Bowl(sites), live_of(random_lora(sites, 2, 4), "B")
    logits = normal(5, batch.targets.shape[1], 40)
    twice = batch._replace(**{name: torch.cat([getattr(batch, name)] * 2) for name in ("ids", "mask", "targets", "prompt")})
    once = LoDA().penalty(live, task, batch, logits).item()
    assert LoDA().penalty(live, task, twice, torch.cat([logits, logits])).item() == pytest.approx(once)
    assert LoDA(rho=0.0).penalty(live, task, batch, logits) == 0.0
    assert LoDA().penalty(live, task, words("red", "red green"), None) == 0.0


# --- LB-CL -----------------------------------------------------------------------------------------------------------


class Rows:
    """Stands for a batch of the probe: `tokens` answer tokens, a loss of its own."""

    def __init__(self, tokens, seed):
        self.tokens, self.seed = tokens, seed


class Seeds(Told):
    """Gradients of L(delta W) = sum(K * delta W + (delta W)^3 / 3), K its batch's, by autograd."""

    def batches(self, count):
        self.counts.append(count)
        return [Rows(1, 1), Rows(20, 2)]

    def loss_of(self, path, delta, seed):
        d_in, d_out = SITES[path]
        return (normal(d_out, d_in, seed=seed + list(SITES).index(path)) * delta + delta ** 3 / 3).sum()

    def grads(self, lora, batch):
        self.asked.append(copied(lora))
        found = {}
        for path, pair in live_of(lora).items():
            self.loss_of(path, pair.B @ pair.A, batch.seed).backward()
            found[path] = Pair(pair.A.grad, pair.B.grad)
        return found


def lb_cl(tasks):
    """As `learn`, with seed rows."""
    method, found = LBCL(count=6, gain=3.0), []
    for index in range(1, tasks + 1):
        task = asking(index)
        task.probe = Seeds(index)
        start = method.start(task)
        spans = {path: dict(span) for path, span in method.memory.get("spans", {}).items()}
        lora = tuned(start, index)
        for k, gate in enumerate(method.extra.values()):
            assert not gate.any()                                    # S_t = 0: the task starts from the function of the last
            gate.data = 1.0 + 0.3 * normal(*gate.shape, seed=3000 * index + k)
        S = {path: 3 * gate.detach() for path, gate in method.extra.items()}
        found.append((task, start, spans, lora, S, method.finish(copied(lora), task)))
    return method, found


def test_lb_cl_starts_from_the_old_triplets_that_matter_most():
    method, found = lb_cl(3)
    for t in (1, 2):
        task, start, *_ = found[t]
        assert task.probe.counts == [6] and len(task.probe.asked) == 2
        assert all(equal(asked, found[t - 1][-1]) for asked in task.probe.asked) and equal(start.past, found[t - 1][-1])
        for path in SITES:
            V = torch.cat([found[k][3][path].A for k in range(t)]).requires_grad_()
            U = torch.cat([found[k][3][path].B for k in range(t)], 1).requires_grad_()
            sigma = torch.cat([found[k][4][path] for k in range(t)]).requires_grad_()
            delta = U @ torch.diag(sigma) @ V
            (task.probe.loss_of(path, delta, 1) + 20 * task.probe.loss_of(path, delta, 2)).backward()
            score = []
            for j in range(len(sigma)):
                u, v = U[:, j] * U.grad[:, j], V[j] * V.grad[j]
                score.append(((sigma[j] * sigma.grad[j]).abs() + u.abs().mean() + v.abs().mean()).item())
            best = sorted(range(len(sigma)), key=lambda j: -score[j])[:RANK]
            assert torch.equal(start.lora[path].A, V.detach()[best]) and torch.equal(start.lora[path].B, U.detach()[:, best])
            pair, grad = Pair(V.detach(), (U * sigma).detach()), Pair(V.grad, (U.grad / sigma).detach())
            close(sensitivity(pair, grad), score)


def test_lb_cl_begins_with_orthonormal_directions_and_folds_its_singular_values():
    method, found = lb_cl(3)
    for path, (d_in, d_out) in SITES.items():
        A, B = found[0][1].lora[path]
        close(A @ A.T, np.eye(RANK), 1e-6)
        close(B.T @ B, np.eye(RANK), 1e-6)
        expected = 0.0
        for *_, lora, S, result in found:
            expected = expected + lora[path].B.numpy() @ np.diag(S[path].numpy()) @ lora[path].A.numpy()
            close(dense(result[path]), expected)
    assert found[0][1].past is None and found[0][1].trains == "AB" and method.memory.keys() == {"triplets", "S"}
    assert not torch.equal(found[0][1].lora["a.q"].A, found[0][1].lora["a.v"].A)
    with pytest.raises(InputError, match="found 20"):
        LBCL().start(make_task(1, rank=20, sites=SITES))


def test_lb_cl_keeps_gradients_off_the_old_triplets():
    method, found = lb_cl(2)
    task = asking(3)
    task.probe = Seeds(3)
    start = method.start(task)
    live = live_of({path: Pair(pair.A.double(), pair.B.double()) for path, pair in start.lora.items()})
    given = random_lora(SITES, RANK, 77)
    for path, pair in live.items():
        pair.A.grad, pair.B.grad = given[path].A.clone(), given[path].B.clone()
    method.edit_grads(live, task)
    for path, (d_in, d_out) in SITES.items():
        Q_V = np.linalg.qr(np.vstack([found[k][3][path].A for k in range(2)]).T)[0]              # (d_in, R)
        Q_U = np.linalg.qr(np.hstack([found[k][3][path].B for k in range(2)]))[0]                # (d_out, R)
        close(live[path].A.grad, given[path].A.numpy() @ (np.eye(d_in) - Q_V @ Q_V.T))
        close(live[path].B.grad, (np.eye(d_out) - Q_U @ Q_U.T) @ given[path].B.numpy())
        assert live[path].A.grad.abs().max() > 1e-3 < live[path].B.grad.abs().max()
    LBCL().edit_grads(live, asking(1))                               # the first task is free


def test_lb_cl_bends_the_live_bottleneck_alone():
    method, _ = lb_cl(1)
    task = asking(2)
    task.probe = Seeds(2)
    method.start(task)
    for k, gate in enumerate(method.extra.values()):
        gate.data = normal(RANK, seed=k)
    h = normal(2, 3, RANK)
    for path in SITES:
        live = method.mix(h, None, Site(path, slice(1, 2), None, None))
        close(live.detach(), 3 * h * method.extra[path].detach())
        assert method.mix(h, None, Site(path, slice(0, 1), None, None)) is h                     # the frozen stack: S is folded
    first = LBCL()
    first.start(asking(1))
    assert not first.mix(h, None, Site("a.q", slice(0, 1), None, None)).any()


def test_lb_cl_lets_singular_values_learn_where_no_direction_is_left():
    method, found = lb_cl(4)                                         # 3 x 2 old triplets span all 6 outputs of a.v
    _, start, spans, *_ = found[3]
    assert spans["a.v"]["U"].shape == (6, 6) and spans["a.v"]["V"].shape == (6, 14)


# --- OPLoRA ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("continual", [True, False])
def test_oplora_stays_off_the_strongest_directions(continual):
    method = OPLoRA(k=3, continual=continual)
    results = []
    for index in (1, 2, 3):
        task = asking(index)
        start = method.start(task)
        assert start.trains == "AB" and (equal(start.past, results[-1]) if results else start.past is None)
        live, free = live_of(start.lora), live_of(random_lora(SITES, RANK, index))
        before = copied(free)
        for one, two in zip(live.values(), free.values()):
            one.A.data, one.B.data = two.A.data, two.B.data
        method.after_step(live, task)
        for path, (d_in, d_out) in SITES.items():
            W = task.probe.weight(path).numpy()
            base = W + S * dense(results[-1][path]) if results and continual else W
            U, sigma, Vt = np.linalg.svd(base)
            k = min(3, min(d_in, d_out) // 4)                        # a quarter of the shorter side at most
            U, Vt = U[:, :k], Vt[:k]
            P_L, P_R = np.eye(d_out) - U @ U.T, np.eye(d_in) - Vt.T @ Vt
            close(start.lora[path].A, task.fresh()[path].A.numpy() @ P_R)
            assert not start.lora[path].B.any()
            close(dense(live[path]), P_L @ dense(before[path]) @ P_R)
            new = base + S * dense(live[path])
            close(new @ Vt.T, U * sigma[:k])                         # the k strongest triples are as they were
            close(new.T @ U, Vt.T * sigma[:k])
        same = copied(live)
        method.after_step(live, task)
        for path in SITES:                                           # idempotent
            close(live[path].A.detach(), same[path].A)
            close(live[path].B.detach(), same[path].B)
        results.append(method.finish(copied(live), task))
        assert method.memory.keys() == {"stack"}
        assert results[-1]["a.q"].A.shape[0] == RANK * index


# --- CorDA -----------------------------------------------------------------------------------------------------------


def context(path, C, result, damp):
    """U, S, V^T C^-1 of W C, C scaled and damped."""
    W = Told(1).weight(path).numpy() + (S * dense(result[path]) if result else 0.0)
    C = np.eye(W.shape[1]) if C is None else C / np.diag(C).mean() + damp * np.eye(W.shape[1])
    U, sigma, Vt = np.linalg.svd(W @ C, full_matrices=False)
    return U, sigma, Vt @ np.linalg.inv(C)


@pytest.mark.parametrize("mode", ["kpm", "ipm"])
def test_corda_trains_a_part_of_the_weight_chosen_by_context(mode):
    method = CorDA(mode=mode, damp=0.05)
    tasks, starts, loras, results = learn(method, 3)
    for path in SITES:
        for t in range(3):
            if mode == "ipm":
                C = Told(t + 1).covariance({})[path].numpy()         # what the new task reads
            else:                                                    # the mean of what earlier tasks read
                C = np.mean([Told(k + 1).covariance({})[path].numpy() for k in range(t)], 0) if t else None
            U, sigma, VC = context(path, C, results[t - 1] if t else None, 0.05)
            part = slice(-RANK, None) if mode == "kpm" else slice(RANK)
            A, B = starts[t].lora[path]
            close(S * dense(starts[t].lora[path]), U[:, part] @ np.diag(sigma[part]) @ VC[part])
            close((B * B).sum(0), sigma[part] / S)                   # B0 = U (S / s)^(1/2)
            past = dense(results[t - 1][path]) if t else 0.0
            close(dense(starts[t].past[path]) + dense(starts[t].lora[path]), past)               # the function is kept
            close(dense(results[t][path]), past + dense(loras[t][path]) - dense(starts[t].lora[path]))
            assert results[t][path].A.shape[0] == min(2 * RANK * (t + 1), *SITES[path])
    assert starts[0].trains == "AB" and method.memory.keys() == ({"result", "inputs"} if mode == "kpm" else {"result"})
    for index, task in enumerate(tasks):
        (asked,) = task.probe.asked                                  # kpm: after the task; ipm: before it
        if mode == "kpm":
            assert equal(asked, results[index])
        else:
            assert equal(asked, results[index - 1]) if index else all(not pair.B.any() for pair in asked.values())
    if mode == "kpm":
        assert method.memory["inputs"]["a.q"] is method.memory["inputs"]["a.v"]


def test_corda_without_context_is_the_plain_svd_and_does_not_see_the_scale_of_inputs():
    start = CorDA().start(asking(1))
    for path in SITES:
        U, sigma, Vt = np.linalg.svd(Told(1).weight(path).numpy(), full_matrices=False)
        close(S * dense(start.lora[path]), U[:, -RANK:] @ np.diag(sigma[-RANK:]) @ Vt[-RANK:])
    one, two = CorDA(), CorDA()
    for method, scale in ((one, 1.0), (two, 9.0)):
        learn(method, 1)
        method.memory["inputs"] = {path: scale * C for path, C in method.memory["inputs"].items()}
    for path in SITES:
        for x, y in zip(one.start(asking(2)).lora[path], two.start(asking(2)).lora[path]):
            close(x, y)
    with pytest.raises(InputError, match="found 'kmp'"):
        CorDA(mode="kmp")


# --- OSF -------------------------------------------------------------------------------------------------------------


def test_osf_trains_all_but_the_strongest_directions():
    method, share = OSF(share=0.15), 0.15
    results = []
    for index in (1, 2, 3):
        task = asking(index)
        start = method.start(task)
        moved = live_of(tuned(start, index))
        given = {path: Pair(normal(*pair.A.shape, seed=1), normal(*pair.B.shape, seed=2)) for path, pair in moved.items()}
        for path, pair in moved.items():
            pair.A.grad, pair.B.grad = given[path].A.clone(), given[path].B.clone()
        before = copied(moved)
        method.edit_grads(moved, task)
        method.after_step(moved, task)
        lora = copied(moved)
        result = method.finish(copied(lora), task)
        for path, (d_in, d_out) in SITES.items():
            past = dense(results[-1][path]) if results else np.zeros((d_out, d_in))
            W, d = task.probe.weight(path).numpy() + S * past, min(d_in, d_out)
            U, sigma, Vt = np.linalg.svd(W, full_matrices=False)
            k = max(1, round(index * share * d))
            low = U[:, k:] @ np.diag(sigma[k:]) @ Vt[k:]
            close(S * dense(start.lora[path]), low)
            close((start.lora[path].A ** 2).sum(1), sigma[k:] / S)   # equal shares
            close(dense(start.past[path]) + dense(start.lora[path]), past)
            assert start.lora[path].A.shape == (d - k, d_in)
            P_L, P_R = np.eye(d_out) - U[:, :k] @ U[:, :k].T, np.eye(d_in) - Vt[:k].T @ Vt[:k]
            close(moved[path].A.grad, given[path].A.numpy() @ P_R)
            close(moved[path].B.grad, P_L @ given[path].B.numpy())
            close(lora[path].A, before[path].A.numpy() @ P_R)
            close(lora[path].B, P_L @ before[path].B.numpy())
            close(S * dense(result[path]), S * past + S * dense(lora[path]) - low)
            new = task.probe.weight(path).numpy() + S * dense(result[path])
            close(new @ Vt[:k].T, U[:, :k] * sigma[:k])              # frozen triples are as they were
            assert result[path].A.shape[0] <= d
        assert start.trains == "AB" and method.memory.keys() == {"result"}
        results.append(result)


def test_osf_says_in_time_that_everything_is_frozen():
    with pytest.raises(InputError, match="free at task 2, found all 10 frozen"):
        OSF(share=0.5).start(asking(2))
    assert OSF(share=0.45).start(asking(2)).lora["a.q"].A.shape[0] == 1
    with pytest.raises(InputError, match="a.v that are free until task 5, found all 6 frozen by then: take a share below 0.183,"):
        OSF(share=0.2).start(asking(1, total=5))                     # before anything is trained
    OSF(share=0.182).start(asking(1, total=5))
    OSF(share=0.2).start(asking(1, total=4)), OSF(share=0.2).start(asking(1))


# --- SLoRA -----------------------------------------------------------------------------------------------------------


def test_the_score_of_a_rank_is_the_mean_over_what_an_svd_may_fill_in():
    rng, d, r, draws = np.random.default_rng(0), 9, 4, 1500
    U, U0 = (np.linalg.qr(rng.normal(size=(d, r)))[0] for _ in range(2))
    found = scores(torch.from_numpy(U), torch.from_numpy(U0)).numpy()
    for c in range(1, r + 1):
        total = 0.0
        for _ in range(draws):                                       # c columns of the update, the others any frame
            rest = rng.normal(size=(d, r - c))
            frame = np.hstack([U[:, :c], np.linalg.qr(rest - U[:, :c] @ U[:, :c].T @ rest)[0]])
            total += np.linalg.norm(frame.T @ U0) ** 2
        assert found[c - 1] == pytest.approx(total / draws, abs=0.05)
    assert torch.isfinite(scores(torch.eye(3), torch.eye(3))).all()  # no room beside them


def test_slora_drops_what_is_foreign_to_the_base():
    """Of an update's singular directions those stay that come before foreign ones; rank by rank by hand."""
    method, results, chose = SLoRA(), [], []
    for index in (1, 2, 3):
        task = asking(index)
        task.rank = 4
        assert method.start(task).trains == "AB"
        lora = {}
        for k, (path, (d_in, d_out)) in enumerate(SITES.items()):
            U = np.linalg.svd(task.probe.weight(path).numpy())[0]
            own = U[:, [0, 2, -1, -2]] if index == 1 else U[:, [-1, -2, 0, 1]] if index == 2 else normal(d_out, 4, seed=k).numpy()
            B = torch.from_numpy(own * np.array([4.0, 3.0, 2.0, 1.0]))
            lora[path] = Pair(torch.from_numpy(np.linalg.qr(normal(d_in, 4, seed=k + 9).numpy())[0].T.copy()), B)
        before = copied(lora)
        results.append(method.finish(lora, task))
        assert equal(before, lora)
        for path, (d_in, d_out) in SITES.items():
            U0 = np.linalg.svd(task.probe.weight(path).numpy())[0][:, :4]
            U, sigma, Vt = np.linalg.svd(dense(lora[path]))
            best, chosen = -1.0, None
            for c in (1, 2, 3, 4):
                O = np.linalg.norm(U[:, :c].T @ U0) ** 2
                score = O + (4 - c) * (4 - O) / (d_out - c)
                if score > best + 1e-9:
                    best, chosen = score, c
            part = U[:, :chosen] @ np.diag(sigma[:chosen]) @ Vt[:chosen]
            close(dense(results[-1][path]), part + (dense(results[-2][path]) if index > 1 else 0.0))
            chose.append(chosen)
    assert chose[:6] == [2, 2, 2, 4, 1, 4]                           # trailing foreign ones go, leading ones stay while it pays


# --- all of them, through the loop -----------------------------------------------------------------------------------


LOOP = Settings(**{**FAST, "targets": ("q_proj", "v_proj", "down_proj"), "dropout": 0.0, "lr": 0.02, "batch_size": 4,
                    "accumulation": 1})


def lived(name, tasks=2):
    """(method, adapted, [(task, start, tuned, result)]) on a small Llama."""
    tokenizer, method = word_tokenizer(), METHODS[name]()
    adapted, found = Adapted(tiny_llama(hidden=32), list(LOOP.targets), LOOP.rank, LOOP.alpha), []
    adapted.model.eval()
    for index in range(1, tasks + 1):
        rows = toy_task(f"t{index}", ("red", "blue", "green") if index % 2 else ("good", "bad"), n=12).train
        task = Task(index, f"t{index}", rows, LOOP.rank, adapted.scaling, adapted.sites, 0, 5,
                    probe=Probe(adapted, tokenizer, rows, LOOP))
        seen, start_of = {}, method.start
        method.start = lambda task: seen.setdefault("start", start_of(task))
        train_task(adapted, method, task, tokenizer, LOOP, Accelerator(cpu=True))
        del method.start
        lora = copied(adapted.live())
        result = method.finish(copied(lora), task)
        adapted.wear(result)
        found.append((task, seen["start"], lora, result))
    return method, adapted, found


@pytest.mark.parametrize("name", NAMES)
def test_a_task_starts_from_the_function_that_the_last_one_ended_with(name):
    method, adapted, found = lived(name)
    batch = next(found[1][0].probe.batches(5))
    task, start, lora, result = found[1]
    begun = stack(start.past, start.lora)
    if name == "lb_cl":                                              # its S_t stands between the factors, and is zero
        begun = start.past
    probe = task.probe
    before = probe.logits(found[0][3], batch)
    torch.testing.assert_close(probe.logits(begun, batch), before, atol=2e-3, rtol=1e-3)
    assert (probe.logits(result, batch) - before).abs().max() > 0.05
    assert method.memory and all(key in ("stack", "basis", "inputs", "triplets", "S", "result") for key in method.memory)


@pytest.mark.parametrize("name", ["inflora", "keeplora", "inflora_projected"])
def test_what_is_learned_changes_nothing_along_kept_directions(name):
    _, adapted, found = lived(name)
    _, start, lora, result = found[1]
    first = lived(name, 1)[0].memory["basis"]
    for path in adapted.sites:
        change = result[path].B @ result[path].A - found[0][3][path].B @ found[0][3][path].A
        assert change.abs().max() > 1e-3
        assert (change @ first[path].T).abs().max() < 1e-4 * change.abs().max()


def test_the_strongest_directions_of_the_base_survive_oplora_and_osf_in_training():
    for name, k_of in (("oplora", lambda d: max(1, min(16, d // 4))), ("osf", lambda d: max(1, round(0.0625 * d)))):
        _, adapted, found = lived(name, 1)
        (task, _, _, result), = found
        for path in adapted.sites:
            W = task.probe.weight(path)
            U, sigma, Vt = torch.linalg.svd(W, full_matrices=False)
            k = k_of(len(sigma))
            new = W + task.scaling * result[path].B @ result[path].A
            torch.testing.assert_close(new @ Vt[:k].T, U[:, :k] * sigma[:k], atol=1e-3, rtol=1e-4)
            assert (new - W).abs().max() > 0.01


def test_the_isolated_and_the_general_span_are_different_spaces():
    _, _, found = lived("loda")
    for path, pair in found[1][1].lora.items():
        r = len(pair.A) // 2
        assert float(principal_angles(pair.A[:r], pair.A[r:]).max()) > 0.05
