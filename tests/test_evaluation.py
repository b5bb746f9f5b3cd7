"""Scores against literal twins: one sequence at a time, no cache, no padding, no batch."""
import math
from dataclasses import replace

import pytest
import torch
from toy import LABELS, rows, toy_model, toy_task

from mbf_utils.evaluation import evaluate, general_loss, generate, label_scores
from mbf_utils.streams import Example, TaskData
from mbf_utils.text import collate, encode, normalise

KINDS = list(LABELS)


def answer_ids(tokenizer, answer):
    return tokenizer(answer, add_special_tokens=False)["input_ids"]


def prompt_ids(tokenizer, prompt):
    return [tokenizer.bos_token_id] + answer_ids(tokenizer, prompt)


@torch.no_grad()
def literal_greedy(model, tokenizer, prompt, most=8, answer=None) -> list[int]:
    """Token by token, the whole sequence read anew each time, up to eos or `most` tokens, or to the first that is not `answer`'s."""
    ids, found = prompt_ids(tokenizer, prompt), []
    while len(found) < most and found[-1:] != [tokenizer.eos_token_id] and (answer is None or found == answer[:len(found)]):
        found.append(int(model(input_ids=torch.tensor([ids + found])).logits[0, -1].argmax()))
    return found


@torch.no_grad()
def literal_likelihood(model, tokenizer, prompt, answer, end: bool) -> float:
    prompt, answer = prompt_ids(tokenizer, prompt), answer_ids(tokenizer, answer) + [tokenizer.eos_token_id] * end
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
    return sum(float(logits[len(prompt) + k - 1].log_softmax(-1)[token]) for k, token in enumerate(answer))


@pytest.fixture(scope="module")
def models():
    """A random one, and ones that learned a part of a task: right sometimes."""
    found = {(kind, "random"): toy_model(1) for kind in KINDS}
    for kind in KINDS:
        for name, steps in ((("a little"), 25), ("well", 60)):
            found[kind, name] = model, tokenizer = toy_model()
            batch = collate(encode(tokenizer, rows(40, LABELS[kind], "some"), 32), tokenizer.pad_token_id)
            optimizer = torch.optim.AdamW(model.requires_grad_(True).parameters(), lr=0.01)
            for _ in range(steps):
                logits = model(input_ids=batch.ids).logits[:, batch.keep]
                torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
                optimizer.step()
                optimizer.zero_grad()
            model.requires_grad_(False)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_exact_is_what_greedy_decoding_writes(models, kind):
    examples, right = rows(100, LABELS[kind], "new"), []
    for (of, _), (model, tokenizer) in models.items():
        if of == kind:
            exact, _ = label_scores(model, tokenizer, examples, LABELS[kind], batch_size=7)
            answers = [answer_ids(tokenizer, example.answers[0]) + [tokenizer.eos_token_id] for example in examples]
            expected = [literal_greedy(model, tokenizer, example.prompt, answer=answer) == answer for example, answer in zip(examples, answers)]
            assert exact == expected
            texts = generate(model, tokenizer, examples, batch_size=9, max_new_tokens=5)
            for text, example, same in zip(texts, examples, exact):         # special tokens leave no text: then text says less
                if same != (text == example.answers[0]):
                    said = literal_greedy(model, tokenizer, example.prompt, 5)
                    assert not same and any(not 3 < token < len(tokenizer) for token in said[:-1])
            right += exact
    assert 0.05 < sum(right) / len(right) < 0.95            # the comparison saw both kinds


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_of_labels_are_those_of_each_sequence_scored_alone(models, kind):
    """Where one label begins another its end counts; where none does, it does not."""
    examples, end = rows(20, LABELS[kind], "new"), kind == "prefixes"
    for (of, _), (model, tokenizer) in models.items():
        if of == kind:
            _, options = label_scores(model, tokenizer, examples, LABELS[kind], batch_size=6)
            for example, scores in zip(examples, options):
                assert list(scores) == list(LABELS[kind])
                for label, score in scores.items():
                    assert score == pytest.approx(literal_likelihood(model, tokenizer, example.prompt, label, end), abs=1e-3)


@pytest.mark.parametrize("labels", [("red", "red green", "red green blue", "blue red"), ("good", "bad"), ("good",),
                                    ("one two three", "one two four", "one five", "six")])
def test_the_beginnings_of_labels_serve_every_set_of_labels(labels):
    model, tokenizer = toy_model(3)
    examples = rows(6, labels, "any")
    end = any(a != b and b.startswith(a + " ") for a in labels for b in labels)
    _, options = label_scores(model, tokenizer, examples, labels)
    for example, scores in zip(examples, options):
        for label, score in scores.items():
            assert score == pytest.approx(literal_likelihood(model, tokenizer, example.prompt, label, end), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_padding_change_no_score(models, kind):
    model, tokenizer = models[kind, "a little"]
    examples = rows(30, LABELS[kind], "new")
    exact, options = label_scores(model, tokenizer, examples, LABELS[kind], batch_size=1)
    for batch_size in (2, 7, 50):
        again, others = label_scores(model, tokenizer, examples, LABELS[kind], batch_size=batch_size)
        assert again == exact
        for one, other in zip(options, others):
            assert one == pytest.approx(other, abs=1e-3)
    task = TaskData("x", [], [], examples, LABELS[kind])
    assert len({evaluate(model, tokenizer, task, batch_size=size) for size in (1, 4, 50)}) == 1


def test_scores_are_percentages_over_the_rows_of_the_split(models):
    model, tokenizer = models["prefixes", "a little"]
    task = replace(toy_task("x", LABELS["prefixes"], LABELS["prefixes"]), test=rows(40, LABELS["prefixes"], "new"))
    exact, options = label_scores(model, tokenizer, task.test, task.labels)
    score = evaluate(model, tokenizer, task)
    best = [max(task.labels, key=lambda label: literal_likelihood(model, tokenizer, example.prompt, label, True)) for example in task.test]
    assert score.exact == pytest.approx(100 * sum(exact) / 40)
    assert score.options == pytest.approx(100 * sum(label == example.answers[0] for label, example in zip(best, task.test)) / 40)
    assert 0 < score.exact < 100 and 0 < score.options < 100
    assert evaluate(model, tokenizer, replace(task, dev=task.test, test=task.dev), "dev") == score
    assert all(map(math.isnan, evaluate(model, tokenizer, replace(task, test=[]))))


def test_any_of_several_right_answers_counts_with_labels_and_without(models):
    model, tokenizer = models["single", "well"]
    one = rows(40, LABELS["single"], "new")
    said = generate(model, tokenizer, one)
    for labels in (LABELS["single"], ()):
        wrong = [replace(example, answers=("six",)) for example in one]
        right = [replace(example, answers=("six", text)[::(-1) ** i]) for i, (example, text) in enumerate(zip(one, said))]
        assert evaluate(model, tokenizer, TaskData("x", [], [], wrong, labels)).exact == 0
        assert evaluate(model, tokenizer, TaskData("x", [], [], right, labels)).exact == 100
    assert set(said) <= set(LABELS["single"]) and len(set(said)) == 2


def test_prompts_that_end_in_white_space_may_stand_beside_others():
    model, tokenizer = toy_model(1)
    plain = rows(8, LABELS["single"], "new")
    mixed = [replace(example, prompt=example.prompt + " " * (i % 2)) for i, example in enumerate(plain)]
    (exact, options), (others, scores) = (label_scores(model, tokenizer, some, LABELS["single"]) for some in (plain, mixed))
    assert exact == others and all(a == pytest.approx(b, abs=1e-4) for a, b in zip(options, scores))


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_free_answers_are_generated_greedily_and_compared_after_normalisation(models, batch_size):
    model, tokenizer = models["prefixes", "random"]
    examples = rows(20, LABELS["prefixes"], "new")
    ids = [literal_greedy(model, tokenizer, example.prompt, most=3) for example in examples]
    texts = [tokenizer.decode(found, skip_special_tokens=True).strip() for found in ids]
    assert generate(model, tokenizer, examples, batch_size=batch_size, max_new_tokens=3) == texts
    assert any(normalise(text) != text for text in texts)            # the model says points and colons too
    shouted = [Example(e.prompt, ("never", f"  {normalise(text).upper()}! ")) if i % 4 else Example(e.prompt, (text + " x",))
               for i, (e, text) in enumerate(zip(examples, texts))]
    score = evaluate(model, tokenizer, TaskData("x", [], [], shouted), batch_size=batch_size, max_new_tokens=3)
    said = [i % 4 > 0 and text != "" for i, text in enumerate(texts)]               # who says nothing is never right
    assert score.exact == pytest.approx(100 * sum(said) / 20) and 40 < score.exact < 75 and math.isnan(score.options)
    assert normalise("  Sci/Tech,\tNEWS. ") == "scitech news"


def test_what_a_base_prefers_to_generate_with_does_not_matter():
    model, tokenizer = toy_model(4)
    examples = rows(20, LABELS["single"], "new")
    greedy = generate(model, tokenizer, examples, max_new_tokens=6)
    model.generation_config.update(repetition_penalty=50.0, do_sample=True, temperature=5.0, num_beams=3, max_length=7)
    assert generate(model, tokenizer, examples, max_new_tokens=6) == greedy


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_general_loss_is_nats_per_token_of_text_with_its_ends(batch_size):
    model, tokenizer = toy_model(2)
    texts = ["one two three four", "red", "", "alpha : beta : gamma six"]
    total = sum(-literal_likelihood(model, tokenizer, "", text, True) for text in texts)
    tokens = sum(len(answer_ids(tokenizer, text)) + 1 for text in texts)
    assert general_loss(model, tokenizer, texts, batch_size=batch_size) == pytest.approx(total / tokens, rel=1e-4)
    cut = -literal_likelihood(model, tokenizer, "", "one two", False) / 2
    assert general_loss(model, tokenizer, ["one two three four"], max_length=3) == pytest.approx(cut, rel=1e-4)
    assert math.isnan(general_loss(model, tokenizer, ()))


@pytest.mark.parametrize("task", [toy_task("labels", LABELS["prefixes"], LABELS["prefixes"]), toy_task("free", ("seven eight", "nine"))])
def test_scoring_changes_nothing_of_the_model(task):
    model, tokenizer = toy_model()
    next(model.parameters()).requires_grad_(True)
    before = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = evaluate(model, tokenizer, task), general_loss(model, tokenizer, ["one two"])
    assert evaluate(model, tokenizer, task)[0] == first[0][0]
    assert not model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert [p.requires_grad for p in model.parameters()] == [True] + [False] * (len(before) - 1)
    assert all(p.grad is None for p in model.parameters())
