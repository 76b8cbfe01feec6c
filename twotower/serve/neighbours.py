"""The nearest pictures of a library, for protocols that search by vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twotower.arrays import Float32Array, Int64Array
from twotower.index.index import Index

_BLOCK = 256  # rows that are compared at a time with all others


@dataclass(frozen=True)
class Neighbour:
    """A picture of the library and its cosine similarity with a query."""

    id: int
    similarity: float


def nearest(
    index: Index, query: Float32Array, top: int, unique_above: float | None = None
) -> list[Neighbour]:
    """Return the `top` nearest pictures to `query` [embed_dim], best first.

    Args:
        unique_above: keep only the best of pictures that are linked by cosines above it.
    """
    ids, cosines = index.vectors.search(query, top, index.catalog.select())
    if unique_above is not None and len(ids):
        kept = first_of_duplicates(index.vectors.get(ids), unique_above)
        ids, cosines = ids[kept], cosines[kept]
    return [
        Neighbour(number, cosine)
        for number, cosine in zip(ids.tolist(), cosines.tolist(), strict=True)
    ]


def first_of_duplicates(embeds: Float32Array, threshold: float) -> Int64Array:
    """Return the rows that remain when each group of near-duplicates keeps its first row.

    A group is connected by pairs with a cosine above the threshold.

    Args:
        embeds: [n, embed_dim], unit length, best first.

    Returns:
        rows [k], ascending.
    """
    rows = np.arange(len(embeds))
    first_rows = rows.copy()  # of the group of each row
    for start in range(0, len(embeds), _BLOCK):
        for linked in embeds[start : start + _BLOCK] @ embeds[start:].T > threshold:
            groups = np.unique(first_rows[start:][linked])
            if len(groups) > 1:
                first_rows[np.isin(first_rows, groups)] = groups[0]
    return np.flatnonzero(first_rows == rows)
