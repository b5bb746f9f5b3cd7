"""The accuracy matrix to single numbers: each metric of continual learning with its formula, and the field's variants by name.

R[i][j] is the score on task j after training on task i, both counted from 1; T is the number of rows. Percent or
fractions are both fine. A cell that was not measured is NaN or None, and rows may end where they are no longer
needed (`[[60], [75, 50], [70, 55, 40]]`). Columns beyond T (tasks still to come) are ignored, so the matrix of an
unfinished run gives the metrics so far. A metric that needs a cell which was not measured is NaN, never a mean over
what happens to be there; so is one that has nothing to average (backward transfer of one task).

Published numbers of one name follow several formulas. On the matrix above backward transfer is 7.5, 5.0, 3.3 or 0.0
and forgetting 0.0, 2.5, -7.5 or -5.0, depending on whose program computed it; `convention=` names them.
"""
from __future__ import annotations

import numpy as np
from scipy.special import stdtrit                              # quantiles of Student's t

from mbf_utils.errors import InputError


def average_accuracy(R, rows=None) -> float:
    """AA = 1/T sum_j R[T][j]: the mean of the last row. Raises InputError for a malformed R, as all functions here.

    rows: the number of test rows n_j of each task; then sum_j n_j R[T][j] / sum_j n_j, the mean over all rows (micro), which
    O-LoRA's program prints. The mean over tasks (macro) is what papers report.
    """
    last = _matrix(R)[-1]
    if rows is None:
        return _mean(last)
    weights = _numbers(rows, "the numbers of rows")
    if len(weights) < len(last) or not (weights > 0).all():
        raise InputError(f"expected the number of test rows, above 0, of each of the {len(last)} tasks, found {list(rows)!r}.")
    return float(np.average(last, weights=weights[:len(last)]))


def learning_accuracy(R) -> float:
    """LA = 1/T sum_j R[j][j]: the mean of the diagonal, each task just after it was learned."""
    return _mean(_matrix(R).diagonal())


def average_incremental_accuracy(R) -> float:
    """AIA = 1/T sum_i (1/i sum_{j<=i} R[i][j]): average accuracy after every task, averaged."""
    R = _matrix(R)
    return _mean([R[i, :i + 1].mean() for i in range(len(R))])


def backward_transfer(R, convention: str = "gem") -> float:
    """What later tasks did to earlier ones; negative where they were forgotten.

    gem           BWT = 1/(T-1) sum_{j<T} (R[T][j] - R[j][j])           Lopez-Paz and Ranzato 2017; mammoth; most papers
    sapt          the same sum divided by T                               circle-hit/SAPT score.py; gainlora
    treelora      1/T sum_{j<T} min(R[T][j] - R[j][j], 0): no gains       ZinYY/TreeLoRA inference/collect_results.py
    libcontinual  2/(T(T-1)) sum_{i=3..T} sum_{j<=i-2} (R[i][j] - R[j][j])   LibContinual core/utils/utils.py; 0 if T = 2
    """
    R = _matrix(R)
    T, moved = len(R), R[-1, :-1] - R.diagonal()[:-1]
    rules = {
        "gem": lambda: moved.sum() / (T - 1),
        "sapt": lambda: moved.sum() / T,
        "treelora": lambda: np.minimum(moved, 0).sum() / T,
        "libcontinual": lambda: 2 / (T * (T - 1)) * sum(
            R[i, j] - R[j, j] for i in range(2, T) for j in range(i - 1)),
    }
    return _apply(rules, convention, T)


def forgetting(R, convention: str = "chaudhry") -> float:
    """How far tasks fell below their best; positive where they were forgotten.

    chaudhry      F = 1/(T-1) sum_{j<T} (max_{i=j..T-1} R[i][j] - R[T][j])   Chaudhry et al. 2018; SAPT's F.Ra (scores >= 0)
    mammoth       the same with the last row in the maximum: never negative   aimagelab/mammoth utils/metrics.py
    avalanche     1/(T-1) sum_{j<T} (R[j][j] - R[T][j]): first minus last     avalanche metrics/forgetting_bwt.py
    libcontinual  1/(T-1) sum_{j<=T-2} (R[j][j] - R[T][j])                    LibContinual core/utils/utils.py; 0 if T = 2
    """
    R = _matrix(R)
    T, last, first = len(R), R[-1, :-1], R.diagonal()[:-1]
    rules = {
        "chaudhry": lambda: np.mean([R[j:-1, j].max() - last[j] for j in range(T - 1)]),
        "mammoth": lambda: np.mean([R[j:, j].max() - last[j] for j in range(T - 1)]),
        "avalanche": lambda: np.mean(first - last),
        "libcontinual": lambda: (first - last)[:-1].sum() / (T - 1),
    }
    return _apply(rules, convention, T)


def forward_transfer(R, baseline, convention: str = "gem") -> float:
    """What earlier tasks did for later ones. `baseline`: one score a task, or one number for all.

    gem   FWT = 1/(T-1) sum_{j>=2} (R[j-1][j] - baseline[j]): score before the task is learned, baseline the untrained
          model's. Needs the cells right of the diagonal.               Lopez-Paz and Ranzato 2017; mammoth
    sapt  1/T sum_j (R[j][j] - baseline[j]): score just after learning, baseline that of a model trained on task j
          alone. Another quantity of the same name.                     SAPT's paper; its score.py takes baseline = 50.94
    """
    R = _matrix(R)
    T = len(R)
    values = _numbers([baseline] * T if np.ndim(baseline) == 0 else baseline, "the baseline")
    if len(values) < T:
        raise InputError(f"expected a baseline score for each of the {T} tasks, found {len(values)}; give one a task.")
    rules = {
        "gem": lambda: np.mean([R[j - 1, j] - values[j] for j in range(1, T)]),
        "sapt": lambda: np.mean(R.diagonal() - values[:T]),
    }
    return _apply(rules, convention, T, least=2 if convention == "gem" else 1)


def order_disparity(scores) -> tuple[float, float]:
    """(MOPD, AOPD) from {order: {task: final score}}: how much a task's final score depends on the order of tasks.

    OPD_j = max over orders of P[j] - min over orders of P[j]; MOPD = max_j OPD_j; AOPD = mean_j OPD_j
    (Yoon et al. 2020, arXiv 1902.09432). NaN for a single order. Raises InputError if the orders differ in their tasks.
    """
    if not scores:
        raise InputError("expected {order: {task: final score}} with at least one order, found nothing; give two or more.")
    table = {order: dict(row) for order, row in dict(scores).items()}
    (first, tasks), *others = table.items()
    for order, row in others:
        if set(row) != set(tasks):
            odd = ", ".join(sorted(str(name) for name in set(row) ^ set(tasks)))
            raise InputError(f"expected the same tasks in every order, but orders {first!r} and {order!r} differ in: {odd}; "
                             "compare runs over one set of tasks.")
    if not tasks:
        raise InputError(f"expected at least one task in order {first!r}, found none; give {{task: final score}}.")
    P = np.stack([_numbers([row[task] for task in tasks], f"order {order!r}") for order, row in table.items()])
    if len(P) < 2:
        return float("nan"), float("nan")
    disparity = P.max(axis=0) - P.min(axis=0)                 # (tasks,)
    return float(disparity.max()), float(disparity.mean())


def summary(R, baseline=None, rows=None) -> dict[str, float]:
    """The default form of every metric by its short name; FWT only when a `baseline` row is given. rows: see average_accuracy."""
    found = {"AA": average_accuracy(R, rows), "BWT": backward_transfer(R), "forgetting": forgetting(R),
             "learning_accuracy": learning_accuracy(R), "average_incremental_accuracy": average_incremental_accuracy(R)}
    return found if baseline is None else found | {"FWT": forward_transfer(R, baseline)}


def paired_difference(ours, theirs) -> tuple[float, float]:
    """(mean, half) of d = ours - theirs, pair by pair: half = t(0.975, n - 1) sd(d) / sqrt(n) is half of Student's 95 % interval
    (sd with ddof 1). Two runs of one seed are a pair. half is NaN for one pair, both are for none, or where a score is NaN."""
    d = np.subtract(ours, theirs, dtype=float)                # (n,)
    n = len(d)
    if n < 2:
        return (float(d[0]) if n else float("nan")), float("nan")
    return float(d.mean()), float(stdtrit(n - 1, 0.975) * d.std(ddof=1) / np.sqrt(n))


def _mean(values) -> float:
    return float(np.mean(values))


def _apply(rules, convention, T, least=2) -> float:
    if convention not in rules:
        raise InputError(f"expected convention to be one of {', '.join(rules)}, found {convention!r}.")
    return float(rules[convention]()) if T >= least else float("nan")


def _matrix(R) -> np.ndarray:
    """R as floats (T, T), NaN where not measured; the columns of tasks to come are cut off."""
    rows = R if isinstance(R, (list, tuple)) else np.asarray(R, dtype=object)
    if not isinstance(rows, (list, tuple)) and rows.ndim == 0:
        raise InputError(f"expected the accuracy matrix as a list of rows, found {type(R).__name__}; give [[60], [75, 50]].")
    rows = [_numbers(row, f"row {i}") for i, row in enumerate(rows, 1)]
    if not rows:
        raise InputError("expected an accuracy matrix with at least one row, found an empty one; measure after a task first.")
    widest = len(rows[-1])
    for i, row in enumerate(rows, 1):
        if not i <= len(row) <= widest:
            raise InputError(f"expected {i} scores or more in row {i} of the accuracy matrix and no more than {widest}, as in "
                             f"its last row, found {len(row)}; row i is after task i, a column is a task.")
    full = np.full((len(rows), widest), np.nan)
    for i, row in enumerate(rows):
        full[i, :len(row)] = row
    return full[:, :len(rows)]


def _numbers(values, where: str) -> np.ndarray:
    """A row of scores as floats; None becomes NaN."""
    try:
        row = np.array([np.nan if value is None else float(value + 0.0) for value in values])      # + refuses texts
    except (TypeError, ValueError):
        raise InputError(f"expected numbers (None or NaN where not measured) in {where}, found {values!r}.") from None
    if np.isinf(row).any():
        raise InputError(f"expected finite scores in {where}, found {values!r}; leave NaN where nothing was measured.")
    return row
