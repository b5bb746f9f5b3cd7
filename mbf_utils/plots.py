"""Figures from tables: one question each, its answer in the title, one colour for a method everywhere.

Scores are percentages. Every function returns a figure that shows itself in a notebook as the last line of a cell;
nothing is drawn on pyplot's figures, so nothing appears twice. Spread is the sample standard deviation (ddof 1).
"""
from __future__ import annotations

import io
import re
import textwrap
from base64 import b64encode
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image                                   # which matplotlib brings

from .errors import InputError
from .looks import LOWER_IS_BETTER, METRICS, colour, look, marked, number, read_scores, short, ticks
from .looks import what_is_kept, what_is_left, who_leads
from .titles import RECONSTRUCTED, REFERENCE, RIVAL, group_of, title_of

DPI = 110
STILL = 72                                              # dots per inch of what stays of an explorer
POWER = re.compile(r"\$\\mathdefault\{(\\times|[\d^{}.+−-])*\}\$")    # how matplotlib writes the ticks of a logarithmic axis
WIDTH = 11                                              # inches, the widest figure
PANELS = 15                                             # task panels of one figure; of longer streams every nth task is shown
ANNOTATED = 20                                          # tasks up to which a heat map's cells carry numbers


class Picture(Figure):
    """A matplotlib Figure that a notebook shows when a cell returns it, with `alt` for those who do not see it. A dollar in a text
    is a dollar: names of tasks and methods are no formulas."""

    def draw(self, renderer) -> None:
        for text in self.findobj(Text):
            if "$" in text.get_text() and not POWER.fullmatch(text.get_text()):
                text.set_parse_math(False)
        super().draw(renderer)

    @property
    def alt(self) -> str:
        """Title and subtitle, the first two texts of a `canvas`, as sentences in one line."""
        texts = [" ".join(text.get_text().split()) for text in self.texts[:2]]
        return " ".join(text if text[-1:] in ".!?" else text + "." for text in texts)

    def _repr_png_(self) -> bytes:
        return png(self)

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        """The picture, its alt text where nbconvert and others look for it, and the same text for who shows no pictures."""
        return {"image/png": b64encode(png(self)).decode(), "text/plain": self.alt}, {"image/png": {"alt": self.alt}}


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as PNG in 256 colours, chosen to cover the range of a colour bar: a third of the bytes, so notebooks stay light;
    equal figures give equal bytes."""
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png", dpi=dpi)
    Image.open(whole).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()


def quick_png(figure: Figure) -> bytes:
    """The figure as PNG in a third of the time and two to four times the bytes: for pictures that move and are not kept. It is
    drawn once, where savefig draws a figure that lays itself out twice."""
    figure.set_dpi(DPI)
    whole, page = io.BytesIO(), FigureCanvasAgg(figure)
    page.draw()
    Image.fromarray(np.asarray(page.buffer_rgba())).convert("RGB").save(whole, "png", compress_level=1)
    return whole.getvalue()


def forgetting_curves(matrices: Mapping, title: str | None = None, reading: str = "exact match") -> Figure:
    """What is left of each task while the others are learned: a panel a task, a line a method, at last the mean.

    matrices: method name -> accuracy matrix (rows after task i, columns task j, NaN where not measured), or a list of
    them, one a seed: then the line is the mean and the band one standard deviation to either side.
    """
    tasks, scores = read_scores(matrices)
    so_far = {method: np.stack([values[:, i, :i + 1].mean(axis=1) for i in range(len(tasks))], axis=1)   # (seeds, T)
              for method, values in scores.items()}
    shown = np.unique(np.linspace(0, len(tasks) - 1, min(len(tasks), PANELS)).round().astype(int))
    columns = min(len(shown) + 1, 2 if len(shown) == 3 else 3 if len(shown) < 9 else 4)
    rows = len(shown) // columns + 1
    seeds = max(len(values) for values in scores.values())
    spread = "One seed." if seeds == 1 else f"Lines: mean of {seeds} seeds; bands: one standard deviation."
    subtitle = f"Scored by {reading}. {spread} Dotted line: where the task is learned.{marked(list(scores))}"
    if len(shown) < len(tasks):
        subtitle += f" {len(shown)} of {len(tasks)} tasks shown."
    figure = canvas(WIDTH, 0.9 + rows * (2.7 if rows < 3 else 2.15), title or what_is_kept(so_far), subtitle)
    panels = {short(f"{task + 1} {tasks[task]}", 88 // columns): {method: values[:, :, task] for method, values in scores.items()}
              for task in shown} | {"mean of the tasks so far": so_far}
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for place, (axis, (heading, lines)) in enumerate(zip(axes, panels.items())):
        last = place == len(panels) - 1
        axis.set_title(heading, fontsize=12, loc="left", fontweight="bold" if last else None)
        if last:
            axis.set_facecolor("#f1f1ee")
        else:
            axis.axvline(shown[place] + 1, color="0.6", linestyle=":", linewidth=1.2, zorder=0)
        for method, values in lines.items():
            draw_line(axis, method, values)
        axis.set(ylim=(-4, 104), yticks=(0, 50, 100), xlim=(0.5, len(tasks) + 0.5), xticks=ticks(len(tasks)))
        axis.set_xlabel("tasks learned" if place >= len(panels) - columns else "", fontsize=12)
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
    tasks, scores = read_scores({"": matrix})
    R, count = scores[""][0], len(tasks)
    labels = [short(f"{i} {task}", 24) for i, task in enumerate(tasks, 1)]
    frame = pd.DataFrame(R, index=labels, columns=labels)
    figure = canvas(min(WIDTH, 7.5 + 0.3 * count), min(9.5, 3.6 + 0.45 * count), title or what_is_left(R, tasks),
                     f"Right answers in %, scored by {reading}.")
    every = 1 if count <= ANNOTATED else -(-count // ANNOTATED)
    with rc_context({"text.parse_math": False}):    # it measures the labels before anything is drawn
        axis = figure.subplots()
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


def comparison(table: pd.DataFrame, value: str = "AA", error: str | None = None, title: str | None = None,
               over: str = "the seeds") -> Figure:
    """One metric of several methods, the best on top: a point with its spread, small dots for the seeds. Below a line the
    reconstructed methods, below another the references and what is told the task or keeps old rows.

    table: columns `method`, `value`, perhaps `title`, `error` (half the bar; by default `value` + "_sd"), `scores` (a list of
    the seeds' values) and `rank` or `rank_options`, as reports.summarise makes it. value: a key of Run.metrics(). over: what the
    spread is over.
    """
    error = error or f"{value}_sd"
    if not isinstance(table, pd.DataFrame) or table.empty or not {"method", value} <= set(table.columns):
        raise InputError(f"expected a table with rows and the columns method and {value}, found {table!r}.")
    table, lines = _sorted(table, value)
    methods, values = list(table["method"]), table[value].to_numpy(dtype=float)
    titles = list(table["title"]) if "title" in table.columns else [title_of(method) for method in methods]
    spread = table[error].to_numpy(dtype=float) if error in table.columns else np.full(len(table), np.nan)
    ranks = {"AA": "rank", "AA_options": "rank_options", "AA_score": "rank_score"}.get(value)
    name = METRICS.get(value.removesuffix("_options").removesuffix("_score"), value)
    by = {"options": "the best of the labels", "score": "each task's own score"}.get(value.rpartition("_")[2], "exact match")
    subtitle = f"Scored by {by}. " if "%" in name else ""
    subtitle += f"Bars: one standard deviation over {over}." if np.isfinite(spread).any() else "One seed: no spread."
    subtitle += " Without a bar: one seed, which tells nothing apart." * bool(0 < np.isfinite(spread).sum() < len(spread))
    leads = who_leads(value, name, methods, titles, values, spread, list(table[ranks]) if ranks in table.columns else None)
    figure = canvas(WIDTH, 1.5 + (0.42 if len(table) < 16 else 0.3) * len(table), title or leads, subtitle + marked(methods))
    axis = figure.subplots()
    for line in lines:
        axis.axhline(line - 0.5, color="0.6", linewidth=1)
    for row, method in enumerate(methods):
        _point(axis, row, method, values[row], spread[row], table["scores"].iloc[row] if "scores" in table.columns else ())
        text = number(values[row], name) + (f" ± {number(spread[row], name)}" if np.isfinite(spread[row]) else "")
        axis.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=12 if len(table) < 16 else 11)
    axis.set_yticks(range(len(methods)), [short(text, 44) for text in titles])
    axis.set_ylim(len(methods) - 0.5, -0.5)
    axis.margins(x=0.08)
    axis.tick_params(labelsize=12 if len(table) < 16 else 11)
    axis.set_xlabel(name, fontsize=13)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _sorted(table: pd.DataFrame, value: str) -> tuple[pd.DataFrame, list[int]]:
    """(the rows in groups, in each the best first, not measured last; the rows before which a new group begins)."""
    groups = [(RIVAL, RECONSTRUCTED, REFERENCE).index(group_of(method)) for method in table["method"]]
    best = table[value] if value.removesuffix("_options") in LOWER_IS_BETTER else -table[value]
    table = table.assign(_group=groups, _best=best).sort_values(["_group", "_best"], kind="stable", na_position="last")
    groups = list(table["_group"])
    return table, [row for row in range(1, len(groups)) if groups[row] != groups[row - 1]]


def _point(axis, row: int, method: str, value: float, spread: float, scores) -> None:
    dots = np.atleast_1d(np.asarray(scores, dtype=float))
    axis.plot(dots, np.full(len(dots), row), ".", color=colour(method), alpha=0.45, markersize=9)
    axis.errorbar(value, row, xerr=spread if np.isfinite(spread) else None, color=colour(method), marker=look(method)[0],
                  markersize=9, capsize=5, linewidth=2.2)


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


def sheet(figures: Sequence[tuple[str, Figure]]) -> bytes:
    """Finished figures one below another, each under its caption, as a light PNG: what stays of an explorer without a kernel."""
    drawn = []
    for caption, figure in figures:
        whole = io.BytesIO()
        figure.savefig(whole, format="png", dpi=STILL)
        drawn.append((caption, np.asarray(Image.open(whole).convert("RGB"))))                # (height, width, 3)
    width = max(pixels.shape[1] for _, pixels in drawn)
    captions = [textwrap.fill(caption, int(width / STILL * 10.8)) for caption, _ in drawn]
    heads = [round(STILL * (0.25 + 0.21 * (caption.count("\n") + 1))) for caption in captions]
    top = height = sum(heads) + sum(len(pixels) for _, pixels in drawn)
    whole = Picture(figsize=(width / STILL, height / STILL), dpi=STILL)
    for caption, head, (_, pixels) in zip(captions, heads, drawn):
        whole.text(0.01, (top - 0.12 * STILL) / height, caption, ha="left", va="top", fontsize=12, style="italic", color="0.3")
        top -= head + len(pixels)
        whole.figimage(pixels, 0, top)
    return png(whole, STILL)


def canvas(width: float, height: float, title: str, subtitle: str, lines: int = 1) -> Picture:
    """An empty figure with both texts at the top left; they take their own height, the title that of `lines` lines at least."""
    title = textwrap.fill(title.replace(" %", "\u00a0%"), int(width * 7.4)).replace("\u00a0", " ")     # 52 % stays on one line
    subtitle = textwrap.fill(subtitle, int(width * 11.3))
    head = 0.12 + 0.28 * max(lines, title.count("\n") + 1) + 0.23 * (subtitle.count("\n") + 1)     # inches
    figure = Picture(figsize=(width, height + head), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06, rect=(0, 0, 1, 1 - head / figure.get_figheight()))  # type: ignore[call-arg]
    for text, down, style in ((title, 0.1, {"fontsize": 15, "fontweight": "bold"}),
                              (subtitle, 0.1 + 0.28 * (title.count("\n") + 1), {"fontsize": 12, "color": "0.3"})):
        figure.text(0.01, 1 - down / figure.get_figheight(), text, ha="left", va="top", in_layout=False, **style)
    return figure


def draw_line(axis, method: str, values: np.ndarray) -> None:
    """The mean over seeds against tasks, with its band. values: (seeds, T)."""
    marker, style = look(method)
    steps, mean = np.arange(1, values.shape[1] + 1), values.mean(axis=0)
    axis.plot(steps, mean, color=colour(method), marker=marker, linestyle=style, linewidth=2, label=title_of(method),
              markersize=6 if len(steps) <= 8 else 4 if len(steps) <= 30 else 2.5)
    if len(values) > 1:
        spread = values.std(axis=0, ddof=1)
        axis.fill_between(steps, mean - spread, mean + spread, color=colour(method), alpha=0.18, linewidth=0)
