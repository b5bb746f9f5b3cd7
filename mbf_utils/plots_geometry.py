"""Figures of geometry, theory and memory, from the tables of geometry.py, theory.py and anatomy.py. The manners are those of
plots.py: one question each, its answer computed from the table and put in the title.

Values are means over the adapted modules. A has one colour in all figures, B another and their product dW a third, none of them
a method's. Where a line or a dot stands for a task, the first is dark and the last light.
"""
from __future__ import annotations

from typing import Sequence

import numpy as np
import pandas as pd

from .errors import InputError
from .geometry import ranks
from .looks import colour, contenders, in_sentence, look, short, ticks
from .plots import WIDTH, Picture, canvas
from .theory import increment_weights
from .titles import title_of

FACTORS = {"A": ("#5D3A9B", "o", "-"), "B": ("#E66100", "s", "--"), "dW": ("#333333", "D", ":")}     # apart for all colour vision
SPACES = {"A": "row spaces of A", "B": "column spaces of B", "dW rows": "row spaces of ΔW", "dW columns": "column spaces of ΔW"}
NUMBERED = 8                                        # tasks up to which the cells of these heat maps carry numbers
ALIKE = 0.02                                        # cosines and overlaps nearer than this are called alike
UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1))


def spectra(table: pd.DataFrame, title: str | None = None) -> Picture:
    """How many directions does each task's update use? table: from geometry.spectra.

    Left the singular values, a line a task; right the two ranks that count them.
    """
    _check(table, ("task", "module", "k", "value"), 1, "geometry.spectra")
    tasks, width = sorted(table.task.unique()), int(table.k.max())
    counted = ranks(table).groupby("task")[["effective", "stable"]].mean()
    figure = canvas(WIDTH, 3.9, title or _how_many_directions(counted.effective, width), "Singular values σ of s B A, mean over "
                     "the modules. Effective rank: exp of the entropy of σ / Σσ. Stable rank: ‖σ‖² / σ₁².")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for shade, task in zip(_shades(len(tasks)), tasks):
        line = table[table.task == task].groupby("k").value.mean()
        label = f"after task {task}" if task in (tasks[0], tasks[-1]) or len(tasks) <= 6 else None
        left.plot(line.index, line, color=shade, marker="o", markersize=5, linewidth=2, label=label)
    left.set(xticks=ticks(width), ylim=(0, None))
    left.legend(fontsize=12, frameon=False)
    _labels(left, "singular value, largest first", "size")
    for (name, values), (shade, marker, style) in zip(counted.items(), (("#111111", "o", "-"), ("#777777", "s", "--"))):
        right.plot(values.index, values, color=shade, marker=marker, linestyle=style, linewidth=2, label=f"{name} rank")
    right.set(xticks=ticks(tasks[-1]), ylim=(0, width * 1.05))
    right.legend(fontsize=12, frameon=False)
    _labels(right, "task", f"directions, of {width}")
    return figure


def overlap(table: pd.DataFrame, factors: Sequence[str] = ("A", "B"), names: Sequence[str] | None = None,
            title: str | None = None) -> Picture:
    """Do the tasks use the same directions? table: from geometry.overlap; factors: which spaces, of its column `factor`; names:
    the tasks'. A heat map a factor: 1 where one space lies in the other, 0 where they are orthogonal."""
    _check(table, ("task_i", "task_j", "module", "factor", "value", "expected"), 2, "geometry.overlap")
    T = int(table.task_i.max())
    apart = table[table.task_i < table.task_j].groupby("factor")[["value", "expected"]].mean().loc[list(factors)]
    chance = " and ".join(dict.fromkeys(f"{value:.2f}" for value in apart.expected))
    figure = canvas(WIDTH if len(factors) > 1 else 7, 5.5, title or _who_overlaps(apart),
                     f"Mean squared cosine of the principal angles, mean over the modules. Random spaces: {chance}.")
    axes = figure.subplots(1, len(factors), squeeze=False)[0]
    labels = [short(f"{i} {name}", 16) for i, name in enumerate(names[:T], 1)] if names else range(1, T + 1)
    shown = [task - 1 for task in ticks(T)] if T > NUMBERED else range(T)
    for axis, factor in zip(axes, factors):
        cells = table[table.factor == factor].groupby(["task_i", "task_j"]).value.mean().unstack().to_numpy()        # (T, T)
        image = axis.imshow(cells, vmin=0, vmax=1, cmap="cividis")
        for i, j in np.ndindex(cells.shape) if T <= NUMBERED else ():
            known = cells[i, j] == cells[i, j]
            axis.text(j, i, f"{cells[i, j]:.2f}" if known else "–", ha="center", va="center", fontsize=12,
                      color="white" if known and cells[i, j] < 0.55 else "black")
        axis.set_title(SPACES[factor], fontsize=13, loc="left")
        axis.set_xticks(shown, [labels[i] for i in shown], rotation=40 if names else 0, ha="right" if names else "center",
                        rotation_mode="anchor" if names else None)
        axis.set_yticks(shown, [labels[i] for i in shown])
        axis.tick_params(labelsize=12)
        axis.set_xlabel("" if names else "task", fontsize=13)
    figure.colorbar(image, ax=list(axes), shrink=0.8).ax.tick_params(labelsize=12)
    return figure


def asymmetry(table: pd.DataFrame, title: str | None = None) -> Picture:
    """Do the tasks' A's look more alike than their B's? table: from geometry.cosines. A line a factor against the number of
    tasks between; the question of Fig. 1 of the paper (arXiv 2512.23017)."""
    _check(table, ("task_i", "task_j", "module", "factor", "value"), 2, "geometry.cosines")
    pairs = table[table.task_i < table.task_j].assign(lag=table.task_j - table.task_i)
    figure = canvas(WIDTH, 4.2, title or _who_is_alike(pairs.groupby("factor").value.mean()),
                     "Cosine between two tasks' factors, each read as one vector. Lines: mean over pairs of tasks and modules; "
                     "bands: one standard deviation.")
    axis = figure.subplots()
    for factor, (shade, marker, style) in FACTORS.items():
        values = pairs[pairs.factor == factor].groupby("lag").value
        mean, spread = values.mean(), values.std(ddof=1).fillna(0)
        axis.plot(mean.index, mean, color=shade, marker=marker, linestyle=style, linewidth=2.2, markersize=7,
                  label={"dW": "ΔW = B A"}.get(factor, factor))
        axis.fill_between(mean.index, mean - spread, mean + spread, color=shade, alpha=0.15, linewidth=0)
    axis.axhline(0, color="0.6", linewidth=1)
    axis.set(xticks=ticks(int(pairs.lag.max())), ylim=(min(-0.05, axis.get_ylim()[0]), 1.05))
    axis.legend(fontsize=13, frameon=False, ncols=3, loc="best")
    _labels(axis, "tasks apart", "cosine")
    return figure


def merge_weights(table: pd.DataFrame, factor: str = "B", title: str | None = None) -> Picture:
    """What does each task weigh in the merged factor? table: from anatomy.merge. Left the weight of each task's fine-tuned
    factor, right that of what the task added to the one before; lines by the schedule, dots measured in the stored adapters."""
    _check(table, ("task", "module", "factor", "weight", "increment", "expected"), 1, "anatomy.merge")
    by_task = table[table.factor == factor].groupby("task")
    closed, weights = by_task.expected.first(), by_task.weight
    figure = canvas(WIDTH, 3.9, title or _what_tasks_weigh(closed, weights, factor),
                     "Lines: by the schedule. Dots: measured in the stored adapters by least squares, mean over the modules; "
                     "bars: from the least to the largest.")
    shade, marker, _ = FACTORS[factor]
    panels = (("the task's fine-tuned " + factor, closed, weights),
              (f"what the task added to {factor}", pd.Series(increment_weights(closed), closed.index), by_task.increment))
    for axis, (heading, line, found) in zip(figure.subplots(1, 2, sharey=True), panels):
        mean = found.mean()
        axis.plot(line.index, line, color="0.55", linewidth=2.5, label="schedule")
        axis.errorbar(mean.index, mean, yerr=[mean - found.min(), found.max() - mean], color=shade, marker=marker, markersize=8,
                      linestyle="none", capsize=4, label="measured")
        axis.set_title(heading, fontsize=13, loc="left")
        axis.set(xticks=ticks(len(line)), ylim=(min(-0.03, axis.get_ylim()[0]), max(1.05, axis.get_ylim()[1])))
        _labels(axis, "task", "" if line is not closed else f"weight in the merged {factor}")
        axis.legend(fontsize=12, frameon=False)
    return figure


def memory(table: pd.DataFrame, title: str | None = None) -> Picture:
    """What has to be kept from task to task? table: columns method, tasks (learned so far), bytes; a line a method."""
    _check(table, ("method", "tasks", "bytes"), 1, "anatomy.memory")
    lines = {method: group.groupby("tasks").bytes.mean() for method, group in table.groupby("method", sort=False)}
    unit, size = next((unit, size) for unit, size in UNITS if table.bytes.max() >= size or size == 1)
    figure = canvas(10, 4.4, title or _who_carries_most(lines),
                     "Bytes of what a method remembers between tasks. Not counted: the base model and old rows that it needs.")
    axis = figure.subplots()
    for width, (method, line) in zip(np.linspace(1.8, 1, len(lines)), lines.items()):            # equal lines are all seen
        marker, style = look(method)
        axis.plot(line.index, line / size, color=colour(method), marker=marker, linestyle=style, linewidth=2 * width,
                  markersize=7 * width, label=title_of(method))
    most = int(table.tasks.max())
    axis.set(xlim=(0.5, most + 0.5), xticks=ticks(most), ylim=(0, table.bytes.max() / size * 1.08))
    _labels(axis, "tasks learned", f"memory ({unit})")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", fontsize=12, frameon=False,
                  ncols=min(len(lines), 4))
    return figure


def forgetting_bound(table: pd.DataFrame, names: Sequence[str] | None = None, title: str | None = None) -> Picture:
    """Does the bound tell what is forgotten? table: from anatomy.forgetting; names: the tasks'. Left the two terms for each task
    after the last one and what they bound; right every task and moment, bound against measured forgetting."""
    _check(table, ("after", "task", "A", "B", "bound", "dW", "forgetting"), 1, "anatomy.forgetting")
    figure = canvas(WIDTH, 4.4, title or _does_it_tell(table), "Bound of forgetting task i after task t: ‖Bₜ(Aₜ − Aᵢ)‖ + "
                     "‖(Bₜ − Bᵢ)Aᵢ‖, over all modules. The pairs share tasks, so the correlation describes and proves nothing.")
    left, right = figure.subplots(1, 2)
    last = table[table.after == table.after.max()]
    base = np.zeros(len(last))
    for term, label in (("A", "A moved: ‖Bₜ(Aₜ − Aᵢ)‖"), ("B", "B moved: ‖(Bₜ − Bᵢ)Aᵢ‖")):
        left.bar(last.task, last[term], bottom=base, color=FACTORS[term][0], width=0.7, label=label, edgecolor="white",
                 linewidth=0, hatch="//" if term == "B" else None)
        base = base + last[term].to_numpy()
    left.plot(last.task, last.dW, color="black", marker="D", linestyle="none", markersize=9, markeredgecolor="white",
              label="both together: ‖BₜAₜ − BᵢAᵢ‖")
    left.set(xticks=last.task if names else ticks(int(last.task.max())), ylim=(0, float(np.max(base)) * 1.45 or 1))
    if names:
        left.set_xticks(last.task, [short(f"{task} {names[task - 1]}", 14) for task in last.task], rotation=30, ha="right",
                        rotation_mode="anchor")
    left.set_title(f"after task {int(table.after.max())}", fontsize=13, loc="left")
    left.legend(fontsize=11, frameon=False, loc="upper right")
    _labels(left, "" if names else "task", "norm")
    shades = dict(zip(sorted(table.after.unique()), _shades(table.after.nunique())))
    for after, group in table.groupby("after"):
        right.plot(group.bound, group.forgetting, color=shades[after], marker="o", linestyle="none", markersize=9,
                   label=f"after task {after}" if after in (table.after.min(), table.after.max()) or len(shades) <= 4 else None)
    for row in table.itertuples() if len(table) <= 15 else ():
        right.annotate(row.task, (row.bound, row.forgetting), xytext=(7, 5), textcoords="offset points", fontsize=12)
    right.axhline(0, color="0.6", linewidth=1)
    right.set_title("every task, by number, after every later one" if len(table) <= 15 else "every task after every later one",
                    fontsize=13, loc="left")
    right.set(xlim=(0, table.bound.max() * 1.08 or 1))
    right.legend(fontsize=12, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _labels(right, "bound", "forgetting (points)")
    return figure


def _how_many_directions(effective: pd.Series, width: int) -> str:
    """effective: mean effective rank by task."""
    first, last = effective.iloc[0], effective.iloc[-1]
    if len(effective) == 1:
        return f"The update uses {last:.1f} of {width} directions (effective rank)"
    if abs(last - first) < 0.25:
        return f"From the first task to the last the updates use about {last:.1f} of {width} directions (effective rank)"
    return (f"The updates spread over {'more' if last > first else 'fewer'} directions: effective rank {first:.1f} after task 1, "
            f"{last:.1f} of {width} after task {effective.index[-1]}")


def _who_overlaps(apart: pd.DataFrame) -> str:
    """apart: value and expected, means over pairs of tasks, by factor."""
    known = apart.dropna().sort_values("value", ascending=False, kind="stable")
    if known.empty:
        return "There is nothing to overlap: a zero matrix has no directions"
    most, least = known.iloc[0], known.iloc[-1]
    if len(known) == 1:
        ratio = most.value / most.expected
        relation = "far more than" if ratio > 2 else "more than" if ratio > 1.2 else "as much as" if ratio > 0.8 else "less than"
        return f"The tasks' {SPACES[most.name]} overlap by {most.value:.2f}, {relation} random ones, {most.expected:.2f}"
    if most.value - least.value < ALIKE:
        return f"The tasks' {SPACES[most.name]} and their {SPACES[least.name]} overlap alike, by {most.value:.2f}"
    return f"The tasks' {SPACES[most.name]} overlap more, {most.value:.2f}, than their {SPACES[least.name]}, {least.value:.2f}"


def _who_is_alike(mean: pd.Series) -> str:
    """mean: the mean cosine by factor."""
    a, b = mean["A"], mean["B"]
    if not (a == a and b == b):
        return "One factor is zero: it has no cosine"
    if abs(a - b) < ALIKE:
        return f"The tasks' A's and B's are equally alike: mean cosines {_signed(a)} and {_signed(b)}"
    more, less = ("A", "B") if a > b else ("B", "A")
    return f"The tasks' {more}'s are more alike than their {less}'s: cosine {_signed(max(a, b))} against {_signed(min(a, b))}"


def _what_tasks_weigh(closed: pd.Series, weights, factor: str) -> str:
    """closed: expected weight by task; weights: the measured ones, grouped by task."""
    gap = max((weights.max() - closed).max(), (closed - weights.min()).max())    # NaN only where all are
    if gap != gap:
        return f"What the tasks weigh in the merged {factor} cannot be measured: {factor} did not change from task to task"
    if gap > 0.01:
        return f"The tasks' measured weights in the merged {factor} are not those of the schedule: they differ by up to {gap:.2f}"
    first, last = 100 * closed.iloc[0], 100 * closed.iloc[-1]
    share = "less than 0.1" if 0 < first < 0.1 else f"{first:.1f}"
    return (f"The last task's {factor} weighs {last:.0f} % in the merged one, the first task's {share} %; what is measured agrees"
            if len(closed) > 1 else f"The one task's {factor} is the merged one")


def _who_carries_most(lines: dict[str, pd.Series]) -> str:
    """lines: method -> bytes by number of tasks."""
    places, aside = contenders(list(lines), references=True)
    lines = {in_sentence(title_of(method)): line for place, (method, line) in enumerate(lines.items()) if place in places}
    most = int(max(line.index[-1] for line in lines.values()))
    there = {name: line.iloc[-1] for name, line in lines.items() if line.index[-1] == most}
    high, low = (" and ".join(name for name in there if there[name] == end) for end in (max(there.values()), min(there.values())))
    text = f"{aside}{'after' if aside else 'After'} {most} task{'s' * (most > 1)} {high} carr{'y' if ' and ' in high else 'ies'} "
    largest, least = _bytes(max(there.values())), _bytes(min(there.values()))
    text += largest if high == low else f"most, {largest}, {low} least, {least}"
    several = [name for name, line in lines.items() if len(line) > 1]
    grow = [name for name in several if lines[name].iloc[-1] > 1.05 * lines[name].iloc[(len(lines[name]) - 1) // 2]]    # still
    some = grow[0] if len(grow) == 1 else f"{len(grow)} of {len(several)}"
    who = "none grows" if not grow else "all grow" if 1 < len(grow) == len(several) else f"{some} grow{'s' * (len(grow) == 1)}"
    return f"{text}; {who} with the tasks" if several else text


def _does_it_tell(table: pd.DataFrame) -> str:
    known = table[["bound", "forgetting"]].dropna()
    if len(known) < 3 or known.nunique().min() == 1:
        return "Whether the bound tells what is forgotten cannot be said: too few pairs, or all alike"
    rho = known.bound.corr(known.forgetting, method="spearman")
    inside = f"(rank correlation {_signed(rho)} over {len(known)} pairs)"
    if abs(rho) < 0.3:
        return f"The bound tells little of what is forgotten {inside}"
    return f"Where the bound is larger, {'more' if rho > 0 else 'less'} is forgotten {inside}"


def _check(table: pd.DataFrame, columns: Sequence[str], tasks: int, source: str) -> None:
    if not isinstance(table, pd.DataFrame) or table.empty or not set(columns) <= set(table.columns):
        raise InputError(f"expected a table with rows and the columns {', '.join(columns)}, as from {source}, found {table!r}.")
    if tasks > 1 and table.task_i.max() < tasks:
        raise InputError(f"expected at least {tasks} tasks to compare, found 1; give the adapters of a longer run.")


def _shades(count: int) -> list[tuple[float, float, float]]:
    """Dark blue to light blue, all visible on white."""
    return [tuple(np.array((0.03, 0.12, 0.30)) * (1 - x) + np.array((0.45, 0.72, 0.92)) * x) for x in np.linspace(0, 1, count)]


def _labels(axis, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=13)
    axis.set_ylabel(y, fontsize=13)
    axis.tick_params(labelsize=12)
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _bytes(count: float) -> str:
    unit, size = next((unit, size) for unit, size in UNITS if count >= size or size == 1)
    return f"{count / size:.3g} {unit}"
