"""The prompts of the fifteen data sets, whole and to the letter, in both programs' forms: nothing here is computed from the package.

Texts are made up in the forms of the data sets' rows; the rest is O-LoRA's and SAPT's own.
"""
import doctest
import json

import pytest

from mbf_utils import prompts
from mbf_utils.folders import read_folder
from mbf_utils.prompts import INSTRUCTIONS, KNOWN, frame_of
from mbf_utils.streams import Example


def asked(labels, text, answer, olora, sapt, says=None):
    return labels.split(", "), text, answer, olora, sapt, says or answer


# O-LoRA's folder: (labels.json, sentence, label, O-LoRA's prompt, SAPT's prompt, SAPT's answer where it is another)
PROMPTS = {
    "SC/yelp": asked(
        "very negative, negative, neutral, positive, very positive",
        "Text: Cold soup, slow waiters.\\nNever again!\n", "very negative",
        "Task:SC\nDataset:yelp\nWhat is the sentiment of the following paragraph? Choose one from the option.\n"
        "Option: very negative, negative, neutral, positive, very positive \n"
        "Text: Cold soup, slow waiters.\\nNever again!\n\nAnswer:",
        "Your task is to perform sentiment classification on the given reviews about a restaurant, choosing from the "
        "following 5 options: very negative, negative, neutral, positive and very positive\n"
        "Text: Cold soup, slow waiters.\\nNever again!\n\nOutput: "),
    "SC/amazon": asked(
        "very negative, negative, neutral, positive, very positive",
        "Title: Works\nText: Does what it says, no more.\n", "neutral",
        "Task:SC\nDataset:amazon\nWhat is the sentiment of the following paragraph? Choose one from the option.\n"
        "Option: very negative, negative, neutral, positive, very positive \nTitle: Works\n"
        "Text: Does what it says, no more.\n\nAnswer:",
        "Given a review text from an e-commerce platform, please analyze the sentiment polarity expressed in the text. "
        "Choose one from the following sentiment categories: very negative, negative, neutral, positive and very "
        "positive.\nTitle: Works\nText: Does what it says, no more.\n\nOutput: "),
    "SC/IMDB": asked(
        "Good, Bad",
        "A slow start.<br /><br />Then it grips you.", "Good",
        "Task:SC\nDataset:IMDB\nWhat is the sentiment of the following paragraph? Choose one from the option.\n"
        "Option: Good, Bad \nA slow start.<br /><br />Then it grips you.\nAnswer:",
        "Classify the sentiment polarity expressed in the following movie reviews.\n"
        "A slow start.<br /><br />Then it grips you.\nOutput: "),
    "SC/SST-2": asked(
        "Good, Bad",
        "Text: so unabashedly hopeful ", "Good",
        "Task:SC\nDataset:SST-2\nWhat is the sentiment of the following paragraph? Choose one from the option.\n"
        "Option: Good, Bad \nText: so unabashedly hopeful \nAnswer:",
        "Make a judgement on the sentiment of the given text.\nText: so unabashedly hopeful \nOutput: "),
    "TC/dbpedia": asked(
        "Company, Educational Institution, Artist, Athlete, Office Holder, Mean of Transportation, Building, Natural "
        "Place, Village, Animal, Plant, Album, Film, Written Work",
        "Title: Acme Boats\nText:  Acme Boats is a maker of boats.\n", "Company",
        "Task:TC\nDataset:dbpedia\nWhat is the topic of the following paragraph? Choose one from the option.\n"
        "Option: Company, Educational Institution, Artist, Athlete, Office Holder, Mean of Transportation, Building, "
        "Natural Place, Village, Animal, Plant, Album, Film, Written Work \nTitle: Acme Boats\n"
        "Text:  Acme Boats is a maker of boats.\n\nAnswer:",
        "I will give you some category entries from Wikipedia, please classify them by topic.\nTitle: Acme Boats\n"
        "Text:  Acme Boats is a maker of boats.\n\nOutput: "),
    "TC/agnews": asked(
        "World, Sports, Business, Science or Technology",
        "Title: Oil\nText: Prices rise.\\Again.\n", "Business",
        "Task:TC\nDataset:agnews\nWhat is the topic of the following paragraph? Choose one from the option.\n"
        "Option: World, Sports, Business, Science or Technology \nTitle: Oil\nText: Prices rise.\\Again.\n\nAnswer:",
        "Please categorize the topics of the news article given below.\nTitle: Oil\nText: Prices rise.\\Again.\n\n"
        "Output: "),
    "TC/yahoo": asked(
        "Society & Culture, Science & Mathematics, Health, Education & Reference, Computers & Internet, Sports, "
        "Business & Finance, Entertainment & Music, Family & Relationships, Politics & Government",
        "Title: Why is the sky blue?\nQuestion: I ask myself.\nAnswer: Light is scattered.\n", "Science & Mathematics",
        "Task:TC\nDataset:yahoo\nWhat is the topic of the following paragraph? Choose one from the option.\n"
        "Option: Society & Culture, Science & Mathematics, Health, Education & Reference, Computers & Internet, "
        "Sports, Business & Finance, Entertainment & Music, Family & Relationships, Politics & Government \n"
        "Title: Why is the sky blue?\nQuestion: I ask myself.\nAnswer: Light is scattered.\n\nAnswer:",
        "I will give you a pair of question and answer, please categorize the topic discussed within.\n"
        "Title: Why is the sky blue?\nQuestion: I ask myself.\nAnswer: Light is scattered.\n\nOutput: "),
    "NLI/MNLI": asked(
        "neutral, entailment, contradiction",
        "sentence 1: It rains.\nsentence 2: It is wet.", "entailment",
        "Task:NLI\nDataset:MNLI\n"
        'What is the logical relationship between the "sentence 1" and the "sentence 2"? Choose one from the option.\n'
        "Option: neutral, entailment, contradiction \nsentence 1: It rains.\nsentence 2: It is wet.\nAnswer:",
        'What is the logical relationship (contradiction, entailment or neutral) between the "sentence 1" and the '
        '"sentence 2"? Choose one from the option.\nsentence 1: It rains.\nsentence 2: It is wet.\nOutput: '),
    "NLI/CB": asked(
        "entailment, contradiction, neutral",
        "sentence 1: He thinks that she left.\nsentence 2: she left", "neutral",
        "Task:NLI\nDataset:CB\n"
        'What is the logical relationship between the "sentence 1" and the "sentence 2"? Choose one from the option.\n'
        "Option: entailment, contradiction, neutral \nsentence 1: He thinks that she left.\nsentence 2: she left\nAnswer:",
        "Given a pair of sentences 1 and 2, identify the relationship between them.\n"
        "sentence 1: He thinks that she left.\nsentence 2: she left\nOutput: "),
    "NLI/RTE": asked(
        "contradiction, entailment",
        "sentence 1: He won the race.\nsentence 2: He ran.", "entailment",
        "Task:NLI\nDataset:RTE\n"
        'What is the logical relationship between the "sentence 1" and the "sentence 2"? Choose one from the option.\n'
        "Option: contradiction, entailment \nsentence 1: He won the race.\nsentence 2: He ran.\nAnswer:",
        "Does the following sentence 1 contradict or entailment the sentence 2?\nsentence 1: He won the race.\n"
        "sentence 2: He ran.\nOutput: "),
    "QQP/QQP": asked(
        "False, True",
        "first sentence: Why?\nsecond sentence: How so?", "True",
        "Task:QQP\nDataset:QQP\n"
        'Whether the "first sentence" and the "second sentence" have the same meaning? Choose one from the option.\n'
        "Option: False, True \nfirst sentence: Why?\nsecond sentence: How so?\nAnswer:",
        'Whether the "first sentence" and the "second sentence" have the same meaning? Choose one from the option: yes '
        "or no.\nfirst sentence: Why?\nsecond sentence: How so?\nOutput: ", "yes"),
    "COPA/COPA": asked(
        "A, B",
        'Which sentence is the cause of "He fell."? Choose one between A and B.\nA: Ice.\nB: Tea.', "A",
        'Task:COPA\nDataset:COPA\nWhich sentence is the cause of "He fell."? Choose one between A and B.\nA: Ice.\n'
        "B: Tea.\nAnswer:",
        'Which sentence is the cause of "He fell."? Choose one between A and B.\nA: Ice.\nB: Tea.\nOutput: '),
    "MultiRC/MultiRC": asked(
        "False, True",
        "paragraph: He ran. \nquestion: Who?\ncandidate answer: he", "True",
        "Task:MultiRC\nDataset:MultiRC\n"
        "According to the following passage and question, is the candidate answer true or false? Choose one from the "
        "option.\nOption: False, True \nparagraph: He ran. \nquestion: Who?\ncandidate answer: he\nAnswer:",
        "According to the following passage and question, is the candidate answer true or false? Choose one from the "
        "option.\nparagraph: He ran. \nquestion: Who?\ncandidate answer: he\nOutput: "),
    "BoolQA/BoolQA": asked(
        "True, False",
        "question: is it\npassage: It -- It is.", "False",
        "Task:BoolQA\nDataset:BoolQA\n"
        "According to the following passage, is the question true or false? Choose one from the option.\n"
        "Option: True, False \nquestion: is it\npassage: It -- It is.\nAnswer:",
        "According to the following passage, is the question true or false? Choose one from the option.\n"
        "question: is it\npassage: It -- It is.\nOutput: "),
    "WiC/WiC": asked(
        "True, False",
        "word: bank\nA bank.\nThe bank.", "False",
        "Task:WiC\nDataset:WiC\n"
        "Given a word and two sentences, whether the word is used with the same sense in both sentence? Choose one "
        "from the option.\nOption: True, False \nword: bank\nA bank.\nThe bank.\nAnswer:",
        "Given a word and two sentences, whether the word is used with the same sense in both sentence?\nword: bank\n"
        "A bank.\nThe bank.\nOutput: "),
}
SAPTS_NAMES = {name: {"BoolQA": "boolq", "SST-2": "sst2"}.get(name, name.lower()) for name in KNOWN}       # as its folder has them
places = pytest.mark.parametrize("place", PROMPTS)


def example(prompt, answer, text, end):
    """The row, whose text stands right before the frame's end."""
    stop = len(prompt) - len(end)
    return Example(prompt, (answer,), (stop - len(text), stop))


def test_every_data_set_is_here():
    assert {tuple(place.split("/")) for place in PROMPTS} == {(told.kind, name) for name, told in KNOWN.items()} and len(PROMPTS) == 15
    assert {place.split("/")[0] for place in PROMPTS} == set(INSTRUCTIONS)


def test_examples_in_docstrings():
    assert doctest.testmod(prompts).failed == 0 < doctest.testmod(prompts).attempted


@places
def test_rows_in_olora_s_form_get_both_programs_prompts(tmp_path, place):
    labels, text, answer, olora, sapt, says = PROMPTS[place]
    rows = [{"sentence": text, "label": answer}, *({"sentence": f"other {i}", "label": label} for i, label in enumerate(labels))]
    write(tmp_path / place, labels=labels, train=rows, test=[{"sentence": "new", "label": answer}], dev=[{"sentence": "newer", "label": answer}])
    assert read_folder(tmp_path)[0].train[0] == example(olora, answer, text, "\nAnswer:") and read_folder(tmp_path)[0].labels == tuple(labels)
    assert read_folder(tmp_path, prompts="SAPT")[0].train[0] == example(sapt, says, text, "\nOutput: ")
    bare = olora.removeprefix(f"Task:{place.split('/')[0]}\nDataset:{place.split('/')[1]}\n")
    assert read_folder(tmp_path, named=False)[0].train[0] == example(bare, answer, text, "\nAnswer:") and bare != olora


@places
def test_rows_in_sapts_form_get_both_programs_prompts(tmp_path, place):
    labels, text, answer, olora, sapt, says = PROMPTS[place]
    name = SAPTS_NAMES[place.split("/")[1]]
    definition = sapt.removesuffix(text + "\nOutput: ").strip()
    outputs = [{"True": "yes", "False": "no"}[label] for label in labels] if name == "qqp" else labels

    def split(*rows):
        return {"Definition": [definition] if definition else [], "Instances": [{"input": text, "output": output} for text, output in rows]}
    write(tmp_path / name, train=split((text, says), *((f"other {i}", output) for i, output in enumerate(outputs))),
          test=split(("new", says)), dev=split(("newer", says)))
    assert read_folder(tmp_path)[0].train[0] == example(sapt, says, text, "\nOutput: ")
    assert read_folder(tmp_path, prompts="O-LoRA")[0].train[0] == example(olora, answer, text, "\nAnswer:")


@places
def test_the_hubs_rows_get_both_programs_prompts(place):
    labels, text, answer, olora, sapt, says = PROMPTS[place]
    name = place.split("/")[1]
    assert frame_of(name, None, True).ask(text, answer) == example(olora, answer, text, "\nAnswer:")
    assert frame_of(name, "SAPT", True).ask(text, answer) == example(sapt, says, text, "\nOutput: ")
    assert frame_of(name, None, True).labels == tuple(labels)


@places
def test_real_rows_stand_in_these_frames(real_rows, place):
    labels, text, answer, olora, sapt, says = PROMPTS[place]
    name = place.split("/")[1]
    assert json.loads((real_rows / "cl_benchmark" / place / "labels.json").read_text()) == labels
    for form, whole, end in ((None, olora, "\nAnswer:"), ("SAPT", sapt, "\nOutput: ")):
        task = read_folder(real_rows / "cl_benchmark", [name], prompts=form)[0]
        assert {(row.prompt[:row.body[0]], row.prompt[row.body[1]:]) for row in task.train + task.dev + task.test} == {
            (whole.removesuffix(text + end), end)}


def write(folder, **files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
