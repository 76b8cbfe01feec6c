"""Vectors in Milvus: a server, or a local file of Milvus Lite, through the same client."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from twotower.arrays import Float32Array, Int64Array, best_first
from twotower.errors import LibraryError
from twotower.index.vectors import (
    exact_only,
    hide_password,
    missing_vectors,
    scores_of_pages,
    split_address,
)
from twotower.progress import ReportProgress, ignore_progress

SCHEME = "milvus://"
COLLECTION = "twotower"  # if the address names none

_PORT = 19530
_MAX_RESULTS = 16_384  # limit of Milvus for one search
_BATCH = 10_000  # ids in one filter, rows in one message


class MilvusVectors:
    """Vectors in a Milvus collection, which is created if it is missing.

    Searches are exact: the index is FLAT, over inner products of unit vectors.
    """

    def __init__(self, address: str, embed_dim: int, name: str = "") -> None:
        """Connect to `milvus://[USER:PASSWORD@]HOST:PORT[/COLLECTION]`, or open a `.db` file.

        Args:
            name: appended to the name of the collection.

        Raises:
            LibraryError: pymilvus is not installed, Milvus cannot be reached, or the collection
                holds vectors of another length.
        """
        self._address, self.embed_dim = hide_password(address), embed_dim
        try:
            import pymilvus
        except ImportError:
            raise LibraryError(
                self._address, "Milvus needs more packages", "pip install 'twotower[milvus]'"
            ) from None
        for logger in ("pymilvus", "grpc", "milvus_lite"):  # their errors are raised, not logged
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        uri, token, collection = _split_address(address)
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
        return np.array([row["id"] for rows in self._pages(["id"]) for row in rows], np.int64)

    def add(self, ids: Int64Array, embeds: Float32Array) -> None:
        """See `Vectors.add`."""
        rows = [
            {"id": number, "embeds": row}
            for number, row in zip(ids.tolist(), np.asarray(embeds, np.float32), strict=True)
        ]
        for start in range(0, len(rows), _BATCH):
            with self._errors():
                self._client.upsert(self._collection, rows[start : start + _BATCH])

    def remove(self, ids: Int64Array) -> None:
        """See `Vectors.remove`."""
        for batch in _batches(ids):
            with self._errors():
                self._client.delete(self._collection, ids=batch)

    def get(self, ids: Int64Array) -> Float32Array:
        """See `Vectors.get`."""
        embeds: dict[int, Any] = {}
        for batch in _batches(ids):
            with self._errors():
                rows = self._client.get(self._collection, batch, output_fields=["id", "embeds"])
            embeds.update((row["id"], row["embeds"]) for row in rows)
        if len(embeds) < len(set(ids.tolist())):
            raise missing_vectors(self._address)
        ordered = [embeds[number] for number in ids.tolist()]
        return np.array(ordered, np.float32).reshape(len(ordered), self.embed_dim)

    def search(
        self, query: Float32Array, top: int, allowed: Int64Array | None = None
    ) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.search`."""
        if top > _MAX_RESULTS:
            ids, [scores] = self.scores(query[None])
            eligible = np.ones(len(ids), bool) if allowed is None else np.isin(ids, allowed)
            return _top(ids[eligible], scores[eligible], top)
        filters = [""] if allowed is None else [f"id in {batch}" for batch in _batches(allowed)]
        hits: list[Any] = []
        for condition in filters:
            with self._errors():
                [results] = self._client.search(
                    self._collection,
                    data=[np.asarray(query, np.float32).tolist()],
                    limit=top,
                    filter=condition,
                    output_fields=["id"],
                )
            hits += results
        ids = np.array([hit["id"] for hit in hits], np.int64)
        return _top(ids, np.array([hit["distance"] for hit in hits], np.float32), top)

    def scores(self, queries: Float32Array) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.scores`."""
        pages = (
            (
                np.array([row["id"] for row in rows], np.int64),
                np.array([row["embeds"] for row in rows], np.float32),
            )
            for rows in self._pages(["id", "embeds"])
        )
        return scores_of_pages(queries, pages)

    def build_lists(self, queries: Float32Array, report: ReportProgress = ignore_progress) -> None:
        """See `Vectors.build_lists`."""
        raise exact_only(self._address)

    def drop(self) -> None:
        """See `Vectors.drop`."""
        with self._errors():
            self._client.drop_collection(self._collection)
        self.close()

    def close(self) -> None:
        """See `Vectors.close`."""
        self._client.close()

    def _pages(self, fields: list[str]) -> Iterator[list[Any]]:
        with self._errors():
            pages = self._client.query_iterator(
                self._collection, batch_size=_BATCH, output_fields=fields
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
        lengths = [int(field["params"]["dim"]) for field in fields if field["name"] == "embeds"]
        if lengths != [self.embed_dim]:
            raise LibraryError(
                self._address,
                f"its collection {self._collection} does not hold vectors of {self.embed_dim} "
                "numbers",
                "name another collection",
            )
        self._client.load_collection(self._collection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of Milvus into `LibraryError`."""
        import pymilvus

        try:
            yield
        except pymilvus.MilvusException as error:
            reason, remedy = f"Milvus says: {error.message}", "check the address and the server"
            if error.message == "Open local milvus failed":
                reason = "cannot be opened, most likely because another process has it open"
                remedy = "wait until that has finished; Milvus Lite serves one process at a time"
            raise LibraryError(self._address, reason, remedy) from None


def _top(ids: Int64Array, scores: Float32Array, top: int) -> tuple[Int64Array, Float32Array]:
    best = best_first(scores, ids)[:top]
    return ids[best], scores[best]


def _split_address(address: str) -> tuple[str, str, str]:
    """Return URI, token and collection of an address."""
    if not address.startswith(SCHEME):
        return address, "", COLLECTION
    server = split_address(address, _PORT)
    token = f"{server.user}:{server.password}" if server.user else ""
    return f"http://{server.host}", token, server.collection or COLLECTION


def _batches(ids: Int64Array) -> Iterator[list[int]]:
    return (ids[start : start + _BATCH].tolist() for start in range(0, len(ids), _BATCH))
