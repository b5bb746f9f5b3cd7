"""The notebooks' set-up cell and the checks of their exercises."""
import pytest
import torch

from mbf_utils.lessons import check, setup


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
