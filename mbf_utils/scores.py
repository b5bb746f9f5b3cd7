"""How an answer that is text is scored, by name, and which score each task has in the field.

    exact             equal after normalisation (rows.plain), to any of the references
    literal           equal but for outer white space: -5 is not 5, and 35 not 3.5
    rouge_l           Rouge-L F-measure (rouge.py)
    edit_similarity   of the characters: 2 LCS / (len + len), for code, its literals written out
    sari              kept, added and deleted n-grams of a simplified text (Xu et al. 2016, with 0 / 0 = 1 as the Hub's metric)
    letter            the letter that was chosen, whatever reason follows it

Where a row has several references the best one counts (SAPT's program draws one, for test rows too; SARI takes them all). An answer
of None is an empty one.

Sources disagree, so a choice has a name (Settings.scores):

    field   SuperNI: exact match for its three classification tasks (363, 875, 1687), Rouge-L for the other twelve, as SLAO's
            replication reads the paper. TRACE: its own first score a task. Everything else: exact match.
    SAPT    Rouge-L for all fifteen of SuperNI (circle-hit/SAPT); the rest as above.
    a name from the list above: that score for every task.

TRACE's programs (BeyonderXX/TRACE metrics.py) compare accuracies without normalising: so do `literal`, for its two tasks of numbers,
and exact match where there are labels, as in its C-STANCE and FOMC (evaluation.py). They take another package's Rouge-L, which stems
no words: close, not equal. They let a model write 512 tokens (max_new_tokens=512).
"""
from __future__ import annotations

import re
from collections import Counter
from typing import Callable

from .errors import InputError
from .prompts import SUPERNI_LABELS
from .rouge import likeness, rouge_l
from .rows import plain
from .streams import ORDERS, Example

Scorer = Callable[[str | None, Example], float]     # (answer, row) -> 0 to 1


def best(score: Callable[[str, str], float]) -> Scorer:
    """Of all the row's references the best."""
    return lambda answer, example: max(float(score(answer or "", reference)) for reference in example.answers)


def _equal(answer: str, reference: str) -> bool:
    """After normalisation; but who says nothing is never right, not even where a reference is punctuation alone (MNLI's "-")."""
    return plain(answer) == plain(reference) and bool(answer.strip())


def _written_out(code: str) -> str:
    """Py150's marks for literals as what they stand for: <STR_LIT:abc> is abc, <NUM_LIT> is 0."""
    code = code.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return re.sub(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", r"\1", code, flags=re.S)


def _letter(text: str) -> str:
    """The choice in "Answer: B. Because ..." or in "B\\nBecause ..."."""
    return (text.partition("Answer: ")[2] or text.strip())[:1]


def sari(answer: str, source: str, references: tuple[str, ...]) -> float:
    """SARI, 0 to 1: over n-grams of 1 to 4 words the mean of F(kept), F(added) and precision(deleted), where 0 / 0 is 1."""
    return sum(_sari(answer, source, references, n) for n in (1, 2, 3, 4)) / 4


def _sari(answer: str, source: str, references: tuple[str, ...], n: int) -> float:
    def grams(text: str) -> Counter:
        tokens = re.findall(r"\w+|[^\w\s]", text.lower())
        return Counter(zip(*(tokens[k:] for k in range(n))))

    times = len(references)
    A, S = (Counter({gram: count * times for gram, count in grams(text).items()}) for text in (answer, source))
    R = sum((grams(reference) for reference in references), Counter())
    kept, right = A & S, A & S & R
    keep = _f(_mean(right[gram] / kept[gram] for gram in kept), right.total() / all_ if (all_ := (S & R).total()) else 1.0)
    gone = S - A
    delete = _mean((gone - R)[gram] / gone[gram] for gram in gone)
    new, wanted = A.keys() - S.keys(), R.keys() - S.keys()
    add = _f(len(new & wanted) / len(new) if new else 1.0, len(new & wanted) / len(wanted) if wanted else 1.0)
    return (keep + delete + add) / 3


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 1.0


def _f(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _source(example: Example) -> str:
    return example.prompt[slice(*example.body)] if example.body else example.prompt


SCORES: dict[str, Scorer] = {
    "exact": best(_equal),
    "literal": best(lambda answer, reference: answer.strip() == reference.strip() != ""),
    "rouge_l": best(rouge_l),
    "edit_similarity": best(lambda answer, reference: likeness(_written_out(answer), _written_out(reference))),
    "sari": lambda answer, example: sari(answer or "", _source(example), example.answers),
    "letter": best(lambda answer, reference: _letter(answer) == _letter(reference)),
}
CHOICES = ("field", "SAPT", *SCORES)
_SUPERNI = {name.lower() for name in ORDERS["superni"]["O1"]}
_CLASSES = {name.lower() for name in SUPERNI_LABELS} - {"task073_commonsenseqa_answer_generation"}      # 363, 875, 1687
_TRACE = {"meetingbank": "rouge_l", "py150": "edit_similarity", "scienceqa": "letter", "numglue-cm": "literal",
          "numglue-ds": "literal", "20minuten": "sari"}                  # others: exact


def score_of(name: str, choice: str = "field") -> str:
    """The name in SCORES of a task's score.

    >>> score_of("task1572_samsum_summary"), score_of("task363_sst2_polarity_classification"), score_of("yelp")
    ('rouge_l', 'exact', 'exact')
    """
    if choice not in CHOICES:
        raise InputError(f"expected scores to be one of {', '.join(CHOICES)}, found {choice!r}")
    if choice in SCORES:
        return choice
    key = name.strip().lower()
    if key in _SUPERNI:
        return "exact" if choice == "field" and key in _CLASSES else "rouge_l"
    return _TRACE.get(key, "exact")
