"""Time the search for the 100 nearest of ten million vectors, by inverted lists and exactly.

    python benchmarks/speed/search_large.py DATA FOLDER [VECTORS]

The vectors are made from the embeds of flickr8k-train and imagenet-sample-1k by the bundled model:
each is a random mean of one embed and three of its 32 nearest neighbours, with a little noise, so
that they are distributed like embeds of pictures. The queries are pictures of flickr8k-val, and
captions, which are far from all pictures. The lists are read into memory before; the vectors that
are scored exactly come from the disk, and from memory for a repeated query. FOLDER keeps the
vectors (26 GB) and the lists (5 GB) for later runs. faiss's HNSW is not measured: at a thousand
vectors a second, its construction takes three hours. Writes results/search_large.csv.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import twotower
from benchmarks.table import write_results
from twotower.arrays import Float32Array, Int64Array
from twotower.calibration.background import background_texts
from twotower.index.inverted_file import LISTS_FOLDER
from twotower.index.local_vectors import LocalVectors
from twotower.pairs.sources import open_source
from twotower.progress import Progress

COLUMNS = ("method", "vectors", "queries", "p50_ms", "recall_at_100", "built_s", "gigabytes")
TOP, QUERIES, WARM_UP = 100, 50, 50
EXACT_QUERIES = 2  # that are timed exactly, which takes long
NEIGHBOURS, MIXED, NOISE = 32, 3, 0.2
BLOCK = 50_000  # vectors


def main() -> None:
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000_000
    model = twotower.load()
    folder.mkdir(parents=True, exist_ok=True)
    vectors = LocalVectors(folder / "vectors", model.config.embed_dim)
    if len(vectors) < count:
        fill(vectors, embed_pictures(model, data), count)
    built = folder / "seconds"
    if not (folder / "vectors" / LISTS_FOLDER).exists():
        start = time.perf_counter()
        vectors.build_lists(model.encode_text(background_texts()[:256]), print_progress)
        built.write_text(f"{time.perf_counter() - start:.0f}")
    source = open_source(data / "flickr8k-val")
    pairs = [source[number] for number in range(QUERIES + WARM_UP)]
    queries = {
        "pictures": model.encode_image([pair.picture for pair in pairs]),
        "words": model.encode_text([pair.captions[0] for pair in pairs]),
    }
    read_into_memory(folder / "vectors" / LISTS_FOLDER / "lists.faiss")
    size = sum(path.stat().st_size for path in (folder / "vectors" / LISTS_FOLDER).iterdir())
    report(
        compare(vectors, exact_copy(folder), queries, folder / "nearest.npy"),
        count,
        built.read_text(),
        size,
    )


def read_into_memory(path: Path) -> None:
    """Read a file, so that it is in the cache of the system, as on a running server."""
    with path.open("rb") as file:
        while file.read(2**24):
            pass


def print_progress(progress: Progress) -> None:
    print(f"{progress.done} of {progress.total} in lists", flush=True)


def embed_pictures(model: twotower.Encoder, data: Path) -> Float32Array:
    """Return image_embeds [n, embed_dim]."""
    embeds = []
    for name in ("flickr8k-train", "imagenet-sample-1k"):
        source = open_source(str(data / name / "*.tar"))
        embeds.append(model.encode_image([source[i].picture for i in range(len(source))]))
    return np.concatenate(embeds)


def fill(vectors: LocalVectors, real: Float32Array, count: int) -> None:
    random = np.random.default_rng(0)
    near = np.argsort(-(real @ real.T), axis=1)[:, 1 : NEIGHBOURS + 1]
    noise = np.float32(NOISE * real.shape[1] ** -0.5)
    for start in range(0, count, BLOCK):
        centers = random.integers(0, len(real), BLOCK)
        chosen = near[centers[:, None], random.integers(0, NEIGHBOURS, (BLOCK, MIXED))]
        weights = random.dirichlet(np.ones(1 + MIXED), BLOCK).astype(np.float32)
        rows = noise * random.standard_normal((BLOCK, real.shape[1]), np.float32)
        rows += weights[:, :1] * real[centers]
        for column in range(MIXED):
            rows += weights[:, column + 1, None] * real[chosen[:, column]]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors.add(np.arange(start + 1, start + BLOCK + 1), rows)
        print(f"{start + BLOCK} of {count} vectors", flush=True)


def exact_copy(folder: Path) -> LocalVectors:
    """Return a store of the same vectors, by links to their files, without the lists."""
    copy = folder / "exact"
    copy.mkdir(exist_ok=True)
    for path in (folder / "vectors").iterdir():
        if path.is_file() and not (copy / path.name).exists():
            (copy / path.name).symlink_to(path.resolve())
    return LocalVectors(copy, twotower.preset("twotower-small").embed_dim)


Row = tuple[str, str, float, float]


def compare(
    lists: LocalVectors, exact: LocalVectors, queries: dict[str, Float32Array], nearest_file: Path
) -> list[Row]:
    """Return rows of method, queries, p50 in milliseconds and recall.

    The exact search comes last, because it displaces the lists from memory.

    Args:
        nearest_file: stores the exact results, which take minutes to compute.
    """
    by_lists = {name: timed(lists.search, embeds) for name, embeds in queries.items()}
    repeated = {name: timed(lists.search, embeds)[0] for name, embeds in queries.items()}
    print("lists measured", flush=True)
    measured = np.concatenate([embeds[WARM_UP:] for embeds in queries.values()])
    if not nearest_file.exists():
        np.save(nearest_file, nearest(exact, measured))
    correct = list(np.load(nearest_file))
    rows = []
    for name, embeds in queries.items():
        milliseconds, ids = by_lists[name]
        by_scan, _ = timed(exact.search, embeds[WARM_UP : WARM_UP + EXACT_QUERIES])
        hits = [len(np.intersect1d(row, correct.pop(0))) / TOP for row in ids[WARM_UP:]]
        recall = float(np.mean(hits))
        repeated_times = repeated[name][WARM_UP:]
        rows.append(("lists", name, statistics.median(milliseconds[WARM_UP:]), recall))
        rows.append(("lists, repeated query", name, statistics.median(repeated_times), recall))
        rows.append(("exact", name, statistics.median(by_scan), 1.0))
    return rows


def nearest(vectors: LocalVectors, queries: Float32Array) -> Int64Array:
    """Return the ids of the nearest vectors of each query [q, TOP], in one pass over them."""
    ids = vectors.ids()
    best = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(ids), BLOCK):
        block = ids[start : start + BLOCK]
        scores = np.concatenate([scores, queries @ vectors.get(block).T], axis=1)
        best = np.concatenate([best, np.broadcast_to(block, (len(queries), len(block)))], axis=1)
        top = np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP]
        scores = np.take_along_axis(scores, top, axis=1)
        best = np.take_along_axis(best, top, axis=1)
        print(f"{start + len(block)} of {len(ids)} compared", flush=True)
    return best


def timed(
    search: Callable[..., tuple[Int64Array, Float32Array]], embeds: Float32Array
) -> tuple[list[float], list[Int64Array]]:
    """Return the milliseconds and the ids of each query."""
    milliseconds, ids_of_queries = [], []
    for embed in embeds:
        start = time.perf_counter()
        ids, _ = search(embed, TOP)
        milliseconds.append(1000 * (time.perf_counter() - start))
        ids_of_queries.append(ids)
    return milliseconds, ids_of_queries


def report(rows: list[Row], count: int, built: str, size: int) -> None:
    lines = []
    for method, queries, p50, recall in rows:
        construction = (built, f"{size / 1e9:.1f}") if method == "lists" else ("", "")
        lines.append((method, count, queries, f"{p50:.1f}", f"{recall:.3f}", *construction))
    write_results("search_large.csv", COLUMNS, lines)


if __name__ == "__main__":
    main()
