"""The protocol of vector stores."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from twotower.arrays import Float32Array, Int64Array
from twotower.errors import LibraryError


class Vectors(Protocol):
    """Unit vectors [embed_dim], each under an id: a number above 0, given out one by one.

    When `add` or `remove` returns, the change has reached the disk; if the process dies before, any
    part of it may have, but never a vector under an id that is not its own.
    """

    embed_dim: int

    def __len__(self) -> int: ...

    def ids(self) -> Int64Array:
        """All ids [n], in no particular order."""
        ...

    def add(self, ids: Int64Array, embeds: Float32Array) -> None:
        """Store embeds [n, embed_dim]; an id that is there already gets the new vector."""
        ...

    def remove(self, ids: Int64Array) -> None:
        """Forget some; ids that are not there are passed over."""
        ...

    def get(self, ids: Int64Array) -> Float32Array:
        """Embeds [n, embed_dim] in the order of `ids`. Raises `LibraryError` if one is missing."""
        ...

    def search(
        self, query: Float32Array, top: int, allowed: Int64Array | None = None
    ) -> tuple[Int64Array, Float32Array]:
        """The `top` nearest to `query` [embed_dim], of `allowed` only if that is given.

        Returns:
            ids [k] and their exact cosines [k], best first, the lower id first among equals (of
            those that the end cuts off from their equals, Milvus may keep any); k is less than
            `top` where there are no more.
        """
        ...

    def scores(self, queries: Float32Array) -> tuple[Int64Array, Float32Array]:
        """Cosines of queries [q, embed_dim] with everything: ids [n] and scores [q, n]."""
        ...

    def drop(self) -> None:
        """Delete all of it, for good."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


def missing(where: str | Path) -> LibraryError:
    """The error for ids without a vector."""
    return LibraryError(f"{where}: vectors of some pictures are missing; run: twotower index")


def best_first(ids: Int64Array, scores: Float32Array, top: int) -> tuple[Int64Array, Float32Array]:
    """The `top` highest scores and their ids, the lower id first among equals."""
    best = np.lexsort((ids, -scores))[:top]
    return ids[best], scores[best]
