"""The command `mbf`: demo, run, compare, search, merge, report, make-base, lab. Bad input ends in one sentence and exit code 2."""
from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

from . import __version__
from .errors import InputError


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return arguments.do(arguments) or 0
    except InputError as error:
        print(f"mbf: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mbf: stopped; a run goes on where it was when the same command is given again", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mbf", description="Continual learning of language models with one LoRA: SLAO and "
                                     "its rivals. `mbf COMMAND --help` says more.")
    parser.add_argument("--version", action="version", version=f"mbf {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, do, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        sub.set_defaults(do=do)
        return sub

    demo = command("demo", _demo, "SLAO against sequential LoRA on five small tasks, offline on the CPU: a table and two figures")
    demo.add_argument("--out", default="runs/demo", help="folder for the runs and figures; a finished run is not trained again")
    demo.add_argument("--seed", type=int, default=0)

    run = command("run", _run, "learn a stream of tasks with one method; goes on where an interrupted run stopped")
    run.add_argument("stream", help="world-5, world-15, world-100, or a folder in the format of O-LoRA or SAPT")
    run.add_argument("--order", help="an order's number, or task names with commas between")
    run.add_argument("--method", default="slao", help="a name in METHODS")
    run.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting of the method, as lambda1=0.1")
    run.add_argument("--seed", type=int, default=0, help="of the training")
    run.add_argument("--out", help="folder of the run; default: runs/STREAM-METHOD-SEED")
    _add_inputs(run)

    compare = command("compare", _compare, "learn streams with several methods and seeds, in several processes, and compare "
                      "them; given again, goes on where it was stopped")
    compare.add_argument("streams", nargs="+", metavar="STREAM", help="as for run, perhaps with its order: world-5:2")
    compare.add_argument("--methods", default="all", help="names in METHODS with commas between, each perhaps with settings "
                         "(\"slao,olora lambda1=0.1\"); a family as merging; or all")
    compare.add_argument("--paper-settings", action="store_true", help="every method as its row in METHODS, not as chosen.json "
                         "has it for the base")
    compare.add_argument("--seeds", default="3", help="how many (3: the seeds 0, 1, 2), or a list with commas (0,5)")
    compare.add_argument("--orders", help="numbers of orders with commas between, for every stream; default: the first")
    compare.add_argument("--workers", default="1", help="processes, or the name of a joblib backend")
    compare.add_argument("--out", default="runs/compare", help="folder of the runs")
    _add_saving(compare)
    _add_inputs(compare)

    search = command("search", _search, "choose a method's settings on the development rows of another world; writes what was "
                     "tried to FIGURES/choice-METHOD.csv and what was chosen to the table that mbf compare uses")
    search.add_argument("stream")
    search.add_argument("--method", required=True)
    search.add_argument("--grid", action="append", required=True, metavar="FIELD=VALUE,VALUE",
                        help="values to try, at most four settings in all")
    search.add_argument("--seeds", default="1", help="as for compare")
    search.add_argument("--order", help="an order's number")
    search.add_argument("--workers", default="1", help="processes, or the name of a joblib backend")
    search.add_argument("--out", default="runs/search", help="folder of the runs")
    search.add_argument("--figures", default="figures", help="where choice-METHOD.csv is written")
    _add_inputs(search, data_seed=7)

    merge = command("merge", _merge, "merge saved PEFT adapters, in the order in which they were trained, into one")
    merge.add_argument("adapters", nargs="+", help="PEFT adapter folders")
    merge.add_argument("--out", required=True, help="folder of the merged adapter")
    merge.add_argument("--method", default="slao")
    merge.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting of the method")

    report = command("report", _report, "the table of finished runs: mean and sample standard deviation over seeds")
    report.add_argument("runs", nargs="+", help="run folders, or folders that hold them")
    _add_saving(report)

    base = command("make-base", _make_base, "pretrain a small Llama from scratch: on the offline world's text or on your own")
    base.add_argument("out", help="new folder")
    base.add_argument("--text", help="a text file (one document a line) or a stream, as CL_Benchmark:4 (its training texts, without the answers)")
    base.add_argument("--size", default=None, help="tiny, small, or text; default: tiny, with --text text")
    base.add_argument("--steps", type=int, help="default: the size's own number")
    base.add_argument("--seed", type=int, default=0)
    base.add_argument("--vocab-size", type=int, default=4096, help="pieces of the byte-level BPE, with --text")

    lab = command("lab", _lab, "open JupyterLab at the notebooks")
    lab.add_argument("--notebooks", default="notebooks")
    return parser


def _add_inputs(parser, data_seed: int = 0) -> None:
    """The base, the rows and the training: the same for every command that learns."""
    parser.add_argument("--model", default="tiny", help="tiny, small, a folder (as mbf make-base writes), or owner/name on the Hub")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", type=int, choices=(4, 8), help="bits of the base's weights (CUDA)")
    parser.add_argument("--data-seed", type=int, default=data_seed, help="of the rows: which world, which rows under --limit")
    parser.add_argument("--limit", type=int, help="at most that many train and that many test rows a task")
    parser.add_argument("--named", action=argparse.BooleanOptionalAction, help="prompts name the data set, or not; default: as the stream's source has it")
    _add_settings(parser.add_argument_group("training", "a base may bring other defaults (lora.json beside its weights)"))


def _add_saving(parser) -> None:
    parser.add_argument("--save", metavar="NAME", help="also write NAME.csv (a row a method), NAME-runs.csv (a row a run), "
                        "NAME-costs.csv (times and memory), and for every stream and order NAME.png and NAME-options.png")
    parser.add_argument("--figures", default="figures", help="where --save writes")


def _add_settings(group) -> None:
    """One flag a field of Settings; a flag that is not given leaves the base's or the field's default."""
    from .settings import Settings
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            group.add_argument(flag, action="store_const", const=True, default=argparse.SUPPRESS)
        elif field.name == "targets":
            group.add_argument(flag, default=argparse.SUPPRESS, help="module names with commas between, or all-linear")
        else:
            group.add_argument(flag, type=type(field.default), default=argparse.SUPPRESS, metavar=type(field.default).__name__.upper(),
                               help=f"real models: {field.default}")


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


def _demo(arguments) -> None:
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
    return load_stream(name, order=order, seed=arguments.data_seed, limit=arguments.limit, named=arguments.named)


def _run(arguments) -> None:
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


def _compare(arguments) -> int:
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
                         **_settings(arguments))
    if comparison.runs:
        show(comparison.table, comparison.orders)
        if arguments.save:
            save(comparison.runs, comparison.orders, Path(arguments.figures), arguments.save)
    for cell, error in comparison.failures.itertuples(index=False):
        print(f"mbf: {cell} failed: {error}", file=sys.stderr)
    return 1 if len(comparison.failures) else 0


def _workers(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def _search(arguments) -> None:
    from .comparison import Base
    from .search import choose, search
    grid = {}
    for pair in arguments.grid:
        field, _, values = pair.partition("=")
        grid[field] = [_fields([f"{field}={value}"], arguments.method)[field] for value in values.split(",") if value]
    base = Base(arguments.model, arguments.device, arguments.dtype, arguments.quantize)
    table = search(_stream(arguments, arguments.stream, arguments.order), arguments.method, grid, _seeds(arguments.seeds), base,
                   arguments.out, _workers(arguments.workers), **_settings(arguments))
    file = Path(arguments.figures) / f"choice-{arguments.method}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    table.assign(data_seed=arguments.data_seed).to_csv(file, index=False, float_format="%.4f", lineterminator="\n")
    best = {field: table.loc[table["chosen"], field].item() for field in grid}
    print(f"{table.to_string(index=False, float_format='%.3g')}\n\nchosen: {best}\nwritten: {file}, {choose(base.name, arguments.method, best)}")


def _methods(text: str) -> list:
    """Names, and pairs (name, fields), from "slao,olora lambda1=0.1", "merging" or "all"; in METHODS' order for the last two."""
    from .methods import METHODS
    from .titles import card_of
    found = []
    for item in filter(None, map(str.strip, text.split(","))):
        name, *pairs = item.split()
        family = [row for row in METHODS if item in ("all", card_of(row).family)]
        found += family if family else [(name, _fields(pairs, name)) if pairs else name]
    return list(dict.fromkeys(found)) if all(isinstance(entry, str) for entry in found) else found


def _seeds(text: str) -> list[int]:
    """"3" is 0, 1, 2; "0,5" is 0, 5."""
    try:
        return [int(seed) for seed in text.split(",") if seed.strip()] if "," in text else list(range(int(text)))
    except ValueError:
        raise InputError(f"expected --seeds as a number (3) or a list with commas (0,5), found {text!r}") from None


def _merge(arguments) -> None:
    from .merging import merge_adapters
    print(merge_adapters(arguments.adapters, arguments.out, arguments.method, **_fields(arguments.set, arguments.method)))


def _report(arguments) -> None:
    from .printing import save, show
    from .reports import find_runs, summarise
    runs = find_runs(arguments.runs)
    show(summarise(runs)[0])
    if arguments.save:
        save(runs, (), Path(arguments.figures), arguments.save)


def _make_base(arguments) -> None:
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


def _lab(arguments) -> int:
    if not Path(arguments.notebooks).is_dir():
        raise InputError(f"expected the notebooks in {arguments.notebooks}, found no such folder: start in the repository, or give --notebooks")
    return subprocess.call([sys.executable, "-m", "jupyter", "lab", arguments.notebooks])
