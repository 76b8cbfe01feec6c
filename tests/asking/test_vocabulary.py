"""The answers as data: no strays, and English that is right."""

import json
import warnings
from pathlib import Path

import pytest

from twotower.asking import vocabulary as module
from twotower.asking.vocabulary import plural, singular, vocabulary, with_article


def test_the_file_holds_together() -> None:
    words = vocabulary()
    assert set(words.open) <= set(words.types)
    assert set(words.verbs.values()) <= set(words.types)
    assert set(words.called.values()) <= set(words.types)
    for name, answers in words.types.items():
        assert len(answers) > 2, name
        assert all(one == one.strip() and one for one in answers), name
        assert not any("color" in one or "gray" in one for one in answers), name
    for one, other in words.contraries.items():
        assert one != other and other in words.contraries


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


# What each type is a kind of, in WordNet 3.0; words that WordNet has in another sense only are left
# out of the check by asking for any sense.
KINDS = {
    "animal": "animal",
    "bird": "bird",
    "insect": "insect",
    "vehicle": "conveyance",
    "instrument": "musical instrument",
    "fruit": "fruit",
    "furniture": "furniture",
}


def test_nouns_are_what_their_type_says() -> None:
    """Against WordNet's hypernyms, where the corpus of PyPI's `textblob-wordnet` kind is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nltk = pytest.importorskip("nltk.corpus", reason="checked against WordNet through nltk")
    try:
        nltk.wordnet.ensure_loaded()
    except LookupError:
        pytest.skip("nltk is here without its WordNet corpus")
    for name, kind in KINDS.items():
        wanted = set(nltk.wordnet.synsets(kind.replace(" ", "_"), "n"))
        for word in vocabulary().types[name]:
            senses = nltk.wordnet.synsets(word.replace(" ", "_"), "n")
            above = {one for sense in senses for path in sense.hypernym_paths() for one in path}
            assert not senses or wanted & above, (name, word)
