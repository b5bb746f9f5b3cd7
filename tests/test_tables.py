"""Tables of one's own: every form gives the same rows, what is found or drawn is said, and what cannot be used is refused by name."""
import json
import warnings
from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pytest
from tiny import word_tokenizer

from mbf_utils.errors import InputError
from mbf_utils.streams import Example
from mbf_utils.tables import EACH, FEW, read_tables
from mbf_utils.text import encode, token_ids

MOODS = ("bad", "good")
SPLIT = ("train",) * 6 + ("dev",) * 2 + ("test",) * 2
ROWS = [{"prompt": f"film {i}, \"it\"\nwas mood :", "answer": MOODS[i % 2], "task": "mood", "split": SPLIT[i], "labels": "bad, good"}
        for i in range(10)] + [
       {"prompt": f"Wer schrieb {i} ? é\u2028", "answer": f"Autor {i}", "task": "free", "split": SPLIT[i], "labels": ""} for i in range(10)]


@pytest.fixture(autouse=True)
def no_silent_warnings():
    """A warning that a test does not expect is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def without(rows, *columns):
    return [{key: value for key, value in row.items() if key not in columns} for row in rows]


def bare(n=20, answers=MOODS):
    return [{"prompt": f"film {i} :", "answer": answers[i % len(answers)]} for i in range(n)]


def csv_of(path, rows):
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def lines_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(given, **arguments):
    """(the stream, what was said)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stream = read_tables(given, **arguments)
    return stream, [str(warning.message) for warning in caught]


def refused(given, *words, **arguments):
    """The message is one sentence that has these words."""
    with warnings.catch_warnings(), pytest.raises(InputError) as raised:
        warnings.simplefilter("ignore")
        read_tables(given, **arguments)
    message = str(raised.value)
    assert all(str(word) in message for word in words), message
    assert "\n" not in message and message.startswith("expected ") and message.endswith((".", "?"))


# --- the forms -----------------------------------------------------------------------------------------------------------

def forms(folder, rows):
    """The same rows in every form."""
    for name in ("a.csv", "b.CSV"):
        yield csv_of(folder / name, rows)
    yield lines_of(folder / "c.jsonl", rows)
    yield str(lines_of(folder / "d.json", rows))
    frame = pd.DataFrame(rows)
    yield frame
    yield frame.set_index(pd.Index(range(7, 7 + 2 * len(rows), 2)))
    yield frame.astype(object)
    dataset = datasets.Dataset.from_list(rows)
    yield dataset
    yield datasets.DatasetDict({("validation" if split == "dev" else split): datasets.Dataset.from_list(
        without([row for row in rows if row["split"] == split], "split")) for split in ("train", "dev", "test")})
    yield [frame[frame.task == task] for task in frame.task.unique()]
    yield {task: frame[frame.task == task].drop(columns="task") for task in frame.task.unique()}
    yield {task: {split: group.drop(columns=["task", "split"]) for split, group in frame[frame.task == task].groupby("split")}
           for task in frame.task.unique()}
    yield {task: csv_of(folder / f"{task}.csv", without([row for row in rows if row["task"] == task], "task"))
           for task in frame.task.unique()}
    yield [folder / f"{task}.csv" for task in frame.task.unique()]


def test_every_form_gives_the_same_rows(tmp_path):
    numbers = {"mood": (5, 6), "free": (12, 13)}                                  # where the one character stands that differs
    expected = {name: {split: [Example(row["prompt"], (row["answer"],), numbers[name]) for row in ROWS
                               if row["task"] == name and row["split"] == split]
                       for split in ("train", "dev", "test")} for name in ("mood", "free")}
    count = 0
    for given in forms(tmp_path, ROWS):
        stream = read_tables(given)
        assert stream.names == ["mood", "free"] and stream.order == "given" and not stream.named and stream.general == ()
        assert {task.name: {split: getattr(task, split) for split in ("train", "dev", "test")} for task in stream} == expected
        assert stream["mood"].labels == MOODS and stream["free"].labels == ()
        count += 1
    assert count == 14


def test_the_stream_is_called_as_its_file(tmp_path):
    assert read_tables(csv_of(tmp_path / "reviews.csv", ROWS)).name == "reviews"
    assert read_tables(pd.DataFrame(ROWS)).name == read_tables({"mood": pd.DataFrame(without(ROWS[:10], "task"))}).name == "tables"


def test_a_file_without_tasks_is_one_task_called_as_the_file(tmp_path):
    files = [csv_of(tmp_path / "zoo.csv", without(ROWS[:10], "task")), lines_of(tmp_path / "ark.jsonl", without(ROWS[10:], "task"))]
    assert read_tables(files).names == ["zoo", "ark"]                             # the order given, not the alphabet's
    assert read_tables(files[0]).names == ["zoo"]


def test_rows_of_a_task_come_together_from_several_tables(tmp_path):
    files = [csv_of(tmp_path / f"{i}.csv", ROWS[i::2]) for i in range(2)]
    stream = read_tables(files)
    assert stream.names == ["mood", "free"]
    assert Counter(row.prompt for task in stream for row in task.train) == Counter(row["prompt"] for row in ROWS if row["split"] == "train")


def test_several_right_answers():
    rows = [{**row, "answer": [row["answer"], "so, so"], "labels": ["bad", "good", "so, so"]} for row in ROWS[:10]]
    for given in (pd.DataFrame(rows), pd.DataFrame([{**row, "answer": np.array(row["answer"])} for row in rows]), datasets.Dataset.from_list(rows)):
        task = read_tables(given)[0]
        assert task.train[0].answers == ("bad", "so, so") and task.labels == ("bad", "good", "so, so")


def test_class_numbers_of_a_dataset_become_its_names():
    rows = [{**row, "answer": MOODS.index(row["answer"])} for row in without(ROWS[:10], "labels")]
    features = datasets.Features({"prompt": datasets.Value("string"), "answer": datasets.ClassLabel(names=list(MOODS)),
                                  "task": datasets.Value("string"), "split": datasets.Value("string")})
    stream, messages = said(datasets.Dataset.from_list(rows, features=features))
    assert [row.answers for row in stream[0].train[:2]] == [("bad",), ("good",)] and stream[0].labels == MOODS
    rows[0]["answer"] = -1
    stream, messages = said(datasets.Dataset.from_list(rows, features=features))
    assert len(stream[0].train) == 5 and "dropped 1 of 10 rows" in messages[0]


def test_odd_but_right_texts_are_kept_as_they_are(tmp_path):
    odd = ["braces {0}", "=1+1", "NA", "null", "nan", " blanks ", "a\u2028b", "x" * 200_000, "\U0001f600", "a\\nb", "1", "[MASK] a", "'q'"]
    rows = [{"prompt": f"{i} {text}", "answer": text, "task": "odd", "split": split, "labels": None} for i, text in enumerate(odd)
            for split in ("train", "dev", "test")]
    wanted = [Example(f"{i} {text}", (text,), (0, len(f"{i} {text}"))) for i, text in enumerate(odd)]
    for given in (csv_of(tmp_path / "a.csv", rows), lines_of(tmp_path / "a.jsonl", rows), pd.DataFrame(rows)):
        stream, messages = said(given)
        assert stream[0].train == wanted and stream[0].labels == ()
        assert len(messages) == 2 and all("stand in" in message for message in messages)          # the same prompts in all splits


def test_byte_order_marks_and_line_ends_are_accepted(tmp_path):
    file = csv_of(tmp_path / "a.csv", ROWS[10:])
    whole = read_tables(file).tasks
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert read_tables(file).tasks == whole
    lines = lines_of(tmp_path / "a.jsonl", ROWS[10:])
    lines.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert read_tables(lines).tasks == whole


# --- the text in a prompt ------------------------------------------------------------------------------------------------

FRAMES = [("Say good or bad: ", "\nAnswer:"), ("", "\nAnswer:"), ("[INST] ", ""), ("", "")]


@pytest.mark.parametrize("begin, end", FRAMES)
def test_what_all_prompts_of_a_task_share_is_its_frame(tmp_path, begin, end):
    """In every form, for every split, and each task for itself."""
    rows = [{"prompt": f"{begin}{'xyz'[i % 3]} film {i} {'uvw'[i % 3]}{end}", "answer": MOODS[i % 2], "task": "one", "split": SPLIT[i]}
            for i in range(10)] + [{**row, "task": "two"} for row in without(ROWS[10:], "labels")]
    for given in forms(tmp_path, rows):
        stream, _ = said(given)
        for split in (stream["one"].train, stream["one"].dev, stream["one"].test):
            assert split and all(row.prompt[:row.body[0]] == begin and row.prompt[row.body[1]:] == end for row in split)
        assert {row.body for row in stream["two"].train} == {(12, 13)}


def test_where_all_prompts_are_one_or_one_is_the_frame_alone_all_is_text():
    def found(*prompts):
        task = said(pd.DataFrame([{"prompt": prompt, "answer": "a", "task": "t", "split": split, "labels": ""}
                                  for prompt, split in zip(prompts, ("dev", "test", "train"))]))[0][0]
        return [row.body for row in (*task.dev, *task.test, *task.train)]
    assert found("ab", "ab", "ab") == [(0, 2)] * 3
    assert found("ab", "ab", "abab") == [(0, 2), (0, 2), (2, 4)]


def long_table(quote="one", words=40):
    return pd.DataFrame([{"prompt": f"alpha : {'one two three four five'.split()[i % 5]} {quote} {'two ' * (words if i % 2 else 1)}"
                                    f"{'three four five six'.split()[i % 4]} ? beta :", "answer": MOODS[i % 2], "task": "mood",
                          "split": split, "labels": "bad, good"} for i, split in enumerate(("train",) * 6 + ("dev", "test") * 2)])


@pytest.mark.parametrize("room", [12, 20, 100])
@pytest.mark.parametrize("quote", ["one", "</s>", "<pad>"])
def test_a_tables_long_text_is_cut_and_quotes_no_special_token(quote, room):
    """As the benchmarks' rows: the frame stays whole, and a review that holds "</s>" does not end there."""
    tokenizer = word_tokenizer()
    task = said(long_table(quote))[0][0]
    rows = encode(tokenizer, task.train + task.test, room)
    left, right = token_ids(tokenizer, ["alpha :", "? beta :"])
    for row in rows:
        assert len(row.prompt + row.answer) <= room and row.prompt[1:3] == left and row.prompt[-3:] == right
        assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & {*row.prompt} and row.prompt[0] == tokenizer.bos_token_id
    assert (max(len(row.prompt + row.answer) for row in rows) > 40) == (room == 100)


# --- splits --------------------------------------------------------------------------------------------------------------

def test_without_splits_they_are_drawn_and_said():
    frame = pd.DataFrame(bare(40))
    stream, messages = said({"mood": frame}, seed=3)
    task = stream[0]
    assert (len(task.train), len(task.dev), len(task.test)) == (28, 4, 8)
    assert Counter(row.prompt for row in task.train + task.dev + task.test) == Counter(frame.prompt)
    assert all(split == sorted(split, key=list(frame.prompt).index) for split in ([row.prompt for row in part]
                                                                                  for part in (task.train, task.dev, task.test)))
    assert messages == ["task mood: without a column split, 28 train, 4 dev, 8 test rows were drawn with seed 3; 2 different answers in "
                        "40 rows are taken as its labels: bad, good."]
    assert said({"mood": frame}, seed=3)[0] == stream
    assert len({tuple(row.prompt for row in said({"mood": frame}, seed=seed)[0][0].test) for seed in range(5)}) > 1
    two = said({"one": frame, "two": frame})[0]
    assert [row.prompt for row in two[0].test] != [row.prompt for row in two[1].test]         # tasks are not drawn alike


@pytest.mark.parametrize("n", [3, 4, 5, 11, 30])
def test_no_prompt_of_a_drawn_split_stands_in_two(n):
    rows = [row for row in bare(n) for _ in range(3)] + bare(1) * 5
    task = said({"mood": pd.DataFrame(rows)})[0][0]
    found = [{row.prompt for row in part} for part in (task.train, task.dev, task.test)]
    assert all(found) and sum(map(len, found)) == len(set.union(*found)) == n
    assert len(task.train) + len(task.dev) + len(task.test) == len(rows)          # and no row is lost
    assert [len(part) for part in found[1:]] == [-(-(n - -(-n // 5)) // 8), -(-n // 5)]


def test_two_prompts_are_too_few_to_draw_from():
    refused({"mood": pd.DataFrame(bare(2) * 4)}, "at least 3 different prompts in task mood", "found 2")


def test_missing_dev_is_held_out_of_train_and_said():
    rows = [row for row in ROWS if row["split"] != "dev"]
    stream, messages = said(pd.DataFrame(rows), seed=1)
    assert [(len(task.train), len(task.dev), len(task.test)) for task in stream] == [(5, 1, 2)] * 2
    assert messages == [f"task {name}: 1 of 6 rows of train, drawn with seed 1, became dev." for name in ("mood", "free")]
    assert not {row.prompt for row in stream[0].train} & {row.prompt for row in stream[0].dev}


@pytest.mark.parametrize("missing", ["train", "test"])
def test_train_and_test_have_to_be_there(missing):
    refused(pd.DataFrame([row for row in ROWS if row["split"] != missing]), f"rows of the split {missing} in task mood")


def test_a_split_in_some_rows_only(tmp_path):
    files = [csv_of(tmp_path / "a.csv", ROWS[:5]), csv_of(tmp_path / "b.csv", without(ROWS[5:10], "split"))]
    refused(files, "a split in all rows of a task or in none", "row 1 of", "b.csv")


def test_prompts_in_two_splits_are_said():
    rows = [*ROWS[:10], {**ROWS[0], "split": "test"}, {**ROWS[6], "split": "test"}, {**ROWS[1], "split": "dev"}, ROWS[2]]
    stream, messages = said(pd.DataFrame(rows))
    assert messages == [
        "task mood: 1 of 3 prompts of dev stand in train too (first: row 13 of the DataFrame is row 2 of the DataFrame): the score "
        "there is not of new texts.",
        "task mood: 2 of 4 prompts of test stand in train too (first: row 11 of the DataFrame is row 1 of the DataFrame): the score "
        "there is not of new texts."]
    assert len(stream[0].test) == 4 and len(stream[0].train) == 7                 # said, and kept


def test_limits_nest_and_leave_labels_and_splits_alone():
    frame = pd.DataFrame(bare(60))
    whole = said({"mood": frame})[0][0]
    prompts = {}
    for limit in (1, 5, 20):
        task = said({"mood": frame}, limit=limit)[0][0]
        assert task.labels == MOODS and set(task.test) <= set(whole.test) and set(task.dev) <= set(whole.dev)
        prompts[limit] = [row.prompt for row in task.train]
        assert prompts[limit] == [row.prompt for row in whole.train if row.prompt in prompts[limit]] and len(prompts[limit]) == limit
    assert set(prompts[1]) < set(prompts[5]) < set(prompts[20])


@pytest.mark.parametrize("arguments", [{"limit": 0}, {"limit": True}, {"seed": 1.5}])
def test_limit_and_seed_are_whole_numbers(arguments):
    refused(pd.DataFrame(ROWS), f"{next(iter(arguments))} to be", repr(next(iter(arguments.values()))), **arguments)


# --- labels --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("answers, each, few", [(2, EACH, True), (FEW, EACH, True), (FEW + 1, EACH, False), (5, EACH - 1, False), (1, 5, True)])
def test_few_answers_are_labels_and_said(answers, each, few):
    names = [f"name {i}" for i in range(answers)]
    stream, messages = said({"mood": pd.DataFrame(bare(answers * each, names))})
    assert stream[0].labels == (tuple(sorted(names)) if few else ())
    assert ("are taken as its labels: " + ", ".join(sorted(names)) if few else "are taken as free text") in messages[0]


def test_found_labels_count_every_split_and_every_right_answer():
    rows = [{**row, "answer": ["ugly", "bad"] if i == 9 else row["answer"]} for i, row in enumerate(without(ROWS[:10], "labels"))] * 2
    with pytest.warns(UserWarning, match="3 different answers in 20 rows.*bad, good, ugly"):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*stand in")
            assert read_tables(pd.DataFrame(rows))[0].labels == ("bad", "good", "ugly")


def test_the_column_labels_decides():
    rows = bare(20)
    task = said({"mood": pd.DataFrame(rows).assign(labels="good,bad, ugly")})[0][0]
    assert task.labels == ("good", "bad", "ugly")                                 # its order, and one that no row has
    stream, messages = said({"mood": pd.DataFrame(rows).assign(labels="")})
    assert stream[0].labels == () and "answers" not in messages[0]


def test_an_answer_beside_the_labels_is_dropped_and_said():
    rows = [*ROWS[:10], {**ROWS[0], "prompt": "new", "answer": "Good"}, {**ROWS[0], "prompt": "newer", "answer": ""}]
    stream, messages = said(pd.DataFrame(rows))
    assert len(stream[0].train) == 6
    assert messages == ["task mood: dropped 2 of 12 rows: expected one of the labels bad, good, found ['Good'] in row 11 of the DataFrame."]


@pytest.mark.parametrize("answer", ["", "  ", None, [], [""], ["", " "]])
def test_rows_without_an_answer_are_dropped_and_said(answer, tmp_path):
    rows = [*ROWS[10:], {**ROWS[10], "prompt": "new", "answer": answer}]
    for given in (pd.DataFrame(rows), lines_of(tmp_path / "a.jsonl", rows)):
        stream, messages = said(given)
        assert len(stream[0].train) == 6 and len(messages) == 1
        assert "dropped 1 of 11 rows: expected an answer that is not empty, found [] in row 11 of " in messages[0]


@pytest.mark.parametrize("one, other", [("Good", "good"), ("sci/tech", "scitech"), ("so  so", "so so")])
def test_labels_that_collide_when_they_are_scored(one, other):
    rows = bare(20, ("x", "y"))
    rows[3]["answer"], rows[4]["answer"] = one, other
    refused({"mood": pd.DataFrame(rows)}, f"a label that scoring can tell from {one!r} in row 5 of the DataFrame of mood", repr(other))
    refused({"mood": pd.DataFrame(bare(20)).assign(labels=f"{one},{other}")}, "row 1 of the DataFrame of mood", repr(other))


@pytest.mark.parametrize("labels, words", [("bad,,good", "found ''"), ("bad,-", "found '-'"), (["bad", 3], "found 3"), (["bad", " good"], "' good'"),
                                           (["bad\n"], "line"), ([None], "found None")])
def test_labels_that_are_none(labels, words):
    rows = [{**row, "labels": labels} for row in bare(20)]
    refused({"mood": pd.DataFrame(rows)}, words, "row 1 of the DataFrame of mood")


def test_a_found_label_with_an_outer_blank():
    refused({"mood": pd.DataFrame(bare(20, ("bad", " good")))}, "' good'", "row 2 of the DataFrame of mood")


def test_labels_are_the_same_in_all_rows_of_a_task():
    rows = [{**row, "labels": "bad, good" if i != 4 else "good, bad"} for i, row in enumerate(bare(20))]
    refused({"mood": pd.DataFrame(rows)}, "the labels of row 1 of the DataFrame of mood, bad, good", "row 5", "'good, bad'")


# --- tasks and orders ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order, names", [(None, ["mood", "free"]), ("given", ["mood", "free"]), ("free, mood", ["free", "mood"]),
                                          (["free"], ["free"])])
def test_orders(order, names):
    stream = read_tables(pd.DataFrame(ROWS), order)
    assert stream.names == names and read_tables(pd.DataFrame(ROWS), stream.order) == stream


@pytest.mark.parametrize("order, words", [(["moody"], "did you mean mood?"), ("1", "found 'dbpedia'"), (["mood", "mood"], "'mood' 2 times"), ([], "found []"),
                                          (["Mood"], "found 'Mood'")])
def test_orders_that_are_none(order, words):
    refused(pd.DataFrame(ROWS), words, order=order)


def test_the_fields_orders_are_known_by_number():
    rows = [{**row, "task": name} for name in ("agnews", "yahoo", "amazon", "dbpedia") for row in ROWS[:10]]
    assert read_tables(pd.DataFrame(rows), 3).names == ["yahoo", "amazon", "agnews", "dbpedia"]


def test_names_of_tasks_that_differ_in_case_only():
    refused(pd.DataFrame([*ROWS, {**ROWS[0], "task": "Mood "}]), "'mood' and 'Mood '")


def test_a_frame_has_to_name_its_task():
    refused(pd.DataFrame(without(ROWS, "task")), "a column task in the DataFrame", "{'mood': table}")
    refused(datasets.Dataset.from_list(without(ROWS, "task")), "a column task in the Dataset")


@pytest.mark.parametrize("stem", ["train", "Test", "dev", "validation"])
def test_a_file_called_as_a_split_is_no_task(tmp_path, stem):
    refused(csv_of(tmp_path / f"{stem}.csv", without(ROWS[:10], "task")), "called as its task", repr(stem))


def test_a_name_given_twice():
    frame = pd.DataFrame(ROWS[:10])
    refused({"mood": frame}, "the task once in the DataFrame of mood")
    refused({"mood": {"train": frame.drop(columns="task")}}, "the split once in the DataFrame of mood")
    refused({"mood": {"training": frame.drop(columns=["task", "split"])}}, "a split among train, dev, test, validation", "'training'")
    refused({3: frame}, "names of tasks as keys", "found 3")


# --- what cannot be used -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("columns, words", [
    ({"prompt": "Prompt"}, ("the column prompt in this spelling", "'Prompt'")), ({"split": " split"}, ("the column split", "' split'")),
    ({"answer": "answers"}, ("a column answer", "answers")), ({"prompt": "text"}, ("a column prompt", "'text'")),
])
def test_columns_that_are_missing_or_misspelt(tmp_path, columns, words):
    frame = pd.DataFrame(ROWS).rename(columns=columns)
    for given in (frame, csv_of(tmp_path / "a.csv", frame), lines_of(tmp_path / "a.jsonl", frame.to_dict("records"))):
        refused(given, *words)


def test_columns_that_are_not_used_are_said():
    stream, messages = said(pd.DataFrame(ROWS).assign(id=1, source="x"))
    assert messages == ["the DataFrame: columns that are not used: id, source."] and stream == read_tables(pd.DataFrame(ROWS))


def test_a_column_twice(tmp_path):
    frame = pd.DataFrame(ROWS)
    twice = pd.concat([frame, frame[["answer"]]], axis=1)
    refused(twice, "every column once in the DataFrame", "'answer'")
    refused(csv_of(tmp_path / "a.csv", twice), "every column once in", "a.csv", "'answer'")


@pytest.mark.parametrize("change, words", [
    ({"prompt": None}, ('"prompt"', "found None")), ({"prompt": " "}, ('"prompt"', "' '")), ({"prompt": 3}, ('"prompt"', "found 3")),
    ({"prompt": float("nan")}, ('"prompt"', "found None")), ({"prompt": ["a"]}, ('"prompt"', "['a']")),
    ({"answer": 3}, ('"answer"', "found 3", "numbers as texts")), ({"answer": True}, ('"answer"', "found True")),
    ({"answer": ["a", 3]}, ('"answer"', "['a', 3]")), ({"answer": {"text": "a"}}, ('"answer"', "{'text': 'a'}")),
    ({"answer": [["a"]]}, ('"answer"', "[['a']]")), ({"answer": [None]}, ('"answer"', "[None]")),
    ({"task": 1}, ('"task"', "found 1")), ({"task": ""}, ('"task"', "found ''")), ({"task": None}, ('"task"', "found None")),
    ({"split": "Train"}, ("a split among", "'Train'")), ({"split": "val"}, ("a split among", "'val'")), ({"split": None}, ('"split"', "found None")),
    ({"prompt": "half \ud800"}, ("whole characters", r"'\ud800'")),
])
def test_malformed_rows(tmp_path, change, words):
    rows = [ROWS[0], ROWS[1], {**ROWS[2], **change}, *ROWS[3:]]
    refused(pd.DataFrame(rows, dtype=object), *words, "row 3 of the DataFrame")           # pandas' own texts refuse half characters
    if change.get("prompt") == change.get("prompt"):                              # JSON has no NaN
        refused(lines_of(tmp_path / "a.jsonl", rows), *words, "row 3 of", "a.jsonl")


@pytest.mark.parametrize("content, words", [
    (b"", "found nothing"), (b"\n\n", "found nothing"), (b"prompt,answer\n", "at least one row"), (b"prompt;answer\na;b\n", "by commas"),
    (b"prompt\tanswer\n", "by commas"), (b"prompt,answer\na\n", "1 cells in row 1"), (b"prompt,answer\na,b\na,b,c\n", "3 cells in row 2"),
    (b'prompt,answer\n"a,b\n', "end of data"), (b'prompt,answer\n"a"b,c\n', "line 2"), ("prompt,answer\né,b\n".encode("latin-1"), "0xe9"),
    ("prompt,answer\na,b\n".encode("utf-16"), "not UTF-8"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    (b"prompt,answer\na,\"['x', 'y']\"\n", "CSV has no lists"), (b"prompt,answer\na,\"[\"\"x\"\"]\"\n", "row 1 of"),
])
def test_malformed_csv(tmp_path, content, words):
    file = tmp_path / "mood.csv"
    file.write_bytes(content)
    refused(file, words, "mood")


@pytest.mark.parametrize("content, words", [
    ("", "found nothing"), ("\n \n", "found nothing"), ('[{"prompt": "a"}]', "found a list"), ('{"prompt": "a"\n', "on line 1"),
    ('{"prompt": "a", "answer": "b"}\n{"prompt": "a", "answer": "b"} x', "on line 2"), ('{\n"prompt": "a"\n}', "line 1"),
    ('"text"', "found 'text' on line 1"), ("3", "found 3 on line 1"), ("null", "found None on line 1"),
    ('{"prompt": "a", "answer": NaN}', "the number NaN in line 1"), ('{"prompt": "a", "prompt": "b"}', "'prompt' twice in line 1"),
    ("{}", "a column prompt"), ('{"prompt": "a", "answer": "b"}\n\n{"answer": "b"}', '"prompt" as a text that is not empty in row 2'),
    ("[" * 100_000, "list"), ('{"a": ' * 100_000, "without end"),
])
def test_malformed_json_lines(tmp_path, content, words):
    file = tmp_path / "mood.jsonl"
    file.write_text(content)
    refused(file, words, "mood.jsonl")


def test_what_is_no_table(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"")
    for given, words in ((tmp_path / "a.parquet", ".csv or .jsonl"), (tmp_path / "none.csv", "no file that can be read"), (None, "NoneType"),
                         (7, "int"), ({1, 2}, "set"), ([tmp_path / "none"], "in the list"), ({}, "at least one row"), ([], "at least one row"),
                         ({"a": [1]}, "list"), (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), "IterableDataset")):
        refused(given, words)
    refused(pd.DataFrame(columns=["prompt", "answer", "task"]), "at least one row")


def test_nothing_usable():
    refused(pd.DataFrame([{**row, "answer": ""} for row in ROWS]), "no row to use")


def test_a_stream_of_tables_is_learned(model, tmp_path):
    """From a file to a matrix: nothing else is needed."""
    from toy import FAST

    from mbf_utils.runs import run_stream
    from mbf_utils.sources import load_stream
    rows = [{"prompt": f"{word} {key} :", "answer": answer, "task": task, "split": split}
            for task, answers in (("one", ("good", "bad")), ("two", ("red", "blue"))) for split in ("train", "dev", "test")
            for word in ("three", "four", "five") for key, answer in zip(("alpha", "beta"), answers)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = load_stream(csv_of(tmp_path / "mine.csv", rows))
    run = run_stream(stream, "slao", model, out=tmp_path / "run", **FAST)
    assert run.names == ["one", "two"] and run.matrix.shape == (2, 2) and run.options.iloc[-1].notna().all()
