"""What each command of `mbf` does with its flags (cli.py); heavy libraries are imported where a command needs them."""
from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from .errors import InputError, Worse

MOST_SEEDS = 1000


def _settings(arguments) -> dict:
    """The flags given, over the preset's settings."""
    from .presets import settings
    from .settings import Settings
    given = settings(arguments.preset) if getattr(arguments, "preset", None) else {}
    flags = [field.name for field in dataclasses.fields(Settings) if hasattr(arguments, field.name)]
    given |= {name: getattr(arguments, name) for name in flags}
    if isinstance(given.get("targets"), str) and given["targets"] != "all-linear":
        given["targets"] = tuple(given["targets"].split(","))
    return given


def _fields(pairs: list[str], method: str) -> dict:
    from .methods import read_fields
    return read_fields(pairs, method)


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


def _launched(name: str, alone: int) -> int:
    """What a launcher of several processes says in the environment."""
    text = os.environ.get(name, str(alone))
    if not text.isdecimal():
        raise InputError(f"expected a whole number in the environment's {name}, found {text!r}: only a launcher sets it; unset it")
    return int(text)


def run(arguments) -> None:
    from . import presets
    processes, rank = _launched("WORLD_SIZE", 1), _launched("RANK", 0)
    if arguments.processes not in (None, processes):
        raise InputError(f"expected {arguments.processes} processes that train together, found {processes}: launch them "
                         f"with python -m torch.distributed.run --nproc_per_node {arguments.processes} -m mbf_utils run ..., or with "
                         "accelerate launch")
    from .methods import make_method
    from .models import load_model
    from .runs import run_stream
    order = arguments.order.split(",") if arguments.order and "," in arguments.order else arguments.order
    stream = _stream(arguments, arguments.stream, order)
    settings = _settings(arguments)
    fields = presets.fields(arguments.preset, arguments.method) | _fields(arguments.set, arguments.method)
    method = make_method(arguments.method, **fields)
    out = Path(arguments.out or f"runs/{stream.name}-{arguments.method}-{arguments.seed}")
    model = load_model(arguments.model, arguments.device, arguments.dtype, arguments.quantize)
    run = run_stream(stream, method, model, arguments.seed, out, **settings)
    if rank:
        return
    if run.scored:
        print(f"each task's own score in percent, row i after task i\n{_shown(run.scores)}\n")
    together = f"\n{processes} processes, {run.config['effective_batch']} examples a step" if processes > 1 else ""
    print(f"exact match in percent, row i after task i\n{_shown(run.matrix)}\n\n{_side_by_side({run.method: run})}\n"
          f"{together}\nrun: {out}")


def compare(arguments) -> int:
    from .cluster import connected, of_share
    from .comparison import Base, compare
    from .presets import fields
    from .printing import save, show, write_one
    from .search import chosen
    orders = arguments.orders.split(",") if arguments.orders else [None]
    streams = [_stream(arguments, name, order) for name in arguments.streams for order in orders]
    base = Base(arguments.model, arguments.device, arguments.dtype, arguments.quantize)
    methods = _methods(arguments.methods)
    if not arguments.paper_settings:                # a preset's own count before those chosen for a base
        own = {name: fields(arguments.preset, name) or chosen(arguments.model, name) for name in methods if isinstance(name, str)}
        methods = [(name, own[name]) if isinstance(name, str) and own[name] else name for name in methods]
    if arguments.scheduler and arguments.backend != "dask":
        raise InputError(f"expected --backend dask with --scheduler {arguments.scheduler}, found {arguments.backend}")
    workers = arguments.backend or arguments.workers
    with connected(arguments.scheduler) if arguments.scheduler else nullcontext():
        comparison = compare(streams, methods, _seeds(arguments.seeds), base, arguments.out, workers, arguments.abreast,
                             arguments.cell, **_settings(arguments))
    if comparison.runs:
        show(comparison.table, comparison.orders)
        write_one(comparison.table, comparison.orders, file := Path(arguments.out) / of_share("table", arguments.cell))
        print(f"\nwritten: {file}")
        if arguments.save:
            save(comparison.runs, comparison.orders, Path(arguments.figures), arguments.save)
    for cell, error in comparison.failures.itertuples(index=False):
        print(f"mbf: {cell} failed: {error}", file=sys.stderr)
    return 1 if len(comparison.failures) else 0


def search(arguments) -> None:
    from .comparison import Base
    from .disk import write_whole
    from .search import choose, search
    grid = {}
    for pair in arguments.grid:
        field, _, values = pair.partition("=")
        grid[field] = [_fields([f"{field}={value}"], arguments.method)[field] for value in values.split(",") if value]
    base = Base(arguments.model, arguments.device, arguments.dtype, arguments.quantize)
    table = search(_stream(arguments, arguments.stream, arguments.order), arguments.method, grid, _seeds(arguments.seeds), base,
                   arguments.out, arguments.workers, **_settings(arguments))
    name = f"{table['stream'][0]}-{arguments.method}" if arguments.apart else arguments.method
    file = Path(arguments.figures) / f"choice-{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(table.assign(data_seed=arguments.data_seed).to_csv(index=False, float_format="%.4f", lineterminator="\n"), file)
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
    entries: list
    for name, *pairs in items:
        family = [row for row in METHODS if name in ("all", card_of(row).family) and row not in own] if not pairs else []
        entries = family or [(name, _fields(pairs, name)) if pairs else name]
        found |= {repr(entry): entry for entry in entries}
    return [*found.values()]


def _seeds(text: str) -> list[int]:
    """"3" is 0, 1, 2; "0,5" is 0, 5."""
    try:
        if "," in text:
            return [int(seed) for seed in text.split(",") if seed.strip()]
        if int(text) <= MOST_SEEDS:
            return list(range(int(text)))
    except ValueError:
        pass
    raise InputError(f"expected --seeds as a number up to {MOST_SEEDS} (3) or a list with commas (0,5), found {text!r}")


def merge(arguments) -> None:
    from .merging import merge_adapters
    print(merge_adapters(arguments.adapters, arguments.out, arguments.method, **_fields(arguments.set, arguments.method)))


def export(arguments) -> None:
    from .serving import merge_into_base
    texts = _texts(arguments.texts) if arguments.texts else None
    print(merge_into_base(arguments.adapter, arguments.out, arguments.model, arguments.device, arguments.dtype, texts))


def check(arguments) -> int:
    from .checks import read_probes
    from .continual import Continual
    from .models import load_model
    model, tokenizer = load_model(arguments.model, arguments.device, arguments.dtype)
    continual = Continual.load(arguments.adapter, model)
    try:
        table, worse = continual.check(read_probes(arguments.probes, tokenizer, arguments.max_length), arguments.max_drop), None
    except Worse as error:
        table, worse = error.table, error
    print(f"minus the held-out loss, nats a token\n{table.to_string(float_format='%.4f')}")
    if worse:
        print(f"mbf: {worse}", file=sys.stderr)
    return 1 if worse else 0


def report(arguments) -> None:
    from .published import told
    if not (arguments.runs or arguments.paper):
        raise InputError("expected folders of runs, or --paper for the published numbers, found neither")
    if arguments.runs:
        from .printing import save, show
        from .reports import find_runs, order_table, summarise
        runs = find_runs(arguments.runs)
        orders = order_table(runs) if arguments.mean == "macro" else ()          # its AA is a mean over tasks
        show(summarise(runs, arguments.mean)[0], orders)
        if arguments.save:
            save(runs, orders, Path(arguments.figures), arguments.save, arguments.mean)
    if arguments.paper:
        print("\n" * bool(arguments.runs) + told())


def reproduce(arguments) -> int:
    from .comparison import Base
    from .reproduce import __doc__ as about, choose, listed, reproduce
    if not arguments.cells:
        hours = "Hours are" + about.partition("Hours are")[2]
        print(f"{listed().to_string(index=False, float_format='%.1f', na_rep='')}\n\n{hours.strip()}")
        return 0
    data = dict(_pair(text, "--data BENCHMARK=PATH") for text in arguments.data)
    if odd := sorted(data.keys() - {"standard", "long", "superni"}):
        raise InputError(f"expected --data for standard, long or superni, found {odd[0]!r}")
    model = Base(arguments.model or "", arguments.device, arguments.dtype, arguments.quantize)
    table, failures = reproduce(choose(arguments.cells), data, arguments.out, model, _seeds(arguments.seeds), arguments.limit,
                                arguments.data_seed, arguments.workers, arguments.named, arguments.prompts,
                                **_settings(arguments))
    for differs, rows in table[~table["as the paper"]].groupby("differs", sort=False):
        several = differs.split("; ")
        more = f"; and {len(several) - 6} more, see reproduce.csv" * (len(several) > 6)
        print(f"Not as the paper, do not compare with the published values: {', '.join(rows['cell'])}\n"
              f"  {'; '.join(several[:6])}{more}\n")
    print(table.drop(columns="differs").T.to_string(header=False, float_format="{:.1f}".format, na_rep=""))
    print(f"\nwritten: {Path(arguments.out) / 'reproduce.csv'}")
    for cell, error in failures.items():
        print(f"mbf: {cell} failed: {error}", file=sys.stderr)
    return 1 if failures else 0


def _pair(text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"expected {form}, found {text!r}")
    return name, value


def presets(arguments) -> None:
    from .presets import told
    print(told(arguments.name))


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
    from .rows import refusal, text_of
    return [line for line in text_of(Path(source), refusal(Path(source), "text")).splitlines() if line.strip()]


def bench(arguments) -> None:
    from .bench import run
    run(arguments.out, arguments.quick, arguments.gpu, arguments.only and arguments.only.split(","))


def lab(arguments) -> int:
    if not Path(arguments.notebooks).is_dir():
        raise InputError(f"expected the notebooks in {arguments.notebooks}, found no such folder: start in the repository, or give --notebooks")
    quiet = ("--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None")       # asks no network
    return subprocess.call([sys.executable, "-m", "jupyter", "lab", *quiet, arguments.notebooks])
