"""Captions to queries with known answers: which pictures match, and which surely do not."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Int64Array

Captions = Sequence[Sequence[str]]

SEVERAL = 3  # with so many captions, what none of them names is not in the picture
RELIABLE = 0.4  # the share of a picture's captions that name a thing, for words that count as query
RARE = 0.003  # the share of pictures below which a tag counts as not there, named by mistake
PHRASE_LENGTHS = (2, 6)

# Words that say nothing about what is seen.
EMPTY_WORDS = frozenset(
    "a an the of in on at to with and or by for from is are was were be been being it its his her "
    "their they he she this that these those there which who while as into onto over under up "
    "down out off near next through behind between against around across along front back top "
    "side someone something some other another one two three four five six several many few both "
    "all very has have had having do does doing looks look looking stands stand standing sits sit "
    "sitting wearing wears wear holding holds hold".split()
)


@dataclass(frozen=True)
class CaptionedTag:
    """A tag that captions decide, by its name in the shipped vocabulary.

    `answers` [n]: 1 where a picture shows it (two captions say so), 0 where it does not (none of
    several does), -1 where that is open.
    """

    name: str
    answers: NDArray[np.int8]


@dataclass(frozen=True)
class LabelledQuery:
    """Words, the pictures that they match, and those of which the captions leave it open.

    `kind` is "word" (one or two words), "phrase" (part of a caption or a whole one) or "absent"
    (words for what no picture shows).
    """

    text: str
    kind: str
    matching: Int64Array
    unknown: Int64Array


def word_queries(captions: Captions, fewest: int = 3) -> list[LabelledQuery]:
    """Words and pairs of words that captions agree about.

    A picture matches what two of its captions name (or its only one). What a single caption of
    several names stays open, and words that captions often leave out ("shirt") are no queries.
    """
    named: dict[str, Counter[int]] = defaultdict(Counter)
    for picture, said in enumerate(captions):
        for caption in said:
            for term in _terms(caption):
                named[term][picture] += 1
    counts = np.array([len(said) for said in captions])
    queries = []
    for term, pictures in sorted(named.items()):
        ids = np.array(list(pictures), np.int64)
        times = np.array(list(pictures.values()))
        agreed = times >= np.minimum(2, counts[ids])
        if agreed.sum() >= fewest and (times / counts[ids]).mean() >= RELIABLE:
            queries.append(LabelledQuery(term, "word", ids[agreed], ids[~agreed]))
    return queries


def phrase_queries(
    captions: Captions, count: int, random: np.random.Generator
) -> list[LabelledQuery]:
    """Parts of captions, and some whole ones; each matches its own picture.

    Pictures whose captions have half of its words may match too, and stay open.
    """
    words = [frozenset(word for one in said for word in content_words(one)) for said in captions]
    holders: dict[str, list[int]] = defaultdict(list)
    for picture, some in enumerate(words):
        for word in some:
            holders[word].append(picture)
    queries: list[LabelledQuery] = []
    for _ in range(10 * count):  # most tries give a phrase
        picture = int(random.integers(len(captions)))
        said = captions[picture]
        text = _part(said[int(random.integers(len(said)))], random)
        wanted = set(content_words(text))
        if wanted:
            shared = np.zeros(len(captions))
            for word in wanted:
                shared[holders[word]] += 1
            similar = np.flatnonzero(shared >= len(wanted) / 2)
            unknown = similar[similar != picture]
            queries.append(LabelledQuery(text, "phrase", np.array([picture]), unknown))
        if len(queries) == count:
            break
    return queries


def absent_queries(captions: Captions, texts: Sequence[str]) -> list[LabelledQuery]:
    """Those of `texts` of which no caption has a word; none where pictures have few captions."""
    if min(len(said) for said in captions) < SEVERAL:
        return []
    known = {word for said in captions for caption in said for word in content_words(caption)}
    none = np.zeros(0, np.int64)
    return [
        LabelledQuery(text, "absent", none, none)
        for text in texts
        if (words := content_words(text)) and not known.intersection(words)
    ]


def picture_queries(
    captions: Captions, count: int, random: np.random.Generator
) -> list[LabelledQuery]:
    """Pictures as queries (`text` is the number): alike is what several captions agree to share.

    Two pictures match where half of all that either's captions agree on is common to both; they
    differ where that is less than a tenth.
    """
    agreed = []
    for said in captions:
        times = Counter(word for one in said for word in set(content_words(one)))
        agreed.append({word for word, count in times.items() if count >= min(2, len(said))})
    vocabulary = {word: i for i, word in enumerate(sorted(set().union(*agreed)))}
    table = np.zeros((len(captions), len(vocabulary)), np.float32)
    for picture, words in enumerate(agreed):
        table[picture, [vocabulary[word] for word in words]] = 1
    sizes = table.sum(axis=1)
    queries = []
    several = np.flatnonzero(sizes >= 2)
    for picture in random.permutation(several)[:count]:
        common = table @ table[picture]
        share = common / np.maximum(sizes + sizes[picture] - common, 1)
        share[picture] = 0.25  # itself is no test
        matching = np.flatnonzero(share >= 0.5)
        unknown = np.flatnonzero((share >= 0.1) & (share < 0.5))
        queries.append(LabelledQuery(str(picture), "word", matching, unknown))
    return queries


def captioned_tags(captions: Captions) -> list[CaptionedTag]:
    """What captions say of the tags of captioned.txt; none where pictures have few captions.

    Tags that captions of one picture disagree about too often are left out.
    """
    if min((len(said) for said in captions), default=0) < SEVERAL:
        return []
    counts = np.array([len(said) for said in captions])
    lower = [[caption.lower() for caption in said] for said in captions]
    found = []
    for name, pattern in read_captioned():
        times = np.array([sum(bool(pattern.search(one)) for one in said) for said in lower])
        named = times > 0
        if named.mean() < RARE or (times / counts)[named].mean() >= RELIABLE:
            answers = np.where(times >= 2, 1, np.where(times == 0, 0, -1)).astype(np.int8)
            found.append(CaptionedTag(name, answers))
    return found


def read_captioned() -> list[tuple[str, re.Pattern[str]]]:
    """The tags of captioned.txt, each with what matches the words for it."""
    path = Path(__file__).parent / "captioned.txt"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, mark, words = line.partition(":")
        if mark and not line.startswith("#"):
            some = (re.escape(word.strip()).replace(r"\*", "[a-z]*") for word in words.split(","))
            found.append((name, re.compile(rf"\b(?:{'|'.join(some)})\b")))
    return found


def content_words(text: str) -> list[str]:
    """The words that say what is seen, in lower case and without a plural's s."""
    words = re.findall(r"[a-z]+", text.lower())
    return [_singular(word) for word in words if len(word) > 1 and word not in EMPTY_WORDS]


def _terms(caption: str) -> set[str]:
    """Content words, and pairs that follow one another."""
    words = re.findall(r"[a-z]+", caption.lower())
    speaking = [len(word) > 1 and word not in EMPTY_WORDS for word in words]
    terms = {_singular(word) for word, speaks in zip(words, speaking, strict=True) if speaks}
    for i in range(len(words) - 1):
        if speaking[i] and speaking[i + 1]:
            terms.add(f"{words[i]} {_singular(words[i + 1])}")
    return terms


def _part(caption: str, random: np.random.Generator) -> str:
    """Two to six words in a row that end with one that speaks; or, of three times one, all."""
    words = caption.split()
    length = int(random.integers(PHRASE_LENGTHS[0], PHRASE_LENGTHS[1] + 1))
    if random.random() < 1 / 3 or len(words) <= length:
        return caption
    start = int(random.integers(len(words) - length + 1))
    part = words[start : start + length]
    while part and not content_words(part[-1]):
        part.pop()
    return " ".join(part)


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    return word
