"""The pictures of the explorers: one position each, quick to draw, of one size whatever the position. The manners are those of
plots.py: one question, its answer in the title; beside each stands the function that says the same numbers in a sentence.
"""
from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
import pandas as pd

from .errors import InputError
from .geometry import ranks
from .looks import colour, in_sentence, look, read_scores, short, ticks, what_is_kept
from .plots import PANELS, WIDTH, Picture, canvas, draw_line
from .plots_geometry import FACTORS, NUMBERED, SPACES
from .titles import title_of

LEARNED, LEFT = "when learned", "now"
FRAME = "#D55E00"                                       # around what a control points at


# ---- forgetting, step by step

def forgetting(matrices: Mapping, after: int, title: str | None = None, reading: str = "exact match") -> Picture:
    """What is left of each task after so many? matrices: method -> matrix or list of matrices, one a seed.

    Left the mean of the tasks so far, up to `after`; right each task when it was learned (hollow) and now (filled).
    """
    tasks, scores = read_scores(matrices)
    so_far = {method: _so_far(values, after) for method, values in scores.items()}
    figure = canvas(WIDTH, 4.6, title or what_is_kept(so_far), f"Scored by {reading}; {_spread(scores)}. Left: the tasks learned "
                    f"so far. Right: each task {LEARNED} (hollow) and {LEFT} (filled).", lines=2)
    left, right = figure.subplots(1, 2, width_ratios=(2, 3), sharey=True)
    for method, values in so_far.items():
        draw_line(left, method, values)
    left.set(ylim=(-4, 104), yticks=(0, 25, 50, 75, 100), xlim=(0.5, len(tasks) + 0.5), xticks=ticks(len(tasks)))
    shown = np.unique(np.linspace(0, len(tasks) - 1, min(len(tasks), PANELS)).round().astype(int))
    aside = (np.arange(len(scores)) - (len(scores) - 1) / 2) * 0.8 / max(len(scores), 4)
    for offset, (method, values) in zip(aside, scores.items()):
        mean = values.mean(axis=0)                                   # (T, T)
        for place in np.flatnonzero(shown < after):
            task, x = shown[place], place + offset
            learned, now = mean[task, task], mean[after - 1, task]
            dot = {"marker": look(method)[0], "color": colour(method), "markersize": 7, "linestyle": ""}
            right.plot([x, x], [learned, now], color=colour(method), linewidth=1.6, alpha=0.6)
            right.plot(x, learned, markerfacecolor="white", **dot)
            right.plot(x, now, **dot)
    right.set_xlim(-0.6, len(shown) - 0.4)
    many = len(shown) > 5
    right.set_xticks(range(len(shown)), [short(f"{task + 1} {tasks[task]}", 16) for task in shown], rotation=30 if many else 0,
                     ha="right" if many else "center", rotation_mode="anchor")
    for axis, words in ((left, "tasks learned"), (right, "")):
        axis.set_xlabel(words, fontsize=13)
        _plain(axis)
    left.set_ylabel("right answers (%)", fontsize=13)
    _legend(figure, left, len(scores))
    return figure


def forgetting_in_words(matrices: Mapping, after: int) -> str:
    """The numbers of `forgetting`: the means so far, and where most was lost."""
    tasks, scores = read_scores(matrices)
    kept, fell = [], []
    for method, values in scores.items():
        mean, name = values.mean(axis=0), in_sentence(title_of(method))
        now = _so_far(values, after)[:, -1]
        kept.append(f"{name} {_points(now)}" if np.isfinite(now).all() else f"{name} not measured")
        fell += [(mean[task, task] - mean[after - 1, task], task, name, mean) for task in range(after - 1)]
    words = f"After task {after} of {len(tasks)} ({tasks[after - 1]}), mean of the tasks so far in %: {', '.join(kept)}."
    fell = [entry for entry in fell if entry[0] == entry[0]]
    if not fell:
        return words + " No earlier task could have been forgotten yet."
    most, task, name, mean = max(fell, key=lambda entry: entry[0])
    if most <= 0:
        return words + " None of them is below what it was when learned."
    return (f"{words} Most was lost of {tasks[task]} with {name}: {mean[task, task]:.1f} {LEARNED}, "
            f"{mean[after - 1, task]:.1f} {LEFT}.")


def _so_far(values: np.ndarray, after: int) -> np.ndarray:
    """(seeds, T, T) -> (seeds, after): the mean over the tasks learned so far, after each."""
    return np.stack([values[:, i, :i + 1].mean(axis=1) for i in range(after)], axis=1)


def _spread(scores: Mapping[str, np.ndarray]) -> str:
    seeds = max(len(values) for values in scores.values())
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds, bands: one standard deviation"


def _points(values: np.ndarray) -> str:
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


# ---- two tasks' subspaces

def subspaces(overlap: pd.DataFrame, angles: pd.DataFrame, i: int, j: int, factor: str, names: Sequence[str], place: str,
              title: str | None = None) -> Picture:
    """Do tasks i and j use the same directions of one module's factor? Left cos^2 of their principal angles, right the overlap of
    all pairs of tasks.

    overlap: rows of geometry.overlap for one module. angles: geometry.angles of the two adapters there. place: what is compared.
    """
    value, expected = _pair(overlap, i, j, factor)
    theta = angles[angles.factor == factor].value.to_numpy()         # (k,) radians, ascending
    figure = canvas(WIDTH, 4.6, title or _what_they_share(value, expected, i, j, factor, names),
                    f"{place}. Left: 1 is a shared direction, 0 an orthogonal one; over the bars the angles. "
                    "Right: the mean of such bars for every pair of tasks; the frame marks the pair on the left.", lines=2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    steps, squares = np.arange(1, len(theta) + 1), np.cos(theta) ** 2
    left.bar(steps, squares, color=FACTORS[factor.split()[0]][0], width=0.7, alpha=0.6)
    for step, angle in zip(steps, np.degrees(theta)) if len(theta) <= 16 else ():
        left.text(step, 1.03, f"{angle:.0f}°", ha="center", fontsize=12)
    if len(theta):
        left.axhline(value, color="black", linewidth=1.8, label=f"their mean, the overlap: {value:.2f}")
        left.axhline(expected, color="black", linewidth=1.8, linestyle=":", label=f"mean for random spaces: {expected:.2f}")
        left.legend(loc="upper right", fontsize=12, frameon=False)
    left.set(ylim=(0, 1.42), yticks=(0, 0.25, 0.5, 0.75, 1), xticks=ticks(len(theta)), xlim=(0.4, max(len(theta), 1) + 0.6))
    left.set_xlabel("principal angle, smallest first", fontsize=13)
    left.set_ylabel("cos² of the angle", fontsize=13)
    _plain(left)
    _grid(right, overlap[overlap.factor == factor], i, j)
    return figure


def subspaces_in_words(overlap: pd.DataFrame, angles: pd.DataFrame, i: int, j: int, factor: str, names: Sequence[str],
                       place: str) -> str:
    """The numbers of `subspaces`."""
    value, expected = _pair(overlap, i, j, factor)
    theta = np.degrees(angles[angles.factor == factor].value.to_numpy())
    who = f"{place}, {SPACES[factor]}, tasks {i} ({names[i - 1]}) and {j} ({names[j - 1]}): "
    if not len(theta):
        return who + "one of them is zero there, so there is no direction to compare."
    spread = f"one principal angle of {theta[0]:.0f}°"
    if len(theta) > 1:
        spread = f"{len(theta)} principal angles from {theta[0]:.0f}° to {theta[-1]:.0f}°"
    return who + f"{spread}; overlap {value:.3f}, expected of random spaces {expected:.3f}, {value / expected:.1f} times."


def _pair(overlap: pd.DataFrame, i: int, j: int, factor: str) -> tuple[float, float]:
    row = overlap[(overlap.factor == factor) & (overlap.task_i == i) & (overlap.task_j == j)]
    if len(row) != 1:
        raise InputError(f"expected the overlap of tasks {i} and {j} by {factor} in one module, found {len(row)} such rows")
    return float(row.value.iloc[0]), float(row.expected.iloc[0])


def _what_they_share(value: float, expected: float, i: int, j: int, factor: str, names: Sequence[str]) -> str:
    who = f"{SPACES[factor][0].upper()}{SPACES[factor][1:]} of {short(names[i - 1], 24)} and {short(names[j - 1], 24)}"
    if i == j:
        return f"{who}: one adapter with itself, overlap {value:.2f}"
    if value != value:
        return f"{who}: a zero matrix has no directions"
    ratio = value / expected
    relation = "far more than" if ratio > 2 else "more than" if ratio > 1.2 else "as much as" if ratio > 0.8 else "less than"
    return f"{who} overlap by {value:.2f}, {relation} random ones"


def _grid(axis, overlap: pd.DataFrame, i: int, j: int) -> None:
    cells = overlap.pivot(index="task_i", columns="task_j", values="value").to_numpy()       # (T, T)
    T = len(cells)
    axis.imshow(cells, vmin=0, vmax=1, cmap="cividis")
    for row, column in np.ndindex(cells.shape) if T <= NUMBERED else ():
        value = cells[row, column]
        axis.text(column, row, f"{value:.2f}" if value == value else "–", ha="center", va="center", fontsize=12,
                  color="black" if value >= 0.55 else "white")
    for row, column in {(i - 1, j - 1), (j - 1, i - 1)}:
        axis.plot(column + np.array([-.5, .5, .5, -.5, -.5]), row + np.array([-.5, -.5, .5, .5, -.5]), color=FRAME, linewidth=3.5)
    axis.set_xticks([tick - 1 for tick in ticks(T)], ticks(T))
    axis.set_yticks([tick - 1 for tick in ticks(T)], ticks(T))
    axis.tick_params(labelsize=12)
    axis.set(xlim=(-0.6, T - 0.4), ylim=(T - 0.4, -0.6))
    axis.set_xlabel("task", fontsize=13)
    axis.set_title("overlap of all pairs", fontsize=13, loc="left")


# ---- spectra

def spectra(tables: Mapping[str, pd.DataFrame], task: int, place: str, title: str | None = None) -> Picture:
    """How many directions does the update use? tables: method -> geometry.spectra of one module. Left the singular values after
    `task`, a line a method; right the effective rank after every task."""
    width = max(int(table.k.max()) for table in tables.values())
    top = max(float(table.value.max()) for table in tables.values())
    T, counted = max(int(table.task.max()) for table in tables.values()), _counted(tables)
    effective = {method: line.effective[task] for method, line in counted.items()}
    figure = canvas(WIDTH, 4.6, title or _who_spreads(effective, width, task), f"{place}. Left: singular values of s B A after "
                    f"task {task}; right: effective rank, the exp of the entropy of their shares, after every task.", lines=2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for size, (method, table) in zip(np.linspace(1.5, 0.8, len(tables)), tables.items()):    # equal lines are all seen
        marker, style = look(method)
        line, over_time = table[table.task == task], counted[method].effective
        looks = {"color": colour(method), "marker": marker, "linestyle": style, "linewidth": 2 * size, "markersize": 7 * size}
        left.plot(line.k, line.value, label=title_of(method), **looks)
        right.plot(over_time.index, over_time, **looks)
    right.axvline(task, color="0.6", linestyle=":", linewidth=1.5, zorder=0)
    left.set(xticks=ticks(width), ylim=(0, top * 1.05 or 1))
    right.set(xticks=ticks(T), ylim=(0, width * 1.05), xlim=(0.5, T + 0.5))
    for axis, x, y in ((left, "singular value, largest first", "size"), (right, "task", f"directions, of {width}")):
        axis.set_xlabel(x, fontsize=13)
        axis.set_ylabel(y, fontsize=13)
        _plain(axis)
    _legend(figure, left, len(tables))
    return figure


def spectra_in_words(tables: Mapping[str, pd.DataFrame], task: int, place: str) -> str:
    """The numbers of `spectra`: largest singular value, effective and stable rank of each method after the task."""
    counted, found = _counted(tables), []
    for method, table in tables.items():
        row, largest = counted[method].loc[task], table[table.task == task].value.max()
        found.append(f"{in_sentence(title_of(method))}: largest singular value {largest:.2f}, effective rank "
                     f"{row.effective:.1f}, stable rank {row.stable:.1f}")
    return f"{place}, after task {task}. {'; '.join(found)}."


def _counted(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return {method: ranks(table).set_index("task") for method, table in tables.items()}


def _who_spreads(effective: Mapping[str, float], width: int, task: int) -> str:
    names = {in_sentence(title_of(method)): value for method, value in effective.items()}
    most, least = max(names, key=names.get), min(names, key=names.get)
    after = f"After task {task} the update of {most} uses {names[most]:.1f} of {width} directions"
    if len(names) == 1:
        return f"{after} (effective rank)"
    if names[most] - names[least] < 0.25:
        return f"After task {task} the updates use about {names[most]:.1f} of {width} directions (effective rank)"
    return f"{after} (effective rank), that of {least} {names[least]:.1f}"


def _legend(figure: Picture, axis, count: int) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", fontsize=12, frameon=False, ncols=min(count, 3))


def _plain(axis) -> None:
    axis.tick_params(labelsize=12)
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
