"""WordNet 3.0 from its database files, wndb(5): the senses of words and their hypernyms."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from math import log, sqrt
from pathlib import Path

PARTS_OF_SPEECH = ("noun", "adj", "verb")  # the order in which a word is looked up
# The lexicographer files (lexnames(5)) of visible things, and the number of words taken from each.
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
# Too general to label a picture.
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
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication "
    "verb.competition verb.consumption verb.contact verb.creation verb.emotion verb.motion "
    "verb.perception verb.possession verb.social verb.stative verb.weather"
).split()


@dataclass(frozen=True)
class Sense:
    """A sense: `gloss` without examples, `hypernyms` as keys of `WordNet.synsets`."""

    key: str
    domain: str
    words: tuple[str, ...]
    gloss: str
    hypernyms: tuple[str, ...]


class WordNet:
    """The nouns, adjectives and verbs of a WordNet folder.

    Raises:
        FileNotFoundError: the folder lacks `data.noun` or another file.
    """

    def __init__(self, folder: Path) -> None:
        self.synsets: dict[str, Sense] = {}
        self.index: dict[str, dict[str, list[str]]] = {}
        for pos in PARTS_OF_SPEECH:
            for line in _lines(folder / f"data.{pos}"):
                sense = _parse_sense(line, pos)
                self.synsets[sense.key] = sense
            self.index[pos] = {
                fields[0].replace("_", " "): [
                    f"{pos}{entry}" for entry in fields[-int(fields[2]) :]
                ]
                for fields in map(str.split, _lines(folder / f"index.{pos}"))
            }
        self.irregular = {pos: _read_exceptions(folder / f"{pos}.exc") for pos in PARTS_OF_SPEECH}
        self.sense_counts = _read_counts(folder / "cntlist.rev")
        self.counts = Counter(
            {word: sum(counts.values()) for word, counts in self.sense_counts.items()}
        )

    def senses(self, name: str) -> list[Sense]:
        """Return the senses of a name, most frequent ones at the start, or an empty list.

        If WordNet lacks "wine cellar", these are the senses of "cellar".
        """
        name = plain(name)
        while name:
            for pos in PARTS_OF_SPEECH:
                for form in _singular_forms(name):
                    if form in self.index[pos]:
                        return [self.synsets[key] for key in self.index[pos][form]]
            name = name.partition(" ")[2]
        return []

    def spellings(self, name: str) -> list[str]:
        """Return the spellings under which a name may be listed, its singular forms included."""
        forms = list(_singular_forms(name))
        singular = self.irregular["noun"].get(name)
        return [*forms[:2], name.replace(" ", ""), *([singular] if singular else []), *forms[2:]]

    def verbs_of_gerund(self, name: str) -> list[str]:
        """Return the verbs whose form in -ing is `name`."""
        stem = name.removesuffix("ing")
        if stem == name:
            return []
        forms = (self.irregular["verb"].get(name), stem, f"{stem}e")
        return [form for form in dict.fromkeys(forms) if form in self.index["verb"]]

    def ancestors(self, sense: Sense) -> dict[str, int]:
        """Return the steps up to each ancestor of a sense, by key; 0 for the sense itself."""
        steps: dict[str, int] = {}
        pending = [(sense.key, 0)]
        while pending:
            key, depth = pending.pop()
            if steps.get(key, depth + 1) > depth:
                steps[key] = depth
                pending += [(entry, depth + 1) for entry in self.synsets[key].hypernyms]
        return steps

    def hypernyms(self, names: Sequence[str], vocabulary: Container[str]) -> dict[str, int]:
        """Return the steps up to each hypernym of a thing, by word.

        Args:
            names: synonyms of the thing; they select the sense of the leading name.
            vocabulary: the words to return.
        """
        own_names = set(map(plain, names))
        senses = self.senses(names[0])
        matching = (entry for entry in senses if own_names <= set(map(plain, entry.words)))
        sense = next(matching, senses[0] if senses else None)
        if sense is None or not sense.key.startswith("noun"):
            return {}
        steps: dict[str, int] = {}
        for key, depth in self.ancestors(sense).items():
            for word in map(plain, self.synsets[key].words):
                if word in vocabulary and word not in own_names | TOO_GENERAL:
                    steps[word] = min(depth, steps.get(word, depth))
        return steps

    def visible_words(self) -> list[str]:
        """Return words for visible things, `VISIBLE` many of each kind, by frequency."""
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
        for pos, limit in (("verb", VERBS), ("adj", ADJECTIVES)):
            words = [word for word in self.index[pos] if re.fullmatch("[a-z]{3,14}", word)]
            ordered = sorted(words, key=lambda word: self._rarity(pos, word))
            chosen.update(dict.fromkeys(ordered[:limit]))
        return list(chosen)

    def _rarity(self, pos: str, word: str) -> tuple[int, bool, bool]:
        """Return a sort key: frequent words, then short words, then words with a single sense."""
        ambiguous = len(self.index[pos][word]) > 1
        return -self.counts[pos, word], len(word.split()) > 2, ambiguous


def plain(name: str) -> str:
    """Return a name as in WordNet's index: lower case, separated by single spaces."""
    return " ".join(re.sub(r"[_\-]+", " ", name.lower()).split())


def ancestor_weights(
    wordnet: WordNet,
    senses: Sequence[Sense | None],
    reference: Sequence[Sense | None] | None = None,
) -> list[dict[str, float]]:
    """Return the weight of each ancestor of each sense, as vectors of unit length.

    A weight is the ancestor's inverse document frequency times 0.8 for each step up.

    Args:
        reference: the senses among which frequencies are counted, by default `senses`.
    """
    chains, counted = (
        [wordnet.ancestors(sense) if sense else {} for sense in group]
        for group in (senses, senses if reference is None else reference)
    )
    frequency = Counter(key for chain in counted for key in chain)
    bags = []
    for chain in chains:
        bag = {
            key: log(len(counted) / frequency[key]) * 0.8**depth
            for key, depth in chain.items()
            if frequency[key] > 1  # an ancestor of a single sense relates it to no other
        }
        length = sqrt(sum(weight**2 for weight in bag.values())) or 1.0
        bags.append({key: weight / length for key, weight in bag.items()})
    return bags


def _lines(path: Path) -> Iterator[str]:
    """Yield the entries of a database file, without the licence at its top."""
    with path.open(encoding="latin-1") as file:
        yield from (line for line in file if not line.startswith("  "))


def _parse_sense(line: str, pos: str) -> Sense:
    head, _, gloss = line.partition(" | ")
    fields = head.split()
    count = int(fields[3], 16)
    words = [
        re.sub(r"\(.*\)", "", entry).replace("_", " ") for entry in fields[4 : 4 + 2 * count : 2]
    ]
    pointers = fields[5 + 2 * count : 5 + 2 * count + 4 * int(fields[4 + 2 * count])]
    hypernyms = [
        pointers[at + 2][0] + pointers[at + 1]
        for at in range(0, len(pointers), 4)
        if pointers[at] in ("@", "@i")
    ]
    names = {"n": "noun", "v": "verb", "a": "adj", "s": "adj"}
    number = int(fields[1])
    return Sense(
        key=pos + fields[0],
        domain=DOMAINS[number] if number < len(DOMAINS) else pos,
        words=tuple(words),
        gloss=gloss.strip().split('; "')[0],
        hypernyms=tuple(names[entry[0]] + entry[1:] for entry in hypernyms),
    )


def _read_counts(path: Path) -> dict[tuple[str, str], Counter[int]]:
    """Read the frequency of each sense of a word, by its place in `WordNet.index`, from the texts
    that WordNet's authors tagged."""
    pos_by_number = {"1": "noun", "2": "verb", "3": "adj", "5": "adj"}
    counts: defaultdict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for line in _lines(path):
        key, number, times = line.split()
        word, _, sense_key = key.partition("%")
        if sense_key[0] in pos_by_number:
            pos = pos_by_number[sense_key[0]]
            counts[pos, word.replace("_", " ")][int(number) - 1] += int(times)
    return counts


def _read_exceptions(path: Path) -> dict[str, str]:
    """Read irregular forms of words: "mice" of "mouse"."""
    lines = path.read_text(encoding="latin-1").splitlines() if path.exists() else []
    fields = (line.split() for line in lines)
    return {form.replace("_", " "): word.replace("_", " ") for form, word, *_ in fields}


def _singular_forms(name: str) -> Iterator[str]:
    """Yield the name unchanged, hyphenated, and without plural endings."""
    yield name
    yield name.replace(" ", "-")
    for ending, replacement in (("men", "man"), ("ies", "y"), ("es", ""), ("s", "")):
        if name.endswith(ending):
            yield name.removesuffix(ending) + replacement
