"""Pictures of pairs of tasks, from figures/similarity.csv: how alike they are, what is left of the first, how the updates lie.

The table is that of similarity.learn_pairs with the columns control, rank, named and seed; see figures/similarity.py. A line is a
mean over the seeds, a bar or band one sample standard deviation.
"""
from __future__ import annotations

import numpy as np
import pandas as pd

from .errors import InputError
from .looks import colour, in_sentence, look
from .plots import WIDTH, Picture, canvas
from .plots_merge import plain
from .titles import title_of

TAILS = {"exact match": "", "best of the task's labels": "_labels"}
TOGETHER = "multi_task"                             # both tasks at once: what one LoRA can hold
SEQUENCES = tuple(f"{question} question, {words} words" for question in ("same", "other") for words in ("same", "other"))


def agreement(table: pd.DataFrame, rank: int, named: bool) -> pd.DataFrame:
    """The rows of one setting, with `likeness` as a number. Raises InputError where nothing was measured."""
    found = table[(table.control == "agreement") & (table["rank"] == rank) & (table.named == named)]
    if found.empty:
        some = table[table.control == "agreement"]
        ranks = sorted(some[some.named == named]["rank"].unique())
        raise InputError(f"expected a rank that was measured where prompts {_named(named)} their task "
                         f"({', '.join(map(str, ranks))}), found {rank}")
    return found.assign(likeness=found.pair.astype(float))


def likeness(table: pd.DataFrame, at: float, rank: int, named: bool, reading: str = "exact match",
             title: str | None = None) -> Picture:
    """What does it cost the first task that the second is unlike it? Left what is left of the first, then how the two updates
    lie, both against the share of answers that mean the same; the vertical line is at `at`."""
    some, tail = agreement(table, rank, named), TAILS[reading]
    methods = _methods(some)
    seeds = some.seed.nunique()
    figure = canvas(WIDTH, 4.2, title or _what_it_costs(some, at, tail),
                    f"Rank {rank}; prompts {_named(named)} their task; mean of {seeds} seed{'s' * (seeds > 1)}, bands and bars: "
                    f"one standard deviation. Scored by {reading}. Likeness: share of the answer words that mean the same in both "
                    "tasks.", lines=2)
    left, middle, right = figure.subplots(1, 3, width_ratios=(4, 3, 3))
    learned = some.drop_duplicates("seed")["learned" + tail].mean()
    places = np.array(sorted(some.likeness.unique()))
    left.axhline(learned, color="0.35", linewidth=1.6, linestyle="--", label="the first when learned")
    left.plot(places, learned * places, color="0.35", linewidth=1.6, linestyle=":", label="where both agree")
    for size, method in zip(np.linspace(10, 6, len(methods)), methods):          # equal lines are all seen
        _line(left, some[some.method == method], "left" + tail, method, size)
        _line(middle, some[some.method == method], "cosine", method, size)
        _line(middle, some[some.method == method], "size", method, size, "--")
    both = some[some.method == TOGETHER].groupby("likeness")["left" + tail]
    if len(both):
        left.errorbar(both.mean().index, both.mean(), yerr=both.std(ddof=1).fillna(0), linestyle="", marker=look(TOGETHER)[0],
                      color=colour(TOGETHER), markersize=11, capsize=4, label="both tasks at once")
    middle.axhline(0, color="0.6", linewidth=1)
    for axis in (left, middle):
        axis.axvline(at, color="0.6", linewidth=1.5, linestyle="-", zorder=0)
        axis.set(xticks=places, xlim=(-0.06, 1.06))
        axis.set_xlabel("likeness of the tasks", fontsize=13)
        plain(axis)
    left.set(ylim=(-4, 104), yticks=(0, 25, 50, 75, 100))
    middle.set_ylim(min(-0.3, middle.get_ylim()[0]), max(1.6, middle.get_ylim()[1]))
    middle.legend([middle.plot([], [], color="0.35", linewidth=2, linestyle=style)[0] for style in ("-", "--")],
                  ["their cosine", "norm, second by first"], fontsize=12, frameon=False, loc="upper left", borderpad=0)
    for axis, words in zip(figure.axes, ("of the first task, right (%)", "the two updates", "second update in the first's")):
        axis.set_title(words, fontsize=13, loc="left")
    _inside(right, some[np.isclose(some.likeness, at)], methods)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", fontsize=12, frameon=False, ncols=5)
    return figure


def _line(axis, rows: pd.DataFrame, column: str, method: str, size: float, style: str | None = None) -> None:
    values = rows.groupby("likeness")[column]
    mean, spread = values.mean(), values.std(ddof=1).fillna(0)
    marker, usual = look(method)
    axis.plot(mean.index, mean, color=colour(method), marker=marker, linestyle=style or usual, linewidth=size / 3.5,
              markersize=size, label=title_of(method))
    axis.fill_between(mean.index, mean - spread, mean + spread, color=colour(method), alpha=0.18, linewidth=0)


def _inside(axis, rows: pd.DataFrame, methods: list[str]) -> None:
    """Shares of the second update in the first's row and column spaces, a bar a method, and what a random one would have."""
    for k, method in enumerate(methods):
        some = rows[rows.method == method]
        values = some[["rows", "columns"]]
        _bars(axis, k - (len(methods) - 1) / 2, values.mean(), values.std(ddof=1), method)
    chance = rows[rows.method.isin(methods)][["rows_expected", "columns_expected"]].mean()
    lines = [axis.plot([place - 0.42, place + 0.42], [value, value], color="black", linewidth=2.2)[0] for place, value in enumerate(chance)]
    axis.set_xticks(range(2), ["row space", "column space"])
    axis.set(ylim=(0, 1.15))
    axis.legend(lines[:1], ["random"], fontsize=12, frameon=False, loc="upper right")
    plain(axis)


def _bars(axis, aside: float, mean: pd.Series, spread: pd.Series, method: str) -> None:
    """A method's bars, one a group, with their spread; aside: how many bars from the middle of the group."""
    axis.bar(np.arange(len(mean)) + aside * 0.36, mean, yerr=spread.fillna(0), width=0.34, color=colour(method),
             label=title_of(method), error_kw={"elinewidth": 1.3, "capsize": 3})


def _what_it_costs(some: pd.DataFrame, at: float, tail: str) -> str:
    here = some[np.isclose(some.likeness, at)]
    if here.empty:
        known = ", ".join(f"{x:g}" for x in sorted(some.likeness.unique()))
        raise InputError(f"expected a likeness that was measured ({known}), found {at:g}")
    learned, methods = here["learned" + tail].mean(), _methods(here)
    kept = {method: here[here.method == method]["left" + tail].mean() for method in methods}
    words = " and ".join(f"{value:.0f} % with {in_sentence(title_of(method))}" for method, value in kept.items())
    falls = max(kept.values()) < learned
    return f"At likeness {at:.1f} the first task {'falls from' if falls else 'goes from'} {learned:.0f} % to {words}"


def likeness_in_words(table: pd.DataFrame, at: float, rank: int, named: bool, reading: str = "exact match") -> str:
    """The numbers of `likeness` at one position."""
    some, tail = agreement(table, rank, named), TAILS[reading]
    here, found = some[np.isclose(some.likeness, at)], []
    for method in _methods(some):
        rows = here[here.method == method]
        learned, left, second = (_spread(rows[name + tail]) for name in ("learned", "left", "second"))
        size, cosine, inside, written = (_spread(rows[name], 2) for name in ("size", "cosine", "rows", "columns"))
        found.append(f"{in_sentence(title_of(method))}: {learned} when learned, {left} after the second task, which has "
                     f"{second}; the second update has {size} times the first's norm and cosine {cosine} with it; the share {inside} of it "
                     f"lies in the first's rows (random {rows.rows_expected.mean():.2f}) and {written} in its columns (random "
                     f"{rows.columns_expected.mean():.2f})")
    both = here[here.method == TOGETHER]
    if len(both):
        found.append(f"both tasks at once: {_spread(both['left' + tail])} and {_spread(both['second' + tail])}")
    return f"Likeness {at:.1f}, rank {rank}, {reading} in %. {'. '.join(words[0].upper() + words[1:] for words in found)}."


def surface(table: pd.DataFrame, title: str | None = None) -> Picture:
    """Is it the question or the words? table: the rows of control "surface". Five levels of praise, of restaurants and then of
    products; a group a pair, in it the first task when learned and after the second, by both readings."""
    some = table[table.control == "surface"]
    pairs = list(SEQUENCES)
    if set(pairs) - set(some.pair):
        raise InputError("expected rows of control surface, as figures/similarity.py makes them, found none")
    seeds, learned = some.seed.nunique(), some.drop_duplicates("seed")
    figure = canvas(WIDTH, 4.2, title or _what_collides(some),
                    f"The first task after the second, rank {some['rank'].iloc[0]}, mean of {seeds} seeds; bars: one standard "
                    f"deviation. Prompts {_named(some.named.iloc[0])} their task. Dashed: the first when learned.", lines=2)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (reading, tail) in zip(axes, TAILS.items()):
        axis.axhline(learned["learned" + tail].mean(), color="0.35", linestyle="--", linewidth=1.6)
        methods = _methods(some)
        for k, method in enumerate(methods):
            values = some[some.method == method].groupby("pair")["left" + tail]
            _bars(axis, k - (len(methods) - 1) / 2, values.mean()[pairs], values.std(ddof=1)[pairs], method)
        axis.set_xticks(range(len(pairs)), [pair.replace(", ", ",\n") for pair in pairs])
        axis.set(ylim=(0, 104), yticks=(0, 25, 50, 75, 100))
        axis.set_title(reading, fontsize=13, loc="left")
        plain(axis)
        axis.tick_params(axis="x", labelsize=10.5)
    axes[0].set_ylabel("of the first task, right (%)", fontsize=13)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=12, frameon=False, ncols=3)
    return figure


def _what_collides(some: pd.DataFrame) -> str:
    """What exact match loses where the words alone, and where the question alone, is another."""
    fall = (some.learned - some.left).groupby(some.pair).mean()
    lost = fall[list(SEQUENCES[1:3])].tolist()
    cost = [f"{points:.0f} point{'s' * (round(points) > 1)}" if points > 0.5 else "nothing" for points in lost]
    return f"By exact match other answer words cost the first task {cost[0]}, another question with the same words {cost[1]}"


def _methods(some: pd.DataFrame) -> list[str]:
    return [method for method in dict.fromkeys(some.method) if method != TOGETHER]


def _spread(values: pd.Series, digits: int = 1) -> str:
    words = f"{values.mean():.{digits}f}" + (f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else "")
    return words.replace("-", "−")


def _named(named: bool) -> str:
    return "name" if named else "do not name"
