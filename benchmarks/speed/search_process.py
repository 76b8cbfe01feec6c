"""Time `twotower search "a red car"` over 50,000 pictures, from the start of the process.

    python benchmarks/speed/search_process.py [PICTURES] [--rclip PYTHON]

Each run is a new process, with Python's modules compiled, as in an installation. The lower bound is
a new process that embeds the words alone. The vectors are random, around those of the example
photographs, so that some match. Processor seconds are of all threads; they do not depend on the
load of the machine.

PYTHON is an interpreter with rclip 3.3: `rclip --no-indexing "a red car"` runs in turn with ours,
over the same vectors and paths, which its own code stores in its database. Its weights come from
the network, so a text tower of the same architecture, exported as its `scripts/convert_model.py`
does, has random weights: as many bytes and operations, so the same time. Its image tower is not
opened for a query in words, and is an empty file. Writes results/search_process.csv.
"""

from __future__ import annotations

import argparse
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
from benchmarks.table import ROOT, write_results
from twotower.arrays import normalize
from twotower.index.schema import PictureRecord
from twotower.inputs.byte_pairs import clip_vocabulary

RUNS = 9
COLUMNS = ("process", "median_seconds", "lowest", "highest", "processor_seconds", "times_rclip")
TEXT_ALONE = "import twotower; twotower.load().encode_text('a red car')"
RCLIP = "rclip"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", nargs="?", type=int, default=50_000)
    parser.add_argument("--rclip", metavar="PYTHON", help="an interpreter with rclip 3.3")
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
        seconds = time_commands(commands, folder, environment)
    write_results("search_process.csv", COLUMNS, summarize(seconds))


def time_commands(
    commands: dict[str, list[str]], folder: Path, environment: dict[str, str]
) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds and the processor seconds of each run."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(1 + RUNS):  # an additional run compiles the modules
        for name, command in commands.items():
            start = time.perf_counter(), processor_seconds()
            subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)
            seconds[name].append((time.perf_counter() - start[0], processor_seconds() - start[1]))
    return {name: runs[1:] for name, runs in seconds.items()}


def summarize(seconds: dict[str, list[tuple[float, float]]]) -> list[tuple[str, ...]]:
    rows = []
    for name, runs in seconds.items():
        elapsed, computed = zip(*runs, strict=True)
        numbers = (
            *(statistics.median(elapsed), min(elapsed), max(elapsed)),
            statistics.median(computed),
        )
        ratio = ""
        if RCLIP in seconds:
            pairs = zip(runs, seconds[RCLIP], strict=True)
            ratio = f"{statistics.median(run[0] / peer[0] for run, peer in pairs):.2f}"
        rows.append((name, *(f"{number:.3f}" for number in numbers), ratio))
    return rows


def processor_seconds() -> float:
    """Return the processor seconds of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make_library(folder: Path, count: int) -> None:
    """Index the examples, and add rows up to `count` for pictures that do not exist."""
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
        [PictureRecord(int(id_), f"2021/{id_}.jpg", 1, 1, type=kinds[int(id_) % 2]) for id_ in ids],
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
    """Write rclip's data folder: a tower of the same shape, and the library's paths and vectors."""
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
    np.save(data / "rows.npy", vectors.get(np.array([record.id for record in records])))
    (data / "paths").write_text("".join(f"{folder / record.path}\n" for record in records))
    subprocess.run([python, "-c", FILL, str(data)], check=True)


if __name__ == "__main__":
    main()
