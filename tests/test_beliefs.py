"""What a run's models believe of one example, beside plain PEFT and the run's own scores."""
import numpy as np
import pytest
import torch
from peft import PeftModel

from mbf_utils.beliefs import Beliefs
from mbf_utils.errors import InputError
from mbf_utils.lessons import committed
from mbf_utils.models import load_model
from mbf_utils.sources import load_stream
from mbf_utils.text import answer_text, normalise


@pytest.fixture(scope="module")
def stream():
    return load_stream("world-5")


@pytest.fixture(scope="module")
def run():
    return committed("slao")


@pytest.fixture(scope="module")
def beliefs(run, stream):
    return Beliefs(run, stream, "cpu")


def by_hand(model, tokenizer, example, option) -> float:
    """The probability that the option follows the prompt, token by token, by the chain rule."""
    ids = [tokenizer.bos_token_id, *tokenizer(example.prompt, add_special_tokens=False)["input_ids"]]
    found = 1.0
    for token in tokenizer(answer_text(example, option), add_special_tokens=False)["input_ids"]:
        with torch.no_grad():
            found *= float(model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[token])
        ids.append(token)
    return found


@pytest.mark.parametrize("task, number", [("dbpedia", 3), ("agnews", 7), ("amazon", 2)])     # amazon's options have two words
def test_probabilities_are_those_of_the_base_and_of_every_stored_adapter_in_plain_peft(beliefs, run, stream, task, number):
    table, example = beliefs.table(task, number), stream[task].test[number - 1]
    assert list(table.columns) == ["after", "option", "probability", "wrote", "right"]
    for after in (0, 1, 5):
        base, tokenizer = load_model("tiny", "cpu")
        model = PeftModel.from_pretrained(base, run.adapter(after)).eval() if after else base
        rows = table[table.after == after]
        assert rows.option.tolist() == list(stream[task].labels)
        expected = [by_hand(model, tokenizer, example, option) for option in rows.option]
        np.testing.assert_allclose(rows.probability, expected, rtol=2e-3, atol=1e-6)


def test_what_it_writes_is_right_as_often_as_the_run_says(beliefs, run, stream):
    rows = range(1, 21)
    tables = [beliefs.table("yelp", number) for number in rows]
    for after in (0, 5):
        written = [table[table.after == after].wrote.iloc[0] for table in tables]
        right = [table[table.after == after].right.iloc[0] for table in tables]
        answers = [example.answers[0] for example in stream["yelp"].test[:20]]
        assert right == [normalise(text) == normalise(answer) for text, answer in zip(written, answers)]
    assert abs(100 * np.mean(right) - run.matrix.iloc[-1]["yelp"]) < 25       # 20 rows of 200


def test_the_moments_are_the_base_and_every_task_while_there_are_few(beliefs):
    assert beliefs.moments == [0, 1, 2, 3, 4, 5]
    assert set(beliefs.table("yelp", 1).after) == set(beliefs.moments)


def test_a_long_run_is_asked_at_some_moments(run, stream, monkeypatch):
    monkeypatch.setattr("mbf_utils.beliefs.MOMENTS", 3)
    assert Beliefs(run, stream, "cpu").moments == [0, 2, 5]


def test_what_cannot_be_asked_is_told(beliefs, run, stream):
    with pytest.raises(InputError, match="expected a test row of yelp from 1 to 200, found 201"):
        beliefs.table("yelp", 201)
    with pytest.raises(InputError, match="expected the stream of the run, dbpedia, amazon, yahoo, agnews, yelp, found"):
        Beliefs(run, load_stream("world-5:2"))
    with pytest.raises(InputError, match="found per_task, which also needs the name of the task"):
        Beliefs(committed("per_task"), stream)
    other = committed("slao")
    other.config["model"]["fingerprint"] = "0"
    with pytest.raises(InputError, match="expected the base of slao, tiny, found another of that name"):
        Beliefs(other, stream)
