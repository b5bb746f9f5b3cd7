"""Runs learned abreast are the runs that are learned one by one, to rounding; one that fails leaves the others."""
from dataclasses import dataclass, replace

import pytest
import torch
from tiny import tiny_llama
from toy import FAST, toy_model

from mbf_utils.abreast import Plan, run_abreast
from mbf_utils.comparison import compare
from mbf_utils.errors import InputError
from mbf_utils.method import Method
from mbf_utils.methods import METHODS
from mbf_utils.results import Run
from mbf_utils.runs import run_stream, walk_stream

ALONE = {**FAST, "dropout": 0.0, "lr": 0.01, "batch_size": 3}        # six rows a task: the last window is a short one


def updates(run: Run) -> torch.Tensor:
    """B A of every module after every task, in one vector."""
    return torch.cat([(pair.B @ pair.A).flatten() for i in range(1, len(run.names) + 1) for pair in run.lora(i).values()])


def plans_in(folder, stream, name, model=None):
    """Two seeds of the stream, and one of the same tasks in another order, shorter by one."""
    other = replace(stream, order="2", tasks=stream.tasks[::-1][:2])
    return [Plan(folder / "one", stream, name, 0), Plan(folder / "two", stream, name, 1), Plan(folder / "three", other, name, 0)]


def apart(name, stream, folder, model) -> float:
    """The largest distance, relative, between the updates of a run abreast and of the same run alone; losses are compared too."""
    plans, found = plans_in(folder, stream, name), []
    assert not run_abreast(plans, model, **ALONE)
    for plan in plans:
        alone, abreast = run_stream(plan.stream, name, model, plan.seed, **ALONE), Run(plan.folder)
        assert alone.config == abreast.config and len(alone.logs) == len(abreast.logs)
        assert all(log["abreast"] == (3 if i < 2 else 2) for i, log in enumerate(abreast.logs))
        losses = [torch.tensor([loss for log in run.logs for loss in log["losses"]]) for run in (alone, abreast)]
        found += [((y - x).norm() / (x.norm() + 1e-6)).item() for x, y in (losses, map(updates, (alone, abreast)))]
    return max(found)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_the_same_abreast_as_alone(name, stream, tmp_path):
    if apart(name, stream, tmp_path / "float32", toy_model()) > 2e-3:        # rounding moved an entry over a threshold (TIES, MIGU)
        model, tokenizer = toy_model()
        assert apart(name, stream, tmp_path / "float64", (model.double(), tokenizer)) < 1e-5


def test_a_run_goes_on_abreast_and_alone(stream, tmp_path):
    model = toy_model()
    plans = plans_in(tmp_path, stream, "slao")
    next(walk_stream(stream, "slao", model, 0, plans[0].folder, **ALONE))            # one task of three, alone
    assert not run_abreast(plans[:2], model, **ALONE)
    other = plans_in(tmp_path / "again", stream, "slao")
    assert not run_abreast(other[:2], model, **ALONE)
    for one, two in zip(plans[:2], other):
        assert torch.allclose(updates(Run(one.folder)), updates(Run(two.folder)), rtol=1e-3, atol=1e-5)
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))]
    assert not run_abreast(plans[:2] + other[:2], model, **ALONE)                    # finished: nothing is left to do
    assert before == [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))]


@dataclass
class Breaks(Method):
    where: str = "penalty"

    def _break(self, task, where):
        if where == self.where and task.seed == 1 and task.index == 2:
            raise ArithmeticError(f"in {where}")

    def start(self, task):
        self._break(task, "start")
        return super().start(task)

    def before_batch(self, batch, task):
        self._break(task, "before_batch")

    def penalty(self, live, task, batch, logits):
        self._break(task, "penalty")
        return logits.sum() * float("nan") if self.where == "nan" and task.seed == 1 and task.index == 2 else 0.0

    def edit_grads(self, live, task):
        self._break(task, "edit_grads")

    def after_step(self, live, task):
        self._break(task, "after_step")

    def finish(self, tuned, task):
        self._break(task, "finish")
        return super().finish(tuned, task)


@pytest.mark.parametrize("where", ["start", "before_batch", "penalty", "edit_grads", "after_step", "finish", "nan"])
def test_one_that_fails_keeps_its_last_task_and_leaves_the_others(where, stream, tmp_path):
    model, first = toy_model(), tmp_path / "lone"
    plans = [Plan(tmp_path / str(seed), stream, Breaks(where), seed) for seed in (0, 1)]
    (folder, error), = run_abreast(plans, model, **ALONE).items()
    assert folder == plans[1].folder and len(Run(folder).logs) == 1
    assert isinstance(error, InputError if where == "nan" else ArithmeticError)
    assert "finite" in str(error) if where == "nan" else str(error) == f"in {where}"
    alone = run_stream(stream, Breaks(where), model, 0, first, **ALONE)
    assert torch.allclose(updates(alone), updates(Run(plans[0].folder)), rtol=1e-3, atol=1e-5)


def test_what_fails_inside_a_pass_that_is_shared_fails_its_runs_alone(stream, tmp_path):
    @dataclass
    class Bends(Method):
        def mix(self, h, x, site):
            if len(h) and site.batch.ids.shape[0] < 2:
                raise ArithmeticError("in mix")
            return h

    plans = [Plan(tmp_path / str(n), replace(stream, tasks=(stream[0], cut)), Bends(), 0)
             for n, cut in enumerate((stream[1], replace(stream[1], train=stream[1].train[:1])))]
    plans.append(Plan(tmp_path / "short", stream[:1], Bends(), 1))
    failures = run_abreast(plans, toy_model(), **ALONE)
    assert {str(error) for error in failures.values()} == {"in mix"} and set(failures) == {plan.folder for plan in plans[:2]}
    assert [len(Run(plan.folder).logs) for plan in plans] == [1, 1, 1]


def test_with_checkpointing_it_learns_the_same(stream, tmp_path):
    plain, saving = (Plan(tmp_path / name, stream, "olora", 0) for name in ("plain", "saving"))
    assert not run_abreast([plain], toy_model(), **ALONE)
    assert not run_abreast([saving], toy_model(), checkpointing=True, **ALONE)
    assert torch.equal(updates(Run(plain.folder)), updates(Run(saving.folder)))


def test_the_model_is_given_back_and_chance_is_left_alone(stream, tmp_path):
    model = toy_model()
    before, state = {name: value.clone() for name, value in model[0].state_dict().items()}, torch.get_rng_state()
    run_abreast(plans_in(tmp_path, stream, "p_and_m"), model, **ALONE)
    assert torch.equal(state, torch.get_rng_state())
    after = model[0].state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("settings, model", [({"dropout": 0.1}, toy_model), ({}, lambda: (tiny_llama().bfloat16(), toy_model()[1]))])
def test_what_cannot_be_learned_abreast_is_refused(settings, model, stream, tmp_path):
    with pytest.raises(InputError, match="expected a float32 base, dropout 0 and one process"):
        run_abreast(plans_in(tmp_path, stream, "slao"), model(), **{**ALONE, **settings})
    assert not any(tmp_path.iterdir())


def test_prompts_go_into_the_chat_template_and_names_are_checked_as_alone(stream, tmp_path):
    model, tokenizer = toy_model()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} one two {% endfor %}"
    chat = replace(stream[:2], chat=True)
    assert not run_abreast([Plan(tmp_path / "chat", chat, "slao", 0)], (model, tokenizer), **ALONE)
    alone, abreast = run_stream(chat, "slao", (model, tokenizer), 0, **ALONE), Run(tmp_path / "chat")
    assert alone.config == abreast.config and torch.allclose(updates(alone), updates(abreast), rtol=1e-3, atol=1e-5)
    twice = replace(stream, tasks=(stream[0], stream[0]))
    with pytest.raises(InputError, match="tasks of different names"):
        run_abreast([Plan(tmp_path / "twice", twice, "slao", 0)], (model, tokenizer), **ALONE)


def test_a_comparison_learns_its_seeds_abreast(stream, tmp_path):
    model, methods = toy_model(), ["slao", ("olora", {"lambda1": 0.1})]
    alone = compare(stream, methods, [0, 1, 2], model, tmp_path / "alone", **ALONE)
    abreast = compare(stream, methods, [0, 1, 2], model, tmp_path / "abreast", abreast=2, **ALONE)
    assert [run.folder.name for run in alone.runs] == [run.folder.name for run in abreast.runs]
    for one, two in zip(alone.runs, abreast.runs):
        assert torch.allclose(updates(one), updates(two), rtol=1e-3, atol=1e-5)
    assert [run.logs[0].get("abreast") for run in abreast.runs] == [2, 2, 2, 2, None, None]       # seeds 0 and 1 of each method, then seed 2
    failed = compare(stream, [Breaks(), "slao"], [0, 1], model, tmp_path / "failed", abreast=4, **ALONE).failures
    assert failed["cell"].tolist() == ["toy-o1-Breaks-where=penalty-1"] and "in penalty" in failed["error"].item()
