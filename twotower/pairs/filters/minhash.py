"""MinHash signatures of texts, computed for whole columns.

A signature has 64 components; two texts agree in each with the probability of their Jaccard
similarity (Broder 1997). All texts of a batch are one array of bytes, so that numpy computes a
component for all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from twotower.pairs.filters.texts import normal_form

GRAM = 5  # bytes of UTF-8
COMPONENTS, ROWS_PER_BAND = 64, 4
BATCH = 20_000  # texts; about 50 MB of intermediate arrays for captions
UInt16Array = NDArray[np.uint16]
UInt64Array = NDArray[np.uint64]

_FACTORS = np.random.default_rng(0).integers(0, 2**31, (COMPONENTS, 2), np.uint32) * 2 + 1


def text_signatures(texts: Sequence[str]) -> UInt16Array:
    """Return the MinHash signatures [n, 64] of the 5-grams of the normal forms of texts."""
    batches = [
        _signatures([normal_form(text) for text in texts[start : start + BATCH]])
        for start in range(0, len(texts), BATCH)
    ]
    return np.concatenate(batches) if batches else np.zeros((0, COMPONENTS), np.uint16)


def _signatures(texts: Sequence[str]) -> UInt16Array:
    """Return the signatures of normal forms; of one shorter than a gram, that of its padding."""
    encoded = [text.encode("utf-8", "surrogatepass").ljust(GRAM) for text in texts]
    lengths = np.array([len(content) for content in encoded], np.int64)
    characters = np.frombuffer(b"".join(encoded), np.uint8)
    ends = np.cumsum(lengths)
    grams = _mix(_gram_values(characters))
    inside = np.ones(len(characters), np.bool_)
    for offset in range(1, GRAM):  # grams that would run into the next text
        inside[ends - offset] = False
    grams = grams[inside[: len(grams)]]
    counts = lengths - GRAM + 1
    starts = np.cumsum(counts) - counts
    signatures = np.empty((len(texts), COMPONENTS), np.uint16)
    for component, (factor, offset) in enumerate(_FACTORS):
        hashes = (grams ^ offset) * factor
        hashes ^= hashes >> np.uint32(15)
        hashes *= np.uint32(0x846CA68B)
        signatures[:, component] = np.minimum.reduceat(hashes, starts) & np.uint32(0xFFFF)
    return signatures


def _gram_values(characters: NDArray[np.uint8]) -> UInt64Array:
    """Return each run of `GRAM` bytes as an integer [n - GRAM + 1]."""
    values = np.zeros(len(characters) - GRAM + 1, np.uint64)
    for offset in range(GRAM):
        values = (values << np.uint64(8)) | characters[offset : offset + len(values)]
    return values


def _mix(values: UInt64Array) -> NDArray[np.uint32]:
    """Return 32-bit hashes (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (values >> np.uint64(32)).astype(np.uint32)


def band_keys(signatures: UInt16Array, band: int) -> UInt64Array:
    """Return the key of a band of each signature: four components as a 64-bit integer [n]."""
    columns = slice(band * ROWS_PER_BAND, (band + 1) * ROWS_PER_BAND)
    return np.ascontiguousarray(signatures[:, columns]).view(np.uint64)[:, 0]
