"""Queries and tags with known answers, made of the names of pictures.

A picture of a poodle shows a dog; whether a picture of a dog shows a poodle is unknown. What a word
is a kind of is taken from competitors.txt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array, normalize
from twotower.calibration.captions import Captions, LabelledQuery
from twotower.calibration.competitors import competing_words, kinds_of, plain_name
from twotower.encode.prompts import EVERYDAY_WORDS

# A picture that is named after something else hardly ever shows one of these besides, as it may
# show a person, a tree or a table.
SPECIFIC = frozenset(
    "animal food fruit vegetable vehicle aircraft boat ship weapon tool machine"
    " appliance footwear garment beverage flower reptile bird fish insect".split()
) | {"musical instrument"}
BROAD = frozenset(
    "animal food fruit vehicle machine device instrument instrumentation tool".split()
)
ABSENT_QUERIES = 150  # of a source
SIMILAR_COSINE = 0.45  # of two names after centring, from which they may mean the same

EmbedNames: TypeAlias = Callable[[Sequence[str]], Float32Array]


class NamedPictures:
    """The names of pictures, and which of them a word applies to.

    Attributes:
        names: all that each picture shows: its names, and what these are kinds of.
        vocabulary, own_vocabulary: the names of all pictures, with and without kinds.
    """

    def __init__(self, captions: Captions, embed: EmbedNames) -> None:
        """Read the names of pictures; several names of a picture are synonyms.

        Args:
            embed: a function from names to embeds [n, embed_dim].
        """
        self._labels = [frozenset(map(plain_name, names)) for names in captions]
        self.names = [labels.union(*(kinds_of(name) for name in labels)) for labels in self._labels]
        self.vocabulary = frozenset().union(*self.names)
        self.own_vocabulary = frozenset().union(*self._labels)
        self._distinct = sorted(set(self._labels), key=sorted)
        texts = [next(iter(sorted(labels)), "") for labels in self._distinct]
        embeds = embed(texts)
        self._mean = embeds.mean(axis=0)
        self._embeds = normalize(embeds - self._mean)

    def answers(self, words: Sequence[str], embed: Float32Array) -> NDArray[np.int8]:
        """Return whether each picture shows a thing [n]: 1, 0, or -1 if that is unknown.

        It is unknown for pictures of something more general, for names that are similar to the
        thing, as their embeds tell, and for names of which nothing is known.

        Args:
            words: names of the thing.
            embed: of the thing [embed_dim].
        """
        query = set(map(plain_name, words))
        general = query.union(*(kinds_of(word) for word in query))
        direction = normalize((embed - self._mean)[None])[0]
        similar = dict(zip(self._distinct, self._embeds @ direction > SIMILAR_COSINE, strict=True))
        shown = [bool(query & names) for names in self.names]
        unknown = [
            bool(labels & general) or similar[labels] or labels == names
            for labels, names in zip(self._labels, self.names, strict=True)
        ]
        return np.where(shown, 1, np.where(unknown, -1, 0)).astype(np.int8)

    def decides(self, words: Sequence[str]) -> bool:
        """Return True for a thing that names of these pictures tell to be shown or not."""
        query = set(map(plain_name, words))
        if query & self.vocabulary:
            return True
        kinds = frozenset().union(*(kinds_of(word) for word in query))
        return (
            bool(kinds & SPECIFIC) and not query & BROAD and not (kinds - BROAD) & self.vocabulary
        )


def named_queries(
    captions: Captions, embed: EmbedNames, random: np.random.Generator
) -> list[LabelledQuery]:
    """Make queries of all names, of what they are kinds of, and of absent things.

    Args:
        captions: the names of each picture.
        embed: a function from names to embeds [n, embed_dim].
    """
    pictures = NamedPictures(captions, embed)
    queries = []
    words = pictures.own_vocabulary | (pictures.vocabulary & (SPECIFIC | set(EVERYDAY_WORDS)))
    ordered = sorted(words)
    for word, row in zip(ordered, embed(ordered), strict=True):
        answers = pictures.answers([word], row)
        matching, unknown = (np.flatnonzero(answers == value) for value in (1, -1))
        queries.append(LabelledQuery(word, "word", matching, unknown))
    return queries + absent_names(pictures, random)


def absent_names(pictures: NamedPictures, random: np.random.Generator) -> list[LabelledQuery]:
    """Make queries of specific things that none of the pictures shows."""
    empty = np.zeros(0, np.int64)
    names = [
        word.name
        for word in competing_words()
        if word.name not in pictures.vocabulary and pictures.decides([word.name])
    ]
    drawn = random.permutation(np.array(names, dtype=object))[:ABSENT_QUERIES]
    return [LabelledQuery(str(name), "absent", empty, empty) for name in drawn]


def specific_words() -> list[str]:
    """Return the competing words that a picture hardly shows without being named after them."""
    return [word.name for word in competing_words() if word.kinds & SPECIFIC]
