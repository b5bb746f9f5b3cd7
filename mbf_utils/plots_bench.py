"""Figures of the benchmarks' tables: each goal with what was measured, and what grows with what."""
from __future__ import annotations

import pandas as pd

from .errors import InputError
from .plots import WIDTH, Picture, canvas

HOLDS, FAILS = "#0072B2", "#D55E00"


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
        colour = HOLDS if each.holds else FAILS
        axis.plot(values[::2], [row, row], color=colour, linewidth=2.2)
        axis.plot(values[1], row, marker="o" if each.holds else "s", color=colour, markersize=9,
                  markerfacecolor=colour if each.holds else "white", linestyle="none")
        axis.annotate(f"{each.value:.3g} ({each.wanted})", (1.01, row), xycoords=("axes fraction", "data"), va="center",
                      fontsize=11)
    axis.set_yticks(range(len(table)), table["goal"], fontsize=11)
    axis.set_ylim(len(table) - 0.5, -0.5)
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
    axis = figure.subplots()
    for k, (case, slope) in enumerate(slopes.items()):
        points = rows[rows["case"].str.startswith(f"{case}: ")]
        axis.plot(points["case"].str.rpartition(": ")[2].astype(float), points["value"], marker="os^DvPX"[k % 7], linewidth=2,
                  label=f"{case} ({slope:.2f})")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("size", fontsize=13)
    axis.set_ylabel(f"time ({unit})", fontsize=13)
    axis.grid(color="0.9")
    axis.legend(fontsize=11, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
