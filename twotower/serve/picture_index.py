"""The nearest pictures of a library, for protocols that search by vector."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from twotower.arrays import Float32Array, Int64Array
from twotower.errors import LibraryError
from twotower.index.index import Index
from twotower.index.schema import PictureRecord

Result = TypeVar("Result")
_BLOCK = 256  # rows that are compared at a time with all others


@dataclass(frozen=True)
class Neighbour:
    """A picture of the library and its cosine similarity with a query."""

    id: int
    similarity: float


class PictureIndex(Protocol):
    """The pictures of a library, by vector and by id.

    Attributes:
        name: of the library.
        model: the name of the served model whose vectors the library has.
    """

    name: str
    model: str

    async def nearest(
        self, query: Float32Array, top: int, *, unique_above: float | None = None
    ) -> list[Neighbour]:
        """Return the `top` nearest to `query` [embed_dim], best first.

        Args:
            unique_above: keep only the best of pictures that are linked by cosines above it.
        """
        ...

    async def pictures(self, ids: Sequence[int]) -> list[PictureRecord]:
        """Return the records of `ids`, in that order; ids without a record are left out."""
        ...

    async def close(self) -> None:
        """Close the files."""
        ...


class LocalPictureIndex:
    """The pictures of an `Index`, which is used in one thread."""

    def __init__(self, index: Index) -> None:
        """Open the catalog.

        Raises:
            LibraryError: nothing is indexed yet.
        """
        self._index = index
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="twotower-library")
        self.name, self.model = self._executor.submit(self._describe).result()

    async def nearest(
        self, query: Float32Array, top: int, *, unique_above: float | None = None
    ) -> list[Neighbour]:
        """Return the `top` nearest to `query`; see `PictureIndex`."""

        def search() -> list[Neighbour]:
            vectors = self._index.vectors
            ids, cosines = vectors.search(query, top, self._index.catalog.select())
            if unique_above is not None and len(ids):
                kept = first_of_duplicates(vectors.get(ids), unique_above)
                ids, cosines = ids[kept], cosines[kept]
            return [
                Neighbour(number, cosine)
                for number, cosine in zip(ids.tolist(), cosines.tolist(), strict=True)
            ]

        return await self._run(search)

    async def pictures(self, ids: Sequence[int]) -> list[PictureRecord]:
        """Return the records of `ids`; see `PictureIndex`."""
        return await self._run(lambda: self._index.catalog.pictures(ids))

    async def close(self) -> None:
        """Close the files."""
        await self._run(self._index.close)
        self._executor.shutdown()

    def _describe(self) -> tuple[str, str]:
        record = self._index.catalog.model
        if record is None:
            raise LibraryError(
                self._index.location, "nothing is indexed yet", "run: twotower index"
            )
        return self._index.root.name, record.source

    async def _run(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)


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
