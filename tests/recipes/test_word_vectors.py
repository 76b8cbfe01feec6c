"""WordNet and the estimated vectors, on a small dictionary."""

import re
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray

from recipes.twotower_small.word_vectors import descriptions, estimate_vectors, unit_rows
from recipes.twotower_small.wordnet import WordNet, ancestor_weights, plain


@pytest.fixture(scope="module")
def wordnet(wordnet_folder: Path) -> WordNet:
    return WordNet(wordnet_folder)


@pytest.mark.parametrize(
    ("name", "gloss"),
    [
        ("Dog", "a tame animal that barks"),
        ("dogs", "a tame animal that barks"),
        ("wine_cellar", "where wine is kept"),
        ("my old wine-cellar", "where wine is kept"),
        ("red", "of the colour of blood"),
        ("run", "move fast on foot"),
        ("animal", "a living being"),  # without its example
    ],
)
def test_the_first_sense_of_a_name(wordnet: WordNet, name: str, gloss: str) -> None:
    assert wordnet.senses(name)[0].gloss == gloss


def test_unknown_names_and_folders(wordnet: WordNet) -> None:
    assert wordnet.senses("zyx") == [] and wordnet.senses("") == []
    with pytest.raises(FileNotFoundError):
        WordNet(Path("nowhere"))


def test_senses_are_ordered_and_have_ancestors(wordnet: WordNet) -> None:
    sense_0, sense_1 = wordnet.senses("dog")
    assert (sense_0.domain, sense_1.domain) == ("noun.animal", "noun.artifact")
    [poodle] = wordnet.senses("poodle")
    assert wordnet.ancestors(poodle) == {"noun00000003": 0, "noun00000002": 1, "noun00000001": 2}
    [fido] = wordnet.senses("Fido")  # an instance has hypernyms too
    assert "noun00000002" in wordnet.ancestors(fido)


def test_hypernyms_among_a_vocabulary(wordnet: WordNet) -> None:
    words = {"animal", "beast", "dog", "poodle", "cellar"}
    assert wordnet.hypernyms(["poodle"], words) == {"dog": 1, "animal": 2, "beast": 2}
    assert wordnet.hypernyms(["beast"], words) == {"animal": 0}
    assert wordnet.hypernyms(["wine cellar", "cellar"], {"dog"}) == {}
    assert wordnet.hypernyms(["run"], words) == wordnet.hypernyms(["zyx"], words) == {}


def test_visible_words_omit_names_and_ideas(wordnet: WordNet) -> None:
    words = wordnet.visible_words()
    assert set(words) == {"dog", "poodle", "animal", "beast", "cellar", "wine cellar", "run", "red"}
    assert words.index("dog") < words.index("poodle") < words.index("beast")  # by frequency


def test_ancestor_weights_prefer_near_and_shared_ancestors(wordnet: WordNet) -> None:
    senses = [wordnet.senses(name)[0] for name in ("poodle", "dog", "fido", "idea", "animal")]
    poodle, dog, _, idea, _ = ancestor_weights(wordnet, [*senses])
    assert poodle["noun00000002"] > poodle["noun00000001"] and "noun00000003" not in poodle
    assert sum(weight**2 for weight in dog.values()) == pytest.approx(1)
    assert idea == {}  # an ancestor of no other sense
    assert ancestor_weights(wordnet, [None]) == [{}]


def words(texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode sentences as the sum of a random direction for each word."""
    return np.stack([sum(map(direction, re.findall("[a-z]+", text))) for text in texts])


def direction(word: str) -> NDArray[np.float32]:
    return np.random.default_rng(crc32(word.encode())).normal(size=64).astype(np.float32)


def test_known_names_keep_their_vectors_and_hypernyms_are_near(wordnet: WordNet) -> None:
    names = ["animal", "beast", "cellar", "idea", "red", "run", "poodle", "wine cellar", "zyx"]
    generator = np.random.default_rng(0)
    known_vectors = unit_rows(generator.normal(size=(6, 16))).astype(np.float32)
    known_vectors[1] = known_vectors[0]
    vectors = estimate_vectors(names, known_vectors, np.ones(6, np.float32), wordnet, words)
    assert vectors.shape == (9, 16) and np.array_equal(vectors[:6], known_vectors)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert (vectors[6] @ known_vectors.T).argmax() in (0, 1)  # a poodle is an animal
    assert (vectors[7] @ known_vectors.T).argmax() == 2


def test_descriptions_of_names(wordnet: WordNet) -> None:
    [dog, _] = wordnet.senses("dog")
    photo, glossed, entry = descriptions("animal", wordnet.senses("animal")[0], wordnet)
    assert photo == "a photo of an animal." and glossed == "a photo of an animal, a living being"
    assert entry.startswith("animal, beast: ") and entry.endswith("a living being")
    assert descriptions("dog", dog, wordnet)[2] == "dog: a kind of animal, a tame animal that barks"
    assert descriptions("zyx", None, wordnet) == ("a photo of a zyx.", "a photo of a zyx.", "zyx")


def test_estimates_are_as_far_from_the_mean_as_known_vectors(wordnet: WordNet) -> None:
    names = ["animal", "cellar", "idea", "red", "run", "poodle", "wine cellar", "zyx"]
    known_vectors = unit_rows(np.random.default_rng(0).normal(size=(5, 512)) + 4).astype(np.float32)
    mean = known_vectors.mean(axis=0)
    vectors = estimate_vectors(names, known_vectors, np.ones(5, np.float32), wordnet, words)
    near = np.linalg.norm(known_vectors - mean, axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(vectors[5:] - mean, axis=1), near, rtol=0.02)


def test_unreliable_vectors_have_little_influence(wordnet: WordNet) -> None:
    names = ["animal", "cellar", "idea", "red", "beast"]
    known_vectors = np.eye(4, dtype=np.float32)
    trusted = estimate_vectors(names, known_vectors, np.ones(4, np.float32), wordnet, words)
    weights = np.array([1e-3, 1, 1, 1], np.float32)
    doubted = estimate_vectors(names, known_vectors, weights, wordnet, words)
    assert trusted[4] @ known_vectors[0] > 0.5 > doubted[4] @ known_vectors[0]


def test_plain_names() -> None:
    assert plain("Wine_Cellar-bottle  storage") == "wine cellar bottle storage"
