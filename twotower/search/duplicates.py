"""Find near-duplicate pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twotower.search.calibrated import library_calibration
from twotower.search.query import Query

if TYPE_CHECKING:
    from twotower.index.index import Index
from twotower.arrays import Float32Array, IndexArray
from twotower.search.hits import Hit
from twotower.search.search import BLOCK, STRIP, limit_to_folder, warn_of_missing


def duplicates(index: Index, folder: Path | None = None) -> list[list[Hit]]:
    """Groups of pictures (in `folder`) that are copies of one another, the largest file first.

    A copy is a picture whose cosine to another of its group reaches `Calibration.duplicate`.
    """
    least = library_calibration(index).duplicate
    warn_of_missing(index, len(index.vectors), len(index.catalog))
    query = Query("", ())
    if folder is not None:
        query = limit_to_folder(index, query, folder)
    ids = index.catalog.select(query.where, query.parameters)
    groups = []
    for members in _connected(lambda some: index.vectors.get(ids[some]), len(ids), least):
        records = sorted(
            index.catalog.pictures(ids[members]), key=lambda one: (-one.size, one.path)
        )
        own = index.vectors.get(np.array([one.id for one in records]))
        groups.append(
            [
                Hit(index.root / record.path, float(cosine), None, True, taken=record.taken)
                for record, cosine in zip(records, own @ own[0], strict=True)
            ]
        )
    return sorted(groups, key=lambda group: (-len(group), group[0].path))


def _connected(get: Callable[[slice], Float32Array], count: int, least: float) -> list[IndexArray]:
    """Places of vectors that are linked, directly or through others, by a cosine of `least`.

    Args:
        get: gives the vectors at some of the places 0 to `count`.
    """
    lowest = np.arange(count)  # place -> the lowest that it is known to be linked with
    for start in range(0, count, BLOCK):
        rows = get(slice(start, start + BLOCK))
        for other in range(start, count, BLOCK):
            columns = rows if other == start else get(slice(other, other + BLOCK))
            for strip in range(0, len(rows), STRIP):
                close = rows[strip : strip + STRIP] @ columns.T >= least
                if close.any():
                    first, second = start + strip, other
                    height, width = close.shape
                    known = lowest[first : first + height, None] == lowest[second : second + width]
                    one, another = np.nonzero(close & ~known)
                    _link(lowest, first + one, second + another)
    sizes = np.bincount(lowest, minlength=count)
    members = np.flatnonzero(sizes[lowest] > 1)
    members = members[np.argsort(lowest[members], kind="stable")]
    ends = np.cumsum(sizes[sizes > 1])
    return np.split(members, ends[:-1]) if len(ends) else []


def _link(lowest: IndexArray, one: IndexArray, another: IndexArray) -> None:
    """Join, in place, the groups of each pair of linked places."""
    while True:
        low = np.minimum(lowest[one], lowest[another])
        high = np.maximum(lowest[one], lowest[another])
        apart = low < high
        if not apart.any():
            return
        np.minimum.at(lowest, high[apart], low[apart])
        while ((further := lowest[lowest]) != lowest).any():
            lowest[:] = further
