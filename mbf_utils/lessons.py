"""What the notebooks share: the set-up cell, the runs and scores that the repository holds, and the checks of exercises."""
from __future__ import annotations

import math
import os
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from . import __version__, findings
from .errors import InputError
from .plots import Picture, comparison, save
from .reports import gather, pooled, scores_of, seed_scores
from .results import Run

ROOT = Path(__file__).resolve().parent.parent       # the repository, or the unpacked bundle


def setup(cpu_minutes: float, gpu_minutes: float | None = None) -> bool:
    """Prints versions, device and the minutes to expect; returns True where MBF_FAST asks for a quick pass (tests do).

    On a CPU torch is held to one thread: the tiny models are far slower with several.
    """
    fast = os.environ.get("MBF_FAST", "0") not in ("", "0")
    pd.set_option("styler.format.escape", "html")   # a data set's text that holds HTML shows as text, also in styled tables
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    if card is None:
        torch.set_num_threads(1)
    minutes = gpu_minutes if card and gpu_minutes else cpu_minutes
    print(f"mbf-utils {__version__}, torch {version('torch')}, transformers {version('transformers')}, peft {version('peft')}")
    print(f"{card or 'CPU, one thread'}; about {minutes:g} minutes" + (" (quick pass: fewer rows)" if fast else ""))
    return fast


def committed(name: str) -> Run:
    """A run of world-5 that the repository holds, in notebooks/runs: what a training cell would have made, to catch up with."""
    folder = ROOT / "notebooks" / "runs" / name
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in folder.parent.glob("*/"))) if folder.parent.is_dir() else "none"
        raise InputError(f"expected a committed run, found no {name!r} in notebooks/runs (there are: {known})")
    return Run(folder)


def measured(name: str, reading: str = "labels", **which) -> dict[str, list[pd.DataFrame]]:
    """{method: [R of each seed]} of a comparison whose scores lie in figures/NAME-matrices.csv; see reports.scores_of."""
    return scores_of(_read(f"{name}-matrices"), reading, **which)


def scores(name: str, metric: str = "AA", reading: str = "labels", **which) -> pd.DataFrame:
    """One metric of the same: a row a seed, a column a method; see reports.seed_scores."""
    return seed_scores(_read(f"{name}-matrices"), metric, reading, **which)


def table(name: str, **which) -> pd.DataFrame:
    """The rows of figures/NAME.csv whose columns have the values `which`: one a method and setting, see reports.summarise."""
    rows = _read(name)
    for column, value in which.items():
        rows = rows[rows[column].astype(str) == str(value)]
    return rows.fillna({"setting": "", "rank": "", "rank_options": ""}).reset_index(drop=True)


def runs_of(name: str, **which) -> pd.DataFrame:
    """The rows of figures/NAME-runs.csv, one a run, whose columns have the values `which`; none, and a sentence that says so, where
    the comparison has not been made."""
    if not (ROOT / "figures" / f"{name}-runs.csv").is_file():
        print(f"{name} is not in figures/: nothing is shown of it. figures/make.sh makes it.")
        return pd.DataFrame(columns=["stream", "order", "named", "model", "method", "setting", "seed", "AA", "AA_options", "run"])
    each = _read(f"{name}-runs")
    for column, value in which.items():
        each = each[each[column].astype(str) == str(value)]
    return each.fillna({"setting": ""}).reset_index(drop=True)


def matrices_of(name: str) -> pd.DataFrame | None:
    """figures/NAME-matrices.csv as findings takes it; None, and a sentence that says so, where there is no such file."""
    if not (ROOT / "figures" / f"{name}-matrices.csv").is_file():
        print(f"The matrices of {name} are not in figures/: nothing is shown of them. figures/make.sh makes them.")
        return None
    return _read(f"{name}-matrices")


def first_measured(*names: str) -> str:
    """The first of these comparisons whose matrices are in figures/; says which."""
    found = next((name for name in names if (ROOT / "figures" / f"{name}-matrices.csv").is_file()), None)
    if found is None:
        raise InputError(f"expected the matrices of {' or '.join(names)} in figures/, found none: figures/make.sh makes them")
    print(f"shown: {found}" + (f", because {names[0]} has not been made" if found != names[0] else ""))
    return found


def results(name: str, methods: list[str] | None = None, **which) -> pd.DataFrame:
    """A comparison as a reader takes it, from figures/NAME-runs.csv: a block for every stream, base and form of prompt, in it a row
    a method (findings.methods) over all its orders and seeds, references below. Where `methods` chooses rows, ranks stay those
    among all. ± is the standard deviation over the runs; "less seqlora" the mean paired difference with half of its 95 % interval.
    """
    blocks, each = [], runs_of(name, **which)
    for (stream, named, model), rows in each.groupby(findings.SURROUNDINGS, sort=False):
        found = findings.methods(rows)
        kept = found if methods is None else found[found["method"].isin(methods)]
        shown = findings.readable(kept)
        about = {"base": model} if each["model"].nunique() > 1 else {}
        about |= {"prompts": "name the data set" if named else "do not"} if each["named"].nunique() > 1 else {}
        about |= {"stream": stream} if each["stream"].nunique() > 1 else {}
        blocks.append(shown.assign(**about)[[*about, *shown.columns]])
    return pd.concat(blocks).set_index("method") if blocks else pd.DataFrame()


class folded:
    """A table under a line that opens it: for rows that would crowd a page."""

    def __init__(self, table: pd.DataFrame, summary: str):
        self.table, self.summary = table, summary

    def _repr_html_(self) -> str:
        return f"<details><summary>{self.summary}</summary>{self.table.to_html(index=False)}</details>" if len(self.table) else ""

    def __repr__(self) -> str:
        return f"{self.summary}:\n{self.table.to_string(index=False)}" if len(self.table) else ""


def keep(figure: Picture, name: str, table: pd.DataFrame | None = None) -> Picture:
    """Writes a notebook's figure to figures/NAME.png, its table beside it, and gives the figure back, for the cell to show. A quick
    pass writes nothing: what it shows is of fewer rows."""
    if os.environ.get("MBF_FAST", "0") in ("", "0"):
        save(figure, name, table, ROOT / "figures")
    return figure


def _read(name: str) -> pd.DataFrame:
    file = ROOT / "figures" / f"{name}.csv"
    if not file.is_file():
        raise InputError(f"expected the scores of a comparison in {file.parent.name}/{file.name}, found no such file")
    return pd.read_csv(file, dtype={column: str for column in ("setting", "order", "rank", "rank_options")})


def pool(folder: str | Path, value: str = "AA_options") -> tuple[Picture, pd.DataFrame]:
    """A class's runs, of other seeds and other orders, in one figure with spread, and its table (reports.pooled).

    folder: the runs lie anywhere below it, a folder a student for instance. What is not finished is left out and named.
    """
    runs, unfinished = gather(folder)
    orders = sorted({run.config["stream"]["order"] for run in runs})
    print(f"{len(runs)} runs, {len({run.config['seed'] for run in runs})} seeds, order {' and '.join(orders)}"
          + "".join(f"; not finished: {path}" for path in unfinished))
    found = pooled(runs, value)
    counted = found.assign(title=found["title"] + " (" + found["runs"].astype(str) + ")")
    return comparison(counted, value, over="the runs, their number in brackets"), found  # type: ignore[return-value]


def check(answer, right, hint: str, within: float = 1e-9) -> str:
    """"Right." where a number (or each number of a sequence) equals `right` to 1e-6 relative or to `within`, else what to think of.

    answer: also a function without arguments that gives it; what it raises is told, for the exercise may not be begun.
    """
    try:
        found = answer() if callable(answer) else answer
    except Exception as error:
        return f"Not yet: {hint} ({type(error).__name__}: {error})"
    try:
        pairs = list(zip(found, right, strict=True)) if hasattr(right, "__len__") else [(found, right)]
        good = all(math.isclose(float(a), float(b), rel_tol=1e-6, abs_tol=within) for a, b in pairs)
    except (TypeError, ValueError):
        good = False
    return "Right." if good else f"Not yet: {hint}"
