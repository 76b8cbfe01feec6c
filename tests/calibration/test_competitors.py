"""Competing words and captions: related ones, how a text stands out, and their file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.calibration.worlds import DIM, WordEncoder, random_competitors
from twotower.arrays import Float32Array, normalize
from twotower.calibration.competitors import (
    COMPETITORS_FILE,
    RIVALS,
    Competitors,
    Standing,
    competing_words,
    competitors_key,
    embed_names,
    kinds_of,
    read_competitors,
    require_competitors,
    write_competitors,
)
from twotower.encode.golden import Golden, read_golden, write_golden

ROWS = {word.name: row for row, word in enumerate(competing_words())}
UNRELATED = np.eye(1, DIM, dtype=np.float32)[0]
GREY = np.full((8, 8, 3), 128, np.uint8)


# --- how a text stands out -----------------------------------------------------------------------


def test_features_by_hand() -> None:
    standing = Standing(np.array([[0, 2, 1]]), np.array([[0.30, 0.28, 0.20]], np.float32))
    scores = np.array([0.35], np.float32)
    for related, expected in (
        ([], (5, 9)),  # from the best, and from the mean
        ([0], (7, 11)),
        ([0, 2], (15, 15)),
        ([0, 1, 2], (15, 15)),  # the last is a lower limit
    ):
        mask = np.isin(np.arange(3), related)
        np.testing.assert_allclose(standing.features(scores, mask), [expected], atol=1e-4)


def test_only_the_nearest_competitors_count() -> None:
    cosines = np.linspace(0.4, 0.1, 30, dtype=np.float32)
    standing = Standing(np.arange(30)[None], cosines[None])
    related = np.arange(30) == 1
    [[best, mean]] = standing.features(np.zeros(1, np.float32), related)
    rivals = np.delete(cosines, 1)[:RIVALS]
    assert best == pytest.approx(-40, abs=1e-3)
    assert mean == pytest.approx(-100 * float(rivals.mean()), abs=1e-3)


def test_the_nearest_are_ordered() -> None:
    competitors = random_competitors(300)
    pictures = normalize(np.random.default_rng(1).standard_normal((5, DIM)).astype(np.float32))
    words, captions = competitors.compare(pictures)
    scores = pictures @ competitors.words.T
    np.testing.assert_array_equal(words.nearest, np.argsort(-scores, axis=1)[:, :64])
    np.testing.assert_allclose(words.scores, -np.sort(-scores, axis=1)[:, :64])
    assert captions.nearest.shape == (5, 50)


# --- related words -------------------------------------------------------------------------------


def related(*names: str, embed: Float32Array = UNRELATED) -> set[str]:
    mask = random_competitors().related_words(names, embed)
    return {competing_words()[row].name for row in np.flatnonzero(mask).tolist()}


def test_kinds_and_what_a_thing_is_a_kind_of_are_related() -> None:
    assert {"dog", "beagle", "toy poodle", "mammal"} <= related("a dog")
    assert "cat" not in related("a dog") and "banana" not in related("a dog")
    assert "dog" in related("beagles") and "toy poodle" not in related("beagles")


def test_synonyms_are_related() -> None:
    assert "bus" in related("a double decker")
    assert "bus" in related("zzz", "double decker"), "of other names of the same thing"
    assert "bus" not in related("banana")


def test_all_words_of_a_phrase_are_related() -> None:
    assert {"dog", "beach", "beach house"} & related("two dogs at the beach") == {"dog", "beach"}
    assert "beach house" in related("an old beach house")


def test_words_with_a_similar_embed_are_related() -> None:
    words = random_competitors().words
    assert related("zzz", embed=words[ROWS["banana"]]) == {"banana"}
    assert related("zzz") == set()


def test_captions_with_a_similar_embed_are_related() -> None:
    competitors = random_competitors()
    assert competitors.related_captions(competitors.captions[7]).nonzero()[0].tolist() == [7]


def test_the_last_word_of_an_unknown_name_decides_its_kinds() -> None:
    assert {"guitar", "musical instrument"} <= kinds_of("acoustic guitar")
    assert {"guitar", "musical instrument"} <= kinds_of("zzz guitar")
    assert kinds_of("zzz") == frozenset()


def test_words_are_many_and_none_twice() -> None:
    assert len(ROWS) == len(competing_words()) > 1500
    assert all(name and name == name.strip().lower() for name in ROWS)


# --- embeds --------------------------------------------------------------------------------------


def test_names_are_embedded_by_several_templates_without_article() -> None:
    encoder = WordEncoder()
    embeds = embed_names(encoder, ["the dog", "apple"])
    assert encoder.calls == [["dog", "a photo of a dog.", "apple", "a photo of a apple."]]
    expected = encoder.encode_text(encoder.calls[0]).reshape(2, 2, DIM).mean(axis=1)
    np.testing.assert_allclose(embeds, normalize(expected), atol=1e-6)


def test_a_file_is_read_back(tmp_path: Path) -> None:
    before, path = random_competitors(), tmp_path / COMPETITORS_FILE
    write_competitors(before, path, "0123")
    after = read_competitors(path, "0123")
    assert after is not None
    assert (after.words * before.words).sum(axis=1).min() > 0.999
    assert (after.captions * before.captions).sum(axis=1).min() > 0.999
    assert read_competitors(path, "4567") is None, "of another text tower"
    path.write_bytes(path.read_bytes()[:-1000])
    assert read_competitors(path, "0123") is None, "damaged"
    assert read_competitors(tmp_path / "missing", "0123") is None


def make_encoder(directory: Path, seed: int = 0) -> WordEncoder:
    """Make an encoder of a directory with golden vectors."""
    directory.mkdir(exist_ok=True)
    texts = normalize(np.random.default_rng(seed).standard_normal((2, DIM)).astype(np.float32))
    write_golden(Golden([], ["a", "b"], texts[:0], texts), directory)
    return WordEncoder(directory)


def agree(competitors: Competitors, expected: Competitors) -> bool:
    return bool((competitors.words * expected.words).sum(axis=1).min() > 0.999)


def test_estimated_competitors_are_kept_in_the_library(tmp_path: Path) -> None:
    model, library = tmp_path / "model", tmp_path / "library"
    library.mkdir()
    encoder, second, third = make_encoder(model), WordEncoder(model), WordEncoder(model)
    estimated = require_competitors(encoder, library)
    assert encoder.calls and [path.name for path in library.iterdir()] == [COMPETITORS_FILE]
    read = require_competitors(second, library)
    np.testing.assert_array_equal(read.words, estimated.words)
    assert not second.calls, "read from the library"
    assert agree(require_competitors(third, tmp_path / "missing"), estimated)
    assert third.calls, "a folder that cannot be written is no error"


def test_those_of_another_text_tower_are_not_used(tmp_path: Path) -> None:
    require_competitors(make_encoder(tmp_path / "model"), tmp_path)
    changed = make_encoder(tmp_path / "model", seed=1)
    require_competitors(changed, tmp_path)
    assert changed.calls


def test_those_of_the_model_are_preferred(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "model")
    text = tmp_path / "model" / "text"  # its text tower lies in another folder
    text.mkdir()
    write_competitors(random_competitors(), text / COMPETITORS_FILE, competitors_key(encoder))
    assert agree(require_competitors(encoder, tmp_path), random_competitors())
    assert not encoder.calls and not (tmp_path / COMPETITORS_FILE).exists()


def test_the_key_is_that_of_the_text_tower(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "model")
    golden, before = read_golden(encoder.directory), competitors_key(encoder)
    picture = np.zeros((1, DIM), np.float32)
    write_golden(replace(golden, pictures=[GREY], image_embeds=picture), encoder.directory)
    assert competitors_key(encoder) == before, "another image tower"
    write_golden(replace(golden, text_embeds=-golden.text_embeds), encoder.directory)
    assert competitors_key(encoder) != before
