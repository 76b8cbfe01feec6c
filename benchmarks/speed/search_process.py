"""Seconds from typing `twotower search "a red car"` to the answer, over 50 000 pictures.

    python benchmarks/speed/search_process.py [PICTURES] [--rclip PYTHON]

Each run is a new process, with Python's modules compiled, as an installation leaves them. Beside
it: embedding the words alone in a new process, which no search can do without. The vectors are made
up, around those of the example photographs, so that some match. Processor seconds, of all threads,
say what it takes when nothing else runs.

PYTHON is an interpreter with rclip 3.3: `rclip --no-indexing "a red car"` runs in turn with ours,
over the same vectors and paths, put into its database by its own code. Its weights come from the
network; a text tower of the same architecture, exported as its `scripts/convert_model.py` does, but
with random weights, stands in for them: as many bytes and operations, so the same time. Its image
tower is not opened for words, and is an empty file. Writes results/search_process.csv.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import twotower
from twotower.arrays import normalize
from twotower.index.schema import PictureRecord
from twotower.inputs.byte_pairs import clip_vocabulary

RUNS = 9
ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results" / "search_process.csv"
TEXT_ALONE = "import twotower; twotower.load().encode_text('a red car')"
RCLIP = "rclip"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", nargs="?", type=int, default=50_000)
    parser.add_argument("--rclip", metavar="PYTHON", help="an interpreter that has rclip")
    arguments = parser.parse_args()
    count = arguments.pictures
    with tempfile.TemporaryDirectory() as scratch:
        folder, data = Path(scratch) / "pictures", Path(scratch) / "rclip"
        folder.mkdir()
        make_library(folder, count)
        program = [sys.executable, "-m", "twotower", "search"]
        commands = {
            "embedding the words alone": [sys.executable, "-c", TEXT_ALONE],
            f"search in {count}": [*program, "a red car"],
            f"search in {count}, filtered": [*program, "car type:png"],
        }
        if arguments.rclip:
            make_rclip(data, folder, arguments.rclip)
            commands[RCLIP] = [arguments.rclip, "-m", "rclip", "--no-indexing", "a red car"]
        environment = {
            **os.environ,
            "PYTHONPYCACHEPREFIX": str(Path(scratch) / "compiled"),
            "PYTHONPATH": str(ROOT),
            "RCLIP_DATADIR": str(data),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(1 + RUNS):  # the first one compiles
            for name, command in commands.items():
                start = time.perf_counter(), processor_seconds()
                subprocess.run(
                    command, check=True, capture_output=True, cwd=folder, env=environment
                )
                seconds[name].append(
                    (time.perf_counter() - start[0], processor_seconds() - start[1])
                )
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("process", "median_seconds", "lowest", "highest", "processor_seconds", "times_rclip")
        )
        for name, runs in seconds.items():
            passed, computed = zip(*runs[1:], strict=True)
            numbers = (
                statistics.median(passed),
                min(passed),
                max(passed),
                statistics.median(computed),
            )
            ratio = ""
            if RCLIP in seconds:
                pairs = zip(runs[1:], seconds[RCLIP][1:], strict=True)
                ratio = f"{statistics.median(ours[0] / theirs[0] for ours, theirs in pairs):.2f}"
            row = (name, *(f"{one:.3f}" for one in numbers), ratio)
            writer.writerow(row)
            print(*row)


def processor_seconds() -> float:
    """Of all processes that were run."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make_library(folder: Path, count: int) -> None:
    """A library of the examples, and rows up to `count` for pictures that are not there."""
    for path in (ROOT / "examples" / "photos").iterdir():
        if path.suffix not in (".csv", ".md"):
            shutil.copy(path, folder)
    library = twotower.Library(folder)
    library.index()
    near = library.vectors.get(library.vectors.ids())
    random = np.random.default_rng(0)
    ids = np.arange(1000, 1000 + count - len(near))
    noise = random.standard_normal((len(ids), near.shape[1])).astype(np.float32)
    noise *= 1.5 / np.sqrt(near.shape[1])
    library.vectors.add(ids, normalize(near[random.integers(len(near), size=len(ids))] + noise))
    kinds = ("jpeg", "png")
    library.catalog.replace(
        [],
        [PictureRecord(int(one), f"2021/{one}.jpg", 1, 1, type=kinds[int(one) % 2]) for one in ids],
    )
    library.close()


FILL = """
import sys
import numpy as np
from rclip import db
database = db.DB(sys.argv[1] + "/db.sqlite3")
rows = np.load(sys.argv[1] + "/rows.npy")
for path, row in zip(open(sys.argv[1] + "/paths"), rows, strict=True):
    image = {"filepath": path[:-1], "modified_at": 1.0, "size": 1, "vector": row.tobytes()}
    database.upsert_image({**image, "hash": path[:-1]}, commit=False)
database.close()
"""


def make_rclip(data: Path, folder: Path, python: str) -> None:
    """rclip's data folder: its files in the same shape, and the library's paths and vectors."""
    import torch

    from twotower.model.presets import preset
    from twotower.model.text import build_text

    towers = data / "ViT-B-32-256-datacomp_s34b_b86k"
    towers.mkdir(parents=True)
    (towers / "visual.onnx").touch()
    config = preset("ViT-B-32")  # its text tower is that of ViT-B-32-256
    torch.onnx.export(
        build_text(config.text, config.embed_dim).eval(),
        (torch.zeros(1, 77, dtype=torch.long),),
        str(towers / "textual.onnx"),
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        opset_version=18,
        dynamo=False,
    )
    (data / "tokenizer").mkdir()
    merges = "\n".join(["# merges", *(" ".join(pair) for pair in clip_vocabulary()[1])])
    with gzip.open(data / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz", "wt") as file:
        file.write(merges)
    with twotower.Library(folder).catalog as catalog:
        records = list(catalog.records())
    vectors = twotower.Library(folder).vectors
    np.save(data / "rows.npy", vectors.get(np.array([one.id for one in records])))
    (data / "paths").write_text("".join(f"{folder / one.path}\n" for one in records))
    subprocess.run([python, "-c", FILL, str(data)], check=True)


if __name__ == "__main__":
    main()
