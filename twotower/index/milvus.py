"""Vectors in Milvus: a server, or a local file of Milvus Lite, through the same client."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from twotower.arrays import Float32Array, Int64Array
from twotower.errors import LibraryError
from twotower.index.vectors import best_first, missing

SCHEME = "milvus://"
COLLECTION = "twotower"  # where the address names none

_MOST = 16_384  # results that Milvus gives to one search
_AT_ONCE = 10_000  # ids in one filter, rows in one message


class MilvusVectors:
    """Vectors in a Milvus collection, which is made if it is missing.

    Searches are exact there as well: the index is FLAT, over inner products of unit vectors.
    """

    def __init__(self, address: str, embed_dim: int, name: str = "") -> None:
        """Connect to `milvus://[USER:PASSWORD@]HOST:PORT[/COLLECTION]`, or open a `.db` file.

        Raises:
            LibraryError: pymilvus is not installed, Milvus cannot be reached, or the collection
                holds vectors of another length.
        """
        self._address, self.embed_dim = _without_secret(address), embed_dim
        try:
            import pymilvus
        except ImportError:
            raise LibraryError(
                f"{self._address}: Milvus needs more packages; pip install 'twotower[milvus]'"
            ) from None
        for logger in ("pymilvus", "grpc", "milvus_lite"):  # what goes wrong is raised, not logged
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        uri, token, collection = _parts(address)
        self._collection = f"{collection}_{name}" if name else collection
        with self._errors():
            self._client = pymilvus.MilvusClient(uri, token=token)
            if self._client.has_collection(self._collection):
                self._check()
            else:
                self._create(pymilvus.DataType)

    def __len__(self) -> int:
        with self._errors():
            [row] = self._client.query(self._collection, "", output_fields=["count(*)"])
        return int(row["count(*)"])

    def ids(self) -> Int64Array:
        """See `Vectors.ids`."""
        return np.array([row["id"] for row in self._all(["id"])], np.int64)

    def add(self, ids: Int64Array, embeds: Float32Array) -> None:
        """See `Vectors.add`."""
        rows = [
            {"id": number, "embeds": row}
            for number, row in zip(ids.tolist(), np.asarray(embeds, np.float32), strict=True)
        ]
        for start in range(0, len(rows), _AT_ONCE):
            with self._errors():
                self._client.upsert(self._collection, rows[start : start + _AT_ONCE])

    def remove(self, ids: Int64Array) -> None:
        """See `Vectors.remove`."""
        for some in _chunks(ids):
            with self._errors():
                self._client.delete(self._collection, ids=some)

    def get(self, ids: Int64Array) -> Float32Array:
        """See `Vectors.get`."""
        found: dict[int, Any] = {}
        for some in _chunks(ids):
            with self._errors():
                rows = self._client.get(self._collection, some, output_fields=["id", "embeds"])
            found.update((row["id"], row["embeds"]) for row in rows)
        if len(found) < len(set(ids.tolist())):
            raise missing(self._address)
        rows = [found[one] for one in ids.tolist()]
        return np.array(rows, np.float32).reshape(len(rows), self.embed_dim)

    def search(
        self, query: Float32Array, top: int, allowed: Int64Array | None = None
    ) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.search`."""
        if top > _MOST:
            ids, [scores] = self.scores(query[None])
            keep = slice(None) if allowed is None else np.isin(ids, allowed)
            return best_first(ids[keep], scores[keep], top)
        filters = [""] if allowed is None else [f"id in {some}" for some in _chunks(allowed)]
        hits: list[Any] = []
        for one in filters:
            with self._errors():
                [found] = self._client.search(
                    self._collection,
                    data=[np.asarray(query, np.float32).tolist()],
                    limit=top,
                    filter=one,
                    output_fields=["id"],
                )
            hits += found
        ids = np.array([hit["id"] for hit in hits], np.int64)
        return best_first(ids, np.array([hit["distance"] for hit in hits], np.float32), top)

    def scores(self, queries: Float32Array) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.scores`."""
        ids: list[int] = []
        parts = [np.zeros((len(queries), 0), np.float32)]
        for rows in self._pages(["id", "embeds"]):
            ids += [row["id"] for row in rows]
            parts.append(queries @ np.array([row["embeds"] for row in rows], np.float32).T)
        return np.array(ids, np.int64), np.hstack(parts)

    def drop(self) -> None:
        """See `Vectors.drop`."""
        with self._errors():
            self._client.drop_collection(self._collection)
        self.close()

    def close(self) -> None:
        """See `Vectors.close`."""
        self._client.close()

    def _all(self, fields: list[str]) -> Iterator[Any]:
        for rows in self._pages(fields):
            yield from rows

    def _pages(self, fields: list[str]) -> Iterator[list[Any]]:
        with self._errors():
            pages = self._client.query_iterator(
                self._collection, batch_size=_AT_ONCE, output_fields=fields
            )
            while rows := pages.next():
                yield rows
            pages.close()

    def _create(self, types: Any) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", types.INT64, is_primary=True)
        schema.add_field("embeds", types.FLOAT_VECTOR, dim=self.embed_dim)
        index = self._client.prepare_index_params()
        index.add_index("embeds", index_type="FLAT", metric_type="IP")
        self._client.create_collection(
            self._collection, schema=schema, index_params=index, consistency_level="Strong"
        )

    def _check(self) -> None:
        fields = self._client.describe_collection(self._collection)["fields"]
        lengths = [one["params"]["dim"] for one in fields if one["name"] == "embeds"]
        if [int(one) for one in lengths] != [self.embed_dim]:
            raise LibraryError(
                f"{self._address}: its collection {self._collection} holds something else than "
                f"vectors of {self.embed_dim} numbers; name another collection"
            )
        self._client.load_collection(self._collection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        import pymilvus

        try:
            yield
        except pymilvus.MilvusException as error:
            reason = f"Milvus says: {error.message}"
            if error.message == "Open local milvus failed":
                reason = (
                    "cannot be opened; most likely another process has it open, and Milvus Lite "
                    "serves one at a time: wait until that has finished"
                )
            raise LibraryError(f"{self._address}: {reason}") from None


def _parts(address: str) -> tuple[str, str, str]:
    """URI, token and collection of an address."""
    if not address.startswith(SCHEME):
        return address, "", COLLECTION
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port or 19530
    except ValueError:  # the port is no number
        host = None
    if not host:
        raise LibraryError(
            f"{_without_secret(address)}: names no host; write {SCHEME}HOST:PORT/COLLECTION"
        )
    token = f"{parts.username}:{parts.password or ''}" if parts.username else ""
    uri = f"http://{host}:{port}"
    return uri, token, parts.path.strip("/") or COLLECTION


def _without_secret(address: str) -> str:
    """An address for people to read."""
    return re.sub("^(milvus://[^/@:]*):.*@", r"\1:***@", address)


def _chunks(ids: Int64Array) -> Iterator[list[int]]:
    return (ids[start : start + _AT_ONCE].tolist() for start in range(0, len(ids), _AT_ONCE))
