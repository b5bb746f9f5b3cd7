"""The notebooks' set-up cell and the checks of their exercises."""
import pandas as pd
import pytest
import torch

from mbf_utils.errors import InputError
from mbf_utils.lessons import ROOT, check, committed, measured, scores, setup, table
from mbf_utils.metrics import average_accuracy


@pytest.mark.parametrize("answer, right, good", [
    (2.5, 2.5, True), (2.5000000001, 2.5, True), (2.51, 2.5, False), (-2.5, 2.5, False), (None, 2.5, False), ("much", 2.5, False),
    ([1, 2], [1.0, 2.0], True), ([2, 1], [1, 2], False), ([1], [1, 2], False), (1, [1, 2], False), (float("nan"), 2.5, False),
])
def test_a_check_says_right_for_the_right_number_only_and_gives_the_hint_otherwise(answer, right, good):
    assert check(answer, right, "look again") == ("Right." if good else "Not yet: look again")


def test_setup_tells_minutes_and_device_and_reads_the_quick_switch(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("MBF_FAST", "0")
    assert setup(cpu_minutes=3, gpu_minutes=1) is False
    slow = capsys.readouterr().out
    monkeypatch.setenv("MBF_FAST", "1")
    assert setup(cpu_minutes=3) is True
    assert "about 3 minutes" in slow and "CPU" in slow and "quick" not in slow and "quick" in capsys.readouterr().out


def test_a_committed_run_is_a_run_and_an_unknown_one_is_told_by_name():
    run = committed("slao")
    assert run.method == "slao" and len(run.logs) == len(run.names) == 5 and run.lora(5, "tuned")
    with pytest.raises(InputError, match=r"found no 'slaoo' in notebooks/runs \(there are: .*slao"):
        committed("slaoo")


def test_measured_scores_are_the_matrices_of_the_committed_comparison():
    found = measured("world-5", "exact", order="1", model="tiny", named=False)
    each = pd.read_csv(ROOT / "figures" / "world-5-runs.csv", dtype={"order": str})
    rows = each[(each["method"] == "slao") & (each["order"] == "1") & (each["model"] == "tiny") & ~each["named"]].sort_values("seed")
    assert len(found["slao"]) == len(rows) >= 3
    for R, AA in zip(found["slao"], rows["AA"]):
        assert list(R.columns) == list(R.index) and average_accuracy(R) == pytest.approx(AA, abs=1e-3)
    by_seed = scores("world-5", "AA", "exact", order="1", model="tiny", named=False)
    assert by_seed["slao"].dropna().tolist() == pytest.approx(rows["AA"].tolist(), abs=1e-3) and list(by_seed.index) == sorted(by_seed.index)
    summary = table("world-5", order="1", model="tiny", named=False).set_index("method")
    assert summary.loc["slao", "AA"] == pytest.approx(rows["AA"].mean(), abs=1e-3) and summary.loc["seqlora", "setting"] == ""
    with pytest.raises(InputError, match="found no such file"):
        measured("world-6")
