"""Groups of equal and nearly equal rows, by tables of keys that equal rows are likely to share.

Memory is a few integers for each row, whatever the number of similar pairs: a table of keys is
sorted, and rows with the same key are compared at a distance of 1, 2, 3, ... in that order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import BoolArray, Int64Array, UInt8Array
from twotower.pairs.filters.minhash import COMPONENTS, ROWS_PER_BAND, UInt16Array, band_keys
from twotower.pairs.filters.pictures import COARSE_BYTES

COMPARED = 256  # rows after it with the same key that a row is compared with: a limit of the time
CHUNK = 2**16  # comparisons at a time
PICTURE_TABLES = 48
COARSE_DISTANCE = 16  # bits of 64 in which coarse hashes of copies differ at most, or the fine ones
_BITS = np.array([value.bit_count() for value in range(2**16)], np.uint8)

Similar = Callable[[Int64Array, Int64Array], BoolArray]


def near_groups(count: int, tables: Iterable[NDArray[Any]], similar: Similar) -> Int64Array:
    """Return a group number for each of `count` rows: the lowest row that it is connected with.

    Rows are connected if they have the same key in a table and are similar, or by others. The
    grouping does not depend on the order of rows unless more than `COMPARED` rows share a key.

    Args:
        tables: arrays of keys [count].
        similar: compares rows by number [m] with rows [m].
    """
    groups = np.arange(count)
    for keys in tables:
        order = np.argsort(keys, kind="stable")
        for rows, partners in _neighbours(keys[order]):
            rows, partners = order[rows], order[partners]
            apart = groups[rows] != groups[partners]
            rows, partners = rows[apart], partners[apart]
            alike = similar(rows, partners) if len(rows) else apart[:0]
            groups = _connect(groups, rows[alike], partners[alike])
    return groups


def _neighbours(keys: NDArray[Any]) -> Iterator[tuple[Int64Array, Int64Array]]:
    """Yield positions [m] and later positions [m] with the same key, in sorted keys."""
    positions = np.arange(len(keys))
    for distance in range(1, COMPARED + 1):
        positions = positions[positions < len(keys) - distance]
        positions = positions[keys[positions] == keys[positions + distance]]
        if not len(positions):
            return
        for start in range(0, len(positions), CHUNK):
            chunk = positions[start : start + CHUNK]
            yield chunk, chunk + distance


def _connect(groups: Int64Array, rows: Int64Array, partners: Int64Array) -> Int64Array:
    """Join the groups of pairs of rows; each group keeps its lowest number."""
    while len(rows):
        row_groups, partner_groups = groups[rows], groups[partners]
        lowest = np.minimum(row_groups, partner_groups)
        np.minimum.at(groups, row_groups, lowest)
        np.minimum.at(groups, partner_groups, lowest)
        while not np.array_equal(groups, compressed := groups[groups]):
            groups = compressed
        apart = groups[rows] != groups[partners]
        rows, partners = rows[apart], partners[apart]
    return groups


def picture_groups(hashes: UInt8Array, distance: int) -> Int64Array:
    """Group pictures whose fine hashes differ in at most `distance` bits.

    Args:
        hashes: [n, HASH_BYTES], of `pictures.picture_hash`.
    """
    unique, inverse = _unique_rows(hashes)
    compare = PictureComparison(unique, unique, distance)
    groups = near_groups(len(unique), _picture_tables(unique, len(unique)), compare)
    return _restore(groups, inverse)


class PictureComparison:
    """Comparison of two columns of hashes [n, HASH_BYTES] by numbers of rows.

    The coarse hashes are compared before the fine ones, because they are four times shorter.
    """

    def __init__(self, hashes: UInt8Array, partners: UInt8Array, distance: int) -> None:
        self._distance = distance
        self._columns = [_words(hashes), _words(partners)]

    def __call__(self, rows: Int64Array, partners: Int64Array) -> BoolArray:
        """Return True where the hash of a row and that of its partner are of copies [m]."""
        (coarse, fine), (partner_coarse, partner_fine) = self._columns
        alike = different_bits(coarse[rows], partner_coarse[partners]) <= COARSE_DISTANCE
        close = np.flatnonzero(alike)
        bits = different_bits(fine[rows[close]], partner_fine[partners[close]])
        alike[close] = bits <= self._distance
        return alike


def _words(hashes: UInt8Array) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return coarse hashes [n, 1] and fine hashes [n, 4] as 64-bit words."""
    words = np.ascontiguousarray(hashes).view(np.uint64)
    coarse_words = COARSE_BYTES // 8
    return words[:, :coarse_words].copy(), words[:, coarse_words:].copy()


def different_bits(words: NDArray[np.uint64], partners: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Return the number of different bits of rows of 64-bit words [n, w]."""
    pieces = np.ascontiguousarray(words ^ partners).view(np.uint16)
    return _BITS[pieces].sum(axis=1, dtype=np.uint16)


def matches_any(hashes: UInt8Array, references: UInt8Array, distance: int) -> BoolArray:
    """Return True for each hash [n] that is within `distance` of a reference [m]."""
    matched = np.zeros(len(hashes), np.bool_)
    if not len(references) or not len(hashes):
        return matched
    compare = PictureComparison(hashes, references, distance)
    joined = np.concatenate([references, hashes])
    for keys in _picture_tables(joined, len(references)):
        reference_keys, rows = keys[: len(references)], np.flatnonzero(~matched)
        order = np.argsort(reference_keys, kind="stable")
        row_keys = keys[len(references) + rows]
        starts = np.searchsorted(reference_keys[order], row_keys, "left")
        stops = np.searchsorted(reference_keys[order], row_keys, "right")
        while len(rows := rows[pending := starts < stops]):
            starts, stops = starts[pending], stops[pending]
            near = compare(rows, order[starts])
            matched[rows[near]] = True
            starts = np.where(near, stops, starts + 1)
    return matched


def _picture_tables(hashes: UInt8Array, count: int) -> Iterator[NDArray[np.uint32]]:
    """Yield `PICTURE_TABLES` keys of each coarse hash: random choices of its bits.

    With 18 bits, as for a million pictures, a copy whose coarse hash differs in 8 of 64 bits
    shares one of 48 keys with a probability of 97 %, and in 4 bits of 100 %.
    """
    width = int(np.clip(np.log2(max(count, 1)) - 2, 8, 24))
    generator = np.random.default_rng(0)
    columns = np.ascontiguousarray(np.unpackbits(hashes[:, :COARSE_BYTES], axis=1).T)
    for _ in range(PICTURE_TABLES):
        keys = np.zeros(len(hashes), np.uint32)
        for bit in generator.choice(8 * COARSE_BYTES, width, replace=False):
            keys <<= np.uint32(1)
            keys |= columns[bit]
        yield keys


def text_groups(keys: NDArray[np.uint64], signatures: UInt16Array, similarity: float) -> Int64Array:
    """Group texts that are equal, or whose estimated Jaccard similarity reaches `similarity`.

    Args:
        keys: of `texts.text_key` [n].
        signatures: of `minhash.text_signatures` [n, 64].
    """
    _, index, inverse = np.unique(keys, return_index=True, return_inverse=True)
    unique = signatures[index]

    def similar(rows: Int64Array, partners: Int64Array) -> BoolArray:
        agreeing = (unique[rows] == unique[partners]).sum(axis=1, dtype=np.uint16)
        return agreeing >= similarity * COMPONENTS

    bands = range(COMPONENTS // ROWS_PER_BAND)
    groups = near_groups(len(unique), (band_keys(unique, band) for band in bands), similar)
    return _restore(groups, inverse.reshape(-1))


def _unique_rows(rows: UInt8Array) -> tuple[UInt8Array, Int64Array]:
    """Return the distinct rows [m, bytes], and the number of the distinct row of each row [n]."""
    values = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).reshape(-1)
    _, index, inverse = np.unique(values, return_index=True, return_inverse=True)
    return rows[index], inverse.reshape(-1)


def _restore(groups: Int64Array, inverse: Int64Array) -> Int64Array:
    """Return for each row the lowest row of its group, from the groups of distinct rows."""
    labels = groups[inverse]
    lowest = np.full(len(groups), len(inverse))
    np.minimum.at(lowest, labels, np.arange(len(inverse)))
    return lowest[labels]
