"""Indexing: new photographs, and a folder in which nothing has changed.

    python benchmarks/speed/indexing.py [new|rescan]

new: 12-megapixel JPEGs a second with the bundled model, beside a loop as rclip 3.3 has it (whole
files decoded in threads, the same batches through the same model, vectors into SQLite; rclip itself
wants its own weights from the network), and beside decoding alone, which bounds it.
rescan: 100 000 files of which none has changed. Runs in turn, each in a process of its own. Writes
results/indexing.csv.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import twotower
from twotower.index.catalog import Catalog
from twotower.index.reader import PictureReader
from twotower.index.scan import scan
from twotower.inputs.preprocess import Preprocess

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results" / "indexing.csv"
PHOTOGRAPHS, ROUNDS, UNCHANGED = 48, 3, 100_000
Row = tuple[str, str, str]


def main() -> None:
    parts = {"new": measure_new, "rescan": measure_rescan}
    rows = [row for name in sys.argv[1:] or parts for row in parts[name]()]
    kept = []
    if RESULTS.exists() and len(sys.argv) > 1:
        measured = {row[0] for row in rows}
        with RESULTS.open(newline="") as file:
            kept = [row for row in list(csv.reader(file))[1:] if row[0] not in measured]
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows([("what", "value", "unit"), *sorted([*kept, *map(list, rows)])])
    for row in rows:
        print(*row)


def measure_new() -> list[Row]:
    rates: dict[str, list[float]] = {"as rclip": [], "twotower": [], "decoding alone": []}
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "photos")
        for _ in range(ROUNDS):
            for name, runs in rates.items():
                command = [sys.executable, __file__, "--one", name, folder]
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                runs.append(PHOTOGRAPHS / float(answer.stdout))
        cosine = lowest_cosine(Path(folder) / "photos")
    ratios = [ours / theirs for theirs, ours, _ in zip(*rates.values(), strict=True)]
    return [
        *[
            (f"new 12-megapixel JPEGs, {name}", f"{statistics.median(runs):.1f}", "a second")
            for name, runs in rates.items()
        ],
        ("new 12-megapixel JPEGs", f"{statistics.median(ratios):.2f}", "times rclip's loop"),
        ("pixels, scaled against whole decoding", f"{cosine:.6f}", "lowest cosine"),
    ]


def write_photographs(folder: Path) -> None:
    """Example photographs enlarged to 4000 x 3000, with the grain of a sensor."""
    folder.mkdir()
    random = np.random.default_rng(0)
    grain = random.normal(0, 6, (3000, 4000, 1)).astype(np.float32)
    sources = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
    for number in range(PHOTOGRAPHS):
        with Image.open(sources[number % len(sources)]) as image:
            large = image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(large, np.float32) + np.roll(grain, 97 * number, 1), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def lowest_cosine(folder: Path) -> float:
    preprocess = whole_files(twotower.load())
    cosines = []
    for found in scan(folder).files:
        taken = PictureReader(folder, preprocess)(found)
        assert taken is not None and taken.pixel_values is not None
        scaled = taken.pixel_values[0].ravel()
        exact = preprocess(folder / os.fsdecode(found.path)).ravel()
        cosines.append(exact @ scaled / np.linalg.norm(exact) / np.linalg.norm(scaled))
    return float(min(cosines))


def whole_files(model: twotower.Encoder) -> Preprocess:
    """The model's preprocessing without scaled decoding."""
    return Preprocess(replace(model.config.preprocess, fast_decode=False))


def run_one(name: str, folder: Path) -> None:
    """Print the seconds for all photographs, the model already loaded."""
    model = twotower.load()
    model.encode_image(ROOT / "examples" / "photos" / "cat.jpg")
    with tempfile.TemporaryDirectory() as location:
        start = time.perf_counter()
        if name == "twotower":
            library = twotower.Library(folder / "photos", location=location)
            assert library.index().added == PHOTOGRAPHS
        elif name == "as rclip":
            index_as_rclip(folder / "photos", Path(location), model)
        else:
            intake = PictureReader(folder / "photos", model.preprocess)
            with ThreadPoolExecutor() as pool:
                list(pool.map(intake, scan(folder / "photos").files))
        print(time.perf_counter() - start)


def index_as_rclip(photos: Path, location: Path, model: twotower.Encoder) -> None:
    connection = sqlite3.connect(location / "peer.sqlite")
    connection.execute("CREATE TABLE images (path TEXT, hash TEXT, vector BLOB)")
    preprocess = whole_files(model)

    def read(path: Path) -> tuple[str, NDArray[np.float32]]:
        content = path.read_bytes()
        return hashlib.sha256(content).hexdigest(), preprocess(content)

    paths = sorted(photos.iterdir())
    with ThreadPoolExecutor() as pool:
        read_ahead = pool.map(read, paths)
        for start in range(0, len(paths), 8):
            some = paths[start : start + 8]
            hashes, pixels = zip(*[next(read_ahead) for _ in some], strict=True)
            vectors = model.encode_pixels(np.stack(pixels))
            rows = [
                (str(path), digest, vector.tobytes())
                for path, digest, vector in zip(some, hashes, vectors, strict=True)
            ]
            connection.executemany("INSERT INTO images VALUES (?, ?, ?)", rows)
            connection.commit()


def measure_rescan() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), UNCHANGED)
        seconds = []
        command = [sys.executable, "-m", "twotower", "index", folder]
        for _ in range(ROUNDS):
            start = time.perf_counter()
            answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            seconds.append(time.perf_counter() - start)
            assert f"{UNCHANGED} unchanged" in answer.stdout
    value = f"{statistics.median(seconds):.2f}"
    return [(f"re-scan of {UNCHANGED} unchanged files, the whole process", value, "seconds")]


def fill(folder: Path, count: int) -> None:
    """A library of small pictures, all in one folder; their vectors are random."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "png")
    (folder / "0.png").write_bytes(file.getvalue())
    library = twotower.Library(folder)
    library.index()
    [first] = library.catalog.records()
    for number in range(1, count):
        (folder / f"{number}.png").write_bytes(file.getvalue())
    random = np.random.default_rng(0)
    found = scan(folder).files
    records = [
        replace(first, id=number, path=os.fsdecode(one.path), mtime_ns=one.mtime_ns)
        for number, one in enumerate(found, 1)
    ]
    for begin in range(0, count, 20_000):
        some = records[begin : begin + 20_000]
        rows = random.standard_normal((len(some), 512), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        library.vectors.add(np.array([one.id for one in some]), rows)
    with Catalog(library.location) as catalog:
        catalog.replace([first.id], records)
    library.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
