"""What `mbf compare` and `mbf report` print, and what --save writes: tables of scores, of costs, and pictures."""
from __future__ import annotations

from pathlib import Path

import pandas as pd

from . import plots
from .disk import write_whole
from .reports import COSTS, KEYS, matrices, printed, summarise


def show(table: pd.DataFrame, orders=()) -> None:
    """Prints a table for every stream and order of a summary (reports.summarise), and one of several orders."""
    print("percent; mean ± sample standard deviation over the seeds; difference with half of its 95 % interval")
    for (stream, order, named, model, _), rows in table.groupby(["stream", "order", "named", "model", "setup"], sort=False):
        print(f"\n{stream}, order {order}{', prompts name the data set' * named}, base {model}")
        print(printed(rows).to_string(index=False))
    if len(orders):
        print(f"\nover several orders\n{orders.to_string(index=False, float_format='%.1f')}")


def write_one(table: pd.DataFrame, orders, file: Path) -> None:
    """All that is known of a comparison, in one table: a summary with its costs, beside each row what the order of the tasks does."""
    keys = ["stream", "named", "model", "method", "setting"]
    if len(orders):
        table = table.merge(orders[[*keys, *(column for column in orders if column.startswith(("MOPD", "AOPD")))]], "left", keys)
    write_whole(table.to_csv(index=False, float_format="%.4f", lineterminator="\n"), file)


def save(runs: list, orders, folder: Path, name: str, mean: str = "macro") -> None:
    """Scores apart from costs: equal runs give equal bytes, times do not. mean: as `summarise` takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    table, each = summarise(runs, mean)
    over = "the seeds" + "; AA is a mean over test rows" * (mean == "micro")
    frames = {"": table.drop(columns=COSTS), "-runs": each.drop(columns=COSTS), "-matrices": matrices(runs),
              "-costs": table[[*KEYS, "title", "seeds", *COSTS]]}
    for suffix, frame in (frames | ({"-orders": orders} if len(orders) else {})).items():
        write_whole(frame.to_csv(index=False, float_format="%.4f", lineterminator="\n"), folder / f"{name}{suffix}.csv")
    setups = table.groupby("setup", sort=False)
    for number, (_, rows) in enumerate(setups, 1):
        label = name + (_label(rows.iloc[0], number) if len(setups) > 1 else "")
        for value, suffix in (("AA", ""), ("AA_options", "-options"), ("AA_score", "-score")):
            if value in rows and rows[value].notna().any():
                seeds = [each.loc[each["run"] == run, value].tolist() for run in rows["run"]]
                plots.save(plots.comparison(rows.assign(scores=seeds), value, over=over), label + suffix, folder=folder)
    print(f"\nwritten: {folder / name}.csv, more tables and the pictures beside it")


def _label(row, number: int) -> str:
    """Of the picture of one stream and order among several: "-world-5-o2", numbered where orders are lists of tasks."""
    order = f"o{row['order']}" if len(row["order"]) < 4 else number
    return f"-{row['stream']}-{order}" + "-named" * bool(row["named"])
