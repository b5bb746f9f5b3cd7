"""The paper's tables and its replication's runs as cells: what each costs, run resumably, set beside what was published.

    main/superni/slao                   a cell of the main table: one method on one benchmark, over all its orders
    start/long/slao_random              ablations: where a task starts, what is merged
    orders/superni-O1/slao/Qwen2.5-3B   a single order, perhaps of another model

A cell's runs are those of `mbf compare` with the benchmark's preset (presets.py): every order with every seed. Cells share runs.
SuperNI counts by the field's scores (Rouge-L where answers are texts), the others by exact match.

Hours are estimates, not measurements. They rest on one number a model, the replication's: one SuperNI run, O1, on a 40 GB slice
of an A100 took 3.7 to 4.6 hours with Llama-2-7B and 2.3 to 2.5 with Qwen2.5-3B (a model without such a number: by its
parameters). From there by rows: a training row counts 3, a scored row 1, a generated answer 3, each as long as any other. What a
method computes beside its training is not counted.
"""
from __future__ import annotations

from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from . import presets
from .comparison import Base, compare
from .disk import write_whole
from .errors import InputError
from .published import replicated, rows_of
from .results import Run
from .settings import Settings
from .sources import load_stream
from .streams import ORDERS, Stream
from .titles import card_of

SEEDS = (42, 43, 44)                                # the replication's; the paper's three are not known
HUB = {"Llama-2-7B-chat": "meta-llama/Llama-2-7b-chat-hf", "Qwen2.5-3B": "Qwen/Qwen2.5-3B",
       "Llama-3.2-3B": "meta-llama/Llama-3.2-3B"}
HOURS = {"Llama-2-7B-chat": 4.15, "Qwen2.5-3B": 2.4, "Llama-3.2-3B": 4.15 * 3.21 / 6.74}      # one SuperNI run, O1
READING = {"superni": ("AA_score", "BWT_score")}    # else AA, BWT
# train and test rows in the benchmarks' own files
_ROWS = {"yelp": (5000, 7600), "amazon": (5000, 7600), "IMDB": (2000, 7600), "SST-2": (2000, 872), "dbpedia": (14000, 7600),
         "agnews": (4000, 7600), "yahoo": (10000, 7600), "MNLI": (3000, 7600), "CB": (250, 56), "RTE": (2000, 277),
         "QQP": (2000, 7600), "COPA": (400, 100), "MultiRC": (2000, 4848), "BoolQA": (2000, 3270), "WiC": (2000, 638),
         "task1572_samsum_summary": (160, 20), "task073_commonsenseqa_answer_generation": (975, 100),
         "task1590_diplomacy_text_generation": (126, 16), "task181_outcome_extraction": (338, 43),
         "task639_multi_woz_user_utterance_generation": (142, 18)}
_SUPERNI = (1000, 100)                              # all others there


class Cell(NamedTuple):
    table: str
    model: str                                      # the paper's name of it
    benchmark: str
    orders: tuple[str, ...]
    method: str
    paper: float                                    # average accuracy, percent

    @property
    def name(self) -> str:
        if self.table == "orders":
            return f"orders/{self.benchmark}-{self.orders[0]}/{self.method}/{self.model}"
        return f"{self.table}/{self.benchmark}/{self.method}"

    @property
    def hours(self) -> float:
        """Of all orders, one seed; see the module."""
        superni = work("superni", "O1", "slao")
        return HOURS[self.model] * sum(work(self.benchmark, order, self.method) for order in self.orders) / superni


def work(benchmark: str, order: str, method: str) -> float:
    """What one run costs, in scored rows."""
    epochs, total, before, seen = presets.preset(f"slao-{benchmark}").settings["epochs"], 0.0, 0, 0
    card, generated = card_of(method), 3 if benchmark == "superni" else 1
    union = card.family == "reference" and card.old_data             # trains on all tasks so far
    for name in ORDERS[benchmark][order]:
        train, test = _ROWS.get(name, _SUPERNI)
        before, seen = before + train, seen + test
        total += 3 * epochs * (before if union else train) + generated * seen
    return total


def cells() -> list[Cell]:
    """All of them, in the order of the tables."""
    found = []
    for table in ("main", "start", "merging", "orders"):
        for row in rows_of(table).itertuples():
            orders = (row.orders,) if table == "orders" else tuple(ORDERS[row.benchmark])
            found.append(Cell(table, row.model, row.benchmark, orders, row.method, row.value))
    have = {(cell.model, cell.benchmark, cell.orders, cell.method) for cell in found if cell.table == "orders"}
    for row in replicated().itertuples():           # what only the replication ran
        key = row.model, row.benchmark, (row.orders,), row.method
        if row.metric == "AA" and "-" not in row.orders and key not in have:
            have.add(key)
            found.append(Cell("orders", *key, float("nan")))
    return found


def choose(patterns: list[str]) -> list[Cell]:
    """The cells whose names the patterns name: main/superni/slao, or main/superni/*."""
    found = []
    for pattern in patterns:
        some = [cell for cell in cells() if fnmatchcase(cell.name, pattern)]
        if not some:
            raise InputError(f"expected the name of a cell, as main/superni/slao or main/*/slao, found {pattern!r}: mbf reproduce "
                             "lists them")
        found += [cell for cell in some if cell not in found]
    return found


def listed() -> pd.DataFrame:
    """A row a cell: its name, model, runs for one seed, the paper's value, the replication's, estimated GPU hours for one seed."""
    return pd.DataFrame([{"cell": cell.name, "model": cell.model, "runs a seed": len(cell.orders), "paper": cell.paper,
                          "replication": _band(cell, "AA"), "GPU hours a seed": cell.hours} for cell in cells()])


def reproduce(chosen: list[Cell], data: dict[str, str], out, model: Base = Base(""), seeds=SEEDS, limit: int | None = None,
              data_seed: int = 0, workers=1, named: bool | None = None, prompts: str | None = None,
              **settings) -> tuple[pd.DataFrame, dict[str, str]]:
    """Runs what is not run yet of the chosen cells and returns (a row a cell, {run: what went wrong}).

    data: benchmark -> a folder or what else load_stream takes; else the benchmark's name, from the Hub. model: instead of the
    cells' own; without a name only where and how to load that. limit, named, prompts: as load_stream takes them. settings:
    instead of the preset's. `differs` says in what a cell is not as the paper's, as far as a cell can tell: base, type, device,
    settings, prompts, and the rows' counts against those of the benchmarks' own files. The table is also written to
    OUT/reproduce.csv, over the rows of the same cells there; those of other cells stay.
    """
    out, failures, runs, odd = Path(out), {}, {}, {}
    for place, benchmark in dict.fromkeys((cell.model, cell.benchmark) for cell in chosen):
        some = [cell for cell in chosen if (cell.model, cell.benchmark) == (place, benchmark)]
        preset, base = f"slao-{benchmark}", model._replace(name=model.name or HUB[place])
        drawn = 0 if benchmark in data else data_seed                # the seed tells which rows of the Hub
        told = odd[place, benchmark] = _unlike(base, HUB[place], drawn, named, prompts, preset, settings)
        for order in dict.fromkeys(order for cell in some for order in cell.orders):
            stream = load_stream(data.get(benchmark, benchmark), order, data_seed, limit, named, prompts)
            told += [text for text in _other_rows(stream) if text not in told]
            methods = dict.fromkeys(cell.method for cell in some if order in cell.orders)
            entries = [(name, fields) if (fields := presets.fields(preset, name)) else name for name in methods]
            done = compare(stream, entries, list(seeds), base, out / place / benchmark, workers,
                           **presets.settings(preset) | settings)
            failures |= dict(done.failures.itertuples(index=False, name=None))
            runs |= {(place, benchmark, order, run.method, run.config["seed"]): run for run in done.runs}
    table = pd.DataFrame([_row(cell, runs, seeds, odd[cell.model, cell.benchmark]) for cell in chosen])
    write_whole(_merged(table, out / "reproduce.csv").to_csv(index=False, lineterminator="\n"), out / "reproduce.csv")
    return table, failures


def _unlike(base: Base, theirs: str, data_seed: int, named: bool | None, prompts: str | None, preset: str,
            settings: dict) -> list[str]:
    """What is asked for and is not the paper's setting, a text each."""
    own = vars(Settings(**presets.settings(preset)))
    changed = [f"{name} {value}" for name, value in settings.items() if value != own.get(name)]
    told = {f"base {base.name}": base.name != theirs, f"{base.quantize} bits": base.quantize,
            f"rows of data seed {data_seed}": data_seed,
            f"type {base.dtype}": base.dtype not in ("auto", "bfloat16"), f"prompts {prompts}": prompts,
            "prompts that do not name their task": named is False}
    return [text for text, odd in told.items() if odd] + changed


def _other_rows(stream: Stream) -> list[str]:
    """A text for each task whose numbers of rows are not those of the benchmarks' own files, which the paper's setting needs."""
    found = [(task.name, (len(task.train), len(task.test)), _ROWS.get(task.name, _SUPERNI)) for task in stream]
    return [f"{name} of {train} train and {test} test rows (not {theirs[0]} and {theirs[1]})"
            for name, (train, test), theirs in found if (train, test) != theirs]


def _merged(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    """The table as text, with the rows that the file has of other cells; in the order of `cells`."""
    def as_text(source) -> pd.DataFrame:
        return pd.read_csv(source, dtype=str, keep_default_na=False)
    now = as_text(StringIO(table.to_csv(index=False, float_format="%.4f")))
    if file.is_file():
        try:
            earlier = as_text(file)
            now = pd.concat([now, earlier[~earlier["cell"].isin(now["cell"])]])[list(now)].fillna("")
        except (OSError, ValueError, KeyError):
            raise InputError(f"expected the table of earlier cells in {file}, found a damaged one: remove it, and name "
                             "the cells again to have them back") from None
    names = [cell.name for cell in cells()]
    return now.sort_values("cell", key=lambda column: column.map(names.index))


def _row(cell: Cell, runs: dict[tuple, Run], seeds, odd: list[str]) -> dict:
    """A cell's mean over its orders, for every seed that has them all; mean and standard deviation over these seeds.
    odd: in what it is not as the paper's."""
    names = READING.get(cell.benchmark, ("AA", "BWT"))
    each, used = [], None
    for seed in seeds:
        found = [runs.get((cell.model, cell.benchmark, order, cell.method, seed)) for order in cell.orders]
        if all(found):
            used = found[0]
            values = [[metrics[name] for name in names] for metrics in (run.metrics() for run in found)]
            each.append([sum(column) / len(found) for column in zip(*values)])
    scores = pd.DataFrame(each, columns=["AA", "BWT"], dtype=float)
    odd = odd + [f"device {used.config['device']}"] * bool(used and not used.config["device"].startswith("cuda"))
    return {"cell": cell.name, "ran on": Path(used.config["model"]["name"]).name if used else "", "as the paper": not odd,
            "differs": "; ".join(odd),
            "seeds": len(each), "AA": scores["AA"].mean(), "AA_sd": scores["AA"].std(ddof=1), "BWT": scores["BWT"].mean(),
            "BWT_sd": scores["BWT"].std(ddof=1), "paper's model": cell.model, "paper AA": cell.paper, "paper BWT": _paper_bwt(cell),
            "replication AA": _band(cell, "AA"), "replication BWT": _band(cell, "BWT")}


def _paper_bwt(cell: Cell) -> float:
    rows = rows_of("bwt")
    rows = rows[(rows["model"] == cell.model) & (rows["benchmark"] == cell.benchmark) & (rows["method"] == cell.method)]
    return rows["value"].iloc[0] if len(rows) and len(cell.orders) > 1 else float("nan")


def _band(cell: Cell, metric: str) -> str:
    """The replication's "42.93 ± 1.13" of the same model, benchmark and orders; "" where it has none."""
    rows, orders = replicated(), "-".join(dict.fromkeys((cell.orders[0], cell.orders[-1])))
    rows = rows[(rows["model"] == cell.model) & (rows["benchmark"] == cell.benchmark) & (rows["method"] == cell.method)
                & (rows["metric"] == metric) & (rows["orders"] == orders)]
    return "; ".join(f"{row.value:.2f}" + (f" ± {row.sd:.2f}" if row.sd == row.sd else "") + f" ({row.device})" * (len(rows) > 1)
                     for row in rows.itertuples())
