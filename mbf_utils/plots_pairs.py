"""Figures of single pairs and of bounds over several methods, for the notebooks that take LoRA and its theory apart.

The manners are those of plots.py: one question each, the answer in the title; A and B have the colours of plots_geometry.py.
"""
from __future__ import annotations

from typing import Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from .errors import InputError
from .looks import colour, look, short
from .plots import WIDTH, Picture, canvas
from .plots_geometry import FACTORS
from .titles import title_of

NUMBERED = 24                                       # entries up to which a matrix shows its numbers
SIGNS = "PuOr"                                      # negative orange, positive violet: apart for all colour vision
TRAINED = {"AB": ("A and B", "#333333", "D", ":"), "B": ("B alone, A frozen", *FACTORS["B"]),
           "A": ("A alone, B frozen", *FACTORS["A"])}


def matrices(found: Mapping, title: str, subtitle: str = "Violet: above zero; orange: below. One scale for all.") -> Picture:
    """What do these matrices look like? found: name -> matrix (rows, columns), a tensor or an array; heat maps side by side,
    one scale around zero, cells of one size; small matrices show their numbers, rounded to two decimals."""
    shown = {name: np.asarray(matrix.detach().cpu() if isinstance(matrix, Tensor) else matrix, dtype=float)
             for name, matrix in found.items()}
    if not shown or any(values.ndim != 2 or not values.size for values in shown.values()):
        raise InputError("expected matrices by name, each with rows and columns, found "
                         f"{ {name: values.shape for name, values in shown.items()} or 'none'}")
    most = max(np.nanmax(np.abs(values)) for values in shown.values()) or 1.0
    small = max(values.size for values in shown.values()) <= NUMBERED
    tall, widths = max(values.shape[0] for values in shown.values()), [values.shape[1] for values in shown.values()]
    cell = min((WIDTH - 2) / sum(widths), 3.4 / tall, 0.8)         # inches
    figure = canvas(max(7.5, cell * sum(widths) + 2), cell * tall + 0.5, title, subtitle)
    axes = figure.subplots(1, len(shown), squeeze=False, width_ratios=widths)[0]
    for axis, (name, values) in zip(axes, shown.items()):
        rows, columns = values.shape
        image = axis.imshow(values, cmap=SIGNS, vmin=-most, vmax=most, interpolation="nearest")
        for (i, j), value in np.ndenumerate(values) if small else ():
            axis.text(j, i, f"{round(value, 2) + 0.0:g}".replace("-", "−"), ha="center", va="center", fontsize=12,
                      color="white" if abs(value) > 0.65 * most else "black")
        axis.text(columns / 2 - 0.5, -0.5 - 0.06 / cell, f"{name}  ({rows} × {columns})", ha="center", va="bottom", fontsize=13)
        axis.set_ylim((rows + tall) / 2 - 0.5, (rows - tall) / 2 - 0.5 - 0.35 / cell)        # all as tall as the tallest
        axis.axis("off")
    if not small:
        figure.colorbar(image, ax=list(axes), shrink=0.8).ax.tick_params(labelsize=12)
    return figure


def gradients(table: pd.DataFrame, title: str | None = None) -> Picture:
    """Which factor learns first? table: columns step (from 1), factor ("A", "B"), value: the norm of its gradient."""
    _check(table, ("step", "factor", "value"))
    lines = table.pivot(index="step", columns="factor", values="value")
    figure = canvas(WIDTH, 3.4, title or _who_begins(lines), "Norm of the loss's gradient by each factor, step by step.")
    axis = figure.subplots()
    for factor in lines:
        shade, marker, style = FACTORS[factor]
        axis.plot(lines.index, lines[factor], color=shade, marker=marker, linestyle=style, linewidth=2.2, markersize=6,
                  label=factor)
    axis.legend(fontsize=13, frameon=False)
    axis.set_ylim(bottom=-0.03 * float(lines.max().max()) or -1)
    _labels(axis, "step", "norm of the gradient")
    return figure


def alone(table: pd.DataFrame, title: str | None = None) -> Picture:
    """Can one factor carry a task? table: columns trains ("AB", "B", "A"), size (of the orthonormal rows or columns that the
    other factor keeps), seed, score (%). Lines: means; small dots: the seeds."""
    _check(table, ("trains", "size", "seed", "score"))
    mean = table.groupby(["trains", "size"]).score.mean().unstack(0)             # rows: sizes
    seeds = table.seed.nunique()
    figure = canvas(WIDTH, 4.0, title or _who_carries(mean), "Right answers after one task. Size: the length of the frozen "
                    "factor's orthogonal rows (A) or columns (B); where both train, that of A at the start. "
                    + ("One seed." if seeds == 1 else f"Lines: mean of {seeds} seeds; small dots: the seeds."))
    axis = figure.subplots()
    for trains, (label, shade, marker, style) in TRAINED.items():
        if trains in mean:
            axis.plot(range(len(mean)), mean[trains], color=shade, marker=marker, linestyle=style, linewidth=2.2, markersize=8,
                      label=label)
            dots = table[table.trains == trains]
            places = [mean.index.get_loc(size) for size in dots["size"]]
            axis.plot(places, dots.score, ".", color=shade, alpha=0.5, markersize=8)
    axis.set_xticks(range(len(mean)), [f"{size:g}" for size in mean.index])
    axis.set_ylim(0, 104)
    axis.legend(fontsize=13, frameon=False, loc="lower right")
    _labels(axis, "size of the frozen factor", "right answers (%)")
    return figure


def bounds(table: pd.DataFrame, measured: str = "forgetting", title: str | None = None) -> Picture:
    """Does a bound tell what several methods lose? table: rows of anatomy.forgetting or anatomy.intransigence, with a column
    `method`; measured: its column of points. A panel a method, a dot a row, the other methods' dots in grey behind."""
    _check(table, ("method", "bound", measured))
    known = table[["method", "bound", measured]].dropna()
    methods = list(dict.fromkeys(known["method"]))
    columns, rows = min(3, len(methods)), -(-len(methods) // 3)
    figure = canvas(WIDTH, 0.4 + 2.6 * rows, title or _how_well(known, measured),
                    f"A dot: the bound of one task at one moment and the {measured} that was measured. ρ: rank correlation. "
                    "Dots share tasks, so it describes and proves nothing.")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for number, (axis, method) in enumerate(zip(axes, methods)):
        mine = known["method"] == method
        for drawn, style in ((known[~mine], {"color": "0.8", "marker": ".", "markersize": 7}),
                             (known[mine], {"color": colour(method), "marker": look(method)[0], "markersize": 9})):
            axis.plot(drawn["bound"], drawn[measured], linestyle="none", **style)
        axis.axhline(0, color="0.6", linewidth=1, zorder=0)
        rho = _signed(_rank_correlation(known[mine], measured))
        axis.set_title(f"{short(title_of(method), 30)}: ρ = {rho}", fontsize=11, loc="left")
        _labels(axis, "bound" if number >= len(methods) - columns else "", "" if number % columns else f"{measured} (points)")
        axis.tick_params(labelbottom=True)
    for axis in axes[len(methods):]:
        axis.remove()
    axes[0].set_xlim(0, known["bound"].max() * 1.08 or 1)
    return figure


def _rank_correlation(rows: pd.DataFrame, measured: str) -> float:
    known = rows[["bound", measured]].dropna()
    return known["bound"].rank().corr(known[measured].rank()) if len(known) > 2 and known.nunique().min() > 1 else float("nan")


def _who_begins(lines: pd.DataFrame) -> str:
    """lines: norm of the gradient, a row a step, a column a factor."""
    begun = (lines > 0).idxmax()                                     # the first step with a gradient; the first where none has
    none = [factor for factor in lines if not (lines[factor] > 0).any()]
    if none:
        return f"{' and '.join(none)} {'has' if len(none) == 1 else 'have'} no gradient at any step"
    if begun.nunique() == 1:
        return f"Both factors have a gradient from step {begun.iloc[0]} on"
    first, later = begun.idxmin(), begun.idxmax()
    return f"At step {begun[first]} only {first} has a gradient; {later}'s begins at step {begun[later]}"


def _who_carries(mean: pd.DataFrame) -> str:
    """mean: score by size (rows) and by what trains (columns)."""
    if not {"A", "B"} <= set(mean):
        return "One factor alone was measured: nothing to compare"
    low, high = mean.iloc[0], mean.iloc[-1]
    text = [f"B alone reaches {row.B:.0f} % and A alone {row.A:.0f} %" for row in (low, high)]
    if len(mean) == 1:
        return text[0]
    return f"At size {mean.index[0]:g} {text[0]}, at size {mean.index[-1]:g} {text[1].replace(' reaches', '')}"


def _how_well(known: pd.DataFrame, measured: str) -> str:
    whole = _rank_correlation(known, measured)
    within = [value for _, rows in known.groupby("method") if (value := _rank_correlation(rows, measured)) == value]
    if not within or whole != whole:
        return f"Whether the bound tells the {measured} cannot be said: too few rows, or all alike"
    span = " to ".join(dict.fromkeys((_signed(min(within)), _signed(max(within)))))
    return f"Bound against {measured}: rank correlation {span} within a method, {_signed(whole)} over all"


def _signed(value: float) -> str:
    return "–" if value != value else f"{value:.2f}".replace("-", "−")


def _check(table, columns: tuple[str, ...]) -> None:
    if not isinstance(table, pd.DataFrame) or table.empty or not set(columns) <= set(table.columns):
        raise InputError(f"expected a table with rows and the columns {', '.join(columns)}, found {table!r}.")


def _labels(axis, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=13)
    axis.set_ylabel(y, fontsize=13)
    axis.tick_params(labelsize=12)
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
