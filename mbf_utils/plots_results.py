"""Figures of a comparison's runs: what they carry against one method, what the order of the tasks does, whether the newest task is
still learned late in a long stream, and what becomes of a task that comes a second time."""
from __future__ import annotations

from typing import Iterable, Mapping, Sequence

import pandas as pd

from .errors import InputError
from .findings import against, ends, quoted
from .findings import title as _title
from .looks import colour, in_sentence, look, marked, number, short, ticks
from .plots import WIDTH, Picture, canvas

ORDER_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOMENTS = {"first": "just\nlearned", "before": "last score\nbefore", "second": "learned\nagain", "after": "first score\nafter"}
PANELS = {"again": "The same rows come again", "changed": "The same prompts, with other answers"}


def differences(scores: pd.DataFrame, baseline: str, title: str | None = None, reading: str = "") -> Picture:
    """How far every method is from the baseline over the runs that both have: the mean of the paired differences with its 95 %
    t-interval, the highest on top; a hollow point where the interval holds 0.

    scores: a row a run, a column a method (its METHODS name, perhaps with a setting), in percent; NaN where not measured.
    """
    found = against(scores, baseline)
    runs = found["runs"]
    count = f"{runs.min()} to {runs.max()}" if runs.min() < runs.max() else f"{runs.max()}"
    figure = canvas(WIDTH, 1.4 + 0.36 * len(found), title or _what_the_runs_carry(found, baseline),
                    f"Points more or less than {in_sentence(_title(baseline))}{', scored by ' * bool(reading)}{reading}: mean of the "
                    f"paired differences over {count} runs with its 95 % interval. Hollow: the interval holds 0."
                    f"{marked([method.split(' (')[0] for method in found['method']])}")
    axis = figure.subplots()
    axis.axvline(0, color=colour(baseline.split(" (")[0]), linewidth=2)
    for row, (column, mean, half, verdict) in enumerate(zip(found["method"], found["mean"], found["half"], found["verdict"])):
        name = column.split(" (")[0]
        axis.errorbar(mean, row, xerr=half if half == half else None, color=colour(name), marker=look(name)[0], markersize=9,
                      capsize=5, linewidth=2.2, markerfacecolor="white" if verdict == "not told apart" else colour(name))
        text = number(mean, "%") + (f" ± {number(half, '%')}" if half == half else "")
        axis.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=11)
    _named_rows(axis, found["title"])
    axis.set_xlabel(f"difference to {in_sentence(_title(baseline))} (points)", fontsize=13)
    return figure


def orders(runs: pd.DataFrame, value: str = "AA", title: str | None = None) -> Picture:
    """What the order of the same tasks does to every method: a mark an order, the mean over its seeds; the widest on top.

    runs: a row a run, columns method, order and `value`, as reports.summarise gives them for the orders of one stream.
    """
    if runs.empty or not {"method", "order", value} <= set(runs.columns) or runs["order"].nunique() < 2:
        raise InputError(f"expected runs in several orders with the columns method, order and {value}, found none")
    means = runs.pivot_table(index="method", columns="order", values=value, sort=False).dropna()
    if means.empty:
        raise InputError("expected a method in all the orders of the runs, found none: give the orders that they share")
    width = (means.max(axis=1) - means.min(axis=1)).sort_values(ascending=False, kind="stable")
    widest, narrowest = width.index[0], width.index[-1]
    answer = (f"The order moves {in_sentence(_title(widest))} most, by {width.iloc[0]:.0f} points, "
              f"and {in_sentence(_title(narrowest))} least, by {width.iloc[-1]:.0f}")
    figure = canvas(WIDTH, 1.4 + 0.3 * len(width), title or answer,
                    f"Scored by {'the best of the labels' if value.endswith('_options') else 'exact match'}; "
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


def newest(values: Mapping[str, pd.DataFrame], baseline: str = "seqlora", title: str | None = None,
           reading: str = "the best of the labels") -> Picture:
    """Is a task still learned after many? The score on the newest task against its number i, a line a method, and the weight
    1/sqrt(i) with which SLAO merges it.

    values: {method: a row a run, a column i}, as findings.newest gives it. Of more than 20 tasks a moving mean over a tenth.
    """
    if baseline not in values or len(values) < 2:
        raise InputError(f"expected the newest task's scores of {baseline} and of another method, "
                         f"found {', '.join(values) or 'none'}")
    count = max(len(table.columns) for table in values.values())
    window = count // 10 if count > 20 else 1
    figure = canvas(WIDTH, 4.4, title or _who_still_learns(values, baseline),
                    f"Right answers on task i just after it was learned, by {reading}; mean of {_runs(map(len, values.values()))}"
                    + (f", moving mean over {window} tasks" if window > 1 else "")
                    + f". Grey: what SLAO's merge takes of the newest B, 1/√i.{marked(list(values))}")
    axis = figure.subplots()
    for method, table in values.items():
        smooth = table.T.rolling(window, center=True, min_periods=1).mean().T              # (runs, T)
        mean, spread = smooth.mean(), smooth.std(ddof=1)
        name = method.split(" (")[0]
        axis.plot(mean.index, mean, color=colour(name), linestyle=look(name)[1], linewidth=2.2, label=_title(method),
                  marker=look(name)[0] if count <= 20 else None)
        axis.fill_between(mean.index, mean - spread, mean + spread, color=colour(name), alpha=0.18, linewidth=0)
    steps = range(1, count + 1)
    axis.plot(steps, [100 * i ** -0.5 for i in steps], color="0.55", linestyle=":", linewidth=2, label="1/√i, in %")
    axis.set(ylim=(-2, 104), xticks=ticks(count))
    axis.set_xlabel("i, the task just learned", fontsize=13)
    axis.set_ylabel("right answers (%)", fontsize=13)
    axis.tick_params(labelsize=12)
    axis.grid(axis="y", color="0.9")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(4, len(values) + 1), fontsize=12, frameon=False)
    return figure


def returns(table: pd.DataFrame, method: str = "slao", title: str | None = None, reading: str = "the best of the labels") -> Picture:
    """A task that comes a second time: its score at four moments, a line a method; on the right its second answers contradict the first.

    table: of findings.returns, with tasks of both kinds. method: the one that the title speaks of.
    """
    means = table.groupby(["how", "method"], sort=False)[list(MOMENTS)].mean() if len(table) else table
    if any((how, method) not in means.index for how in PANELS):
        raise InputError(f"expected tasks of {method} that come again and some that are contradicted, found none: give the table of "
                         "findings.returns")
    again, changed = ("from {before:.0f} to {after:.0f} %".format(**means.loc[how, method]) for how in PANELS)
    names = list(dict.fromkeys(table["method"]))
    tasks = table.groupby(["method", "order", "seed", "how"]).size()
    figure = canvas(WIDTH, 4.6, title or f"With {_named(_title(method))} a task that comes again goes {again}, one that is contradicted {changed}",
                    f"Right answers by {reading}; mean over {tasks.max()} tasks in {_runs(tasks.groupby(['method', 'how']).size())}. On the "
                    f"right: learned again with the new answers and scored by them, before and after by the first.{marked(names)}")
    for axis, (how, heading) in zip(figure.subplots(1, 2, sharey=True), PANELS.items()):
        for name in names:
            own = name.split(" (")[0]
            axis.plot(list(MOMENTS.values()), means.loc[(how, name)], color=colour(own), marker=look(own)[0], linestyle=look(own)[1],
                      markersize=8, linewidth=2.2, label=_title(name))
        axis.set_title(heading, fontsize=13)
        axis.set(ylim=(-4, 104))
        axis.tick_params(labelsize=11)
        axis.grid(axis="y", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("right answers (%)", fontsize=13)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(names)), fontsize=11, frameon=False)
    return figure


def _runs(counts: Iterable[int]) -> str:
    """The runs of several methods: "3 runs", "1 to 3 runs"."""
    counts = sorted(counts)
    fewest, most = counts[0], counts[-1]
    return f"{fewest} to {most} runs" if fewest < most else f"{most} run{'s' * (most > 1)}"


def _who_still_learns(values: Mapping[str, pd.DataFrame], baseline: str) -> str:
    """Of the first method beside the baseline: from the first tenth of the tasks to the last, and the last one paired with the
    baseline's, over the same tasks."""
    method = next(method for method in values if method != baseline)
    first, last = ends({name: values[name] for name in (method, baseline)})
    row, = against(last, baseline).to_dict("records")
    us, them = _named(_title(method)), _named(_title(baseline))
    worse = "worse" if row["verdict"] == "below" else "better"
    said = (f"At the end the runs do not tell {us} from {them} on the newest task" if row["verdict"] == "not told apart" else
            f"At the end the newest task is answered {abs(row['mean']):.1f} ± {row['half']:.1f} points {worse} with {us} than "
            f"with {them}")
    if row["half"] != row["half"]:                  # no two runs that both have
        said = f"One run of {us} and of {them}: the newest task at the end"
    return (f"{said}: {last[method].mean():.0f} % and {last[baseline].mean():.0f} %, "
            f"at the start {first[method].mean():.0f} % and {first[baseline].mean():.0f} %")


def _what_the_runs_carry(found: pd.DataFrame, baseline: str) -> str:
    above, below, rest = ([_named(title) for title in found.loc[found["verdict"] == verdict, "title"]]
                          for verdict in ("above", "below", "not told apart"))
    us, count = _named(_title(baseline)), len(found)
    said = [f"{_listed(above, count)} above {us}"] * bool(above)
    said += [f"{_listed(below, count)} below {'it' if said else us}"] * bool(below)
    it = "it" if said else us
    whom = " and ".join(rest) if len(rest) < 3 else str(len(rest)) if said else f"any of {len(rest)}"
    sentence = "; ".join(said + [f"the runs do not tell {whom} from {it}"] * bool(rest))
    return sentence[:1].upper() + sentence[1:]


def _named(title: str) -> str:
    return quoted(in_sentence(title))


def _listed(titles: Sequence[str], count: int) -> str:
    """Up to two by name, more as their number of `count`."""
    return f"{' and '.join(titles)} {'is' if len(titles) == 1 else 'are'}" if len(titles) < 3 else f"{len(titles)} of {count} are"


def _named_rows(axis, titles: Sequence[str]) -> None:
    axis.set_yticks(range(len(titles)), [short(text, 44) for text in titles])
    axis.set_ylim(len(titles) - 0.5, -0.5)
    axis.margins(x=0.08)
    axis.tick_params(labelsize=11)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
