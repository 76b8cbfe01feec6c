"""Captions a second through the text tower of ViT-B-32 (random weights), with and without padding.

    python benchmarks/speed/texts.py ../shared/data

A caption of 15 tokens need not pay for 77 positions: under the causal mask what follows the end of
the text cannot change its vector. Peers: transformers with the same weights, padded to 77 (as
open_clip always does) and to the longest of the batch. All run in turn in one process, each on a
batch of 64; ratios are taken within a round. Writes results/texts.csv.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPModel

import twotower
from twotower.arrays import normalize
from twotower.encode.convert import write_directory
from twotower.model.clip import CLIP

TEXTS, BATCH, ROUNDS = 256, 64, 5
RESULTS = Path(__file__).parents[1] / "results" / "texts.csv"

Encode = Callable[[list[str]], NDArray[np.float32]]


def main() -> None:
    files = sorted((Path(sys.argv[1]) / "flickr8k-val").glob("*.json"))[: TEXTS // 5 + 1]
    captions = [one for file in files for one in json.loads(file.read_text())["captions"]][:TEXTS]
    with tempfile.TemporaryDirectory() as folder:
        ways = prepare(Path(folder))
        vectors = {name: encode(captions[:BATCH]) for name, encode in ways.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, encode in ways.items():
                start = time.perf_counter()
                encode(captions)
                seconds[name].append(time.perf_counter() - start)
    reference = next(iter(ways))
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("way", "texts_per_second", "ratio", "lowest_cosine_to_padded"))
        for name, runs in seconds.items():
            pairs = zip(seconds[reference], runs, strict=True)
            ratio = statistics.median(theirs / ours for theirs, ours in pairs)
            cosine = (vectors[name] * vectors[reference]).sum(axis=1).min()
            rate = TEXTS / statistics.median(runs)
            row = (name, f"{rate:.1f}", f"{ratio:.2f}", f"{cosine:.6f}")
            writer.writerow(row)
            print(*row)


def prepare(folder: Path) -> dict[str, Encode]:
    """The same random weights in our directory and in transformers' own."""
    torch.manual_seed(0)
    config = twotower.preset("ViT-B-32")
    write_directory(config, CLIP(config).state_dict(), (), folder / "ours")
    twotower.convert(folder / "ours", folder / "theirs", "transformers")
    ours = twotower.load(folder / "ours")
    theirs = CLIPModel.from_pretrained(folder / "theirs").eval()

    def transformers(texts: list[str], trim: bool) -> NDArray[np.float32]:
        rows = []
        for start in range(0, len(texts), BATCH):
            tokens = ours.tokenizer(texts[start : start + BATCH])
            length = int(tokens.attention_mask.sum(axis=1).max()) if trim else 77
            input_ids = torch.from_numpy(tokens.input_ids[:, :length])
            with torch.inference_mode():
                rows.append(theirs.get_text_features(input_ids).pooler_output.numpy())
        return normalize(np.concatenate(rows))

    def padded(texts: list[str]) -> NDArray[np.float32]:
        input_ids = ours.tokenizer(texts).input_ids
        rows = [ours._text(input_ids[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return normalize(np.concatenate(rows))

    return {
        "transformers, 77 positions": lambda texts: transformers(texts, trim=False),
        "transformers, longest of the batch": lambda texts: transformers(texts, trim=True),
        "twotower's tower, 77 positions": padded,
        "twotower encode_text": lambda texts: ours.encode_text(texts, BATCH),
    }


if __name__ == "__main__":
    main()
