"""The answers as data: no strays, and English that is right."""

import json
from pathlib import Path

import pytest

from twotower.asking import english as module
from twotower.asking.answer_types import answer_types
from twotower.asking.english import plural, singular, with_article


def test_the_file_holds_together() -> None:
    words = answer_types()
    assert set(words.general) <= set(words.answers)
    assert set(words.verbs.values()) <= set(words.answers)
    assert set(words.names.values()) <= set(words.answers)
    for name, answers in words.answers.items():
        assert len(answers) > 2, name
        assert all(one == one.strip() and one for one in answers), name
        assert not any("color" in one or "gray" in one for one in answers), name
    for one, other in words.opposites.items():
        assert one != other and other in words.opposites


def test_no_answer_is_given_twice() -> None:
    tree = json.loads((Path(module.__file__).parent / "answers.json").read_text(encoding="utf-8"))
    for name, entry in tree["types"].items():
        assert len(set(entry["answers"])) == len(entry["answers"]), name


@pytest.mark.parametrize(
    ("noun", "written"),
    [
        ("dog", "a dog"),
        ("owl", "an owl"),
        ("hour", "an hour"),
        ("uniform", "a uniform"),
        ("umbrella", "an umbrella"),
        ("scissors", "scissors"),
        ("the sea", "the sea"),
        ("bread", "bread"),
        ("bus", "a bus"),
        ("people", "people"),
    ],
)
def test_articles(noun: str, written: str) -> None:
    assert with_article(noun) == written


def test_plurals_and_back() -> None:
    for one, many in (("dog", "dogs"), ("bus", "buses"), ("box", "boxes"), ("bench", "benches")):
        assert plural(one) == many and plural(many) == many
        assert singular(many) == one and singular(one) == one
    assert singular("men") == "man" and singular("red cherries") == "red cherry"
