"""A grid on a Dask cluster: two workers, some of them killed in the middle; and shares of a grid."""
import multiprocessing
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
from toy import FAST, contents, toy_model

from mbf_utils import cli, cluster
from mbf_utils.comparison import compare, plan
from mbf_utils.errors import InputError
from mbf_utils.method import Card, Method
from mbf_utils.reports import find_runs, summarise
from mbf_utils.runs import walk_stream

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


@dataclass
class Told(Method):
    """Sequential LoRA that tells of every task in a file, and kills its process in the second task: once, or always."""
    diary: str = ""
    kills: str = "never"

    card: ClassVar[Card] = Card("Told", "", "single adapter", "exact")

    def tell(self, what, task):
        with open(self.diary, "a") as file:
            file.write(f"{what} {self.kills} {task.seed} {task.index}\n")

    def start(self, task):
        self.tell("begun", task)
        return super().start(task)

    def finish(self, tuned, task):
        marker = Path(self.diary + ".killed")
        if task.index == 2 and (self.kills == "always" or self.kills == "once" and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.tell("ended", task)
        return super().finish(tuned, task)


@pytest.fixture(scope="module")
def workers():
    """A client of a local cluster of two processes, whose scheduler gives up a task with the first worker that dies under it."""
    distributed.utils.get_mp_context()
    once = ["mbf_utils.comparison", "distributed", "transformers.models.llama.modeling_llama"]       # imported for all processes
    multiprocessing.get_context("forkserver").set_forkserver_preload(once)
    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.multiprocessing-method": "forkserver"}
    with dask.config.set(settings), \
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as local, \
            distributed.Client(local) as client:
        yield client


def runs_of(out) -> dict:
    return {name: data for name, data in contents(out).items() if "/" in name and not name.endswith("/config.json")}


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's")
def test_workers_that_are_killed_lose_no_finished_task_and_none_runs_twice(workers, stream, tmp_path):
    """Four cells of three tasks on two workers. One task kills its worker once, one whenever it runs; one cell had begun here."""
    def told(kills):
        return Told(str(tmp_path / "diary"), kills)
    methods, model = [told("never"), told("once"), told("always"), "slao"], toy_model()
    out = tmp_path / "out"
    begun = plan(stream, "slao", 0, out)[0]
    next(walk_stream(stream, "slao", model, 0, begun.folder, **FAST))
    first = (begun.folder / "tasks" / "01-single" / "log.json").stat().st_mtime_ns
    found = compare(stream, methods, 0, model, out, workers="dask", **FAST)

    (failed,), (sentence,) = found.failures["cell"], found.failures["error"]
    assert "kills=always" in failed and sentence == cluster.KILLED
    counts = Counter((tmp_path / "diary").read_text().split("\n")[:-1])
    assert counts == Counter({
        **{f"{what} never 0 {i}": 1 for what in ("begun", "ended") for i in (1, 2, 3)},
        **{f"{what} once 0 {i}": 1 for what in ("begun", "ended") for i in (1, 3)}, "begun once 0 2": 2, "ended once 0 2": 1,
        "begun always 0 1": 1, "ended always 0 1": 1, "begun always 0 2": 2})

    assert (begun.folder / "tasks" / "01-single" / "log.json").stat().st_mtime_ns == first          # not learned again
    here = tmp_path / "here"
    compare(stream, [told("never"), "slao"], 0, model, here, **FAST)
    there = {name: data for name, data in runs_of(out).items() if name.startswith(tuple(path.name for path in here.iterdir()))}
    assert there == runs_of(here) and len(there) == 38
    lost = next(path for path in out.iterdir() if path.is_dir() and "kills=always" in path.name)
    assert [path.name for path in (lost / "tasks").iterdir()] == ["01-single"]                       # kept, to go on from
    assert len(list(out.glob("*.cost.json"))) == 4 and not list(out.rglob(".*.tmp"))


def test_a_task_goes_to_a_worker_that_holds_no_result(workers, stream, model, tmp_path, monkeypatch):
    """What a worker holds, and somebody wants, is learned again when it dies in the next task."""
    submit, holding = workers.submit, []

    def watched(*args, workers, **options):
        until = time.monotonic() + 10               # the scheduler is told of what is released, and tells the worker
        while (held := client.has_what()[workers]) and time.monotonic() < until:
            time.sleep(0.01)
        holding.append((workers, held))
        return submit(*args, workers=workers, **options)
    client = workers
    monkeypatch.setattr(workers, "submit", watched)
    compare(stream[:2], "seqlora", [0, 1], model, tmp_path, workers="dask", **FAST)
    assert len(holding) == 4 and {worker for worker, _ in holding} == set(client.nthreads())
    assert not any(held for _, held in holding)


def test_given_again_a_finished_grid_is_only_looked_at_and_other_settings_are_refused(workers, stream, model, tmp_path, capsys):
    first = compare(stream[:1], "seqlora", [0, 1], model, tmp_path, workers="dask", **FAST)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    again = compare(stream[:1], "seqlora", [0, 1], model, tmp_path, workers="dask", **FAST)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    pd.testing.assert_frame_equal(first.table, again.table)
    with pytest.raises(InputError, match=f"every run failed: expected in {tmp_path}/toy-o1-seqlora-0 a run with") as caught:
        compare(stream[:1], "seqlora", 0, model, tmp_path, workers="dask", **{**FAST, "lr": 1.0})
    assert "found another run" in str(caught.value)

    address = workers.scheduler.address
    command = ["compare", "world-5", "--limit", "1", "--methods", "zero_shot", "--seeds", "1", "--out", str(tmp_path / "cli")]
    assert cli.main([*command, "--backend", "dask", "--scheduler", address]) == 0
    assert "zero" in capsys.readouterr().out.lower() and (tmp_path / "cli" / "world-5-o1-zero_shot-0" / "matrix.csv").exists()
    assert cli.main([*command, "--scheduler", address]) == 2 and "expected --backend dask" in capsys.readouterr().err


def test_without_a_cluster_a_sentence_says_what_to_do(stream, model, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="expected a Dask scheduler at tcp://127.0.0.1:9, found: "):
        with cluster.connected("tcp://127.0.0.1:9", 1):
            pass
    monkeypatch.setattr(distributed, "default_client", lambda: (_ for _ in ()).throw(ValueError("none")))
    with pytest.raises(InputError, match="^expected a Dask client, found none: give the scheduler's address"):
        compare(stream[:1], "slao", 0, model, tmp_path, workers="dask", **FAST)

    class Wide:
        wait_for_workers = staticmethod(lambda n, timeout: None)
        nthreads = staticmethod(lambda: {"a": 1, "b": 8})
    monkeypatch.setattr(distributed, "default_client", Wide)
    with pytest.raises(InputError, match="one thread, one a GPU, found workers of 8 threads"):
        cluster.client_here()


# shares of a grid

def test_the_shares_of_a_grid_are_all_of_it_each_cell_once(stream, model, tmp_path, capsys):
    cells = plan(stream, ["slao", "seqlora", "slao_half"], [0, 1], tmp_path)
    shares = [cluster.share(cells, f"{k}/4") for k in (1, 2, 3, 4)]
    assert sorted(sum(shares, [])) == sorted(cells) and [len(part) for part in shares] == [2, 2, 1, 1]
    for wrong in ("0/4", "5/4", "4", "a/b", "1/0", "-1/2"):
        with pytest.raises(InputError, match="k/N with k from 1 to N, found"):
            cluster.share(cells, wrong)
    with pytest.raises(InputError, match=r"at most as many shares as the grid has cells \(6\), found share 7/8"):
        cluster.share(cells, "7/8")

    whole = compare(stream[:1], ["slao", "seqlora"], [0, 1], model, tmp_path / "whole", **FAST)
    for k in (1, 2):                                # two jobs of a queue, each with a folder of its own
        compare(stream[:1], ["slao", "seqlora"], [0, 1], model, tmp_path / f"job{k}", cell=f"{k}/2", **FAST)
    runs = find_runs([str(tmp_path / "job1"), str(tmp_path / "job2")])
    costs = [column for column in whole.table if "seconds" in column or "memory" in column]
    pd.testing.assert_frame_equal(summarise(runs)[0].drop(columns=costs), whole.table.drop(columns=costs))
    assert cli.main(["report", str(tmp_path / "job1"), str(tmp_path / "job2")]) == 0 and "SLAO" in capsys.readouterr().out


def test_a_share_keeps_its_failures_apart(stream, model, tmp_path):
    @dataclass
    class Breaks(Method):
        def finish(self, tuned, task):
            raise ValueError("no")

    compare(stream[:1], [Breaks(), "seqlora"], [0, 1], model, tmp_path, cell="1/1", **FAST)
    assert (tmp_path / "failures-1-of-1.csv").exists() and not (tmp_path / "failures.csv").exists()
