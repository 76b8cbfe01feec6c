"""A slow teacher of words: where CLIP's text tower would put a name that nobody asked it about.

Genuine text vectors are known for some thousand names. What a name means says where others lie:
its own sentence vector, that of its first gloss in WordNet, and what it is a kind of. Kernel ridge
regression on the three maps any name into the space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from twotower.train.bundled.wordnet import WordNet, bags_of_ancestors

Floats = NDArray[np.float32]

GLOSS, NAME, KIND = 1.0, 0.6, 1.0  # how much each of the three counts in the kernel
GAMMA, RIDGE = 0.2, 0.05  # all chosen on held-out names


def teach_words(
    names: Sequence[str],
    known: Floats,
    weights: Floats,
    wordnet: WordNet,
    encode: Callable[[Sequence[str]], Floats],
) -> Floats:
    """Vectors for all names from the genuine ones of the first.

    Args:
        names: those with a vector first. known: [k, embed_dim], unit length.
        weights: [k], how far each known vector is to be trusted, 1 for genuine ones.
        encode: texts -> sentence vectors.

    Returns:
        [n, embed_dim] of unit length; the first k are `known`.
    """
    features = describe(names, len(known), wordnet, encode)
    mean = known.mean(axis=0)
    kernel = rbf(features[: len(known)], features[: len(known)])
    kernel[np.diag_indices(len(known))] += RIDGE / weights
    dual = np.linalg.solve(kernel, known - mean)
    guessed = [
        rbf(features[start : start + 1000], features[: len(known)]) @ dual + mean
        for start in range(len(known), len(names), 1000)
    ]
    return np.concatenate([known, *map(unit, guessed)]).astype(np.float32)


def describe(
    names: Sequence[str],
    known: int,
    wordnet: WordNet,
    encode: Callable[[Sequence[str]], Floats],
) -> Floats:
    """What is known of each name, as rows [n, features] whose distance is the kernel's."""
    senses = [next(iter(wordnet.senses(name)), None) for name in names]
    glosses = [sense.gloss if sense else name for name, sense in zip(names, senses, strict=True)]
    bags = bags_of_ancestors(wordnet, senses)
    columns = {key: column for column, key in enumerate(sorted({k for bag in bags for k in bag}))}
    kinds = np.zeros((len(names), len(columns)), np.float32)
    for row, bag in enumerate(bags):
        for key, weight in bag.items():
            kinds[row, columns[key]] = weight
    sentences = [
        np.sqrt(share) * unit(vectors - vectors[:known].mean(axis=0))
        for share, vectors in ((GLOSS, encode(glosses)), (NAME, encode(names)))
    ]
    return np.concatenate([*sentences, np.sqrt(KIND) * kinds], axis=1)


def rbf(a: Floats, b: Floats) -> NDArray[np.float64]:
    """exp(-GAMMA * squared distance): [a, b]"""
    squares = [np.square(one).sum(axis=1, dtype=np.float64) for one in (a, b)]
    distances = squares[0][:, None] + squares[1][None] - 2 * (a @ b.T)
    return np.exp(-GAMMA * np.maximum(distances, 0))


def unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Vectors of unit length, of one or many."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
