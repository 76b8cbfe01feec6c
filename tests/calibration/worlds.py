"""Worlds of random vectors in which words and pictures are known."""

import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from twotower.arrays import Float32Array, normalize
from twotower.calibration.captions import content_words
from twotower.calibration.competitors import Competitors, competing_words, kinds_of
from twotower.calibration.fit import Pictures

DIM = 64
TEXT_NOISE = 0.6  # of the vector of a text that is not in its words
KIND_SHARE = 0.4  # of the vector of a kind in that of a thing
THINGS = tuple(
    "banana dog cat horse guitar violin bicycle bus apple pizza tiger lion rabbit chair clock piano"
    " trumpet airplane boat hammer teapot umbrella castle bridge mushroom pumpkin".split()
)


def word_vector(word: str) -> Float32Array:
    """Return the vector of a word, always the same one."""
    random = np.random.default_rng(zlib.crc32(word.encode()))
    return random.standard_normal(DIM).astype(np.float32)


class WordEncoder:
    """An encoder of texts alone, by the sum of the vectors of their words, and noise.

    All texts share a direction, as those of real models do.
    """

    def __init__(self, directory: Path = Path("nowhere")) -> None:
        self.directory = directory
        self.config = SimpleNamespace(
            embed_dim=DIM, name="words", text_directory=lambda path: path / "text"
        )
        self.calls: list[list[str]] = []

    def encode_text(self, texts: list[str]) -> Float32Array:
        self.calls.append(texts)
        return normalize(np.stack([self._vector(text) for text in texts]))

    def _vector(self, text: str) -> Float32Array:
        words = [word for word in content_words(text) if word != "photo"]
        noise = TEXT_NOISE * word_vector(f"noise of {text}")
        return 2 * word_vector("any text") + np.sum([*map(word_vector, words), noise], axis=0)


def random_competitors(count: int | None = None) -> Competitors:
    """Return competitors with unrelated random embeds, of all words or of the first few."""
    random = np.random.default_rng(0)
    words = random.standard_normal((count or len(competing_words()), DIM)).astype(np.float32)
    captions = random.standard_normal((50, DIM)).astype(np.float32)
    return Competitors(normalize(words), normalize(captions))


def named_source(seed: int, count: int = 400, *, noise: float = 1.0) -> Pictures:
    """Return pictures of one of `THINGS` each, with its name.

    Args:
        noise: of each picture, relative to the vector of the thing.
    """
    random = np.random.default_rng(seed)
    names = [THINGS[number] for number in random.integers(0, len(THINGS), count)]
    return Pictures(_pictures([[name] for name in names], random, noise), [(n,) for n in names])


def captioned_source(seed: int, count: int = 400, *, noise: float = 1.0) -> Pictures:
    """Return pictures of three of `THINGS` each, with three captions."""
    random = np.random.default_rng(seed)
    things = [random.choice(THINGS, 3, replace=False).tolist() for _ in range(count)]
    captions = [
        (f"a {a}, a {b} and a {c}", f"{b} with a {c} near a {a}", f"some {c} and a {a} or {b}")
        for a, b, c in things
    ]
    return Pictures(_pictures(things, random, noise), captions)


def _pictures(things: list[list[str]], random: np.random.Generator, noise: float) -> Float32Array:
    """Return pictures [n, DIM] of things, each near every text to a different degree."""
    shown = np.stack([np.sum([*map(_thing_vector, names)], axis=0) for names in things])
    shared = word_vector("any text") * random.uniform(0, 1, (len(things), 1))
    away = noise * random.standard_normal(shown.shape)
    return normalize((shown + shared + 2 * word_vector("any picture") + away).astype(np.float32))


def _thing_vector(name: str) -> Float32Array:
    """Return the vector of a thing, which is near those of what it is a kind of."""
    kinds = [word_vector(word) for kind in kinds_of(name) for word in kind.split()]
    return np.sum([word_vector(name), *(KIND_SHARE * vector for vector in kinds)], axis=0)
