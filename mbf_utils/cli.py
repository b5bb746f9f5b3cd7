"""The command `mbf`: demo, run, merge, report, make-base, lab. Bad input ends in one sentence and exit code 2."""
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
    run.add_argument("--model", default="tiny", help="tiny, a folder (as mbf make-base writes), or owner/name on the Hub")
    run.add_argument("--device", default="auto")
    run.add_argument("--dtype", default="auto")
    run.add_argument("--quantize", type=int, choices=(4, 8), help="bits of the base's weights (CUDA)")
    run.add_argument("--seed", type=int, default=0, help="of the training")
    run.add_argument("--data-seed", type=int, default=0, help="of the rows: which world, which rows under --limit")
    run.add_argument("--limit", type=int, help="at most that many train and that many test rows a task")
    run.add_argument("--named", action=argparse.BooleanOptionalAction, help="prompts name the data set, or not; default: as the stream's source has it")
    run.add_argument("--out", help="folder of the run; default: runs/STREAM-METHOD-SEED")
    settings = run.add_argument_group("training", "a base may bring other defaults (lora.json beside its weights)")
    _add_settings(settings)

    merge = command("merge", _merge, "merge saved PEFT adapters, in the order in which they were trained, into one")
    merge.add_argument("adapters", nargs="+", help="PEFT adapter folders")
    merge.add_argument("--out", required=True, help="folder of the merged adapter")
    merge.add_argument("--method", default="slao")
    merge.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting of the method")

    report = command("report", _report, "the table of finished runs: mean and sample standard deviation over seeds")
    report.add_argument("runs", nargs="+", help="run folders, or folders that hold them")
    report.add_argument("--save", metavar="NAME", help="also write NAME.csv and NAME-runs.csv, and NAME.png and NAME-options.png where each method has one row")
    report.add_argument("--figures", default="figures", help="where --save writes")

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


def _fields(pairs: list[str]) -> dict:
    """FIELD=VALUE pairs; a value is a number, true, false, or text."""
    fields = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"expected --set FIELD=VALUE, found {pair!r}")
        try:
            fields[name] = {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else float(text)
        except ValueError:
            fields[name] = text
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


def _run(arguments) -> None:
    from .methods import make_method
    from .models import load_model
    from .runs import run_stream
    from .sources import load_stream
    order = arguments.order.split(",") if arguments.order and "," in arguments.order else arguments.order
    stream = load_stream(arguments.stream, order=order, seed=arguments.data_seed, limit=arguments.limit, named=arguments.named)
    method = make_method(arguments.method, **_fields(arguments.set))
    out = Path(arguments.out or f"runs/{stream.name}-{arguments.method}-{arguments.seed}")
    model = load_model(arguments.model, arguments.device, arguments.dtype, arguments.quantize)
    run = run_stream(stream, method, model, arguments.seed, out, **_settings(arguments))
    print(f"exact match in percent, row i after task i\n{_shown(run.matrix)}\n\n{_side_by_side({run.method: run})}\n\nrun: {out}")


def _merge(arguments) -> None:
    from .merging import merge_adapters
    print(merge_adapters(arguments.adapters, arguments.out, arguments.method, **_fields(arguments.set)))


def _report(arguments) -> None:
    from . import plots
    from .reports import find_runs, summarise
    runs = find_runs(arguments.runs)
    table, rows = summarise(runs)
    shown = ["stream", "order", "named", "model", "method", "setting", "seeds"]
    shown += [name for score in ("AA", "BWT", "AA_options", "BWT_options", "general_loss") for name in (score, f"{score}_sd")]
    print(table.reindex(columns=shown).to_string(index=False, float_format="%.1f", na_rep=""))
    if arguments.save:
        folder = Path(arguments.figures)
        folder.mkdir(parents=True, exist_ok=True)
        for frame, name in ((table, arguments.save), (rows, f"{arguments.save}-runs")):
            frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.4f", lineterminator="\n")
        if table["method"].is_unique:               # else the rows differ in settings: a table, no picture
            for value, name in (("AA", arguments.save), ("AA_options", f"{arguments.save}-options")):
                seeds = [rows.loc[rows["run"] == run, value].tolist() for run in table["run"]]
                plots.save(plots.comparison(table.assign(scores=seeds), value), name, folder=folder)
        print(f"written: {folder / arguments.save}.csv, the runs and the pictures beside it")


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
