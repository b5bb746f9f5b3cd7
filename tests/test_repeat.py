"""Numbers that repeat: on one machine to the byte (test_contract.py, test_runs.py), across threads and machines to what is said here."""
from pathlib import Path

import pandas as pd
import pytest
import torch

from mbf_utils.models import load_model
from mbf_utils.runs import run_stream
from mbf_utils.sources import load_stream

FIGURES = Path(__file__).resolve().parent.parent / "figures"
RUN = ["stream", "order", "named", "model", "method", "setting", "seed"]
POINTS = 1.0                                        # README: of one run's accuracy; of a table's mean over three seeds 0.2
MEAN = 0.2
ROWS = 48                                           # a task
ON_CARD = ("slao seqlora zero_shot per_task replay ewc lwf inclora olora nlora nlora_released inflora inflora_projected keeplora "
           "lb_cl").split()                         # methods that the tables of the three orders have from a card (figures/make.sh)


@pytest.mark.parametrize("other, least", [("world-5-three", 45), ("world-5-ablations", 42)])
def test_a_gpu_makes_the_table_of_a_cpu(other, least):
    """The same runs, learned one by one on a CPU and several abreast on an H200: two committed tables."""
    cpu, gpu = (pd.read_csv(FIGURES / f"{name}-runs.csv", keep_default_na=False, dtype={"order": str}) for name in ("world-5", other))
    if other == "world-5-three":
        gpu = gpu[gpu["method"].isin(ON_CARD)]
    both = cpu.merge(gpu, on=RUN, suffixes=("", "_gpu"))
    assert len(both) >= least
    for score in ("AA", "AA_options"):
        apart = both[score] - both[score + "_gpu"]
        assert apart.abs().max() <= POINTS, both.loc[apart.abs().idxmax(), RUN].to_dict()
        means = apart.groupby([both["method"], both["setting"]]).mean().abs()
        assert means.max() <= MEAN, means.idxmax()


def test_over_fifteen_tasks_the_last_digit_can_grow():
    """README says how far: nine runs one by one and three abreast, on one machine."""
    one, other = (pd.read_csv(FIGURES / f"{name}-runs.csv", keep_default_na=False, dtype={"order": str}) for name in ("world-15", "world-15-again"))
    both = one.merge(other, on=RUN, suffixes=("", "_again"))
    assert both.groupby("method").size().to_dict() == {"ewc": 3, "seqlora": 3, "slao": 3}
    apart = {score: (both[score] - both[f"{score}_again"]).abs().groupby(both["method"]).max().round(1).to_dict() for score in ("AA", "AA_options")}
    assert apart == {"AA": {"ewc": 0.3, "seqlora": 6.8, "slao": 9.7}, "AA_options": {"ewc": 0.0, "seqlora": 6.5, "slao": 1.6}}


def with_threads(count: int, method: str, **settings):
    """A run of two tasks on so many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return run_stream(load_stream("world-5", limit=ROWS)[:2], method, load_model("tiny", "cpu", "float32"), **settings)
    finally:
        torch.set_num_threads(threads)


def test_two_threads_learn_the_factors_that_one_learns():
    one, two = (with_threads(count, "slao", epochs=2) for count in (1, 2))
    for task in (1, 2):
        for path, pair in one.lora(task).items():
            for factor, same in zip(pair, two.lora(task)[path]):
                assert torch.allclose(factor, same, rtol=1e-3, atol=1e-4), (task, path, (factor - same).abs().max())


# Of every family, and each that decides something by a threshold, a rank or a sign. Factors may differ where only their product counts.
@pytest.mark.parametrize("method", "slao ewc olora inflora keeplora oplora corda osf codyra lorac migu gainlora ties knots treelora".split())
def test_two_threads_make_the_table_that_one_makes(method):
    one, two = (with_threads(count, method, epochs=1) for count in (1, 2))
    for R, same in ((one.matrix, two.matrix), (one.options, two.options)):
        assert R.shape == same.shape == (2, 2) and (R - same).abs().max().max() <= 100 / ROWS             # one row
