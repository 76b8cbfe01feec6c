"""Milliseconds for the 100 nearest of ten million vectors, by lists and exactly.

    python benchmarks/speed/search_large.py DATA FOLDER [VECTORS]

The vectors are made from those of the pictures of flickr8k-train and imagenet-sample-1k, by the
bundled model: each is a random mean of one, of three of its 32 nearest, and a little noise, so that
they lie as pictures lie. Queries are real: pictures of flickr8k-val, and captions, which lie far
from all pictures. The lists were read into memory before; the vectors that are scored exactly come
from the disk, and from memory when the same is asked again. FOLDER keeps the vectors (26 GB) and
the lists (5 GB), for a second call, which then only measures. faiss's HNSW is not beside it: at a
thousand vectors a second it would build for three hours. Writes results/search_large.csv.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import twotower
from twotower.arrays import Float32Array
from twotower.calibration.background import background_texts
from twotower.index.inverted_file import LISTS_FOLDER
from twotower.index.local_vectors import LocalVectors
from twotower.pairs.sources import open_source
from twotower.progress import Progress

RESULTS = Path(__file__).parents[1] / "results" / "search_large.csv"
TOP, QUERIES, WARM_UP = 100, 50, 50
EXACT = 2  # queries that are searched exactly, for the time that it takes
NEIGHBOURS, MIXED, NOISE = 32, 3, 0.2
PART = 50_000


Ids = NDArray[np.int64]


def main() -> None:
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000_000
    model = twotower.load()
    folder.mkdir(parents=True, exist_ok=True)
    vectors = LocalVectors(folder / "vectors", model.config.embed_dim)
    if len(vectors) < count:
        fill(vectors, pictures(model, data), count)
    built = folder / "seconds"
    if not (folder / "vectors" / LISTS_FOLDER).exists():
        start = time.perf_counter()
        vectors.build_lists(model.encode_text(background_texts()[:256]), print_progress)
        built.write_text(f"{time.perf_counter() - start:.0f}")
    source = open_source(data / "flickr8k-val")
    pairs = [source[number] for number in range(QUERIES + WARM_UP)]
    queries = {
        "pictures": model.encode_image([one.picture for one in pairs]),
        "words": model.encode_text([one.captions[0] for one in pairs]),
    }
    read_once(folder / "vectors" / LISTS_FOLDER / "lists.faiss")
    size = sum(one.stat().st_size for one in (folder / "vectors" / LISTS_FOLDER).iterdir())
    report(
        compare(vectors, exact_copy(folder), queries, folder / "nearest.npy"),
        count,
        built.read_text(),
        size,
    )


def read_once(path: Path) -> None:
    """Have a file in memory, as that of a server that runs is."""
    with path.open("rb") as file:
        while file.read(2**24):
            pass


def print_progress(progress: Progress) -> None:
    print(f"{progress.done} of {progress.total} in lists", flush=True)


def pictures(model: twotower.Encoder, data: Path) -> Float32Array:
    """image_embeds [n, embed_dim]"""
    parts = []
    for name in ("flickr8k-train", "imagenet-sample-1k"):
        source = open_source(str(data / name / "*.tar"))
        parts.append(model.encode_image([source[i].picture for i in range(len(source))]))
    return np.concatenate(parts)


def fill(vectors: LocalVectors, real: Float32Array, count: int) -> None:
    random = np.random.default_rng(0)
    near = np.argsort(-(real @ real.T), axis=1)[:, 1 : NEIGHBOURS + 1]
    noise = np.float32(NOISE * real.shape[1] ** -0.5)
    for start in range(0, count, PART):
        own = random.integers(0, len(real), PART)
        chosen = near[own[:, None], random.integers(0, NEIGHBOURS, (PART, MIXED))]
        weights = random.dirichlet(np.ones(1 + MIXED), PART).astype(np.float32)
        rows = noise * random.standard_normal((PART, real.shape[1]), np.float32)
        rows += weights[:, :1] * real[own]
        for place in range(MIXED):
            rows += weights[:, place + 1, None] * real[chosen[:, place]]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors.add(np.arange(start + 1, start + PART + 1), rows)
        print(f"{start + PART} of {count} vectors", flush=True)


def exact_copy(folder: Path) -> LocalVectors:
    """The same vectors, without the lists."""
    copy = folder / "exact"
    copy.mkdir(exist_ok=True)
    for path in (folder / "vectors").iterdir():
        if path.is_file() and not (copy / path.name).exists():
            (copy / path.name).symlink_to(path.resolve())
    return LocalVectors(copy, twotower.preset("twotower-small").embed_dim)


Row = tuple[str, str, float, float]


def compare(
    lists: LocalVectors, exact: LocalVectors, queries: dict[str, Float32Array], kept: Path
) -> list[Row]:
    """(method, queries, p50 in ms, recall); exactly last, as that takes the memory for itself.

    `kept` is where the nearest are kept, which take minutes to find.
    """
    by_lists = {name: timed(lists.search, embeds) for name, embeds in queries.items()}
    again = {name: timed(lists.search, embeds)[0] for name, embeds in queries.items()}
    print("lists measured", flush=True)
    asked = np.concatenate([embeds[WARM_UP:] for embeds in queries.values()])
    if not kept.exists():
        np.save(kept, nearest(exact, asked))
    true = list(np.load(kept))
    rows = []
    for name, embeds in queries.items():
        milliseconds, found = by_lists[name]
        exactly, _ = timed(exact.search, embeds[WARM_UP : WARM_UP + EXACT])
        hits = [len(np.intersect1d(own, true.pop(0))) / TOP for own in found[WARM_UP:]]
        recall = float(np.mean(hits))
        rows.append(("lists", name, statistics.median(milliseconds[WARM_UP:]), recall))
        rows.append(("lists, asked again", name, statistics.median(again[name][WARM_UP:]), recall))
        rows.append(("exact", name, statistics.median(exactly), 1.0))
    return rows


def nearest(vectors: LocalVectors, queries: Float32Array) -> Ids:
    """The ids of the nearest of each query [q, TOP], in one pass over all vectors."""
    ids = vectors.ids()
    best = np.zeros((len(queries), 0), np.int64)
    scores = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(ids), PART):
        some = ids[start : start + PART]
        scores = np.concatenate([scores, queries @ vectors.get(some).T], axis=1)
        best = np.concatenate([best, np.broadcast_to(some, (len(queries), len(some)))], axis=1)
        kept = np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP]
        scores = np.take_along_axis(scores, kept, axis=1)
        best = np.take_along_axis(best, kept, axis=1)
        print(f"{start + len(some)} of {len(ids)} compared", flush=True)
    return best


def timed(
    search: Callable[..., tuple[Ids, Float32Array]], embeds: Float32Array
) -> tuple[list[float], list[Ids]]:
    """Milliseconds and the ids found, of each query."""
    milliseconds, found = [], []
    for embed in embeds:
        start = time.perf_counter()
        ids, _ = search(embed, TOP)
        milliseconds.append(1000 * (time.perf_counter() - start))
        found.append(ids)
    return milliseconds, found


def report(rows: list[Row], count: int, built: str, size: int) -> None:
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("method", "vectors", "queries", "p50_ms", "recall_at_100", "built_s", "gigabytes")
        )
        for method, queries, p50, recall in rows:
            only = (built, f"{size / 1e9:.1f}") if method == "lists" else ("", "")
            row = (method, count, queries, f"{p50:.1f}", f"{recall:.3f}", *only)
            writer.writerow(row)
            print(*row)


if __name__ == "__main__":
    main()
