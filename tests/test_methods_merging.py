"""The methods that merge after each task, beside twins with dense matrices and plain loops, and their laws and limits."""
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import SITES, equal, make_task, random_lora, tensors
from toy import rows, trained

from mbf_utils.adapter_files import load_adapter, save_adapter
from mbf_utils.errors import InputError
from mbf_utils.lora import Pair, copied, truncate
from mbf_utils.merging import merge_adapters
from mbf_utils.methods import METHODS
from mbf_utils.methods.dare import DARE, dropped
from mbf_utils.methods.ema import EMA
from mbf_utils.methods.k_merge import KMerge, similarity
from mbf_utils.methods.knots import KnOTS
from mbf_utils.methods.lora_lego import LoRALego, kmeans
from mbf_utils.methods.lori import LoRI
from mbf_utils.methods.magmax import MagMax
from mbf_utils.methods.opcm import OPCM
from mbf_utils.methods.orthoreg import OrthoReg
from mbf_utils.methods.p_and_m import PAndM
from mbf_utils.methods.slao import SLAO, one_over
from mbf_utils.methods.task_arithmetic import TaskArithmetic
from mbf_utils.methods.ties import TIES, ties, trimmed

APART = ["ties", "ties_running", "dare", "dare_ties", "knots", "knots_running", "lora_lego", "lora_lego_running", "opcm",
         "k_merge", "orthoreg"]
CUT = {"dare": DARE(), "magmax": MagMax(), "knots": KnOTS(), "opcm": OPCM(), "ties": TIES()}
FULL = {"square": (4, 4), "wide": (9, 4), "tall": (4, 7)}            # with rank 4: updates of full rank


def tuned(index):
    return random_lora(seed=index)


def dense(pair):
    return pair.B @ pair.A


def learn(method, tasks, lora=tuned, **task):
    """The results of `tasks` tasks, each trained to lora(i)."""
    return [copied(method.finish(lora(index), make_task(index, **task))) for index in range(1, tasks + 1)]


def close(pair, expected):
    torch.testing.assert_close(dense(pair), torch.as_tensor(expected), atol=1e-9, rtol=1e-7)


def updates(tasks, path):
    return [dense(tuned(index)[path]).numpy() for index in range(1, tasks + 1)]


def from_factors(index, path):
    return [factor.numpy() for factor in tuned(index)[path]]


# where a task starts, and what is worn between tasks


@pytest.mark.parametrize("name", APART)
def test_those_that_merge_independent_adapters_train_each_from_the_base_alone(name):
    method = METHODS[name]()
    for index in (1, 2, 3):
        start = method.start(make_task(index))
        assert equal(start.lora, make_task(index).fresh()) and start.past is None and start.trains == "AB"
        method.finish(tuned(index), make_task(index))


@pytest.mark.parametrize("name", ["ema", "ema_mean", "magmax"])
def test_those_that_need_a_chain_go_on_from_the_last_trained_pair(name):
    method = METHODS[name]()
    assert equal(method.start(make_task(1)).lora, make_task(1).fresh())
    for index in (1, 2, 3):
        result = method.finish(tuned(index), make_task(index))
        assert equal(method.start(make_task(index + 1)).lora, tuned(index))
    assert not equal(result, tuned(3))


@pytest.mark.parametrize("name", CUT)
def test_a_cut_result_has_the_rank_and_says_what_it_discards(name):
    """What is worn is the best rank r of what exact=True gives, where nothing earlier was cut."""
    cut, exact = type(CUT[name])(), type(CUT[name])(exact=True)
    tasks = 1 if name in ("dare", "ties") else 2
    results, wholes = (learn(method, tasks, rank=2, lora=lambda i: random_lora(rank=2, seed=i)) for method in (cut, exact))
    for path in SITES:
        best, lost = truncate(wholes[-1][path], 2)
        assert results[-1][path].A.shape[0] == 2 and 0 < lost < 1
        close(results[-1][path], dense(best))
        assert cut.memory["discarded"][path] == pytest.approx(lost) and exact.memory["discarded"][path] == 0.0


@pytest.mark.parametrize("make", [TaskArithmetic, OrthoReg, OPCM, PAndM, *map(type, CUT.values())])
def test_a_sum_that_is_kept_whole_grows_and_its_card_says_so(make):
    cut, exact = make(), make(exact=True)
    sizes = {}
    for method in (cut, exact):
        for index in range(1, 5):
            task = make_task(index, rank=2)
            task.probe = SimpleNamespace(weight_fisher=lambda lora, count: {path: torch.ones(d_out, d_in) for path, (d_in, d_out) in SITES.items()})
            method.finish(random_lora(rank=2, seed=index), task)
            sizes.setdefault(method.exact, []).append(sum(tensor.numel() for tensor in tensors(method.memory)))
    for method in (cut, exact):
        _, two, three, four = sizes[method.exact]
        assert method.card.memory == ("linear" if two < three < four else "constant"), (method, sizes)


@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name]().card.merges and not name.startswith("slao")])
def test_merging_saved_adapters_is_finish_without_a_model(name, tmp_path):
    """Adapters of a chain for those that need one, adapters trained apart for the others; float32, as saved."""
    chain, method, folders = METHODS[name]().card.merges == "descending", METHODS[name](), []
    for index in (1, 2, 3):
        fresh = random_lora(seed=index, dtype=torch.float32)
        last = random_lora(seed=0, dtype=torch.float32)
        lora = {path: Pair(*(old + 0.1 * new for old, new in zip(last[path], fresh[path]))) for path in SITES} if chain else fresh
        folders.append(tmp_path / f"adapter{index}")
        save_adapter(lora, folders[-1], 2.0, list(SITES), "base")
        result = method.finish(lora, make_task(index, folders[-1].name))
    merged = load_adapter(merge_adapters(folders, tmp_path / "out", name))
    assert equal(merged, result)


# EMA


@pytest.mark.parametrize("beta", [0.5, 0.2, 1.0])
def test_ema_is_the_recurrence_of_both_factors(beta):
    results = learn(EMA(beta=beta), 5)
    for path in SITES:
        m = from_factors(1, path)
        for index in range(2, 6):
            m = [(1 - beta) * old + beta * new for old, new in zip(m, from_factors(index, path))]
            for factor, expected in zip(results[index - 1][path], m):
                np.testing.assert_allclose(factor, expected, atol=1e-12)


def test_ema_with_one_over_t_is_the_mean_of_the_factors_and_slao_s_row_without_qr():
    results = learn(EMA(beta=None), 6)
    slao = learn(SLAO(qr=False, merge="AB", schedule=one_over), 6)
    for path in SITES:
        for index, result in enumerate(results, start=1):
            for k in (0, 1):
                mean = sum(tuned(i)[path][k] for i in range(1, index + 1)) / index
                torch.testing.assert_close(result[path][k], mean)
                torch.testing.assert_close(slao[index - 1][path][k], mean)


def test_ema_may_start_from_the_average():
    method = EMA(begin="merged")
    results = learn(method, 3)
    assert equal(method.start(make_task(4)).lora, results[-1]) and not equal(results[-1], tuned(3))


# TIES


def ties_twin(taus, density):
    """Trim, elect, disjoint mean, entry by entry."""
    kept = []
    for tau in taus:
        order = sorted((abs(x) for x in tau.flatten()), reverse=True)
        threshold = order[max(1, round(density * tau.size)) - 1]
        kept.append(np.where(np.abs(tau) >= threshold, tau, 0))
    merged = np.zeros_like(taus[0])
    for place in np.ndindex(merged.shape):
        values = [tau[place] for tau in kept]
        gamma = np.sign(sum(values))
        agree = [x for x in values if x != 0 and np.sign(x) == gamma]
        merged[place] = sum(agree) / len(agree) if agree else 0
    return merged


@pytest.mark.parametrize("density, weight", [(0.2, 1.0), (0.5, 0.3), (1.0, 1.0)])
def test_ties_is_its_twin_over_all_tasks_after_each(density, weight):
    results = learn(TIES(density=density, weight=weight, exact=True), 4)
    for path in SITES:
        for index, result in enumerate(results, start=1):
            close(result[path], weight * ties_twin(updates(index, path), density))


def test_ties_trims_to_the_largest_entries_and_at_least_one():
    tau = torch.tensor([[3.0, -5.0, 0.5], [1.0, 0.0, -2.0]])
    assert torch.equal(trimmed(tau, 0.5), torch.tensor([[3.0, -5.0, 0.0], [0.0, 0.0, -2.0]]))
    assert torch.equal(trimmed(tau, 0.01), torch.tensor([[0.0, -5.0, 0.0], [0.0, 0.0, 0.0]]))
    assert torch.equal(trimmed(tau, 1.0), tau)


def test_ties_without_trimming_and_with_equal_signs_is_the_mean():
    taus = [torch.rand(3, 4, generator=torch.Generator().manual_seed(k)) + 0.1 for k in range(5)]
    torch.testing.assert_close(ties(taus, [1] * 5, 1.0), torch.stack(taus).mean(0))
    torch.testing.assert_close(ties([-tau for tau in taus], [1] * 5, 1.0), -torch.stack(taus).mean(0))


def test_ties_counts_as_many_adapters_as_a_merge_stands_for():
    one, two = torch.tensor([1.0, -2.0, 3.0, 0.0]), torch.tensor([2.0, 5.0, -4.0, 1.0])
    torch.testing.assert_close(ties([one, two], [3, 1], 1.0), ties([one, one, one, two], [1] * 4, 1.0))


def test_ties_running_merges_the_last_merge_with_the_new_adapter():
    method = TIES(running=True, exact=True, density=0.5, weight=0.3)
    results = learn(method, 4)
    for path in SITES:
        M = ties_twin(updates(1, path), 0.5)
        for index in range(2, 5):
            M = ties_twin([M] * (index - 1) + [dense(tuned(index)[path]).numpy()], 0.5)
            close(results[index - 1][path], 0.3 * M)                 # the weight is put on once, not at every merge


def test_dare_ties_drops_where_ties_trims():
    task = make_task(3)
    result = learn(METHODS["dare_ties"](exact=True), 3)[-1]
    for path in SITES:
        taus = [dropped(dense(tuned(k + 1)[path]), 0.5, task.rng(f"drop {k} {path}")).numpy() for k in range(3)]
        close(result[path], ties_twin(taus, 1.0))


@pytest.mark.parametrize("fields", [{"density": 0}, {"density": 1.5}, {"drop": 1.0}, {"drop": -0.1}])
def test_ties_refuses_shares_that_mean_nothing(fields):
    with pytest.raises(InputError, match=f"expected {next(iter(fields))} of TIES "):
        TIES(**fields)


# DARE


def test_dare_without_dropping_is_task_arithmetic():
    for fields in ({}, {"exact": True}, {"weight": 0.7}):
        for one, other in zip(learn(DARE(p=0.0, **fields), 4), learn(TaskArithmetic(**fields), 4)):
            for path in SITES:
                close(one[path], dense(other[path]))


def test_dare_adds_dropped_updates_with_draws_of_their_own_for_every_task_and_module():
    results = learn(DARE(p=0.3, weight=0.5, exact=True), 3)
    masks = []
    for path in SITES:
        total = 0
        for index, result in enumerate(results, start=1):
            tau = dense(tuned(index)[path])
            draws = torch.rand(tau.shape, generator=make_task(index).rng(f"drop {path}"))
            masks.append((draws.flatten()[:20] >= 0.3).tolist())
            total = total + torch.where(draws >= 0.3, tau / 0.7, 0.0)
            close(result[path], 0.5 * total)
    assert all(one != other for one, other in itertools.combinations(masks, 2))


def test_what_dare_drops_is_rescaled_to_the_same_mean():
    tau = torch.full((200, 300), 2.0)
    for p in (0.2, 0.9):
        X = dropped(tau, p, torch.Generator().manual_seed(0))
        assert X.unique().tolist() == pytest.approx([0.0, 2 / (1 - p)])
        assert float((X == 0).float().mean()) == pytest.approx(p, abs=0.01)
        assert float(X.mean()) == pytest.approx(2.0, rel=0.03)


def test_dare_refuses_to_drop_everything():
    with pytest.raises(InputError, match="below 1, found 1"):
        DARE(p=1)


# MagMax


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_magmax_takes_of_every_weight_the_largest_update(weight):
    method = MagMax(weight=weight, exact=True)
    results = learn(method, 5)
    for path in SITES:
        for index, result in enumerate(results, start=1):
            taus = updates(index, path)
            expected = np.zeros_like(taus[0])
            for place in np.ndindex(expected.shape):
                expected[place] = max((tau[place] for tau in taus), key=abs)
            close(result[path], weight * expected)


def test_the_running_maximum_is_never_cut():
    cut, exact = MagMax(), MagMax(exact=True)
    learn(cut, 4), learn(exact, 4)
    assert all(torch.equal(cut.memory["max"][path], exact.memory["max"][path]) for path in SITES)


def test_magmax_does_not_care_for_order_and_takes_the_later_of_equal_ones():
    forth, back = MagMax(exact=True), MagMax(exact=True)
    for one, other in zip(range(1, 5), range(4, 0, -1)):
        forth.finish(tuned(one), make_task(1)), back.finish(tuned(other), make_task(1))
    assert all(torch.equal(forth.memory["max"][path], back.memory["max"][path]) for path in SITES)
    method, minus = MagMax(exact=True), {path: Pair(pair.A, -pair.B) for path, pair in tuned(1).items()}
    method.finish(tuned(1), make_task(1)), method.finish(minus, make_task(2))
    assert all(torch.equal(method.memory["max"][path], dense(minus[path])) for path in SITES)


# KnOTS


def knots_twin(taus, density, weight):
    """The dense SVD of the updates side by side, TIES on S V^T of each, back through U."""
    U, S, Vt = np.linalg.svd(np.concatenate(taus, 1), full_matrices=False)
    kept = S > 1e-5
    parts = np.split((S[:, None] * Vt)[kept], len(taus), 1)
    return weight * U[:, kept] @ ties_twin(parts, density)


@pytest.mark.parametrize("density, weight", [(1.0, 0.5), (0.3, 1.0)])
def test_knots_is_the_dense_svd_of_all_updates_side_by_side(density, weight):
    results = learn(KnOTS(density=density, weight=weight, exact=True), 3)
    for path in SITES:
        for index, result in enumerate(results, start=1):
            close(result[path], knots_twin(updates(index, path), density, weight))
            assert result[path].A.shape[0] <= min(3 * index, SITES[path][1])


def test_knots_of_one_task_untrimmed_is_that_task():
    method = KnOTS(weight=1.0)
    result = learn(method, 1)[0]
    for path in SITES:
        close(result[path], dense(tuned(1)[path]))
        assert method.memory["discarded"][path] == 0.0


def test_knots_of_equal_adapters_is_that_adapter_and_a_rank_deficient_one_is_no_trouble():
    result = learn(KnOTS(weight=1.0), 3, lora=lambda i: tuned(1))[-1]
    zero = {path: Pair(pair.A, torch.zeros_like(pair.B)) for path, pair in tuned(1).items()}
    nothing = learn(KnOTS(), 2, lora=lambda i: zero)[-1]
    for path in SITES:
        close(result[path], dense(tuned(1)[path]))
        assert not dense(nothing[path]).any() and nothing[path].A.shape[0] >= 1


def test_knots_does_not_depend_on_the_basis_inside_an_adapter():
    """(G A, B G^-1) is the same adapter."""
    G = torch.randn(3, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def mixed(index):
        return {path: Pair(G @ pair.A, pair.B @ G.inverse()) for path, pair in tuned(index).items()}
    for path in SITES:
        close(learn(KnOTS(), 3)[-1][path], dense(learn(KnOTS(), 3, lora=mixed)[-1][path]))


def test_knots_running_weighs_the_last_merge_as_all_earlier_tasks():
    results = learn(KnOTS(running=True, exact=True, weight=0.5, density=0.6), 3)
    for path in SITES:
        taus = updates(3, path)
        M = knots_twin(taus[:1], 0.6, 1.0)
        for index in (2, 3):
            U, S, Vt = np.linalg.svd(np.concatenate([M, taus[index - 1]], 1), full_matrices=False)
            old, new = np.split((S[:, None] * Vt)[S > 1e-5], 2, 1)
            M = U[:, S > 1e-5] @ ties_twin([old] * (index - 1) + [new], 0.6)
            close(results[index - 1][path], 0.5 * M)


# OPCM


def opcm_twin(all_updates, alpha):
    """The rule on dense matrices with completed U and V, for all modules: lists of updates by path. Results task by task."""
    norm = lambda taus: np.sqrt(sum((tau ** 2).sum() for tau in taus.values()))
    tasks = [dict(zip(all_updates, taus)) for taus in zip(*all_updates.values())]
    merged, lam, norms, results = tasks[0], 1.0, [norm(tasks[0])], [tasks[0]]
    for taus in tasks[1:]:
        raw = {}
        for path, tau in taus.items():
            U, S, Vt = np.linalg.svd(merged[path])                   # square U and V
            split = int(np.argmax(np.cumsum(S) / S.sum() > alpha))
            C = U.T @ tau @ Vt.T
            np.fill_diagonal(C, 0)
            C[:split, :split] = 0
            raw[path] = lam * merged[path] + U @ C @ Vt
        norms.append(norm(taus))
        n, mean = norm(raw), np.mean(norms)
        merged, lam = {path: value * mean / n for path, value in raw.items()}, n / mean
        results.append(merged)
    return results, lam


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8])
def test_opcm_is_the_dense_rule_where_the_merged_update_has_full_rank(alpha):
    method, lora = OPCM(alpha=alpha, exact=True), lambda i: random_lora(FULL, rank=4, seed=i)
    results = learn(method, 4, lora=lora, rank=4, sites=FULL)
    expected, lam = opcm_twin({path: [dense(lora(i)[path]).numpy() for i in range(1, 5)] for path in FULL}, alpha)
    for result, merged in zip(results, expected):
        for path in FULL:
            close(result[path], merged[path])
    assert method.memory["lam"] == pytest.approx(lam)


def test_opcm_of_low_rank_is_the_dense_rule_within_the_merged_directions():
    """The second task, rank 3 of 5 or 6: the diagonal is zeroed in the three directions of the first, and nowhere else."""
    method = OPCM(exact=True)
    result = learn(method, 2)[-1]
    raw, norms = {}, [[], []]
    for path in SITES:
        first, second = updates(2, path)
        U, S, Vt = np.linalg.svd(first)
        split = int(np.argmax(np.cumsum(S) / S.sum() > 0.5))
        C = U.T @ second @ Vt.T
        C[range(3), range(3)] = 0
        C[:split, :split] = 0
        raw[path] = first + U @ C @ Vt
        norms[0].append(first), norms[1].append(second)
    size = [np.sqrt(sum((tau ** 2).sum() for tau in taus)) for taus in (*norms, raw.values())]
    for path in SITES:
        close(result[path], raw[path] * np.mean(size[:2]) / size[2])
    assert method.memory["lam"] == pytest.approx(size[2] / np.mean(size[:2]))


def test_opcm_keeps_the_norm_at_the_mean_of_all_updates_and_adds_what_lies_outside_whole():
    method = OPCM(exact=True)
    sizes = []
    for index, result in enumerate(learn(method, 5), start=1):
        sizes.append(math.sqrt(sum(float(dense(pair).square().sum()) for pair in tuned(index).values())))
        assert math.sqrt(sum(float(dense(pair).square().sum()) for pair in result.values())) == pytest.approx(np.mean(sizes))
    sites = {"": (6, 6)}
    I = torch.eye(6, dtype=torch.float64)
    halves = {"": Pair(I[:3], I[:, :3])}, {"": Pair(I[3:], I[:, 3:])}            # two updates without a common direction
    apart = OPCM(exact=True)
    result = learn(apart, 2, lora=lambda i: halves[i - 1], sites=sites)[-1]
    close(result[""], I / math.sqrt(2))
    assert apart.memory["lam"] == pytest.approx(math.sqrt(2))


# LoRA-LEGO


def test_lora_lego_of_one_adapter_or_of_copies_is_that_adapter():
    for path in SITES:
        for tasks in (1, 4):
            close(learn(LoRALego(), tasks, lora=lambda i: tuned(1))[-1][path], dense(tuned(1)[path]))


def test_lora_lego_does_not_see_the_sign_balance_or_order_of_units():
    def turned(index):
        d = torch.tensor([-1.0, 3.0, -0.2], dtype=torch.float64)[:, None]
        return {path: Pair((d * pair.A)[[2, 0, 1]], (pair.B / d.T)[:, [2, 0, 1]]) for path, pair in tuned(index).items()}

    for path in SITES:
        groups = [learn(LoRALego(rounds=20), 1, lora=lora)[0][path] for lora in (tuned, turned)]
        close(groups[0], dense(groups[1]))
    near = {path: Pair(pair.A, pair.B) for path, pair in turned(1).items()}      # the same adapter in another gauge: it stays one
    result = learn(LoRALego(), 2, lora=lambda i: tuned(1) if i == 1 else near)[-1]
    assert all(torch.allclose(dense(result[path]), dense(tuned(1)[path])) for path in SITES)


def lego_twin(units, labels, signs, counts, k, factor):
    """sum over clusters of b a, each the weighted mean unit with the norm that averaging lost."""
    total = 0
    for c in range(k):
        members = [i for i in range(len(units)) if labels[i] == c]
        if members:
            n = sum(counts[i] for i in members)
            a = sum(counts[i] * signs[i] * units[i][0] for i in members) / n
            b = sum(counts[i] * signs[i] * units[i][1] for i in members) / n
            size = lambda a, b: np.sqrt((a ** 2).sum() + (b ** 2).sum())
            g = sum(counts[i] * size(*units[i]) for i in members) / n / size(a, b)
            total = total + np.outer(g * b, g * a)
    return factor * total


def balanced(index, path):
    A, B = from_factors(index, path)
    units = []
    for a, b in zip(A, B.T):
        balance = np.sqrt(np.linalg.norm(b) / np.linalg.norm(a))
        units.append((a * balance, b / balance))
    return units


@pytest.mark.parametrize("k", [None, 2, 5])
def test_lora_lego_is_a_sum_of_mean_units_by_cluster(k):
    result = learn(LoRALego(k=k), 3)[-1]
    for path in SITES:
        units = [unit for index in (1, 2, 3) for unit in balanced(index, path)]
        z = torch.tensor(np.array([np.concatenate([a / np.linalg.norm(a), b / np.linalg.norm(b)]) for a, b in units]))
        labels, signs = kmeans(z, torch.ones(9, dtype=torch.float64), k or 3, make_task(3).rng(f"k-means {path}"), 10)
        expected = lego_twin(units, labels.tolist(), signs.tolist(), [1] * 9, k or 3, math.sqrt(3 / (k or 3)))
        if k is None or k < 4:
            close(result[path], expected)
            assert result[path].A.shape[0] == (k or 3)
        else:                                                        # more clusters than rank: cut
            close(result[path], dense(truncate(learn(LoRALego(k=k, exact=True), 3)[-1][path], 3)[0]))


def test_lora_lego_running_counts_the_last_merge_as_all_earlier_tasks():
    method = LoRALego(running=True)
    results = learn(method, 3)
    assert len(method.memory["pool"]) == 1
    for path in SITES:
        units, counts = [], []
        for source, count in ((results[1], 2), (tuned(3), 1)):
            for a, b in zip(source[path].A.numpy(), source[path].B.numpy().T):
                balance = np.sqrt(np.linalg.norm(b) / np.linalg.norm(a))
                units.append((a * balance, b / balance)), counts.append(count)
        z = torch.tensor(np.array([np.concatenate([a / np.linalg.norm(a), b / np.linalg.norm(b)]) for a, b in units]))
        n = torch.tensor(counts, dtype=torch.float64)
        labels, signs = kmeans(z, n, 3, make_task(3).rng(f"k-means {path}"), 10)
        close(results[2][path], lego_twin(units, labels.tolist(), signs.tolist(), counts, 3, 1.0))


def test_kmeans_finds_clusters_that_are_there_up_to_sign_and_repeats():
    g = torch.Generator().manual_seed(0)
    centres = 5 * torch.eye(4)
    truth = torch.arange(40) % 4
    flips = torch.where(torch.rand(40, generator=g) < 0.5, -1.0, 1.0)
    z = flips[:, None] * (centres[truth] + 0.1 * torch.randn(40, 4, generator=g))
    label, sign = kmeans(z, torch.ones(40), 4, torch.Generator().manual_seed(1), 10)
    assert all(len(set(label[truth == c].tolist())) == 1 for c in range(4)) and len(set(label.tolist())) == 4
    for c in range(4):
        assert len(set((sign * flips)[truth == c].tolist())) == 1    # all members of a cluster point one way
    again, _ = kmeans(z, torch.ones(40), 4, torch.Generator().manual_seed(1), 10)
    assert torch.equal(label, again)


def test_kmeans_never_gets_worse_with_more_rounds():
    z = torch.nn.functional.normalize(torch.randn(60, 5, generator=torch.Generator().manual_seed(3)))
    n = torch.randint(1, 4, (60,), generator=torch.Generator().manual_seed(4)).float()

    def spread(rounds):
        label, sign = kmeans(z, n, 6, torch.Generator().manual_seed(5), rounds)
        total = 0.0
        for c in range(6):
            members = (label == c).nonzero().flatten()
            if len(members):
                points, weights = sign[members, None] * z[members], n[members, None]
                mean = (weights * points).sum(0) / weights.sum()
                total += float((weights * (points - mean) ** 2).sum())
        return total
    values = [spread(rounds) for rounds in range(1, 12)]
    assert all(later <= earlier + 1e-5 for earlier, later in zip(values, values[1:])) and values[-1] < values[0]


def test_more_clusters_than_distinct_units_leave_zero_units():
    one = {path: Pair(pair.A[:1].repeat(3, 1), pair.B[:, :1].repeat(1, 3)) for path, pair in tuned(1).items()}
    result = learn(LoRALego(), 1, lora=lambda i: one)[0]
    for path in SITES:
        assert result[path].A.isfinite().all() and result[path].A.shape[0] == 3
        mean = dense(one[path]) / 3                                  # three equal units are one cluster or more, one unit each
        ratio = dense(result[path]) / mean
        assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio)) and round(float(ratio.flatten()[0])) in (1, 2, 3)


# K-Merge


def chosen(*numbers):
    """Updates along given directions: adapter i points where numbers[i - 1] says, so equal numbers are alike."""
    def lora(index):
        base = random_lora(seed=100 + int(numbers[index - 1]))
        return {path: Pair(pair.A, pair.B + 0.01 * random_lora(seed=index)[path].B) for path, pair in base.items()}
    return lora


def test_k_merge_fills_its_slots_and_then_merges_into_the_most_similar():
    method, lora = KMerge(slots=2), chosen(1, 2, 2, 1, 2)
    results = learn(method, 5, lora=lora)
    assert method.memory["slot_of"] == {"task1": 0, "task2": 1, "task3": 1, "task4": 0, "task5": 1}
    assert method.memory["counts"] == [2, 3]
    for path in SITES:
        for slot, members in ((0, (1, 4)), (1, (2, 3, 5))):
            for factor in (0, 1):                                    # sum / sqrt(n), so that B A is the mean and cross terms / n
                expected = sum(lora(i)[path][factor] for i in members) / math.sqrt(len(members))
                torch.testing.assert_close(method.memory["slots"][slot][path][factor], expected)
    for index in range(1, 6):
        assert equal(method.worn(f"task{index}", results[-1]), method.memory["slots"][method.memory["slot_of"][f"task{index}"]])
    assert equal(results[-1], method.memory["slots"][1]) and equal(method.worn("unseen", results[-1]), results[-1])


def test_k_merge_with_one_slot_a_task_is_one_adapter_a_task():
    method = KMerge(slots=4)
    results = learn(method, 4)
    assert all(equal(method.worn(f"task{i}", results[-1]), tuned(i)) for i in range(1, 5))


def test_k_merge_of_updates_is_their_running_mean():
    method = KMerge(slots=1, mean="update")
    sites = {"": (9, 8)}
    results = learn(method, 3, lora=lambda i: random_lora(sites, rank=1, seed=i), sites=sites)
    for index, result in enumerate(results, start=1):                # three of rank 1 fit into rank 3: nothing is cut
        close(result[""], sum(dense(random_lora(sites, rank=1, seed=i)[""]) for i in range(1, index + 1)) / index)
    assert method.memory["discarded"][""] == pytest.approx(0.0, abs=1e-20)


def test_k_merge_plus_plus_takes_a_free_slot_only_for_what_is_unlike_all_others():
    method = KMerge(slots=3, threshold=0.9)
    learn(method, 4, lora=chosen(1, 1, 2, 1))
    assert method.memory["slot_of"] == {"task1": 0, "task2": 0, "task3": 1, "task4": 0} and method.memory["counts"] == [3, 1, 0]
    never = KMerge(slots=3, threshold=-1.0)
    learn(never, 3)
    assert never.memory["counts"] == [3, 0, 0]


def test_the_similarity_is_the_mean_cosine_of_the_updates():
    one, other = tuned(1), tuned(2)
    pairs = [(dense(one[path]), dense(other[path])) for path in SITES]
    cosines = [float((x * y).sum() / x.norm() / y.norm()) for x, y in pairs]
    assert similarity(one, other) == pytest.approx(np.mean(cosines)) and similarity(one, one) == pytest.approx(1)
    minus = {path: Pair(-pair.A, pair.B) for path, pair in one.items()}
    assert similarity(one, minus) == pytest.approx(-1)


@pytest.mark.parametrize("fields", [{"slots": 0}, {"mean": "weights"}])
def test_k_merge_refuses_what_means_nothing(fields):
    with pytest.raises(InputError, match=f"expected {next(iter(fields))} of KMerge "):
        KMerge(**fields)


# OrthoReg


def live_lora(seed, rank=3):
    lora = random_lora(seed=seed, rank=rank)
    return {path: Pair(*(torch.nn.Parameter(0.3 * factor) for factor in pair)) for path, pair in lora.items()}


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_penalty_of_orthoreg_is_the_dense_norm_on_the_shorter_side(squared, rank):
    live, task = live_lora(9, rank), make_task(1)
    expected = 0.0
    for pair in live.values():
        dW = task.scaling * dense(pair).detach()                     # both sites have d_out < d_in
        gram = dW @ dW.T if dW.shape[0] < dW.shape[1] else dW.T @ dW
        size = float((gram - torch.eye(len(gram))).norm())
        expected += size ** 2 if squared else size
    method = OrthoReg(strength=0.7, squared=squared)
    assert float(method.penalty(live, task, None, None).detach()) == pytest.approx(0.7 * expected)
    for pair in live.values():                                       # the other side adds a constant to the square alone
        dW = task.scaling * dense(pair).detach()
        both = [float((gram - torch.eye(len(gram))).square().sum()) for gram in (dW @ dW.T, dW.T @ dW)]
        assert abs(both[0] - both[1]) == pytest.approx(abs(dW.shape[0] - dW.shape[1]))


def test_the_gradient_of_orthoreg_is_autograd_s_of_the_dense_form():
    for name, power in (("orthoreg", 2), ("orthoreg_released", 1)):
        live, task = live_lora(4), make_task(1)
        METHODS[name](strength=1.0).penalty(live, task, None, None).backward()
        for path, pair in live.items():
            A, B = (factor.detach().clone().requires_grad_() for factor in pair)
            dW = task.scaling * B @ A
            ((dW @ dW.T - torch.eye(len(dW))).norm() ** power).backward()
            torch.testing.assert_close(pair.A.grad, A.grad)
            torch.testing.assert_close(pair.B.grad, B.grad)


def test_an_orthonormal_update_costs_only_the_floor_and_a_full_one_nothing():
    task = make_task(1)
    I = torch.eye(6, dtype=torch.float64)
    for rank in (2, 6):
        live = {"": Pair(torch.nn.Parameter(I[:rank].clone()), torch.nn.Parameter(I[:, :rank] / task.scaling))}
        for squared, floor in ((False, math.sqrt(6 - rank)), (True, 6 - rank)):
            penalty = OrthoReg(strength=1.0, squared=squared).penalty(live, task, None, None)
            penalty.backward()
            assert float(penalty.detach()) == pytest.approx(floor, abs=1e-5) and live[""].A.grad.isfinite().all()


def test_orthoreg_ends_as_task_arithmetic():
    for one, other in zip(learn(OrthoReg(), 3), learn(TaskArithmetic(), 3)):
        assert equal(one, other)


# LoRI


def twin_mask(moves, density, used=None):
    """The positions of the `density` largest moves of all modules together that are free."""
    every = [(float(move[place]), path, place) for path, move in moves.items() for place in np.ndindex(*move.shape)]
    every = [entry for entry in every if not used or not used[entry[1]][entry[2]]]
    keep = max(1, round(density * sum(move.numel() for move in moves.values())))
    return {(path, place) for _, path, place in sorted(every, reverse=True)[:keep]}


def positions(mask):
    return {(path, place) for path, one in mask.items() for place in np.ndindex(*one.shape) if one[place]}


@torch.no_grad()
def lori_task(method, index, steps=6):
    """One task by hand; every step adds noise to all of B, as AdamW may. The start, B and the mask after each step, the result."""
    task = make_task(index)
    task.steps, start = steps, method.start(task)
    assert start.trains == "B"
    live, begun, seen = copied(start.lora), copied(start.lora), []
    for task.step in range(steps):
        noise = random_lora(seed=1000 * index + task.step)
        for path, pair in live.items():
            pair.B.add_(noise[path].B.to(pair.B))
        method.after_step(live, task)
        seen.append(({path: pair.B.clone() for path, pair in live.items()}, method.memory.get("mask")))
    return begun, seen, method.finish(live, task)


@pytest.mark.parametrize("density, dense_share, switch", [(0.1, 0.5, 3), (0.3, 0.34, 2), (0.5, 0.9, 5)])
def test_lori_finds_the_largest_moves_of_b_and_then_moves_nothing_else(density, dense_share, switch):
    method = LoRI(density=density, dense=dense_share)
    for index in (1, 2, 3):
        begun, seen, result = lori_task(method, index)
        assert all(mask is None for _, mask in seen[:switch - 1]) and "mask" not in method.memory
        moved = {path: begun[path].B for path in SITES}
        for step in range(switch):                                   # all of B moves until the mask is found
            moved = {path: moved[path] + random_lora(seed=1000 * index + step)[path].B.to(moved[path]) for path in SITES}
        mask = seen[switch - 1][1]
        assert positions(mask) == twin_mask({path: (moved[path] - begun[path].B).abs() for path in SITES}, density)
        for B, _ in seen[switch - 1:]:
            for path in SITES:
                assert torch.equal(B[path][~mask[path]], begun[path].B[~mask[path]])
                assert (B[path][mask[path]] != begun[path].B[mask[path]]).all()
        for path in SITES:
            assert torch.equal(seen[switch - 1][0][path][mask[path]], moved[path][mask[path]])       # what was found stays
            assert torch.equal(result[path].A, make_task(1).fresh()[path].A)     # one A for all tasks
        assert equal(method.start(make_task(index + 1)).lora, result)


def test_lori_apart_never_moves_an_entry_twice_and_says_when_none_is_left():
    method, taken = LoRI(density=0.4, apart=True), set()
    for index, share in ((1, 0.4), (2, 0.4), (3, 0.2)):
        begun, seen, result = lori_task(method, index)
        mask = positions(seen[-1][1])
        total = sum(pair.B.numel() for pair in result.values())
        assert not mask & taken and len(mask) == pytest.approx(share * total, abs=1)
        taken |= mask
        for path, place in taken - mask:
            assert result[path].B[place] == begun[path].B[place]
        assert positions(method.memory["used"]) == taken
    with pytest.raises(InputError, match="none at task 4: lower density"):
        method.start(make_task(4))


def test_lori_through_the_loop_leaves_most_of_b_and_all_of_a_where_they_were():
    method = LoRI(density=0.2)
    data = rows(24, ("good", "bad"), "lori")
    results = []
    for index in (1, 2):
        adapted, task, _ = trained(method, data, index)
        results.append(method.finish(copied(adapted.live()), task))
    changed = sum(int((two.B != one.B).sum()) for one, two in zip(results[0].values(), results[1].values()))
    total = sum(pair.B.numel() for pair in results[0].values())
    assert 0 < changed <= round(0.2 * total)
    assert sum(int((pair.B != 0).sum()) for pair in results[0].values()) == round(0.2 * total)
    assert all(torch.equal(one.A, two.A) for one, two in zip(results[0].values(), results[1].values()))


def test_what_the_state_holds():
    """Adapters where the card says linear; else the same tensors after every task, all of them detached."""
    for name in APART + ["ema", "magmax"]:
        method, sizes = METHODS[name](), []
        for index in range(1, 6):
            method.finish(tuned(index), make_task(index))
            assert not any(tensor.requires_grad for tensor in tensors(method.memory))
            sizes.append(sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in tensors(method.memory)}.values()))
        steps = {later - earlier for earlier, later in zip(sizes[1:], sizes[2:])}
        adapter = sum(factor.numel() for factor in tensors(tuned(1)))
        assert steps == ({adapter} if method.card.memory == "linear" else {0})
        assert ("running" in name) <= (method.card.memory == "constant" and "last merge stands" in method.card.differs)
