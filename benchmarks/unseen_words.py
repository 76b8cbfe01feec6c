"""What a text tower knows about words whose genuine vectors it never saw.

    twotower train bundled DATA MODEL --held-out benchmarks/unseen_words.txt
    python benchmarks/unseen_words.py DATA MODEL

unseen_words.txt is a random fifth of the names with genuine vectors. The photographs of those that
are ImageNet classes are classified among these names alone, with the teacher's picture features, by
MODEL's text vectors and by the genuine ones. Writes results/unseen_words.csv, with 95 % intervals
(Wilson).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import twotower
from twotower.evaluate.intervals import wilson
from twotower.evaluate.zero_shot import class_ranks
from twotower.train.bundled import known_vectors, look_at_pictures
from twotower.train.wordnet import plain

ROOT = Path(__file__).parent


def main() -> None:
    data, directory = map(Path, sys.argv[1:3])
    held_out = set((ROOT / "unseen_words.txt").read_text(encoding="utf-8").splitlines())
    pictures = look_at_pictures(data / "pictures", print, only="imagenet-sample.tar")
    shown = [plain(captions[0]) for captions in pictures.captions]
    rows = [row for row, name in enumerate(shown) if name in held_out]
    names = sorted({shown[row] for row in rows})
    labels = np.array([names.index(shown[row]) for row in rows])
    image_embeds = pictures.features[rows].numpy()
    vectors, _ = known_vectors(data / "clip-b16-text-vectors", frozenset())
    text_embeds = {
        "genuine vectors": np.stack([vectors[name] for name in names]),
        "text tower, words held out": twotower.load(directory).encode_text(names),
        "text tower as shipped": twotower.load().encode_text(names),
    }
    with (ROOT / "results" / "unseen_words.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text side", "measure", "names", "n", "value", "low", "high"))
        for side, embeds in text_embeds.items():
            for row in measure(image_embeds @ embeds.T, labels):
                print(side, *row)
                writer.writerow((side, row[0], len(names), *row[1:]))


def measure(
    scores: NDArray[np.float32], labels: NDArray[np.int64]
) -> list[tuple[str, int, str, str, str]]:
    """Top-1 and top-5 with their intervals."""
    ranks = class_ranks(scores, labels)
    rows = []
    for k in (1, 5):
        share = float((ranks < k).mean())
        low, high = wilson(share, len(ranks))
        rows.append((f"top-{k}", len(ranks), f"{share:.3f}", f"{low:.3f}", f"{high:.3f}"))
    return rows


if __name__ == "__main__":
    main()
