"""Encode captions with the text tower of ViT-B-32 (random weights), with and without padding.

    python benchmarks/speed/texts.py ../shared/data

Under the causal mask, padding after the end of a text cannot change its embed, so a caption of 15
tokens needs no 77 positions. The peers are transformers with the same weights, padded to 77 (as
open_clip always does) and to the longest of the batch. All run in turn in one process, in batches
of 64; ratios are taken within a round. Writes results/texts.csv.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPModel

import twotower
from benchmarks.table import write_results
from twotower.arrays import Float32Array, normalize
from twotower.encode.convert import write_directory
from twotower.model.clip import CLIP

TEXTS, BATCH, ROUNDS = 256, 64, 5
COLUMNS = ("method", "texts_per_second", "ratio", "lowest_cosine_to_padded")

Encode = Callable[[list[str]], Float32Array]


def main() -> None:
    files = sorted((Path(sys.argv[1]) / "flickr8k-val").glob("*.json"))[: TEXTS // 5 + 1]
    captions = [text for file in files for text in json.loads(file.read_text())["captions"]]
    captions = captions[:TEXTS]
    with tempfile.TemporaryDirectory() as folder:
        methods = prepare(Path(folder))
        embeds = {name: encode(captions[:BATCH]) for name, encode in methods.items()}
        seconds: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(ROUNDS):
            for name, encode in methods.items():
                start = time.perf_counter()
                encode(captions)
                seconds[name].append(time.perf_counter() - start)
    reference = next(iter(methods))
    rows = []
    for name, runs in seconds.items():
        pairs = zip(seconds[reference], runs, strict=True)
        ratio = statistics.median(padded / run for padded, run in pairs)
        cosine = (embeds[name] * embeds[reference]).sum(axis=1).min()
        rate = TEXTS / statistics.median(runs)
        rows.append((name, f"{rate:.1f}", f"{ratio:.2f}", f"{cosine:.6f}"))
    write_results("texts.csv", COLUMNS, rows)


def prepare(folder: Path) -> dict[str, Encode]:
    """Return the methods, with the same random weights in a directory for each package."""
    torch.manual_seed(0)
    config = twotower.preset("ViT-B-32")
    write_directory(config, CLIP(config).state_dict(), (), folder / "twotower")
    twotower.convert(folder / "twotower", folder / "transformers", "transformers")
    encoder = twotower.load(folder / "twotower")
    peer = CLIPModel.from_pretrained(folder / "transformers").eval()

    def transformers(texts: list[str], trim: bool) -> Float32Array:
        batches = []
        for start in range(0, len(texts), BATCH):
            tokens = encoder.tokenizer(texts[start : start + BATCH])
            length = int(tokens.attention_mask.sum(axis=1).max()) if trim else 77
            input_ids = torch.from_numpy(tokens.input_ids[:, :length])
            with torch.inference_mode():
                batches.append(peer.get_text_features(input_ids).pooler_output.numpy())
        return normalize(np.concatenate(batches))

    def padded(texts: list[str]) -> Float32Array:
        input_ids = encoder.tokenizer(texts).input_ids
        batches = [encoder._text(input_ids[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return normalize(np.concatenate(batches))

    return {
        "transformers, 77 positions": lambda texts: transformers(texts, trim=False),
        "transformers, longest of the batch": lambda texts: transformers(texts, trim=True),
        "twotower's tower, 77 positions": padded,
        "twotower encode_text": lambda texts: encoder.encode_text(texts, BATCH),
    }


if __name__ == "__main__":
    main()
