"""Time the search for the 100 nearest of a million vectors, beside numpy, faiss, usearch, SQLite.

    python benchmarks/speed/search.py [VECTORS [random|clusters]]

By default a million vectors of 512 numbers, distributed like CLIP's: around a common mean, in
clusters of different sizes. Each method is a process of its own with two threads and all its data
in memory. They answer the same queries in turn, so that the ratios hold on a busy machine. The
limit is the memory bandwidth of two threads. SQLite is searched as rclip does it (all rows fetched
and multiplied): a tenth of the rows, and the time multiplied by ten. Writes results/search.csv.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.table import write_results
from twotower.arrays import Float32Array, Int64Array, normalize

DIM, TOP, QUERIES, THREADS = 512, 100, 17, 2
COLUMNS = ("method", "vectors", "kind", "p50_ms", "times_faiss_flat", "recall", "share_of_limit")
Search = Callable[[Float32Array], Int64Array]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    kind = sys.argv[2] if len(sys.argv) > 2 else "clusters"
    with tempfile.TemporaryDirectory() as folder:
        queries = write_vectors(Path(folder), count, kind)
        workers = {name: Worker(name, folder) for name in METHODS}
        milliseconds: dict[str, list[float]] = {name: [] for name in workers}
        retrieved: dict[str, list[set[int]]] = {name: [] for name in workers}
        for query in queries:
            for name, worker in workers.items():
                seconds, ids = worker.ask(query)
                milliseconds[name].append(1000 * seconds)
                retrieved[name].append(ids)
        for worker in workers.values():
            worker.stop()
    report(count, kind, milliseconds, retrieved)


def write_vectors(folder: Path, count: int, kind: str) -> Float32Array:
    """Write `rows.npy` and a store of ours to `folder`; return queries [QUERIES, DIM]."""
    from twotower.index.index import open_vectors

    random = np.random.default_rng(0)
    scale = np.float32(DIM**-0.5)
    mean = scale * random.standard_normal(DIM, np.float32)
    centers = scale * random.standard_normal((2000, DIM), np.float32)
    weights = 1 / np.arange(1, 2001)

    def draw(size: int) -> Float32Array:
        rows = scale * random.standard_normal((size, DIM), np.float32)
        if kind == "clusters":
            rows += mean + centers[random.choice(2000, size, p=weights / weights.sum())]
        return normalize(rows)

    all_rows = np.lib.format.open_memmap(
        folder / "rows.npy", mode="w+", dtype=np.float32, shape=(count, DIM)
    )
    store = open_vectors(folder / "store", DIM)
    for start in range(0, count, 50_000):
        rows = draw(min(50_000, count - start))
        all_rows[start : start + len(rows)] = rows
        store.add(np.arange(start + 1, start + len(rows) + 1), rows)
    return draw(QUERIES)


def report(
    count: int,
    kind: str,
    milliseconds: dict[str, list[float]],
    retrieved: dict[str, list[set[int]]],
) -> None:
    """Write medians of all queries but the first five, which warm up."""
    p50 = {name: float(np.median(times[5:])) for name, times in milliseconds.items()}
    p50["SQLite as rclip"] *= 10
    bandwidth = 4 * DIM * count / p50["read all (limit)"] / 1e6
    rows = []
    for name, (_, width) in METHODS.items():
        pairs = zip(retrieved[name], retrieved["numpy f32"], strict=True)
        recall = np.mean([len(ids & exact) / TOP for ids, exact in pairs])
        incomplete = "allowed" in name or name in ("read all (limit)", "SQLite as rclip")
        ratio = p50[name] / p50["faiss flat f32"]
        share = width * count / p50[name] / 1e6 / bandwidth
        numbers = (f"{p50[name]:.1f}", f"{ratio:.2f}", "" if incomplete else f"{recall:.3f}")
        rows.append((name, count, kind, *numbers, f"{share:.2f}"))
    write_results("search.csv", COLUMNS, rows)
    print(f"two threads read {bandwidth:.1f} GB/s")


class Worker:
    """A process that answers queries by one method."""

    def __init__(self, name: str, folder: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=serve, args=(name, folder, child_pipe), daemon=True)
        self._process.start()
        assert self._pipe.recv() == "ready"

    def ask(self, query: Float32Array) -> tuple[float, set[int]]:
        """Return seconds and ids."""
        self._pipe.send(query)
        reply: tuple[float, set[int]] = self._pipe.recv()
        return reply

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join()


def serve(name: str, folder: str, pipe: Connection) -> None:
    search = METHODS[name][0](Path(folder))
    pipe.send("ready")
    while (query := pipe.recv()) is not None:
        start = time.perf_counter()
        ids = search(query)
        pipe.send((time.perf_counter() - start, set(np.asarray(ids).ravel().tolist())))


def load_rows(folder: Path) -> Float32Array:
    return np.asarray(np.load(folder / "rows.npy", mmap_mode="r"))


def search_store(folder: Path) -> Search:
    from twotower.index.index import open_vectors

    store = open_vectors(folder / "store", DIM)
    return lambda query: store.search(query, TOP)[0]


def search_filtered(share: float) -> Callable[[Path], Search]:
    def start(folder: Path) -> Search:
        from twotower.index.index import open_vectors

        store = open_vectors(folder / "store", DIM)
        chosen = np.random.default_rng(1).random(len(store)) < share
        allowed = np.flatnonzero(chosen) + 1
        return lambda query: store.search(query, TOP, allowed)[0]

    return start


def search_without_simsimd(folder: Path) -> Search:
    sys.modules["simsimd"] = None  # type: ignore[assignment]  # makes its import fail
    return search_store(folder)


def read_all(folder: Path) -> Search:
    """Read all vectors in two threads, to measure the memory bandwidth."""
    rows = load_rows(folder).reshape(-1)
    pool = ThreadPoolExecutor(THREADS)
    chunks = np.array_split(rows, 64)

    def search(query: Float32Array) -> Int64Array:
        list(pool.map(lambda chunk: chunk.dot(chunk), chunks))
        return np.zeros(0, np.int64)

    return search


def numpy_f32(folder: Path) -> Search:
    rows = load_rows(folder)

    def search(query: Float32Array) -> Int64Array:
        scores = rows @ query
        return np.argpartition(scores, -TOP)[-TOP:] + 1

    return search


def faiss_flat(folder: Path) -> Search:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    return _faiss(faiss.IndexFlatIP(DIM), folder)


def faiss_scalar(kind: str) -> Callable[[Path], Search]:
    def start(folder: Path) -> Search:
        import faiss

        faiss.omp_set_num_threads(THREADS)
        quantizer = getattr(faiss.ScalarQuantizer, kind)
        return _faiss(
            faiss.IndexScalarQuantizer(DIM, quantizer, faiss.METRIC_INNER_PRODUCT), folder
        )

    return start


def _faiss(index: Any, folder: Path) -> Search:
    rows = load_rows(folder)
    index.train(rows[:100_000])
    for start in range(0, len(rows), 50_000):
        index.add(rows[start : start + 50_000])
    return lambda query: index.search(query[None], TOP)[1][0] + 1


def usearch_exact(kind: str) -> Callable[[Path], Search]:
    def start(folder: Path) -> Search:
        from usearch.index import search as exact

        rows = load_rows(folder)
        if kind == "i8":
            stored: NDArray[Any] = np.empty(rows.shape, np.int8)
            for begin in range(0, len(rows), 50_000):
                stored[begin : begin + 50_000] = to_i8(rows[begin : begin + 50_000])
        else:
            stored = rows.astype(kind)

        def search(query: Float32Array) -> Int64Array:
            converted = to_i8(query) if kind == "i8" else query.astype(kind)
            matches = exact(stored, converted[None], TOP, metric="ip", exact=True, threads=THREADS)
            return np.asarray(matches.keys).astype(np.int64) + 1

        return search

    return start


def to_i8(rows: Float32Array) -> NDArray[np.int8]:
    """Round unit vectors to bytes, as usearch does."""
    return np.rint(rows * 127).astype(np.int8)


def sqlite_tenth(folder: Path) -> Search:
    """Fetch every vector from SQLite, stack and multiply them, as rclip does."""
    rows = load_rows(folder)
    rows = rows[: len(rows) // 10]
    connection = sqlite3.connect(folder / "peer.sqlite")
    connection.execute("CREATE TABLE images (path TEXT, vector BLOB)")
    named = ((str(number), row.tobytes()) for number, row in enumerate(rows))
    connection.executemany("INSERT INTO images VALUES (?, ?)", named)
    connection.commit()

    def search(query: Float32Array) -> Int64Array:
        fetched = connection.execute("SELECT path, vector FROM images").fetchall()
        vectors = np.stack([np.frombuffer(vector, np.float32) for _, vector in fetched])
        scores = vectors @ query
        return np.argsort(-scores)[:TOP] + 1

    return search


# Name -> function that starts it, and the bytes that it has to read for each vector.
METHODS: dict[str, tuple[Callable[[Path], Search], int]] = {
    "read all (limit)": (read_all, 4 * DIM),
    "twotower": (search_store, DIM + 8),
    "twotower, half allowed": (search_filtered(0.5), DIM + 8),
    "twotower, a tenth allowed": (search_filtered(0.1), DIM + 8),
    "twotower, a hundredth allowed": (search_filtered(0.01), DIM + 8),
    "twotower without simsimd": (search_without_simsimd, 4 * DIM),
    "numpy f32": (numpy_f32, 4 * DIM),
    "faiss flat f32": (faiss_flat, 4 * DIM),
    "faiss fp16": (faiss_scalar("QT_fp16"), 2 * DIM),
    "faiss SQ8": (faiss_scalar("QT_8bit"), DIM),
    "usearch f32": (usearch_exact("float32"), 4 * DIM),
    "usearch f16": (usearch_exact("float16"), 2 * DIM),
    "usearch i8": (usearch_exact("i8"), DIM),
    "SQLite as rclip": (sqlite_tenth, 4 * DIM),
}

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    main()
