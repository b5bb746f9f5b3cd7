"""The numbers that the paper prints (arXiv 2512.23017), in a table of their own: never in one column with ours.

They come from 7-billion-parameter models on the field's benchmarks; we have them from readers' notes, and `sure` says how well they
are confirmed. The authors' code is not public.
"""
from __future__ import annotations

from pathlib import Path

import pandas as pd

from .errors import InputError

FILE = Path(__file__).with_name("published.csv")


def published(table: str = "main") -> pd.DataFrame:
    """One of the paper's tables, a row a method, a column a benchmark; percent.

    table: "main" (average accuracy), "start" and "merging" (ablations), "bwt" (backward transfer, the long benchmark).
    """
    rows = pd.read_csv(FILE)
    if table not in set(rows["table"]):
        raise InputError(f"expected a table among {', '.join(rows['table'].unique())}, found {table!r}")
    return rows[rows["table"] == table].pivot_table(index="method", columns="benchmark", values="value", sort=False)
