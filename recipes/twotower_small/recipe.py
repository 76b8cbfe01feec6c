"""The bundled model: a small CLIP in the space of OpenAI's ViT-B/16.

Of that model the image tower can be had, and its text tower's vectors for some thousand names. So:

1. Its image tower, the *teacher*, looks once at every picture (`teacher.py`).
2. A dictionary says where names lie that have no vector (`words.py`).
3. MiniLM, a sentence encoder, learns those, and to find pictures by their captions
   (`text.py`).
4. EfficientNet-Lite1 learns to see as the teacher does, to choose as it does among the words of 2,
   and to find the captions and names that people gave (`vision.py`).

`parts.py` loads the three models; docs/model-card.md lists the pictures and what every step
gave.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from recipes.twotower_small.losses import TEACHER_SCALE, Plan, Say, Words, sentence_encoder
from recipes.twotower_small.pretrained import minilm_folder, pretrained_classes, pretrained_model
from recipes.twotower_small.teacher import look_at_pictures
from recipes.twotower_small.text_student import train_text
from recipes.twotower_small.vision_student import train_vision
from recipes.twotower_small.word_vectors import teach_words, unit
from recipes.twotower_small.wordnet import WordNet, plain
from twotower.encode.convert import require_free_destination, write_directory
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP

MAPPED = 0.75  # centred cosine of mapped vectors to true ones, on names held out (their manifest)


def bundled(
    data: Path,
    destination: Path,
    plan: Plan | None = None,
    say: Say = lambda line: None,
) -> None:
    """Train "twotower-small" from `data` and write its directory, weights in int8.

    Args:
        data: a folder with `pictures/*.tar` (examples/gather_pictures.py), `wordnet` (of Debian's
            wordnet-base) and `clip-b16-text-vectors`.

    Raises:
        FileNotFoundError: part of the data is missing. ModuleNotFoundError: a pretrained tower is.
        ExportError: the destination exists.
    """
    require_free_destination(destination)  # now, not after hours
    plan = plan or Plan()
    torch.manual_seed(plan.seed)
    model, tokenizer = pretrained_model()
    pictures = look_at_pictures(data / "pictures", say)
    words = look_up_words(data, model, tokenizer, plan.held_out, say)
    wordnet, classes = WordNet(data / "wordnet"), pretrained_classes()
    train_text(model, tokenizer, words, pictures, wordnet, plan, say)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        train_vision(
            model, tokenizer, words, pictures, data, wordnet, classes, Path(scratch), plan, say
        )
    with torch.no_grad():
        model.logit_scale.fill_(math.log(TEACHER_SCALE))
    vocabulary = [minilm_folder() / "vocab.txt"]
    write_directory(model.config, model.state_dict(), vocabulary, destination, int8=True)


def look_up_words(
    data: Path, model: CLIP, tokenizer: Tokenizer, held_out: frozenset[str], say: Say
) -> Words:
    """Names with vectors, and thousands more that the dictionary places among them."""
    known, trust = known_vectors(data / "clip-b16-text-vectors", held_out)
    wordnet = WordNet(data / "wordnet")
    names = [*known, *(w for w in [*sorted(held_out), *wordnet.visible_words()] if w not in known)]
    names = list(dict.fromkeys(names))
    say(f"{len(known)} names with vectors, {len(names) - len(known)} from the dictionary")
    vectors = np.stack(list(known.values()))
    weights = np.array(list(trust.values()))
    encode = sentence_encoder(model, tokenizer)
    placed = teach_words(names, vectors, weights.astype(np.float32), wordnet, encode)
    everyday = np.full(len(names) - len(known), 0.4)  # a guess counts less than a fact
    return Words(names, torch.from_numpy(placed), np.concatenate([weights, everyday]), len(known))


def known_vectors(
    folder: Path, held_out: frozenset[str]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, float]]:
    """name -> vector, and name -> 1 where it is genuine or 0.5 where another model's was mapped.

    What is mapped is drawn to the mean as far as it is uncertain: memorised as it is, it would lie
    too far from all pictures.
    """
    genuine: dict[str, NDArray[np.float32]] = {}
    mapped: dict[str, NDArray[np.float32]] = {}
    for path in [folder / "all.npz", *sorted((folder / "more").glob("*.npz"))]:
        with np.load(path, allow_pickle=False) as file:
            vectors, rows = (
                (genuine, file["vectors"]) if "vectors" in file else (mapped, file["vectors_b16"])
            )
            for name, row in zip(map(plain, file["names"].tolist()), rows, strict=True):
                if name not in vectors and name not in held_out:
                    vectors[name] = unit(row.astype(np.float32))
    mean = np.mean([*genuine.values()], axis=0)
    guessed = {
        name: unit(mean + MAPPED * (vector - mean))
        for name, vector in mapped.items()
        if name not in genuine
    }
    return genuine | guessed, dict.fromkeys(genuine, 1.0) | dict.fromkeys(guessed, 0.5)
