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
