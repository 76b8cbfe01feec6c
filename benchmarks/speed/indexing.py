"""Time indexing of new photographs, and of a folder without changes.

    python benchmarks/speed/indexing.py [new|rescan]

new: 12-megapixel JPEGs a second with the bundled model, beside a loop like rclip 3.3's (whole files
decoded in threads, the same batches through the same model, vectors into SQLite; rclip itself needs
its own weights from the network), and beside decoding alone, the upper bound.
rescan: 100,000 files, none of which has changed. Runs in turn, each in a process of its own. Writes
results/indexing.csv.
"""

from __future__ import annotations

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
from PIL import Image

import twotower
from benchmarks.table import ROOT, read_results, write_results
from twotower.arrays import Float32Array
from twotower.index.catalog import Catalog
from twotower.index.reader import PictureReader
from twotower.index.scan import scan
from twotower.inputs.preprocess import Preprocess

COLUMNS = ("measurement", "value", "unit")
PHOTOGRAPHS, ROUNDS, UNCHANGED = 48, 3, 100_000
Row = tuple[str, ...]


def main() -> None:
    measurements = {"new": measure_new, "rescan": measure_rescan}
    rows = [row for name in sys.argv[1:] or measurements for row in measurements[name]()]
    if len(sys.argv) > 1:  # keep the rows that were not measured
        measured = {row[0] for row in rows}
        earlier = [tuple(row.values()) for row in read_results("indexing.csv")]
        rows += [row for row in earlier if row[0] not in measured]
    write_results("indexing.csv", COLUMNS, sorted(rows))


def measure_new() -> list[Row]:
    rates: dict[str, list[float]] = {"as rclip": [], "twotower": [], "decoding alone": []}
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "photos")
        for _ in range(ROUNDS):
            for name, runs in rates.items():
                command = [sys.executable, __file__, "--run", name, folder]
                process = subprocess.run(command, check=True, capture_output=True, text=True)
                runs.append(PHOTOGRAPHS / float(process.stdout))
        cosine = lowest_cosine(Path(folder) / "photos")
    ratios = [run / peer for peer, run, _ in zip(*rates.values(), strict=True)]
    return [
        *[
            (f"new 12-megapixel JPEGs, {name}", f"{statistics.median(runs):.1f}", "a second")
            for name, runs in rates.items()
        ],
        ("new 12-megapixel JPEGs", f"{statistics.median(ratios):.2f}", "times rclip's loop"),
        ("pixels, reduced against full decoding", f"{cosine:.6f}", "lowest cosine"),
    ]


def write_photographs(folder: Path) -> None:
    """Enlarge example photographs to 4000 x 3000, and add the noise of a sensor."""
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
    preprocess = full_preprocess(twotower.load())
    cosines = []
    for file in scan(folder).files:
        picture = PictureReader(folder, preprocess)(file)
        assert picture is not None and picture.pixel_values is not None
        scaled = picture.pixel_values[0].ravel()
        exact = preprocess(folder / os.fsdecode(file.path)).ravel()
        cosines.append(exact @ scaled / np.linalg.norm(exact) / np.linalg.norm(scaled))
    return float(min(cosines))


def full_preprocess(model: twotower.Encoder) -> Preprocess:
    """Return the model's preprocessing without decoding at a reduced scale."""
    return Preprocess(replace(model.config.preprocess, fast_decode=False))


def run_method(name: str, folder: Path) -> None:
    """Print the seconds of all photographs, without loading the model."""
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
            reader = PictureReader(folder / "photos", model.preprocess)
            with ThreadPoolExecutor() as pool:
                list(pool.map(reader, scan(folder / "photos").files))
        print(time.perf_counter() - start)


def index_as_rclip(photos: Path, location: Path, model: twotower.Encoder) -> None:
    connection = sqlite3.connect(location / "peer.sqlite")
    connection.execute("CREATE TABLE images (path TEXT, hash TEXT, vector BLOB)")
    preprocess = full_preprocess(model)

    def read(path: Path) -> tuple[str, Float32Array]:
        content = path.read_bytes()
        return hashlib.sha256(content).hexdigest(), preprocess(content)

    paths = sorted(photos.iterdir())
    with ThreadPoolExecutor() as pool:
        read_ahead = pool.map(read, paths)
        for start in range(0, len(paths), 8):
            batch = paths[start : start + 8]
            hashes, pixels = zip(*[next(read_ahead) for _ in batch], strict=True)
            vectors = model.encode_pixels(np.stack(pixels))
            rows = [
                (str(path), digest, vector.tobytes())
                for path, digest, vector in zip(batch, hashes, vectors, strict=True)
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
            process = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            seconds.append(time.perf_counter() - start)
            assert f"{UNCHANGED} unchanged" in process.stdout
    value = f"{statistics.median(seconds):.2f}"
    return [(f"re-scan of {UNCHANGED} unchanged files, the whole process", value, "seconds")]


def fill(folder: Path, count: int) -> None:
    """Create a library of small pictures in one folder, with random vectors."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "png")
    (folder / "0.png").write_bytes(content.getvalue())
    library = twotower.Library(folder)
    library.index()
    [template] = library.catalog.records()
    for number in range(1, count):
        (folder / f"{number}.png").write_bytes(content.getvalue())
    random = np.random.default_rng(0)
    records = [
        replace(template, id=number, path=os.fsdecode(file.path), mtime_ns=file.mtime_ns)
        for number, file in enumerate(scan(folder).files, 1)
    ]
    for begin in range(0, count, 20_000):
        block = records[begin : begin + 20_000]
        rows = random.standard_normal((len(block), 512), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        library.vectors.add(np.array([record.id for record in block]), rows)
    with Catalog(library.location) as catalog:
        catalog.replace([template.id], records)
    library.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_method(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
