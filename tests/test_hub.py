"""The Hub's data sets without the Hub: a stand-in for load_dataset gives small tables with the real names, types and classes."""
import re
import warnings

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets.exceptions import DatasetNotFoundError

from mbf_utils import hub
from mbf_utils.errors import InputError
from mbf_utils.prompts import KNOWN
from mbf_utils.sources import load_stream
from mbf_utils.streams import ORDERS

TEXT, INT, FALSE_TRUE = Value("string"), Value("int32"), ClassLabel(names=["False", "True"])
ENTAILS = ClassLabel(names=["entailment", "not_entailment"])
SUPER = "hgissbkh/super_glue"
# (id, configuration): (features, test split, a row; numbers of rows go into {}), as dataset_infos has them. The class is the row's None.
RECORDED = {
    ("fancyzhx/ag_news", None): ({"text": TEXT, "label": ClassLabel(names=["World", "Sports", "Business", "Sci/Tech"])}, "test",
                                 {"text": "Oil {} rises. Prices\\are up.", "label": None}),
    ("fancyzhx/dbpedia_14", "dbpedia_14"): (
        {"label": ClassLabel(names=["Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder", "MeanOfTransportation",
                                    "Building", "NaturalPlace", "Village", "Animal", "Plant", "Album", "Film", "WrittenWork"]),
         "title": TEXT, "content": TEXT}, "test", {"label": None, "title": "Acme {}", "content": " Acme is a firm."}),
    ("Yelp/yelp_review_full", "yelp_review_full"): (
        {"label": ClassLabel(names=["1 star", "2 star", "3 stars", "4 stars", "5 stars"]), "text": TEXT}, "test",
        {"label": None, "text": "Good {}\\nfood"}),
    ("community-datasets/yahoo_answers_topics", "yahoo_answers_topics"): (
        {"id": INT, "topic": ClassLabel(names=list(KNOWN["yahoo"].labels)), "question_title": TEXT, "question_content": TEXT,
         "best_answer": TEXT}, "test",
        {"id": 0, "topic": None, "question_title": "Why {}?", "question_content": "I ask.", "best_answer": "So."}),
    ("stanfordnlp/imdb", "plain_text"): ({"text": TEXT, "label": ClassLabel(names=["neg", "pos"])}, "test",
                                         {"text": "A film {}.<br />Seen.", "label": None}),
    ("nyu-mll/glue", "sst2"): ({"sentence": TEXT, "label": ClassLabel(names=["negative", "positive"]), "idx": INT},
                               "validation", {"sentence": "hopeful {} ", "label": None, "idx": 0}),
    ("nyu-mll/glue", "mnli"): ({"premise": TEXT, "hypothesis": TEXT, "idx": INT,
                                "label": ClassLabel(names=["entailment", "neutral", "contradiction"])}, "validation_matched",
                               {"premise": "It rains {}.", "hypothesis": "It is wet.", "label": None, "idx": 0}),
    ("nyu-mll/glue", "rte"): ({"sentence1": TEXT, "sentence2": TEXT, "label": ENTAILS, "idx": INT}, "validation",
                              {"sentence1": "It rains {}.", "sentence2": "It is wet.", "label": None, "idx": 0}),
    ("nyu-mll/glue", "qqp"): ({"question1": TEXT, "question2": TEXT, "label": ClassLabel(names=["not_duplicate", "duplicate"]),
                               "idx": INT}, "validation",
                              {"question1": "Why {}?", "question2": "How so?", "label": None, "idx": 0}),
    (SUPER, "cb"): ({"premise": TEXT, "hypothesis": TEXT, "idx": INT,
                     "label": ClassLabel(names=["entailment", "contradiction", "neutral"])}, "validation",
                    {"premise": "He {} ran.", "hypothesis": "He moved.", "label": None, "idx": 0}),
    (SUPER, "copa"): ({"premise": TEXT, "choice1": TEXT, "choice2": TEXT, "question": TEXT, "idx": INT,
                       "label": ClassLabel(names=["choice1", "choice2"])}, "validation",
                      {"premise": "He fell {}.", "choice1": "Ice.", "choice2": "Tea.", "question": "cause", "label": None, "idx": 0}),
    (SUPER, "multirc"): ({"paragraph": TEXT, "question": TEXT, "answer": TEXT, "idx": dict.fromkeys(("paragraph", "question", "answer"), INT),
                          "label": FALSE_TRUE}, "validation",
                         {"paragraph": "He ran {}.", "question": "Who?", "answer": "he", "idx": {"paragraph": 0, "question": 1, "answer": 2},
                          "label": None}),
    (SUPER, "boolq"): ({"question": TEXT, "passage": TEXT, "idx": INT, "label": FALSE_TRUE}, "validation",
                       {"question": "is it", "passage": "It {} -- It is.", "idx": 0, "label": None}),
    (SUPER, "wic"): ({"word": TEXT, "sentence1": TEXT, "sentence2": TEXT, "start1": INT, "start2": INT, "end1": INT, "end2": INT, "idx": INT,
                      "label": FALSE_TRUE}, "validation",
                     {"word": "bank", "sentence1": "A bank {}.", "sentence2": "The bank.", "start1": 2, "start2": 4, "end1": 6, "end2": 8,
                      "idx": 0, "label": None}),
    ("vgaraujov/amazon_review_full", None): ({"label": Value("int64"), "title": TEXT, "text": TEXT}, "test",
                                             {"label": None, "title": "Great {}", "text": "Lovely."}),
}
GOOGLES = {"question": TEXT, "answer": Value("bool"), "passage": TEXT}        # google/boolq: no class names, no numbers of rows
# Every place that the kit may look in, with what is recorded of it. The copies of SuperGLUE have its schema, ag_news that of its new place.
PLACES = [(name, place, config) for name, source in hub.SOURCES.items() for place, config in source.ids]
SENTENCES = {                                       # of row 7, as O-LoRA's files write it
    "agnews": "Text: Oil 7 rises. Prices\\are up.\n", "dbpedia": "Title: Acme 7\nText:  Acme is a firm.\n",
    "yelp": "Text: Good 7\\nfood\n", "amazon": "Title: Great 7\nText: Lovely.\n",
    "yahoo": "Title: Why 7?\nQuestion: I ask.\nAnswer: So.\n", "IMDB": "A film 7.<br />Seen.", "SST-2": "Text: hopeful 7 ",
    "MNLI": "sentence 1: It rains 7.\nsentence 2: It is wet.", "CB": "sentence 1: He 7 ran.\nsentence 2: He moved.",
    "RTE": "sentence 1: It rains 7.\nsentence 2: It is wet.", "QQP": "first sentence: Why 7?\nsecond sentence: How so?",
    "COPA": 'Which sentence is the cause of "He fell 7."? Choose one between A and B.\nA: Ice.\nB: Tea.',
    "MultiRC": "paragraph: He ran 7. \nquestion: Who?\ncandidate answer: he", "BoolQA": "question: is it\npassage: It 7 -- It is.",
    "WiC": "word: bank\nA bank 7.\nThe bank.",
}
BY_NUMBER = {                                       # O-LoRA's label of the Hub's class 0, 1, ... (amazon: of 1, 2, ...)
    **{name: KNOWN[name].labels for name in ("agnews", "dbpedia", "yelp", "amazon", "yahoo", "COPA")},
    **{name: ("Bad", "Good") for name in ("IMDB", "SST-2")}, **{name: ("False", "True") for name in ("QQP", "MultiRC", "BoolQA", "WiC")},
    "MNLI": ("entailment", "neutral", "contradiction"), "CB": ("entailment", "contradiction", "neutral"),
    "RTE": ("entailment", "contradiction"),
}
COUNTS = {"train": 120, "test": 40}


def rows_of(features, row, numbers, first=0):
    """Row i has class number i mod the number of classes (first is the number of the first class)."""
    label = next(name for name, value in row.items() if value is None)
    classes = features[label].num_classes if isinstance(features[label], ClassLabel) else 2 if features[label] == Value("bool") else 5
    made = [{name: first + i % classes if name == label else value.replace("{}", str(i)) if isinstance(value, str) else value
             for name, value in row.items()} for i in numbers]
    return Dataset.from_list(made, features=Features(features))


def number_in(text):
    """The number of the row that a sentence was made of."""
    return int(re.search(r"\d+", text.replace("sentence 1", "").replace("sentence 2", ""))[0])


class Fake:
    """In place of datasets.load_dataset. tables: (id, configuration) -> {split: Dataset}; anything else is not found."""

    def __init__(self):
        self.tables, self.asked, self.failing = {}, [], {}
        for key, (features, test, row) in RECORDED.items():
            first = int(key[0].startswith("vgaraujov"))
            self.tables[key] = {"train": rows_of(features, row, range(COUNTS["train"]), first),
                                test: rows_of(features, row, range(1000, 1000 + COUNTS["test"]), first)}

    def __call__(self, path, name=None, *, split, **options):
        self.asked.append((path, name, split, options))
        if path in self.failing:
            raise self.failing[path]
        if (path, name) not in self.tables:
            raise DatasetNotFoundError(f"Dataset '{path}' doesn't exist on the Hub or cannot be accessed.")
        table = self.tables[path, name]
        if split not in table:
            raise ValueError(f'Unknown split "{split}". Should be one of {list(table)}.')
        return table[split](options) if callable(table[split]) else table[split]


@pytest.fixture
def fake(monkeypatch):
    stand_in = Fake()
    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    return stand_in


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name, order", [(name, order) for name in ("standard", "long") for order in ORDERS[name]])
def test_every_order_with_olora_prompts(fake, name, order):
    stream = load_stream(name, order=order)
    assert (stream.name, stream.order, stream.names, stream.named) == (name, order, ORDERS[name][order], True)
    for task in stream:
        kind, labels, _ = KNOWN[task.name]
        assert task.labels == labels and {row.answers[0] for row in task.train} == set(labels)
        for row in task.train + task.dev + task.test:
            text = row.prompt[slice(*row.body)]
            number = number_in(text)
            assert text == SENTENCES[task.name].replace("7", str(number))
            assert row.answers == (BY_NUMBER[task.name][number % len(labels)],)
            assert row.prompt.startswith(f"Task:{kind}\nDataset:{task.name}\n") and row.prompt.endswith(text + "\nAnswer:")
            assert (f"Option: {', '.join(labels)} \n" in row.prompt) == (task.name != "COPA")


def test_orders_by_default_and_by_name(fake):
    assert load_stream("standard").order == "1" and load_stream("long").order == "4"
    assert load_stream("standard:3") == load_stream("standard", 3) == load_stream("standard", "standard:3")
    assert load_stream("long", ["boolq", "sst2", "cb"]).names == ["BoolQA", "SST-2", "CB"] == load_stream("long:BoolQ,SST2,CB").names
    for order, words in (("4", "tasks of standard in the order '4', found 'MNLI'"), (["amzon"], "did you mean amazon"),
                         (["yahoo", "Yahoo"], "'yahoo' 2 times"), ([], "found"), ("trace:1", "C-STANCE")):
        with pytest.raises(InputError, match=words):
            load_stream("standard", order)


def test_splits_are_drawn_with_the_seed_and_share_no_text(fake):
    task = load_stream("standard", ["amazon"])[0]
    assert (len(task.train), len(task.dev), len(task.test)) == (108, 12, 40)
    prompts = {split: [row.prompt for row in getattr(task, split)] for split in ("train", "dev", "test")}
    assert len({prompt for rows in prompts.values() for prompt in rows}) == 160
    assert load_stream("standard", ["amazon"])[0] == task != load_stream("standard", ["amazon"], seed=1)[0]
    few = load_stream("standard", ["amazon"], limit=5)[0]
    assert [len(rows) for rows in (few.train, few.dev, few.test)] == [5, 5, 5] and set(few.train) < set(task.train)
    assert load_stream("standard", ["yahoo", "amazon"])[1] == task            # whatever comes before


def test_many_rows_are_drawn_a_thousand_a_class_and_7600_for_the_test(fake, monkeypatch):
    monkeypatch.setattr(hub, "TRAIN", 10)
    monkeypatch.setattr(hub, "TEST", 15)
    task = load_stream("standard", ["agnews"])[0]
    assert (len(task.train), len(task.dev), len(task.test)) == (40, 4, 15)
    table = fake.tables["fancyzhx/ag_news", None]["train"]
    rows = [f"Text: {row['text']}\n" for row in table.shuffle(seed=0).select(range(40))]
    assert [row.prompt[slice(*row.body)] for row in task.train] == rows       # shuffle(seed), then the first
    assert hub.TRAIN == 10 and [row.prompt for row in task.test] != sorted(row.prompt for row in task.test)


def test_the_sizes_are_those_of_the_field():
    assert (hub.TRAIN, hub.TEST) == (1000, 7600)
    assert {name: 1000 * len(source.classes) for name, source in hub.SOURCES.items() if name in ORDERS["standard"]["1"]} == {
        "dbpedia": 14000, "amazon": 5000, "yahoo": 10000, "agnews": 4000}
    assert set(hub.SOURCES) == set(ORDERS["long"]["4"]) == set(KNOWN)


def test_a_paragraph_is_not_in_train_and_dev(fake):
    features, test, row = RECORDED[SUPER, "multirc"]
    table = rows_of(features, row, range(120))
    fake.tables[SUPER, "multirc"]["train"] = table.map(lambda row, i: {"paragraph": f"Story {i % 30}.", "answer": str(i)}, with_indices=True)
    task = load_stream("long", ["MultiRC"])[0]
    stories = [{re.search(r"Story (\d+)", row.prompt)[1] for row in rows} for rows in (task.train, task.dev)]
    assert not stories[0] & stories[1] and len(task.dev) == 12 and 60 <= len(task.train) < 108


def test_sapts_prompts(fake):
    stream = load_stream("long", ["QQP", "COPA", "yelp"], prompts="sapt")
    assert not stream.named and stream["QQP"].labels == ("no", "yes")
    row = stream["QQP"].train[0]
    question = int(re.search(r"\d+", row.prompt)[0])
    assert row.prompt == ('Whether the "first sentence" and the "second sentence" have the same meaning? Choose one from the option: '
                          f"yes or no.\nfirst sentence: Why {question}?\nsecond sentence: How so?\nOutput: ")
    assert row.answers == (("no", "yes")[question % 2],)
    assert stream["COPA"].train[0].prompt.startswith("Which sentence is the cause")
    assert load_stream("standard", named=False)["amazon"].train[0].prompt.startswith("What is the sentiment")


@pytest.mark.parametrize("name, place, config", PLACES)
def test_every_place_is_read_where_it_is_the_only_one(fake, name, place, config):
    kept = next((fake.tables[key] for key in RECORDED if key[1] == config and (key[0] == place or name in SUPERGLUE or name == "agnews")), None)
    if place == "google/boolq":
        kept = {split: rows_of(GOOGLES, {"question": "is it", "answer": None, "passage": "It {} -- It is."}, range(start, start + 40))
                for split, start in (("train", 0), ("validation", 1000))}
    fake.tables = {(place, config): kept}
    with pytest.warns(UserWarning, match=f"{name} is {place}"):
        task = load_stream("long", [name])[0]
    labels = KNOWN[name].labels
    assert task.labels == labels and {row.answers[0] for row in task.train} == {row.answers[0] for row in task.test} == set(labels)
    for row in task.train + task.dev + task.test:
        text = row.prompt[slice(*row.body)]
        number = number_in(text)
        assert text == SENTENCES[name].replace("7", str(number)) and row.answers == (BY_NUMBER[name][number % len(labels)],)
    asked = [path for path, *_ in fake.asked]
    assert asked[-1] == place and list(dict.fromkeys(asked)) == [other for other, _ in hub.SOURCES[name].ids][:len(set(asked))]


SUPERGLUE = ("CB", "COPA", "MultiRC", "BoolQA", "WiC")


def test_the_places_are_all_recorded_ones():
    assert {place for name, place, _ in PLACES if name in SUPERGLUE} == {"aps/super_glue", SUPER, "Hyukkyu/superglue", "google/boolq"}
    others = {(place, config) for name, place, config in PLACES if name not in SUPERGLUE} - {("ag_news", None)}
    assert others | {(SUPER, config) for config in ("cb", "copa", "multirc", "boolq", "wic")} == set(RECORDED)


def test_where_no_place_can_be_read_every_reason_is_told(fake):
    fake.failing["aps/super_glue"] = RuntimeError("Dataset scripts are no longer supported, but found super_glue.py")
    with pytest.warns(UserWarning, match="CB is hgissbkh/super_glue; .*BoolQA is hgissbkh/super_glue") as caught:
        load_stream("long", ["CB", "BoolQA"])
    assert len(caught) == 1 and [path for path, *_ in fake.asked[:2]] == ["aps/super_glue", "hgissbkh/super_glue"]
    fake.failing[SUPER] = ConnectionError("no way")
    with pytest.raises(InputError, match="data set CB on the Hugging Face Hub.*aps/super_glue: RuntimeError, Dataset scripts are no longer.*"
                       "hgissbkh/super_glue: ConnectionError, no way; Hyukkyu/superglue: DatasetNotFoundError"):
        load_stream("long", ["CB"])


def test_the_place_is_told_and_nothing_else_where_all_is_well(fake, monkeypatch):
    monkeypatch.setattr(hub, "TRAIN", 7)
    for name, order, places in (
            ("standard", ["dbpedia", "yahoo"], "dbpedia is fancyzhx/dbpedia_14; yahoo is community-datasets/yahoo_answers_topics"),
            ("long", ["SST-2", "IMDB"], "SST-2 is nyu-mll/glue; IMDB is stanfordnlp/imdb"),
            ("standard", ["agnews"], "agnews is fancyzhx/ag_news, whose title and body stand in one text")):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_stream(name, order)
        assert [str(warning.message) for warning in caught] == [f"{name} from the Hub: {places}."]


def test_a_label_that_a_limit_leaves_without_a_row_is_said(fake):
    with pytest.warns(UserWarning, match=r"CB: none of the 1 rows of train that limit leaves has the label \w+ or \w+ \(raise it\)"):
        load_stream("long", ["CB"], limit=1)


@pytest.mark.parametrize("rows, train, dev", [(120, 108, 12), (250, 225, 25), (2, 1, 1)])
def test_a_set_too_small_for_train_and_dev_is_said(fake, rows, train, dev):
    """CB has 250 rows, which the field trains on whole, its dev being its test."""
    features, _, row = RECORDED[SUPER, "cb"]
    fake.tables[SUPER, "cb"]["train"] = rows_of(features, row, range(rows))
    with pytest.warns(UserWarning, match=f"CB: too few rows for {rows} of train and {dev} of dev, so train has {train}"):
        task = load_stream("long", ["CB"])[0]
    assert (len(task.train), len(task.dev)) == (train, dev) and not {row.prompt for row in task.train} & {row.prompt for row in task.dev}


@pytest.mark.parametrize("odd", [{"label": -1}, {"text": ""}, {"text": None}, {"label": None}])
def test_rows_that_cannot_be_used_do_not_count_among_those_that_are_drawn(fake, monkeypatch, odd):
    """A task has its size as long as there are rows for it, wherever the others lie."""
    monkeypatch.setattr(hub, "TRAIN", 10)
    monkeypatch.setattr(hub, "TEST", 30)
    features = RECORDED["fancyzhx/ag_news", None][0]
    for split, start in (("train", 0), ("test", 1000)):
        table = [{"text": f"News {start + i}", "label": i % 4, **(odd if i % 3 == 0 else {})} for i in range(120)]
        fake.tables["fancyzhx/ag_news", None][split] = Dataset.from_list(table, Features(features))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = load_stream("standard", ["agnews"])[0]
    assert (len(task.train), len(task.dev), len(task.test)) == (40, 4, 30)
    found = [int(re.search(r"News (\d+)", row.prompt)[1]) for row in task.train + task.dev + task.test]
    assert all(number % 1000 % 3 for number in found) and len(set(found)) == 74
    messages = [str(warning.message) for warning in caught]
    assert any("of agnews: dropped" in message for message in messages) and not any("too few" in message for message in messages)


AMAZON = "vgaraujov/amazon_review_full", None


@pytest.mark.parametrize("column, shift", [("label", 1), ("class", 1), ("label", 0)])
def test_amazons_columns_and_numbers_are_looked_at(fake, column, shift):
    fake.tables[AMAZON] = {split: Dataset.from_list([{column: i % 5 + shift, "title": f"T {i}", "content": "c"} for i in range(start, start + 30)])
                           for split, start in (("train", 0), ("test", 100))}
    for row in load_stream("standard", ["amazon"])[0].train:
        number = int(re.search(r"Title: T (\d+)\nText: c\n", row.prompt)[1])
        assert row.answers == (KNOWN["amazon"].labels[number % 5],)


def test_a_csv_without_a_header_is_read_again(fake):
    def read(options):
        rows = [(i % 5 + 1, f"T {i}", "c") for i in range(30)]
        names = options.get("names") or ["3", "a title", "a text"]            # the first row was taken for the names
        assert options in ({}, {"header": None, "names": ["label", "title", "text"]})
        return Dataset.from_list([dict(zip(names, row)) for row in rows])
    fake.tables[AMAZON] = {"train": read, "test": read}
    task = load_stream("standard", ["amazon"])[0]
    assert {re.search(r"T (\d+)", row.prompt)[1]: row.answers for row in task.train}.items() <= {
        str(i): (KNOWN["amazon"].labels[i % 5],) for i in range(30)}.items()


@pytest.mark.parametrize("change, words", [
    (lambda row: {"label": row["label"] % 2, "title": row["title"], "text": "x"}, None),
    (lambda row: {"label": row["label"] + 3, "title": "t", "text": "x"}, "classes 4, 5, 6, 7, 8 in place of 1, 2, 3, 4, 5"),
    (lambda row: {"label": row["label"] % 3 + 1, "title": "t", "text": "x"}, "classes 1, 2, 3 in place of"),
    (lambda row: {"label": "fine", "title": "t", "text": "x"}, "classes fine in place of"),
    (lambda row: {"stars": row["label"], "title": "t", "text": "x"}, "no column label or class among .*stars"),
    (lambda row: {"label": row["label"], "title": "t", "said": "x"}, "no column text or content or body among"),
])
def test_columns_and_classes_that_do_not_fit_are_refused(fake, change, words):
    train = fake.tables[AMAZON]["train"]
    fake.tables[AMAZON] = {split: Dataset.from_list([change(row) for row in train]) for split in ("train", "test")}
    if words:
        with pytest.raises(InputError, match=words):
            load_stream("standard", ["amazon"])
    else:
        assert len(load_stream("standard", ["amazon"])[0].test)


def test_class_names_in_another_order_are_read_by_name(fake):
    features = {"sentence": TEXT, "label": ClassLabel(names=["positive", "negative"])}
    fake.tables["nyu-mll/glue", "sst2"] = {split: Dataset.from_list([{"sentence": f"{('good', 'bad')[i % 2]} {i}", "label": i % 2}
                                           for i in range(start, start + 30)], features=Features(features))
                                           for split, start in (("train", 0), ("validation", 100))}
    for row in load_stream("long", ["SST-2"])[0].train:
        assert row.answers == (("Good",) if "good" in row.prompt else ("Bad",))
    features["label"] = ClassLabel(names=["good", "bad"])
    fake.tables["nyu-mll/glue", "sst2"]["train"] = fake.tables["nyu-mll/glue", "sst2"]["train"].cast(Features(features))
    with pytest.raises(InputError, match="classes good, bad in place of negative, positive"):
        load_stream("long", ["SST-2"])


def test_rows_without_class_or_text_are_left_out_and_counted(fake):
    features, test, row = RECORDED["community-datasets/yahoo_answers_topics", "yahoo_answers_topics"]
    table = rows_of(features, row, range(120)).to_list()
    table[3]["best_answer"], table[4]["question_title"], table[5]["topic"] = "", "", -1
    for odd in table[10:]:
        odd["question_content"] = ""
    fake.tables["community-datasets/yahoo_answers_topics", "yahoo_answers_topics"]["test"] = Dataset.from_list(table, Features(features))
    with pytest.warns(UserWarning, match="test of yahoo: dropped 3 of 120 rows"):
        task = load_stream("standard", ["yahoo"])[0]
    assert len(task.test) == 117 and task.test[-1].prompt.endswith("Question: Why 119?\nAnswer: So.\n\nAnswer:")


def test_texts_in_two_splits_are_said(fake):
    features, test, row = RECORDED[SUPER, "wic"]
    fake.tables[SUPER, "wic"]["validation"] = rows_of(features, row, range(120))
    with pytest.warns(UserWarning, match="WiC: 108 of 120 texts of test stand in train too"):
        load_stream("long", ["WiC"])


# --- Super-NaturalInstructions ---------------------------------------------------------------------------------------------

EXAMPLES = ("\n\nPositive Example 1 -\nInput: a\nOutput: b\n\nNegative Example 1 -\nInput: c\nOutput: d")


def superni(fake, examples=EXAMPLES, outputs=("POS", "NEG"), task="task363_sst2_polarity_classification", key="output"):
    fake.tables[f"Lots-of-LoRAs/{task}", None] = {
        split: Dataset.from_list([{"input": f"Definition: Say it.{examples}\n\nNow complete the following example -\nInput: film {start + i}\nOutput: ",
                                   key: [outputs[i % len(outputs)]], "id": f"{split}-{i}"} for i in range(count)])
        for split, start, count in (("train", 0, 1200), ("valid", 2000, 150), ("test", 3000, 150))}
    return task


@pytest.mark.parametrize("examples", [EXAMPLES, ""])
def test_superni_gets_sapts_prompt_and_sizes(fake, examples):
    task = superni(fake, examples)
    with pytest.warns(UserWarning, match=f"{task} is Lots-of-LoRAs/{task}"):
        stream = load_stream("superni", [task])
    assert (len(stream[0].train), len(stream[0].dev), len(stream[0].test)) == (1000, 100, 100)
    assert stream[0].labels == ("POS", "NEG") and not stream.named and stream == load_stream("superni", [task], prompts="sapt")
    for row in stream[0].train + stream[0].test:
        text = row.prompt[slice(*row.body)]
        assert row.prompt == f"Definition: Say it.\n\nNow complete the following example -\nInput: {text}\nOutput: "
        assert row.answers == (("POS", "NEG")[int(text.removeprefix("film ")) % 2],)
    with pytest.raises(InputError, match="SAPT or chat for superni, found 'O-LoRA'"):
        load_stream("superni", [task], prompts="olora")


def test_superni_rows_without_an_answer_do_not_count_among_those_that_are_drawn(fake):
    """As six of Reddit's: a task has its size as long as there are rows for it."""
    task = superni(fake, task="task511_reddit_tifu_long_text_summarization", outputs=("some words", "", "more words", "words", "said"))
    with pytest.warns(UserWarning, match=f"train of {task}: dropped 240 of 1200 rows"):
        found = load_stream("superni", [task])[0]
    assert (len(found.train), len(found.dev), len(found.test)) == (960, 100, 100)


def test_superni_order_O1_by_default(fake):
    for name in ORDERS["superni"]["O1"]:
        superni(fake, outputs=hub.SUPERNI_LABELS.get(name, ("some words", "")), task=name)
    assert load_stream("superni", limit=3).names == ORDERS["superni"]["O1"]
    assert load_stream("superni:o2", limit=3).names == ORDERS["superni"]["O2"]


def test_superni_from_the_one_set_of_all_tasks(fake):
    task = "task591_sciq_answer_generation"
    superni(fake, task=task)
    plain = fake.tables[f"Lots-of-LoRAs/{task}", None]["train"].map(lambda row: {"input": "only a text"})
    fake.tables[f"Lots-of-LoRAs/{task}", None]["train"] = plain               # without its definition it is of no use
    rows = [{"task_name": (task, "task001_other")[i % 2], "id": str(i), "definition": "Answer it. ", "inputs": f"What is {i}?",
             "targets": f"it {i}"} for i in range(200)]
    fake.tables["Muennighoff/natural-instructions", None] = {"train": Dataset.from_list(rows[:100]), "test": Dataset.from_list(rows[100:])}
    with pytest.warns(UserWarning, match=f"{task} is Muennighoff/natural-instructions"):
        found = load_stream("superni", [task])[0]
    assert (len(found.train), len(found.dev), len(found.test)) == (80, 10, 10)
    everything = found.train + found.dev + found.test
    assert len(set(everything)) == 100 and all(int(row.answers[0][3:]) % 2 == 0 for row in everything)
    assert everything[0].prompt.startswith("Definition: Answer it.\n\nNow complete the following example -\nInput: What is ")
