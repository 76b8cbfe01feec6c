"""Add a lexicon to the text tower of a model directory."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from recipes.bundled_text.lexicon import (
    Lexicon,
    lexicon_tensors,
    make_dictionary,
    make_lexicon,
    with_lexicon,
    write_names,
)
from recipes.bundled_text.senses import SenseRanking
from recipes.bundled_text.sentence_model import cached_sentence_encoder
from recipes.bundled_text.vocabulary import visible_lemmas
from recipes.twotower_small.recipe import read_text_vectors
from recipes.twotower_small.word_vectors import Dictionary, Encode
from recipes.twotower_small.wordnet import WordNet
from twotower.encode.convert import require_free_destination, vocabulary_files, write_directory
from twotower.model.config import read_config
from twotower.model.weights import quantize, read_stored

SIZE = 52_000  # names from WordNet, without those that only have a genuine vector

logger = logging.getLogger(__name__)


def add_lexicon(data: Path, sentence_model: Path, model: Path, destination: Path) -> None:
    """Write the model directory `model` with a lexicon beside its text tower.

    Its own tensors are copied as they are stored.

    Args:
        data: a folder with `wordnet` (of Debian's wordnet-base) and `clip-b16-text-vectors`.
        sentence_model: the unpacked all-mpnet-base-v2.

    Raises:
        FileNotFoundError: a file of the data is missing.
        ModelError: the destination exists.
    """
    require_free_destination(destination)
    config = read_config(model)
    vocabulary, *_ = vocabulary_files(config, model)
    pieces = frozenset(vocabulary.read_text(encoding="utf-8").split())
    encode = cached_sentence_encoder(sentence_model)
    _, lexicon = read_lexicon(data, pieces, encode)
    tensors = read_stored(config, model) | quantize(lexicon_tensors(lexicon))
    with tempfile.TemporaryDirectory() as scratch:
        files = [vocabulary, write_names(lexicon, Path(scratch))]
        write_directory(with_lexicon(config, len(lexicon.names)), tensors, files, destination)


def read_lexicon(
    data: Path, pieces: frozenset[str], encode: Encode, held_out: frozenset[str] = frozenset()
) -> tuple[Dictionary, Lexicon]:
    """Return the dictionary and the lexicon, made without the vectors of `held_out`.

    Args:
        pieces: the vocabulary of the tokenizer.
        encode: the sentence encoder.
    """
    ranking = SenseRanking(WordNet(data / "wordnet"))
    lemmas = visible_lemmas(ranking, pieces, SIZE)
    vectors, weights = read_text_vectors(data / "clip-b16-text-vectors", held_out)
    genuine = {name: vector for name, vector in vectors.items() if weights[name] == 1}
    logger.info("%d names, %d with genuine vectors", len(lemmas), len(genuine))
    dictionary = make_dictionary(vectors, weights, ranking, encode)
    return dictionary, make_lexicon(dictionary, lemmas, genuine)
