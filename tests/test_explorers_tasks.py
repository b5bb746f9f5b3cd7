"""The explorers of merging and of likeness: every move draws another picture and says its numbers, and asks the model itself."""
import pytest
from test_remerge import STREAM
from toy import FAST

from mbf_utils import explorers_tasks
from mbf_utils.errors import InputError
from mbf_utils.explorers_tasks import schedule_of, trained_from
from mbf_utils.remerge import Remerge, constant, power
from mbf_utils.runs import run_stream


@pytest.fixture(scope="module")
def runs(model):
    return {name: run_stream(STREAM, name, model, **FAST) for name in
            ("slao", "seqlora", "slao_random", "slao_preserve", "slao_last_merged", "slao_frea_mb", "per_task", "slao_freb_ma")}


@pytest.fixture
def explorer(runs, model, monkeypatch):
    """The explorer of three runs, with its bench, so that the model can be given back."""
    opened = []
    monkeypatch.setattr(explorers_tasks, "Remerge", lambda *given: opened.append(Remerge(*given)) or opened[-1])
    yield explorers_tasks.merge({name: runs[name] for name in ("slao", "slao_random", "seqlora")}, None, STREAM, model), opened[0]
    opened[0].bench.close()


def test_every_control_of_the_merge_moves_the_picture_and_the_sentence(explorer):
    explorer, _ = explorer
    assert explorer.still.startswith(b"\x89PNG") and "merged: both, λ(i): 1/i" in explorer.words
    seen = {(bytes(explorer.picture.value), explorer.sentence)}
    for control, value in (("p", 0.9), ("merge", "A"), ("schedule", "constant"), ("training", "slao_random"), ("after", 1)):
        explorer.controls[control].value = value
        assert not explorer.failed
        seen.add((bytes(explorer.picture.value), explorer.sentence))
    assert len(seen) == 6 == len({picture for picture, _ in seen}) == len({words for _, words in seen})


def test_what_is_shown_is_what_the_model_answers(explorer, runs):
    explorer, bench = explorer
    own = runs["slao"].matrix.iloc[-1].mean()
    assert f"by exact match {own:.1f} % (the run itself {own:.1f}, difference +0.0 ± 0.0)" in explorer.sentence
    explorer.controls["p"].value = 1.0
    explorer.controls["merge"].value = "AB"
    table = bench.table("slao", "AB", power(1.0), 2)
    mean = table[table.task == "mean"].value.iloc[0]
    words = explorer.sentence
    assert words.startswith(f"A and B merged at λ(i) = i^−1.00, mean of 2 tasks, 10 rows: by exact match {mean:.1f} % ")
    assert "Each task trained from the last tuned pair, A orthonormal (a stored run, for a start or a frozen factor changes" in words


def test_a_constant_above_one_is_refused_in_words(explorer):
    explorer, _ = explorer
    explorer.controls["p"].value = 1.5
    assert not explorer.failed
    explorer.controls["schedule"].value = "constant"
    assert explorer.failed and "expected a constant from 0 to 1, found 1.50" in explorer.sentence
    explorer.controls["p"].value = 1.0
    assert not explorer.failed


@pytest.mark.parametrize("name, p, same, words", [("power", 0.3, power(0.3), "i^−0.30"), ("root", 1.7, power(0.5), "1/√i"),
                                                  ("mean", 0.2, power(1.0), "1/i"), ("constant", 0.4, constant(0.4), "0.40")])
def test_the_controls_name_a_schedule(name, p, same, words):
    at, said = schedule_of(name, p)
    assert [at(i) for i in (1, 2, 3, 7)] == [same(i) for i in (1, 2, 3, 7)] and said == f"λ(i) = {words}"


def test_where_a_run_starts_is_said_in_words(runs):
    assert {name: trained_from(run) for name, run in runs.items()} == {
        "slao": "the last tuned pair, A orthonormal", "slao_preserve": "the last tuned pair, A orthonormal, function kept",
        "slao_random": "a fresh LoRA", "slao_last_merged": "the merged pair, A orthonormal", "seqlora": "the last tuned pair",
        "slao_frea_mb": "the last tuned pair, A frozen", "slao_freb_ma": "the last tuned pair, B frozen from task 2",
        "per_task": "a fresh LoRA"}


def test_runs_of_other_settings_do_not_share_an_explorer(runs, model):
    other = run_stream(STREAM, "slao", model, **FAST | {"lr": 0.01})
    with pytest.raises(InputError, match="differs in settings"):
        explorers_tasks.merge({"slao": runs["slao"], "other": other}, 2, STREAM, model)
