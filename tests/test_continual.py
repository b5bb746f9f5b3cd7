"""A loop of somebody else's learns what ours learns: a plain PyTorch loop bit for bit, transformers' Trainer to rounding."""
import json
import os
import re
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from peft import PeftModel
from tiny import equal
from toy import FAST, LABELS, before_each_change, in_child, rows, toy_model, toy_stream
from transformers import Trainer, TrainingArguments

from mbf_utils import adapters, evaluation
from mbf_utils.continual import Continual
from mbf_utils.errors import InputError
from mbf_utils.folded import unfolded
from mbf_utils.loops import Rows, batch_of
from mbf_utils.lora import Pair, copied, each
from mbf_utils.method import Method, seed_of
from mbf_utils.methods import make_method
from mbf_utils.runs import fingerprint, run_stream
from mbf_utils.settings import Settings
from mbf_utils.text import collate, encode
from mbf_utils.training import window_plan

LORA = {"targets": ("q_proj", "v_proj"), "rank": 2, "alpha": 4.0, "dropout": 0.0}
SETTINGS = {**FAST, **LORA, "eval_batch_size": FAST["batch_size"], "weight_decay": 0.1, "clip": 0.5, "lr": 0.02}
STREAM = toy_stream(n=11)                           # windows of 4, 4 and 3 rows; the last one's micro-batches hold 2 and 1
FIELDS = {"olora": {"lambda1": 0.05, "lambda2": 0.01}, "inflora": {"total_tasks": 3, "eps_start": 0.5, "eps_end": 0.6},
          "keeplora": {"weight_energy": 0.1, "task_energy": 0.2}, "oplora": {"k": 3}, "lwf": {"lam": 0.5}}


def method_of(name):
    return make_method(name, **FIELDS.get(name, {}))


def latest(continual):
    """What the model wears, copied."""
    return sorted_by_path(copied(continual._adapted.live()))


def sorted_by_path(lora):
    return dict(sorted(lora.items()))


@pytest.fixture(scope="module")
def ours():
    """name -> the results of our own loop after each of the three tasks. It computes the last layer whole, as theirs do: with less of
    it the same comes out to rounding (test_last_layer.py)."""
    found = {}

    def run(name):
        if name not in found:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(adapters, "shortened", lambda model: nullcontext())
                done = run_stream(STREAM, method_of(name), toy_model(), **SETTINGS)
            found[name] = [sorted_by_path(done.lora(i, "result")) for i in (1, 2, 3)], done
        return found[name]
    return run


def padded(rows, pad=0):
    """Hugging Face's batch of rows (prompt, answer)."""
    length = max(len(p) + len(a) for p, a in rows)
    whole = [(p + a, [-100] * len(p) + a, length - len(p) - len(a)) for p, a in rows]
    return {"input_ids": torch.tensor([ids + [pad] * room for ids, _, room in whole]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * room for ids, _, room in whole]),
            "labels": torch.tensor([labels + [-100] * room for _, labels, room in whole])}


def single(row):
    """A row of a Dataset: lists without padding."""
    return {key: value[0].tolist() for key, value in padded([row]).items()}


def windows_of(index, tokenizer, seed=0):
    """The micro-batches of every step that our loop makes of a task, as a stranger has them."""
    rows = encode(tokenizer, STREAM[index - 1].train, 32)
    plan = window_plan(len(rows), Settings(**SETTINGS), 1, seed_of(seed, index, "order"))
    return rows, [[[rows[i] for i in window[k:k + 2]] for k in range(0, len(window), 2)] for window in plan]


def stranger(continual, index, tokenizer, name=None):
    """A plain loop with a loss of its own: mean over the window's answer tokens, clipped, AdamW."""
    rows, windows = windows_of(index, tokenizer)
    with continual.task(name or STREAM.names[index - 1], [padded([row]) for row in rows], len(windows)):
        optimizer = torch.optim.AdamW(continual.parameters(), lr=SETTINGS["lr"], weight_decay=0.1, fused=True)
        for window in windows:
            total = sum(len(answer) for micro in window for _, answer in micro)
            for micro in window:
                batch, theirs = padded(micro), collate(micro, 0)
                logits = continual.model(input_ids=batch["input_ids"], logits_to_keep=theirs.keep, use_cache=False).logits
                mean = torch.nn.functional.cross_entropy(logits.flatten(0, 1), theirs.targets.flatten(), ignore_index=-100)
                loss = sum(len(answer) for _, answer in micro) / total * (mean + continual.penalty(logits, batch["labels"]))
                loss.backward()
            torch.nn.utils.clip_grad_norm_(continual.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()


def trainer_of(continual, index, tokenizer, folder, callbacks=None, **options):
    rows, windows = windows_of(index, tokenizer)
    ordered = [single(row) for window in windows for micro in window for row in micro]
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=2, gradient_accumulation_steps=2, num_train_epochs=1,
        learning_rate=SETTINGS["lr"], weight_decay=0.1, max_grad_norm=0.5, lr_scheduler_type="constant",
        train_sampling_strategy="sequential", use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no", remove_unused_columns=False, **options)
    one_by_one = [padded([row]) for row in rows]

    def collator(rows):
        return padded([([i for i, y in zip(*row) if y == -100], [y for y in row[1] if y != -100])
                       for row in ((row["input_ids"], row["labels"]) for row in rows)])
    return Trainer(model=continual.model, args=arguments, train_dataset=ordered, data_collator=collator,
                   callbacks=[continual.callback(STREAM.names[index - 1], one_by_one)] if callbacks is None else callbacks)


def close(one, two):
    """Equal to rounding, which Adam's first steps enlarge; a penalty counted twice is farther off."""
    for path in one:
        assert torch.allclose(one[path].B @ one[path].A, two[path].B @ two[path].A, atol=3e-4, rtol=1e-3), path


# the same result as our own loop

@pytest.mark.parametrize("name", ["slao", "olora", "inflora", "keeplora", "osf", "lwf", "codyra"])
def test_a_plain_loop_learns_bit_for_bit_what_ours_learns_also_when_it_goes_on_from_a_folder(name, ours, tmp_path):
    """A penalty, a frozen stack, statistics of rows, edited gradients, steps put right, an extra parameter, bent bottlenecks."""
    model, tokenizer = toy_model()
    continual = Continual(model, method_of(name), batch_size=SETTINGS["batch_size"], **LORA)
    for index in (1, 2, 3):
        if index == 3:
            continual = Continual.load(continual.save(tmp_path / "adapter"), toy_model()[0])
        stranger(continual, index, tokenizer)
        assert equal(latest(continual), ours(name)[0][index - 1]), index
    assert continual.names == STREAM.names


@pytest.mark.parametrize("name", ["slao", "olora", "keeplora", "osf"])
def test_the_trainer_learns_what_our_loop_learns(name, ours, tmp_path):
    """With accumulation and a short last window, whose micro-batches count by their tokens, and the penalty once."""
    model, tokenizer = toy_model()
    continual = Continual(model, method_of(name), batch_size=SETTINGS["batch_size"], **LORA)
    for index in (1, 2, 3):
        trainer_of(continual, index, tokenizer, tmp_path).train()
        assert continual.names == STREAM.names[:index]
        close(latest(continual), ours(name)[0][index - 1])


@dataclass
class Rising(Method):
    """A penalty whose gradient is `weight` at every number of B; remembers the gradients of every step."""
    weight: float

    def penalty(self, live, task, batch, logits):
        return self.weight * sum(pair.B.sum() for pair in live.values())

    def edit_grads(self, live, task):
        self.memory.setdefault("grads", []).append(torch.cat([pair.B.grad.flatten() for pair in live.values()]))


@pytest.mark.parametrize("rows", [11, 9])           # windows of 2 + 2, 2 + 2 and 2 + 1 rows, or of 2 + 2, 2 + 2 and 1
@pytest.mark.parametrize("told", [True, False])
def test_a_trainer_counts_the_penalty_once_a_window_also_for_a_model_that_is_not_told_its_tokens(told, rows, tmp_path):
    """Nothing moves at rate 0, so what the penalty adds to each step's gradient is the difference to the same steps without it."""
    found = []
    for weight in (0.0, 1.0):
        model, tokenizer = toy_model()
        model.accepts_loss_kwargs = told
        continual = Continual(model, Rising(weight), **LORA)
        trainer = trainer_of(continual, 1, tokenizer, tmp_path)
        trainer.args.learning_rate = trainer.args.max_grad_norm = 0.0
        trainer.train_dataset = trainer.train_dataset[:rows]
        assert trainer.model_accepts_loss_kwargs == told
        trainer.train()
        found.append(torch.stack(continual.method.memory["grads"]))
    assert len(found[0]) == 3 and found[0].abs().max() > 0
    torch.testing.assert_close(found[1] - found[0], torch.ones_like(found[0]), atol=1e-5, rtol=0)


@pytest.fixture
def sft(tmp_path):
    """A maker of TRL's SFTTrainers with the rows and settings of trainer_of; its loss is one of its own."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")

    def make(continual, index, tokenizer, **options):
        like = trainer_of(continual, index, tokenizer, tmp_path, callbacks=[])
        same = ("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "learning_rate", "weight_decay",
                "max_grad_norm", "lr_scheduler_type", "train_sampling_strategy", "use_cpu", "report_to", "save_strategy",
                "disable_tqdm", "logging_strategy", "remove_unused_columns")
        arguments = trl.SFTConfig(str(tmp_path), **{key: getattr(like.args, key) for key in same}, bf16=False, max_length=None,
                                  gradient_checkpointing=False, dataset_kwargs={"skip_prepare_dataset": True},
                                  **({"loss_type": "nll"} | options))             # some versions have another by default
        one_by_one = [padded([row]) for row in windows_of(index, tokenizer)[0]]
        return trl.SFTTrainer(model=continual.model, args=arguments, train_dataset=datasets.Dataset.from_list(like.train_dataset),
                              data_collator=None if "padding_free" in options else like.data_collator, processing_class=tokenizer,
                              callbacks=[continual.callback(STREAM.names[index - 1], one_by_one)])
    return make


@pytest.mark.parametrize("name", ["slao", "olora", "keeplora"])
def test_trls_sft_trainer_learns_what_our_loop_learns(name, ours, sft):
    """It makes its loss of log-probabilities, without the model's own loss and without logits."""
    model, tokenizer = toy_model()
    continual = Continual(model, method_of(name), batch_size=SETTINGS["batch_size"], **LORA)
    for index in (1, 2, 3):
        sft(continual, index, tokenizer).train()
        assert continual.names == STREAM.names[:index]
        close(latest(continual), ours(name)[0][index - 1])


def test_what_trls_loss_cannot_hold_is_refused(sft, ours):
    model, tokenizer = toy_model()
    continual = Continual(model, method_of("lwf"), batch_size=SETTINGS["batch_size"], **LORA)
    sft(continual, 1, tokenizer).train()            # the first task has no penalty yet
    try:                                            # some versions hand out logits, as of 1.14
        sft(continual, 2, tokenizer).train()
        close(latest(continual), ours("lwf")[0][1])
    except InputError as error:
        assert re.search("expected logits for the penalty of LwF.*use transformers' Trainer", str(error))
        continual.abandon()
    with pytest.raises(InputError, match="loss_type='nll'"):
        sft(continual, 2, tokenizer, loss_type="dft")
    with pytest.raises(InputError, match="rows that are not packed"):
        sft(continual, 2, tokenizer, padding_free=True)


def test_micro_batches_of_a_hugging_face_loss_hold_the_penalty_once(ours):
    """The loss that the model returns, divided by the micro-batches: rows of equally many answer tokens, as in our loop."""
    model, tokenizer = toy_model()
    continual = Continual(model, method_of("olora"), **LORA)
    with continual.task(STREAM.names[0]):
        optimizer = torch.optim.AdamW(continual.parameters(), lr=SETTINGS["lr"], weight_decay=0.1)
        for window in windows_of(1, tokenizer)[1]:
            for micro in window:
                share = len(micro) / sum(map(len, window))           # 1/2, and 2/3 and 1/3 in the last window
                (share * continual.model(**padded(micro)).loss).backward()
            torch.nn.utils.clip_grad_norm_(continual.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    close(latest(continual), ours("olora")[0][0])


# what a penalty adds to a loss, and when

@dataclass
class Seven(Method):
    """A penalty of 7 whatever happens."""
    def penalty(self, live, task, batch, logits):
        assert logits.shape[:2] == batch.targets.shape
        return 7.0


def some(tokenizer, n=3, index=1):
    return padded(encode(tokenizer, STREAM[index - 1].train[:n], 32))


@pytest.mark.parametrize("through", ["the adapted model", "the base"])
def test_the_penalty_is_in_the_training_loss_once_by_its_share_of_the_tokens_and_in_no_other(through):
    model, tokenizer = toy_model()
    batch = some(tokenizer)                         # 2 answer tokens a row, so 6
    continual = Continual(model, Seven(), **LORA)
    called = continual.model if through == "the adapted model" else model
    plain = called(**batch).loss.item()
    continual.begin("first")
    assert called(**batch).loss.item() == pytest.approx(plain + 7)
    assert called(**batch, num_items_in_batch=12).loss.item() == pytest.approx(plain / 2 + 3.5)
    assert continual.penalty(called(input_ids=batch["input_ids"]).logits, batch["labels"]) == 7
    continual.model.eval()
    assert called(**batch).loss.item() == pytest.approx(plain)
    continual.model.train()
    with torch.no_grad():
        assert called(**batch).loss.item() == pytest.approx(plain)
    continual.abandon()
    continual.model.train()
    assert called(**batch).loss.item() == pytest.approx(plain)


@pytest.mark.parametrize("name", ["prefixes", "free"])
def test_a_strangers_batch_is_ours(name):
    _, tokenizer = toy_model()
    rows = encode(tokenizer, STREAM[STREAM.names.index(name)].train, 32)
    theirs, mine = padded(rows), collate(rows, 0)
    for one, two in zip(batch_of(theirs["input_ids"], theirs["attention_mask"], theirs["labels"]), mine):
        assert torch.equal(one, two)
    shifted = torch.cat([theirs["labels"][:, 1:], torch.full((len(rows), 1), -100)], 1)
    assert torch.equal(batch_of(theirs["input_ids"], theirs["attention_mask"], None, shifted).targets, mine.targets)
    one_by_one, in_batches = Rows([single(row) for row in rows], ""), Rows([theirs], "")
    assert len(one_by_one) == len(in_batches) == len(rows)
    for (p, a), x, y in zip(rows, one_by_one, in_batches):
        assert x.ids.tolist() == y.ids.tolist() == p + a and x.labels.tolist() == y.labels.tolist() == [-100] * len(p) + a


def test_looking_at_a_shuffled_loader_leaves_the_loops_chance_alone():
    _, tokenizer = toy_model()
    loader = torch.utils.data.DataLoader([some(tokenizer, 1)] * 4, batch_size=None, shuffle=True)
    before = torch.get_rng_state()
    assert len(Rows(loader, "")) == 4 and torch.equal(torch.get_rng_state(), before)


# folders, versions, other adapters

def quick(continual, index, tokenizer, name=None):
    batch = some(tokenizer, 4, index)
    with continual.task(name or STREAM.names[index - 1], [batch]):
        optimizer = torch.optim.SGD(continual.parameters(), lr=0.5)
        continual.model(**batch).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["slao", "olora", "migu", "ewc"])
def test_labels_are_scored_while_a_task_is_open(name, monkeypatch):
    model, tokenizer = toy_model()
    continual, batch, found = Continual(model, name, **LORA), some(tokenizer, 4), []
    quick(continual, 1, tokenizer)
    with continual.task("second", [batch]):
        for architectures in (evaluation.TRIED, frozenset()):
            monkeypatch.setattr(evaluation, "TRIED", architectures)
            found.append(evaluation.label_scores(continual.model.eval(), tokenizer, rows(6, LABELS["prefixes"], "new"), LABELS["prefixes"]))
        continual.model.train()(**batch).loss.backward()
        torch.optim.SGD(continual.parameters(), lr=0.1).step()
    assert found[0][0] == found[1][0] and all(one == pytest.approx(other, abs=1e-4) for one, other in zip(found[0][1], found[1][1]))


@pytest.fixture
def two_tasks(tmp_path):
    """(folder, the adapter's factors after each of two tasks of SLAO, tokenizer)."""
    model, tokenizer = toy_model()
    continual, found = Continual(model, **LORA), []
    for index in (1, 2):
        quick(continual, index, tokenizer)
        found.append(latest(continual))
    return continual.save(tmp_path / "adapter"), found, tokenizer


def test_a_new_process_goes_on_in_the_same_bits(ours, tmp_path):
    model, tokenizer = toy_model()
    continual = Continual(model, **LORA)
    for index in (1, 2):
        stranger(continual, index, tokenizer)
    continual.save(tmp_path / "adapter")
    expected = ours("slao")[0][2]

    def next_month():
        again = Continual.load(tmp_path / "adapter", toy_model()[0])
        assert again.names == STREAM.names[:2]
        stranger(again, 3, tokenizer)
        assert equal(latest(again), expected)
    assert in_child(next_month) == 0


def test_the_folder_is_a_plain_peft_adapter_and_keeps_what_others_put_there(two_tasks):
    folder, (_, second), tokenizer = two_tasks
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "continual.json", "memory.json", "memory.safetensors", "versions"]
    (folder / "README.md").write_text("mine")
    continual = Continual.load(folder, toy_model()[0])
    continual.save(folder)
    assert (folder / "README.md").read_text() == "mine" and os.listdir(folder.parent) == ["adapter"]
    ids = some(tokenizer)["input_ids"]
    with torch.no_grad():
        plain = PeftModel.from_pretrained(toy_model()[0], folder)(input_ids=ids).logits
        torch.testing.assert_close(plain, continual.model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
        with unfolded(continual._adapted.layers.values()):
            assert torch.equal(plain, continual.model(input_ids=ids).logits)
    assert equal(latest(continual), second)


def test_another_base_is_refused_in_one_sentence(two_tasks):
    folder = two_tasks[0]
    told = r"\(no name, torch.float32, fingerprint \w+\)"
    with pytest.raises(InputError, match=rf"^expected the base that .*adapter was learned on {told}, found another {told}: load "
                                         "that model in that type$"):
        Continual.load(folder, toy_model(seed=1)[0])
    with pytest.raises(InputError, match="found another .*torch.bfloat16"):
        Continual.load(folder, toy_model()[0].to(torch.bfloat16))
    worn = Continual(toy_model()[0], **LORA)
    with pytest.raises(InputError, match="without adapters"):
        Continual.load(folder, worn.model.get_base_model())


def test_one_weight_that_changed_anywhere_is_another_base(two_tasks):
    """The least change of one number in any tensor, and two numbers that changed places."""
    folder, model = two_tasks[0], toy_model()[0]
    chance = torch.Generator().manual_seed(0)

    def refused():
        with pytest.raises(InputError, match="found another"):
            Continual.load(folder, model)
    for parameter in model.parameters():
        values, kept = parameter.data.flatten(), parameter.data.clone()
        place = int(torch.randint(values.numel(), (1,), generator=chance))
        values[place] = torch.nextafter(values[place], torch.tensor(torch.inf))
        refused()
        if len(values) > 1 and values[0] != values[-1]:
            parameter.data.copy_(kept)
            values[[0, -1]] = values[[-1, 0]]
            refused()
        parameter.data.copy_(kept)
    assert Continual.load(folder, model).names == STREAM.names[:2]


def test_a_folder_of_an_earlier_version_is_checked_by_its_fingerprint(two_tasks):
    folder = two_tasks[0]
    config = json.loads((folder / "continual.json").read_text())
    config["base"] = {"name": "", "dtype": "torch.float32", "fingerprint": fingerprint(toy_model()[0])}
    (folder / "continual.json").write_text(json.dumps(config))
    continual = Continual.load(folder, toy_model()[0])
    assert equal(latest(continual), two_tasks[1][1])
    with pytest.raises(InputError, match="found another"):
        Continual.load(folder, toy_model(seed=1)[0])
    continual.save(folder)
    assert "sha256" in json.loads((folder / "continual.json").read_text())["base"]


def test_the_last_versions_are_kept_to_go_back_to(tmp_path):
    model, tokenizer = toy_model()
    continual, found = Continual(model, "olora", keep=2, **LORA), []
    for k in range(4):
        quick(continual, k % 3 + 1, tokenizer, f"month {k}")
        found.append(latest(continual))
    continual = Continual.load(continual.save(tmp_path / "adapter"), toy_model()[0])
    with pytest.raises(InputError, match="expected to go back by 1 to 1 of the versions kept, found 2"):
        continual.rollback(2)
    continual.rollback()
    assert continual.names == ["month 0", "month 1", "month 2"] and equal(latest(continual), found[2])
    quick(continual, 1, tokenizer, "month 3")       # learned again: the same, for memory went back too
    assert equal(latest(continual), found[3])


def test_a_kill_while_saving_leaves_the_old_folder_or_the_new_one(two_tasks):
    folder, (first, second), tokenizer = two_tasks
    continual = Continual.load(folder, toy_model()[0])
    continual.rollback()
    seen, n = set(), 0
    while True:
        n += 1

        def save_and_die():
            before_each_change(lambda k: os._exit(9) if k == n else None)
            continual.save(folder)
        status = in_child(save_and_die)
        found = Continual.load(folder, toy_model()[0])
        seen.add(len(found.names))
        assert equal(latest(found), first if len(found.names) == 1 else second) and status in (0, 9)
        if not status:
            break
    assert seen == {1, 2} and n > 10


@pytest.mark.parametrize("change", [{"rank": 4}, {"alpha": 8.0}])
def test_a_folder_whose_rank_or_alpha_is_not_its_adapter_s_is_refused(two_tasks, change):
    folder = two_tasks[0]
    config = json.loads((folder / "continual.json").read_text())
    (folder / "continual.json").write_text(json.dumps(config | {"lora": config["lora"] | change}))
    with pytest.raises(InputError, match=r"^expected the scaling . / . of continual\.json .*: the adapter is another's"):
        Continual.load(folder, toy_model()[0])


@pytest.mark.parametrize("name", ["slao", "olora", "inflora"])
def test_an_adapter_of_somebody_elses_can_be_task_1(name, ours):
    """Ours after task 1, as if trained elsewhere: tasks 2 and 3 are learned as in the run that trained it."""
    results, run = ours(name)
    model, tokenizer = toy_model()
    rows, _ = windows_of(1, tokenizer)
    folder = sorted(run.folder.glob("tasks/*/tuned"))[0]
    continual = Continual.from_adapter(folder, model, method_of(name), STREAM.names[0], [padded([row]) for row in rows],
                                       batch_size=SETTINGS["batch_size"])
    assert continual.names == STREAM.names[:1] and equal(latest(continual), results[0])
    for index in (2, 3):
        stranger(continual, index, tokenizer)
        assert equal(latest(continual), results[index - 1])


def test_a_method_that_makes_another_adapter_of_the_first_does_not_take_one(ours):
    @dataclass
    class Halves(Method):
        def finish(self, tuned, task):
            return each(lambda pair: Pair(pair.A, pair.B / 2), tuned)

    folder = sorted(ours("slao")[1].folder.glob("tasks/*/tuned"))[0]
    with pytest.raises(InputError, match="keeps a first adapter as it is, found Own method"):
        Continual.from_adapter(folder, toy_model()[0], Halves(), "first")


# loops that let something out

def test_a_task_that_fails_leaves_the_model_as_it_was():
    model, tokenizer = toy_model()
    continual = Continual(model, method_of("osf"), **LORA)
    quick(continual, 1, tokenizer)
    before, batch = latest(continual), some(tokenizer, 4)
    with pytest.raises(RuntimeError, match="power"), continual.task("second"):
        optimizer = torch.optim.SGD(continual.parameters(), lr=0.5)
        continual.model(**batch).loss.backward()
        optimizer.step()
        raise RuntimeError("power")
    assert equal(latest(continual), before) and continual.names == ["single"]
    assert not any(parameter.requires_grad for parameter in continual.model.parameters())
    with pytest.raises(InputError, match="expected an open task"):
        continual.parameters()
    quick(continual, 2, tokenizer)
    straight = Continual(toy_model()[0], method_of("osf"), **LORA)
    for index in (1, 2):
        quick(straight, index, tokenizer)
    assert equal(latest(continual), latest(straight))


def test_a_loop_that_lets_something_out_is_stopped_with_a_sentence():
    model, tokenizer = toy_model()
    batch = some(tokenizer)

    def attempt(name, message, act, batches=None):
        continual = Continual(toy_model()[0], name, **LORA)
        with pytest.raises(InputError, match=message), continual.task("first", batches):
            act(continual, lambda parameters: torch.optim.SGD(parameters, lr=0.1))

    def step(continual, optimizer, **inputs):
        out = continual.model(**inputs)
        (out.logits.mean() if out.loss is None else out.loss).backward()
        optimizer.step()

    attempt("slao", "at least one step", lambda c, make: None)
    attempt("slao", "found one without 1 of these 8", lambda c, make: step(c, make(c.parameters()[1:]), **batch))
    attempt("slao", "found a second one", lambda c, make: [step(c, make(c.parameters()), **batch) for _ in range(2)])
    attempt("olora", "the penalty of O-LoRA", lambda c, make: step(c, make(c.parameters()), input_ids=batch["input_ids"]))
    attempt("olora", "the penalty of O-LoRA", lambda c, make: (c.model.eval(), step(c, make(c.parameters()), **batch)))
    attempt("osf", "found a closure", lambda c, make: make(c.parameters()).step(lambda: 0.0))
    attempt("keeplora", "found none: give them to task", lambda c, make: None)
    attempt("slao", "found a generator", lambda c, make: None, (b for b in [batch]))
    attempt("keeplora", r"found input_ids \(task first, batch 0\)", lambda c, make: None, [{"input_ids": [1, 2]}])
    without = {key: batch[key] for key in ("input_ids", "labels")}
    attempt("keeplora", "expected an attention_mask", lambda c, make: None, [without])
    attempt("codyra", "number of optimizer steps of task first", lambda c, make: step(c, make(c.parameters()), **batch))
    left = {key: value.flip(1) for key, value in batch.items()}
    attempt("olora", "found it on the left", lambda c, make: step(c, make(c.parameters()), **left))
    for name, message in (("replay", "which chooses them"), ("sapt", "one plain adapter"), ("per_task", "one plain adapter")):
        with pytest.raises(InputError, match=message):
            Continual(model, name, **LORA)


def test_another_models_optimizer_is_none_of_our_business():
    model, tokenizer = toy_model()
    continual, other = Continual(model, "olora", **LORA), torch.nn.Linear(2, 2)
    with continual.task("first"):
        optimizer = torch.optim.SGD(continual.parameters(), lr=0.1)
        other(torch.ones(2)).sum().backward()
        torch.optim.SGD(other.parameters(), lr=0.1).step()
        continual.model(**some(tokenizer)).loss.backward()
        optimizer.step()
    assert continual.names == ["first"]


def test_a_trainer_of_another_model_or_with_a_loss_of_its_own_is_refused(tmp_path):
    model, tokenizer = toy_model()
    continual = Continual(model, "olora", **LORA)
    with pytest.raises(InputError, match="label_smoothing_factor=0"):
        trainer_of(continual, 1, tokenizer, tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(InputError, match="found another model"):
        Trainer(toy_model()[0], TrainingArguments(str(tmp_path), use_cpu=True), callbacks=[continual.callback("first")])
    quick(continual, 1, tokenizer)                  # neither opened a task
