"""Milliseconds for the 100 nearest of a million vectors: ours beside numpy, faiss, usearch, SQLite.

    python benchmarks/speed/search.py [VECTORS] [random|clusters]

By default a million vectors of 512 numbers, grouped as CLIP's are: around a common mean, in
clusters of uneven size. Each method is a process of its own with two threads and all its data in
memory; they answer the same queries in turn, so that the ratios hold on a busy machine. The limit
is what two threads can read from memory. SQLite is searched as rclip does it (all rows fetched and
multiplied), a tenth of the rows and its time taken tenfold. Writes results/search.csv.
"""

from __future__ import annotations

import csv
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

DIM, TOP, QUERIES, THREADS = 512, 100, 17, 2
RESULTS = Path(__file__).parents[1] / "results" / "search.csv"
Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    kind = sys.argv[2] if len(sys.argv) > 2 else "clusters"
    with tempfile.TemporaryDirectory() as folder:
        queries = write_vectors(Path(folder), count, kind)
        workers = {name: Worker(name, folder) for name in METHODS}
        milliseconds: dict[str, list[float]] = {name: [] for name in workers}
        found: dict[str, list[set[int]]] = {name: [] for name in workers}
        for query in queries:
            for name, worker in workers.items():
                seconds, ids = worker.ask(query)
                milliseconds[name].append(1000 * seconds)
                found[name].append(ids)
        for worker in workers.values():
            worker.stop()
    report(count, kind, milliseconds, found)


def write_vectors(folder: Path, count: int, kind: str) -> NDArray[np.float32]:
    """`rows.npy` and our own store in `folder`; queries [QUERIES, DIM] of the same kind."""
    from twotower.index.index import open_vectors

    random = np.random.default_rng(0)
    scale = np.float32(DIM**-0.5)
    mean = scale * random.standard_normal(DIM, np.float32)
    centers = scale * random.standard_normal((2000, DIM), np.float32)
    weights = 1 / np.arange(1, 2001)

    def make(some: int) -> NDArray[np.float32]:
        rows = scale * random.standard_normal((some, DIM), np.float32)
        if kind == "clusters":
            rows += mean + centers[random.choice(2000, some, p=weights / weights.sum())]
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    all_rows = np.lib.format.open_memmap(
        folder / "rows.npy", mode="w+", dtype=np.float32, shape=(count, DIM)
    )
    store = open_vectors(folder / "store", DIM)
    for start in range(0, count, 50_000):
        rows = make(min(50_000, count - start))
        all_rows[start : start + len(rows)] = rows
        store.add(np.arange(start + 1, start + len(rows) + 1), rows)
    return make(QUERIES)


def report(
    count: int,
    kind: str,
    milliseconds: dict[str, list[float]],
    found: dict[str, list[set[int]]],
) -> None:
    """Medians, after the first queries, which warm up."""
    p50 = {name: float(np.median(times[5:])) for name, times in milliseconds.items()}
    p50["SQLite as rclip"] *= 10
    bandwidth = 4 * DIM * count / p50["read all (limit)"] / 1e6
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("method", "vectors", "kind", "p50_ms", "times_faiss_flat", "recall", "share_of_limit")
        )
        for name, (_, width) in METHODS.items():
            truth = zip(found[name], found["numpy f32"], strict=True)
            recall = np.mean([len(ours & true) / TOP for ours, true in truth])
            part = "allowed" in name or name in ("read all (limit)", "SQLite as rclip")
            share = width * count / p50[name] / 1e6 / bandwidth
            row = (
                name, count, kind, f"{p50[name]:.1f}",
                f"{p50[name] / p50['faiss flat f32']:.2f}",
                "" if part else f"{recall:.3f}", f"{share:.2f}",
            )  # fmt: skip
            writer.writerow(row)
            print(*row)
    print(f"two threads read {bandwidth:.1f} GB/s")


class Worker:
    """A method in a process of its own."""

    def __init__(self, name: str, folder: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(name, folder, theirs), daemon=True)
        self._process.start()
        assert self._pipe.recv() == "ready"

    def ask(self, query: NDArray[np.float32]) -> tuple[float, set[int]]:
        """Seconds, and the ids found."""
        self._pipe.send(query)
        answer: tuple[float, set[int]] = self._pipe.recv()
        return answer

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


def load_rows(folder: Path) -> NDArray[np.float32]:
    return np.asarray(np.load(folder / "rows.npy", mmap_mode="r"))


def ours(folder: Path) -> Search:
    from twotower.index.index import open_vectors

    store = open_vectors(folder / "store", DIM)
    return lambda query: store.search(query, TOP)[0]


def ours_filtered(share: float) -> Callable[[Path], Search]:
    def start(folder: Path) -> Search:
        from twotower.index.index import open_vectors

        store = open_vectors(folder / "store", DIM)
        chosen = np.random.default_rng(1).random(len(store)) < share
        allowed = np.flatnonzero(chosen) + 1
        return lambda query: store.search(query, TOP, allowed)[0]

    return start


def ours_without_simsimd(folder: Path) -> Search:
    sys.modules["simsimd"] = None  # type: ignore[assignment]  # cannot be imported any more
    return ours(folder)


def read_all(folder: Path) -> Search:
    """Two threads that do nothing but read: what memory gives."""
    rows = load_rows(folder).reshape(-1)
    pool = ThreadPoolExecutor(THREADS)
    parts = np.array_split(rows, 64)

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
        list(pool.map(lambda part: part.dot(part), parts))
        return np.zeros(0, np.int64)

    return search


def numpy_f32(folder: Path) -> Search:
    rows = load_rows(folder)

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
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
            kept: NDArray[Any] = np.empty(rows.shape, np.int8)
            for first in range(0, len(rows), 50_000):
                kept[first : first + 50_000] = to_i8(rows[first : first + 50_000])
        else:
            kept = rows.astype(kind)

        def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
            own = to_i8(query) if kind == "i8" else query.astype(kind)
            matches = exact(kept, own[None], TOP, metric="ip", exact=True, threads=THREADS)
            return np.asarray(matches.keys).astype(np.int64) + 1

        return search

    return start


def to_i8(rows: NDArray[np.float32]) -> NDArray[np.int8]:
    """As usearch rounds unit vectors to bytes."""
    return np.rint(rows * 127).astype(np.int8)


def sqlite_tenth(folder: Path) -> Search:
    """As rclip does it: every vector is fetched from SQLite, stacked and multiplied."""
    rows = load_rows(folder)
    rows = rows[: len(rows) // 10]
    connection = sqlite3.connect(folder / "peer.sqlite")
    connection.execute("CREATE TABLE images (path TEXT, vector BLOB)")
    named = ((str(number), row.tobytes()) for number, row in enumerate(rows))
    connection.executemany("INSERT INTO images VALUES (?, ?)", named)
    connection.commit()

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
        fetched = connection.execute("SELECT path, vector FROM images").fetchall()
        vectors = np.stack([np.frombuffer(vector, np.float32) for _, vector in fetched])
        scores = vectors @ query
        return np.argsort(-scores)[:TOP] + 1

    return search


# Name -> what starts it, and the bytes that it has to read for each vector.
METHODS: dict[str, tuple[Callable[[Path], Search], int]] = {
    "read all (limit)": (read_all, 4 * DIM),
    "twotower": (ours, DIM + 8),
    "twotower, half allowed": (ours_filtered(0.5), DIM + 8),
    "twotower, a tenth allowed": (ours_filtered(0.1), DIM + 8),
    "twotower, a hundredth allowed": (ours_filtered(0.01), DIM + 8),
    "twotower without simsimd": (ours_without_simsimd, 4 * DIM),
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
