"""What is known of words whose genuine vectors were never seen.

    python benchmarks/unseen_words.py DATA [MODEL]

unseen_words.txt is a random fifth of the names with genuine vectors. The photographs of those that
are ImageNet classes are classified among these names alone, with the teacher's picture features, by
the genuine vectors, by the dictionary that the text tower learns from (`twotower.train.words`,
without these vectors), and by MODEL, which `twotower train bundled DATA MODEL --held-out
benchmarks/unseen_words.txt` makes. Writes results/unseen_words.csv, with 95 % intervals (Wilson).
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

import twotower
from twotower.evaluate.intervals import wilson
from twotower.evaluate.zero_shot import class_ranks
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.foreign.pretrained import bert_tensors
from twotower.train.bundled import (
    known_vectors,
    look_at_pictures,
    minilm_folder,
    sentence_encoder,
)
from twotower.train.wordnet import WordNet, plain
from twotower.train.words import teach_words

ROOT = Path(__file__).parent


def main() -> None:
    data, *directories = map(Path, sys.argv[1:])
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
        "dictionary, words held out": dictionary_embeds(data, names, frozenset(held_out)),
    }
    for directory in directories:
        text_embeds["text tower, words held out"] = twotower.load(directory).encode_text(names)
    with (ROOT / "results" / "unseen_words.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text side", "measure", "names", "n", "value", "low", "high"))
        for side, embeds in text_embeds.items():
            for row in measure(image_embeds @ embeds.T, labels):
                print(side, *row)
                writer.writerow((side, row[0], len(names), *row[1:]))


def dictionary_embeds(
    data: Path, names: list[str], held_out: frozenset[str]
) -> NDArray[np.float32]:
    """Where the dictionary puts names, all of `held_out` unknown: [n, 512]."""
    known, trust = known_vectors(data / "clip-b16-text-vectors", held_out)
    config = twotower.preset("twotower-small")
    model = CLIP(config)
    model.load_state_dict(
        bert_tensors(config, load_file(minilm_folder() / "model.safetensors")), strict=False
    )
    encode = sentence_encoder(model, load_tokenizer(config.tokenizer, minilm_folder()))
    placed = teach_words(
        [*known, *names],
        np.stack(list(known.values())),
        np.array(list(trust.values()), np.float32),
        WordNet(data / "wordnet"),
        encode,
    )
    return placed[len(known) :]


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
