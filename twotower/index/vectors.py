"""The protocol of vector stores."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np

from twotower.arrays import Float32Array, IndexArray, Int64Array
from twotower.errors import LibraryError
from twotower.progress import ReportProgress, ignore_progress


class Vectors(Protocol):
    """A store of unit vectors [embed_dim] by id; ids are positive and assigned in ascending order.

    When `add` or `remove` returns, the change has reached the disk. If the process or the server
    dies before, any subset of the change may have, but no id ever has another id's vector. Calls
    may be repeated after an error. A server that cannot be reached is a `LibraryError`.
    """

    embed_dim: int

    def __len__(self) -> int: ...

    def ids(self) -> Int64Array:
        """Return all ids [n], in no particular order."""
        ...

    def add(self, ids: Int64Array, embeds: Float32Array) -> None:
        """Store embeds [n, embed_dim] under distinct `ids`, in place of those stored already."""
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
            those equal to the lowest, Milvus and Qdrant may return any); k < top if there are no
            more.
        """
        ...

    def scores(self, queries: Float32Array) -> tuple[Int64Array, Float32Array]:
        """Return all ids [n] and the cosines [q, n] of queries [q, embed_dim] with them."""
        ...

    def build_lists(self, queries: Float32Array, report: ReportProgress = ignore_progress) -> None:
        """Make searches approximate from now on, and much faster; scores stay exact.

        Args:
            queries: typical queries [q, embed_dim], on which the recall is measured.

        Raises:
            LibraryError: the store has only exact search, or cannot do it now.
        """
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


def exact_only(location: str | Path) -> LibraryError:
    """Return the error of `build_lists` for a store with only exact search."""
    return LibraryError(
        "--approximate",
        f"applies to local vectors and PostgreSQL, not to {location}",
        "leave it out",
    )


def positions_of(ids: Int64Array, stored: Int64Array, location: str | Path) -> IndexArray:
    """Return the positions [n] of `ids` [n] in `stored`, whose ids are distinct.

    Raises:
        LibraryError: an id is not stored.
    """
    order = np.argsort(stored)
    ranks = np.searchsorted(stored, ids, sorter=order)
    if (ranks == len(stored)).any() or (stored[positions := order[ranks]] != ids).any():
        raise missing_vectors(location)
    return positions


def scores_of_pages(
    queries: Float32Array, pages: Iterable[tuple[Int64Array, Float32Array]]
) -> tuple[Int64Array, Float32Array]:
    """Return `Vectors.scores` of a store that is read in pages: ids [n], embeds [n, embed_dim]."""
    ids, scores = [np.zeros(0, np.int64)], [np.zeros((len(queries), 0), np.float32)]
    for page, embeds in pages:
        ids.append(page)
        scores.append(queries @ embeds.T)
    return np.concatenate(ids), np.hstack(scores)


class ServerAddress(NamedTuple):
    """The parts of `SCHEME://[USER][:PASSWORD]@HOST[:PORT][/COLLECTION]`, decoded; "" if missing.

    Attributes:
        host: with its port, an address of IPv6 in brackets.
    """

    host: str
    user: str
    password: str
    collection: str


def split_address(address: str, default_port: int) -> ServerAddress:
    """Return the parts of the address of a server.

    Raises:
        LibraryError: it has no host, or a port that is no number.
    """
    try:
        url = urlsplit(address)
        host, port = url.hostname, url.port or default_port
    except ValueError:  # brackets that do not match, or a port that is no number
        host = None
    if not host:
        scheme = address.partition("://")[0]
        raise LibraryError(
            hide_password(address), "names no host", f"write {scheme}://HOST:PORT/COLLECTION"
        )
    return ServerAddress(
        host=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        user=unquote(url.username or ""),
        password=unquote(url.password or ""),
        collection=url.path.strip("/"),
    )


def lower_scheme(address: str) -> str:
    """Return an address with its scheme in lower case: schemes have no case."""
    return re.sub("^[^:/]*(?=://)", lambda scheme: scheme[0].lower(), address)


def hide_password(address: str) -> str:
    """Return the address of a server, even a mistyped one, without its password, for messages."""
    flags = re.IGNORECASE | re.DOTALL
    address = re.sub("^((?:[^:/]*://)?[^/:]*):(?!//).*@", r"\1:***@", address, flags=flags)
    return re.sub("([?&](?:ssl)?password=)[^&]*", r"\1***", address, flags=flags)
