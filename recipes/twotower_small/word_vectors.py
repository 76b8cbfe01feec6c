"""Estimate the vectors that CLIP's text tower would give to names.

Genuine text vectors are public for some thousand names. Kernel ridge regression maps any other name
into the space by its meaning: the sentence vectors of its descriptions, from WordNet's glosses, and
its hypernyms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from recipes.twotower_small.losses import fill_template
from recipes.twotower_small.wordnet import Sense, WordNet, ancestor_weights, plain
from twotower.arrays import Float32Array

DESCRIPTION_WEIGHTS = (0.8, 0.8, 0.7)  # of `descriptions` in the kernel
HYPERNYM_WEIGHT = 1.0
GAMMA, RIDGE = 0.4, 0.1  # all chosen on held-out names


def estimate_vectors(
    names: Sequence[str],
    known_vectors: Float32Array,
    weights: Float32Array,
    wordnet: WordNet,
    encode: Callable[[Sequence[str]], Float32Array],
) -> Float32Array:
    """Return vectors for all names, given those of the leading ones.

    Regression estimates uncertain names near the mean, where they would fit no picture, so all
    estimates are scaled to the mean distance of known vectors from their mean.

    Args:
        names: those with a known vector precede the others.
        known_vectors: [k, embed_dim], unit length.
        weights: [k], reliability of each known vector, 1 for genuine ones.
        encode: a function from texts to sentence vectors.

    Returns:
        [n, embed_dim], unit length; the leading k are `known_vectors`.
    """
    features = describe(names, len(known_vectors), wordnet, encode)
    mean = known_vectors.mean(axis=0)
    kernel = rbf(features[: len(known_vectors)], features[: len(known_vectors)])
    kernel[np.diag_indices(len(known_vectors))] += RIDGE / weights
    dual = np.linalg.solve(kernel, known_vectors - mean)
    distance = np.linalg.norm(known_vectors - mean, axis=1).mean()
    estimated = [
        mean
        + distance
        * unit_rows(rbf(features[start : start + 1000], features[: len(known_vectors)]) @ dual)
        for start in range(len(known_vectors), len(names), 1000)
    ]
    return np.concatenate([known_vectors, *map(unit_rows, estimated)]).astype(np.float32)


def describe(
    names: Sequence[str],
    known_count: int,
    wordnet: WordNet,
    encode: Callable[[Sequence[str]], Float32Array],
) -> Float32Array:
    """Return features [n, features] of each name, whose distance is that of the kernel."""
    senses = [next(iter(wordnet.senses(name)), None) for name in names]
    bags = ancestor_weights(wordnet, senses)
    columns = {key: column for column, key in enumerate(sorted({k for bag in bags for k in bag}))}
    kinds = np.zeros((len(names), len(columns)), np.float32)
    for row, bag in enumerate(bags):
        for key, weight in bag.items():
            kinds[row, columns[key]] = weight
    texts = zip(
        *(descriptions(name, sense, wordnet) for name, sense in zip(names, senses, strict=True)),
        strict=True,
    )
    sentences = [
        np.sqrt(share) * unit_rows(vectors - vectors[:known_count].mean(axis=0))
        for share, vectors in zip(DESCRIPTION_WEIGHTS, map(encode, texts), strict=True)
    ]
    return np.concatenate([*sentences, np.sqrt(HYPERNYM_WEIGHT) * kinds], axis=1)


def descriptions(name: str, sense: Sense | None, wordnet: WordNet) -> tuple[str, str, str]:
    """Return a photo of the name, a photo with the gloss, and a dictionary entry."""
    photo = fill_template("a photo of a {}", name)
    if sense is None:
        return f"{photo}.", f"{photo}.", name
    synonyms = [word for word in sense.words if plain(word) != name]
    parents = [f"a kind of {wordnet.synsets[key].words[0]}" for key in sense.hypernyms[:1]]
    entry = f"{', '.join([name, *synonyms])}: {', '.join([*parents, sense.gloss])}"
    return f"{photo}.", f"{photo}, {sense.gloss}", entry


def rbf(a: Float32Array, b: Float32Array) -> NDArray[np.float64]:
    """Return exp(-GAMMA * squared distance), [a, b]."""
    squares = [np.square(rows).sum(axis=1, dtype=np.float64) for rows in (a, b)]
    distances = squares[0][:, None] + squares[1][None] - 2 * (a @ b.T)
    return np.exp(-GAMMA * np.maximum(distances, 0))


def unit_rows(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale vectors [..., embed_dim] to unit length."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
