"""The words of the offline world, and the sentences made from them.

`Writer` draws everything from one seed, by `random.random()` alone: the one draw whose values Python promises to keep
from version to version. Meaning lies in the pools: an adjective has a level, a noun a theme (some nouns have two), a
verb a synonym and an opposite, a thing a kind. The tasks of `world.py` ask for that meaning.
"""
from __future__ import annotations

import random

LEVELS = tuple(pool.split() for pool in (                       # how good a thing is: 0 (worst) to 4 (best)
    "terrible horrible dreadful disgusting awful appalling atrocious hideous unbearable wretched",
    "weak poor dull bland sloppy stale noisy clumsy tedious shabby",
    "average ordinary plain usual passable standard moderate typical common middling",
    "nice pleasant decent neat solid cheerful handy tasty smooth charming",
    "superb excellent brilliant wonderful fantastic perfect magnificent marvelous splendid incredible"))
MOODS = "grim gloomy calm glad joyful".split()                  # the pretraining text's name of each level
ASPECTS = {pool.split()[0]: pool.split()[1:] for pool in (
    "product battery screen cable handle charger keyboard blender toaster strap lid motor lens zipper speaker",
    "restaurant soup pizza waiter salad dessert kitchen chef menu steak sauce wine service terrace breakfast",
    "movie plot actor scene ending director dialogue costume soundtrack hero villain cast camera pacing finale")}
THEMES = {pool.split()[0]: pool.split()[1:] for pool in (       # first word: the pretraining text's name of the theme
    "customs religion tradition temple ritual festival belief ceremony charity neighbor etiquette",
    "research atom physics experiment laboratory telescope molecule gravity theory planet chemistry",
    "medical doctor medicine vaccine patient hospital fever surgery nurse allergy diet",
    "schooling teacher exam homework classroom lesson diploma professor tuition pupil semester",
    "computing software website password server laptop program browser robot keypad download",
    "games football goal coach league tennis stadium champion racket tournament referee",
    "trade profit stock investor company market dollar merger tax invoice retailer",
    "amusement concert comedy magician circus television celebrity theater joke dancer parade",
    "kinship mother father wedding brother sister cousin uncle marriage divorce grandson",
    "government senator election president minister parliament treaty campaign army ballot embassy",
    "painting painter canvas portrait sculptor gallery brush sketch mural easel pottery",
    "travel train airplane ship engine truck railway cargo ferry wagon helicopter",
    "architecture tower castle bridge roof brick cathedral chimney palace balcony staircase",
    "landscape river mountain lake valley glacier cliff canyon waterfall island desert",
    "hamlet village county population municipality settlement mayor mill barn parish district",
    "creature wolf insect bird frog snail lizard beetle feather mammal salmon",
    "botany flower leaf root moss petal shrub orchid fern blossom seed",
    "music guitar drums melody chorus lyrics rhythm vinyl singer band violin",
    "screen_art cinema trailer premiere sequel screenplay animation documentary projector audience subtitle",
    "reading novel author chapter poem publisher fiction library paragraph writer biography")}
TWOFOLD = {word: (one, two) for word, one, two in (line.split() for line in (   # nouns with two themes
    "bank trade landscape", "bat creature games", "mouse creature computing", "pitch games music",
    "cell research architecture", "note music schooling", "star screen_art research", "cabinet government architecture",
    "match games kinship", "virus medical computing", "port computing travel", "trunk botany travel",
    "scale creature music", "court games government", "branch botany trade", "palm botany medical"))}
LINKS = "shows needs changes follows joins uses reaches supports likes keeps".split()
NAMES = "anna boris clara dmitri elena felix gloria hugo iris jonas kira lars mona nils olivia paul".split()
VERBS = [line.split() for line in (                             # verb, its synonym, its opposite
    "buys purchases sells", "opens unlocks shuts", "adores loves hates", "lifts raises lowers", "starts begins stops",
    "finds discovers loses", "builds constructs demolishes", "cleans washes stains", "hides conceals reveals",
    "repairs mends breaks")]
KINDS = {pool.split()[0]: pool.split()[1:] for pool in (
    "fruit apple pear cherry lemon", "tool hammer saw drill shovel", "vehicle car bicycle van tractor",
    "toy doll kite puzzle balloon", "furniture chair desk sofa bed", "clothing coat shirt hat scarf")}
KIND_OF = {thing: kind for kind, things in KINDS.items() for thing in things}
THINGS = list(KIND_OF)
PLACES = "garden office park street garage school beach station cellar attic harbor square".split()
COLORS = "red blue green yellow black white".split()
CAUSES = [tuple(part.strip() for part in line.split("/")) for line in """
    the storm hit the coast / the boats sank          | the oven was too hot / the cake burned
    the boy dropped the vase / the vase shattered     | the girl trained every day / she won the medal
    the driver took a wrong turn / he got lost        | the snow melted quickly / the stream flooded
    the farmer forgot to water / the crops dried out  | the singer caught a cold / the show was cancelled
    the lamp lost power / the room turned dark        | the baker woke up late / the shop opened at noon
    the puppy ate the shoe / the owner was angry      | the workers asked for more pay / they went on strike
    the soup was too salty / nobody finished it       | the student skipped class / he failed the test
    the price went down / many people bought it       | the fence had a hole / the sheep escaped
    the hiker wore thin gloves / his hands froze      | the clown slipped / the children laughed
    the window stayed open / the rain came in         | the thief left a footprint / the police caught him
    the battery was old / the phone died              | the bridge was closed / traffic moved slowly
    the nurse worked all night / she felt sleepy      | the team missed a penalty / the fans were sad
    """.replace("\n", "|").split("|") if line.strip()]


class Writer:
    """Writes words and sentences. The same `key` (any text) always writes the same ones, in every process.

    `loose`: words to stand where their meaning does not matter, as marks and made-up instructions of the pretraining text.
    """

    def __init__(self, key: str, loose: tuple[str, ...] = ("item", "next")):
        self.random, self.loose = random.Random(key).random, loose

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def pick(self, pool):
        return pool[int(self.random() * len(pool))]

    def other(self, pool, *taken):
        """One of `pool`, but none of `taken`."""
        while (found := self.pick(pool)) in taken:
            pass
        return found

    def some(self, pool, count: int) -> list:
        """`count` different ones, in random order."""
        found = []
        for _ in range(count):
            found.append(self.other(pool, *found))
        return found

    def opinion(self, domain: str, level: int) -> str:          # level: 0 to 4
        negated = level != 2 and self.chance(0.08)              # "not awful" counts as good
        adjective = ("not " if negated else "") + self.pick(LEVELS[4 - level if negated else level])
        aspect = self.pick(ASPECTS[domain])
        return self.pick((f"the {aspect} was {adjective} .", f"a {adjective} {aspect} .",
                          f"i found the {aspect} {adjective} .", f"we thought that the {aspect} is {adjective} ."))

    def review(self, domain: str, level: int, clauses: int) -> str:
        """Each clause is one level off, up or down, in a quarter of the cases: a review is never certain."""
        drift = [self.pick((-1, 0, 0, 0, 0, 0, 0, 1)) for _ in range(clauses)]
        return " ".join(self.opinion(domain, min(4, max(0, level + step))) for step in drift)

    def noun(self, theme: str, purity: float) -> str:
        """A noun of the theme; with probability 1 - purity one of any theme."""
        return self.pick(THEMES[theme] if self.chance(purity) else THEMES[self.pick(list(THEMES))])

    def remark(self, theme: str, purity: float = 0.85, word: str | None = None) -> str:
        """A sentence of two or three nouns of the theme; `word` is to be among them."""
        a, b, c = (self.noun(theme, purity) for _ in range(3))
        if word:
            a, b = (word, b) if self.chance(0.5) else (a, word)
        return self.pick((f"the {a} {self.pick(LINKS)} the {b} .", f"a {a} and a {b} {self.pick(LINKS)} the {c} .",
                          f"the {a} of the {b} {self.pick(LINKS)} a {c} ."))

    def fact(self, who: str, verb: str, thing: str, place: str | None = None, color: str | None = None) -> str:
        return f"{who} {verb} the {color + ' ' if color else ''}{thing}" + (f" in the {place}" if place else "")

    def claim(self, relation: str) -> tuple[str, str]:
        """A fact and a second one that follows from it ("follows"), cannot be so ("conflicts") or may be so ("open")."""
        who, verbs, thing, place = self.pick(NAMES), self.pick(VERBS), self.pick(THINGS), self.pick(PLACES)
        first = self.fact(who, verbs[self.chance(0.4)], thing, place, self.pick(COLORS) if self.chance(0.4) else None)
        where = place if self.chance(0.5) else None
        if relation == "follows":
            return first, self.fact(who, verbs[self.chance(0.5)], KIND_OF[thing] if self.chance(0.4) else thing, where)
        if relation == "conflicts" and self.chance(0.6):
            return first, self.fact(who, verbs[2], thing, where)
        if relation == "conflicts":
            return first, self.fact(who, f"never {verbs[self.chance(0.5)]}", thing, where)
        if self.chance(0.5):
            return first, self.fact(who, self.other(VERBS, verbs)[self.chance(0.5)], thing, where)
        return first, self.fact(self.other(NAMES, who), verbs[self.chance(0.5)], thing, where)


# ---- the pretraining text: of the same world, but with other instructions and other answers than any task
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
