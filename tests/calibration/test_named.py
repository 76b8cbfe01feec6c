"""Queries and tags with known answers, made of the names of pictures."""

import numpy as np
import pytest

from twotower.calibration.named import NamedPictures, named_queries, plain_name

NAMES = [("toy poodle",), ("dog",), ("cat",), ("acoustic guitar", "Guitars"), ()]
PICTURES = NamedPictures(NAMES)


def test_a_poodle_shows_a_dog_and_a_dog_perhaps_a_poodle() -> None:
    assert PICTURES.answers(["dog"]).tolist() == [1, 1, 0, 0, 0]
    assert PICTURES.answers(["toy poodle"]).tolist() == [1, -1, 0, 0, 0]
    assert PICTURES.answers(["animal"]).tolist() == [1, 1, 1, 0, 0]


def test_synonyms_name_the_same_thing() -> None:
    assert PICTURES.answers(["hound", "dog"]).tolist() == [1, 1, 0, 0, 0]
    assert PICTURES.answers(["zzz", "Cats"]).tolist() == [0, 0, 1, 0, 0]
    assert PICTURES.answers(["guitar"]).tolist() == [0, 0, 0, 1, 0]


def test_names_decide_their_own_kinds_of_things() -> None:
    assert PICTURES.decides(["dog"]) and PICTURES.decides(["animal"])
    assert PICTURES.decides(["orange"]), "a picture of a dog hardly ever shows one"
    assert not PICTURES.decides(["person"]), "may stand beside any dog"
    assert not PICTURES.decides(["lion"]), "a name may be too general for it"


def test_all_names_and_their_kinds_are_queries() -> None:
    queries = {query.text: query for query in named_queries(NAMES, np.random.default_rng(0))}
    assert queries["dog"].kind == "word" and queries["dog"].matching.tolist() == [0, 1]
    assert queries["toy poodle"].unknown.tolist() == [1]
    assert queries["mammal"].matching.tolist() == [0, 1, 2]
    absent = [query for query in queries.values() if query.kind == "absent"]
    assert len(absent) > 50
    for query in absent:
        assert not len(query.matching) and not len(query.unknown)
        assert not (PICTURES.answers([query.text]) == 1).any()


@pytest.mark.parametrize(
    ("name", "plain"),
    [("Toy_Poodles", "toy poodle"), ("a  t-shirt", "a t shirt"), ("glass", "glass"), ("", "")],
)
def test_plain_names(name: str, plain: str) -> None:
    assert plain_name(name) == plain
