"""Folders of the benchmarks: prompts letter for letter, labels, orders, limits, and every malformed file refused by name."""
import json
import os
import re
import warnings
from collections import Counter

import pytest
from test_prompts import PROMPTS

from mbf_utils.errors import InputError
from mbf_utils.folders import read_folder
from mbf_utils.rows import listed
from mbf_utils.streams import ORDERS, Example

LABELS = ["Good", "Bad"]
ROWS = [{"label": LABELS[i % 2], "sentence": f"Text: film {i}"} for i in range(20)]


def olora(root, place="SC/yelp", labels=LABELS, train=ROWS, test=ROWS[:6], dev=ROWS[6:9]):
    """Writes one task in O-LoRA's form; text or bytes are a whole file, None leaves it out. Returns root."""
    return write(root, place, dict(labels=labels, train=train, test=test, dev=dev))


def sapt(root, task="task363_sst2_polarity_classification", definition=("Say POS or NEG.",), instances=None, labels=None, **splits):
    """Writes one task in SAPT's form: `instances` and their beginnings, or for each split other rows, or a whole file."""
    if instances is None:
        instances = [{"id": f"id-{i}", "input": f"film {i}", "output": ["POS", "NEG"][i % 2]} for i in range(20)]
    files = {"labels": labels}
    for split, rows in {**dict(train=instances, test=instances[:6], dev=instances[6:9] or instances[:1]), **splits}.items():
        files[split] = rows if isinstance(rows, str) else {
            "Categories": "text", "Definition": definition, "Positive Examples": [], "Negative Examples": [], "Instances": rows}
    return write(root, task, files)


def write(root, place, files):
    (root / place).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if content is not None:
            content = content if isinstance(content, (str, bytes)) else json.dumps(content)
            (root / place / f"{name}.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@pytest.fixture(autouse=True)
def no_silent_warnings():
    """A warning that a test does not expect is an error, but for those of rows in two splits and of labels without a row: most toys
    here have some."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".* texts of (train|dev|test) |.* of (dev|test) ask about|.* no row of train has|.* that limit leaves has|"
                                ".* of train repeat another")
        yield


# --- prompts (of the fifteen data sets: test_prompts.py) -----------------------------------------------------------------------------------------------------------

def test_what_a_text_says_and_blanks_around_a_definition_do_not_matter(tmp_path):
    sapt(tmp_path, "sst2", ["Judge it. \n"], [{"input": " Text: {0} 100% </s> Output: ", "output": "yes"}, {"input": "b", "output": "no"}],
         dev=[{"input": "c", "output": "no"}])
    row = read_folder(tmp_path)[0].train[0]
    assert row.prompt == "Judge it.\n Text: {0} 100% </s> Output: \nOutput: "
    assert row.prompt[slice(*row.body)] == " Text: {0} 100% </s> Output: "


def test_sapts_copa_has_no_definition(tmp_path):
    sapt(tmp_path, "copa", [], [{"input": "A: Ice.\nB: Tea.", "output": "A"}], dev=[{"input": "x", "output": "A"}])
    assert read_folder(tmp_path)[0].train == [Example("A: Ice.\nB: Tea.\nOutput: ", ("A",), (0, 15))]


@pytest.mark.parametrize("definition", [["  Sum it up. "], "Sum it up."])
def test_superni_prompts(tmp_path, definition):
    sapt(tmp_path, "task1572_samsum_summary", definition, [{"id": "a", "input": " Mira: hi", "output": ["They talk.", "Talk."]}],
         dev=[{"id": "a", "input": "x", "output": "y"}])
    prompt = "Definition: Sum it up.\n\nNow complete the following example -\nInput:  Mira: hi\nOutput: "
    start = prompt.index(" Mira")
    assert read_folder(tmp_path)[0].train == [Example(prompt, ("They talk.", "Talk."), (start, start + len(" Mira: hi")))]
    assert read_folder(tmp_path, named=False) == read_folder(tmp_path) and not read_folder(tmp_path).named


def test_real_olora_rows(real_rows):
    stream = read_folder(real_rows / "cl_benchmark", order=6)
    assert stream.names == ORDERS["long"]["6"] and stream.order == "6" and stream.general == ()
    for task in stream:
        folder, = (real_rows / "cl_benchmark").glob(f"*/{task.name}")
        assert list(task.labels) == json.loads((folder / "labels.json").read_text())
        for split in ("train", "dev", "test"):
            rows = json.loads((folder / f"{split}.json").read_text(encoding="utf-8"))
            assert [(row.prompt[slice(*row.body)], row.answers) for row in getattr(task, split)] == [
                (row["sentence"], (row["label"],)) for row in rows]


def test_real_superni_rows(real_rows):
    stream = read_folder(real_rows / "superni")
    assert stream.names == ORDERS["superni"]["O1"] and stream.order == "O1"
    several = 0
    for task in stream:
        for split in ("train", "dev", "test"):
            content = json.loads((real_rows / "superni" / task.name / f"{split}.json").read_text(encoding="utf-8"))
            assert len(content["Instances"]) == len(getattr(task, split))
            for row, raw in zip(getattr(task, split), content["Instances"]):
                assert row.prompt == (f"Definition: {content['Definition'][0].strip()}\n\nNow complete the following example -\n"
                                      f"Input: {raw['input']}\nOutput: ")
                assert row.prompt[slice(*row.body)] == raw["input"]
                assert list(row.answers) == (raw["output"] if isinstance(raw["output"], list) else [raw["output"]])
                several += len(row.answers) > 1
    assert several > 40
    closed = {task.name.split("_")[0]: task for task in stream if task.labels}
    assert {name: set(task.labels) for name, task in closed.items()} == {
        name: {row.answers[0] for row in task.train} for name, task in closed.items()}
    assert sorted(closed) == ["task073", "task1687", "task363", "task875"]


# --- labels, answers, splits -------------------------------------------------------------------------------------------

def test_labels_of_sapts_long_benchmark_are_its_outputs(tmp_path):
    rows = [{"input": f"first {i}", "output": ["yes", "no"][i % 2]} for i in range(9)]
    sapt(tmp_path, "qqp", instances=rows, labels=["False", "True"])
    assert read_folder(tmp_path)[0].labels == ("no", "yes") == read_folder(tmp_path, limit=1)[0].labels


def test_outputs_that_scoring_cannot_tell_apart_are_said(tmp_path):
    rows = [{"input": f"x {i}", "output": ["Sci/Tech", "SciTech", "World"][i % 3]} for i in range(9)]
    sapt(tmp_path, "agnews", instances=rows)
    with pytest.warns(UserWarning, match="agnews/train.json: exact match cannot tell 'Sci/Tech' and 'SciTech' apart"):
        assert read_folder(tmp_path)[0].labels == ("Sci/Tech", "SciTech", "World")


@pytest.mark.parametrize("task, labels", [
    ("task363_sst2_polarity_classification", ("POS", "NEG")), ("task1687_sentiment140_classification", ("positive", "negative")),
    ("task875_emotion_classification", ("joy", "love", "anger", "fear", "surprise", "sadness")),
    ("TASK073_commonsenseqa_answer_generation", ("A", "B", "C", "D", "E")), ("task591_sciq_answer_generation", ()),
])
def test_labels_of_superni(tmp_path, task, labels):
    sapt(tmp_path, task, instances=[{"input": f"x {i}", "output": [(labels or ("free",))[-1]]} for i in range(9)])
    assert read_folder(tmp_path)[0].labels == labels


def test_an_unknown_label_is_dropped_and_said(tmp_path):
    odd = [*ROWS[:2], {"label": "-", "sentence": "x"}, {"label": "good", "sentence": "y"}, {"label": "", "sentence": "z"}]
    olora(tmp_path, test=odd)
    with pytest.warns(UserWarning) as caught:
        task = read_folder(tmp_path)[0]
    assert [row.answers for row in task.test] == [("Good",), ("Bad",)] and len(task.train) == 20
    message, _ = map(str, (warning.message for warning in caught))
    assert re.search(r"SC/yelp/test.json: dropped 3 of 5 rows: .*Good, Bad.* found \['-'\] in row 3", message)


def test_a_test_label_that_training_lacks_in_sapts_long_form(tmp_path):
    rows = [{"input": f"x {i}", "output": ["neutral", "entailment"][i % 2]} for i in range(8)]
    sapt(tmp_path, "mnli", instances=rows, test=[*rows[:3], {"input": "y", "output": "-"}])
    with pytest.warns(UserWarning, match=r"mnli/test.json: dropped 1 of 4 rows.*entailment, neutral.*\['-'\] in row 4"):
        assert len(read_folder(tmp_path)[0].test) == 3


@pytest.mark.parametrize("empty", [[""], "", ["", "  "]])
def test_empty_references_are_dropped_and_said(tmp_path, empty):
    rows = [{"input": f"x {i}", "output": ["a", ""]} for i in range(5)]
    sapt(tmp_path, "task511_reddit_tifu_long_text_summarization", instances=[rows[0], {"input": "y", "output": empty}, *rows[1:]],
         test=rows, dev=rows[:2])
    with pytest.warns(UserWarning, match=r"train.json: dropped 1 of 6 rows: expected an answer that is not empty, found \[\] in row 2"):
        task = read_folder(tmp_path)[0]
    assert len(task.train) == 5 and {row.answers for row in task.train + task.test} == {("a",)}


def test_dev_like_test_is_said_once(tmp_path):
    for place in ("SC/yelp", "SC/amazon", "TC/agnews"):
        olora(tmp_path, place, test=ROWS[:6], dev=ROWS[:6] if place != "TC/agnews" else ROWS[:5])
    with pytest.warns(UserWarning) as caught:
        stream = read_folder(tmp_path, limit=2)
    message, others = map(str, (warning.message for warning in caught))
    assert "stand in train too" in others and "amazon, yelp" in message and "agnews" not in message and len(stream["yelp"].dev) == 2


def test_texts_and_passages_in_two_splits_are_said_once_and_those_apart_are_not(tmp_path):
    """As BoolQA's 353 and Quoref's 25 rows of test whose passage is in train; MultiRC has its passage first."""
    boolqa = lambda *numbers: [{"label": "True", "sentence": f"question: is it {a}\npassage: Passage {b} -- It is."}
                               for a, b in numbers]
    multirc = lambda *numbers: [{"label": "True", "sentence": f"paragraph: Of {b}. \nquestion: Who is {a}?\ncandidate answer: he"}
                                for a, b in numbers]
    for name, rows in (("BoolQA", boolqa), ("MultiRC", multirc)):
        test = rows((4, 1), (5, 2), (6, 6), (3, 3))
        olora(tmp_path, f"{name}/{name}", ["True"], rows((1, 1), (2, 2), (3, 3)), test, rows((7, 7), (8, 3)))
    olora(tmp_path, "SC/yelp", LABELS, ROWS[:9], ROWS[9:15], ROWS[15:] + ROWS[:2])
    olora(tmp_path, "TC/agnews", LABELS, [*ROWS[:4], ROWS[0] | {"label": "Bad"}], ROWS[9:15], ROWS[15:])
    olora(tmp_path, "TC/yahoo", LABELS, [*ROWS[:4], ROWS[1], ROWS[2] | {"sentence": "text: FILM  2!"}], ROWS[9:15],
          [*ROWS[15:], ROWS[0], ROWS[3] | {"sentence": "Text: Film, 3."}])
    with pytest.warns(UserWarning) as caught:
        read_folder(tmp_path)
    message, = map(str, (warning.message for warning in caught))
    expected = ("1 of 2 rows of dev ask about a passage of train, 1 of 4 texts of test stand in train too, 2 of 4 rows of test ask about "
                "a passage of train")
    assert f"BoolQA: {expected}; MultiRC: {expected}; yahoo: " in message and "yelp: 2 of 7 texts of dev stand in train too." in message
    assert "agnews: 1 texts of train have different answers; BoolQA" in message
    assert ("yahoo: 2 of 6 rows of train repeat another, case, punctuation and blanks aside, 2 of 7 texts of dev stand in train too "
            "(1 of them but for case, punctuation or blanks); yelp") in message


def test_a_label_that_training_never_sees_is_said(tmp_path):
    olora(tmp_path, labels=["Good", "Bad", "Odd"], test=[{"label": "Odd", "sentence": "x"}])
    with pytest.warns(UserWarning, match="yelp: no row of train has the label Odd"):
        assert len(read_folder(tmp_path)[0].test) == 1


def test_of_many_names_a_warning_lists_a_few_and_their_number(tmp_path):
    olora(tmp_path, labels=["Good", "Bad", *(f"Odd {i}" for i in range(100_000))])
    with pytest.warns(UserWarning, match="has the label Odd 0 or Odd 1 or .* or Odd 9 and 99,990 more") as caught:
        read_folder(tmp_path)
    assert max(len(str(warning.message)) for warning in caught) < 1000
    assert listed("abc") == "a, b, c" and listed(map(str, range(20))).endswith("18, 19")


@pytest.mark.parametrize("form", ["olora", "sapt"])
def test_a_label_that_a_limit_leaves_without_a_row_is_said(tmp_path, form):
    """Not of the file, but of what is learned: with one row there is one label."""
    if form == "olora":
        olora(tmp_path, "SC/mine", [*LABELS, "Odd"])
    else:
        sapt(tmp_path, "sst2", instances=[{"input": f"film {i}", "output": LABELS[i % 2]} for i in range(20)])
    with pytest.warns(UserWarning) as caught:
        row, = read_folder(tmp_path, limit=1)[0].train
    message = str(caught[-1].message)
    other, = {*LABELS} - {*row.answers}
    assert f": none of the 1 rows of train that limit leaves has the label {other} (raise it)." in message
    assert ("no row of train has the label Odd;" in message) == (form == "olora")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = read_folder(tmp_path, limit=20)[0].train
    assert len(whole) == 20 and not any("limit leaves" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("folder, order, told", [
    ("cl_benchmark", "4", "BoolQA: 1 of 48 rows of dev ask about a passage of train"),
    ("superni", "O1", "task002_quoref_answer_generation: 2 of 20 rows of dev ask about a passage of train")])
def test_real_rows_share_nothing_but_passages_between_train_and_dev(real_rows, folder, order, told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_folder(real_rows / folder, order)
    assert [str(warning.message) for warning in caught] == [f"{real_rows / folder}: {told}."]


def test_missing_dev_is_held_out_of_train(tmp_path):
    olora(tmp_path, dev=None)
    with pytest.warns(UserWarning, match="yelp has no dev.json: 2 of 20 rows of train, drawn with seed 3, became dev"):
        task = read_folder(tmp_path, seed=3)[0]
    assert len(task.dev) == 2 and len(task.train) == 18
    assert Counter(row.prompt for row in task.train + task.dev) == Counter(
        f"Task:SC\nDataset:yelp\nWhat is the sentiment of the following paragraph? Choose one from the option.\n"
        f"Option: Good, Bad \n{row['sentence']}\nAnswer:" for row in ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_folder(tmp_path, seed=3)[0] == task
        assert len({tuple(row.prompt for row in read_folder(tmp_path, seed=seed)[0].dev) for seed in range(5)}) > 1
        few = read_folder(tmp_path, seed=3, limit=9)[0]       # the limit draws from what is left; dev stays out of train
    assert set(few.train) < set(task.train) and few.dev == task.dev


def passages(rows):
    return {re.search(r"paragraph: (Of \d+\.)", row.prompt)[1] for row in rows}


@pytest.mark.parametrize("sizes", [[4] * 10, [1, 1, 2, 3, 5, 8, 13], [25, 3, 3, 3, 3, 3]])
def test_dev_that_is_held_out_shares_no_passage_with_train(tmp_path, sizes):
    """MultiRC asks several times about one passage, and a passage known by heart is no new one."""
    rows = [{"label": LABELS[i % 2], "sentence": f"paragraph: Of {k}. \nquestion: Who is {i}?\ncandidate answer: he"}
            for k, size in enumerate(sizes) for i in range(size)]
    olora(tmp_path, "MultiRC/MultiRC", train=rows, test=ROWS[:4], dev=None)
    drawn = set()
    for seed in range(8):
        with pytest.warns(UserWarning, match=f"of {sum(sizes)} rows of train, drawn with seed {seed}, became dev"):
            task = read_folder(tmp_path, seed=seed)[0]
        assert not passages(task.train) & passages(task.dev) and len(task.train) + len(task.dev) == sum(sizes)
        assert sum(sizes) / 10 <= len(task.dev) <= sum(sizes) / 2
        assert [row.prompt for row in task.train] == [row.prompt for row in read_in_order(rows, task.train)]
        drawn.add(frozenset(passages(task.dev)))
    assert len(drawn) > 1


def read_in_order(rows, found):
    """The found rows in the order of the file's."""
    places = {row["sentence"]: i for i, row in enumerate(rows)}
    return sorted(found, key=lambda row: places[row.prompt[slice(*row.body)]])


def test_one_passage_is_not_cut_in_two(tmp_path):
    rows = [{"label": LABELS[i % 2], "sentence": f"paragraph: Of 1. \nquestion: Who is {i}?\ncandidate answer: he"} for i in range(12)]
    with pytest.warns(UserWarning, match="0 of 12 rows of train"):
        task = read_folder(olora(tmp_path, "MultiRC/MultiRC", train=rows, test=ROWS[:4], dev=None))[0]
    assert len(task.train) == 12 and task.dev == []


def test_a_single_row_of_train_stays_there(tmp_path):
    olora(tmp_path, train=ROWS[:1], dev=None)
    with pytest.warns(UserWarning, match="0 of 1 rows"):
        task = read_folder(tmp_path)[0]
    assert len(task.train) == 1 and task.dev == []


# --- limit and seed ----------------------------------------------------------------------------------------------------

def test_limits_nest_and_keep_the_files_order(tmp_path):
    olora(tmp_path)
    whole = read_folder(tmp_path)[0]
    prompts = {limit: [row.prompt for row in read_folder(tmp_path, limit=limit)[0].train] for limit in (1, 3, 10, 19)}
    for limit, drawn in prompts.items():
        assert len(drawn) == limit == len(set(drawn))
        assert drawn == [row.prompt for row in whole.train if row.prompt in drawn]
    assert set(prompts[1]) < set(prompts[3]) < set(prompts[10]) < set(prompts[19])
    assert prompts[10] != [row.prompt for row in whole.train[:10]]                # drawn, not cut
    assert read_folder(tmp_path, limit=20)[0] == read_folder(tmp_path, limit=10**9)[0] == whole
    few = read_folder(tmp_path, limit=4)[0]
    assert (len(few.train), len(few.test), len(few.dev)) == (4, 4, 3)


def test_the_seed_draws_the_rows_and_no_order_changes_them(tmp_path):
    for place in ("SC/yelp", "SC/amazon"):
        olora(tmp_path, place)
    few = read_folder(tmp_path, limit=5, seed=1)
    assert few == read_folder(tmp_path, limit=5, seed=1) != read_folder(tmp_path, limit=5, seed=2)
    assert read_folder(tmp_path, ["yelp"], limit=5, seed=1)[0] == few["yelp"]
    texts = [{row.prompt[slice(*row.body)] for row in task.train} for task in few]
    assert texts[0] != texts[1]                               # equal files of two tasks are not drawn alike


@pytest.mark.parametrize("limit", [0, -1, 2.0, "5", True, float("nan"), [3]])
def test_limit_is_a_positive_whole_number(tmp_path, limit):
    with pytest.raises(InputError, match=re.escape(f"found {limit!r}")):
        read_folder(olora(tmp_path), limit=limit)


@pytest.mark.parametrize("seed", [None, 1.5, "0", True])
def test_seed_is_a_whole_number(tmp_path, seed):
    with pytest.raises(InputError, match=re.escape(f"seed to be a whole number, found {seed!r}")):
        read_folder(olora(tmp_path), seed=seed)


# --- orders and names --------------------------------------------------------------------------------------------------

@pytest.fixture
def six(tmp_path):
    """The four tasks of the standard benchmark and two more, in O-LoRA's form."""
    for place in ("TC/dbpedia", "SC/amazon", "TC/yahoo", "TC/agnews", "BoolQA/BoolQA", "SC/SST-2"):
        olora(tmp_path, place)
    return tmp_path


@pytest.mark.parametrize("order, key, names", [
    (None, "1", "dbpedia amazon yahoo agnews"), ("3", "3", "yahoo amazon agnews dbpedia"), (2, "2", "dbpedia amazon agnews yahoo"),
    ("standard:1", "1", "dbpedia amazon yahoo agnews"), ("sorted", "sorted", "agnews amazon BoolQA dbpedia SST-2 yahoo"),
    (["sst2", "boolq", "DBPedia"], "sst2,boolq,DBPedia", "SST-2 BoolQA dbpedia"), ("yahoo", "yahoo", "yahoo"),
    ("yahoo, AGNEWS", "yahoo,AGNEWS", "yahoo agnews"),
])
def test_orders(six, order, key, names):
    stream = read_folder(six, order)
    assert (stream.order, stream.names, stream.name) == (key, names.split(), six.name)
    assert read_folder(six, stream.order) == stream           # an order's name gives the order


def test_names_of_olora_are_found_among_those_of_sapt(tmp_path):
    for task in ("boolq", "sst2", "mnli"):
        sapt(tmp_path, task)
    stream = read_folder(tmp_path, ["SST-2", "BoolQA", "MNLI"])
    assert stream.names == ["sst2", "boolq", "mnli"]
    assert read_folder(tmp_path).order == "sorted"


@pytest.mark.parametrize("order, words", [
    (["amazon", "imdb"], "'imdb', which has no folder"), (["amazon", "amazon"], "'amazon' 2 times"),
    (["boolq", "BoolQA"], "'boolq' 2 times"), (["amzon"], "did you mean amazon"), ("4", "order '4', found 'MNLI'"), (7, "found '7'"),
    ([], "found []"), ("", "found"), (["../../etc"], "'../../etc'"), (["SC/amazon"], "'SC/amazon'"), ([3], "found [3]"),
    ("trace:1", "C-STANCE"), (2.0, "found 2.0"), ({"amazon": 1}, "task names"),
])
def test_orders_that_are_none(six, order, words):
    with pytest.raises(InputError, match=re.escape(words)):
        read_folder(six, order)


def test_names_cannot_leave_the_folder(tmp_path):
    olora(tmp_path / "inside")
    outside = olora(tmp_path / "outside", "SC/secret") / "SC/secret"
    for name in ("../outside/SC/secret", "../../outside/SC/secret", str(outside), "secret", "..", "."):
        with pytest.raises(InputError, match="has no folder"):
            read_folder(tmp_path / "inside", [name])


def test_other_files_and_loops_among_the_folders_do_not_matter(tmp_path):
    olora(tmp_path)
    expected = read_folder(tmp_path)
    (tmp_path / "README.md").write_text("text")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0")
    (tmp_path / "SC" / ".DS_Store").write_bytes(b"\0\0")
    (tmp_path / "scripts").mkdir()
    write(tmp_path, ".cache/x", {"train": []})
    os.symlink(tmp_path / "SC" / "loop", tmp_path / "SC" / "loop")
    os.symlink(tmp_path / "SC", tmp_path / "SC" / "up")
    assert read_folder(tmp_path) == expected
    (tmp_path / "SC" / "imdb").write_text("a file where a folder is due")
    with pytest.raises(InputError, match="'imdb', which has no folder"):
        read_folder(tmp_path, ["imdb"])


@pytest.mark.parametrize("make, words", [
    (lambda root: root / "nowhere", "found nothing at .*nowhere"),
    (lambda root: olora(root) / "SC/yelp/train.json", "found a file at .*train.json"),
    (lambda root: root, "found none"),
    (lambda root: olora(root, "SX/yelp"), "SC, TC, NLI, QQP, BoolQA, MultiRC, WiC, COPA.* found 'SX'.* rename it"),
    (lambda root: sapt(root / "SuperNI").parent, "found 'SuperNI'.*or give .*SuperNI itself"),
    (lambda root: olora(olora(root), "TC/Yelp"), "SC/yelp and .*TC/Yelp of one name"),
    (lambda root: sapt(olora(root, "BoolQA/BoolQA"), "boolq"), "of one name"),
    (lambda root: olora(root) / "SC", r"yelp/train.json.*above the task types"),
    (lambda root: sapt(root / "SC").parent, r"labels.json"),
    (lambda root: sapt(root / "SC", labels=["POS", "NEG"]).parent, r"one list of rows .*train.json, found .*SAPT's form"),
])
def test_folders_that_are_none(tmp_path, make, words):
    with pytest.raises(InputError, match=words):
        read_folder(make(tmp_path))


# --- malformed files ---------------------------------------------------------------------------------------------------

GOOD = json.dumps(ROWS)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


def refused(root, *words):
    """The message is one sentence that has these words and a file's name."""
    with pytest.raises(InputError) as raised:
        read_folder(root)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert ".json" in message and "\n" not in message and message.startswith("expected ") and message.endswith(".")


@pytest.mark.parametrize("file", ["labels", "train", "test", "dev"])
@pytest.mark.parametrize("content, words", [
    (b"", "nothing"), (b" \r\n\t ", "nothing"), (GOOD[:-20], "cut short"), (GOOD + "garbage", "Extra data"),
    ("\n".join(map(json.dumps, ROWS)), "JSON Lines"), (POINTER, "Git LFS pointer"),
    ('[{"label": "Good", "sentence": "é"}]'.encode("latin-1"), "0xe9 at place 32, which is not UTF-8"), (b'["\x80"]', "0x80 at place 2"),
    (GOOD.encode("utf-16"), "not UTF-8"), (GOOD.encode("utf-16-le"), "found"),
    (b'[{"label": "Good", "sentence": "a\nb"}]', "Invalid control character"), (b'[{"label": "Good", "sentence": "\0"}]', "control"),
    ('[{"label": "Good", "sentence": "a"}, {"label": "Good", "sentence": "b", "label": "Bad"}]', "'label' twice in object 2"),
    ('[{"label": NaN, "sentence": "a"}]', "the number NaN"), ('[{"label": "Good", "sentence": -Infinity}]', "the number -Infinity"),
    ("[" * 100_000, "lists in lists"), ("[" + "9" * 5000 + "]", "found"), ("{}", "found {}"), ("3", "found 3"), ("null", "found None"),
    ("[]", "found []"), ('"text"', "found 'text'"),
])
def test_malformed_json(tmp_path, file, content, words):
    refused(olora(tmp_path, **{file: content}), f"{file}.json", words)


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + GOOD.encode(), GOOD.replace(", {", ",\r\n {").encode() + b"\r\n"])
def test_byte_order_marks_and_line_ends_are_accepted(tmp_path, content):
    assert read_folder(olora(tmp_path / "a", train=content)).tasks == read_folder(olora(tmp_path / "b")).tasks


@pytest.mark.parametrize("row, words", [
    ({"sentence": "a"}, r"\"label\" in row 2 of .*\['sentence'\]"), ({"label": "Good"}, r"\"sentence\" in row 2 of .*\['label'\]"),
    ({"Label": "Good", "sentence": "a"}, r"\"label\" in row 2 of .*'Label', 'sentence'"), ({}, r"row 2 of .*found \[\]"),
    ({"label": None, "sentence": "a"}, "\"label\" .*row 2 of .*found None"), ({"label": 3, "sentence": "a"}, "row 2 of .*found 3"),
    ({"label": True, "sentence": "a"}, "row 2 of .*found True"), ({"label": ["Good"], "sentence": "a"}, r"row 2 of .*\['Good'\]"),
    ({"label": "Good", "sentence": 5}, "\"sentence\" .*row 2 of .*found 5"), ({"label": "Good", "sentence": ""}, "row 2 of .*found ''"),
    ({"label": "Good", "sentence": " \n"}, "row 2 of "), ({"label": "Good", "sentence": None}, "row 2 of .*found None"),
    (["Good", "a"], r"row 2 of .*found \['Good', 'a'\]"), ("a", "row 2 of .*found 'a'"), (None, "row 2 of .*found None"),
    ({"label": "Good", "sentence": "half \ud800"}, r"whole characters in row 2 of .*'\\ud800'"),
    ({"label": "Good \udc80", "sentence": "a"}, r"whole characters in row 2 of .*'\\udc80'"),
])
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_malformed_rows(tmp_path, split, row, words):
    with pytest.raises(InputError, match=words) as raised:
        read_folder(olora(tmp_path, **{split: json.dumps([ROWS[0], row, *ROWS[1:]])}))
    assert f"{split}.json" in str(raised.value)


def test_odd_but_right_rows_are_kept_as_they_are(tmp_path):
    odd = ["braces {0} {label} 100%s", "Answer: Good\nAnswer:", "Option: Good, Bad \n", "</s><pad><|eot_id|>", "\u2028\ufffd\u200b",
           "\u05d0\u05d1 \u202e", "nul \x00 bell \x07", "x" * 200_000, " blanks ", "\U0001f600", "Text: a\\nb"]
    rows = [{"sentence": text, "extra": [{}], "label": LABELS[i % 2]} for i, text in enumerate(odd)] + ROWS[:1] * 2
    for read in (json.dumps(rows), json.dumps(rows, ensure_ascii=False)):
        task = read_folder(olora(tmp_path, train=read))[0]
        assert [row.prompt[slice(*row.body)] for row in task.train[:len(odd)]] == odd
        assert len(task.train) == len(odd) + 2                # the same row twice stays twice
        assert all(row.prompt.endswith("\nAnswer:") and row.prompt.startswith("Task:SC\nDataset:yelp\n") for row in task.train)


@pytest.mark.parametrize("labels, words", [
    ({"Good": 0}, "a list of labels"), ([], "found []"), (["Good", "Bad", "Good"], "label 3"), (["A", "B", "A"], "label 3"),
    (["Sci/Tech", "SciTech"], "'Sci/Tech' in label 2"), (["Good", "good"], "label 2"), (["Good", "-"], "found '-'"),
    (["", "Good"], "label 1"), (["Good", 3], "found 3"), (["Good", None], "label 2"), (["Good", "so, so"], "found 'so, so'"),
    (["Good", "so\nso"], "label 2"), (["Good", " Bad"], "' Bad'"), (["Fine", "Poor"], "no row to use"),
])
def test_malformed_labels(tmp_path, labels, words):
    refused(olora(tmp_path, labels=labels), words)


def test_a_label_with_half_a_character(tmp_path):
    refused(olora(tmp_path, labels=["Good", "Bad", "x\ud800"]), "whole characters", "train.json")


def test_labels_with_braces_and_common_starts_are_fine(tmp_path):
    labels = ["negative", "very negative", "negative {0}"]
    rows = [{"label": label, "sentence": f"s {i}"} for i, label in enumerate(labels * 3)]
    task = read_folder(olora(tmp_path, labels=labels, train=rows, test=rows[:4], dev=rows[4:]))[0]
    assert "Option: negative, very negative, negative {0} \ns 0\n" in task.train[0].prompt and len(task.train) == 9


@pytest.mark.parametrize("file", ["labels", "train", "test"])
def test_missing_files(tmp_path, file):
    refused(olora(tmp_path, **{file: None}), f"{file}.json", "No such file")


@pytest.mark.parametrize("make", [os.mkdir, lambda path: os.symlink(path, path)])
@pytest.mark.parametrize("file", ["labels", "test", "dev"])
def test_what_is_no_file(tmp_path, file, make):
    olora(tmp_path, **{file: None})
    make(tmp_path / f"SC/yelp/{file}.json")
    refused(tmp_path, f"{file}.json", "no file that can be read")


FINE = {"id": "a", "input": "x", "output": ["POS"]}


@pytest.mark.parametrize("change, words", [
    ({"Definition": None}, "\"Definition\""), ({"Definition": []}, "\"Definition\" in"), ({"Definition": [" "]}, "\"Definition\""),
    ({"Definition": ["a", "b"]}, "found ['a', 'b']"), ({"Definition": 4}, "found 4"), ({"Instances": None}, "\"Instances\""),
    ({"Instances": []}, "at least one row"), ({"Instances": {"a": 1}}, "\"Instances\""), ({"Instances": ["x"]}, "row 1 of"),
    ({"Definition": ["half \udfff"]}, "whole characters in row 1"),
    *[({"Instances": [FINE, row]}, words) for row, words in [
        ({"id": "b", "output": ["POS"]}, "\"input\" in row 2 of"), ({"id": "b", "input": "", "output": "POS"}, "row 2 of"),
        ({"id": "b", "input": ["x"], "output": "POS"}, "row 2 of"), ({"id": "b", "input": "x"}, "\"output\""),
        ({"id": "b", "input": "x", "output": []}, "row 2 of"), ({"id": "b", "input": "x", "output": [["POS"]]}, "[['POS']]"),
        ({"id": "b", "input": "x", "output": None}, "found None"), ({"id": "b", "input": "x", "output": 1}, "found 1"),
        ({"id": "b", "input": "x", "output": ["POS", None]}, "row 2 of"), ({"id": "a", "input": "y", "output": "POS"}, "row 2 of"),
        ({"id": "b", "input": "half \ud800", "output": "POS"}, "whole characters in row 2"),
        ({"id": "b", "input": "x", "output": "half \ud800"}, "whole characters in row 2"),
    ]],
])
@pytest.mark.parametrize("split", ["train", "test", "dev"])
def test_malformed_superni(tmp_path, split, change, words):
    whole = {"Definition": ["Say it."], "Instances": [FINE], **change}
    refused(sapt(tmp_path, **{split: json.dumps({key: value for key, value in whole.items() if value is not None})}),
            f"{split}.json", words)


def test_superni_without_any_answer(tmp_path):
    refused(sapt(tmp_path, "task1572_samsum_summary", instances=[{"input": "x", "output": [""]}] * 3), "train.json", "no row to use")


# --- the other program's prompts ---------------------------------------------------------------------------------------

def test_olora_rows_with_sapts_prompts(tmp_path):
    rows = [{"sentence": f"first sentence: {i}\nsecond sentence: b", "label": ["False", "True"][i % 2]} for i in range(8)]
    olora(tmp_path, "QQP/QQP", ["False", "True"], rows, rows[:2], rows[2:4])
    stream = read_folder(tmp_path, prompts="SAPT")
    row, task = stream[0].train[1], stream[0]
    assert row.prompt == ('Whether the "first sentence" and the "second sentence" have the same meaning? Choose one from the option: '
                          "yes or no.\nfirst sentence: 1\nsecond sentence: b\nOutput: ")
    assert row.answers == ("yes",) and task.labels == ("no", "yes") and not stream.named
    assert row.prompt[slice(*row.body)] == rows[1]["sentence"]
    olora(tmp_path, "SC/mine")
    with pytest.raises(InputError, match="SAPT has a prompt for .*found 'mine'"):
        read_folder(tmp_path, prompts="SAPT")


def test_sapts_rows_with_olora_prompts(tmp_path):
    rows = [{"input": f"first sentence: {i}\nsecond sentence: b", "output": ["no", "yes"][i % 2]} for i in range(8)]
    sapt(tmp_path, "qqp", instances=rows)
    stream = read_folder(tmp_path, prompts="O-LoRA")
    assert stream[0].labels == ("False", "True") and stream.named and not read_folder(tmp_path, prompts="O-LoRA", named=False).named
    assert stream[0].train[1] == Example(PROMPTS["QQP/QQP"][3].replace("Why?\nsecond sentence: How so?", "1\nsecond sentence: b"), ("True",),
                                         stream[0].train[1].body)
    sapt(tmp_path, "task1572_samsum_summary")
    with pytest.raises(InputError, match="O-LoRA has a prompt for .*found 'task1572_samsum_summary'"):
        read_folder(tmp_path, prompts="O-LoRA")


def test_both_programs_prompts_of_real_rows(real_rows):
    own, other = (read_folder(real_rows / "cl_benchmark", 4, prompts=prompts) for prompts in (None, "SAPT"))
    for a, b in zip(own, other):
        assert len(a.train) == len(b.train) and len(a.labels) == len(b.labels)
        assert [row.prompt[slice(*row.body)] for row in a.test] == [row.prompt[slice(*row.body)] for row in b.test]
        assert all(row.prompt.endswith("\nOutput: ") and "Option:" not in row.prompt for row in b.test)


# --- TRACE -------------------------------------------------------------------------------------------------------------

STANCE = ("What is the monetary policy stance for the following text? A. dovish, B. hawkish, C. neutral. Choose one from A, B and C.\n"
          "Text: {}\nStance:")


def trace(root, task="FOMC", prompt=STANCE, answers=("A", "B", "C"), **files):
    rows = [{"prompt": prompt.format(f"{'xyz'[i % 3]} rates {i} {'uvw'[i % 3]}"), "answer": answers[i % len(answers)]} for i in range(12)]
    return write(root, task, {"train": rows[:6], "eval": rows[6:9], "test": rows[9:], **files})


def test_traces_prompts_are_used_as_they_are(tmp_path):
    trace(tmp_path)
    trace(tmp_path, "MeetingBank", "Write a summary of the following meeting transcripts.\nMeeting transcripts:\n{}", ("They met.",))
    stream = read_folder(tmp_path)
    assert stream.names == ["FOMC", "MeetingBank"] and not stream.named and stream["FOMC"].labels == ("A", "B", "C")
    row = stream["FOMC"].train[1]
    assert row.prompt == STANCE.format("y rates 1 v") and row.answers == ("B",) and row.prompt[slice(*row.body)] == "y rates 1 v"
    assert [len(stream["FOMC"].dev), len(stream["FOMC"].test)] == [3, 3] and stream["MeetingBank"].labels == ()
    assert stream["MeetingBank"].test[0].prompt[slice(*stream["MeetingBank"].test[0].body)] == "x rates 9 u"
    for prompts in ("O-LoRA", "SAPT"):
        with pytest.raises(InputError, match="rows hold whole prompts"):
            read_folder(tmp_path, prompts=prompts)


@pytest.mark.parametrize("order", [None, "1", 1, "trace:1"])
def test_traces_order(tmp_path, order):
    for task in ORDERS["trace"]["1"]:
        trace(tmp_path, task)
    stream = read_folder(tmp_path, order)
    assert stream.names == ORDERS["trace"]["1"] and stream.order == "1"


@pytest.mark.parametrize("rows, words", [
    ([{"prompt": "a", "answer": "A"}, {"prompt": "b"}], '"answer" in row 2'), ([{"prompt": "a", "answer": 3}], "row 1 of"),
    ([{"prompt": " ", "answer": "A"}], "row 1 of"), ({"prompt": "a"}, "\"Definition\""), ([{"prompt": "a", "answer": "D"}], "no row"),
])
def test_malformed_trace(tmp_path, rows, words):
    refused(trace(tmp_path, train=rows), words, "train.json")
    if isinstance(rows, list):
        refused(trace(tmp_path / "x", test=rows), words, "test.json")
