"""The picture of the merge explorer: a re-merged model beside the run's own, task by task, and what each task weighs in it.

Tables come from remerge.py. As in plots_explore.py one function draws and the one beside it says the same numbers in a sentence.
"""
from __future__ import annotations

import numpy as np
import pandas as pd

from .errors import InputError
from .looks import colour, short
from .plots import WIDTH, Picture, canvas
from .plots_geometry import FACTORS

NEW, OWN = "merged anew", "as the run merged"
GREY = "#B5B5B5"


def merged_anew(table: pd.DataFrame, weights: pd.DataFrame, how: str, trained: str, title: str | None = None) -> Picture:
    """Does another merge of the same training keep more? table: Remerge.table; weights: remerge.weights; how: the merge in words;
    trained: what each task's training started from.

    Left both readings, a pair of bars a task and one for their mean; right the weight of each task's factor in the merged one.
    """
    readings = list(table.reading.unique())
    tasks = list(table.task[(table.reading == readings[0]) & (table.task != "mean")])
    rows = sorted(table.rows[table.task != "mean"].unique())
    figure = canvas(WIDTH, 4.0, title or what_it_gives(table, how),
                    f"Each task trained from {trained}; asked on its first {' or '.join(map(str, rows))} test rows. Bars: 95 % "
                    "interval of a score; of the mean, that of its difference to the run's own. Right: the schedule's closed "
                    "form.", lines=2)
    *left, right = figure.subplots(1, 3, width_ratios=(4, 4, 3))
    for axis, reading in zip(left, readings):
        some = table[table.reading == reading]
        _pairs(axis, some, tasks)
        axis.set_title(reading, fontsize=13, loc="left")
    left[0].set_ylabel("right answers (%)", fontsize=13)
    left[1].tick_params(labelleft=False)
    for offset, (factor, line) in zip((-0.2, 0.2), weights.groupby("factor")):
        right.bar(line.task + offset, line.weight, width=0.4, color=FACTORS[factor][0], hatch="//" if factor == "B" else None,
                  edgecolor="white", linewidth=0, label=factor)
    right.set(xticks=range(1, len(tasks) + 1), ylim=(min(0, weights.weight.min()), 1.05))
    right.set_title("task's weight in the merge", fontsize=13, loc="left")
    right.set_xlabel("task", fontsize=13)
    right.legend(fontsize=12, frameon=False, loc="upper left")
    plain(right)
    figure.legend(*left[0].get_legend_handles_labels(), loc="outside lower center", fontsize=12, frameon=False, ncols=2)
    return figure


def _pairs(axis, table: pd.DataFrame, tasks: list[str]) -> None:
    """A pair of bars for each task, and a pair for their mean."""
    places = np.arange(len(tasks) + 1) + 0.4 * (np.arange(len(tasks) + 1) == len(tasks))             # the mean stands apart
    for offset, (name, shade, columns) in zip((-0.2, 0.2), ((NEW, colour("slao"), ("value", "low", "high")),
                                                            (OWN, GREY, ("own", "own_low", "own_high")))):
        value, low, high = (table[column].to_numpy() for column in columns)
        bars = np.abs(np.stack([value - low, high - value]))         # (2, T + 1), NaN for the mean
        if name == NEW:
            bars[:, -1] = table.half.iloc[-1]
        axis.bar(places + offset, value, width=0.4, color=shade, label=name, hatch=None if name == NEW else "..",
                 edgecolor="white", linewidth=0)
        axis.errorbar(places + offset, value, yerr=bars, fmt="none", ecolor="#222222", elinewidth=1.3, capsize=3)
    axis.axvline(places[-1] - 0.7, color="0.6", linewidth=1)
    axis.set_xticks(places, [*(short(task, 14) for task in tasks), "mean"], rotation=40, ha="right", rotation_mode="anchor")
    axis.set(ylim=(0, 104), yticks=(0, 25, 50, 75, 100))
    plain(axis)


def what_it_gives(table: pd.DataFrame, how: str) -> str:
    """The answer for the mean of the tasks, by both readings, and whether it differs from the run's own by more than its error.
    """
    means = _means(table)
    if not means:
        raise InputError("expected a table of remerge.Remerge with the tasks' mean, found none")
    values = " and ".join(f"{row.value:.0f} % by {row.reading}" for row in means)
    if (table.value == table.own).all() and all(row.half == 0 for row in means):
        return f"{how}: {values}; every row is answered as by the run's own merge"
    return f"{how}: {values}; {' and '.join(map(_against, means))} against the run's own merge"


def _means(table: pd.DataFrame) -> list:
    """The rows of the tasks' mean, one a reading."""
    return list(table[table.task == "mean"].itertuples())


def _against(row) -> str:
    return _signed(row) if abs(row.difference) > row.half else f"{_signed(row)} (within the error)"


def _signed(row) -> str:
    return f"{row.difference:+.1f}".replace("-", "−")


def merged_anew_in_words(table: pd.DataFrame, weights: pd.DataFrame, how: str, merge: str, trained: str) -> str:
    """The numbers of `merged_anew`."""
    means = _means(table)
    found = "; ".join(f"by {row.reading} {row.value:.1f} % (the run itself {row.own:.1f}, difference {_signed(row)} ± "
                      f"{row.half:.1f})" for row in means)
    tasks = ", ".join(f"{row.task} {row.value:.0f} ({row.own:.0f})" for row in
                      table[(table.task != "mean") & (table.reading == means[0].reading)].itertuples())
    weighed = "; ".join(f"{factor}: {', '.join(f'{w:.2f}' for w in line.weight)}" for factor, line in weights.groupby("factor")
                        if factor in merge) or "none is merged, so the last task's count alone"
    count = table[table.task != "mean"].task.nunique()
    return (f"{how}, mean of {count} tasks, {means[0].rows} rows: {found}. By {means[0].reading} {tasks}. "
            f"Weights of the tasks, first to last: {weighed}. Each task trained from {trained}.")


def plain(axis) -> None:
    """Ticks that can be read from afar, lines across, no frame above and to the right."""
    axis.tick_params(labelsize=12)
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
