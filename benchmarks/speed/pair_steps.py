"""Measure the steps after fetching on one core: features of shards, scores and packing.

    python benchmarks/speed/pair_steps.py [PICTURES]

The pictures are the example photographs, at most 512 pixels on the shorter side, with texts of ten
words. Rates are per processor second of one thread, so that other processes change them little.
Writes results/pair_steps.csv.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from PIL import Image

from benchmarks.table import ROOT, write_results
from twotower.encode.load import load
from twotower.pairs.filters.columns import write_shard_features
from twotower.pairs.filters.run import filter_pairs
from twotower.pairs.filters.scores import write_scores
from twotower.pairs.filters.settings import FILTERS, FilterSettings
from twotower.pairs.packing import pack_selection


def main() -> None:
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard = write_shard(folder / "in", pictures)
        rows = []

        def add(step: str, action: Callable[[], object]) -> None:
            start = time.process_time()
            action()
            rows.append((step, pictures, round(pictures / (time.process_time() - start))))

        features = folder / "features.parquet"
        settings = FilterSettings()
        add("features", lambda: write_shard_features(shard, features, settings, True))
        model = load("small", threads=1)
        chosen = np.arange(pictures)
        scores = folder / "scores.parquet"
        add("score, small", lambda: write_scores(shard, features, scores, chosen, model))
        every = FilterSettings(skipped=tuple(name for name in FILTERS if name != "readable"))
        filter_pairs(shard.parent, folder / "kept", every)
        add("pack", lambda: pack_selection(shard.parent, folder / "kept", folder / "out", 10_000))
    write_results("pair_steps.csv", ("step", "pairs", "pairs_per_processor_second"), rows)


def write_shard(folder: Path, pictures: int) -> Path:
    """Write a tar of photographs in the layout of `pairs fetch`."""
    generator = np.random.default_rng(0)
    words = (ROOT / "examples" / "labels.txt").read_text(encoding="utf-8").split()
    files = []
    for path in sorted((ROOT / "examples" / "photos").glob("*.jpg")):
        with Image.open(path) as photo:
            photo.thumbnail((768, 512))
            file = io.BytesIO()
            photo.convert("RGB").save(file, "JPEG", quality=90)
            files.append(file.getvalue())
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number in range(pictures):
            key, text = f"{number:09d}", " ".join(generator.choice(words, 10))
            tree = {"key": key, "url": f"https://example.org/{key}.jpg", "captions": [text]}
            members = {
                "jpg": files[number % len(files)],
                "txt": text.encode(),
                "json": json.dumps(tree).encode(),
            }
            for suffix, content in members.items():
                header = tarfile.TarInfo(f"{key}.{suffix}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return folder / "00000.tar"


if __name__ == "__main__":
    main()
