"""Time files to vectors beside the stages alone, and what a Ray cluster of this machine costs.

    python benchmarks/speed/pipeline.py [PICTURES] [--model small] [--rounds 3] [--ray]

decode: files read, decoded and resized in threads. encode: ready pixels through the model.
together: `twotower.embed` of the folder, without loading the model. The pictures are the example
photographs. Runs in turn, each in a process of its own. Stages on the same cores cannot overlap:
their best rate together is 1 / (1 / decode + 1 / encode), and with a GPU the slower of the two.

--ray: the same embedding by `embed` on all cores, and on a local Ray cluster of as many workers.
The model is loaded in the time of both, and the workers of Ray take some seconds to start, so give
some thousands of pictures. Writes results/pipeline.csv.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.table import ROOT, read_results, write_results
from twotower.encode.bulk.run import embed
from twotower.encode.bulk.settings import EmbedSettings
from twotower.encode.bulk.shards import load_encoder
from twotower.encode.load import find_model, load
from twotower.pairs.cluster import connect

COLUMNS = ("measurement", "value", "unit")
STAGES = ("decode", "encode", "together")
BATCH = 32
SHARDS = 8  # of the run with Ray
Row = tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="?", type=int, default=400)
    parser.add_argument("--model", default="small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--run", choices=(*STAGES, "plain", "ray"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(RUNS[options.run](options.folder, options.model))
        return
    names = ("plain", "ray") if options.ray else STAGES
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), options.pictures)
        rates = measure(names, Path(folder), options)
    rows = ray_rows(rates, options.model) if options.ray else stage_rows(rates, options.model)
    measured = {row[0] for row in rows}
    earlier = [tuple(row.values()) for row in read_results("pipeline.csv")]
    rows += [row for row in earlier if row[0] not in measured]
    write_results("pipeline.csv", COLUMNS, rows)


def write_pictures(folder: Path, count: int) -> None:
    """Write the example photographs again and again."""
    sources = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
    contents = [path.read_bytes() for path in sources]
    for number in range(count):
        (folder / f"{number:06d}.jpg").write_bytes(contents[number % len(contents)])


def measure(names: tuple[str, ...], folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the pictures a second of each run, the median of the rounds."""
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, runs in rates.items():
            command = [sys.executable, __file__, "--run", name, "--folder", str(folder)]
            command += ["--model", options.model]
            process = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append(options.pictures / float(process.stdout.split()[-1]))
    return {name: statistics.median(runs) for name, runs in rates.items()}


def stage_rows(rates: dict[str, float], model: str) -> list[Row]:
    decode, encode, together = (rates[name] for name in STAGES)
    shared = 1 / (1 / decode + 1 / encode)
    return [
        *[(f"{name}, {model}", f"{rate:.1f}", "pictures a second") for name, rate in rates.items()],
        (f"together / slower stage, {model}", f"{together / min(decode, encode):.2f}", "ratio"),
        (f"together / bound of shared cores, {model}", f"{together / shared:.2f}", "ratio"),
    ]


def ray_rows(rates: dict[str, float], model: str) -> list[Row]:
    return [
        (f"embed, {model}", f"{rates['plain']:.1f}", "pictures a second"),
        (f"embed --ray local, {model}", f"{rates['ray']:.1f}", "pictures a second"),
        (f"overhead of Ray, {model}", f"{rates['plain'] / rates['ray'] - 1:.3f}", "of the time"),
    ]


def time_decode(folder: Path, model: str) -> float:
    preprocess = load(model).preprocess
    side = 2 * preprocess.config.image_size

    def decode(path: Path) -> None:
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.draft(None, (side, side))
        preprocess(image)

    paths = sorted(folder.glob("*.jpg"))
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        list(pool.map(decode, paths))
    return time.perf_counter() - start


def time_encode(folder: Path, model: str) -> float:
    encoder = load(model)
    paths = sorted(folder.glob("*.jpg"))
    pixel_values = np.stack([encoder.preprocess(path) for path in paths[:BATCH]])
    encoder.encode_pixels(pixel_values)
    start = time.perf_counter()
    for first_row in range(0, len(paths), BATCH):
        encoder.encode_pixels(pixel_values[: len(paths) - first_row])
    return time.perf_counter() - start


def time_together(folder: Path, model: str) -> float:
    directory = str(find_model(model).absolute())
    encoder = load_encoder(directory, "onnxruntime", None)  # kept for `embed`
    encoder.encode_image(next(folder.glob("*.jpg")))
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        settings = EmbedSettings(engine="onnxruntime")
        summary = embed(folder, out, directory, settings)
        seconds = time.perf_counter() - start
    assert not summary.failed and not summary.faults
    return seconds


def time_plain(folder: Path, model: str) -> float:
    with tempfile.TemporaryDirectory() as out:
        return embed(folder, out, model, shard_settings(folder)).seconds


def time_ray(folder: Path, model: str) -> float:
    with tempfile.TemporaryDirectory() as out, connect("local") as cluster:
        return embed(folder, out, model, shard_settings(folder), cluster=cluster).seconds


def shard_settings(folder: Path) -> EmbedSettings:
    pictures = sum(1 for _ in folder.glob("*.jpg"))
    rows = max(1, pictures // SHARDS)
    return EmbedSettings(rows_per_shard=rows, engine="onnxruntime")


RUNS: dict[str, Callable[[Path, str], float]] = {
    "decode": time_decode,
    "encode": time_encode,
    "together": time_together,
    "plain": time_plain,
    "ray": time_ray,
}


if __name__ == "__main__":
    main()
