"""The prompts of the field's programs, letter for letter, and what is known of the fifteen data sets that they were written for.

O-LoRA   Task:SC\\nDataset:yelp\\n<instruction>Option: <labels> \\n<text>\\nAnswer:
         cmnfriend/O-LoRA. The first two lines can be left out; COPA has no instruction and no options.
SAPT     <definition>\\n<text>\\nOutput:<blank>
         circle-hit/SAPT, its folder Long_Sequence. COPA has no definition.
SuperNI  Definition: <definition>\\n\\nNow complete the following example -\\nInput: <text>\\nOutput:<blank>
         circle-hit/SAPT, its folder SuperNI.

The text is all that may be shortened (Example.body). Braces and marks in it mean nothing: it is joined, never formatted.
"""
from __future__ import annotations

import os
from typing import Callable, NamedTuple, Sequence

from mbf_utils.errors import InputError
from mbf_utils.streams import Example

FORMS = ("O-LoRA", "SAPT", "chat")                 # of load_stream(prompts=...); chat: see text.in_chat

# O-LoRA configs/instruction_config.json. COPA has no instruction and no list of options.
INSTRUCTIONS = {
    "SC": "What is the sentiment of the following paragraph? Choose one from the option.\n",
    "TC": "What is the topic of the following paragraph? Choose one from the option.\n",
    "NLI": 'What is the logical relationship between the "sentence 1" and the "sentence 2"? Choose one from the option.\n',
    "QQP": 'Whether the "first sentence" and the "second sentence" have the same meaning? Choose one from the option.\n',
    "BoolQA": "According to the following passage, is the question true or false? Choose one from the option.\n",
    "MultiRC": "According to the following passage and question, is the candidate answer true or false? "
               "Choose one from the option.\n",
    "WiC": "Given a word and two sentences, whether the word is used with the same sense in both sentence? "
           "Choose one from the option.\n",
    "COPA": None,
}


class Known(NamedTuple):
    """A data set of the long benchmark: O-LoRA's task type, its labels.json in order, and SAPT's definition ("" for none)."""
    kind: str
    labels: tuple[str, ...]
    definition: str


_GRADES = ("very negative", "negative", "neutral", "positive", "very positive")
# Labels: CL_Benchmark/<kind>/<name>/labels.json of O-LoRA. Definitions: CL_Benchmark/Long_Sequence/<name>/train.json of SAPT.
KNOWN = {
    "yelp": Known("SC", _GRADES, "Your task is to perform sentiment classification on the given reviews about a restaurant, "
                  "choosing from the following 5 options: very negative, negative, neutral, positive and very positive"),
    "amazon": Known("SC", _GRADES, "Given a review text from an e-commerce platform, please analyze the sentiment polarity "
                    "expressed in the text. Choose one from the following sentiment categories: very negative, negative, "
                    "neutral, positive and very positive."),
    "IMDB": Known("SC", ("Good", "Bad"), "Classify the sentiment polarity expressed in the following movie reviews."),
    "SST-2": Known("SC", ("Good", "Bad"), "Make a judgement on the sentiment of the given text."),
    "dbpedia": Known("TC", ("Company", "Educational Institution", "Artist", "Athlete", "Office Holder", "Mean of Transportation",
                            "Building", "Natural Place", "Village", "Animal", "Plant", "Album", "Film", "Written Work"),
                     "I will give you some category entries from Wikipedia, please classify them by topic."),
    "agnews": Known("TC", ("World", "Sports", "Business", "Science or Technology"),
                    "Please categorize the topics of the news article given below."),
    "yahoo": Known("TC", ("Society & Culture", "Science & Mathematics", "Health", "Education & Reference", "Computers & Internet",
                          "Sports", "Business & Finance", "Entertainment & Music", "Family & Relationships",
                          "Politics & Government"),
                   "I will give you a pair of question and answer, please categorize the topic discussed within."),
    "MNLI": Known("NLI", ("neutral", "entailment", "contradiction"),
                  'What is the logical relationship (contradiction, entailment or neutral) between the "sentence 1" and the '
                  '"sentence 2"? Choose one from the option.'),
    "CB": Known("NLI", ("entailment", "contradiction", "neutral"),
                "Given a pair of sentences 1 and 2, identify the relationship between them."),
    "RTE": Known("NLI", ("contradiction", "entailment"),
                 "Does the following sentence 1 contradict or entailment the sentence 2?"),
    "QQP": Known("QQP", ("False", "True"), 'Whether the "first sentence" and the "second sentence" have the same meaning? '
                 "Choose one from the option: yes or no."),
    "COPA": Known("COPA", ("A", "B"), ""),
    "MultiRC": Known("MultiRC", ("False", "True"), "According to the following passage and question, is the candidate answer "
                     "true or false? Choose one from the option."),
    "BoolQA": Known("BoolQA", ("True", "False"), "According to the following passage, is the question true or false? Choose one "
                    "from the option."),
    "WiC": Known("WiC", ("True", "False"), "Given a word and two sentences, whether the word is used with the same sense in both "
                 "sentence?"),
}
SAYS = {"QQP": {"False": "no", "True": "yes"}}      # where SAPT's answers are not O-LoRA's
ALIASES = {"boolq": "boolqa", "sst2": "sst-2"}      # SAPT's names for O-LoRA's BoolQA and SST-2
_NAMES = {name.lower(): name for name in KNOWN}


def key_of(name: str) -> str:
    """A data set's name as it counts: lower case, SAPT's names as O-LoRA's."""
    lowered = name.strip().lower()
    return ALIASES.get(lowered, lowered)


def known(name: str) -> str | None:
    """O-LoRA's name of one of its fifteen data sets, in any case or in SAPT's; None for any other.

    >>> known("sst2"), known("task1572_samsum_summary")
    ('SST-2', None)
    """
    return _NAMES.get(key_of(name))


def form_of(prompts: str | None) -> str | None:
    """One of FORMS, in any case and without its dash, or None."""
    found = next((form for form in FORMS if str(prompts).lower() in (form.lower(), form.lower().replace("-", ""))), None)
    if prompts is not None and found is None:
        raise InputError(f"expected prompts to be {', '.join(FORMS)} or None, found {prompts!r}; None is the source's own form.")
    return found


def framed(before: str, text: str, after: str, answers: tuple[str, ...]) -> Example:
    """A prompt with the text in its frame."""
    return Example(before + text + after, answers, (len(before), len(before) + len(text)))


def bodies(prompts: Sequence[str], given: Sequence[str] | None = None) -> list[tuple[int, int]]:
    """Where the text lies in each of whole prompts: between what all of them have in common at their beginnings and ends, which is
    the task's frame. In a prompt without that frame, or where there is none, everything is text. given: the prompts that show the
    frame, if not all.

    >>> bodies(["Say A or B: it rains! Answer:", "Say A or B: we are late. Answer:"])
    [(12, 21), (12, 24)]
    """
    shown = list(dict.fromkeys(prompts if given is None else given))
    begin = os.path.commonprefix(shown) if len(shown) > 1 else ""
    end = os.path.commonprefix([prompt[len(begin):][::-1] for prompt in shown])[::-1] if len(shown) > 1 else ""
    return [(len(begin), len(prompt) - len(end))
            if prompt.startswith(begin) and prompt.endswith(end) and len(begin) + len(end) < len(prompt) else (0, len(prompt))
            for prompt in prompts]


class Frame(NamedTuple):
    """How one task asks: what stands around the text, how it writes a label, and its labels in the order of the options."""
    before: str
    after: str
    says: Callable[[str], str]                     # from one of O-LoRA's labels
    labels: tuple[str, ...]

    def ask(self, text: str, *answers: str) -> Example:
        return framed(self.before, text, self.after, tuple(map(self.says, answers)))


def olora_frame(kind: str, name: str, labels: tuple[str, ...], named: bool) -> Frame:
    """O-LoRA's frame. named: with its two lines that name the task; labels: the options, in order."""
    before = f"Task:{kind}\nDataset:{name}\n" if named else ""
    if INSTRUCTIONS[kind]:
        before += f"{INSTRUCTIONS[kind]}Option: {', '.join(labels)} \n"
    return Frame(before, "\nAnswer:", str, labels)


def sapt_frame(name: str) -> Frame:
    """SAPT's frame of one of the fifteen data sets; its labels are sorted, as they have no order there."""
    told = known(name)
    if told is None:
        raise InputError(f"expected one of the data sets that SAPT has a prompt for ({', '.join(KNOWN)}), found {name!r}; leave "
                         "prompts out.")
    says = SAYS.get(told, {})
    definition = KNOWN[told].definition
    return Frame(definition and f"{definition}\n", "\nOutput: ", lambda label: says.get(label, label),
                 tuple(sorted(says.get(label, label) for label in KNOWN[told].labels)))


def frame_of(name: str, prompts: str | None, named: bool) -> Frame:
    """The frame of one of the fifteen data sets, O-LoRA's unless `prompts` is "SAPT"."""
    return sapt_frame(name) if prompts == "SAPT" else olora_frame(KNOWN[name].kind, name, KNOWN[name].labels, named)


def superni_frame(definition: str) -> Frame:
    """SAPT's frame of a task of Super-NaturalInstructions, zero-shot."""
    return Frame(f"Definition: {definition}\n\nNow complete the following example -\nInput: ", "\nOutput: ", str, ())


# Of TRACE's eight, where the prompts offer letters to choose from (inference/ICL.py of BeyonderXX/TRACE); by lower case names.
TRACE_LABELS = {"c-stance": ("A", "B", "C"), "fomc": ("A", "B", "C")}
# The classification tasks among SuperNI's fifteen, from their definitions and outputs (the definition of 875 forgets
# sadness, that of 073 names E only at its end). All others have free text as answers.
SUPERNI_LABELS = {
    "task073_commonsenseqa_answer_generation": ("A", "B", "C", "D", "E"),
    "task363_sst2_polarity_classification": ("POS", "NEG"),
    "task875_emotion_classification": ("joy", "love", "anger", "fear", "surprise", "sadness"),
    "task1687_sentiment140_classification": ("positive", "negative"),
}
