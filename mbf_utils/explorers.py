"""The explorers: each takes runs or tables and returns controls with a picture, as `widgets.explore` makes them.

What costs time (reading adapters, loading a base) is done when an explorer is made or remembered; a move only draws.
"""
from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Mapping, Sequence

from . import geometry, plots_example, plots_explore
from .anatomy import adapters
from .errors import InputError
from .looks import read_scores
from .lora import Lora
from .results import Run
from .streams import Stream
from .titles import place_of, title_of
from .widgets import Buttons, Choice, Explorer, Several, Steps, explore

AT_ONCE = 6                                             # methods on one picture
FIRST = ("slao", "seqlora", "olora", "per_task")        # shown at first, where they are there
WHICH = Buttons("adapter", [("after the merge", "result"), ("as trained", "tuned")], "result")
SPACES = Buttons("factor", [("A", "A"), ("B", "B"), ("ΔW rows", "dW rows"), ("ΔW columns", "dW columns")], "A")


def forgetting(readings: Mapping[str, Mapping], at_first: Sequence[str] = FIRST) -> Explorer:
    """How much of each task is left? Methods on and off, and a step through the tasks.

    readings: what was asked ("exact match", "best of the task's labels") -> {method: matrix or list of matrices, one a seed}, as
    `lessons.measured` gives them; all of the same tasks. at_first: the methods that are on, of those that are there.
    """
    readings = {reading: _without_settings(matrices) for reading, matrices in readings.items()}
    tasks = [read_scores(matrices)[0] for matrices in readings.values()]
    if not tasks or any(names != tasks[0] for names in tasks):
        raise InputError("expected readings of the same tasks, found others or none")
    T, methods = len(tasks[0]), sorted(dict.fromkeys(m for matrices in readings.values() for m in matrices), key=place_of)
    on = [method for method in at_first if method in methods][:AT_ONCE] or methods[:2]

    def draw(methods, after, reading):
        chosen = {method: readings[reading][method] for method in methods if method in readings[reading]}
        if not chosen:
            raise InputError("expected at least one method, found none: tick one")
        return (plots_explore.forgetting(chosen, after, reading=reading), plots_explore.forgetting_in_words(chosen, after))

    return explore(draw, {"after": Steps("tasks learned", 1, T, T),
                          "reading": Buttons("scored by", list(readings), list(readings)[0]),
                          "methods": Several("methods", [(title_of(method), method) for method in methods], tuple(on), AT_ONCE)},
                   static=[{"after": max(1, T // 2)}, {}])


def subspaces(runs: Sequence[Run]) -> Explorer:
    """Do two tasks use the same directions? Any two tasks, layer, module and factor of a run, against random subspaces."""
    runs, places, read = _opened(runs)
    T = min(len(run.logs) for run in runs.values())
    if T < 2:
        raise InputError(f"expected runs of two tasks or more, found one of {T}")

    def draw(run, i, j, layer, module, factor, which):
        path, names = _path(places, layer, module), runs[run].names
        loras = [{path: lora[path]} for lora in read(run, which)]
        found, angles = geometry.overlap(loras), geometry.angles(loras[i - 1], loras[j - 1])
        about = (found, angles, i, j, factor, names, f"{title_of(run)} ({_adapter(which)}), {_place(layer, module)}")
        return plots_explore.subspaces(*about), plots_explore.subspaces_in_words(*about)

    return explore(draw, {"i": Steps("task i", 1, T, 1), "j": Steps("task j", 1, T, 2), "factor": SPACES, **_where(places),
                          "run": _one_of("method", [(title_of(method), method) for method in runs], list(runs)[0]),
                          "which": WHICH}, static=[{}, {"factor": "B"}])


def spectra(runs: Sequence[Run]) -> Explorer:
    """How many directions does an update use? Methods on and off; task, layer and module."""
    runs, places, read = _opened(runs)
    T = min(len(run.logs) for run in runs.values())

    @lru_cache(256)
    def table(run, which, path):
        scaling = runs[run].config["settings"]["alpha"] / runs[run].config["settings"]["rank"]
        return geometry.spectra([{path: lora[path]} for lora in read(run, which)], scaling)

    def draw(methods, task, layer, module, which):
        if not methods:
            raise InputError("expected at least one method, found none: tick one")
        tables = {method: table(method, which, _path(places, layer, module)) for method in methods}
        place = f"Adapters {_adapter(which)}, {_place(layer, module)}"
        return plots_explore.spectra(tables, task, place), plots_explore.spectra_in_words(tables, task, place)

    on = tuple(runs)[:2]
    return explore(draw, {"task": Steps("after task", 1, T, T), **_where(places), "which": WHICH,
                          "methods": Several("methods", [(title_of(method), method) for method in runs], on, AT_ONCE)},
                   static=[{"task": 1}, {}])


def walker(run: Run, stream: Stream) -> Explorer:
    """What does the model believe of one example, before the first task and after each? Computed live from the stored adapters.

    stream: that of the run, whose test rows are shown. Loads the run's base."""
    from .beliefs import Beliefs                        # and with it transformers, which the other explorers do not need
    beliefs = Beliefs(run, stream)
    names = [task.name for task in stream if task.labels and task.test]
    if not names:
        raise InputError(f"expected a stream with options to choose from and test rows, found none in {', '.join(stream.names)}")
    asked = lru_cache(1024)(beliefs.table)

    def draw(task, number, after):
        _, example = beliefs.row(task, number)
        table = asked(task, number)
        return (plots_example.example(table, example.prompt, example.answers, after, run.names),
                plots_example.example_in_words(table, example.answers, after, run.names))

    moments, rows = beliefs.moments, min(len(stream[name].test) for name in names)
    last, words = moments[-1], "after task (0: the base)"
    whole = Steps(words, 0, last, last) if len(moments) == last + 1 else Choice(words, moments, last)
    return explore(draw, {"task": _one_of("task of the example", names, names[0]), "number": Steps("example", 1, rows, 1),
                          "after": whole}, static=[{"after": moments[1]}, {"after": moments[len(moments) // 2]}])


def _without_settings(matrices: Mapping) -> dict:
    """"olora (lambda1=0.1)" goes by its method's name, and has its title and colour, where no other setting of it is there."""
    count = Counter(key.partition(" (")[0] for key in matrices)
    return {key.partition(" (")[0] if count[key.partition(" (")[0]] == 1 else key: R for key, R in matrices.items()}


# ---- where adapters are

def _opened(runs: Sequence[Run]):
    """(method -> run; (layer, module) -> path; a function that reads all adapters of one run and remembers them)."""
    runs = {run.method: run for run in runs} if len({run.method for run in runs}) == len(runs) else {}
    if not runs:
        raise InputError("expected runs of different methods, found none or two of one method")
    names = [run.names for run in runs.values()]
    if any(other != names[0] for other in names):
        raise InputError(f"expected runs of the same tasks in the same order, found {names[0]} and others")

    @lru_cache(None)
    def read(run: str, which: str) -> list[Lora]:
        return adapters(runs[run], which)

    paths = [list(run.lora(1)) for run in runs.values()]
    if any(other != paths[0] for other in paths):
        raise InputError("expected runs that adapt the same modules, found others: give each kind of run its own explorer")
    return runs, places(paths[0]), read


def places(paths: Sequence[str]) -> dict[tuple[int, str], str]:
    """(layer, module) -> path: "model.layers.2.mlp.up_proj" is layer 2, up_proj; a path without a number is in layer 0.

    >>> places(["model.layers.2.mlp.up_proj"])
    {(2, 'up_proj'): 'model.layers.2.mlp.up_proj'}
    """
    found = {path: re.search(r"\.(\d+)\.(.+)$", path) for path in paths}
    short = {path: (int(m.group(1)), m.group(2).rpartition(".")[2]) if m else (0, path) for path, m in found.items()}
    whole = {path: (int(m.group(1)), m.group(2)) if m else (0, path) for path, m in found.items()}
    best = short if len(set(short.values())) == len(paths) else whole
    if len(set(best.values())) < len(paths):
        raise InputError(f"expected paths that differ by layer and module, found {', '.join(paths[:3])}")
    return {place: path for path, place in best.items()}


def _where(places: Mapping[tuple[int, str], str]) -> dict:
    layers, modules = sorted({layer for layer, _ in places}), list(dict.fromkeys(module for _, module in places))
    middle = "v_proj" if "v_proj" in modules else modules[0]
    return {"layer": Steps("layer", layers[0], layers[-1], layers[0]), "module": _one_of("module", modules, middle)}


def _path(places: Mapping[tuple[int, str], str], layer: int, module: str) -> str:
    if (layer, module) not in places:
        raise InputError(f"expected an adapted module, found {module} in layer {layer}, which has no adapter")
    return places[layer, module]


def _place(layer: int, module: str) -> str:
    return f"layer {layer}, {module}"


def _adapter(which: str) -> str:
    return next(words for words, value in WHICH.options if value == which)


def _one_of(label: str, options: Sequence, value) -> Buttons | Choice:
    return (Buttons if len(options) <= 8 else Choice)(label, options, value)
