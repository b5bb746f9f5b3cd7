"""The explorers of what training changed, on committed runs: every control moves picture and words, and the numbers are the tables'."""
import pytest

pytest.importorskip("ipywidgets", reason="the explorers need ipywidgets, of the extra notebooks")

from test_explorers import move

from mbf_utils import anatomy, explorers_views
from mbf_utils.errors import InputError
from mbf_utils.lessons import committed
from mbf_utils.updates import over_modules


@pytest.fixture(scope="module")
def runs():
    return [committed(name) for name in ("slao", "seqlora", "per_task")]


def test_placement_shows_one_task_of_one_method_or_the_mean(runs):
    explorer = explorers_views.placement(runs[:2])
    assert explorer.sentence.startswith("SLAO, mean of the tasks: learned most in layer ")
    said = move(explorer, task=2, run="seqlora")
    table = anatomy.placement(runs[1]).query("task == 2")
    most, still = table.loc[table.learned.idxmax()], table.loc[table.drift.idxmin()]
    assert said.startswith(f"Sequential LoRA, task 2 (amazon): learned most in layer {most.layer} {most.kind} ({most.learned:.3f})")
    assert f"least in layer {still.layer} {still.kind} ({still.drift:.3f})." in said
    assert "drift most" in move(explorer, task=5)                        # after the last task nothing drifts, and it is drawn


def test_shares_count_so_many_directions_of_each_earlier_update(runs):
    explorer = explorers_views.shares(runs)
    assert explorer.values == {"top": 8, "methods": ("slao", "per_task")}
    said = move(explorer, top=2, methods=("per_task",))
    own = over_modules(anatomy.shares(runs[2], 2)).query("part == 'own' and task == 5")
    assert f"One adapter a task (oracle) {100 * own.value.item():.1f} (of a random one {100 * own.expected.item():.1f})" in said
    explorer.controls["methods"].value = ()
    assert explorer.failed and "tick one" in explorer.sentence


@pytest.mark.parametrize("make", [explorers_views.placement, explorers_views.shares])
def test_runs_that_cannot_be_compared_are_refused(runs, make):
    for wrong in ([], [runs[0], runs[0]]):
        with pytest.raises(InputError, match="expected runs of different methods"):
            make(wrong)
    other = committed("own_updates")
    with pytest.raises(InputError, match="expected runs of the same tasks"):
        make([runs[0], other])
