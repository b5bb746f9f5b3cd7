"""The command `mbf` and its flags; what each does is in commands.py. Bad input ends in one sentence and exit code 2."""
from __future__ import annotations

import argparse
import dataclasses
import os
import sys

from . import __version__, commands
from .errors import InputError
from .guards import enough_memory, told_to_end


def _workers(text: str) -> int | str:
    """A number of processes, or the name of a joblib backend."""
    try:
        return int(text)
    except ValueError:
        return text


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        with told_to_end(), enough_memory("for this command", "close other programs, or take a smaller base or dtype bfloat16"):
            return arguments.do(arguments) or 0
    except InputError as error:
        print(f"mbf: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:                         # the reader of a pipe had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:                        # what a disk or a network refuses, wherever no better sentence says so
        print(f"mbf: expected to read or write {error.filename or 'a file'}, found: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mbf: stopped; a run goes on where it was when the same command is given again", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mbf", description="Continual learning of language models with one LoRA: SLAO and "
                                     "its rivals. `mbf COMMAND --help` says more.")
    parser.add_argument("--version", action="version", version=f"mbf {__version__}")
    all_commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, do, help: str) -> argparse.ArgumentParser:
        sub = all_commands.add_parser(name, help=help, description=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        sub.set_defaults(do=do)
        return sub

    demo = command("demo", commands.demo, "SLAO against sequential LoRA on five small tasks, offline on the CPU: a table and two figures")
    demo.add_argument("--out", default="runs/demo", help="folder for the runs and figures; a finished run is not trained again")
    demo.add_argument("--seed", type=int, default=0)

    run = command("run", commands.run, "learn a stream of tasks with one method; goes on where an interrupted run stopped")
    run.add_argument("stream", help="world-5, world-15, world-100; standard, long or superni from the Hub; a folder in the format "
                     "of O-LoRA, SAPT or TRACE; or a table")
    run.add_argument("--order", help="an order's number, or task names with commas between")
    run.add_argument("--method", default="slao", help="a name in METHODS")
    run.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting of the method, as lambda1=0.1")
    run.add_argument("--seed", type=int, default=0, help="of the training")
    run.add_argument("--out", help="folder of the run; default: runs/STREAM-METHOD-SEED")
    run.add_argument("--processes", type=int, metavar="N", help="stop unless this is one of N processes that train together: some "
                     "ways to launch several quietly start one")
    _add_preset(run)
    _add_inputs(run)

    compare = command("compare", commands.compare, "learn streams with several methods and seeds, in several processes, and compare "
                      "them; given again, goes on where it was stopped")
    compare.add_argument("streams", nargs="+", metavar="STREAM", help="as for run, perhaps with its order: world-5:2")
    compare.add_argument("--methods", default="all", help="names in METHODS with commas between, each perhaps with settings "
                         "(\"slao,olora lambda1=0.1\"); a family as merging; or all")
    compare.add_argument("--paper-settings", action="store_true", help="every method as its row in METHODS, not as chosen.json "
                         "has it for the base")
    compare.add_argument("--seeds", default="3", help="how many (3: the seeds 0, 1, 2), or a list with commas (0,5)")
    compare.add_argument("--orders", help="numbers of orders with commas between, for every stream; default: the first")
    compare.add_argument("--workers", type=_workers, default=1, help="processes on this machine, or the name of a joblib backend")
    compare.add_argument("--abreast", type=int, default=1, metavar="N", help="runs of one method that a worker learns side by side: "
                         "puts a GPU to use that one small run leaves idle; their peak memory is not told apart, and left out")
    compare.add_argument("--backend", metavar="NAME", help="dask: the workers of the Dask cluster at --scheduler; or another "
                         "joblib backend")
    compare.add_argument("--scheduler", metavar="ADDRESS", help="of the Dask cluster, as tcp://head:8786")
    compare.add_argument("--cell", metavar="K/N", help="learn the K-th of N shares of the grid only, as one job of a queue; mbf "
                         "report then reads all folders")
    compare.add_argument("--out", default="runs/compare", help="folder of the runs, and of table.csv: scores with their spread, what the "
                         "order does, times, memory")
    _add_saving(compare)
    _add_preset(compare)
    _add_inputs(compare)

    search = command("search", commands.search, "choose a method's settings on the development rows of another world; writes what was "
                     "tried to FIGURES/choice-METHOD.csv and what was chosen to the table that mbf compare uses")
    search.add_argument("stream")
    search.add_argument("--method", required=True)
    search.add_argument("--grid", action="append", required=True, metavar="FIELD=VALUE,VALUE",
                        help="values to try, at most four settings in all")
    search.add_argument("--seeds", default="1", help="as for compare")
    search.add_argument("--order", help="an order's number")
    search.add_argument("--workers", type=_workers, default=1, help="processes, or the name of a joblib backend")
    search.add_argument("--out", default="runs/search", help="folder of the runs")
    search.add_argument("--figures", default="figures", help="where choice-METHOD.csv is written")
    search.add_argument("--apart", action="store_true", help="a choice for this stream alone: written to choice-STREAM-METHOD.csv, and "
                        "mbf compare goes on with what it used")
    _add_inputs(search, data_seed=7)

    merge = command("merge", commands.merge, "merge saved PEFT adapters, in the order in which they were trained, into one")
    merge.add_argument("adapters", nargs="+", help="PEFT adapter folders")
    merge.add_argument("--out", required=True, help="folder of the merged adapter")
    merge.add_argument("--method", default="slao")
    merge.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a setting of the method")

    export = command("export", commands.export, "write an adapter into its base, as one plain model to serve, and print the "
                     "largest difference that rounding makes")
    export.add_argument("adapter", help="a PEFT adapter folder")
    export.add_argument("--out", required=True, help="new folder of the model")
    export.add_argument("--model", default="tiny", help="the adapter's base")
    export.add_argument("--device", default="auto")
    export.add_argument("--dtype", default="bfloat16", help="of the model that is written")
    export.add_argument("--texts", help="a text file, a text a line, to compare on; default: random tokens")

    check = command("check", commands.check, "is the newest version of an adapter that Continual.save wrote worse than the ones "
                    "before it? Exit code 1 where it is: to be asked before it is published")
    check.add_argument("adapter", help="a folder that Continual.save wrote")
    check.add_argument("probes", nargs="+", help="held-out rows: JSON Lines with messages, or what run takes as a stream (of every "
                       "task the test rows; all rows of a table without a column split)")
    check.add_argument("--max-drop", type=float, required=True, help="nats a token by which a probe's loss may rise")
    check.add_argument("--model", default="tiny", help="the adapter's base")
    check.add_argument("--device", default="auto")
    check.add_argument("--dtype", default="auto")
    check.add_argument("--max-length", type=int, default=1024, help="tokens of a row")

    report = command("report", commands.report, "the table of finished runs: mean and sample standard deviation over seeds")
    report.add_argument("runs", nargs="*", help="run folders, or folders that hold them")
    report.add_argument("--paper", action="store_true", help="also what the paper and its replication print, with "
                        "their source, in tables of their own; needs no runs")
    report.add_argument("--mean", choices=("macro", "micro"), default="macro", help="AA over tasks, or over test rows")
    _add_saving(report)

    reproduce = command("reproduce", commands.reproduce, "the cells of the paper's tables and of its replication: lists them with "
                        "estimated GPU hours, or runs the named ones, resumably, and sets the result beside what was published")
    reproduce.add_argument("cells", nargs="*", metavar="CELL", help="as main/superni/slao or 'main/*/slao'; none: the list")
    reproduce.add_argument("--data", action="append", default=[], metavar="BENCHMARK=PATH", help="folder of standard, long or "
                           "superni; default: from the Hub")
    reproduce.add_argument("--seeds", default="42,43,44", help="as for compare; the replication's are the default")
    reproduce.add_argument("--workers", type=_workers, default=1, help="processes, or the name of a joblib backend")
    reproduce.add_argument("--out", default="runs/reproduce", help="folder of the runs")
    _add_inputs(reproduce)
    reproduce.set_defaults(model=None)

    presets = command("presets", commands.presets, "the settings of the papers by name; with a name, that one's with source and "
                      "what it leaves open")
    presets.add_argument("name", nargs="?", help="a name in PRESETS")

    methods = command("methods", commands.methods, "the methods and what their cards say; with a name, that method's equation and settings")
    methods.add_argument("name", nargs="?", help="a name in METHODS")

    base = command("make-base", commands.make_base, "pretrain a small Llama from scratch: on the offline world's text or on your own")
    base.add_argument("out", help="new folder")
    base.add_argument("--text", help="a text file (one document a line) or a stream, as CL_Benchmark:4 (its training texts, without the answers)")
    base.add_argument("--size", default=None, help="tiny, small, or text; default: tiny, with --text text")
    base.add_argument("--steps", type=int, help="default: the size's own number")
    base.add_argument("--seed", type=int, default=0)
    base.add_argument("--vocab-size", type=int, default=4096, help="pieces of the byte-level BPE, with --text")

    bench = command("bench", commands.bench, "measure the kit against what one would use instead, on this machine; writes a table")
    bench.add_argument("--quick", action="store_true", help="smaller sizes, under two minutes")
    bench.add_argument("--only", help="items of the CPU whose name holds one of these words, with commas between")
    bench.add_argument("--gpu", action="store_true", help="the benchmarks of a GPU alone")
    bench.add_argument("--out", default="figures", help="folder of the tables and figures")

    lab = command("lab", commands.lab, "open JupyterLab at the notebooks")
    lab.add_argument("--notebooks", default="notebooks")
    return parser


def _add_preset(parser) -> None:
    parser.add_argument("--preset", metavar="NAME", help="settings of a paper (mbf presets); what is given besides counts first")


def _add_inputs(parser, data_seed: int = 0) -> None:
    """The base, the rows and the training: the same for every command that learns."""
    parser.add_argument("--model", default="tiny", help="tiny, small, a folder (as mbf make-base writes), or owner/name on the Hub")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", type=int, choices=(4, 8), help="bits of the base's weights (CUDA)")
    parser.add_argument("--data-seed", type=int, default=data_seed, help="of the rows: which world, which rows under --limit")
    parser.add_argument("--limit", type=int, help="at most that many train and that many test rows a task")
    parser.add_argument("--named", action=argparse.BooleanOptionalAction, help="prompts name the data set, or not; default: as the stream's source has it")
    parser.add_argument("--prompts", metavar="FORM", help="of a benchmark: O-LoRA or SAPT; or chat, the model's own template")
    _add_settings(parser.add_argument_group("training", "a base may bring other defaults (lora.json beside its weights)"))


def _add_saving(parser) -> None:
    parser.add_argument("--save", metavar="NAME", help="also write NAME.csv (a row a method), NAME-runs.csv (a row a run), "
                        "NAME-costs.csv (times and memory), and for every stream and order NAME.png and NAME-options.png, "
                        "NAME-score.png where tasks have scores of their own")
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
        elif field.name == "scores":
            group.add_argument(flag, default=argparse.SUPPRESS, metavar="NAME", help="each task's score: field (SuperNI's and TRACE's own), "
                               "SAPT, or one for all: exact, literal, rouge_l, edit_similarity, sari, letter")
        else:
            kind = _number if field.name == "epochs" else type(field.default)
            group.add_argument(flag, type=kind, default=argparse.SUPPRESS, metavar=kind.__name__.upper(),
                               help=f"real models: {field.default}")


def _number(text: str) -> int | float:
    """A whole number stays one, as a run's config.json has it."""
    try:
        return int(text)
    except ValueError:
        return float(text)


_number.__name__ = "number"                         # as argparse's sentence calls it
