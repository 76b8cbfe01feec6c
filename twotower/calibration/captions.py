"""Queries and tags with known answers, made of captions."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array, Int64Array

Captions: TypeAlias = Sequence[Sequence[str]]  # of each picture

MIN_CAPTIONS = 3  # with so many captions, a thing that none of them names is not in the picture
MIN_AGREEMENT = 0.4  # share of a picture's captions that name a thing, for words that make queries
MIN_TAG_SHARE = 0.003  # share of pictures below which a tag counts as absent, named by mistake
PHRASE_LENGTHS = (2, 6)  # words

# Words that do not tell what is in a picture.
STOP_WORDS = frozenset(
    "a an the of in on at to with and or by for from is are was were be been being it its his her "
    "their they he she this that these those there which who while as into onto over under up "
    "down out off near next through behind between against around across along front back top "
    "side someone something some other another one two three four five six several many few both "
    "all very has have had having do does doing looks look looking stands stand standing sits sit "
    "sitting wearing wears wear holding holds hold".split()
)


@dataclass(frozen=True)
class CaptionedTag:
    """The pictures that show a tag, as far as their captions decide it.

    Attributes:
        name: of the tag in the shipped vocabulary.
        answers: [n], 1 for pictures that show it (two captions name it), 0 for those that do not
            (none of `MIN_CAPTIONS` does), -1 if undecided.
    """

    name: str
    answers: NDArray[np.int8]


@dataclass(frozen=True)
class LabelledQuery:
    """A query with its answer.

    Attributes:
        kind: "word" (one or two words), "phrase" (some words of a caption, or all) or "absent"
            (words for what no picture shows).
        matching: numbers of the pictures that match.
        unknown: numbers of those that may match.
    """

    text: str
    kind: str
    matching: Int64Array
    unknown: Int64Array


def word_queries(captions: Captions, min_matching: int = 3) -> list[LabelledQuery]:
    """Make queries of words, and pairs of words, that captions agree on.

    A picture matches if two of its captions, or its only one, name the words. It is unknown if one
    of several does. Words that captions often leave out ("shirt") are no queries.

    Args:
        min_matching: pictures that must match a query.
    """
    mentions: dict[str, Counter[int]] = defaultdict(Counter)
    for picture, texts in enumerate(captions):
        for caption in texts:
            for term in _terms(caption):
                mentions[term][picture] += 1
    counts = np.array([len(texts) for texts in captions])
    queries = []
    for term, pictures in sorted(mentions.items()):
        ids = np.array(list(pictures), np.int64)
        times = np.array(list(pictures.values()))
        agreed = times >= np.minimum(2, counts[ids])
        if agreed.sum() >= min_matching and (times / counts[ids]).mean() >= MIN_AGREEMENT:
            queries.append(LabelledQuery(term, "word", ids[agreed], ids[~agreed]))
    return queries


def phrase_queries(
    captions: Captions, count: int, random: np.random.Generator
) -> list[LabelledQuery]:
    """Make queries of some words of a caption or of all; each matches the caption's picture.

    Pictures whose captions have half of the query's content words are unknown.
    """
    words = [
        frozenset(word for caption in texts for word in content_words(caption))
        for texts in captions
    ]
    holders: dict[str, list[int]] = defaultdict(list)
    for picture, vocabulary in enumerate(words):
        for word in vocabulary:
            holders[word].append(picture)
    queries: list[LabelledQuery] = []
    for _ in range(10 * count):  # most tries give a phrase
        picture = int(random.integers(len(captions)))
        texts = captions[picture]
        text = _excerpt(texts[int(random.integers(len(texts)))], random)
        content = set(content_words(text))
        if content:
            shared = np.zeros(len(captions))
            for word in content:
                shared[holders[word]] += 1
            similar = np.flatnonzero(shared >= len(content) / 2)
            unknown = similar[similar != picture]
            queries.append(LabelledQuery(text, "phrase", np.array([picture]), unknown))
        if len(queries) == count:
            break
    return queries


def absent_queries(captions: Captions, texts: Sequence[str]) -> list[LabelledQuery]:
    """Make queries of the `texts` without a word of any caption.

    None if a picture has fewer than `MIN_CAPTIONS`.
    """
    if min(map(len, captions)) < MIN_CAPTIONS:
        return []
    vocabulary = {
        word for described in captions for caption in described for word in content_words(caption)
    }
    empty = np.zeros(0, np.int64)
    return [
        LabelledQuery(text, "absent", empty, empty)
        for text in texts
        if (words := content_words(text)) and not vocabulary.intersection(words)
    ]


def picture_queries(
    captions: Captions, count: int, random: np.random.Generator
) -> list[LabelledQuery]:
    """Make queries of pictures; `text` is the number of the picture.

    Two pictures match if they share half of all words that the captions of either agree on. They
    differ if they share less than a tenth, and are unknown in between.
    """
    table = _agreed_words(captions)
    sizes = table.sum(axis=1)
    queries = []
    for picture in random.permutation(np.flatnonzero(sizes >= 2))[:count]:
        common = table @ table[picture]
        share = common / np.maximum(sizes + sizes[picture] - common, 1)
        share[picture] = 0.25  # unknown: the query itself is no test
        matching = np.flatnonzero(share >= 0.5)
        unknown = np.flatnonzero((share >= 0.1) & (share < 0.5))
        queries.append(LabelledQuery(str(picture), "word", matching, unknown))
    return queries


def _agreed_words(captions: Captions) -> Float32Array:
    """Return a table [pictures, words], 1 where two captions, or the only one, have the word."""
    agreed = []
    for texts in captions:
        times = Counter(word for caption in texts for word in set(content_words(caption)))
        agreed.append({word for word, count in times.items() if count >= min(2, len(texts))})
    columns = {word: i for i, word in enumerate(sorted(set().union(*agreed)))}
    table = np.zeros((len(captions), len(columns)), np.float32)
    for picture, words in enumerate(agreed):
        table[picture, [columns[word] for word in words]] = 1
    return table


def captioned_tags(captions: Captions) -> list[CaptionedTag]:
    """Return the tags of captioned.txt that captions decide.

    Tags on which the captions of a picture disagree too often are left out. None if a picture has
    fewer than `MIN_CAPTIONS`.
    """
    if min((len(texts) for texts in captions), default=0) < MIN_CAPTIONS:
        return []
    counts = np.array([len(texts) for texts in captions])
    lower = [[caption.lower() for caption in texts] for texts in captions]
    tags = []
    for name, pattern in read_captioned():
        times = np.array(
            [sum(bool(pattern.search(caption)) for caption in texts) for texts in lower]
        )
        named = times > 0
        if named.mean() < MIN_TAG_SHARE or (times / counts)[named].mean() >= MIN_AGREEMENT:
            answers = np.where(times >= 2, 1, np.where(times == 0, 0, -1)).astype(np.int8)
            tags.append(CaptionedTag(name, answers))
    return tags


def read_captioned() -> list[tuple[str, re.Pattern[str]]]:
    """Return the tags of captioned.txt, each with a pattern of the words for it."""
    path = Path(__file__).parent / "captioned.txt"
    tags = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, mark, words = line.partition(":")
        if mark and not line.startswith("#"):
            stems = [re.escape(word.strip()).replace(r"\*", "[a-z]*") for word in words.split(",")]
            tags.append((name, re.compile(rf"\b(?:{'|'.join(stems)})\b")))
    return tags


def content_words(text: str) -> list[str]:
    """Return the words that tell what is in a picture, in lower case and the singular."""
    words = re.findall(r"[a-z]+", text.lower())
    return [singular(word) for word in words if _is_content(word)]


def _is_content(word: str) -> bool:
    return len(word) > 1 and word not in STOP_WORDS


def _terms(caption: str) -> set[str]:
    """Return content words, and pairs of adjacent ones."""
    words = re.findall(r"[a-z]+", caption.lower())
    terms = {singular(word) for word in words if _is_content(word)}
    for word, following in pairwise(words):
        if _is_content(word) and _is_content(following):
            terms.add(f"{word} {singular(following)}")
    return terms


def _excerpt(caption: str, random: np.random.Generator) -> str:
    """Draw two to six adjacent words that end with a content word, or, once in three, all."""
    words = caption.split()
    length = int(random.integers(PHRASE_LENGTHS[0], PHRASE_LENGTHS[1] + 1))
    if random.random() < 1 / 3 or len(words) <= length:
        return caption
    start = int(random.integers(len(words) - length + 1))
    excerpt = words[start : start + length]
    while excerpt and not content_words(excerpt[-1]):
        excerpt.pop()
    return " ".join(excerpt)


def singular(word: str) -> str:
    """Return a lower-case word without its plural ending."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    return word
