"""The numbers that others print, in tables of their own: never in one column with ours.

published.csv    the paper's (arXiv 2512.23017), from 7-billion-parameter models on the field's benchmarks. We have them from
                 readers' notes, and `sure` says how well they are confirmed. The authors' code is not public.
replicated.csv   an independent replication's (sontungkieu/merge-before-forget): mean and sample standard deviation over its seeds.
"""
from __future__ import annotations

from pathlib import Path

import pandas as pd

from .errors import InputError

FILE = Path(__file__).with_name("published.csv")
REPLICATED = Path(__file__).with_name("replicated.csv")
TITLES = {
    "main": "average accuracy, mean over the benchmark's orders", "start": "ablation of the start, average accuracy",
    "merging": "ablation of what is merged, average accuracy", "bwt": "backward transfer",
    "orders": "average accuracy of single orders",
}


def published(table: str = "main") -> pd.DataFrame:
    """One of the paper's tables, a row a method, a column a benchmark; percent.

    table: "main" (average accuracy), "start" and "merging" (ablations), "bwt" (backward transfer, the long benchmark), "orders"
    (what is known of single orders and other models; a column a model, benchmark and order).
    """
    rows = rows_of(table)
    columns = ["model", "benchmark", "orders"] if table == "orders" else "benchmark"
    return rows.pivot_table(index="method", columns=columns, values="value", sort=False)


def rows_of(table: str) -> pd.DataFrame:
    """The same as rows: model, benchmark, orders, method, metric, value, source, sure."""
    rows = pd.read_csv(FILE, dtype={"orders": str})
    if table not in set(rows["table"]):
        raise InputError(f"expected a table among {', '.join(rows['table'].unique())}, found {table!r}")
    return rows[rows["table"] == table].drop(columns="table")


def replicated() -> pd.DataFrame:
    """The replication's rows: model, device, benchmark, orders, method, metric, value, sd (NaN for one run), seeds."""
    return pd.read_csv(REPLICATED, dtype={"orders": str, "seeds": str})


def told() -> str:
    """Everything, as `mbf report --paper` prints it."""
    parts = ["What the paper prints (arXiv 2512.23017; from readers' notes, its authors' code is not public). Percent; not ours."]
    for table, title in TITLES.items():
        rows = rows_of(table)
        told_of = "; ".join(f"{source} ({', '.join(dict.fromkeys(some['sure']))})"
                            for source, some in rows.groupby("source", sort=False))
        models = ", ".join(rows["model"].unique())
        shown = published(table).to_string(float_format="%.1f", na_rep="")
        parts.append(f"{title}; {models}; source (and how sure): {told_of}\n{shown}")
    rows = replicated()
    rows["value"] = [f"{value:.2f}" + (f" ± {sd:.2f}" if sd == sd else "") for value, sd in zip(rows["value"], rows["sd"])]
    parts.append("What an independent replication measured (sontungkieu/merge-before-forget): mean ± sample standard deviation "
                 f"over its seeds\n{rows.drop(columns='sd').to_string(index=False)}")
    return "\n\n".join(parts)
