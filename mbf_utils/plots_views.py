"""Two views of what training changed, from the tables of updates.py: where in the model, and how much of it is a task's own.

The manners are those of plots.py: one question each, its answer computed from the table and put in the title.
"""
from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
import pandas as pd

from .errors import InputError
from .looks import in_sentence, short, ticks
from .plots import WIDTH, Picture, canvas
from .titles import title_of
from .updates import over_modules

KINDS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
LAYERS = 12                                         # layers up to which the cells carry numbers
PIECES = (("both", "rows and columns", "#0B3C5D", None), ("rows", "rows alone", "#4C9BC9", "//"),
          ("columns", "columns alone", "#C9DDEB", None), ("own", "its own", "#E69F00", None))   # dark to light, another hue
ALIKE = 1.1                                         # norms within this factor are called alike
RANDOM = 0.45                                       # opacity of what chance would give


def placement(table: pd.DataFrame, relative: bool, title: str | None = None, of: str = "") -> Picture:
    """Which layers and modules learn, and which forget? table: from anatomy.placement, or its rows of one task; relative: whether
    it was given the base's weights, so that its norms are divided by theirs; of: what the subtitle begins with.

    A row a layer, a column a kind of module; means over the tasks, of the drift over all but the last task.
    """
    _check(table, ("task", "layer", "part", "kind", "learned", "drift", "effective"), "anatomy.placement")
    unit = ", by the norm of the base's weight" if relative else ""
    earlier = table[table.task < table.task.max()] if table.task.nunique() > 1 else table[table.drift > 0]
    panels = (("learned: ‖s Dᵢ‖", table, "learned"), ("drift: ‖s (ΔWₜ − ΔWᵢ)‖", table if earlier.empty else earlier, "drift"),
              ("effective rank of Dᵢ", table, "effective"))
    height = 2.6 + 0.28 * min(table.layer.nunique(), 2 * LAYERS)
    figure = canvas(WIDTH, height, title or _who_moves(_by_part(table, "learned"), _by_part(earlier, "drift"), table),
                    f"{of}{'. ' * bool(of)}Dᵢ: what task i changed; ΔWᵢ: the model after it, t the last task; Frobenius norms{unit}. "
                    f"{'Means over the tasks. ' * (table.task.nunique() > 1)}White line: attention to the left, MLP to the right.",
                    lines=2)
    kinds = sorted(table.kind.unique(), key=lambda kind: (*table[table.kind == kind].part.ne("attention").unique(), _order(kind)))
    border = table[table.part == "attention"].kind.nunique()
    for axis, (heading, rows, column) in zip(figure.subplots(1, 3, sharey=True), panels):
        cells = rows.pivot_table(index="layer", columns="kind", values=column).reindex(columns=kinds)
        image = axis.imshow(cells, cmap="cividis", aspect="auto", vmin=0, vmax=max(cells.max().max(), 1e-9))
        _numbers(axis, cells.to_numpy(), column)
        axis.axvline(border - 0.5, color="white", linewidth=3)
        axis.set_xticks(range(len(kinds)), [short(kind.removesuffix("_proj"), 8) for kind in kinds],
                        rotation=40 if len(kinds) > 4 else 0, ha="right" if len(kinds) > 4 else "center", rotation_mode="anchor")
        shown = range(len(cells)) if len(cells) <= LAYERS else [tick - 1 for tick in ticks(len(cells))]
        axis.set_yticks(list(shown), [cells.index[k] for k in shown])
        axis.tick_params(labelsize=12)
        axis.set_title(heading, fontsize=13, loc="left")
        if len(cells) > LAYERS:
            figure.colorbar(image, ax=axis, shrink=0.8).ax.tick_params(labelsize=11)
    figure.axes[0].set_ylabel("layer", fontsize=13)
    return figure


def _order(kind: str) -> tuple[int, str]:
    """As a layer computes them; others by name."""
    return (KINDS.index(kind) if kind in KINDS else len(KINDS)), kind


def _numbers(axis, cells: np.ndarray, column: str) -> None:
    if len(cells) > LAYERS or cells.shape[1] > LAYERS:
        return
    most = np.nanmax(cells)
    for row, place in np.ndindex(cells.shape):
        value = cells[row, place]
        words = "–" if value != value else f"{value:.1f}" if column == "effective" or most >= 10 else f"{value:.2f}"
        axis.text(place, row, words.removeprefix("0") if column != "effective" else words, ha="center", va="center", fontsize=11,
                  color="black" if value == value and value > 0.6 * most else "white", in_layout=False)


def _by_part(table: pd.DataFrame, column: str) -> pd.Series:
    return table.groupby("part", sort=False)[column].mean()


def _who_moves(learned: pd.Series, drift: pd.Series, table: pd.DataFrame) -> str:
    """learned, drift: means by part of the model."""
    layer = table.groupby("layer").learned.mean()
    where = f"; layer {layer.idxmax()} learns most" if len(layer) > 1 and layer.max() > ALIKE * layer.mean() else ""
    (who, sizes), (other, far) = _leader(learned), _leader(drift)
    rest = "" if not far else f" and drift {far}" if who == other else f"; {other} modules drift {far}"
    return f"{who[0].upper()}{who[1:]} modules learn {sizes}{rest}{where}"


def _leader(means: pd.Series) -> tuple[str, str]:
    """(whose values are largest, how large beside the next)."""
    ordered = means.dropna().sort_values(ascending=False, kind="stable")
    if len(ordered) < 2:
        return (ordered.index[0], f"by {ordered.iloc[0]:.2f}") if len(ordered) else ("", "")
    numbers = f"({ordered.iloc[0]:.2f} against {ordered.iloc[1]:.2f})"
    if ordered.iloc[0] < ALIKE * ordered.iloc[1]:
        return f"{' and '.join(sorted(ordered.index[:2], reverse=True))}", f"alike {numbers}"
    return ordered.index[0], f"more than {ordered.index[1]} {numbers}"


def placement_in_words(table: pd.DataFrame, of: str) -> str:
    """The numbers of `placement` in one sentence: which module learns and drifts most and least."""
    means = table.groupby(["layer", "kind"], sort=False)[["learned", "drift"]].mean()
    ends = {column: (means[column].idxmax(), means[column].max(), means[column].idxmin(), means[column].min()) for column in means}
    said = [f"{column} most in layer {high[0]} {high[1]} ({most:.3f}) and least in layer {low[0]} {low[1]} ({least:.3f})"
            for column, (high, most, low, least) in ends.items()]
    return f"{of}: {'; '.join(said)}."


def shares_in_words(tables: Mapping[str, pd.DataFrame], top: int, names: Sequence[str]) -> str:
    """The last task's own share in every panel of `shares`, beside chance."""
    own = {}
    for method, table in tables.items():
        own[method] = over_modules(table[(table.part == "own") & (table.task == table.task.max())]).iloc[0]
    said = [f"{title_of(method)} {100 * row.value:.1f} (of a random one {100 * row.expected:.1f})" for method, row in own.items()]
    return f"Against the {top} strongest directions of each earlier update, the last task's ({names[-1]}) own in %: {', '.join(said)}."


def shares(tables: Mapping[str, pd.DataFrame], names: Sequence[str] | None = None, title: str | None = None) -> Picture:
    """How much of a task's update lies where earlier updates had been, and how much is its own? tables: method -> anatomy.shares.

    A panel a method; of each task's update (from the second) the squared norm in four pieces, beside it, pale, what a random
    update would have. names: the tasks'.
    """
    if not tables:
        raise InputError("expected a table of anatomy.shares for each method, found none")
    whole = {}
    for method, table in tables.items():
        _check(table, ("task", "module", "part", "value", "expected", "energy"), "anatomy.shares")
        whole[method] = pieces(over_modules(table))
    figure = canvas(WIDTH, 4.2, title or _how_much_is_own(whole),
                    "Share of ‖Dᵢ‖², all modules, in the row and column spaces of D₁ … Dᵢ₋₁. Strong: measured; pale: expected of "
                    "a random update.")
    axes = figure.subplots(1, len(whole), sharey=True, squeeze=False)[0]
    for axis, (method, table) in zip(axes, whole.items()):
        tasks = sorted(table.task.unique())
        for offset, column, opacity in ((-0.21, "value", 1.0), (0.21, "expected", RANDOM)):
            edges = np.add.outer(np.array(tasks) + offset, (-0.2, 0.2, 0.2)).ravel()       # of every bar; at the third a gap
            base, gap = np.zeros(len(tasks)), np.tile((True, True, False), len(tasks))
            for piece, words, shade, hatch in PIECES:
                top = base + np.nan_to_num(table[table.piece == piece].sort_values("task")[column].to_numpy())
                axis.fill_between(edges, np.repeat(base, 3), np.repeat(top, 3), where=gap, facecolor=shade, alpha=opacity,
                                  hatch=hatch, edgecolor="white", linewidth=0, label=words if opacity == 1 else None)
                base = top
        labels = [short(f"{task} {names[task - 1]}", 12) for task in tasks] if names else tasks
        axis.set_xticks(tasks, labels, rotation=30 if names else 0, ha="right" if names else "center", rotation_mode="anchor")
        axis.set(ylim=(0, 1), yticks=(0, 0.25, 0.5, 0.75, 1))
        axis.set_title(short(title_of(method), 90 // len(axes)), fontsize=13, loc="left")
        axis.set_xlabel("" if names else "task", fontsize=13)
        axis.tick_params(labelsize=12)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of the update", fontsize=13)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=12, frameon=False, ncols=4)
    return figure


def pieces(table: pd.DataFrame) -> pd.DataFrame:
    """`updates.over_modules` cut into four pieces that add up to 1: both, rows (without both), columns (without both), own.
    Columns: task, piece, value, expected."""
    wide = table.pivot(index="task", columns="part", values=["value", "expected"])
    for column in ("value", "expected"):
        for piece in ("rows", "columns"):
            wide[column, piece] -= wide[column, "both"]
    names = [piece for piece, *_ in PIECES]
    return pd.DataFrame({"task": np.repeat(wide.index, len(names)), "piece": names * len(wide),
                         **{column: wide[column][names].to_numpy().ravel() for column in ("value", "expected")}})


def _how_much_is_own(whole: Mapping[str, pd.DataFrame]) -> str:
    """The last task's own share, of each method."""
    last = {method: table[(table.task == table.task.max()) & (table.piece == "own")].iloc[0] for method, table in whole.items()}
    known = {method: row for method, row in last.items() if row.value == row.value}
    if not known:
        return "The last task changed nothing, so nothing is its own"
    words = [f"{100 * row.value:.0f} %" + (" of the last task's update" * (not k)) + f" with {in_sentence(title_of(method))}"
             for k, (method, row) in enumerate(known.items())]
    chance = sorted({round(100 * row.expected) for row in known.values()})
    said = " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    return f"{said} is its own; of a random one {' to '.join(map(str, chance[::len(chance) - 1 or 1]))} %"


def _check(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    if not isinstance(table, pd.DataFrame) or table.empty or not set(columns) <= set(table.columns):
        found = list(table.columns) if isinstance(table, pd.DataFrame) else type(table).__name__
        raise InputError(f"expected a table as {source} makes it, with rows and the columns {', '.join(columns)}, found {found}")
