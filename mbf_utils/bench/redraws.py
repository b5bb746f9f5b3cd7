"""How long an explorer takes from a moved control to its new picture, as the kernel sees it: the explorers of notebook 08."""
from __future__ import annotations

from typing import Callable

import pandas as pd

from .. import explorers, explorers_tasks, explorers_views, lessons
from ..models import load_model
from ..sources import load_stream
from ..widgets import Checks, Explorer
from .table import Table, seconds

MERGED = ("slao", "slao_random", "slao_preserve", "slao_frea_mb")    # committed runs whose pairs can be merged anew
OTHERS = ("seqlora", "per_task")


def moves(control) -> list:
    """Where a control can go from where it stands: four places at most."""
    if isinstance(control, Checks):
        return [control.value[:k] for k in range(1, len(control.value))][-4:]
    if hasattr(control, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in control.options]
    else:
        steps = round((control.max - control.min) / control.step)
        values = [type(control.value)(round(control.min + round(k * steps / 4) * control.step, 9)) for k in range(5)]
    return [value for value in dict.fromkeys(values) if value != control.value][:4]


def times(explorer: Explorer) -> list[float]:
    """Seconds of every move of every control, each to where the explorer has not been yet and back again."""
    spent = []
    for control in explorer.controls.values():
        home = control.value
        for value in moves(control):
            spent.append(seconds(lambda: setattr(control, "value", value)))
            if explorer.failed:
                raise RuntimeError(f"expected a picture at {explorer.values}, found: {explorer.sentence}")
            control.value = home                    # remembered: costs nothing
    return spent


def redraws(table: Table, rows: int = 100) -> None:
    """Needs the repository's committed runs and tables. rows: test rows a task that the merged model is asked."""
    trained = {name: lessons.committed(name) for name in MERGED}
    runs = [*trained.values(), *map(lessons.committed, OTHERS)]
    scores = {"labels": lessons.measured("world-5", "labels", order="1", model="tiny", named=False)}
    pairs = pd.read_csv(lessons.ROOT / "figures" / "similarity.csv")
    base = load_model("tiny", "cpu")[0]
    weights = {path: base.get_submodule(path).weight for path in runs[0].lora(1)}
    made: dict[str, Callable[[], Explorer]] = {
        "forgetting": lambda: explorers.forgetting(scores), "subspaces": lambda: explorers.subspaces(runs),
        "spectra": lambda: explorers.spectra(runs), "likeness": lambda: explorers_tasks.likeness(pairs),
        "placement": lambda: explorers_views.placement(runs, weights), "shares": lambda: explorers_views.shares(runs),
        "walker": lambda: explorers.walker(runs[0], load_stream("world-5")),
        "merge, evaluated live": lambda: explorers_tasks.merge(trained, rows)}
    spent = {name: [1000 * time for time in times(make())] for name, make in made.items()}
    medians = {name: table.add("redraws", name, "time of a move", each, "ms") for name, each in spent.items()}
    del medians["merge, evaluated live"]
    table.add("redraws", "the slowest of the others", "time of a move", spent[max(medians, key=medians.__getitem__)], "ms")
