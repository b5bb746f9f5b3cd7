"""Rouge-L as the field computes it: the F-measure of the longest common subsequence of stemmed words.

    F = 2 LCS(a, b) / (len(a) + len(b)),   a, b the two texts' words: lower case, ASCII letters and digits only

which is the harmonic mean of LCS / len(a) and LCS / len(b); 0 where either text has no word. Words of more than three letters are
stemmed by Porter's rules (Porter 1980) with NLTK's additions, as in Google's rouge_score, which SAPT and Super-NaturalInstructions
use. That package brings NLTK and seven others; here are its numbers without them.
"""
from __future__ import annotations

import re
from functools import lru_cache
from typing import Sequence

_VOWELS = "aeiou"
_IRREGULAR = {"skies": "sky", "sky": "sky", "dying": "die", "lying": "lie", "tying": "tie", "innings": "inning", "inning": "inning",
              "outings": "outing", "outing": "outing", "cannings": "canning", "canning": "canning",
              **{word: word for word in ("news", "howe", "proceed", "exceed", "succeed")}}
_STEP2 = ("ational ate", "tional tion", "enci ence", "anci ance", "izer ize", "bli ble", "alli al", "entli ent", "eli e",
          "ousli ous", "ization ize", "ation ate", "ator ate", "alism al", "iveness ive", "fulness ful", "ousness ous", "aliti al",
          "iviti ive", "biliti ble", "fulli ful")
_STEP3 = ("icate ic", "ative ", "alize al", "iciti ic", "ical ic", "ful ", "ness ")
_STEP4 = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize".split()


def rouge_l(answer: str, reference: str) -> float:
    """Rouge-L F-measure, 0 to 1.

    >>> rouge_l("The cats were running.", "the cat runs")
    0.8571428571428571
    """
    return likeness(words(answer), words(reference))


def likeness(a: Sequence, b: Sequence) -> float:
    """2 LCS / (len(a) + len(b)); 0 where one is empty. Of two texts, the edit similarity of their characters."""
    return 2 * common(a, b) / (len(a) + len(b)) if a and b else 0.0


def common(a: Sequence, b: Sequence) -> int:
    """Length of the longest common subsequence; O(len(a) len(b))."""
    row = [0] * (len(b) + 1)                        # row[j]: of what was read of a, and b[:j]
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def words(text: str) -> list[str]:
    """The stemmed words of a text; other alphabets leave none."""
    return [stem(word) if len(word) > 3 else word for word in re.findall("[a-z0-9]+", text.lower())]


# ---- Porter's stemmer
@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """The stem of a word in lower case."""
    if word in _IRREGULAR or len(word) < 3:
        return _IRREGULAR.get(word, word)
    word = _past(_plural(word))
    if word.endswith("y") and len(word) > 2 and _consonant(word, len(word) - 2):
        word = word[:-1] + "i"
    return _last(_step4(_replaced(_step2(word), _STEP3)))


def _consonant(word: str, i: int) -> bool:
    return word[i] not in _VOWELS and (word[i] != "y" or i == 0 or not _consonant(word, i - 1))


def _measure(stem: str) -> int:
    """m in [C](VC)^m[V]: how often a consonant follows a vowel."""
    kinds = [_consonant(stem, i) for i in range(len(stem))]
    return sum(now and not before for before, now in zip(kinds, kinds[1:]))


def _ends_cvc(word: str) -> bool:
    kinds = [_consonant(word, i) for i in range(len(word))]
    return kinds[-3:] == [True, False, True] and word[-1] not in "wxy" or kinds == [False, True]


def _plural(word: str) -> str:
    if word.endswith("ies"):
        return word[:-1] if len(word) == 4 else word[:-2]
    return word[:-2] if word.endswith("sses") else word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    cut = next((word[:-len(end)] for end in ("ed", "ing") if word.endswith(end)), "")
    if all(_consonant(cut, i) for i in range(len(cut))):            # no vowel is left
        return word
    if cut.endswith(("at", "bl", "iz")):
        return cut + "e"
    if len(cut) > 1 and cut[-1] == cut[-2] and _consonant(cut, len(cut) - 1):
        return cut if cut[-1] in "lsz" else cut[:-1]
    return cut + "e" if _measure(cut) == 1 and _ends_cvc(cut) else cut


def _replaced(word: str, rules: tuple[str, ...]) -> str:
    """By the first rule whose ending fits, if what stands before it has a measure above 0."""
    for rule in rules:
        end, _, new = rule.partition(" ")
        if word.endswith(end):
            return word[:-len(end)] + new if _measure(word[:-len(end)]) > 0 else word
    return word


def _step2(word: str) -> str:
    if word.endswith("alli") and _measure(word[:-4]) > 0:
        return _step2(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _replaced(word, _STEP2)


def _step4(word: str) -> str:
    end = next((end for end in _STEP4 if word.endswith(end)), "")
    cut = word[:len(word) - len(end)]
    return cut if _measure(cut) > 1 and (end != "ion" or cut[-1] in "st") else word


def _last(word: str) -> str:
    if word.endswith("e") and (_measure(word[:-1]) > 1 or _measure(word[:-1]) == 1 and not _ends_cvc(word[:-1])):
        word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
