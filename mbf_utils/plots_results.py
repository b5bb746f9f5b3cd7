"""Figures of a comparison's runs: what the seeds carry against one method, and what the order of the tasks does."""
from __future__ import annotations

from typing import Sequence

import numpy as np
import pandas as pd

from .errors import InputError
from .looks import colour, in_sentence, look, marked, number, short
from .metrics import paired_difference
from .plots import WIDTH, Picture, canvas
from .titles import title_of

ORDER_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def differences(scores: pd.DataFrame, baseline: str, title: str | None = None) -> Picture:
    """How far every method is from the baseline over the seeds that both have: the mean of the paired differences with its 95 %
    t-interval, the highest on top; a hollow point where the interval holds 0.

    scores: a row a seed, a column a method (its METHODS name, perhaps with a setting), in percent; NaN where not measured.
    """
    if baseline not in scores or len(scores.columns) < 2:
        raise InputError(f"expected scores of {baseline} and of another method, found {', '.join(map(str, scores)) or 'none'}")
    found = {method: paired_difference(*scores[[method, baseline]].dropna().to_numpy().T) for method in scores if method != baseline}
    methods = sorted(found, key=lambda method: -np.nan_to_num(found[method][0], nan=-1e9))
    seeds = scores.notna().sum()
    count = f"{seeds.min()} to {seeds.max()}" if seeds.min() < seeds.max() else f"{seeds.max()}"
    figure = canvas(WIDTH, 1.4 + 0.36 * len(methods), title or _what_the_seeds_carry(found, baseline),
                    f"Points more or less than {in_sentence(_title(baseline))}, of {count} seeds: mean of the paired differences with its 95 % "
                    f"interval. Hollow: the interval holds 0.{marked([method.split(' (')[0] for method in methods])}")
    axis = figure.subplots()
    axis.axvline(0, color=colour(baseline.split(" (")[0]), linewidth=2)
    for row, method in enumerate(methods):
        mean, half = found[method]
        name, open_ = method.split(" (")[0], not abs(mean) > half
        axis.errorbar(mean, row, xerr=half if half == half else None, color=colour(name), marker=look(name)[0], markersize=9, capsize=5,
                      linewidth=2.2, markerfacecolor="white" if open_ else colour(name))
        text = number(mean, "%") + (f" ± {number(half, '%')}" if half == half else "")
        axis.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=11)
    _named_rows(axis, [_title(method) for method in methods])
    axis.set_xlabel(f"difference to {in_sentence(_title(baseline))} (points)", fontsize=13)
    return figure


def orders(runs: pd.DataFrame, value: str = "AA", title: str | None = None) -> Picture:
    """What the order of the same tasks does to every method: a mark an order, the mean over its seeds; the widest on top.

    runs: a row a run, columns method, order and `value`, as reports.summarise gives them for the orders of one stream.
    """
    if runs.empty or not {"method", "order", value} <= set(runs.columns) or runs["order"].nunique() < 2:
        raise InputError(f"expected runs in several orders with the columns method, order and {value}, found none")
    means = runs.pivot_table(index="method", columns="order", values=value, sort=False).dropna()
    width = (means.max(axis=1) - means.min(axis=1)).sort_values(ascending=False, kind="stable")
    widest, narrowest = width.index[0], width.index[-1]
    figure = canvas(WIDTH, 1.4 + 0.3 * len(width), title or f"The order moves {in_sentence(_title(widest))} most, by {width.iloc[0]:.0f} points, "
                    f"and {in_sentence(_title(narrowest))} least, by {width.iloc[-1]:.0f}",
                    f"{value.removesuffix('_options')} by {'the best of the labels' if value.endswith('_options') else 'exact match'}, "
                    f"mean over the seeds of each order.{marked(list(width.index))}")
    axis = figure.subplots()
    for row, method in enumerate(width.index):
        axis.plot([means.loc[method].min(), means.loc[method].max()], [row, row], color=colour(method), linewidth=2.2, alpha=0.5)
        for order, marker in zip(means.columns, ORDER_MARKERS):
            axis.plot(means.loc[method, order], row, marker, color=colour(method), markersize=8)
        axis.annotate(f"{width[method]:.1f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=11)
    for order, marker in zip(means.columns, ORDER_MARKERS):
        axis.plot([], [], marker, color="0.3", markersize=8, linestyle="none", label=f"order {order}")
    _named_rows(axis, [_title(method) for method in width.index])
    axis.set_xlabel("average accuracy (%)", fontsize=13)
    figure.legend(loc="outside lower center", ncols=len(means.columns), fontsize=12, frameon=False)
    return figure


def _title(method: str) -> str:
    name, _, setting = method.partition(" (")
    return title_of(name, setting.removesuffix(")"))


def _what_the_seeds_carry(found: dict[str, tuple[float, float]], baseline: str) -> str:
    above = [_title(method) for method, (mean, half) in found.items() if mean > half]
    below = [_title(method) for method, (mean, half) in found.items() if -mean > half]
    undecided = len(found) - len(above) - len(below)
    said = [f"{_listed(above)} above {_title(baseline)}"] * bool(above) + [f"{_listed(below)} below{' it' if above else ' ' + _title(baseline)}"] * bool(below)
    rest = f"the seeds do not tell {undecided if said else 'any of ' + str(undecided)} from {'it' if said else _title(baseline)}"
    sentence = "; ".join(said + [rest] * bool(undecided))
    return sentence[:1].upper() + sentence[1:]


def _listed(titles: Sequence[str]) -> str:
    """Up to two by name, more as their number."""
    return f"{' and '.join(titles)} {'is' if len(titles) == 1 else 'are'}" if len(titles) < 3 else f"{len(titles)} are"


def _named_rows(axis, titles: Sequence[str]) -> None:
    axis.set_yticks(range(len(titles)), [short(text, 44) for text in titles])
    axis.set_ylim(len(titles) - 0.5, -0.5)
    axis.margins(x=0.08)
    axis.tick_params(labelsize=11)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
