"""Make the lexicon of a text tower: the dictionary's vectors in few dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.bundled_text.senses import SenseRanking
from recipes.bundled_text.vocabulary import Lemma, lexicon_name
from recipes.twotower_small.word_vectors import Dictionary, Encode, Entry, unit_rows
from recipes.twotower_small.wordnet import Sense, plain
from twotower.arrays import Float32Array
from twotower.inputs.tokenizer import LexiconConfig
from twotower.model.config import CLIPConfig, SentenceEncoderConfig

LEXICON_FILE = "lexicon.txt"
GAMMA = 0.5  # of the dictionary's kernel
# Share of a name's direction, relative to features of unit length. Chosen on captions and named
# pictures; the tower's own features are not replaced, since both together are better than either.
SHARE = 0.7
RANK = 192  # dimensions that are stored of each name
LIMIT = 16  # names of a text


@dataclass(frozen=True)
class Lexicon:
    """Names and what each adds to features of unit length, [n, embed_dim]."""

    names: list[str]
    vectors: Float32Array


def make_dictionary(
    vectors: Mapping[str, Float32Array],
    weights: Mapping[str, float],
    ranking: SenseRanking,
    encode: Encode,
) -> Dictionary:
    """Fit the dictionary on names with known vectors."""
    entries = [Entry(name, _best_sense(ranking, name)) for name in vectors]
    reliability = np.array([weights[name] for name in vectors], np.float32)
    rows = np.stack(list(vectors.values()))
    return Dictionary(entries, rows, reliability, ranking.wordnet, encode, GAMMA)


def make_lexicon(
    dictionary: Dictionary, lemmas: Sequence[Lemma], genuine: Mapping[str, Float32Array]
) -> Lexicon:
    """Return what names add: the direction of their vector from the mean vector.

    Args:
        lemmas: names whose vectors are estimated.
        genuine: names whose vectors are known.
    """
    offsets = dict(
        zip((lemma.name for lemma in lemmas), estimate_offsets(dictionary, lemmas), strict=True)
    )
    for spelling, vector in genuine.items():
        if name := lexicon_name(spelling):
            offsets[name] = vector - dictionary.mean
    names = sorted(offsets)
    vectors = np.stack([offsets[name] for name in names])
    return Lexicon(names, (SHARE * (vectors - vectors.mean(axis=0))).astype(np.float32))


def estimate_offsets(dictionary: Dictionary, lemmas: Sequence[Lemma]) -> Float32Array:
    """Return the vectors of names minus the mean vector [n, embed_dim]; senses are averaged."""
    entries = [Entry(plain(lemma.spelling), sense) for lemma in lemmas for sense, _ in lemma.senses]
    weights = np.array([weight for lemma in lemmas for _, weight in lemma.senses])
    counts = [len(lemma.senses) for lemma in lemmas]
    directions = dictionary.directions(entries) * weights[:, None]
    starts = np.cumsum([0, *counts[:-1]])
    means = unit_rows(np.add.reduceat(directions, starts, axis=0))
    vectors = unit_rows(dictionary.mean + dictionary.distance * means)
    return np.asarray(vectors - dictionary.mean, np.float32)


def lexicon_tensors(lexicon: Lexicon, rank: int = RANK) -> dict[str, Tensor]:
    """Return the tensors of `LexiconEmbedding`: the leading principal components."""
    _, basis = np.linalg.eigh(lexicon.vectors.T @ lexicon.vectors)
    basis = basis[:, ::-1][:, :rank]
    rows = np.concatenate([np.zeros((1, rank)), lexicon.vectors @ basis])
    return {
        "text.lexicon.embed.weight": torch.from_numpy(rows.astype(np.float32)),
        "text.lexicon.proj.weight": torch.from_numpy(basis.astype(np.float32).copy()),
    }


def with_lexicon(config: CLIPConfig, size: int, rank: int = RANK) -> CLIPConfig:
    """Return the configuration of a model whose text tower has a lexicon."""
    text = config.text
    assert isinstance(text, SentenceEncoderConfig)
    return replace(
        config,
        text=replace(text, lexicon_size=size, lexicon_rank=rank),
        tokenizer=replace(
            config.tokenizer, lexicon=LexiconConfig(LEXICON_FILE, text.vocab_size, LIMIT)
        ),
    )


def write_names(lexicon: Lexicon, folder: Path) -> Path:
    """Write the names, one on each line."""
    path = folder / LEXICON_FILE
    path.write_text("\n".join(lexicon.names) + "\n", encoding="utf-8")
    return path


def _best_sense(ranking: SenseRanking, name: str) -> Sense | None:
    senses = ranking.visible_senses(name)
    return senses[0][0] if senses else None
