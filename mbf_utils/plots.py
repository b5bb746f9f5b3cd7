"""Figures from tables: one question each, its answer in the title, one colour for a method everywhere.

Scores are percentages. Every function returns a figure that shows itself in a notebook as the last line of a cell;
nothing is drawn on pyplot's figures, so nothing appears twice. Spread is the sample standard deviation (ddof 1).
"""
from __future__ import annotations

import colorsys
import hashlib
import io
import re
import textwrap
from pathlib import Path
from types import MappingProxyType
from typing import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from PIL import Image                                   # which matplotlib brings

from .errors import InputError

NAMES = MappingProxyType({
    "slao": "SLAO", "seqlora": "Sequential LoRA", "inclora": "IncLoRA", "olora": "O-LoRA",
    "per_task": "One adapter a task (oracle)", "multi_task": "Multi-task", "zero_shot": "Zero-shot",
    "task_arithmetic": "Task arithmetic",
})
METRICS = MappingProxyType({
    "AA": "average accuracy (%)", "BWT": "backward transfer (%)", "FWT": "forward transfer (%)", "forgetting": "forgetting (%)",
    "learning_accuracy": "learning accuracy (%)", "average_incremental_accuracy": "average incremental accuracy (%)",
    "general_loss": "loss on general text (nats per token)",
})
LOWER_IS_BETTER = ("forgetting", "general_loss")
# Okabe and Ito's palette, which all kinds of colour vision tell apart
LOOKS = MappingProxyType({                              # name: colour, marker, line (dashed: what is a bound, not a method)
    "slao": ("#0072B2", "o", "-"), "seqlora": ("#D55E00", "s", "-"), "inclora": ("#E69F00", "^", "-"),
    "olora": ("#009E73", "D", "-"), "per_task": ("#222222", "*", "--"), "multi_task": ("#CC79A7", "P", "--"),
    "zero_shot": ("#8A8A8A", "X", ":"), "task_arithmetic": ("#7A4B2A", "h", "-"),
})                                                      # a method without a row here gets its look from its name
BOUNDS = ("per_task", "multi_task", "zero_shot")         # drawn for orientation; titles speak of the others
MARKERS = ("v", "<", ">", "p", "h", "d", "8")
DPI = 110
WIDTH = 11                                              # inches, the widest figure
PANELS = 15                                             # task panels of one figure; of longer streams every nth task is shown
ANNOTATED = 20                                          # tasks up to which a heat map's cells carry numbers


class Picture(Figure):
    """A matplotlib Figure that a notebook shows when a cell returns it."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure) -> bytes:
    """The figure as PNG in 192 colours: a third of the bytes, so notebooks stay light; equal figures give equal bytes."""
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png", dpi=DPI)
    Image.open(whole).convert("RGB").quantize(192, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def colour(method: str) -> str:
    """The colour of a method, as #rrggbb: the same in all figures; a variant of SLAO (`slao_...`) is a shade of its blue."""
    if method in LOOKS:
        return LOOKS[method][0]
    hue, lightness, saturation = (byte / 255 for byte in hashlib.sha3_256(method.encode()).digest()[:3])
    if method.startswith("slao_"):
        hue, lightness, saturation = 0.5 + 0.17 * hue, 0.22 + 0.45 * lightness, 0.5 + 0.5 * saturation
    else:                                               # around the blues, not too light for white paper
        hue, lightness, saturation = 0.72 + 0.75 * hue, 0.25 + 0.3 * lightness, 0.4 + 0.5 * saturation
    return matplotlib.colors.to_hex(colorsys.hls_to_rgb(hue % 1, lightness, saturation))


def forgetting_curves(matrices: Mapping, title: str | None = None, reading: str = "exact match") -> Figure:
    """What is left of each task while the others are learned: a panel a task, a line a method, at last the mean.

    matrices: method name -> accuracy matrix (rows after task i, columns task j, NaN where not measured), or a list of
    them, one a seed: then the line is the mean and the band one standard deviation to either side.
    """
    tasks, scores = _scores(matrices)
    so_far = {method: np.stack([values[:, i, :i + 1].mean(axis=1) for i in range(len(tasks))], axis=1)   # (seeds, T)
              for method, values in scores.items()}
    shown = np.unique(np.linspace(0, len(tasks) - 1, min(len(tasks), PANELS)).round().astype(int))
    columns = min(len(shown) + 1, 3 if len(shown) < 9 else 4)
    rows = len(shown) // columns + 1
    seeds = max(len(values) for values in scores.values())
    spread = "One seed." if seeds == 1 else f"Lines: mean of {seeds} seeds; bands: one standard deviation."
    subtitle = f"Scored by {reading}. {spread} Dotted: the task itself is learned."
    if len(shown) < len(tasks):
        subtitle += f" {len(shown)} of {len(tasks)} tasks shown."
    figure = _figure(WIDTH, 0.9 + rows * (2.7 if rows < 3 else 2.15), title or _what_is_kept(so_far), subtitle)
    panels = {_short(f"{task + 1} {tasks[task]}", 88 // columns): {method: values[:, :, task] for method, values in scores.items()}
              for task in shown} | {"mean of the tasks so far": so_far}
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for number, (axis, (heading, lines)) in enumerate(zip(axes, panels.items())):
        last = number == len(panels) - 1
        axis.set_title(heading, fontsize=12, loc="left", fontweight="bold" if last else None)
        if last:
            axis.set_facecolor("#f1f1ee")
        else:
            axis.axvline(shown[number] + 1, color="0.6", linestyle=":", linewidth=1.2, zorder=0)
        for method, values in lines.items():
            _line(axis, method, values)
        axis.set(ylim=(-4, 104), yticks=(0, 50, 100), xlim=(0.5, len(tasks) + 0.5), xticks=_ticks(len(tasks)))
        axis.set_xlabel("tasks learned" if number >= len(panels) - columns else "", fontsize=12)
        axis.tick_params(labelsize=12, labelbottom=True)
        axis.grid(axis="y", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(panels):]:
        axis.remove()
    figure.supylabel("right answers (%)", fontsize=13)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=12, frameon=False,
                  ncols=min(len(scores), 4))
    return figure


def matrix_heatmap(matrix: pd.DataFrame, title: str | None = None, reading: str = "exact match") -> Figure:
    """One accuracy matrix as a heat map; cells that were not measured stay blank."""
    tasks, scores = _scores({"": matrix})
    R, count = scores[""][0], len(tasks)
    labels = [_short(f"{i} {task}", 24) for i, task in enumerate(tasks, 1)]
    frame = pd.DataFrame(R, index=labels, columns=labels)
    figure = _figure(min(WIDTH, 7.5 + 0.3 * count), min(9.5, 3.6 + 0.45 * count), title or _what_is_left(R, tasks),
                     f"Right answers in %, scored by {reading}.")
    axis = figure.subplots()
    every = 1 if count <= ANNOTATED else -(-count // ANNOTATED)
    seaborn.heatmap(frame, ax=axis, mask=frame.isna(), vmin=0, vmax=100, cmap="cividis", annot=count <= ANNOTATED,
                    fmt=".0f", annot_kws={"fontsize": 12}, linewidths=0.5 if count <= ANNOTATED else 0,
                    xticklabels=every, yticklabels=every)
    axis.tick_params(labelsize=12)
    axis.tick_params(axis="y", rotation=0)
    axis.set_xticks(axis.get_xticks(), axis.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    axis.set_xlabel("tested on", fontsize=13)
    axis.set_ylabel("after learning", fontsize=13)
    axis.collections[0].colorbar.ax.tick_params(labelsize=12)
    return figure


def comparison(table: pd.DataFrame, value: str = "AA", error: str | None = None, title: str | None = None) -> Figure:
    """One metric of several methods, in the table's order: a point with its spread, small dots for the seeds.

    table: columns `method`, `value`, perhaps `error` (half the bar; by default `value` + "_sd") and `scores` (a list of the
    seeds' values). value: a key of Run.metrics().
    """
    error = error or f"{value}_sd"
    if not isinstance(table, pd.DataFrame) or table.empty or not {"method", value} <= set(table.columns):
        raise InputError(f"expected a table with rows and the columns method and {value}, found {table!r}.")
    methods, values = list(table["method"]), table[value].to_numpy(dtype=float)
    spread = table[error].to_numpy(dtype=float) if error in table.columns else np.full(len(table), np.nan)
    name = METRICS.get(value.removesuffix("_options"), value)
    subtitle = f"Scored by {'options' if value.endswith('_options') else 'exact match'}. " if "%" in name else ""
    subtitle += "Bars: one standard deviation over the seeds." if np.isfinite(spread).any() else "One seed: no spread."
    figure = _figure(WIDTH, 1.5 + 0.42 * len(table), title or _who_leads(value, name, methods, values, spread), subtitle)
    axis = figure.subplots()
    for row, method in enumerate(methods):
        if "scores" in table.columns:
            dots = np.atleast_1d(np.asarray(table["scores"].iloc[row], dtype=float))
            axis.plot(dots, np.full(len(dots), row), ".", color=colour(method), alpha=0.45, markersize=9)
        axis.errorbar(values[row], row, xerr=spread[row] if np.isfinite(spread[row]) else None, color=colour(method),
                      marker=_look(method)[0], markersize=9, capsize=5, linewidth=2.2)
        text = _number(values[row], name) + (f" ± {_number(spread[row], name)}" if np.isfinite(spread[row]) else "")
        axis.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=12)
    axis.set_yticks(range(len(methods)), [_display(method) for method in methods])
    axis.set_ylim(len(methods) - 0.5, -0.5)
    axis.margins(x=0.08)
    axis.tick_params(labelsize=12)
    axis.set_xlabel(name, fontsize=13)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, name: str, table: pd.DataFrame | None = None, folder: str | Path = "figures") -> Path:
    """Writes folder/name.png and, with a table, folder/name.csv beside it; returns the picture's path.

    Equal figures give equal bytes: no date and no version goes into the file.
    """
    path = Path(folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(figure))
    if table is not None:
        table.to_csv(path.with_name(f"{name}.csv"), index=not isinstance(table.index, pd.RangeIndex), lineterminator="\n")
    return path


def _what_is_kept(so_far: dict[str, np.ndarray]) -> str:
    """so_far: method -> (seeds, T) means over the tasks learned so far."""
    count = next(iter(so_far.values())).shape[1]
    after = f"After {count} task{'s' * (count > 1)}"
    kept = {method: values[:, -1].mean() for method, values in so_far.items() if np.isfinite(values[:, -1]).all()}
    kept = {method: mean for method, mean in kept.items() if method not in BOUNDS} or kept
    if not kept:
        return f"{after}: not every task was measured"
    if len(kept) > 2:
        best, worst = max(kept, key=kept.get), min(kept, key=kept.get)
        return (f"{after} {_in_sentence(best)} keeps most, {kept[best]:.0f} % on average, "
                f"and {_in_sentence(worst)} least, {kept[worst]:.0f} %")
    first, *others = kept
    return f"{after} {_in_sentence(first)} keeps {kept[first]:.0f} % on average" + "".join(
        f", {_in_sentence(other)} {kept[other]:.0f} %" for other in others)


def _what_is_left(R: np.ndarray, tasks: Sequence[str]) -> str:
    earlier = len(tasks) - 1
    learned, left = R.diagonal()[:earlier], R[-1, :earlier]
    if earlier == 0:
        return f"After the one task {R[0, 0]:.0f} % of the answers are right"
    if not (np.isfinite(learned).all() and np.isfinite(left).all()):
        return f"After {len(tasks)} tasks: not every task was measured"
    then, now, after = f"{learned.mean():.0f} %", f"{left.mean():.0f} %", f"after {len(tasks)} tasks"
    if left.mean() >= learned.mean():
        return f"The earlier tasks kept what was learned: {then} when learned, {now} {after}"
    worst = int(np.argmin(left - learned))
    return (f"The earlier tasks fell from {then} when learned to {now} {after}; "
            f"{_short(tasks[worst], 24)} most, from {learned[worst]:.0f} % to {left[worst]:.0f} %")


def _who_leads(value: str, name: str, methods: Sequence[str], values: np.ndarray, spread: np.ndarray) -> str:
    lower = value.removesuffix("_options") in LOWER_IS_BETTER
    ranked = [row for row in np.argsort(values if lower else -values, kind="stable") if np.isfinite(values[row])]
    real = [row for row in ranked if methods[row] not in BOUNDS]
    ranked = real if len(real) > 1 else ranked
    if len(ranked) < 2:
        return "Only one method was measured" if ranked else "No method was measured"
    first, second = ranked[:2]
    words, unit = name.split(" (")[0], " %" if "%" in name else ""
    title = (f"{_display(methods[first])} has the {'lowest' if lower else 'highest'} {words}, "
             f"{_number(values[first], name)}{unit}; next {_in_sentence(methods[second])}, {_number(values[second], name)}{unit}")
    if abs(values[first] - values[second]) < np.nan_to_num(spread[[first, second]]).max():
        title += ": a difference within the spread"
    return title


def _scores(matrices: Mapping) -> tuple[list[str], dict[str, np.ndarray]]:
    """Task names, and for each method the scores as (seeds, T, T), T the tasks learned so far; the input stays as it is."""
    if not isinstance(matrices, Mapping) or not matrices:
        raise InputError("expected accuracy matrices by method name, found none; give {'slao': run.matrix}.")
    lists = {method: [given] if isinstance(given, pd.DataFrame) else list(given or ()) for method, given in matrices.items()}
    frames = [frame for given in lists.values() for frame in given]
    if not all(lists.values()) or not all(isinstance(f, pd.DataFrame) and f.notna().to_numpy().any() for f in frames):
        raise InputError("expected for every method a DataFrame with a measured cell, or several, found other things or none.")
    tasks = [str(task) for task in frames[0].columns]
    if any([str(task) for task in frame.columns] != tasks for frame in frames):
        raise InputError("expected matrices of the same tasks in the same order, found others; give each stream its own figure.")
    if any(len(frame) > len(tasks) for frame in frames):
        raise InputError("expected a row after each task and a column for each task, found more rows than columns.")
    measured = {id(frame): int(np.flatnonzero(frame.notna().any(axis=1))[-1]) + 1 for frame in frames}
    count = max(measured.values())
    scores = {method: np.full((len(given), count, count), np.nan) for method, given in lists.items()}
    for method, given in lists.items():
        for seed, frame in enumerate(given):
            rows = measured[id(frame)]
            scores[method][seed, :rows] = frame.to_numpy(dtype=float)[:rows, :count]
    return tasks[:count], scores


def _figure(width: float, height: float, title: str, subtitle: str) -> Picture:
    """An empty figure with both lines at the top left; they take their own height."""
    title = textwrap.fill(title.replace(" %", "\u00a0%"), int(width * 8)).replace("\u00a0", " ")     # 52 % stays on one line
    subtitle = textwrap.fill(subtitle, int(width * 11.7))
    head = 0.12 + 0.28 * (title.count("\n") + 1) + 0.23 * (subtitle.count("\n") + 1)     # inches
    figure = Picture(figsize=(width, height + head), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, rect=(0, 0, 1, 1 - head / figure.get_figheight()))
    for text, down, style in ((title, 0.1, {"fontsize": 15, "fontweight": "bold"}),
                              (subtitle, 0.1 + 0.28 * (title.count("\n") + 1), {"fontsize": 12, "color": "0.3"})):
        figure.text(0.01, 1 - down / figure.get_figheight(), text, ha="left", va="top", in_layout=False, **style)
    return figure


def _line(axis, method: str, values: np.ndarray) -> None:
    """values: (seeds, T)."""
    marker, style = _look(method)
    steps, mean = np.arange(1, values.shape[1] + 1), values.mean(axis=0)
    axis.plot(steps, mean, color=colour(method), marker=marker, linestyle=style, linewidth=2, label=_display(method),
              markersize=6 if len(steps) <= 8 else 4 if len(steps) <= 30 else 2.5)
    if len(values) > 1:
        spread = values.std(axis=0, ddof=1)
        axis.fill_between(steps, mean - spread, mean + spread, color=colour(method), alpha=0.18, linewidth=0)


def _look(method: str) -> tuple[str, str]:
    if method in LOOKS:
        return LOOKS[method][1:]
    return MARKERS[hashlib.sha3_256(method.encode()).digest()[3] % len(MARKERS)], "-"


def _display(method: str) -> str:
    return NAMES.get(method, method)


def _in_sentence(method: str) -> str:
    """The display name inside a sentence: "sequential LoRA", but "IncLoRA"."""
    name = _display(method)
    return name[0].lower() + name[1:] if re.match(r"[A-Z][a-z]+\b", name) else name


def _ticks(count: int) -> list[int]:
    step = 1 if count <= 8 else 5 if count <= 30 else 10 * -(-count // 50)
    return sorted({1, *range(step, count + 1, step)})


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[:width - 1] + "…"


def _number(value: float, name: str) -> str:
    """One digit for percentages, two for what is measured otherwise."""
    return f"{value:.{1 if '%' in name else 2}f}".replace("-", "−")
