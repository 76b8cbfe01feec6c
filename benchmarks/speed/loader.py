"""Load decoded, augmented samples on one core: our batches and webdataset's loader.

    python benchmarks/speed/loader.py [PAIRS]

The shards hold the photographs of examples/photos as img2dataset stores them (512 pixels on the
short side, JPEG). Both loaders resize to 224, crop a random square and tokenize with our tokenizer;
the peer does so like open_clip's pipeline (webdataset 1.0, Pillow, full decode). They run in turn,
each in a process of its own on one core. Writes results/loader.csv.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import twotower
from benchmarks.table import ROOT, write_results
from twotower.arrays import UInt8Array
from twotower.inputs.tokenizer import load_tokenizer
from twotower.pairs.pair import Pair
from twotower.pairs.shards import pack
from twotower.pairs.sources import open_source

ROUNDS, BATCH = 5, 50
COLUMNS = ("loader", "samples_per_second_and_core", "times_webdataset")


class Photographs:
    """The example photographs in a cycle, enlarged to 512 pixels on their short side."""

    name = "examples/photos"

    def __init__(self, count: int) -> None:
        photos = ROOT / "examples" / "photos"
        self.count = count
        self.pictures = []
        for path in sorted(photos.glob("*.jpg")):
            with Image.open(path) as image:
                scale = 512 / min(image.size)
                size = tuple(round(side * scale) for side in image.size)
                enlarged = image.convert("RGB").resize((size[0], size[1]))
            file = io.BytesIO()
            enlarged.save(file, "jpeg", quality=92)
            self.pictures.append((path.stem, file.getvalue()))

    def __len__(self) -> int:
        return self.count

    def key(self, number: int) -> str:
        return f"{number}"

    def __getitem__(self, number: int) -> Pair:
        name, picture = self.pictures[number % len(self.pictures)]
        return Pair(str(number), picture, (f"a photograph of a {name}, number {number}",))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rates: dict[str, list[float]] = {"webdataset": [], "twotower": []}
    with tempfile.TemporaryDirectory() as folder:
        pack(Photographs(count), Path(folder) / "shards", pairs_per_shard=100)
        for _ in range(ROUNDS):
            for name, runs in rates.items():
                command = [sys.executable, __file__, "--run", name, f"{folder}/shards", str(count)]
                process = subprocess.run(command, check=True, capture_output=True, text=True)
                runs.append(count / float(process.stdout))
    ratios = [run / peer for peer, run in zip(*rates.values(), strict=True)]
    rows = []
    for name, runs in rates.items():
        ratio = statistics.median(ratios) if name == "twotower" else 1
        rows.append((name, f"{statistics.median(runs):.1f}", f"{ratio:.2f}"))
    write_results("loader.csv", COLUMNS, rows)


def run_loader(name: str, shards: str, count: int) -> None:
    """Print the seconds of one pass."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    load = {"webdataset": webdataset_pass, "twotower": twotower_pass}[name]
    start = time.perf_counter()
    assert load(shards) == count
    print(time.perf_counter() - start)


def twotower_pass(shards: str) -> int:
    from twotower.train.batches import Batches

    config = twotower.preset("ViT-B-32")
    source = open_source(shards)
    batches = Batches([source], config, load_tokenizer(config.tokenizer), batch_size=BATCH)
    return sum(len(batch.keys) for batch in batches(0, batches.steps_per_epoch))


def webdataset_pass(shards: str) -> int:
    import random

    import webdataset

    tokenizer = load_tokenizer(twotower.preset("ViT-B-32").tokenizer)

    def augment(content: bytes) -> UInt8Array:
        image: Image.Image = Image.open(io.BytesIO(content))
        scale = 224 / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
        x = random.randint(0, image.width - 224)
        y = random.randint(0, image.height - 224)
        return np.asarray(image.crop((x, y, x + 224, y + 224)).convert("RGB"))

    names = sorted(map(str, Path(shards).glob("*.tar")))
    dataset = (
        webdataset.WebDataset(names, shardshuffle=100)
        .shuffle(1000)
        .to_tuple("jpg", "txt")
        .map_tuple(augment, lambda text: tokenizer(text.decode()).input_ids[0])
        .batched(BATCH)
    )
    return sum(len(pixels) for pixels, _ in dataset)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_loader(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
