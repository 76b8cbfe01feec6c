"""Choose the words that compete with a query, with what each is a kind of.

    python examples/make_competitors.py DATA

DATA holds `wordnet` (of Debian's wordnet-base), `clip-b16-text-vectors` and `imagenet-sample-1k`.
Writes twotower/calibration/competitors.txt: names with a genuine text vector, whose place in the
space is certain, and frequent nouns of visible things. After the colon stand synonyms and the
things that a word is a kind of: a query for one of these does not compete with the word.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
from pathlib import Path

import numpy as np

from recipes.twotower_small.wordnet import TOO_GENERAL, Sense, WordNet, plain

DESTINATION = Path(__file__).parent.parent / "twotower" / "calibration" / "competitors.txt"
FREQUENT = {  # the number of frequent words of each kind of visible thing
    "noun.animal": 80,
    "noun.artifact": 200,
    "noun.food": 60,
    "noun.plant": 30,
    "noun.person": 40,
    "noun.object": 30,
    "noun.body": 20,
}
VISIBLE = {*FREQUENT, "noun.substance", "noun.phenomenon", "noun.event", "noun.location"}
UNSPECIFIC = frozenset("photo photograph picture image print scene snapshot portrait view".split())
MAX_STEPS = 9  # up to a thing that a word is a kind of


def main() -> None:
    data = Path(sys.argv[1])
    wordnet = WordNet(data / "wordnet")
    imagenet = imagenet_senses(data, wordnet)
    senses = {
        name: sense
        for name in known_names(data)
        if (sense := imagenet.get(name) or visible_sense(wordnet, name))
    }
    for domain, count in FREQUENT.items():
        words = [
            word
            for word, keys in wordnet.index["noun"].items()
            if wordnet.synsets[keys[0]].domain == domain
            and re.fullmatch("[a-z]{3,20}", word)
            and word in wordnet.synsets[keys[0]].words
            and word not in TOO_GENERAL | UNSPECIFIC
        ]
        words.sort(key=lambda word: -wordnet.counts["noun", word])
        for word in words[:count]:
            senses.setdefault(word, wordnet.synsets[wordnet.index["noun"][word][0]])
    lines = [
        f"{word}: {', '.join(kinds_of(wordnet, word, sense))}\n"
        for word, sense in sorted(senses.items())
    ]
    DESTINATION.write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} words, {DESTINATION.stat().st_size} bytes")


def known_names(data: Path) -> list[str]:
    with np.load(data / "clip-b16-text-vectors" / "all.npz", allow_pickle=False) as file:
        names = map(plain, file["names"].tolist())
        return [
            name
            for name in names
            if re.fullmatch("[a-z]+( [a-z]+)?", name) and name not in UNSPECIFIC
        ]


def imagenet_senses(data: Path, wordnet: WordNet) -> dict[str, Sense]:
    """Return the senses of the names of ImageNet's classes, which are ids of WordNet."""
    senses = {}
    with tarfile.open(data / "imagenet-sample-1k" / "imagenet-sample-1k.tar") as tar:
        for member in tar:
            if member.name.endswith(".json") and (file := tar.extractfile(member)):
                entry = json.load(file)
                senses[plain(entry["label"])] = wordnet.synsets[f"noun{entry['wnid'][1:]}"]
    return senses


def visible_sense(wordnet: WordNet, name: str) -> Sense | None:
    """Return the first sense of a noun, or its second one, if that is a visible thing."""
    senses = [wordnet.synsets[key] for key in wordnet.index["noun"].get(name, [])[:2]]
    return next((sense for sense in senses if sense.domain in VISIBLE), None)


def kinds_of(wordnet: WordNet, name: str, sense: Sense) -> list[str]:
    """Return synonyms, and the frequent names of what a word is a kind of, nearest first."""
    kinds: dict[str, None] = dict.fromkeys(map(plain, sense.words))
    steps = wordnet.ancestors(sense)
    for key in sorted(steps, key=lambda key: steps[key]):
        for word in map(plain, wordnet.synsets[key].words):
            if steps[key] <= MAX_STEPS and wordnet.counts["noun", word] and word not in TOO_GENERAL:
                kinds[word] = None
    return [word for word in kinds if word != name and re.fullmatch("[a-z' -]+", word)]


if __name__ == "__main__":
    main()
