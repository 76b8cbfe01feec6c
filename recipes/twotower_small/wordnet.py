"""WordNet 3.0 from its database files, wndb(5): what a word means, what kind of thing it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path

PARTS = ("noun", "adj", "verb")  # in this order a word is looked up
# The lexicographer files (lexnames(5)) whose words can be seen in pictures, and how many of each
# are taken: all that people write about, and of the rarer ones no kind more than it is worth.
VISIBLE = {
    "noun.animal": 2200,
    "noun.artifact": 2600,
    "noun.food": 900,
    "noun.plant": 700,
    "noun.person": 700,
    "noun.act": 450,
    "noun.object": 400,
    "noun.body": 250,
    "noun.substance": 250,
    "noun.event": 200,
    "noun.communication": 200,
    "noun.location": 150,
    "noun.attribute": 150,
    "noun.phenomenon": 120,
    "noun.state": 120,
    "noun.group": 100,
    "noun.shape": 80,
    "noun.feeling": 60,
    "noun.time": 60,
}
VERBS, ADJECTIVES = 500, 600  # the most frequent ones
# Nobody says of a picture that it shows one of these.
TOO_GENERAL = set(
    "abstraction act activity artifact attribute being cause communication condition content "
    "creation entity event group instrumentality matter message object organism part process "
    "product relation representation soul state substance thing unit whole".split()
)
DOMAINS = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute "
    "noun.body noun.cognition noun.communication noun.event noun.feeling noun.food noun.group "
    "noun.location noun.motive noun.object noun.person noun.phenomenon noun.plant "
    "noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time"
).split()


@dataclass(frozen=True)
class Sense:
    """One meaning: `gloss` without its examples, `hypernyms` as keys of `WordNet.synsets`."""

    key: str
    domain: str
    words: tuple[str, ...]
    gloss: str
    hypernyms: tuple[str, ...]


class WordNet:
    """The nouns, adjectives and verbs of a WordNet folder.

    Raises:
        FileNotFoundError: the folder lacks `data.noun` and its like.
    """

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[str, Sense] = {}
        self.index: dict[str, dict[str, list[str]]] = {}
        for part in PARTS:
            for line in _lines(folder / f"data.{part}"):
                sense = _parse_sense(line, part)
                self.synsets[sense.key] = sense
            self.index[part] = {
                fields[0].replace("_", " "): [f"{part}{one}" for one in fields[-int(fields[2]) :]]
                for fields in map(str.split, _lines(folder / f"index.{part}"))
            }
        self.counts = _read_counts(folder / "cntlist.rev")

    def senses(self, name: str) -> list[Sense]:
        """The meanings of a name, most frequent first; of "wine cellar" those of "cellar" if
        WordNet has no better. Empty for what it does not know."""
        name = plain(name)
        while name:
            for part in PARTS:
                for form in _singular_forms(name):
                    if form in self.index[part]:
                        return [self.synsets[key] for key in self.index[part][form]]
            name = name.partition(" ")[2]
        return []

    def ancestors(self, sense: Sense) -> dict[str, int]:
        """Keys of all that a sense is a kind of, itself included -> how many steps above it."""
        steps: dict[str, int] = {}
        waiting = [(sense.key, 0)]
        while waiting:
            key, above = waiting.pop()
            if steps.get(key, above + 1) > above:
                steps[key] = above
                waiting += [(one, above + 1) for one in self.synsets[key].hypernyms]
        return steps

    def kinds(self, names: Sequence[str], among: Container[str]) -> dict[str, int]:
        """What else a thing of these names may be called -> how many steps above it that is.

        Args:
            names: all for one thing; of the meanings of the first, the one that they share.
            among: what may be answered.
        """
        own = set(map(plain, names))
        senses = self.senses(names[0])
        shared = (one for one in senses if own <= set(map(plain, one.words)))
        sense = next(shared, senses[0] if senses else None)
        if sense is None or not sense.key.startswith("noun"):
            return {}
        steps: dict[str, int] = {}
        for key, above in self.ancestors(sense).items():
            for word in map(plain, self.synsets[key].words):
                if word in among and word not in own | TOO_GENERAL:
                    steps[word] = min(above, steps.get(word, above))
        return steps

    def visible_words(self) -> list[str]:
        """Words for what can be seen, `VISIBLE` many of each kind, the frequent ones first."""
        chosen: dict[str, None] = {}
        kinds: dict[str, list[str]] = {domain: [] for domain in VISIBLE}
        for word, keys in self.index["noun"].items():
            sense = self.synsets[keys[0]]
            named = word in sense.words  # proper names are written in capitals there
            if sense.domain in kinds and named and re.fullmatch("[a-z][a-z' ]{1,24}", word):
                kinds[sense.domain].append(word)
        for domain, words in kinds.items():
            ordered = sorted(words, key=lambda word: self._rarity("noun", word))
            chosen.update(dict.fromkeys(ordered[: VISIBLE[domain]]))
        for part, most in (("verb", VERBS), ("adj", ADJECTIVES)):
            words = [word for word in self.index[part] if re.fullmatch("[a-z]{3,14}", word)]
            ordered = sorted(words, key=lambda word: self._rarity(part, word))
            chosen.update(dict.fromkeys(ordered[:most]))
        return list(chosen)

    def _rarity(self, part: str, word: str) -> tuple[int, bool, bool]:
        """Sorts the frequent first; among the uncounted the short ones of one meaning."""
        ambiguous = len(self.index[part][word]) > 1
        return -self.counts[part, word], len(word.split()) > 2, ambiguous


def plain(name: str) -> str:
    """A name as WordNet's index writes it: lower case, spaces alone."""
    return " ".join(re.sub(r"[_\-]+", " ", name.lower()).split())


def bags_of_ancestors(wordnet: WordNet, senses: Sequence[Sense | None]) -> list[dict[str, float]]:
    """What each sense is a kind of, as weights of unit length: near kinds count more, rare more.

    Each step up counts a fifth less; a kind is weighed by the logarithm of how few have it.
    """
    chains = [wordnet.ancestors(sense) if sense else {} for sense in senses]
    frequency = Counter(key for chain in chains for key in chain)
    bags = []
    for chain in chains:
        bag = {
            key: log(len(chains) / frequency[key]) * 0.8**above
            for key, above in chain.items()
            if frequency[key] > 1  # shared with nobody, it says nothing
        }
        length = sqrt(sum(weight**2 for weight in bag.values())) or 1.0
        bags.append({key: weight / length for key, weight in bag.items()})
    return bags


def _lines(path: Path) -> Iterator[str]:
    """The entries of a database file, without the licence at its head."""
    with path.open(encoding="latin-1") as file:
        yield from (line for line in file if not line.startswith("  "))


def _parse_sense(line: str, part: str) -> Sense:
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    count = int(fields[3], 16)
    words = [re.sub(r"\(.*\)", "", one).replace("_", " ") for one in fields[4 : 4 + 2 * count : 2]]
    pointers = fields[5 + 2 * count : 5 + 2 * count + 4 * int(fields[4 + 2 * count])]
    up = [
        pointers[at + 2][0] + pointers[at + 1]
        for at in range(0, len(pointers), 4)
        if pointers[at] in ("@", "@i")
    ]
    names = {"n": "noun", "v": "verb", "a": "adj", "s": "adj"}
    number = int(fields[1])
    return Sense(
        key=part + fields[0],
        domain=DOMAINS[number] if number < len(DOMAINS) else part,
        words=tuple(words),
        gloss=gloss.strip().split('; "')[0],
        hypernyms=tuple(names[one[0]] + one[1:] for one in up),
    )


def _read_counts(path: Path) -> Counter[tuple[str, str]]:
    """How often a word was met in the texts that WordNet's makers tagged."""
    parts = {"1": "noun", "2": "verb", "3": "adj", "5": "adj"}
    counts: Counter[tuple[str, str]] = Counter()
    for line in _lines(path):
        key, _, times = line.split()
        word, _, rest = key.partition("%")
        if rest[0] in parts:
            counts[parts[rest[0]], word.replace("_", " ")] += int(times)
    return counts


def _singular_forms(name: str) -> Iterator[str]:
    """The name as it is, hyphenated, and without the endings of a plural."""
    yield name
    yield name.replace(" ", "-")
    for ending, instead in (("men", "man"), ("ies", "y"), ("es", ""), ("s", "")):
        if name.endswith(ending):
            yield name.removesuffix(ending) + instead
