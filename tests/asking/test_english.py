"""The data of the answers, and the grammar of their phrases."""

import json
from pathlib import Path

import pytest

from twotower.asking import english as module
from twotower.asking.answer_types import answer_types
from twotower.asking.english import plural, singular, with_article


def test_references_in_the_file_are_valid() -> None:
    words = answer_types()
    assert set(words.general) <= set(words.answers)
    assert set(words.verbs.values()) <= set(words.answers)
    assert set(words.names.values()) <= set(words.answers)
    for name, answers in words.answers.items():
        assert len(answers) > 2, name
        assert all(answer == answer.strip() and answer for answer in answers), name
        assert not any("color" in answer or "gray" in answer for answer in answers), name
    for word, opposite in words.opposites.items():
        assert word != opposite and opposite in words.opposites


def test_no_answer_is_repeated() -> None:
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
    for noun, many in (("dog", "dogs"), ("bus", "buses"), ("box", "boxes"), ("bench", "benches")):
        assert plural(noun) == many and plural(many) == many
        assert singular(many) == noun and singular(noun) == noun
    assert singular("men") == "man" and singular("red cherries") == "red cherry"
