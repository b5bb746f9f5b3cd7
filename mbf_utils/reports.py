"""Tables of finished runs: a row a run, a row a method, differences to sequential LoRA over the same seeds, ranks, orders.

Runs are compared within a `setup`: the same stream in the same order, base and training settings. Scores are in percent, spread
is the sample standard deviation (ddof 1). A rank says no more than the intervals carry.
"""
from __future__ import annotations

import hashlib
import json
from pathlib import Path
from statistics import mean

import pandas as pd

from . import metrics
from .costs import PEAKS, read_costs
from .errors import InputError
from .results import Run
from .store import ASIDE
from .titles import REFERENCE, card_of, group_of, place_of, setting_of, title_of

SETUP = ["stream", "order", "named", "model", "method", "setting"]
KEYS = [*SETUP, "run", "setup"]
CARD = ["family", "fidelity", "memory", "task_id", "old_data"]
COSTS = ["seconds_train", "seconds_evaluate", "peak_memory_mb", "peak_gpu_mb", "state_bytes"]
YARDSTICK = "seqlora"                               # the method whose paired difference every row shows
READINGS = ("AA", "AA_options", "AA_score")         # exact match, the best of the task's labels, the task's own score


def find_runs(paths) -> list[Run]:
    """The runs in the given folders, each a run's folder or one that holds such folders."""
    runs = []
    for path in map(Path, paths):
        found = [path] if (path / "config.json").is_file() else sorted(file.parent for file in path.glob("*/config.json"))
        if not found:
            raise InputError(f"expected a run, or a folder of runs, at {path}, found no config.json there")
        runs += map(Run, found)
    for run in runs:
        if len(run.logs) < len(run.names):
            raise InputError(f"expected finished runs, found {len(run.logs)} of {len(run.names)} tasks in {run.folder}: "
                             "give its command again to finish it")
    return runs


def summarise(runs: list[Run], mean: str = "macro") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(one row a method, setting and setup, in METHODS' order; one row a run). The costs are the columns COSTS of both.

    Every score is a mean over the seeds, with its standard deviation in the column `..._sd`. AA_minus_seqlora is the mean
    difference over the seeds that both have, AA_minus_seqlora_half half of its 95 % t-interval. See `_ranks` for `rank`.
    mean: "macro", AA over tasks, or "micro", over test rows.
    """
    if not runs:
        raise InputError("expected finished runs, found none")
    found = [_row(run, mean) for run in runs]
    setups = list(dict.fromkeys(row["setup"] for row in found))
    found.sort(key=lambda row: (setups.index(row["setup"]), place_of(row["method"]), row["setting"], row["run"], row["seed"]))
    each = pd.DataFrame(found)
    if (twice := each[each.duplicated(["run", "seed"])]).size:
        raise InputError(f"expected one run of each seed, found two of {twice.iloc[0]['method']} with seed "
                         f"{twice.iloc[0]['seed']} and the same settings: a copy is no second measurement, leave one out")
    rows = []
    for _, together in each.groupby("setup", sort=False):
        scores = {run: group.set_index("seed") for run, group in together.groupby("run", sort=False)}
        ranks = {reading: _ranks({run: (group["method"].iloc[0], group[reading]) for run, group in scores.items()})
                 for reading in READINGS if reading in together}
        yardstick = next((group for group in scores.values() if group["method"].iloc[0] == YARDSTICK), None)
        rows += [_summary(run, group, yardstick, ranks) for run, group in scores.items()]
    return pd.DataFrame(rows), each


def _row(run: Run, mean: str = "macro") -> dict:
    """One run: what it is, its metrics, its costs."""
    config, logs = run.config, run.logs
    values = {key: value for key, value in config["method"].items() if key not in ("name", "class")}
    same = {key: value for key, value in config.items() if key not in ("seed", *ASIDE)}
    cost = read_costs(run.folder)
    return {"stream": config["stream"]["name"], "order": config["stream"]["order"], "named": config["stream"]["named"],
            "model": Path(config["model"]["name"]).name, "method": run.method, "setting": setting_of(run.method, values),
            "seed": config["seed"], **run.metrics(*[mean] * (mean != "macro")), "run": _hash(same),
            "setup": _hash({key: value for key, value in same.items() if key != "method"}),
            "seconds_train": sum(log["seconds_train"] for log in logs),
            "seconds_evaluate": sum(log["seconds_evaluate"] for log in logs),
            **{key: cost.get(key) for key in PEAKS},
            "state_bytes": run.state_bytes}


def matrices(runs: list[Run]) -> pd.DataFrame:
    """R of every run in its readings, a row after each task: columns SETUP, seed, reading ("exact", "labels", and "score" where the
    tasks' own scores are others), after, tasks."""
    found = []
    for run in runs:
        about = {key: value for key, value in _row(run).items() if key in (*SETUP, "seed")}
        own = [("score", run.scores)] if run.scored else []
        for reading, R in (("exact", run.matrix), ("labels", run.options), *own):
            found.append(R.copy().reset_index().assign(**about, reading=reading))    # a copy: read column by column it is in pieces
    table = pd.concat(found, ignore_index=True)
    front = [*SETUP, "seed", "reading", "after"]
    return table[[*front, *(column for column in table if column not in front)]]


def scores_of(table: pd.DataFrame, reading: str = "labels", **which) -> dict[str, list[pd.DataFrame]]:
    """{method: [R of each seed]} from a table of `matrices`, as the plots take it. which: values of columns, order="1" for
    instance; a setting of a method is named with it, "olora (lambda1=0.5)"."""
    found: dict[str, list[pd.DataFrame]] = {}
    orders = set()
    for method, (order, _), R in by_run(table, reading, **which):
        found.setdefault(method, []).append(R)
        orders.add(order)
    if len(orders) > 1:
        raise InputError(f"expected matrices of one order of the tasks, found {len(orders)}: name order=")
    return found


def seed_scores(table: pd.DataFrame, metric: str = "AA", reading: str = "labels", **which) -> pd.DataFrame:
    """One metric (a key of metrics.summary) from a table of `matrices`: a row a seed, or a row an order and seed where several
    orders are left; a column a method; NaN where not run."""
    found: dict[str, dict] = {}
    for method, run, R in by_run(table, reading, **which):
        found.setdefault(method, {})[run] = metrics.summary(R)[metric]
    scores = pd.DataFrame({method: pd.Series(values) for method, values in found.items()})
    scores.index = pd.MultiIndex.from_tuples(scores.index, names=["order", "seed"])
    return (scores if scores.index.unique("order").size > 1 else scores.droplevel("order")).sort_index()


def by_run(table: pd.DataFrame, reading: str = "labels", **which):
    """(method with its setting, (order, seed), R), run by run, from a table of `matrices`, of the one stream, base and form of
    prompt that the values `which` of columns leave."""
    for column, value in {"reading": reading, **which}.items():
        table = table[table[column].astype(str) == str(value)]
    if table.empty:
        raise InputError(f"expected scores of {which or 'any setup'} by {reading}, found none in the table")
    if len(setups := table[["stream", "named", "model"]].drop_duplicates()) > 1:
        raise InputError(f"expected scores of one stream and base, found {len(setups)} of them: name model= or named=")
    table = table.assign(setting=table["setting"].fillna(""), order=table["order"].astype(str))
    for (method, setting, order, seed), rows in table.groupby(["method", "setting", "order", "seed"], sort=False):
        yield f"{method} ({setting})" if setting else method, (order, seed), rows.set_index("after")[rows["after"].tolist()]


def _hash(value) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:8]


def _summary(run: str, group: pd.DataFrame, yardstick: pd.DataFrame | None, ranks: dict) -> dict:
    """One row of the table from a method's runs in one setup (index: the seeds)."""
    first = group.iloc[0]
    card = card_of(first["method"])
    row = {key: first[key] for key in KEYS} | {"run": run, "title": title_of(first["method"], first["setting"])}
    row |= {field: getattr(card, field) if card else "" for field in CARD}
    row |= {"group": group_of(first["method"]), "seeds": len(group)}
    for reading in ranks:
        row["rank" + reading.removeprefix("AA")] = ranks[reading].get(run, "")
    for score in [column for column in group.columns if column not in (*KEYS, *COSTS)]:
        row |= {score: group[score].mean(), f"{score}_sd": group[score].std(ddof=1)}
    for reading in ranks:
        name = f"{reading}_minus_{YARDSTICK}"
        row[name], row[f"{name}_half"] = (difference(group[reading], yardstick[reading]) if yardstick is not None
                                          else (float("nan"), float("nan")))
    return row | {cost: pd.to_numeric(group[cost]).mean() for cost in COSTS}


def difference(ours: pd.Series, theirs: pd.Series) -> tuple[float, float]:
    """(mean, half of the 95 % t-interval) of the paired differences over the seeds (the index) that both have."""
    seeds = [seed for seed in ours.index if seed in theirs.index]
    return metrics.paired_difference(ours.loc[seeds].tolist(), theirs.loc[seeds].tolist())


def _ranks(scores: dict[str, tuple[str, pd.Series]]) -> dict[str, str]:
    """{run: "2–4"} from {run: (method, one score a seed)}: the places within its own group that the seeds leave open.

    The first is 1 + the number of methods above it, the last is the group's size less those below it, where above and below
    mean that the 95 % interval of the paired difference excludes 0 (intervals not corrected for their number). References
    have no rank, nor has a method that shares no two seeds with another.
    """
    ranks = {}
    for run, (method, ours) in scores.items():
        others = [theirs for other, (rival, theirs) in scores.items() if other != run and group_of(rival) == group_of(method)]
        found = [(distance, half) for distance, half in (difference(ours, theirs) for theirs in others) if half == half]
        if group_of(method) != REFERENCE and found:
            first = 1 + sum(distance < -half for distance, half in found)
            last = 1 + len(found) - sum(distance > half for distance, half in found)
            ranks[run] = str(first) if first == last else f"{first}–{last}"
    return ranks


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a summary that a terminal shows, as text."""
    def spread(value: str, half: str) -> list[str]:
        return ["" if v != v else f"{v:.1f}" if h != h else f"{v:.1f} ± {h:.1f}" for v, h in zip(table[value], table[half])]
    shown = {"method": table["title"], "seeds": table["seeds"].astype(str)}
    for name, reading in (("score", "_score"), ("exact", ""), ("labels", "_options")):
        if f"AA{reading}" in table and table[f"AA{reading}"].notna().any():
            shown |= {f"AA {name}": spread(f"AA{reading}", f"AA{reading}_sd"),
                      f"BWT {name}": spread(f"BWT{reading}", f"BWT{reading}_sd"),
                      f"AA {name} less seqlora": spread(f"AA{reading}_minus_{YARDSTICK}", f"AA{reading}_minus_{YARDSTICK}_half"),
                      f"rank {name}": table[f"rank{reading}"]}
    seconds = table["seconds_train"] + table["seconds_evaluate"]
    shown |= {"general loss": table["general_loss"].map("{:.2f}".format), "seconds": seconds.map("{:.0f}".format),
              "state kB": (table["state_bytes"] / 1000).map("{:.0f}".format)}
    return pd.DataFrame(shown)


def order_table(runs: list[Run]) -> pd.DataFrame:
    """For methods with several orders of the same tasks: AA over orders and seeds, MOPD and AOPD (metrics.order_disparity),
    computed for every seed that has all the orders: mean and standard deviation over these seeds."""
    found: dict[tuple, dict] = {}
    for run in runs:
        config = run.config
        values = {key: value for key, value in config["method"].items() if key not in ("name", "class")}
        same = (config["stream"]["name"], config["stream"]["named"], Path(config["model"]["name"]).name, run.method,
                setting_of(run.method, values), _hash([sorted(run.names), config["settings"], config["effective_batch"]]))
        found.setdefault(same, {}).setdefault(config["seed"], {})[config["stream"]["order"]] = run
    rows = [dict(zip(KEYS[:1] + KEYS[2:6], same)) | _disparity(seeds) for same, seeds in
            sorted(found.items(), key=lambda item: place_of(item[0][3])) if len(set().union(*seeds.values())) > 1]
    return pd.DataFrame([row | {"title": title_of(row["method"], row["setting"])} for row in rows])


def _disparity(seeds: dict[int, dict[str, Run]]) -> dict:
    """One row of `order_table` from {seed: {order: run}}."""
    orders = list(dict.fromkeys(order for runs in seeds.values() for order in runs))
    whole = [runs for runs in seeds.values() if len(runs) == len(orders)]
    row = {"orders": ", ".join(orders), "seeds": len(whole)}
    own = [("scores", "_score")] if any(run.scored for runs in whole for run in runs.values()) else []
    for reading, name in (("matrix", ""), ("options", "_options"), *own):
        finals = [{order: getattr(run, reading).iloc[-1].to_dict() for order, run in runs.items()} for runs in whole]
        disparities = [metrics.order_disparity(final) for final in finals]
        found = {"AA": [mean(mean(scores.values()) for scores in final.values()) for final in finals],
                 "MOPD": [most for most, _ in disparities], "AOPD": [average for _, average in disparities]}
        for metric, values in found.items():
            column = pd.Series(values, dtype=float)
            row |= {metric + name: column.mean(), f"{metric}{name}_sd": column.std(ddof=1)}
    return row


def gather(folder: str | Path) -> tuple[list[Run], list[Path]]:
    """(the finished runs, folders of the unfinished) anywhere below a folder; copies of a run count once."""
    runs, unfinished = {}, []
    for file in sorted(Path(folder).rglob("config.json")):
        run = Run(file.parent)
        if len(run.logs) < len(run.names):
            unfinished.append(run.folder)
        else:
            same = {key: value for key, value in run.config.items() if key not in ASIDE}
            runs.setdefault(_hash(same), run)
    if not runs:
        raise InputError(f"expected finished runs below {folder}, found {len(unfinished)} unfinished and no finished one")
    return [*runs.values()], unfinished


def pooled(runs: list[Run], value: str = "AA_options") -> pd.DataFrame:
    """One metric over runs of any seeds and orders of the same tasks: a row a method and setting, over all its runs.

    `value` is the mean over the runs, `value`_sd the standard deviation, `scores` has every run's own; value_minus_seqlora is the
    mean paired difference over the seeds and orders that both have, value_minus_seqlora_half half of its 95 % t-interval.
    """
    _expect_one_setup(runs)
    each = pd.DataFrame([_row(run) for run in runs]).assign(order=lambda rows: rows["order"].astype(str))
    groups = {same: rows.set_index(["seed", "order"])[value] for same, rows in each.groupby(["method", "setting"], sort=False)}
    yardstick, found = groups.get((YARDSTICK, "")), []
    for (method, setting), scores in sorted(groups.items(), key=lambda item: (place_of(item[0][0]), item[0][1])):
        mean_of, half = (float("nan"),) * 2 if yardstick is None else difference(scores, yardstick)
        found.append({"method": method, "setting": setting, "title": title_of(method, setting), "runs": len(scores),
                      "seeds": scores.index.unique("seed").size, "orders": scores.index.unique("order").size,
                      value: scores.mean(), f"{value}_sd": scores.std(ddof=1), "scores": scores.tolist(),
                      f"{value}_minus_{YARDSTICK}": mean_of, f"{value}_minus_{YARDSTICK}_half": half})
    return pd.DataFrame(found)


def _expect_one_setup(runs: list[Run]) -> None:
    """Runs may differ in seed, order and method only; in one order they have the same rows."""
    seen: dict[str, tuple] = {}
    for run in runs:
        stream, config = run.config["stream"], run.config
        about = {"stream": stream["name"], "tasks": sorted(run.names), "named": stream["named"],
                 f"rows of order {stream['order']}": stream["fingerprint"], "base": config["model"]["fingerprint"],
                 "batch": config["effective_batch"], **config["settings"]}
        for key, mine in about.items():
            other, where = seen.setdefault(key, (mine, run.folder))
            if mine != other:
                raise InputError(f"expected runs that differ in seed, order and method only, found {key} {other} in {where} and "
                                 f"{mine} in {run.folder}: pool them apart")
