"""Measure zero-shot accuracy for words without text vectors of the teacher in training.

    python benchmarks/quality/unseen_words.py DATA

unseen_words.txt is a random fifth of the names with genuine text vectors, those of the teacher. The
text tower is trained as `python -m recipes.twotower_small` does, but without these vectors and
without pictures of such names. Photographs of those names that are ImageNet classes are then
classified among these names, with the features of the teacher at its full 224 pixels: by the
genuine vectors, by the dictionary that the text tower is trained on (`word_vectors.py` of the
recipe), and by the text tower. Writes results/unseen_words.csv, with 95 % intervals (Wilson).
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import torch

import twotower
from benchmarks.table import ROOT, write_results
from recipes.twotower_small.losses import RecipeConfig, encode_texts, read_pairs
from recipes.twotower_small.pretrained import TEACHER, load_teacher, pretrained_model
from recipes.twotower_small.recipe import read_names, read_text_vectors
from recipes.twotower_small.teacher import encode_pictures, teacher_features
from recipes.twotower_small.text_student import train_text
from recipes.twotower_small.word_vectors import unit_rows
from recipes.twotower_small.wordnet import WordNet, plain
from twotower.arrays import Float32Array, Int64Array
from twotower.evaluate.accuracy import class_ranks
from twotower.evaluate.intervals import wilson
from twotower.inputs.preprocess import Preprocess

WORDS = ROOT / "benchmarks" / "data" / "unseen_words.txt"
COLUMNS = ("text side", "measure", "names", "n", "value", "low", "high")
PHOTOGRAPHS = "pictures/imagenet-sample.tar"


def main() -> None:
    data = Path(sys.argv[1])
    unseen = WORDS.read_text(encoding="utf-8").splitlines()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = RecipeConfig(held_out=frozenset(unseen))
    torch.manual_seed(config.seed)
    model, tokenizer = pretrained_model()
    pictures = encode_pictures(data / "pictures")
    words = read_names(data, model, tokenizer, config.held_out)
    train_text(model, tokenizer, words, pictures, WordNet(data / "wordnet"), config)

    pairs = [(plain(pair.captions[0]), pair.picture) for pair in read_pairs(data / PHOTOGRAPHS)]
    pairs = [(name, picture) for name, picture in pairs if name in config.held_out]
    names = sorted({name for name, _ in pairs})
    labels = np.array([names.index(name) for name, _ in pairs])
    square = Preprocess(twotower.preset(TEACHER).preprocess).square
    pixels = np.stack([np.asarray(square(picture)) for _, picture in pairs])
    image_embeds = unit_rows(teacher_features(load_teacher(), pixels).astype(np.float32))
    vectors, _ = read_text_vectors(data / "clip-b16-text-vectors", frozenset())
    dictionary = dict(zip(words.names, words.vectors.numpy(), strict=True))
    text_embeds = {
        "genuine vectors": np.stack([vectors[name] for name in names]),
        "dictionary, words held out": np.stack([dictionary[name] for name in names]),
        "text tower, words held out": encode_texts(model, tokenizer, names).numpy(),
    }
    rows = [
        (side, measure, len(names), *figures)
        for side, embeds in text_embeds.items()
        for measure, *figures in measure_accuracy(image_embeds @ embeds.T, labels)
    ]
    write_results("unseen_words.csv", COLUMNS, rows)


def measure_accuracy(
    scores: Float32Array, labels: Int64Array
) -> list[tuple[str, int, str, str, str]]:
    """Return rows of top-1 and top-5 with their intervals."""
    ranks = class_ranks(scores, labels)
    rows = []
    for k in (1, 5):
        share = float((ranks < k).mean())
        low, high = wilson(share, len(ranks))
        rows.append((f"top-{k}", len(ranks), f"{share:.3f}", f"{low:.3f}", f"{high:.3f}"))
    return rows


if __name__ == "__main__":
    main()
