"""Figures of the benchmarks' tables: each goal with what was measured, and what grows with what."""
from __future__ import annotations

import pandas as pd

from .errors import InputError
from .looks import colour, look
from .plots import WIDTH, Picture, canvas
from .titles import title_of

HOLDS, FAILS = "#0072B2", "#D55E00"
OTHERS = (("#E69F00", "^"), ("#CC79A7", "P"), ("#222222", "v"), ("#56B4E9", "s"), ("#7A4B2A", "X"))       # lines that are no method's


def goals(table: pd.DataFrame, title: str | None = None) -> Picture:
    """Each goal's bound and the measured median with its quartiles, as multiples of the bound. table: as goals.goals gives it."""
    if table.empty:
        raise InputError("expected at least one goal with a number, found none: run mbf bench first")
    figure = canvas(WIDTH, 1.2 + 0.36 * len(table), title or f"{int(table['holds'].sum())} of {len(table)} goals hold here",
                    "Medians with quartiles over the goal's bound. Filled circles: the goal holds. "
                    f"Machine: {'; '.join(dict.fromkeys(table['machine']))}.")
    axis = figure.subplots()
    axis.axvline(1, color="0.5", linewidth=1.5)
    axis.set_xscale("log")
    for row, each in enumerate(table.itertuples()):
        values = [max(value / each.bound, 1e-3) for value in (each.low, each.value, each.high)]
        shade = HOLDS if each.holds else FAILS
        axis.plot(values[::2], [row, row], color=shade, linewidth=2.2)
        axis.plot(values[1], row, marker="o" if each.holds else "s", color=shade, markersize=9,
                  markerfacecolor=shade if each.holds else "white", linestyle="none")
        axis.annotate(f"{each.value:.3g} ({each.wanted})", (1.01, row), xycoords=("axes fraction", "data"), va="center",
                      fontsize=11)
    axis.set_yticks(range(len(table)), table["goal"], fontsize=11)
    axis.set_ylim(len(table) - 0.5, -0.5)
    low, high = axis.get_xlim()
    axis.xaxis.set_major_formatter("{x:g}")                          # 0.9, where the usual ones write powers
    axis.xaxis.set_minor_formatter("{x:g}" if high < 5 * low else "")
    axis.set_xlabel("measured / bound", fontsize=13)
    axis.grid(axis="x", color="0.9")
    return figure


def growth(table: pd.DataFrame, item: str = "scaling", unit: str = "ms", title: str | None = None) -> Picture:
    """Time against size, a line a quantity that was varied, both axes logarithmic, the fitted slope in the legend. table: of
    mbf bench."""
    rows = table[table["item"] == item]
    slopes = rows[rows["quantity"] == "slope"].set_index("case")["value"]
    if slopes.empty:
        raise InputError(f"expected rows of {item} with slopes, found none: run mbf bench first")
    steepest = slopes.idxmax()
    figure = canvas(WIDTH, 4.6, title or f"Nothing grows faster than size^{slopes.max():.1f}: {steepest}",
                    f"Median time on log-log axes with the fitted slope (1: linear, 0: constant), on {rows['machine'].iloc[0]}.")
    axis, others = figure.subplots(), 2 * list(OTHERS)
    for case, slope in slopes.items():
        points = rows[rows["case"].str.startswith(f"{case}: ")]
        method = next((name for name in ("slao", "olora") if case.startswith(f"{title_of(name)}'s ")), None)
        shade, marker = (colour(method), look(method)[0]) if method else others.pop(0)
        axis.plot(points["case"].str.rpartition(": ")[2].astype(float), points["value"], marker=marker, linewidth=2, color=shade,
                  label=f"{case} ({slope:.2f})")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("size", fontsize=13)
    axis.set_ylabel(f"time ({unit})", fontsize=13)
    axis.grid(color="0.9")
    axis.legend(fontsize=11, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
