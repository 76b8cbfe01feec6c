"""A slow teacher of words: where CLIP's text tower would put a name that nobody asked it about.

Genuine text vectors are known for some thousand names. What a name means says where others lie:
the sentence vectors of its description, by WordNet's gloss, and what it is a kind of. Kernel ridge
regression on these maps any name into the space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from recipes.twotower_small.losses import in_template
from recipes.twotower_small.wordnet import Sense, WordNet, bags_of_ancestors, plain
from twotower.arrays import Float32Array

DESCRIPTIONS = (0.8, 0.8, 0.7)  # how much each of `descriptions` counts in the kernel
KIND = 1.0  # and what it is a kind of
GAMMA, RIDGE = 0.4, 0.1  # all chosen on held-out names


def teach_words(
    names: Sequence[str],
    known: Float32Array,
    weights: Float32Array,
    wordnet: WordNet,
    encode: Callable[[Sequence[str]], Float32Array],
) -> Float32Array:
    """Vectors for all names from the genuine ones of the first.

    What regression is unsure of it puts near the mean, and there it would fit no picture: all are
    moved as far from the mean as genuine vectors are.

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
    far = np.linalg.norm(known - mean, axis=1).mean()
    guessed = [
        mean + far * unit(rbf(features[start : start + 1000], features[: len(known)]) @ dual)
        for start in range(len(known), len(names), 1000)
    ]
    return np.concatenate([known, *map(unit, guessed)]).astype(np.float32)


def describe(
    names: Sequence[str],
    known: int,
    wordnet: WordNet,
    encode: Callable[[Sequence[str]], Float32Array],
) -> Float32Array:
    """What is known of each name, as rows [n, features] whose distance is the kernel's."""
    senses = [next(iter(wordnet.senses(name)), None) for name in names]
    bags = bags_of_ancestors(wordnet, senses)
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
        np.sqrt(share) * unit(vectors - vectors[:known].mean(axis=0))
        for share, vectors in zip(DESCRIPTIONS, map(encode, texts), strict=True)
    ]
    return np.concatenate([*sentences, np.sqrt(KIND) * kinds], axis=1)


def descriptions(name: str, sense: Sense | None, wordnet: WordNet) -> tuple[str, str, str]:
    """A photo of it, a photo of it with the gloss, and an entry as in a dictionary."""
    photo = in_template("a photo of a {}", name)
    if sense is None:
        return f"{photo}.", f"{photo}.", name
    others = [word for word in sense.words if plain(word) != name]
    kinds = [f"a kind of {wordnet.synsets[key].words[0]}" for key in sense.hypernyms[:1]]
    entry = f"{', '.join([name, *others])}: {', '.join([*kinds, sense.gloss])}"
    return f"{photo}.", f"{photo}, {sense.gloss}", entry


def rbf(a: Float32Array, b: Float32Array) -> NDArray[np.float64]:
    """exp(-GAMMA * squared distance): [a, b]"""
    squares = [np.square(one).sum(axis=1, dtype=np.float64) for one in (a, b)]
    distances = squares[0][:, None] + squares[1][None] - 2 * (a @ b.T)
    return np.exp(-GAMMA * np.maximum(distances, 0))


def unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Vectors of unit length, of one or many."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)
