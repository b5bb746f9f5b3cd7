"""Metrics worked by hand, the variants of the field on one matrix, and laws that hold for every matrix."""
import math

import numpy as np
import pandas as pd
import pytest

from mbf_utils import metrics
from mbf_utils.errors import InputError

NAN = float("nan")
GAIN = [[60], [75, 50], [70, 55, 40]]                         # later tasks help earlier ones
LOSS = [[60], [40, 50], [20, 30, 40]]                         # they hurt
FOUR = [[90, 10, 20, 30], [80, 70, 25, 35], [85, 60, 50, 45], [60, 65, 40, 80]]


def test_by_hand():
    assert metrics.average_accuracy(GAIN) == 55.0             # (70 + 55 + 40) / 3
    assert metrics.learning_accuracy(GAIN) == 50.0            # (60 + 50 + 40) / 3
    assert metrics.average_incremental_accuracy(GAIN) == pytest.approx((60 + 62.5 + 55) / 3)
    assert metrics.average_accuracy(FOUR) == 61.25
    assert metrics.learning_accuracy(FOUR) == 72.5
    assert metrics.average_incremental_accuracy(FOUR) == pytest.approx((90 + 75 + 65 + 61.25) / 4)
    assert metrics.backward_transfer(FOUR) == pytest.approx((-30 - 5 - 10) / 3)
    assert metrics.forgetting(FOUR) == pytest.approx((30 + 5 + 10) / 3)
    assert metrics.forward_transfer(FOUR, [0, 5, 20, 50]) == pytest.approx((5 + 5 - 5) / 3)   # 10-5, 25-20, 45-50


@pytest.mark.parametrize("matrix, convention, expected", [
    (GAIN, "gem", 7.5), (GAIN, "sapt", 5.0), (GAIN, "treelora", 0.0), (GAIN, "libcontinual", 10 / 3),
    (LOSS, "gem", -30.0), (LOSS, "sapt", -20.0), (LOSS, "treelora", -20.0), (LOSS, "libcontinual", -40 / 3),
    (FOUR, "gem", -15.0), (FOUR, "sapt", -11.25), (FOUR, "treelora", -11.25),
    (FOUR, "libcontinual", 2 / 12 * (-5 - 30 - 5)),           # i = 3: j = 1; i = 4: j = 1, 2
    ([[60], [75, 50]], "libcontinual", 0.0),
])
def test_backward_transfer_conventions(matrix, convention, expected):
    assert metrics.backward_transfer(matrix, convention=convention) == pytest.approx(expected)


@pytest.mark.parametrize("matrix, convention, expected", [
    (GAIN, "chaudhry", 0.0), (GAIN, "avalanche", -7.5), (GAIN, "mammoth", 2.5), (GAIN, "libcontinual", -5.0),
    (LOSS, "chaudhry", 30.0), (LOSS, "avalanche", 30.0), (LOSS, "mammoth", 30.0), (LOSS, "libcontinual", 20.0),
    ([[60], [50, 50]], "libcontinual", 0.0), ([[60], [75, 50]], "chaudhry", -15.0),
])
def test_forgetting_conventions(matrix, convention, expected):
    assert metrics.forgetting(matrix, convention=convention) == pytest.approx(expected)


def test_sapts_forward_transfer_is_another_quantity():
    assert metrics.forward_transfer(GAIN, 50.94, convention="sapt") == pytest.approx(50 - 50.94)
    assert metrics.forward_transfer(GAIN, [50, 50, 50], convention="sapt") == pytest.approx(0)
    assert metrics.forward_transfer([[60]], [50], convention="sapt") == 10
    assert math.isnan(metrics.forward_transfer([[60]], [50]))


# O-LoRA's shipped logs, T5-large, order 6, just after training and at the end, in the order of training, and the mean of
# the final scores and backward transfer that they give.
JUST_AFTER = {
    "SeqLoRA": [61.57, 59.92, 78.99, 82.14, 56.00, 81.43, 83.39, 94.57, 93.12, 98.50, 89.00, 74.17, 60.21, 76.09, 63.01],
    "O-LoRA": [60.57, 60.79, 69.42, 87.50, 54.00, 72.78, 66.79, 94.34, 91.74, 98.71, 87.29, 65.41, 62.34, 69.17, 52.04],
}
AT_THE_END = {
    "SeqLoRA": [10.97, 2.99, 0.01, 0.00, 22.00, 42.01, 0.00, 68.13, 50.92, 37.03, 52.13, 20.71, 44.95, 65.75, 63.01],
    "O-LoRA": [62.14, 60.00, 61.24, 73.21, 64.00, 72.79, 69.68, 94.93, 91.97, 98.41, 86.42, 65.20, 61.14, 69.45, 52.04],
}


@pytest.mark.parametrize("method, accuracy, backward", [("SeqLoRA", 32.04, -47.96), ("O-LoRA", 72.17, -0.73)])
def test_published_logs(method, accuracy, backward):
    R = np.full((15, 15), NAN)
    np.fill_diagonal(R, JUST_AFTER[method])
    R[-1] = AT_THE_END[method]
    assert round(metrics.average_accuracy(R), 2) == accuracy
    assert round(metrics.backward_transfer(R), 2) == backward
    assert round(metrics.backward_transfer(R, "sapt"), 2) == round(metrics.backward_transfer(R) * 14 / 15, 2)
    assert math.isnan(metrics.forgetting(R))                  # needs the rows between, which the logs leave out


def test_every_form_of_a_matrix_gives_the_same():
    full = [[60, NAN, None], [75, 50, NAN], [70, 55, 40]]
    frame = pd.DataFrame([[60, NAN, NAN], [75, 50, NAN], [70, 55, 40.0]], columns=["a", "b", "c"])
    for R in (full, tuple(map(tuple, GAIN)), np.array(full, dtype=float), frame, [np.array(row) for row in GAIN],
              [[60, NAN, NAN, NAN], [75, 50, NAN, NAN], [70, 55, 40, 12]]):       # the last: a fourth task is still to come
        assert metrics.summary(R) == metrics.summary(GAIN)


@pytest.mark.parametrize("convention", ["gem", "sapt", "treelora", "libcontinual"])
def test_one_task_has_no_transfer(convention):
    assert math.isnan(metrics.backward_transfer([[60]], convention))
    assert math.isnan(metrics.forgetting([[60]], {"gem": "chaudhry"}.get(convention, "mammoth")))
    assert metrics.average_accuracy([[60]]) == metrics.average_incremental_accuracy([[60]]) == 60


def test_unmeasured_cells_are_never_averaged_over():
    assert math.isnan(metrics.average_accuracy([[60], [75, NAN]]))
    assert math.isnan(metrics.backward_transfer([[None], [75, 50]]))
    assert math.isnan(metrics.backward_transfer([[None], [75, 50]], "treelora"))
    assert math.isnan(metrics.forgetting([[60], [None, 50], [70, 55, 40]]))
    assert math.isnan(metrics.average_incremental_accuracy([[60], [None, 50]]))
    assert math.isnan(metrics.forward_transfer(GAIN, [0, 0, 0]))                  # nothing right of the diagonal


def test_laws():
    rng = np.random.default_rng(0)
    for T in (2, 3, 8):
        R = rng.uniform(size=(T, T))
        assert metrics.forgetting(R, "avalanche") == pytest.approx(-metrics.backward_transfer(R))
        assert metrics.forgetting(R, "chaudhry") >= metrics.forgetting(R, "avalanche") - 1e-12
        assert metrics.forgetting(R, "mammoth") >= max(0, metrics.forgetting(R, "chaudhry"))
        assert metrics.backward_transfer(R, "treelora") <= min(0, metrics.backward_transfer(R, "sapt"))
        assert metrics.average_accuracy(R) == pytest.approx(
            metrics.learning_accuracy(R) + (T - 1) / T * metrics.backward_transfer(R))
        for name, value in metrics.summary(100 * R, baseline=[50.0] * T).items():                  # percent or fractions
            assert value == pytest.approx(100 * metrics.summary(R, baseline=[0.5] * T)[name])
        upper = R + np.triu(np.ones((T, T)), 1)               # only forward transfer sees what is right of the diagonal
        assert metrics.summary(upper) == metrics.summary(R)
        assert metrics.forward_transfer(upper, 0) == pytest.approx(metrics.forward_transfer(R, 0) + 1)


def test_summary_names():
    assert list(metrics.summary(GAIN)) == ["AA", "BWT", "forgetting", "learning_accuracy", "average_incremental_accuracy"]
    assert metrics.summary(FOUR, baseline=[0, 5, 20, 50])["FWT"] == pytest.approx(5 / 3)


def test_order_disparity():
    scores = {"1": {"a": 80, "b": 40}, "2": {"b": 60, "a": 70}, "3": {"a": 75, "b": 45}}
    assert metrics.order_disparity(scores) == (20.0, 15.0)    # a: 80 - 70, b: 60 - 40
    assert metrics.order_disparity({"1": {"a": 1}, "2": {"a": 1}}) == (0.0, 0.0)
    assert all(map(math.isnan, metrics.order_disparity({"1": {"a": 80}})))
    assert all(map(math.isnan, metrics.order_disparity({"1": {"a": 80, "b": 4}, "2": {"a": 80, "b": None}})))


@pytest.mark.parametrize("R, words", [
    ([], "empty"), (np.zeros((0, 0)), "empty"), (None, "NoneType"), ({1: [60]}, "dict"), ("60", "str"), (60, "matrix"),
    ([[60, 50, 40], [75, 50], [70]], "row 1"), ([[60], [75], [70, 55, 40]], "row 2"), ([[60], []], "row 1"), ([[]], "row 1"),
    ([[60], [75, "x"]], "row 2"), ([[60], 75], "row 2"), ([[float("inf")]], "finite"), ([[60], [75, [50]]], "row 2"),
    ([["60"]], "row 1"), ([[60], "75"], "row 2"),
])
def test_malformed_matrix(R, words):
    for metric in (metrics.average_accuracy, metrics.backward_transfer, metrics.forgetting, metrics.learning_accuracy,
                   metrics.average_incremental_accuracy, lambda R: metrics.forward_transfer(R, 0), metrics.summary):
        with pytest.raises(InputError, match=words):
            metric(R)


@pytest.mark.parametrize("call, words", [
    (lambda: metrics.backward_transfer(GAIN, "gems"), "gem, sapt, treelora, libcontinual, found 'gems'"),
    (lambda: metrics.forgetting([[60]], "max"), "chaudhry, mammoth, avalanche, libcontinual, found 'max'"),
    (lambda: metrics.forward_transfer(FOUR, [0], convention="x"), "found 1"),
    (lambda: metrics.forward_transfer(FOUR, [0, 0, 0]), "4 tasks, found 3"),
    (lambda: metrics.forward_transfer(FOUR, "abcd"), "baseline"),
    (lambda: metrics.order_disparity({}), "nothing"),
    (lambda: metrics.order_disparity({"1": {}}), "at least one task"),
    (lambda: metrics.order_disparity({"1": {"a": 1}, "2": {"b": 1}}), "differ in: a, b"),
    (lambda: metrics.order_disparity({"1": {"a": 1}, "2": {"a": "high"}}), "order '2'"),
])
def test_malformed_arguments(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_a_paired_difference_and_its_interval_by_hand():
    """Student's t at 97.5 %: 12.7062 for 1 degree of freedom, 4.30265 for 2, 2.26216 for 9."""
    assert metrics.paired_difference([3.0, 5.0], [2.0, 2.0]) == pytest.approx((2.0, 12.7062 * math.sqrt(2) / math.sqrt(2)), rel=1e-5)
    assert metrics.paired_difference([2, 4, 6], [1, 2, 3]) == pytest.approx((2.0, 4.30265 / math.sqrt(3)), rel=1e-5)
    ten = [float(i) for i in range(10)]
    assert metrics.paired_difference(ten, [0] * 10) == pytest.approx((4.5, 2.26216 * math.sqrt(82.5 / 9) / math.sqrt(10)), rel=1e-5)
    assert metrics.paired_difference([7, 7], [5, 5]) == (2.0, 0.0)
    mean, half = metrics.paired_difference([7], [5])
    assert mean == 2 and math.isnan(half) and all(map(math.isnan, metrics.paired_difference([], [])))
    assert all(map(math.isnan, metrics.paired_difference([1, float("nan")], [1, 1])))
