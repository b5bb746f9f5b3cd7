"""Whole runs on the toy stream: the matrix, the folder, the model that comes back, and every method there is."""
import dataclasses
import json
import math
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import PeftModel
from toy import FAST, contents, toy_model

from mbf_utils import evaluation
from mbf_utils.errors import InputError
from mbf_utils.lora import Pair
from mbf_utils.method import Method, Task
from mbf_utils.methods.references import MultiTask
from mbf_utils.methods.slao import SLAO
from mbf_utils.models import load_model
from mbf_utils.reports import summarise
from mbf_utils.results import Run
from mbf_utils.runs import fingerprint, run_stream, walk_stream
from mbf_utils.sources import load_stream
from mbf_utils.store import pack, unpack
from mbf_utils.streams import Example

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["single", "prefixes", "free"]


@pytest.fixture(scope="module")
def run(stream, model):
    return run_stream(stream, "slao", model, **FAST)


def equal(one, other) -> bool:
    return list(one) == list(other) and all(torch.equal(one[path].A, other[path].A) and torch.equal(one[path].B, other[path].B) for path in one)


# what a run tells

def test_the_matrix_has_a_row_after_and_a_column_for_every_task_and_is_measured_up_to_the_diagonal(run):
    for frame, labelled in ((run.matrix, [True] * 3), (run.options, [True, True, False])):
        assert list(frame.columns) == list(frame.index) == NAMES
        for i in range(3):
            for j in range(3):
                assert math.isnan(frame.iloc[i, j]) == (j > i or not labelled[j])
        assert frame.stack().dropna().between(0, 100).all()


def test_the_summary_reads_the_matrix_and_the_log(run):
    summary, matrix = run.metrics(), run.matrix.to_numpy()
    assert summary["AA"] == pytest.approx(matrix[-1].mean()) and "FWT" not in summary
    assert summary["BWT"] == pytest.approx((matrix[-1] - matrix.diagonal())[:-1].mean())
    assert summary["learning_accuracy"] == pytest.approx(matrix.diagonal().mean())
    assert summary["general_loss"] == run.logs[-1]["general_loss"] == run.general.iloc[-1]
    assert list(run.general.index) == NAMES and [len(log["losses"]) for log in run.logs] == [2, 2, 2]
    assert repr(run) == f"Run(slao on toy, 3 of 3 tasks, {run.folder})"


def test_equal_seeds_give_equal_bytes_and_another_seed_another_run(stream, model, run, tmp_path):
    torch.manual_seed(99)                                            # what was drawn before does not matter
    again = run_stream(stream, "slao", model, out=tmp_path / "again", **FAST)
    assert contents(again.folder) == contents(run.folder)
    other = run_stream(stream, "slao", model, seed=1, **FAST)
    assert contents(other.folder).keys() == contents(run.folder).keys()
    plain = run_stream(stream, "slao", model, **{**FAST, "dropout": 0.0})
    for i in (1, 2, 3):
        assert not equal(other.lora(i), run.lora(i)) and not equal(plain.lora(i), run.lora(i))


def test_a_walk_stops_after_every_task_and_ends_where_a_run_ends(stream, model, run, tmp_path):
    lengths = []
    for walked in walk_stream(stream, "slao", model, out=tmp_path / "walk", **FAST):
        lengths.append((len(walked.logs), walked.matrix.shape))
    assert lengths == [(1, (1, 3)), (2, (2, 3)), (3, (3, 3))]
    assert contents(walked.folder) == contents(run.folder)


def test_a_walk_left_early_frees_the_folder_and_the_model(stream, run, tmp_path):
    model, tokenizer = toy_model()
    modules = [name for name, _ in model.named_modules()]
    walk = walk_stream(stream, "slao", (model, tokenizer), out=tmp_path / "walk", **FAST)
    next(walk)
    walk.close()
    assert [name for name, _ in model.named_modules()] == modules
    assert contents(run_stream(stream, "slao", (model, tokenizer), out=tmp_path / "walk", **FAST).folder) == contents(run.folder)


def test_a_run_can_be_opened_from_its_folder_while_and_after_it_goes_on(run):
    opened = Run(str(run.folder))
    assert opened.method == "slao" and opened.names == NAMES
    pd.testing.assert_frame_equal(opened.matrix, run.matrix)
    with pytest.raises(InputError, match="expected a run in"):
        Run(run.folder / "tasks")


def test_a_run_records_what_it_was_made_with_and_is_the_same_run_with_another(tmp_path):
    model, stream = load_model("tiny", "cpu"), load_stream("world-5", seed=3, limit=4)[:1]
    run = run_stream(stream, "slao", model, out=tmp_path / "run", epochs=1)
    assert run.config["record"] == {"data_seed": 3, "limit": 4, "dtype": "float32", "quantize": None, "threads": torch.get_num_threads(), "card": None}
    assert run.config["device"] == "cpu" and {"python", "torch", "peft"} < run.config["versions"].keys()
    found = summarise([run])[1].iloc[0]
    other = {**run.config, "record": {"threads": 64, "card": "another"}, "device": "cuda", "versions": {}}
    for config in (other, {key: value for key, value in other.items() if key != "record"}):      # as another machine or an older version has it
        (run.folder / "config.json").write_text(json.dumps(config))
        again = run_stream(stream, "slao", model, out=tmp_path / "run", epochs=1)
        assert again.config == config and summarise([again])[1].iloc[0][["run", "setup"]].equals(found[["run", "setup"]])


def test_the_committed_tables_have_the_hashes_that_their_runs_have_now():
    table = pd.read_csv(ROOT / "figures" / "world-5-runs.csv", dtype=str)
    found = summarise([Run(ROOT / "notebooks" / "runs" / "slao")])[1].iloc[0]
    assert {tuple(row) for row in table.loc[table["method"] == "slao", ["run", "setup"]].to_numpy()} == {(found["run"], found["setup"])}


def test_result_and_tuned_are_the_methods_own(run):
    """SLAO: the first result is what was trained; later A is what was trained and B is merged at 1 / sqrt(i)."""
    assert equal(run.lora(1, "result"), run.lora(1, "tuned"))
    for i in (2, 3):
        before, tuned, result = run.lora(i - 1), run.lora(i, "tuned"), run.lora(i)
        for path, pair in result.items():
            assert torch.equal(pair.A, tuned[path].A)
            assert torch.allclose(pair.B, before[path].B + (tuned[path].B - before[path].B) / math.sqrt(i), atol=1e-6)
            assert not torch.allclose(pair.B, tuned[path].B, atol=1e-3)
    for wrong in ((0, "result"), (4, "result"), (1, "merged")):
        with pytest.raises(InputError, match="expected a task from 1 to 3"):
            run.lora(*wrong)


@dataclass
class Blind(Method):
    """Answers every task with the bare base; its result is something else."""

    def worn(self, name, result):
        return {path: Pair(pair.A, 0 * pair.B) for path, pair in result.items()}


@pytest.mark.parametrize("method", ["slao", "inclora", "task_arithmetic", Blind()], ids=str)
def test_saved_adapters_are_the_model_that_was_scored_and_load_in_stock_peft(stream, method, monkeypatch):
    """The logits that scoring saw last are those of PEFT's own loading, to the last bit."""
    model, tokenizer = toy_model()
    ids, seen = torch.tensor([[2, 5, 9, 13, 26]]), []

    def watching(worn, *arguments, **options):
        with torch.no_grad():
            seen.append(worn(input_ids=ids).logits)
        return evaluation.general_loss(worn, *arguments, **options)

    monkeypatch.setattr("mbf_utils.runs.general_loss", watching)
    run = run_stream(stream, method, (model, tokenizer), **FAST)
    monkeypatch.undo()
    folders = sorted((run.folder / "tasks").iterdir())
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1])
    for folder, logits in zip(folders, seen):
        base, _ = toy_model()
        loaded = PeftModel.from_pretrained(base, folder / "result").eval()
        with torch.no_grad():
            assert torch.equal(loaded(input_ids=ids).logits, logits), folder.name
        PeftModel.from_pretrained(toy_model()[0], folder / "tuned")


# the model

def test_the_model_comes_back_bit_for_bit_and_serves_again(stream, run):
    model, tokenizer = toy_model()
    next(model.parameters()).requires_grad_(True)
    before = [(name, p, p.clone(), p.requires_grad) for name, p in model.named_parameters()]
    print_before = fingerprint(model)
    for method in ("olora", "slao"):
        last = run_stream(stream, method, (model, tokenizer), **FAST)
        assert [name for name, *_ in before] == [name for name, _ in model.named_parameters()]
        assert all(p is q and torch.equal(p, value) and p.requires_grad == grad and p.grad is None
                   for (_, p, value, grad), q in zip(before, model.parameters()))
        assert not hasattr(model, "peft_config") and not model.training and fingerprint(model) == print_before
        assert not any(module._forward_hooks for module in model.modules())
    assert contents(last.folder) == contents(run.folder)


def test_the_model_comes_back_also_from_a_run_that_fails(stream):
    model, tokenizer = toy_model()
    modules = [name for name, _ in model.named_modules()]

    @dataclass
    class Fails(Method):
        def after_step(self, live, task):
            if task.index == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stream(stream, Fails(), (model, tokenizer), **FAST)
    assert [name for name, _ in model.named_modules()] == modules


def test_another_models_weights_are_another_fingerprint():
    assert fingerprint(toy_model(0)[0]) == fingerprint(toy_model(0)[0]) != fingerprint(toy_model(1)[0])


# what is scored with which adapter

def test_where_the_task_is_known_each_task_is_scored_with_its_own_adapter(stream, model, monkeypatch):
    worn = []

    def watching(adapted_model, tokenizer, task, *rest):
        layer = adapted_model.base_model.model.model.layers[0].self_attn.q_proj
        worn.append((task.name, layer.lora_B["default"].weight.detach().clone()))
        return evaluation.evaluate(adapted_model, tokenizer, task, *rest)

    monkeypatch.setattr("mbf_utils.runs.evaluate", watching)
    run = run_stream(stream, "per_task", model, **FAST)
    assert [name for name, _ in worn] == ["single", "single", "prefixes", "single", "prefixes", "free"]
    own = {name: run.lora(i)["model.layers.0.self_attn.q_proj"].B for i, name in enumerate(NAMES, 1)}
    assert all(torch.equal(B, own[name]) for name, B in worn)
    assert run.metrics()["BWT"] == 0 == run.metrics()["forgetting"]


def test_multi_task_trains_on_all_rows_so_far_and_keeps_nothing_else(stream, model):
    run = run_stream(stream, "multi_task", model, **FAST)
    assert [len(log["losses"]) for log in run.logs] == [2, 3, 5]             # 6, 12 and 18 rows in windows of 4
    learned, seen = MultiTask(), []
    for data in stream:
        task = Task(1, data.name, data.train, 2, 2.0, {}, 0)
        seen += data.train
        assert learned.data(task) == seen                            # bodies and answers come back as they were
        learned.finish({}, task)
        learned.memory = unpack(*pack(learned.memory))


def test_unseen_tasks_are_scored_too_and_give_forward_transfer(stream, model, run, tmp_path):
    full = run_stream(stream, "slao", model, unseen=True, **FAST)
    assert full.matrix.notna().all(axis=None) and full.options[["single", "prefixes"]].notna().all(axis=None)
    matrix, log = full.matrix.to_numpy(), full.logs[0]
    lower = run.matrix.to_numpy()
    assert all(matrix[i, j] == lower[i, j] for i in range(3) for j in range(i + 1))
    base = [evaluation.evaluate(*model, task, max_length=32, max_new_tokens=4) for task in stream]
    assert log["baseline"] == [score.exact for score in base]
    assert full.metrics()["FWT"] == pytest.approx(sum(matrix[j - 1, j] - log["baseline"][j] for j in (1, 2)) / 2)
    assert log["baseline_options"][:2] == [score.options for score in base[:2]]
    assert all(equal(full.lora(i), run.lora(i)) for i in (1, 2, 3))          # scoring more changes no training


def test_settings_are_chosen_on_other_rows_than_those_reported(stream, model, monkeypatch):
    splits = []
    monkeypatch.setattr("mbf_utils.runs.evaluate", lambda m, t, task, split, *rest: splits.append(split) or evaluation.Score(1.0, 2.0))
    for split in ("test", "dev"):
        splits.clear()
        run = run_stream(stream, "zero_shot", model, **{**FAST, "evaluate_on": split})
        assert set(splits) == {split} and run.config["settings"]["evaluate_on"] == split
    with pytest.raises(InputError, match="expected evaluate_on to be test or dev"):
        run_stream(stream, "zero_shot", model, **{**FAST, "evaluate_on": "train"})


# methods by name and by value, and what the folder says of them

def test_a_method_may_be_given_as_an_object(stream, model, run, tmp_path):
    given = run_stream(stream, SLAO(), model, **FAST)
    assert contents(given.folder) == contents(run.folder)
    mean = run_stream(stream, SLAO(schedule=lambda i: 1 / i), model, **FAST)
    assert mean.config["method"]["name"] == mean.config["method"]["class"].lower() == "slao"
    assert mean.config["method"]["schedule"] == [1, 1 / 2, 1 / 3]
    assert run.config["method"]["schedule"] == [i ** -0.5 for i in (1, 2, 3)]
    resumed = run_stream(stream, SLAO(schedule=lambda i: 1.0 / i), model, out=mean.folder, **FAST)
    assert len(resumed.logs) == 3
    with pytest.raises(InputError, match="another run with method"):
        run_stream(stream, SLAO(), model, out=mean.folder, **FAST)
    with pytest.raises(InputError, match="not learned yet"):
        used = SLAO()
        used.memory["x"] = 1
        run_stream(stream, used, model, **FAST)


def test_a_run_goes_on_with_less_memory_and_not_with_another_step(stream, model, tmp_path):
    """What an error for want of memory says to lower may be lowered; what would learn something else is named."""
    plain = FAST | {"dropout": 0.0}
    whole = run_stream(stream, "slao", model, **plain)
    with closing(walk_stream(stream, "slao", model, out=tmp_path, **plain)) as walk:
        next(walk)
    less = {"batch_size": 1, "accumulation": 4, "eval_batch_size": 3, "checkpointing": True, "checkpoint_minutes": 1e8}
    with pytest.raises(InputError, match="a run with effective_batch = 2, found another run with effective_batch = 4"):
        run_stream(stream, "slao", model, out=tmp_path, **plain | less | {"accumulation": 2})
    with pytest.raises(InputError, match="a run with settings.lr = 0.5, found another run with settings.lr = 0.05"):
        run_stream(stream, "slao", model, out=tmp_path, **plain | less | {"lr": 0.5})
    resumed = run_stream(stream, "slao", model, out=tmp_path, **plain | less)
    for path, pair in whole.lora(3).items():
        for factor, same in zip(pair, resumed.lora(3)[path]):
            assert torch.allclose(factor, same, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("call, sentence", [
    (dict(method="slow"), "expected a method among slao, .*found 'slow'"), (dict(learning_rate=1), "expected settings among .*found learning_rate"),
    (dict(lr=-1), "expected lr above 0, found -1"), (dict(targets=["nothing"]), "expected targets among .*found 'nothing'"),
    (dict(stream="nowhere"), "'nowhere'")])
def test_what_is_unknown_is_refused_in_one_sentence_before_anything_is_written(stream, model, tmp_path, call, sentence):
    given = {**FAST, "stream": stream, "method": "slao", "out": tmp_path / "run", **call}
    with pytest.raises(InputError, match=sentence) as caught:
        run_stream(given.pop("stream"), given.pop("method"), model, **given)
    assert "\n" not in str(caught.value)
    assert [name for name, _ in model[0].named_modules() if "lora" in name] == [] and not (tmp_path / "run").exists()


def test_two_tasks_of_one_name_are_refused(stream, model):
    twice = dataclasses.replace(stream, tasks=(stream[0], stream[0]))
    with pytest.raises(InputError, match="expected tasks of different names"):
        run_stream(twice, "slao", model, **FAST)


def test_the_last_adapters_alone_are_kept_where_disk_is_short(stream, model, run):
    short = run_stream(stream, "slao", model, **{**FAST, "keep": "last"})
    assert equal(short.lora(3), run.lora(3)) and equal(short.lora(3, "tuned"), run.lora(3, "tuned"))
    pd.testing.assert_frame_equal(short.matrix, run.matrix)
    assert len(short.logs) == 3
    with pytest.raises(InputError, match="keeps the last one only"):
        short.lora(1)


def test_a_task_goes_on_from_what_is_stored_also_within_one_process(stream, model):
    """A view, say, comes back as a tensor of its own: then a product may differ in its last bit."""
    found = []

    @dataclass
    class Keeps(Method):
        def start(self, task):
            found.append(self.memory.get("view", torch.ones(1)).is_contiguous())
            return super().start(task)

        def finish(self, tuned, task):
            self.memory["view"] = torch.ones(3, 2).T
            return super().finish(tuned, task)

    run_stream(stream, Keeps(), model, **FAST)
    assert found == [True, True, True]


def test_old_tasks_may_be_scored_less_often(stream, model):
    often, seldom = (run_stream(stream, "slao", model, score_every=every, **FAST) for every in (1, 2))
    R, S = often.matrix.to_numpy(), seldom.matrix.to_numpy()
    assert [[value == value for value in row] for row in S] == [[True, False, False], [True, True, False], [True, True, True]]
    assert (S[:2, :2] == R[:2, :2])[[0, 1, 1], [0, 0, 1]].all() and (S[2] == R[2]).all()      # after the second and the last task: all
    longer = replace(stream, tasks=(*stream.tasks, replace(stream[0], name="again")))
    S = run_stream(longer, "slao", model, score_every=4, **FAST).matrix.to_numpy()
    assert [[value == value for value in row] for row in S] == [[True] + [False] * 3, [False, True, False, False],
                                                                [False, False, True, False], [True] * 4]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_row_that_cannot_be_cut_enough_is_refused_before_anything_is_learned(stream, model, tmp_path, split):
    """Not when the last task's rows come to be scored."""
    last = replace(stream[-1], **{split: [*getattr(stream[-1], split), Example("one two three " * 20, ("nine",))]})
    whole = replace(stream, tasks=(*stream.tasks[:-1], last))
    with pytest.raises(InputError, match="found a frame of 60 .*: raise max_length"):
        run_stream(whole, "slao", model, out=tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()
    cut = replace(whole, tasks=(*stream.tasks[:-1], replace(last, **{split: [*getattr(stream[-1], split),
                                                                          Example("one two three " * 20, ("nine",), (0, 280))]})))
    assert run_stream(cut, "slao", model, out=tmp_path / "run", **FAST).matrix.shape == (3, 3)
