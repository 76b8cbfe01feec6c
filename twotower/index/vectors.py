"""The protocol of vector stores."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from twotower.arrays import Float32Array, Int64Array
from twotower.errors import LibraryError


class Vectors(Protocol):
    """A store of unit vectors [embed_dim] by id; ids are positive and assigned in ascending order.

    When `add` or `remove` returns, the change has reached the disk. If the process dies before, any
    subset of the change may have, but no id ever has another id's vector.
    """

    embed_dim: int

    def __len__(self) -> int: ...

    def ids(self) -> Int64Array:
        """Return all ids [n], in no particular order."""
        ...

    def add(self, ids: Int64Array, embeds: Float32Array) -> None:
        """Store embeds [n, embed_dim]; they replace those of ids that are stored already."""
        ...

    def remove(self, ids: Int64Array) -> None:
        """Remove the vectors of `ids`; ids that are not stored are ignored."""
        ...

    def get(self, ids: Int64Array) -> Float32Array:
        """Return embeds [n, embed_dim] in the order of `ids`.

        Raises:
            LibraryError: an id is not stored.
        """
        ...

    def search(
        self, query: Float32Array, top: int, allowed: Int64Array | None = None
    ) -> tuple[Int64Array, Float32Array]:
        """Return the `top` nearest to `query` [embed_dim], limited to the ids `allowed` if given.

        Returns:
            ids [k] and their exact cosines [k], best first, the lower id first among equals (among
            those equal to the lowest, Milvus may return any); k < top if there are no more.
        """
        ...

    def scores(self, queries: Float32Array) -> tuple[Int64Array, Float32Array]:
        """Return all ids [n] and the cosines [q, n] of queries [q, embed_dim] with them."""
        ...

    def drop(self) -> None:
        """Delete the store with everything in it."""
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


def missing_vectors(location: str | Path) -> LibraryError:
    """Return the error for ids without a vector."""
    return LibraryError(location, "vectors of some pictures are missing", "run: twotower index")
