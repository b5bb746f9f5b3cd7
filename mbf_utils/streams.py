"""What a stream of tasks is: examples, tasks, their order, and the field's task orders as literal tables."""
from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral
from typing import Iterator

from mbf_utils.errors import InputError


@dataclass(frozen=True)
class Example:
    """One row: a whole prompt and its right answers (the first one is trained on, any one counts when scored).

    `body` marks the characters of the prompt that may be shortened when it is too long: the data set's own text.
    What lies outside it (instruction, options, "Answer:") is never cut.
    """
    prompt: str
    answers: tuple[str, ...]
    body: tuple[int, int] | None = None


@dataclass(frozen=True)
class TaskData:
    """One task. `labels`: the answers to choose from, in the prompt's order; empty where answers are free text."""
    name: str
    train: list[Example]
    dev: list[Example]
    test: list[Example]
    labels: tuple[str, ...] = ()

    def __post_init__(self):
        if not isinstance(self.name, str) or set("<>") & set(self.name) or not self.name.isprintable():      # names head tables on web pages
            raise InputError(f"expected a task's name as a text without <, > and control characters, found {self.name!r:.80}; rename the task.")


@dataclass(frozen=True)
class Stream:
    """Tasks in the order in which they are learned. `general`: text that no task contains (what the base knew before).

    `named` says whether the prompts name the data set, as the field's do: with it, the task's identity is in the prompt.
    `chat`: the prompts are still to be put into the chat template of the model's tokenizer (text.in_chat; a run does it).
    `drawn`: the seed and limit that load_stream drew the rows with, for the record alone.
    """
    name: str
    order: str
    tasks: tuple[TaskData, ...]
    general: tuple[str, ...] = ()
    named: bool = False
    chat: bool = False
    drawn: dict = field(default_factory=dict, compare=False, repr=False)

    def __iter__(self) -> Iterator[TaskData]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, key):
        """`stream[0]` and `stream["yelp"]` are tasks, `stream[:2]` is a shorter stream."""
        if isinstance(key, slice):
            return replace(self, tasks=self.tasks[key])
        if isinstance(key, str):
            return next(task for task in self.tasks if task.name == key)
        return self.tasks[key]

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def fingerprint(self) -> str:
        """A hash of every row in its place: two streams with the same one are the same stream."""
        rows = json.dumps([asdict(task) for task in self.tasks] + list(self.general), ensure_ascii=False)
        return hashlib.sha256(rows.encode("utf-8", "surrogatepass")).hexdigest()[:16]


# The task orders of the field, named as their papers number them and with the names of the benchmarks' own folders.
# Numbers alone are not safe across papers: SAPT and GainLoRA call O-LoRA's order 6 "order 4" or "order 3", and its order 4
# "order 3", "order 4" or "order 5". Compare the sequences.
ORDERS: dict[str, dict[str, list[str]]] = {
    # Four tasks. cmnfriend/O-LoRA scripts/order_{1,2,3}.sh; the same in PKU-YuanGroup/N-LoRA and ZinYY/TreeLoRA.
    "standard": {
        "1": ["dbpedia", "amazon", "yahoo", "agnews"],
        "2": ["dbpedia", "amazon", "agnews", "yahoo"],
        "3": ["yahoo", "amazon", "agnews", "dbpedia"],
    },
    # Fifteen tasks. PKU-YuanGroup/N-LoRA scripts/order_{4,5,6}.sh and ZinYY/TreeLoRA scripts/O_LoRA_Dataset agree; order 6 is
    # also cmnfriend/O-LoRA scripts/long.sh.
    "long": {
        "4": ["MNLI", "CB", "WiC", "COPA", "QQP", "BoolQA", "RTE", "IMDB", "yelp", "amazon", "SST-2", "dbpedia", "agnews",
              "MultiRC", "yahoo"],
        "5": ["MultiRC", "BoolQA", "WiC", "MNLI", "CB", "COPA", "QQP", "RTE", "IMDB", "SST-2", "dbpedia", "agnews", "yelp",
              "amazon", "yahoo"],
        "6": ["yelp", "amazon", "MNLI", "CB", "COPA", "QQP", "RTE", "IMDB", "SST-2", "dbpedia", "agnews", "yahoo", "MultiRC",
              "BoolQA", "WiC"],
    },
    # Fifteen tasks of Super-NaturalInstructions. circle-hit/SAPT gen_script_superni_{t5,llama}.py; gainlora's scripts agree.
    "superni": {
        "O1": ["task1572_samsum_summary", "task363_sst2_polarity_classification", "task1290_xsum_summarization",
               "task181_outcome_extraction", "task002_quoref_answer_generation", "task1510_evalution_relation_extraction",
               "task639_multi_woz_user_utterance_generation", "task1729_personachat_generate_next",
               "task073_commonsenseqa_answer_generation", "task1590_diplomacy_text_generation",
               "task748_glucose_reverse_cause_event_detection", "task511_reddit_tifu_long_text_summarization",
               "task591_sciq_answer_generation", "task1687_sentiment140_classification", "task875_emotion_classification"],
        "O2": ["task748_glucose_reverse_cause_event_detection", "task073_commonsenseqa_answer_generation",
               "task1590_diplomacy_text_generation", "task639_multi_woz_user_utterance_generation", "task1572_samsum_summary",
               "task1687_sentiment140_classification", "task591_sciq_answer_generation", "task363_sst2_polarity_classification",
               "task1510_evalution_relation_extraction", "task1729_personachat_generate_next", "task181_outcome_extraction",
               "task511_reddit_tifu_long_text_summarization", "task002_quoref_answer_generation",
               "task1290_xsum_summarization", "task875_emotion_classification"],
    },
    # Eight tasks. BeyonderXX/TRACE scripts and ZinYY/TreeLoRA scripts.
    "trace": {
        "1": ["C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten"],
    },
}


def find_order(order) -> tuple[str, list[str]]:
    """An order's short name and its tasks: from `ORDERS` ("4", 4, "O1", "long:4", in any case), or task names as given.

    Task names are a list or one text with commas; such an order is called by its names. A bare "1" is the standard
    benchmark's; TRACE's is "trace:1". Raises InputError for anything else and for an empty order.

    >>> find_order(2)
    ('2', ['dbpedia', 'amazon', 'agnews', 'yahoo'])
    """
    if isinstance(order, (str, Integral)) and not isinstance(order, bool):
        wanted = str(order).strip()
        for benchmark, orders in ORDERS.items():
            for key, names in orders.items():
                if wanted.lower() in (key.lower(), f"{benchmark}:{key}".lower()):
                    return key, list(names)
        order = [name.strip() for name in wanted.split(",")]
    if not isinstance(order, (list, tuple)) or not order or not all(isinstance(name, str) and name.strip() for name in order):
        keys = ", ".join(f"{benchmark}:{key}" for benchmark, orders in ORDERS.items() for key in orders)
        raise InputError(f"expected an order as a list of task names or as one of {keys}, found {order!r}.")
    return ",".join(order), list(order)
