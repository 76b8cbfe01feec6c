"""The lexicon of the bundled text tower, from a small dictionary."""

import re
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recipes.bundled_text.lexicon import (
    SHARE,
    Lexicon,
    lexicon_tensors,
    make_dictionary,
    make_lexicon,
    with_lexicon,
    write_names,
)
from recipes.bundled_text.senses import SenseRanking
from recipes.bundled_text.vocabulary import EXTRA_NAMES, lexicon_name, visible_lemmas
from recipes.twotower_small.word_vectors import unit_rows
from recipes.twotower_small.wordnet import WordNet
from twotower.inputs.lexicon import read_lexicon
from twotower.model.presets import preset

PIECES = frozenset("animal beast cellar dog poodle red run wine".split())


@pytest.fixture(scope="module")
def ranking(wordnet_folder: Path) -> SenseRanking:
    return SenseRanking(WordNet(wordnet_folder))


def words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode sentences as the sum of a random direction for each word."""
    return np.stack([sum(map(direction, re.findall("[a-z]+", text))) for text in texts])


def direction(word: str) -> NDArray[np.float32]:
    return np.random.default_rng(crc32(word.encode())).normal(size=64).astype(np.float32)


def test_frequent_senses_of_visible_things_are_preferred(ranking: SenseRanking) -> None:
    [(dog, score)] = ranking.visible_senses("Dogs")
    assert dog.gloss == "a tame animal that barks" and score > 40
    [(cellar, _)] = ranking.visible_senses("old wine_cellar")
    assert cellar.gloss == "where wine is kept"
    assert ranking.visible_senses("running")[0][0].gloss == "move fast on foot"
    assert ranking.visible_senses("zyx") == []


def test_names_of_visible_things(ranking: SenseRanking) -> None:
    lemmas = visible_lemmas(ranking, PIECES, 100)
    names = [lemma.name for lemma in lemmas if lemma.name not in EXTRA_NAMES]
    expected = {
        "animal",
        "beast",
        "cellar",
        "dog",
        "fido",
        "poodle",
        "run",
        "running",
        "wine cellar",
    }
    assert set(names) == expected | {"red"}
    assert names[0] == "dog" and names.index("poodle") < names.index("fido")
    assert len(visible_lemmas(ranking, PIECES, 3)) == 3 + len(EXTRA_NAMES)
    assert all(sense is None for lemma in lemmas[-2:] for sense, _ in lemma.senses)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("Jack-o'-lantern", "jack o lantern"), ("the", None), ("7-up", None), ("a b c d", None)],
)
def test_names_that_a_lexicon_can_hold(spelling: str, name: str | None) -> None:
    assert lexicon_name(spelling) == name


@pytest.fixture(scope="module")
def lexicon(ranking: SenseRanking) -> Lexicon:
    names = ["animal", "cellar", "red", "hot dog"]
    rows = unit_rows(np.random.default_rng(0).normal(size=(4, 16))).astype(np.float32)
    vectors = dict(zip(names, rows, strict=True))
    dictionary = make_dictionary(vectors, dict.fromkeys(names, 1.0), ranking, words)
    return make_lexicon(dictionary, visible_lemmas(ranking, PIECES, 100), vectors)


def test_a_lexicon_holds_genuine_and_estimated_names(lexicon: Lexicon) -> None:
    assert lexicon.names == sorted(lexicon.names) and "hot dog" in lexicon.names
    np.testing.assert_allclose(lexicon.vectors.mean(axis=0), 0, atol=1e-6)
    rows = unit_rows(np.random.default_rng(0).normal(size=(4, 16)))
    animal, cellar = (lexicon.vectors[lexicon.names.index(name)] for name in ("animal", "cellar"))
    np.testing.assert_allclose(animal - cellar, SHARE * (rows[0] - rows[1]), atol=1e-6)


def test_tensors_keep_the_leading_components(lexicon: Lexicon) -> None:
    tensors = lexicon_tensors(lexicon, rank=16)
    embed, proj = tensors["text.lexicon.embed.weight"], tensors["text.lexicon.proj.weight"]
    assert not embed[0].any()
    torch.testing.assert_close(embed[1:] @ proj.T, torch.from_numpy(lexicon.vectors))
    assert lexicon_tensors(lexicon, rank=2)["text.lexicon.proj.weight"].shape == (16, 2)


def test_names_and_configuration(lexicon: Lexicon, tmp_path: Path) -> None:
    names = read_lexicon(write_names(lexicon, tmp_path))
    assert [names.find(name) for name in lexicon.names] == [[row] for row in range(len(names))]
    config = with_lexicon(preset("twotower-small"), len(names))
    assert config.text.kind == "sentence_encoder" and config.text.lexicon_size == len(names)
    assert config.tokenizer.lexicon is not None
    assert config.tokenizer.lexicon.first_id == config.text.vocab_size
