"""What a comparison's tables carry, read from the CSV files that --save writes: methods over all their orders and seeds, who is
above whom, what the order of the tasks does, and the newest task along a stream.

A run is a pair (order, seed), and two methods are compared over the runs that both have, never by their means alone. Scores are in
percent, intervals are Student's 95 % intervals, not corrected for their number.
"""
from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from . import metrics
from .errors import InputError
from .reports import READINGS, YARDSTICK, by_run
from .titles import RECONSTRUCTED, REFERENCE, RIVAL, group_of, place_of, title_of

SURROUNDINGS = ["stream", "named", "model"]             # what runs of one table of methods have in common; the order may differ


def named(method: str, setting: str = "") -> str:
    """How tables of scores name a column: "olora (lambda1=0.1)"."""
    return f"{method} ({setting})" if setting else method


def title(column: str) -> str:
    """The title of such a column."""
    method, _, setting = column.partition(" (")
    return title_of(method, setting.removesuffix(")"))


def quoted(text: str) -> str:
    """A title as a part of a sentence: in quotes where it has a comma."""
    return f"“{text}”" if "," in text else text


def run_scores(each: pd.DataFrame, value: str = "AA_options") -> pd.DataFrame:
    """A row a run (order, seed), a column a method, from a table with a row a run (NAME-runs.csv) of one stream, base and form of
    prompt; NaN where a method has not learned that order with that seed."""
    if len(kinds := each[SURROUNDINGS].drop_duplicates()) > 1:
        raise InputError(f"expected runs of one stream, base and form of prompt, found {len(kinds)} of them: give those of one")
    if each.empty or value not in each:
        raise InputError(f"expected a row a run with the columns method, order, seed and {value}, found none")
    each = each.assign(setting=each["setting"].fillna(""), order=each["order"].astype(str))
    columns = [named(*pair) for pair in each[["method", "setting"]].drop_duplicates().itertuples(index=False)]
    return each.assign(method=list(map(named, each["method"], each["setting"]))).pivot(
        index=["order", "seed"], columns="method", values=value)[columns]


def paired(scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(mean, half of the 95 % interval) of row less column, for all pairs of methods over the runs that both have: both (M, M).

    scores: a row a run, a column a method. NaN where no two runs (for the mean: no run) are shared.
    """
    X = scores.to_numpy(dtype=float)                            # (runs, M)
    D = X[:, :, None] - X[:, None, :]                           # (runs, M, M)
    there = np.isfinite(D)
    n = there.sum(axis=0)                                       # (M, M)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, D, 0).sum(axis=0) / n
        variance = np.where(there, (D - mean) ** 2, 0).sum(axis=0) / (n - 1)
        half = np.where(n > 1, stdtrit(np.maximum(n - 1, 1), 0.975) * np.sqrt(variance / n), np.nan)
    return tuple(pd.DataFrame(table, scores.columns, scores.columns) for table in (mean, half))


def ranks(scores: pd.DataFrame) -> pd.Series:
    """{method: "2–4"}: the places within its own group (titles.group_of) that the runs leave open; "" for references.

    The first is 1 + the number of methods above it, the last the group's size less those below it, where above and below mean that
    the interval of the paired difference leaves out 0. The same as reports.summarise gives for one order.
    """
    mean, half = (table.to_numpy() for table in paired(scores))
    groups = np.array([group_of(method.split(" (")[0]) for method in scores])
    found = {}
    for row, (method, group) in enumerate(zip(scores, groups)):
        rivals = (groups == group) & np.isfinite(half[row]) & (np.arange(len(groups)) != row)
        first = 1 + int((mean[row] < -half[row])[rivals].sum())
        last = 1 + int((~(mean[row] > half[row]))[rivals].sum())
        found[method] = "" if group == REFERENCE or not rivals.any() else str(first) if first == last else f"{first}–{last}"
    return pd.Series(found, dtype=object)


def methods(each: pd.DataFrame) -> pd.DataFrame:
    """A row a method and setting over all its orders and seeds, in METHODS' order; columns as reports.summarise names them, but
    `_sd` is the standard deviation over all runs and `runs` is their number. each: as for `run_scores`."""
    tables = {reading: run_scores(each, reading) for reading in READINGS if reading in each}
    first = next(iter(tables.values()))
    places = {reading: ranks(scores) for reading, scores in tables.items()}
    rows = []
    for column in sorted(first, key=lambda column: (place_of(column.split(" (")[0]), column)):
        method, _, setting = column.partition(" (")
        there = first[column].dropna().index
        row = {"method": method, "setting": setting.removesuffix(")"), "title": title(column), "group": group_of(method),
               "runs": len(there), "orders": there.unique("order").size, "seeds": there.unique("seed").size}
        for reading, scores in tables.items():
            suffix = reading.removeprefix("AA")
            row |= {reading: scores[column].mean(), f"{reading}_sd": scores[column].std(ddof=1),
                    f"rank{suffix}": places[reading][column]}
            mean, half = (float("nan"),) * 2 if YARDSTICK not in scores else _between(scores, column, YARDSTICK)
            row |= {f"{reading}_minus_{YARDSTICK}": mean, f"{reading}_minus_{YARDSTICK}_half": half}
        own = each[(each["method"] == method) & (each["setting"].fillna("") == row["setting"])]
        more = ("BWT", "BWT_options", "learning_accuracy", "general_loss")
        row |= {metric: own[metric].mean() for metric in more if metric in own}
        rows.append(row)
    return pd.DataFrame(rows)


def _between(scores: pd.DataFrame, one: str, other: str) -> tuple[float, float]:
    return metrics.paired_difference(*scores[[one, other]].dropna().to_numpy().T) if one != other else (0.0, 0.0)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `methods` as text, in groups of who is ranked with whom, by the labels from the best."""
    order = table["group"].map({RIVAL: 0, RECONSTRUCTED: 1, REFERENCE: 2})
    by = [reading for reading in reversed(READINGS) if reading in table][0]
    table = table.assign(_group=order).sort_values(["_group", by], ascending=[True, False], kind="stable")
    shown = {"method": table["title"], "runs": [f"{o} × {s}" if o * s == n else str(n) for o, s, n in
                                                table[["orders", "seeds", "runs"]].itertuples(index=False)]}
    for reading, name in zip(READINGS, ("exact", "labels")):
        if reading in table:
            less = f"{reading}_minus_{YARDSTICK}"
            shown |= {f"AA {name}": _plus_minus(table[reading], table[f"{reading}_sd"]),
                      f"{name} less {YARDSTICK}": _plus_minus(table[less], table[f"{less}_half"], signed),
                      f"rank {name}": table[f"rank{reading.removeprefix('AA')}"]}
    return pd.DataFrame(shown).rename(columns={"runs": "orders × seeds"})


def _plus_minus(values, halves, text="{:.1f}".format) -> list[str]:
    return ["" if v != v else text(v) if h != h else f"{text(v)} ± {h:.1f}" for v, h in zip(values, halves)]


def against(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Every other method less the baseline, the highest first: columns title, mean, half, runs and verdict ("above", "below", or
    "not told apart" where the interval holds 0)."""
    if baseline not in scores or len(scores.columns) < 2:
        raise InputError(f"expected scores of {baseline} and of another method, found {', '.join(map(str, scores)) or 'none'}")
    rows = []
    for column in scores.columns.drop(baseline):
        mean, half = _between(scores, column, baseline)
        verdict = "above" if mean > half else "below" if -mean > half else "not told apart"
        rows.append({"method": column, "title": title(column), "mean": mean, "half": half,
                     "runs": len(scores[[column, baseline]].dropna()), "verdict": verdict})
    return pd.DataFrame(rows).sort_values("mean", ascending=False, kind="stable", na_position="last").reset_index(drop=True)


def told(scores: pd.DataFrame, one: str, other: str, of: str = "average accuracy") -> str:
    """One sentence: is `one` above `other`? As much as the interval carries, and no more."""
    row, = against(scores[[one, other]], other).to_dict("records")
    a, b = quoted(title(one)), quoted(title(other))
    if not row["half"] == row["half"]:
        return f"{a} and {b} share {row['runs']} run{'s' * (row['runs'] != 1)}: no interval, and nothing to tell."
    numbers = f"{of} {signed(row['mean'])} ± {row['half']:.1f} points against it, 95 % interval over {row['runs']} runs"
    if row["verdict"] == "not told apart":
        return f"{a} and {b} are not told apart: {numbers.replace('against it', 'between them')}, which holds 0."
    return f"{a} is {row['verdict']} {b}: {numbers}."


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def disparity(matrices: pd.DataFrame, reading: str = "labels") -> pd.DataFrame:
    """MOPD and AOPD of every method that has several orders (metrics.order_disparity), a row a method, the lowest AOPD first.

    For every seed that has all of the method's orders; the columns are the mean over these seeds and `_sd`. matrices: a table of
    reports.matrices of one stream, base and form of prompt. Empty where no method has two orders.
    """
    finals: dict[str, dict] = {}
    for column, (order, seed), R in by_run(matrices, reading):
        finals.setdefault(column, {}).setdefault(seed, {})[order] = R.iloc[-1].to_dict()
    rows = []
    for column, seeds in finals.items():
        orders = set().union(*seeds.values())
        whole = [of_seed for of_seed in seeds.values() if len(of_seed) == len(orders) > 1]
        found = np.array([metrics.order_disparity(of_seed) for of_seed in whole])
        if len(found):
            spread = found.std(axis=0, ddof=1) if len(found) > 1 else (np.nan, np.nan)
            rows.append({"method": column, "title": title(column), "orders": len(orders), "seeds": len(found),
                         "MOPD": found[:, 0].mean(), "MOPD_sd": spread[0], "AOPD": found[:, 1].mean(), "AOPD_sd": spread[1]})
    return pd.DataFrame(rows).sort_values("AOPD", kind="stable").reset_index(drop=True) if rows else pd.DataFrame()


def newest(matrices: pd.DataFrame, reading: str = "labels") -> dict[str, pd.DataFrame]:
    """{method: its score on the newest task, R[i][i]}: a row a run, a column i = 1 .. T, NaN where not measured."""
    found: dict[str, dict] = {}
    for column, run, R in by_run(matrices, reading):
        found.setdefault(column, {})[run] = R.to_numpy(dtype=float).diagonal()
    return {column: pd.DataFrame.from_dict(runs, orient="index").rename(columns=lambda i: i + 1) for column, runs in found.items()}


def ends(values: dict[str, pd.DataFrame], share: float = 0.1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(first, last): the mean over the first and over the last `share` of the tasks, both a row a run, a column a method."""
    first, last = {}, {}
    for column, table in values.items():
        count = max(1, round(share * len(table.columns)))
        first[column], last[column] = table.iloc[:, :count].mean(axis=1), table.iloc[:, -count:].mean(axis=1)
    return pd.DataFrame(first), pd.DataFrame(last)


def returns(matrices: pd.DataFrame, reading: str = "labels") -> pd.DataFrame:
    """Tasks that come a second time, X-again with the same rows and X-changed with other answers (world.hundred): a row a run and task.

    first, second: the score just after each of its two trainings, of X-changed the second by its new answers. before, after: the
    score of X as it was learned first, the last time before the second training and the first time from then on. Tasks that were
    not scored between their trainings are left out.
    """
    rows = []
    for column, (order, seed), R in by_run(matrices, reading):
        names = list(R.columns)
        for two, again in enumerate(names):
            name, _, how = again.rpartition("-")
            if how not in ("again", "changed") or name not in names:
                continue
            one = names.index(name)
            scores = R[name].to_numpy(dtype=float)
            scored = np.flatnonzero(np.isfinite(scores))
            earlier, later = scored[(scored > one) & (scored < two)], scored[scored >= two]
            if len(earlier) and len(later):
                rows.append({"method": column, "order": order, "seed": seed, "task": name, "how": how, "first": scores[one],
                             "before": scores[earlier[-1]], "second": float(R[again].iloc[two]), "after": scores[later[0]]})
    return pd.DataFrame(rows)
