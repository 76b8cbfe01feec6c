"""Queries and tags with known answers, made of the names of pictures."""

import numpy as np
import pytest

from tests.calibration.worlds import DIM, WordEncoder, word_vector
from twotower.arrays import Float32Array
from twotower.calibration.competitors import plain_name
from twotower.calibration.named import NamedPictures, named_queries, specific_words

NAMES = [("toy poodle",), ("dog",), ("cat",), ("acoustic guitar", "Guitars"), ("zzz",), ()]


def embed(names: list[str]) -> Float32Array:
    return WordEncoder().encode_text(names)


def embed_words(*words: str) -> Float32Array:
    return np.stack([word_vector(word) for word in words])


PICTURES = NamedPictures(NAMES, embed)


def answers(*words: str) -> list[int]:
    return PICTURES.answers(words, embed([words[0]])[0]).tolist()[:4]


def test_a_poodle_shows_a_dog_and_a_dog_perhaps_a_poodle() -> None:
    assert answers("dog") == [1, 1, 0, 0]
    assert answers("toy poodle") == [1, -1, 0, 0]
    assert answers("mammal") == [1, 1, 1, 0]


def test_synonyms_name_the_same_thing() -> None:
    assert answers("hound", "dogs") == [1, 1, 0, 0]
    assert answers("guitar") == [0, 0, 0, 1]


def test_similar_names_may_mean_the_same() -> None:
    names = ["banana", "dog", "piano"]
    pictures = NamedPictures([(name,) for name in names], lambda names: embed_words(*names))
    [near, far] = embed_words("banana", "zzz")
    assert pictures.answers(["zzz"], near).tolist() == [-1, 0, 0]
    assert pictures.answers(["zzz"], far).tolist() == [0, 0, 0]


def test_nothing_is_known_of_an_unknown_name_and_a_missing_one() -> None:
    assert PICTURES.answers(["dog"], np.ones(DIM, np.float32)).tolist()[4:] == [-1, -1]


def test_names_decide_their_own_kinds_of_things() -> None:
    assert PICTURES.decides(["dog"]) and PICTURES.decides(["animal"])
    assert PICTURES.decides(["orange"]), "a picture of a dog hardly ever shows one"
    assert not PICTURES.decides(["person"]), "may stand beside any dog"
    assert not PICTURES.decides(["lion"]), "a name may be too general for it"
    assert not PICTURES.decides(["vehicle"]), "too broad, if no picture is named after one"


def test_all_names_and_everyday_kinds_are_queries() -> None:
    random = np.random.default_rng(0)
    queries = {query.text: query for query in named_queries(NAMES, embed, random)}
    assert queries["dog"].kind == "word" and queries["dog"].matching.tolist() == [0, 1]
    assert 1 in queries["toy poodle"].unknown
    assert queries["animal"].matching.tolist() == [0, 1, 2]
    assert "vertebrate" not in queries, "nobody searches for it"
    absent = [query for query in queries.values() if query.kind == "absent"]
    assert len(absent) > 50
    for query in absent:
        assert not len(query.matching) and not len(query.unknown)
        assert 1 not in answers(query.text)


def test_specific_words_are_things_that_pictures_are_named_after() -> None:
    words = specific_words()
    assert {"dog", "banana", "guitar"} <= set(words)
    assert not {"person", "beach"} & set(words)


@pytest.mark.parametrize(
    ("name", "plain"),
    [("Toy_Poodles", "toy poodle"), ("a  t-shirt", "t shirt"), ("glass", "glass"), ("", "")],
)
def test_plain_names(name: str, plain: str) -> None:
    assert plain_name(name) == plain
