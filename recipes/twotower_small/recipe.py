"""The bundled model: a small CLIP in the space of OpenAI's ViT-B/16.

The image tower of ViT-B/16 is available, and the vectors of its text tower for some thousand names.

1. Its image tower, the *teacher*, encodes every picture once (`teacher.py`).
2. A dictionary estimates the vectors of names that have none (`word_vectors.py`).
3. MiniLM, a sentence encoder, learns those vectors, and captions by the teacher's features of their
   pictures (`text_student.py`).
4. EfficientNet-Lite1 learns the teacher's features, its choices among the words of 2, and captions
   and names that people gave (`vision_student.py`).

`pretrained.py` loads the three models. docs/model-card.md lists the pictures;
docs/measurements/bundled-model.md gives what each step gained.
"""

from __future__ import annotations

import logging
import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from recipes.twotower_small.losses import TEACHER_SCALE, RecipeConfig, Words, sentence_encoder
from recipes.twotower_small.pretrained import minilm_folder, pretrained_classes, pretrained_model
from recipes.twotower_small.teacher import encode_pictures
from recipes.twotower_small.text_student import train_text
from recipes.twotower_small.vision_student import train_vision
from recipes.twotower_small.word_vectors import estimate_vectors, unit_rows
from recipes.twotower_small.wordnet import WordNet, plain
from twotower.arrays import Float32Array
from twotower.encode.convert import require_free_destination, write_directory
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP

MAPPED_RELIABILITY = 0.75  # centred cosine of mapped to genuine vectors, on names held out
MAPPED_WEIGHT, ESTIMATED_WEIGHT = 0.5, 0.4  # of a name's vector in the losses; 1 if it is genuine

logger = logging.getLogger(__name__)


def train_twotower_small(data: Path, destination: Path, config: RecipeConfig | None = None) -> None:
    """Train "twotower-small" from `data` and write its directory, with int8 weights.

    Args:
        data: a folder with `pictures/*.tar` and `named/*.tar` (examples/gather_pictures.py),
            `wordnet` (of Debian's wordnet-base) and `clip-b16-text-vectors`.

    Raises:
        FileNotFoundError: a file of the data is missing.
        ModuleNotFoundError: the package of a pretrained tower is missing.
        ModelError: the destination exists.
    """
    require_free_destination(destination)  # before hours of training
    config = config or RecipeConfig()
    torch.manual_seed(config.seed)
    model, tokenizer = pretrained_model()
    pictures = encode_pictures(data / "pictures")
    words = read_names(data, model, tokenizer, config.held_out)
    wordnet, classes = WordNet(data / "wordnet"), pretrained_classes()
    train_text(model, tokenizer, words, pictures, wordnet, config)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        train_vision(
            model, tokenizer, words, pictures, data, wordnet, classes, Path(scratch), config
        )
    with torch.no_grad():
        model.logit_scale.fill_(math.log(TEACHER_SCALE))
    vocabulary = [minilm_folder() / "vocab.txt"]
    write_directory(model.config, model.state_dict(), vocabulary, destination, int8=True)


def read_names(data: Path, model: CLIP, tokenizer: Tokenizer, held_out: frozenset[str]) -> Words:
    """Return names with known vectors, followed by thousands with estimated ones."""
    vectors_by_name, weights_by_name = read_text_vectors(data / "clip-b16-text-vectors", held_out)
    wordnet = WordNet(data / "wordnet")
    candidates = [*sorted(held_out), *wordnet.visible_words()]
    new = [name for name in candidates if name not in vectors_by_name]
    names = list(dict.fromkeys([*vectors_by_name, *new]))
    count = len(vectors_by_name)
    logger.info("%d names with vectors, %d from the dictionary", count, len(names) - count)
    weights = np.array(list(weights_by_name.values()))
    vectors = estimate_vectors(
        names,
        np.stack(list(vectors_by_name.values())),
        weights.astype(np.float32),
        wordnet,
        sentence_encoder(model, tokenizer),
    )
    estimated = np.full(len(names) - count, ESTIMATED_WEIGHT)
    return Words(names, torch.from_numpy(vectors), np.concatenate([weights, estimated]), count)


def read_text_vectors(
    folder: Path, held_out: frozenset[str]
) -> tuple[dict[str, Float32Array], dict[str, float]]:
    """Return the known vector [512] and the weight of each name.

    Vectors mapped from another model are shrunk towards the mean by their reliability; unchanged
    they would lie too far from all pictures.
    """
    genuine: dict[str, Float32Array] = {}
    mapped: dict[str, Float32Array] = {}
    for path in [folder / "all.npz", *sorted((folder / "more").glob("*.npz"))]:
        with np.load(path, allow_pickle=False) as file:
            vectors, rows = (
                (genuine, file["vectors"]) if "vectors" in file else (mapped, file["vectors_b16"])
            )
            for name, row in zip(map(plain, file["names"].tolist()), rows, strict=True):
                if name not in vectors and name not in held_out:
                    vectors[name] = unit_rows(row.astype(np.float32))
    mean = np.mean([*genuine.values()], axis=0)
    shrunk = {
        name: unit_rows(mean + MAPPED_RELIABILITY * (vector - mean))
        for name, vector in mapped.items()
        if name not in genuine
    }
    weights = dict.fromkeys(genuine, 1.0) | dict.fromkeys(shrunk, MAPPED_WEIGHT)
    return genuine | shrunk, weights
