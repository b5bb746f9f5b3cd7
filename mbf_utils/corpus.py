"""The text that a base of the offline world is made from: of the same world, but with other instructions and other answers than any
task has.
"""
from __future__ import annotations

from mbf_utils.words import ASPECTS, CAUSES, KIND_OF, MOODS, NAMES, PLACES, THEMES, THINGS, TWOFOLD, VERBS, Writer

PAIRS = [pair.split() for pair in ("left right", "former latter", "upper lower")]      # what stands before two sentences
ENDS = ("reply", "answer", "verdict")                           # what stands, with a colon, before a reply


def _ask(write: Writer, text: str, question: str, reply: str) -> str:
    """A text with a question and its reply; or without one, under an instruction of loose words or none.

    Without a question the text itself shows what to reply. A base that knows questions only in one frame answers
    nothing when a task asks in another; this teaches it to look at the text.
    """
    draw, end = write.random(), write.pick(ENDS) if write.chance(0.8) else write.pick(write.loose)
    if draw < 0.25:
        return f"{text} {question} ? {end} : {reply} ."
    if draw < 0.5:
        return f"{question} ? {text} {end} : {reply} ."
    about = f"{_loose(write, 3, 4, 5, 6, 7, 8)} ? " if draw < 0.75 else ""
    return f"{about}{text} {end} : {reply} ."


def _loose(write: Writer, *counts: int) -> str:
    return " ".join(write.pick(write.loose) for _ in range(write.pick(counts)))


def _yes(agrees: bool) -> str:
    return "yes" if agrees else "no"


def _two(write: Writer, first: str, second: str) -> tuple[list[str], str]:
    """Two sentences, each after a mark: a usual pair, or loose words. Returns the marks and the text."""
    marks = write.pick(PAIRS) if write.chance(0.4) else [_loose(write, 1, 2), _loose(write, 1, 2)]
    fill = _loose(write, 2, 3, 4) + " " if write.chance(0.1) else ""
    return marks, f"{marks[0]} : {fill}{first} {marks[1]} : {fill}{second}"


def _mood(write):
    level = write.pick(range(5))
    review = write.review(write.pick(list(ASPECTS)), level, write.pick((1, 2, 3, 4)))
    return _ask(write, review, "tell the mood", MOODS[level]) if write.chance(0.85) else review


def _theme(write):
    theme, purity = write.pick(list(THEMES)), write.pick((0.6, 0.75, 0.9))
    remarks = " ".join(write.remark(theme, purity) for _ in range(write.pick((1, 2, 3))))
    return _ask(write, remarks, "tell the theme", theme) if write.chance(0.85) else remarks


def _few(write: Writer, theme: str, word: str = "") -> str:
    """One to three nouns of the theme, `word` among them, instead of a sentence: the short form of a remark."""
    nouns = [write.pick(THEMES[theme]) for _ in range(write.pick((1, 2)))] + ([word] if word else [])
    return " ".join(nouns if write.chance(0.5) else nouns[::-1])


def _sense(write):
    """A word with two themes, twice: is it meant alike?"""
    word = write.pick(list(TWOFOLD))
    one, two = write.pick(TWOFOLD[word]), write.pick(TWOFOLD[word])
    say = (lambda theme: write.remark(theme, 0.95, word)) if write.chance(0.6) else (lambda theme: _few(write, theme, word) + " .")
    _, text = _two(write, say(one), say(two))
    about = f"{write.pick(('about', write.pick(write.loose)))} : {word} . " if write.chance(0.3) else ""
    return _ask(write, about + text, f"is {word} meant alike", _yes(one == two))


def _same_theme(write):
    one = write.pick(list(THEMES))
    two = one if write.chance(0.5) else write.other(list(THEMES), one)
    say = (lambda theme: write.remark(theme, 0.95)) if write.chance(0.5) else (lambda theme: _few(write, theme) + " .")
    return _ask(write, _two(write, say(one), say(two))[1], "do the themes agree", _yes(one == two))


def _deeds(write: Writer, change: str, kinds: bool) -> tuple[str, ...]:
    """Twice the same deed in other words, or with one part changed. Often only some of its parts are told: a comparison
    of single words is learned first and the longer ones grow from it.

    change: "" for none, "opposite" for the opposite verb, "any" for another name, verb or thing.
    kinds: whether the second may name the thing by its kind.
    """
    who, verbs, thing = write.pick(NAMES), write.pick(VERBS), write.pick(THINGS)
    parts = [part for part in ("name", "verb", "thing") if write.chance(0.6)] if write.chance(0.6) else ["name", "verb", "thing"]
    if not parts or (change == "opposite" and "verb" not in parts):
        parts.append("verb")
    changed = write.pick(parts) if change == "any" else ""
    verb = verbs[2] if change == "opposite" else (write.other(VERBS, verbs) if changed == "verb" else verbs)[write.chance(0.5)]
    first = {"name": who, "verb": verbs[write.chance(0.5)], "thing": f"the {thing}"}
    second = {"name": write.other(NAMES, who) if changed == "name" else who, "verb": verb,
              "thing": f"the {write.other(THINGS, thing) if changed == 'thing' else KIND_OF[thing] if kinds else thing}"}
    return tuple(" ".join(side[part] for part in ("name", "verb", "thing") if part in parts) for side in (first, second))


def _claim(write):
    """A fact and a second one: is it so surely, never, perhaps?"""
    relation = write.pick(("follows", "conflicts", "open"))
    if write.chance(0.5):
        first, second = write.claim(relation)
    else:
        first, second = _deeds(write, {"follows": "", "conflicts": "opposite", "open": "any"}[relation], write.chance(0.4))
    _, text = _two(write, first + " .", second + " .")
    if write.chance(0.2):
        text = f"{write.remark(write.pick(list(THEMES)))} {text}"
    return _ask(write, text, "is it so", {"follows": "surely", "conflicts": "never", "open": "perhaps"}[relation])


def _same_fact(write):
    same = write.chance(0.5)
    both = _deeds(write, "" if same else write.pick(("opposite", "any", "any")), False)
    _, text = _two(write, *(part + " ?" for part in (both if write.chance(0.5) else both[::-1])))
    return _ask(write, text, "are both the same", _yes(same))


def _meaning(write):
    verbs, thing = write.pick(VERBS), write.pick(THINGS)
    return write.pick((f"{verbs[0]} means : {verbs[1]} .", f"{verbs[1]} means : {verbs[0]} .",
                       f"{verbs[write.chance(0.5)]} is opposite to : {verbs[2]} .", f"{thing} is a kind of : {KIND_OF[thing]} ."))


def _cause(write):
    cause, effect = write.pick(CAUSES)
    return write.pick((f"{cause} so : {effect} .", f"{effect} because : {cause} ."))


def _belongs(write):
    """A cause and an effect: of one pair or of two?"""
    one, side = write.pick(CAUSES), write.pick((0, 1))
    two = one if write.chance(0.5) else write.other(CAUSES, one)
    _, text = _two(write, one[side] + " .", two[1 - side] + " .")
    return _ask(write, text, "do they belong together", _yes(one == two))


def _which(write):
    """Which of two sentences is the cause, or the effect, of a third?"""
    (right, wrong), side, first = write.some(CAUSES, 2), write.pick((0, 1)), write.chance(0.5)
    one, two = (right, wrong) if first else (wrong, right)
    marks = write.pick(PAIRS) if write.chance(0.6) else write.some(write.loose, 2)
    lead = _loose(write, 2, 3, 4) + " ? " if write.chance(0.3) else ""
    text = f"{right[side]} . {lead}{marks[0]} : {one[1 - side]} . {marks[1]} : {two[1 - side]} ."
    return _ask(write, text, "which belongs to it", marks[0 if first else 1])


def _passage(write):
    count = write.pick((1, 2))
    who, things, places = write.some(NAMES, count), write.some(THINGS, count), write.some(PLACES, count)
    text = " ".join(f"{a} has the {b} in the {c} ." for a, b, c in zip(who, things, places))
    i, true = write.pick(range(count)), write.chance(0.5)
    thing = things[i] if true else write.other(THINGS, things[i])
    question, reply = write.pick(((f"where is the {things[i]}", places[i]), (f"who has the {things[i]}", who[i]),
                                  (f"what has {who[i]}", things[i]), (f"has {who[i]} the {thing}", _yes(true))))
    return f"{text} {question} ? {write.pick(ENDS)} : {reply} ."


DOCUMENTS = ((0.07, _mood), (0.05, _theme), (0.17, _sense), (0.07, _same_theme), (0.20, _claim), (0.17, _same_fact),
             (0.03, _meaning), (0.05, _cause), (0.06, _belongs), (0.11, _which), (0.02, _passage))


def document(write: Writer) -> str:
    """One document of the pretraining text."""
    draw = write.random()
    for share, kind in DOCUMENTS[:-1]:
        draw -= share
        if draw < 0:
            return kind(write)
    return DOCUMENTS[-1][1](write)


FRAME = """left right former latter upper lower yes no reply answer verdict tell the mood theme of about is meant alike do themes
    agree so surely never perhaps same are both belong together which belongs to it where who has what
    means opposite a kind because in was not i found we thought that and item next
    . : ? ,""".split()                                          # the words of the sentences above that no pool holds
