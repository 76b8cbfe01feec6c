"""Seconds from typing `twotower search "a red car"` to the answer, over 50 000 pictures.

    python benchmarks/search_process.py [PICTURES]

Each run is a new process, with Python's modules compiled, as an installation leaves them. Beside
it: embedding the words alone in a new process, which no search can do without. The vectors are made
up, around those of the example photographs, so that some match. Processor seconds, of all threads,
say what it takes when nothing else runs. Writes results/search_process.csv.
"""

from __future__ import annotations

import csv
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
from twotower.encode.encoder import normalize
from twotower.library.catalog import PictureRecord

RUNS = 9
ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "search_process.csv"
TEXT_ALONE = "import twotower; twotower.load().encode_text('a red car')"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    with tempfile.TemporaryDirectory() as folder:
        make_library(Path(folder), count)
        commands = {
            "embedding the words alone": ["-c", TEXT_ALONE],
            f"search in {count}": ["-m", "twotower", "search", "a red car", folder],
            f"search in {count}, filtered": ["-m", "twotower", "search", "car type:png", folder],
        }
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(folder) / ".compiled")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(1 + RUNS):  # the first one compiles
            for name, command in commands.items():
                start = time.perf_counter(), processor_seconds()
                subprocess.run(
                    [sys.executable, *command],
                    check=True,
                    capture_output=True,
                    cwd=ROOT,
                    env=environment,
                )
                seconds[name].append(
                    (time.perf_counter() - start[0], processor_seconds() - start[1])
                )
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("process", "median_seconds", "lowest", "highest", "processor_seconds"))
        for name, runs in seconds.items():
            passed, computed = zip(*runs[1:], strict=True)
            numbers = (
                statistics.median(passed),
                min(passed),
                max(passed),
                statistics.median(computed),
            )
            row = (name, *(f"{one:.3f}" for one in numbers))
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


if __name__ == "__main__":
    main()
