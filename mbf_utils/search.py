"""One small, documented search of a method's settings, on other rows than any that are reported, of one size for every method.

Another world (`--data-seed`), its development rows, one seed of training; at most BUDGET settings a method. What was tried is
written to figures/choice-METHOD.csv, what was chosen to chosen.json, by base and method; that is what `mbf compare` uses.
"""
from __future__ import annotations

import itertools
import json
from pathlib import Path

import pandas as pd

from .comparison import compare
from .disk import write_json
from .errors import InputError
from .methods import make_method
from .titles import place_of

CHOSEN = Path(__file__).with_name("chosen.json")
BUDGET = 4                                          # settings tried, the method's own default among them where it is given
SCORE = "AA"                                        # exact match, the mean over the seeds


def chosen(base: str, method: str) -> dict:
    """The fields chosen for a method on a base; {} where its defaults stand."""
    return json.loads(CHOSEN.read_text(encoding="utf-8")).get(Path(base).name, {}).get(method, {})


def choose(base: str, method: str, fields: dict) -> Path:
    """Writes them into the table of chosen settings, in METHODS' order; returns its file."""
    table = json.loads(CHOSEN.read_text(encoding="utf-8"))
    of_base = table.get(Path(base).name, {}) | {method: fields}
    table[Path(base).name] = {name: of_base[name] for name in sorted(of_base, key=place_of)}
    try:
        write_json(table, CHOSEN)
    except OSError as error:
        raise InputError(f"expected to write what was chosen, {fields}, to {CHOSEN}, found: {error.strerror}") from None
    return CHOSEN


def search(stream, method: str, grid: dict[str, list], seeds=(0,), model="tiny", out=None, workers=1, **settings) -> pd.DataFrame:
    """Tries every combination of the grid {field: values} on the development rows: a row a setting, the fields as columns, with
    AA and AA_options (percent), their deviations, and `chosen`: True in the row of the highest AA, the first of equals.

    Raises InputError for more than BUDGET combinations and for what `compare` refuses; also where one of the runs failed.
    """
    tried = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    if not 2 <= len(tried) <= BUDGET:
        raise InputError(f"expected 2 to {BUDGET} settings to try, the same for every method, found {len(tried)}")
    if "evaluate_on" in settings:
        raise InputError("expected no evaluate_on: a search scores development rows, never test rows")
    found = compare(stream, [(method, fields) for fields in tried], seeds, model, out, workers, evaluate_on="dev", **settings)
    if len(found.failures):
        raise InputError(f"expected every setting to be learned, but {found.failures['cell'][0]} failed: {found.failures['error'][0]}")
    rows = []
    for fields in tried:
        values = {key: value for key, value in vars(make_method(method, **fields)).items() if key in grid}
        runs = [run for run in found.runs if all(run.config["method"][key] == value for key, value in values.items())]
        scores = pd.DataFrame([run.metrics() for run in runs])
        rows.append({"stream": runs[0].config["stream"]["name"], "order": runs[0].config["stream"]["order"], "method": method, **values,
                     "seeds": len(runs), **{name: scores[name].mean() for name in (SCORE, "AA_options") if name in scores},
                     f"{SCORE}_sd": scores[SCORE].std(ddof=1)})
    table = pd.DataFrame(rows)
    return table.assign(chosen=table.index == table[SCORE].idxmax())
