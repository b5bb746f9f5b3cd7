"""The offline world: rows, splits, frames, likeness, the hundred tasks and the vocabulary."""
import os
import subprocess
import sys

import pytest

from mbf_utils import words, world
from mbf_utils.errors import InputError
from mbf_utils.similarity import alike_pair
from mbf_utils.world import world_stream

STREAMS = [(name, order) for name, orders in world.ORDERS.items() for order in orders]


def splits(task):
    return task.train, task.dev, task.test


def prompts(task):
    return [example.prompt for split in splits(task) for example in split]


@pytest.mark.parametrize("name, order", STREAMS)
def test_tasks_are_whole_and_their_splits_are_disjoint(name, order):
    stream = world_stream(name, order)
    assert stream.name == name and stream.order == order
    assert len(stream) == int(name.split("-")[1]) == len(set(stream.names))
    for task in stream:
        assert tuple(map(len, splits(task))) == ((200, 50, 100) if name == "world-100" else (1000, 200, 200))
        assert len(set(prompts(task))) == len(prompts(task))
        for example in (row for split in splits(task) for row in split):
            assert len(example.answers) == 1 and example.answers[0] in task.labels
        assert {row.answers[0] for row in task.train} == set(task.labels)


def test_orders_are_those_of_the_field():
    assert world_stream("world-5").names == ["dbpedia", "amazon", "yahoo", "agnews", "yelp"]
    assert world_stream("world-5", 3).names == ["yahoo", "yelp", "amazon", "agnews", "dbpedia"]
    assert world_stream("world-15").order == "4"
    assert world_stream("world-15", 6).names[:3] == ["yelp", "amazon", "mnli"]
    fifteen = [sorted(world_stream("world-15", order).names) for order in "456"]
    assert fifteen[0] == fifteen[1] == fifteen[2] == sorted(world.TASKS)


def test_rows_depend_on_seed_and_task_alone():
    first, second = world_stream("world-15", 4), world_stream("world-15", ["yelp", "mnli"])
    assert first["yelp"] == second["yelp"] == world_stream("world-5", 2)["yelp"]
    assert second.names == ["yelp", "mnli"]
    other = world_stream("world-5", seed=1)["yelp"]
    assert other != first["yelp"] and len(set(prompts(other)) & set(prompts(first["yelp"]))) < 14


def test_limit_cuts_and_nothing_else():
    whole, cut = world_stream("world-5"), world_stream("world-5", limit=30)
    for task, short in zip(whole, cut):
        assert [split[:30] for split in splits(task)] == list(splits(short))
    assert len(world_stream("world-5", limit=300)["yelp"].train) == 300
    assert len(world_stream("world-5", limit=300)["yelp"].test) == 200


@pytest.mark.parametrize("limit", [0, -3, 1.5, True, "9"])
def test_a_limit_that_is_no_positive_number_is_refused(limit):
    with pytest.raises(InputError, match="limit"):
        world_stream("world-5", limit=limit)


@pytest.mark.parametrize("name, order, says", [
    ("world-6", None, "world-15"), ("world-5", 4, "1, 2, 3"), ("world-15", "7", "4, 5, 6"), ("world-15", ["yelp", "yelp"], "mnli"),
    ("world-5", ["mnli"], "dbpedia"), ("world-5", [], "dbpedia")])
def test_unknown_names_and_orders_are_refused_and_the_known_ones_named(name, order, says):
    with pytest.raises(InputError, match=says):
        world_stream(name, order)


def test_body_is_the_text_between_instruction_and_answer():
    for task in world_stream("world-15", limit=20):
        design = world.TASKS[task.name]
        for example in task.train:
            start, end = example.body
            assert example.prompt[:start] == design.instruction + " " and example.prompt[end:] == " answer :"


def test_named_changes_the_frame_alone():
    for name in ("world-15", "world-100"):
        for plain, named in zip(world_stream(name, limit=10), world_stream(name, limit=10, named=True)):
            for a, b in zip(plain.train + plain.test, named.train + named.test):
                assert b.prompt.endswith(a.prompt) and a.answers == b.answers
                assert a.prompt[slice(*a.body)] == b.prompt[slice(*b.body)]
                assert b.prompt[:-len(a.prompt)].startswith("task : ")
    frames = {task.train[0].prompt.split(" what ")[0] for task in world_stream("world-15", ["amazon", "yelp"], named=True)}
    assert frames == {"task : sc . dataset : amazon .", "task : sc . dataset : yelp ."}


@pytest.mark.parametrize("name", world.TASKS)
def test_the_share_of_wrong_answers_is_as_stated(name):
    design = world.TASKS[name]
    count = 2200 if name == "copa" else 4000                    # copa has 2208 texts in all
    given = world.rows(design, "noise", count)
    true = world.rows(design._replace(noise=0.0), "noise", count)
    assert [text for text, _ in given] == [text for text, _ in true]
    wrong = sum(a != b for (_, a), (_, b) in zip(given, true)) / count
    assert abs(wrong - design.noise) < 4 * (design.noise * (1 - design.noise) / count) ** 0.5


def test_answers_are_balanced_so_that_chance_is_one_in_their_number():
    for task in world_stream("world-15"):
        share = [sum(row.answers[0] == label for row in task.train) / 1000 for label in task.labels]
        assert max(share) < 1.5 / len(task.labels), task.name


def test_answer_words_collide_between_tasks_as_in_the_real_benchmark():
    labels = {task.name: set(task.labels) for task in world_stream("world-15")}
    assert labels["amazon"] == labels["yelp"] and labels["imdb"] == labels["sst2"] and labels["mnli"] == labels["cb"]
    assert labels["qqp"] == labels["wic"] == labels["boolqa"] == labels["multirc"] == {"true", "false"}
    assert "neutral" in labels["mnli"] & labels["amazon"] and {"sports", "business"} <= labels["agnews"] & labels["yahoo"]
    assert len(labels["dbpedia"]) == 14 and len(labels["yahoo"]) == 10 and len(labels["agnews"]) == 4


def test_the_pretraining_text_answers_in_other_words_than_any_task():
    answers = {word for design in world.TASKS.values() for answer in design.answers for word in answer.split()}
    replies = {*words.MOODS, *words.THEMES, "yes", "no", "surely", "never", "perhaps", "left", "right"}
    assert not answers & replies


@pytest.mark.parametrize("likeness, kept", [(0, 0), (0.1, 1), (0.5, 5), (0.9, 9), (1, 10)])
def test_an_alike_pair_agrees_on_the_stated_share(likeness, kept):
    first, second = alike_pair(likeness)
    assert (first.name, second.name) == ("first", "second") and first.labels == second.labels
    assert prompts(first) == prompts(second)
    map_ = {a.answers[0]: b.answers[0] for a, b in zip(first.train, second.train)}
    assert len(map_) == 10 and sum(a == b for a, b in map_.items()) == kept
    for one, two in zip(splits(first), splits(second)):
        assert all(map_[a.answers[0]] == b.answers[0] for a, b in zip(one, two))


def test_likeness_grows_word_by_word():
    agreeing = []
    for tenth in range(11):
        first, second = alike_pair(tenth / 10, seed=3)
        agreeing.append({a.answers[0] for a, b in zip(first.train, second.train) if a.answers == b.answers})
    assert all(less < more for less, more in zip(agreeing, agreeing[1:]))
    with pytest.raises(InputError, match="likeness"):
        alike_pair(1.2)
    with pytest.raises(InputError, match="limit"):
        alike_pair(1, limit=0)


def test_of_a_hundred_tasks_some_return_alike_and_some_changed():
    stream = world_stream("world-100")
    assert sum(name[1:].isdigit() for name in stream.names) == 80
    for place, task in enumerate(stream):
        origin, _, how = task.name.partition("-")
        if not how:
            continue
        before = stream[origin]
        assert stream.names.index(origin) < place and prompts(before) == prompts(task)
        pairs = {(a.answers, b.answers) for one, two in zip(splits(before), splits(task)) for a, b in zip(one, two)}
        if how == "again":
            assert all(a == b for a, b in pairs)
        else:
            assert how == "changed" and all(a != b for a, b in pairs) and len(pairs) == len(task.labels)
    lags = [place - stream.names.index(name.partition("-")[0]) for place, name in enumerate(stream.names) if "-" in name]
    assert (min(lags), max(lags)) == (7, 54) and len(lags) == 20
    assert len({task.labels for task in stream}) > 20


def test_every_word_is_in_the_vocabulary():
    known = set(world.vocabulary())
    for name in world.ORDERS:
        for task in world_stream(name, named=True):
            for text in prompts(task) + list(task.labels):
                assert known.issuperset(text.split()), set(text.split()) - known
    for text in alike_pair(0.5, limit=1, named=True):
        assert known.issuperset(text.train[0].prompt.split())
    write = words.Writer("every word")
    seen = {word for _ in range(30000) for word in world.pretraining_document(write).split()}
    assert seen == known - {"<pad>", "<s>", "</s>", "<unk>"}    # and none is never used
    assert known.issuperset(word for text in world.general() for word in text.split())


def test_an_edit_of_the_vocabulary_is_noticed():
    assert world.vocabulary()[:4] == ("<pad>", "<s>", "</s>", "<unk>")
    assert len(set(world.vocabulary())) == len(world.vocabulary())
    assert world.vocabulary_hash() == world.VOCABULARY_HASH, "a word was added or taken away: the bases must be made anew"


def test_general_text_is_in_no_task():
    assert len(set(world.general())) == 200 and world_stream("world-5").general == world.general()
    bodies = {row.prompt[slice(*row.body)] for task in world_stream("world-15") for split in splits(task) for row in split}
    assert not bodies & set(world.general())


def test_the_world_is_the_same_in_every_process():
    code = ("from mbf_utils import similarity, world; print([world.world_stream(name, limit=5).fingerprint() for name in world.ORDERS],"
            "similarity.alike_pair(0.3).fingerprint(), world.vocabulary_hash())")
    outputs = {subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                              capture_output=True, text=True).stdout for seed in ("1", "2")}
    assert len(outputs) == 1 and world_stream("world-5", limit=5).fingerprint() in outputs.pop()
