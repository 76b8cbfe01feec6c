"""Find near-duplicate pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twotower.arrays import BoolArray, Float32Array, IndexArray
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.search.hits import Hit
from twotower.search.query import Query
from twotower.search.search import select, warn_of_missing

if TYPE_CHECKING:
    from twotower.index.index import Index

BLOCK = 4096  # vectors that are in memory at once, twice
STRIP = 256  # of them that are compared with a block at once


def duplicates(
    index: Index, folder: Path | None = None, report: ReportProgress = ignore_progress
) -> list[list[Hit]]:
    """Return groups of near-duplicates, each with the largest file first.

    A picture is in a group if its cosine with another one of the group reaches
    `Calibration.duplicate`.

    Args:
        folder: compare only pictures in this folder of the library and below.
        report: receives the number of pairs of blocks that were compared.

    Raises:
        LibraryError: nothing is indexed, or `folder` is not in the library.
    """
    threshold = index.calibration.duplicate
    warn_of_missing(index, len(index.vectors), len(index.catalog))
    ids = select(index, Query("", ()), folder)
    linked = _connected(lambda rows: index.vectors.get(ids[rows]), len(ids), threshold, report)
    groups = []
    for rows in linked:
        records = index.catalog.pictures(ids[rows])
        records.sort(key=lambda record: (-record.size, record.path))
        embeds = index.vectors.get(np.array([record.id for record in records]))
        groups.append(
            [
                Hit(
                    *(index.root / record.path, float(cosine), None, True),
                    taken=record.taken,
                    id=record.id,
                )
                for record, cosine in zip(records, embeds @ embeds[0], strict=True)
            ]
        )
    return sorted(groups, key=lambda group: (-len(group), group[0].path))


def _connected(
    get: Callable[[slice], Float32Array],
    count: int,
    threshold: float,
    report: ReportProgress = ignore_progress,
) -> list[IndexArray]:
    """Group vectors that are linked, directly or through others, by a cosine of `threshold`.

    Args:
        get: returns the vectors of a range of the rows 0 to `count`.

    Returns:
        The rows of each group of two or more.
    """
    lowest = np.arange(count)  # row -> the lowest row that it is linked with, as far as is known
    blocks, done = -(-count // BLOCK), 0
    for start in range(0, count, BLOCK):
        rows = get(slice(start, start + BLOCK))
        for column in range(start, count, BLOCK):
            columns = rows if column == start else get(slice(column, column + BLOCK))
            for strip in range(0, len(rows), STRIP):
                close = rows[strip : strip + STRIP] @ columns.T >= threshold
                if close.any():
                    _link_close(lowest, close, start + strip, column)
            done += 1
            report(Progress(done, blocks * (blocks + 1) // 2, stage="Comparing"))
    sizes = np.bincount(lowest, minlength=count)
    members = np.flatnonzero(sizes[lowest] > 1)
    members = members[np.argsort(lowest[members], kind="stable")]
    ends = np.cumsum(sizes[sizes > 1])
    return np.split(members, ends[:-1]) if len(ends) else []


def _link_close(lowest: IndexArray, close: BoolArray, row: int, column: int) -> None:
    """Link, in place, the pairs that are True in a block at `row`, `column` of all cosines."""
    height, width = close.shape
    linked = lowest[row : row + height, None] == lowest[column : column + width]
    rows, columns = np.nonzero(close & ~linked)
    _link(lowest, row + rows, column + columns)


def _link(lowest: IndexArray, rows: IndexArray, columns: IndexArray) -> None:
    """Merge, in place, the groups of each pair of rows."""
    while True:
        low = np.minimum(lowest[rows], lowest[columns])
        high = np.maximum(lowest[rows], lowest[columns])
        apart = low < high
        if not apart.any():
            return
        np.minimum.at(lowest, high[apart], low[apart])
        while ((further := lowest[lowest]) != lowest).any():
            lowest[:] = further
