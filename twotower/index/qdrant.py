"""Vectors in Qdrant: a server, or a local folder, through the same client."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from twotower.arrays import Float32Array, Int64Array, best_first
from twotower.errors import LibraryError
from twotower.index.vectors import (
    exact_only,
    hide_password,
    positions_of,
    scores_of_pages,
    split_address,
)
from twotower.progress import ReportProgress, ignore_progress

SCHEMES = ("qdrant://", "qdrant+https://")
COLLECTION = "twotower"  # if the address names none

_PORT = 6333
_BATCH = 1000  # points in one message: 12 MB of JSON for vectors of 1024 numbers
# A local folder compares each id with every allowed one: more of these are compared here.
_MAX_LOCAL_FILTER = 1000
_TIMEOUT = 60  # seconds


class QdrantVectors:
    """Vectors in a Qdrant collection, which is created if it is missing.

    Searches are exact: the collection has no HNSW index, and scores are inner products of unit
    vectors.
    """

    def __init__(self, address: str, embed_dim: int, name: str = "") -> None:
        """Connect to `qdrant://[:API_KEY@]HOST[:PORT][/COLLECTION]`, or open `qdrant:///FOLDER`.

        Args:
            name: appended to the name of the collection.

        Raises:
            LibraryError: qdrant-client is not installed, Qdrant cannot be reached, or the
                collection holds vectors of another length or has another distance.
        """
        self._address, self.embed_dim = hide_password(address), embed_dim
        try:
            import qdrant_client
        except ImportError:
            raise LibraryError(
                self._address, "Qdrant needs more packages", "pip install 'twotower[qdrant]'"
            ) from None
        self._models: Any = qdrant_client.models
        options, collection = _split_address(address)
        self._collection = f"{collection}_{name}" if name else collection
        self._is_local = "path" in options
        with self._errors():
            self._client = qdrant_client.QdrantClient(**options)
            if self._client.collection_exists(self._collection):
                self._check()
            else:
                self._create()

    def __len__(self) -> int:
        with self._errors():
            return int(self._client.count(self._collection, exact=True).count)

    def ids(self) -> Int64Array:
        """See `Vectors.ids`."""
        pages = self._pages(with_vectors=False)
        return np.array([record.id for page in pages for record in page], np.int64)

    def add(self, ids: Int64Array, embeds: Float32Array) -> None:
        """See `Vectors.add`."""
        rows = np.asarray(embeds, np.float32)
        for start in range(0, len(ids), _BATCH):
            end = start + _BATCH
            batch = self._models.Batch(
                ids=ids[start:end].tolist(), vectors=rows[start:end].tolist()
            )
            with self._errors():
                self._client.upsert(self._collection, batch, wait=True)

    def remove(self, ids: Int64Array) -> None:
        """See `Vectors.remove`."""
        for batch in _batches(ids):
            with self._errors():
                selector = self._models.PointIdsList(points=batch)
                self._client.delete(self._collection, selector, wait=True)

    def get(self, ids: Int64Array) -> Float32Array:
        """See `Vectors.get`."""
        records: list[Any] = []
        for batch in _batches(np.unique(ids)):
            with self._errors():
                records += self._client.retrieve(
                    self._collection, batch, with_payload=False, with_vectors=True
                )
        stored, embeds = self._arrays(records)
        return embeds[positions_of(ids, stored, self._address)]

    def search(
        self, query: Float32Array, top: int, allowed: Int64Array | None = None
    ) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.search`."""
        options: dict[str, Any] = {"limit": top}
        if not self._is_local:
            options["search_params"] = self._models.SearchParams(exact=True)
        if allowed is not None and self._is_local and len(allowed) > _MAX_LOCAL_FILTER:
            options["limit"] = max(1, len(self))
        elif allowed is not None:
            condition = self._models.HasIdCondition(has_id=allowed.tolist())
            options["query_filter"] = self._models.Filter(must=[condition])
        row = np.asarray(query, np.float32).tolist()
        with self._errors():
            points = self._client.query_points(
                self._collection, query=row, with_payload=False, **options
            ).points
        ids = np.array([point.id for point in points], np.int64)
        scores = np.array([point.score for point in points], np.float32)
        if allowed is not None:
            eligible = np.isin(ids, allowed)
            ids, scores = ids[eligible], scores[eligible]
        best = best_first(scores, ids)[:top]
        return ids[best], scores[best]

    def scores(self, queries: Float32Array) -> tuple[Int64Array, Float32Array]:
        """See `Vectors.scores`."""
        return scores_of_pages(queries, map(self._arrays, self._pages(with_vectors=True)))

    def build_lists(self, queries: Float32Array, report: ReportProgress = ignore_progress) -> None:
        """See `Vectors.build_lists`."""
        raise exact_only(self._address)

    def drop(self) -> None:
        """See `Vectors.drop`."""
        with self._errors():
            self._client.delete_collection(self._collection)
        self.close()

    def close(self) -> None:
        """See `Vectors.close`."""
        self._client.close()

    def _pages(self, *, with_vectors: bool) -> Iterator[list[Any]]:
        """Yield all records, by id."""
        offset: Any = None
        while True:
            with self._errors():
                page, offset = self._client.scroll(
                    self._collection,
                    limit=_BATCH,
                    offset=offset,
                    with_payload=False,
                    with_vectors=with_vectors,
                )
            yield page
            if offset is None:
                return

    def _arrays(self, records: list[Any]) -> tuple[Int64Array, Float32Array]:
        """Return ids [n] and embeds [n, embed_dim] of records."""
        ids = np.array([record.id for record in records], np.int64)
        embeds = np.array([record.vector for record in records], np.float32)
        return ids, embeds.reshape(len(records), self.embed_dim)

    def _create(self) -> None:
        models = self._models
        vectors = models.VectorParams(size=self.embed_dim, distance=models.Distance.DOT)
        self._client.create_collection(
            self._collection,
            vectors_config=vectors,
            hnsw_config=models.HnswConfigDiff(m=0),  # no index: every search is exact
        )

    def _check(self) -> None:
        """Refuse a collection of other vectors, or one that orders them otherwise."""
        vectors: Any = self._client.get_collection(self._collection).config.params.vectors
        distances = self._models.Distance
        if getattr(vectors, "size", None) != self.embed_dim:
            reason = f"does not hold vectors of {self.embed_dim} numbers"
        elif vectors.distance not in (distances.DOT, distances.COSINE):
            reason = f"compares vectors by the distance {vectors.distance.value}, not Dot or Cosine"
        else:
            return
        raise LibraryError(
            self._address,
            f"its collection {self._collection} {reason}",
            "name another collection",
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of Qdrant into `LibraryError`."""
        from qdrant_client.http.exceptions import ApiException

        try:
            yield
        except ApiException as error:
            reason = f"Qdrant says: {error}"
            remedy = "check the address and the server, then run the command again"
        except sqlite3.Error as error:  # of a local folder
            reason = f"cannot be read or written ({error})"
            remedy = "check the folder and the room on its disk, then run the command again"
        except RuntimeError as error:
            if "already accessed" not in str(error):
                raise
            reason = "cannot be opened, most likely because another process has it open"
            remedy = "wait until that has finished; a local folder serves one process at a time"
        else:
            return
        raise LibraryError(self._address, reason, remedy)


def _split_address(address: str) -> tuple[dict[str, Any], str]:
    """Return the options of the client, and the collection."""
    folder = address.removeprefix(SCHEMES[0])
    if folder.startswith("/") and folder.strip("/"):
        return {"path": folder, "force_disable_check_same_thread": True}, COLLECTION
    server = split_address(address, _PORT)
    scheme = "https" if address.startswith(SCHEMES[1]) else "http"
    options = {
        "url": f"{scheme}://{server.host}",
        "api_key": server.password or None,
        "timeout": _TIMEOUT,
        "check_compatibility": False,  # it would warn before the error that names the address
    }
    return options, server.collection or COLLECTION


def _batches(ids: Int64Array) -> Iterator[list[int]]:
    return (ids[start : start + _BATCH].tolist() for start in range(0, len(ids), _BATCH))
