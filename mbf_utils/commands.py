"""What each command of `mbf` does with its flags (cli.py); heavy libraries are imported where a command needs them."""
from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

from .errors import InputError


def _settings(arguments) -> dict:
    from .settings import Settings
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings) if hasattr(arguments, field.name)}
    if "targets" in given and given["targets"] != "all-linear":
        given["targets"] = tuple(given["targets"].split(","))
    return given


def _fields(pairs: list[str], method: str) -> dict:
    """FIELD=VALUE pairs; a value is a number, true, false, or text: a whole number only where the method's own is one."""
    from .methods import METHODS
    usual, fields = METHODS[method]() if method in METHODS else None, {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"expected --set FIELD=VALUE, found {pair!r}")
        try:
            number = float(text)
            fields[name] = int(number) if type(getattr(usual, name, None)) is int and number.is_integer() else number
        except ValueError:
            fields[name] = {"true": True, "false": False}.get(text.lower(), text)
    return fields


def demo(arguments) -> None:
    from . import plots
    from .models import load_model
    from .runs import run_stream
    out, model, runs = Path(arguments.out), load_model("tiny"), {}
    for method in ("seqlora", "slao"):
        print(f"{method} on world-5 ...", flush=True)
        runs[method] = run_stream("world-5", method, model, arguments.seed, out / f"{method}-{arguments.seed}")
    for method, run in runs.items():
        print(f"\n{method}: exact match in percent, row i after task i\n{_shown(run.matrix)}")
    print("\nexact match, and the best of the task's labels (_options), in percent; general_loss in nats per token:")
    print(_side_by_side(runs))
    curves = plots.forgetting_curves({method: run.matrix for method, run in runs.items()})
    matrix = plots.matrix_heatmap(runs["slao"].matrix)
    print("\nfigures:", plots.save(curves, "forgetting", folder=out), plots.save(matrix, "matrix-slao", runs["slao"].matrix, out))


def _shown(matrix) -> str:
    return matrix.to_string(float_format="%.1f", na_rep="")


def _side_by_side(runs: dict) -> str:
    import pandas as pd
    return pd.DataFrame({method: run.metrics() for method, run in runs.items()}).to_string(float_format="%.1f")


def _stream(arguments, name: str, order=None):
    from .sources import load_stream
    return load_stream(name, order=order, seed=arguments.data_seed, limit=arguments.limit, named=arguments.named,
                       prompts=arguments.prompts)


def run(arguments) -> None:
    from .methods import make_method
    from .models import load_model
    from .runs import run_stream
    order = arguments.order.split(",") if arguments.order and "," in arguments.order else arguments.order
    stream = _stream(arguments, arguments.stream, order)
    method = make_method(arguments.method, **_fields(arguments.set, arguments.method))
    out = Path(arguments.out or f"runs/{stream.name}-{arguments.method}-{arguments.seed}")
    model = load_model(arguments.model, arguments.device, arguments.dtype, arguments.quantize)
    run = run_stream(stream, method, model, arguments.seed, out, **_settings(arguments))
    print(f"exact match in percent, row i after task i\n{_shown(run.matrix)}\n\n{_side_by_side({run.method: run})}\n\nrun: {out}")


def compare(arguments) -> int:
    from .comparison import Base, compare
    from .printing import save, show
    from .search import chosen
    orders = arguments.orders.split(",") if arguments.orders else [None]
    streams = [_stream(arguments, name, order) for name in arguments.streams for order in orders]
    base = Base(arguments.model, arguments.device, arguments.dtype, arguments.quantize)
    methods = _methods(arguments.methods)
    if not arguments.paper_settings:
        methods = [(name, fields) if isinstance(name, str) and (fields := chosen(arguments.model, name)) else name for name in methods]
    comparison = compare(streams, methods, _seeds(arguments.seeds), base, arguments.out, _workers(arguments.workers),
                         arguments.abreast, **_settings(arguments))
    if comparison.runs:
        show(comparison.table, comparison.orders)
        if arguments.save:
            save(comparison.runs, comparison.orders, Path(arguments.figures), arguments.save)
    for cell, error in comparison.failures.itertuples(index=False):
        print(f"mbf: {cell} failed: {error}", file=sys.stderr)
    return 1 if len(comparison.failures) else 0


def _workers(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def search(arguments) -> None:
    from .comparison import Base
    from .search import choose, search
    grid = {}
    for pair in arguments.grid:
        field, _, values = pair.partition("=")
        grid[field] = [_fields([f"{field}={value}"], arguments.method)[field] for value in values.split(",") if value]
    base = Base(arguments.model, arguments.device, arguments.dtype, arguments.quantize)
    table = search(_stream(arguments, arguments.stream, arguments.order), arguments.method, grid, _seeds(arguments.seeds), base,
                   arguments.out, _workers(arguments.workers), **_settings(arguments))
    name = f"{table['stream'][0]}-{arguments.method}" if arguments.apart else arguments.method
    file = Path(arguments.figures) / f"choice-{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    table.assign(data_seed=arguments.data_seed).to_csv(file, index=False, float_format="%.4f", lineterminator="\n")
    best = {field: table.loc[table["chosen"], field].item() for field in grid}
    written = file if arguments.apart else f"{file}, {choose(base.name, arguments.method, best)}"
    print(f"{table.to_string(index=False, float_format='%.3g')}\n\nchosen: {best}\nwritten: {written}")


def _methods(text: str) -> list:
    """Names, and pairs (name, fields), from "slao,olora lambda1=0.1", "merging" or "all"; in METHODS' order for the last two,
    which leave out what is named with settings of its own."""
    from .methods import METHODS
    from .titles import card_of
    items = [item.split() for item in text.split(",") if item.strip()]
    own, found = {name for name, *pairs in items if pairs}, {}
    for name, *pairs in items:
        family = [row for row in METHODS if name in ("all", card_of(row).family) and row not in own] if not pairs else []
        for entry in family or [(name, _fields(pairs, name)) if pairs else name]:
            found[repr(entry)] = entry
    return [*found.values()]


def _seeds(text: str) -> list[int]:
    """"3" is 0, 1, 2; "0,5" is 0, 5."""
    try:
        return [int(seed) for seed in text.split(",") if seed.strip()] if "," in text else list(range(int(text)))
    except ValueError:
        raise InputError(f"expected --seeds as a number (3) or a list with commas (0,5), found {text!r}") from None


def merge(arguments) -> None:
    from .merging import merge_adapters
    print(merge_adapters(arguments.adapters, arguments.out, arguments.method, **_fields(arguments.set, arguments.method)))


def report(arguments) -> None:
    from .printing import save, show
    from .reports import find_runs, summarise
    runs = find_runs(arguments.runs)
    show(summarise(runs)[0])
    if arguments.save:
        save(runs, (), Path(arguments.figures), arguments.save)


def methods(arguments) -> None:
    """All of them as a table, or one with its module's docstring and its settings."""
    from .methods import make_method
    from .search import chosen
    from .titles import card_of, cards, title_of
    if arguments.name is None:
        print(cards().drop(columns=["differs", "authors"]).astype({"year": object}).fillna("").to_string())
        return
    method = make_method(arguments.name)
    card = card_of(arguments.name)
    print(f"{arguments.name}: {title_of(arguments.name)}, {card.fidelity}{'; ' * bool(card.differs)}{card.differs}\n")
    print(f"{inspect.getdoc(inspect.getmodule(type(method)))}\n\n{method}")
    if fields := chosen("tiny", arguments.name):
        print(f"chosen on the base tiny by mbf search: {fields}")


def make_base(arguments) -> None:
    from .pretrain import make_base
    text = _texts(arguments.text) if arguments.text else None
    size = arguments.size or ("text" if text else "tiny")
    print(make_base(arguments.out, text, size, arguments.steps, arguments.seed, arguments.vocab_size))


def _texts(source: str) -> list[str]:
    """A text file's lines, or the bodies of a stream's training prompts (never the answers)."""
    if not Path(source).is_file():
        from .sources import load_stream
        return [row.prompt[slice(*row.body)] if row.body else row.prompt for task in load_stream(source) for row in task.train]
    try:
        lines = Path(source).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected UTF-8 text in {source}, found: {error}") from None
    return [line for line in lines if line.strip()]


def bench(arguments) -> None:
    from .bench import run
    run(arguments.out, arguments.gpu)


def lab(arguments) -> int:
    if not Path(arguments.notebooks).is_dir():
        raise InputError(f"expected the notebooks in {arguments.notebooks}, found no such folder: start in the repository, or give --notebooks")
    return subprocess.call([sys.executable, "-m", "jupyter", "lab", arguments.notebooks])
