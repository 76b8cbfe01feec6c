"""Filters that compare pairs: evaluation sets, placeholders, copies of pictures and of texts.

Each takes columns of the pairs that are left, and returns those to remove. The choice among copies
depends on their contents alone, so that the order of the input changes nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Int64Array, UInt8Array
from twotower.pairs.filters.columns import PairColumns
from twotower.pairs.filters.groups import matches_any, picture_groups, text_groups
from twotower.pairs.filters.settings import FilterSettings


def remove_duplicates(
    columns: PairColumns, settings: FilterSettings, evaluation: UInt8Array | None = None
) -> None:
    """Apply these filters to columns, in the order of `settings.REASONS`.

    Args:
        evaluation: hashes of the pictures of evaluation sets [e, HASH_BYTES].
    """
    if evaluation is not None and columns.hashes is not None and settings.applies("evaluation"):
        matched = matches_any(columns.hashes, evaluation, settings.picture_distance)
        pairs = columns.kept()
        overlap = pairs[matched[columns.samples[pairs]]]
        columns.remove(overlap, "evaluation", "picture of an evaluation set")
    if settings.applies("placeholder") or settings.applies("duplicate-picture"):
        groups = group_samples(columns, settings)
    if settings.applies("placeholder"):
        pairs = columns.kept()
        crowded = pairs_with_many_texts(
            groups[columns.samples[pairs]], columns.texts[pairs], settings.placeholder_texts
        )
        columns.remove(pairs[crowded], "placeholder", "picture with many texts")
    if settings.applies("duplicate-picture"):
        pairs = columns.kept()
        samples = columns.samples[pairs]
        copies = worse_copies(
            groups[samples], samples, columns.pixels[samples], columns.ranks[pairs]
        )
        columns.remove(pairs[copies], "duplicate-picture", "better copy exists")
    if settings.applies("duplicate-text"):
        remove_text_copies(columns, settings)


def group_samples(columns: PairColumns, settings: FilterSettings) -> Int64Array:
    """Return the group of copies of each sample's picture [m].

    Of candidates, a sample is an address, and each is a group by itself.
    """
    groups = np.arange(len(columns.pixels))
    if columns.hashes is None:
        return groups
    alive = np.unique(columns.samples[columns.kept()])
    groups[alive] = alive[picture_groups(columns.hashes[alive], settings.picture_distance)]
    return groups


def pairs_with_many_texts(
    groups: Int64Array, texts: NDArray[np.uint64], limit: int
) -> NDArray[np.bool_]:
    """Return True for the pairs [n] of groups with more than `limit` distinct texts."""
    order = np.lexsort((texts, groups))
    new_group, new_text = _changes(groups[order]), _changes(texts[order])
    numbers = np.cumsum(new_group) - 1
    distinct = np.bincount(numbers, weights=new_group | new_text)
    crowded = np.zeros(len(groups), np.bool_)
    crowded[order] = distinct[numbers] > limit
    return crowded


def worse_copies(
    groups: Int64Array, samples: Int64Array, pixels: Int64Array, ranks: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Return True for the pairs [n] whose sample is not the best of its group.

    The best has the most pixels, and among equals the pair with the lowest rank.
    """
    order = np.lexsort((ranks, -pixels, groups))
    starts = np.flatnonzero(_changes(groups[order]))
    lengths = np.diff([*starts, len(order)])
    best = np.repeat(samples[order][starts], lengths)
    worse = np.zeros(len(groups), np.bool_)
    worse[order] = samples[order] != best
    return worse


def remove_text_copies(columns: PairColumns, settings: FilterSettings) -> None:
    """Remove repeated texts of a picture, and of equal texts all but `text_copies`."""
    pairs = columns.kept()
    repeated = beyond_limit([columns.samples[pairs], columns.texts[pairs]], columns.ranks[pairs], 1)
    columns.remove(pairs[repeated], "duplicate-text", "same text and picture")
    pairs = columns.kept()
    groups = text_groups(columns.texts[pairs], columns.signatures[pairs], settings.text_similarity)
    frequent = beyond_limit([groups], columns.ranks[pairs], settings.text_copies)
    columns.remove(pairs[frequent], "duplicate-text", "text of many pictures")


def beyond_limit(
    groups: list[NDArray[np.int64] | NDArray[np.uint64]], ranks: NDArray[np.uint64], limit: int
) -> NDArray[np.bool_]:
    """Return True for all but the `limit` lowest ranks of pairs [n] that agree in all groups."""
    order = np.lexsort((ranks, *groups))
    changes = np.zeros(len(order), np.bool_)
    for column in groups:
        changes |= _changes(column[order])
    starts = np.flatnonzero(changes)
    positions = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    beyond = np.zeros(len(order), np.bool_)
    beyond[order] = positions >= limit
    return beyond


def _changes(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return True where a value differs from the one before it; the first always does."""
    changes = np.ones(len(values), np.bool_)
    changes[1:] = values[1:] != values[:-1]
    return changes
