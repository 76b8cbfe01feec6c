"""Measure zero-shot accuracy for words without text vectors of the teacher in training.

    python benchmarks/quality/unseen_words.py DATA SENTENCE_MODEL

unseen_words.txt is a random fifth of the names with genuine text vectors, those of the teacher. The
text tower is trained as `python -m recipes.twotower_small` does, but without these vectors and
without pictures of such names. Photographs of those names that are ImageNet classes are then
classified among these names, with the features of the teacher at its full 224 pixels: by the
genuine vectors, by the dictionary that the text tower is trained on (`word_vectors.py` of the
recipe), by the text tower, by the dictionary of the lexicon (`recipes/bundled_text`, with the
sentence encoder in the folder SENTENCE_MODEL), and by the text tower with that lexicon. Writes
results/unseen_words.csv, with 95 % intervals (Wilson).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import twotower
from benchmarks.table import ROOT, write_results
from recipes.bundled_text.lexicon import lexicon_tensors
from recipes.bundled_text.recipe import read_lexicon
from recipes.bundled_text.senses import SenseRanking
from recipes.bundled_text.sentence_model import cached_sentence_encoder
from recipes.twotower_small.losses import RecipeConfig, encode_texts, read_pairs
from recipes.twotower_small.pretrained import TEACHER, load_teacher, minilm_folder, pretrained_model
from recipes.twotower_small.recipe import read_names, read_text_vectors
from recipes.twotower_small.teacher import encode_pictures, teacher_features
from recipes.twotower_small.text_student import train_text
from recipes.twotower_small.word_vectors import Entry, unit_rows
from recipes.twotower_small.wordnet import WordNet, plain
from twotower.arrays import Float32Array, Int64Array
from twotower.evaluate.accuracy import class_ranks
from twotower.evaluate.intervals import wilson
from twotower.inputs.lexicon import Lexicon as Names
from twotower.inputs.preprocess import Preprocess
from twotower.model.weights import dequantize, quantize

WORDS = ROOT / "benchmarks" / "data" / "unseen_words.txt"
COLUMNS = ("text side", "measure", "names", "n", "value", "low", "high")
PHOTOGRAPHS = "pictures/imagenet-sample.tar"


def main() -> None:
    data, sentence_model = map(Path, sys.argv[1:])
    unseen = WORDS.read_text(encoding="utf-8").splitlines()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = RecipeConfig(held_out=frozenset(unseen))
    torch.manual_seed(config.seed)
    model, tokenizer = pretrained_model()
    pictures = encode_pictures(data / "pictures")
    words = read_names(data, model, tokenizer, config.held_out)
    train_text(model, tokenizer, words, pictures, WordNet(data / "wordnet"), config)

    names, labels, image_embeds = read_photographs(data / PHOTOGRAPHS, config.held_out)
    vectors, _ = read_text_vectors(data / "clip-b16-text-vectors", frozenset())
    dictionary = dict(zip(words.names, words.vectors.numpy(), strict=True))
    tower = encode_texts(model, tokenizer, names).numpy()
    estimates, offsets = ask_lexicon(data, sentence_model, names, config.held_out)
    text_embeds = {
        "genuine vectors": np.stack([vectors[name] for name in names]),
        "dictionary, words held out": np.stack([dictionary[name] for name in names]),
        "text tower, words held out": tower,
        "dictionary of the lexicon, words held out": estimates,
        "text tower with lexicon, words held out": unit_rows(tower + offsets),
    }
    rows = [
        (side, measure, len(names), *figures)
        for side, embeds in text_embeds.items()
        for measure, *figures in measure_accuracy(image_embeds @ embeds.T, labels)
    ]
    write_results("unseen_words.csv", COLUMNS, rows)


def read_photographs(
    tar: Path, held_out: frozenset[str]
) -> tuple[list[str], Int64Array, Float32Array]:
    """Return the names among `held_out` with photographs, the label of each, and its features."""
    pairs = [(plain(pair.captions[0]), pair.picture) for pair in read_pairs(tar)]
    pairs = [(name, picture) for name, picture in pairs if name in held_out]
    names = sorted({name for name, _ in pairs})
    labels = np.array([names.index(name) for name, _ in pairs])
    square = Preprocess(twotower.preset(TEACHER).preprocess).square
    pixels = np.stack([np.asarray(square(picture)) for _, picture in pairs])
    features = teacher_features(load_teacher(), pixels).astype(np.float32)
    return names, labels, unit_rows(features)


def ask_lexicon(
    data: Path, sentence_model: Path, names: Sequence[str], held_out: frozenset[str]
) -> tuple[Float32Array, Float32Array]:
    """Return the vectors of names in a dictionary, and what the lexicon adds to their features.

    Both [n, 512] are those of the bundled text tower, made without the vectors of `held_out`.
    """
    pieces = frozenset((minilm_folder() / "vocab.txt").read_text(encoding="utf-8").split())
    encode = cached_sentence_encoder(sentence_model)
    dictionary, lexicon = read_lexicon(data, pieces, encode, held_out)
    ranking = SenseRanking(dictionary.wordnet)
    entries = [Entry(name, next(iter(ranking.visible_senses(name)), (None,))[0]) for name in names]
    stored = dequantize(quantize(lexicon_tensors(lexicon)))
    rows = stored["text.lexicon.embed.weight"][1:] @ stored["text.lexicon.proj.weight"].T
    finder = Names(lexicon.names)
    offsets = [
        rows[finder.find(name)].sum(dim=0) / max(1, len(finder.find(name))) for name in names
    ]
    return dictionary.vectors(entries), torch.stack(offsets).numpy()


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
