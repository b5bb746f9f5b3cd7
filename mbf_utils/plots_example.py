"""The picture of one example: what a model believes of it, and what it writes, after each task. From a table of `beliefs.py`.

Options are compared by their share of what the options have together: that tells what is known. What they have together of the
whole vocabulary, and the written answer, tell whether the model would say it.
"""
from __future__ import annotations

import textwrap
from typing import Sequence

import numpy as np
import pandas as pd

from .looks import short
from .plots import WIDTH, Picture, canvas
from .plots_explore import FRAME

SHOWN = 14                                              # options of one picture; of more, those that were likeliest once


def example(table: pd.DataFrame, prompt: str, answers: Sequence[str], after: int, names: Sequence[str],
            title: str | None = None) -> Picture:
    """Which of its options does the model believe in, task after task? table: from beliefs.Beliefs.table; answers: the right
    ones; after: the moment that is framed; names: the tasks'."""
    shares, mass, wrote, right = _read(table)
    rows, width = _rows(shares, answers), 88 // shares.shape[1]
    note = "" if len(rows) == len(shares) else f" The {len(rows)} likeliest of {len(shares)} options."
    figure = canvas(WIDTH, 5.8, title or _what_it_believes(shares, answers, after, wrote, right),
                    "Cells: each option's share of what all options have together, in %. Below them what they have together of "
                    f"the whole vocabulary, and what the model writes (✓: right).{note}", lines=2)
    inches = figure.get_figheight()
    figure.set_layout_engine("none")                                 # a fixed place for everything: quick, and nothing moves
    figure.text(0.01, 5.72 / inches, _wrapped(prompt), fontsize=11, family="monospace", va="top", linespacing=1.3)
    cells, below = (figure.add_axes((0.15, bottom / inches, 0.84, height / inches))
                    for bottom, height in ((1.4, 3.4), (0.6, 0.7)))
    _cells(cells, 100 * shares.loc[rows].to_numpy())
    cells.set_yticks(range(len(rows)), [short(option, 24) + " ✓" * (option in answers) for option in rows])
    for column, moment in enumerate(shares):
        below.text(column, 0, _percent(mass[moment]), ha="center", va="center", fontsize=12)
        answer = short(wrote[moment] or "nothing", width) + " ✓" * bool(right[moment])
        below.text(column, 1, answer, ha="center", va="center", fontsize=11, fontweight="bold" if right[moment] else None)
    below.set_yticks([0, 1], ["all options, %", "it writes"])
    below.set_xticks(range(shares.shape[1]), [short(f"{moment} {names[moment - 1]}", width) if moment else "base"
                                              for moment in shares])
    below.set_xlabel("after task", fontsize=13)
    cells.set_xticks([])
    for axis, count in ((cells, len(rows)), (below, 2)):
        axis.tick_params(labelsize=12, length=0)
        axis.set(xlim=(-0.55, shares.shape[1] - 0.45), ylim=(count - 0.45, -0.55))
        axis.spines[:].set_visible(False)
        if after in shares:
            start, end = list(shares).index(after) - 0.5, list(shares).index(after) + 0.5
            axis.plot([start, start, end, end, start], np.array([0, count, count, 0, 0]) - 0.5, color=FRAME, linewidth=3,
                      clip_on=False)
    return figure


def example_in_words(table: pd.DataFrame, answers: Sequence[str], after: int, names: Sequence[str]) -> str:
    """The numbers of `example` at one moment."""
    shares, mass, wrote, right = _read(table)
    when = f"After task {after} ({names[after - 1]})" if after else "Before the first task"
    best, share = shares[after].idxmax(), float(shares[after][shares.index.isin(list(answers))].sum())
    likeliest = "is the likeliest" if best in answers else f"the likeliest is “{best}” with {_percent(shares[after][best])} %"
    return (f"{when} the right answer, “{', '.join(answers)}”, has {_percent(share)} % of what the {len(shares)} options have "
            f"together{' and ' if best in answers else '; '}{likeliest}. All of them get {_percent(mass[after])} % of the "
            f"probability; the model writes “{wrote[after]}”, which is {'right' if right[after] else 'wrong'}.")


def _read(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series, pd.Series, pd.Series]:
    """(each option's share of what all have together, options x moments; and by moment: what they have together of the whole
    vocabulary, what is written, whether that is right)."""
    wide = table.pivot(index="option", columns="after", values="probability").loc[list(dict.fromkeys(table.option))]
    by_moment = table.groupby("after")
    return wide / wide.sum(), wide.sum(), by_moment.wrote.first(), by_moment.right.first()


def _what_it_believes(shares: pd.DataFrame, answers: Sequence[str], after: int, wrote: pd.Series, right: pd.Series) -> str:
    begin = f"{f'After task {after}' if after else 'Before the first task'} the model writes “{short(wrote[after], 30)}”"
    best = shares[after].idxmax()
    if right[after]:
        return f"{begin}, which is right"
    share = _percent(shares[after][best])
    if best in answers:
        return f"{begin}, which is wrong; among the task's options the right one, “{short(best, 30)}”, leads with {share} %"
    return f"{begin}, which is wrong; among the task's options “{short(best, 30)}” leads with {share} %, wrong too"


def _rows(shares: pd.DataFrame, right: Sequence[str]) -> list[str]:
    """The options that are drawn, in their own order."""
    if len(shares) <= SHOWN:
        return list(shares.index)
    order = shares.max(axis=1).sort_values(ascending=False, kind="stable").index
    kept = {*[option for option in order if option in right], *order[:SHOWN - 1]}
    return [option for option in shares.index if option in kept]


def _cells(axis, values: np.ndarray) -> None:
    """values: (options, moments) in %."""
    axis.imshow(values, vmin=0, vmax=100, cmap="cividis", aspect="auto")
    for row, column in np.ndindex(values.shape):
        axis.text(column, row, _percent(values[row, column] / 100), ha="center", va="center", fontsize=11,
                  color="black" if values[row, column] >= 55 else "white")


def _percent(share: float) -> str:
    value = 100 * share
    return "<1" if 0 < value < 0.95 else f"{value:.0f}"


def _wrapped(prompt: str, width: int = 112, lines: int = 5) -> str:
    found = [line for part in prompt.strip().splitlines() for line in textwrap.wrap(part, width) or [""]]
    return "\n".join(found if len(found) <= lines else [*found[:lines - 2], "…", found[-1]])
