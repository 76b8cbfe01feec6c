"""Time the stores of vectors: writing, a search, and a search among half of the pictures.

    python benchmarks/speed/stores.py [VECTORS]

By default 50,000 vectors of 512 numbers in clusters; all stores answer the same queries, one store
after another. PostgreSQL is the server of the tests: 16 MB of shared buffers, and no fsync. The
local modes of Qdrant and Milvus are left out: they are for trying, and say nothing of their
servers. Writes results/stores.csv.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np

from benchmarks.table import write_results
from tests.index.postgres import PostgresServer
from twotower.arrays import Float32Array, Int64Array, normalize
from twotower.index.index import open_vectors
from twotower.index.vectors import Vectors

DIM, TOP, QUERIES = 512, 100, 17
COLUMNS = ("store", "vectors", "write_a_second", "search_ms", "half_allowed_ms", "recall")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    rows, queries = draw_vectors(count)
    ids = np.arange(1, count + 1)
    with open_stores() as stores:
        write_rates = {name: write_rate(store, ids, rows) for name, store in stores.items()}
        stores["PostgreSQL, HNSW"].build_lists(queries)
        results = [
            (name, count, f"{write_rates[name]:.0f}", *search_times(store, ids, rows, queries))
            for name, store in stores.items()
        ]
    write_results("stores.csv", COLUMNS, results)


def draw_vectors(count: int) -> tuple[Float32Array, Float32Array]:
    """Return unit vectors [count, DIM] in clusters, and queries [QUERIES, DIM] of the same kind."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((200, DIM), np.float32)
    size = count + QUERIES
    rows = random.standard_normal((size, DIM), np.float32) + centers[random.integers(0, 200, size)]
    return normalize(rows[:count]), normalize(rows[count:])


@contextmanager
def open_stores() -> Iterator[dict[str, Vectors]]:
    with tempfile.TemporaryDirectory() as folder, closing(PostgresServer()) as server:
        yield {
            "local files": open_vectors(f"{folder}/vectors", DIM),
            "PostgreSQL, exact": open_vectors(server.address(), DIM, "exact"),
            "PostgreSQL, HNSW": open_vectors(server.address(), DIM, "approximate"),
        }


def write_rate(store: Vectors, ids: Int64Array, rows: Float32Array) -> float:
    start = time.perf_counter()
    store.add(ids, rows)
    return len(ids) / (time.perf_counter() - start)


def search_times(
    store: Vectors, ids: Int64Array, rows: Float32Array, queries: Float32Array
) -> tuple[str, str, str]:
    """Return medians in ms without and with a filter, and recall without, after five searches."""
    plain, filtered, recalls = [], [], []
    for query in queries:
        start = time.perf_counter()
        nearest, _ = store.search(query, TOP)
        middle = time.perf_counter()
        store.search(query, TOP, ids[::2])
        filtered.append(1000 * (time.perf_counter() - middle))
        plain.append(1000 * (middle - start))
        exact = ids[np.argsort(-(rows @ query))[:TOP]]
        recalls.append(len(set(nearest.tolist()) & set(exact.tolist())) / TOP)
    medians = [f"{np.median(times[5:]):.1f}" for times in (plain, filtered)]
    return medians[0], medians[1], f"{np.mean(recalls):.3f}"


if __name__ == "__main__":
    main()
