"""SLAO beside a twin in plain numpy, written from Algorithm 1; the weights that its rule implies; its ablations."""
import numpy as np
import pytest
import torch
from tiny import SITES, equal, make_task, random_lora, tensors

from mbf_utils.errors import InputError
from mbf_utils.lora import Pair, copied
from mbf_utils.methods import METHODS
from mbf_utils.methods.references import SeqLoRA
from mbf_utils.methods.slao import SLAO, one_over, time_aware_scale


def reduced_qr(X):
    """The unique Q of X (d, r) with a positive diagonal of R, by Gram-Schmidt on the columns."""
    columns = []
    for x in X.T:
        for q in columns + columns:
            x = x - (q @ x) * q
        columns.append(x / np.linalg.norm(x))
    return np.stack(columns, 1)


def twin(fresh, moves):
    """Algorithm 1 for one weight. fresh: (A, B) of task 1; moves[i-1]: what the training of task i adds to (A, B).

    Returns the starts and the merged factors of all tasks."""
    starts, merged = [], []
    for i, (dA, dB) in enumerate(moves, start=1):
        if i == 1:
            A, B = fresh
        else:
            A, B = reduced_qr(A_ft.T).T, B_ft  # noqa: F821 (bound at the end of the round before)
        starts.append((A, B))
        A_ft, B_ft = A + dA, B + dB
        if i == 1:
            A_merge, B_merge = A_ft, B_ft
        else:
            A_merge, B_merge = A_ft, B_merge + (B_ft - B_merge) / np.sqrt(i)
        merged.append((A_merge, B_merge))
    return starts, merged


def trained(start, index):
    """A "training": normal moves of the factors that train, the same for every method."""
    moves = random_lora(seed=100 + index)
    lora = {}
    for path, pair in start.lora.items():
        lora[path] = Pair(*(factor + move * (letter in start.trains) for letter, factor, move in zip("AB", pair, moves[path])))
    return lora


def learn(method, tasks):
    """The method over `tasks` tasks: what it started from, what was trained and what it returned, task by task."""
    history = []
    for index in range(1, tasks + 1):
        start = method.start(make_task(index))
        tuned = trained(start, index)
        begun = (copied(start.lora), start.trains, copied(tuned))
        history.append((*begun, copied(method.finish(tuned, make_task(index)))))
    return history


def test_starts_and_merged_factors_are_those_of_algorithm_1():
    history = learn(SLAO(), 6)
    moves = [random_lora(seed=100 + i) for i in range(1, 7)]
    for path in SITES:
        fresh = [factor.double().numpy() for factor in make_task(1).fresh()[path]]
        starts, merged = twin(fresh, [[factor.numpy() for factor in move[path]] for move in moves])
        for (start, trains, _, result), expected_start, expected in zip(history, starts, merged):
            assert trains == "AB"
            for factor, value in zip((*start[path], *result[path]), (*expected_start, *expected)):
                np.testing.assert_allclose(factor.numpy(), value, atol=1e-7)      # the fresh A is float32


def test_the_first_task_is_plain_lora():
    method, plain = SLAO(), SeqLoRA()
    start, expected = method.start(make_task(1)), plain.start(make_task(1))
    assert equal(start.lora, expected.lora) and start.trains == expected.trains == "AB" and start.past is None
    tuned = random_lora()
    assert equal(method.finish(tuned, make_task(1)), tuned)


def snapshots(schedule, B):
    """The merged B (d_out, 1) of one weight whose fine-tuned B after task k is column k of B (d_out, T)."""
    method = SLAO(schedule=schedule)
    for i in range(1, B.shape[1] + 1):
        result = method.finish({"w": Pair(torch.ones(1, 2), B[:, i - 1:i])}, make_task(i))
    return result["w"].B[:, 0].numpy()


def weights(T, schedule=time_aware_scale):
    """The weight of each snapshot in the merged B: snapshot k is the unit vector e_k."""
    return snapshots(schedule, torch.eye(T, dtype=torch.float64))


PRINTED = {4: [.0619, .1494, .2887, .5], 15: [.0007, .0017, .0034, .0059, .0095, .0146, .0217, .0315, .0445, .0617, .0842, .1134,
                                              .1508, .1983, .2582]}


@pytest.mark.parametrize("T", [4, 15])
def test_the_weight_of_a_snapshot_is_its_lambda_times_what_later_tasks_leave(T):
    closed = [k ** -0.5 * np.prod([1 - j ** -0.5 for j in range(k + 1, T + 1)]) for k in range(1, T + 1)]
    np.testing.assert_allclose(weights(T), closed, atol=1e-12)
    np.testing.assert_allclose(weights(T), PRINTED[T], atol=5e-5)
    assert weights(T).sum() == pytest.approx(1)


def test_increments_of_b_are_kept_but_for_the_recent_ones():
    """With B_ft,k = dB_1 + ... + dB_k the coefficient of dB_k is the sum of the weights from k on."""
    found = snapshots(time_aware_scale, torch.ones(15, 15, dtype=torch.float64).triu())     # column k: e_1 + ... + e_k
    np.testing.assert_allclose(found, weights(15)[::-1].cumsum()[::-1], atol=1e-12)
    np.testing.assert_allclose(found, [1, .999, .998, .994, .988, .979, .964, .942, .911, .867, .805, .721, .607, .456, .258], atol=6e-4)


def test_other_schedules_have_their_own_weights():
    np.testing.assert_allclose(weights(7, one_over), np.full(7, 1 / 7), atol=1e-12)          # the plain mean
    np.testing.assert_allclose(weights(4, lambda i: 0.5), [1 / 8, 1 / 8, 1 / 4, 1 / 2], atol=1e-12)
    np.testing.assert_allclose(weights(4, lambda i: 1.0), [0, 0, 0, 1], atol=1e-12)          # the last one alone
    np.testing.assert_allclose(weights(4, lambda i: 0.0), [1, 0, 0, 0], atol=1e-12)          # the first one alone


def test_the_scale_is_one_over_the_root_and_has_no_floor():
    for i in (1, 2, 3, 4, 100, 400, 10 ** 6):
        assert time_aware_scale(i) ** 2 * i == pytest.approx(1)
    method = SLAO()
    zero, one = ({"w": Pair(torch.ones(1, 2), torch.full((2, 1), value))} for value in (0.0, 1.0))
    method.finish(zero, make_task(1))
    assert method.finish(one, make_task(400))["w"].B.tolist() == pytest.approx(np.full((2, 1), 1 / 20))


def test_a_task_starts_from_the_last_fine_tuned_b_and_not_from_the_merged_one():
    method = SLAO()
    learn(method, 3)
    start = method.start(make_task(4))
    for path in SITES:
        assert torch.equal(start.lora[path].B, method.memory["tuned"][path].B)
        assert not torch.allclose(start.lora[path].B, method.memory["merged"][path].B, atol=0.1)


def test_memory_does_not_grow_with_the_number_of_tasks():
    """Per weight it holds A, the last B and the merged B, and the merged A is the last A itself."""
    method, sizes = SLAO(), []
    for index in range(1, 51):
        method.finish(random_lora(seed=index), make_task(index))
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(method.memory)}
        sizes.append(sum(storages.values()))
    assert all(method.memory["tuned"][path].A is method.memory["merged"][path].A for path in SITES)
    expected = sum(3 * (d_in + 2 * d_out) * 8 for d_in, d_out in SITES.values())             # rank 3, 8 bytes a number
    assert sizes[1:] == [expected] * 49 and set(method.memory) == {"tuned", "merged"}


def rotated(last, _, fresh):
    return reduced_qr(last.A.numpy().T).T, last.B


def preserved(last, _, fresh):
    Q = reduced_qr(last.A.numpy().T)
    return Q.T, last.B.numpy() @ (last.A.numpy() @ Q)


def plain(last, _, fresh):
    return last


def random(last, _, fresh):
    return fresh


def from_merged(_, merged, fresh):
    return reduced_qr(merged.A.numpy().T).T, merged.B


def root(i):
    return 1 / np.sqrt(i)


#  row of METHODS       start        trains   shares of the trained A and B in the merged A and B after task i
ROWS = {
    "slao":             (rotated,     "AB",   lambda i: (1, root(i))),
    "slao_random":      (random,      "AB",   lambda i: (1, root(i))),
    "slao_last_merged": (from_merged, "AB",   lambda i: (1, root(i))),
    "slao_preserve":    (preserved,   "AB",   lambda i: (1, root(i))),
    "slao_ftba_mb":     (plain,       "AB",   lambda i: (1, root(i))),
    "slao_ftba_ma":     (plain,       "AB",   lambda i: (root(i), 1)),
    "slao_ftba_mba":    (plain,       "AB",   lambda i: (root(i), root(i))),
    "slao_frea_mb":     (plain,       "B",    lambda i: (1, root(i))),
    "slao_freb_ma":     (plain,       "A",    lambda i: (root(i), 1)),
    "slao_no_merge":    (rotated,     "AB",   lambda i: (1, 1)),
    "slao_merge_both":  (rotated,     "AB",   lambda i: (root(i), root(i))),
    "slao_mean":        (rotated,     "AB",   lambda i: (1, 1 / i)),
    "slao_half":        (rotated,     "AB",   lambda i: (1, 1 / 2)),
}


def test_every_ablation_of_the_table_has_a_row_here():
    assert {name for name in METHODS if name.startswith("slao")} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_an_ablation_differs_from_slao_exactly_as_its_row_says(name):
    begin, trains, shares = ROWS[name]
    last = merged = None
    for index, (start, trained_factors, tuned, result) in enumerate(learn(METHODS[name](), 5), start=1):
        fresh = make_task(index).fresh()
        if index == 1:
            assert equal(start, fresh) and equal(result, tuned)
            assert trained_factors == ("B" if trains == "B" else "AB")           # B = 0 has to train once
        else:
            assert trained_factors == trains
        for path in SITES if index > 1 else ():
            for factor, value in zip(start[path], begin(last[path], merged[path], fresh[path])):
                np.testing.assert_allclose(factor, value, atol=1e-6)
            for factor, share, new, old in zip(result[path], shares(index), tuned[path], merged[path]):
                np.testing.assert_allclose(factor, share * new + (1 - share) * old, atol=1e-6)
        last, merged = tuned, result


def test_frozen_factors_stay_what_they_were():
    frozen_a, frozen_b = learn(METHODS["slao_frea_mb"](), 4), learn(METHODS["slao_freb_ma"](), 4)
    for path in SITES:
        assert all(torch.equal(result[path].A, frozen_a[0][0][path].A) for *_, result in frozen_a)
        assert all(torch.equal(result[path].B, frozen_b[0][3][path].B) for *_, result in frozen_b)


def test_preserve_starts_from_the_function_of_the_last_training_and_slao_does_not():
    for name, same in (("slao_preserve", True), ("slao", False)):
        method = METHODS[name]()
        learn(method, 3)
        start, tuned = method.start(make_task(4)).lora, method.memory["tuned"]
        for path in SITES:
            difference = (start[path].B @ start[path].A - tuned[path].B @ tuned[path].A).abs().max()
            assert (difference < 1e-5) == same


@pytest.mark.parametrize("name", ROWS)
def test_nothing_that_came_in_is_modified_in_place(name):
    method = METHODS[name]()
    for index in range(1, 4):
        before = copied(method.memory["merged"]) if index > 1 else {}
        kept = {key: copied(value) for key, value in method.memory.items()}
        old = dict(method.memory)
        tuned = trained(method.start(make_task(index)), index)
        assert all(equal(method.memory[key], kept[key]) for key in kept)         # start only reads
        same = copied(tuned)
        method.finish(tuned, make_task(index))
        assert equal(tuned, same) and all(equal(old[key], kept[key]) for key in kept)
        assert not before or equal(old["merged"], before)


def test_a_frozen_b_with_a_random_start_would_never_learn_and_is_refused():
    with pytest.raises(InputError, match="nothing learns: choose one"):
        SLAO(freeze="B", begin="random")


def test_a_rank_above_the_inputs_is_refused_before_the_first_training():
    with pytest.raises(InputError, match="expected a rank of at most 9, .* found 10 at layer.q: choose a lower one"):
        SLAO().start(make_task(1, rank=10, sites={"layer.q": (9, 20)}))
    SLAO().start(make_task(1, rank=9, sites={"layer.q": (9, 20)}))
    SLAO(qr=False).start(make_task(1, rank=10, sites={"layer.q": (9, 20)}))
