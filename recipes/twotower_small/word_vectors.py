"""Estimate the vectors that CLIP's text tower would give to names.

Genuine text vectors are public for some thousand names. Kernel ridge regression maps any other name
into the space by its meaning: the sentence vectors of its descriptions, from WordNet's glosses, and
its hypernyms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recipes.twotower_small.losses import fill_template
from recipes.twotower_small.wordnet import Sense, WordNet, ancestor_weights, plain
from twotower.arrays import Float32Array

DESCRIPTION_WEIGHTS = (0.8, 0.8, 0.7)  # of `descriptions` in the kernel
HYPERNYM_WEIGHT = 1.0
GAMMA, RIDGE = 0.4, 0.1  # all chosen on held-out names
CHUNK = 1000  # names that are estimated together

Encode: TypeAlias = Callable[[Sequence[str]], Float32Array]  # texts -> sentence vectors


def estimate_vectors(
    names: Sequence[str],
    known_vectors: Float32Array,
    weights: Float32Array,
    wordnet: WordNet,
    encode: Encode,
) -> Float32Array:
    """Return vectors for all names, given those of the leading ones.

    Args:
        names: those with a known vector precede the others.
        known_vectors: [k, embed_dim], unit length.
        weights: [k], reliability of each known vector, 1 for genuine ones.

    Returns:
        [n, embed_dim], unit length; the leading k are `known_vectors`.
    """
    entries = [Entry(name, next(iter(wordnet.senses(name)), None)) for name in names]
    count = len(known_vectors)
    dictionary = Dictionary(entries[:count], known_vectors, weights, wordnet, encode)
    return np.concatenate([known_vectors, dictionary.vectors(entries[count:])])


@dataclass(frozen=True)
class Entry:
    """A name and its sense, None if the dictionary lacks it."""

    name: str
    sense: Sense | None


class Dictionary:
    """Kernel ridge regression from the meaning of names to their vectors.

    Args:
        entries: names with known vectors.
        vectors: [k, embed_dim], unit length.
        weights: [k], reliability of each vector, 1 for genuine ones.
        encode: a function from texts to sentence vectors.
        gamma: of the kernel.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        vectors: Float32Array,
        weights: Float32Array,
        wordnet: WordNet,
        encode: Encode,
        gamma: float = GAMMA,
    ) -> None:
        self.wordnet, self.encode, self.gamma = wordnet, encode, gamma
        self.mean = vectors.mean(axis=0)
        self.distance = np.linalg.norm(vectors - self.mean, axis=1).mean()
        self._senses = [entry.sense for entry in entries]
        self._columns = self._ancestor_columns()
        sentences = self._sentences(entries)
        self._centres = [rows.mean(axis=0) for rows in sentences]
        self._features = self._describe(entries)
        kernel = rbf(self._features, self._features, gamma)
        kernel[np.diag_indices(len(kernel))] += RIDGE / weights
        self._dual = np.linalg.solve(kernel, vectors - self.mean)

    def vectors(self, entries: Sequence[Entry]) -> Float32Array:
        """Estimate vectors [n, embed_dim], unit length.

        Regression estimates uncertain names near the mean, where they would fit no picture, so all
        estimates are scaled to the mean distance of known vectors from their mean.
        """
        estimates = self.mean + self.distance * self.directions(entries)
        return unit_rows(estimates).astype(np.float32)

    def directions(self, entries: Sequence[Entry]) -> Float32Array:
        """Estimate the directions [n, embed_dim] of vectors from their mean, unit length."""
        rows = [np.zeros((0, len(self.mean)), np.float32)]
        for start in range(0, len(entries), CHUNK):
            features = self._describe(entries[start : start + CHUNK])
            rows.append(unit_rows(rbf(features, self._features, self.gamma) @ self._dual))
        return np.concatenate(rows).astype(np.float32)

    def _describe(self, entries: Sequence[Entry]) -> Float32Array:
        """Return features [n, features] of each name, whose distance is that of the kernel."""
        sentences = [
            np.sqrt(share) * unit_rows(rows - centre)
            for share, rows, centre in zip(
                DESCRIPTION_WEIGHTS, self._sentences(entries), self._centres, strict=True
            )
        ]
        kinds = np.sqrt(HYPERNYM_WEIGHT) * self._kinds(entries)
        return np.concatenate([*sentences, kinds], axis=1).astype(np.float32)

    def _sentences(self, entries: Sequence[Entry]) -> list[Float32Array]:
        """Return the sentence vectors [n, width] of each kind of description."""
        texts = [descriptions(entry.name, entry.sense, self.wordnet) for entry in entries]
        return [self.encode(column) for column in zip(*texts, strict=True)]

    def _ancestor_columns(self) -> dict[str, int]:
        keys = {key for bag in ancestor_weights(self.wordnet, self._senses) for key in bag}
        return {key: column for column, key in enumerate(sorted(keys))}

    def _kinds(self, entries: Sequence[Entry]) -> Float32Array:
        """Return the weights of ancestors [n, ancestors]."""
        kinds = np.zeros((len(entries), len(self._columns)), np.float32)
        senses = [entry.sense for entry in entries]
        for row, bag in enumerate(ancestor_weights(self.wordnet, senses, self._senses)):
            for key, weight in bag.items():
                kinds[row, self._columns[key]] = weight
        return kinds


def descriptions(name: str, sense: Sense | None, wordnet: WordNet) -> tuple[str, str, str]:
    """Return a photo of the name, a photo with the gloss, and a dictionary entry."""
    photo = fill_template("a photo of a {}", name)
    if sense is None:
        return f"{photo}.", f"{photo}.", name
    synonyms = [word for word in sense.words if plain(word) != name]
    parents = [f"a kind of {wordnet.synsets[key].words[0]}" for key in sense.hypernyms[:1]]
    entry = f"{', '.join([name, *synonyms])}: {', '.join([*parents, sense.gloss])}"
    return f"{photo}.", f"{photo}, {sense.gloss}", entry


def rbf(a: Float32Array, b: Float32Array, gamma: float) -> NDArray[np.float64]:
    """Return exp(-gamma * squared distance), [a, b]."""
    squares = [np.square(rows).sum(axis=1, dtype=np.float64) for rows in (a, b)]
    distances = squares[0][:, None] + squares[1][None] - 2 * (a @ b.T)
    return np.exp(-gamma * np.maximum(distances, 0))


def unit_rows(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale vectors [..., embed_dim] to unit length."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
