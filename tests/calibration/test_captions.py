"""Queries with known answers, made of captions."""

import numpy as np

from twotower.calibration.captions import (
    absent_queries,
    captioned_tags,
    content_words,
    phrase_queries,
    picture_queries,
    word_queries,
)

CAPTIONS = [
    ["A brown dog runs", "Dog on grass", "the dogs play"],
    ["two dogs in snow", "a dog and a man", "white snow"],
    ["a man in a red shirt", "a man walks", "someone in a shirt"],
    ["a dog barks at a cat", "a cat", "the cat sleeps"],
]


def test_words_that_captions_agree_on() -> None:
    queries = {query.text: query for query in word_queries(CAPTIONS, min_matching=1)}
    assert queries["dog"].matching.tolist() == [0, 1]
    assert queries["dog"].unknown.tolist() == [3]
    assert queries["snow"].matching.tolist() == [1]
    assert "brown" not in queries, "named once"
    assert "the" not in queries and "walk" not in queries


def test_a_phrase_matches_its_picture_and_similar_ones_are_unknown() -> None:
    for query in phrase_queries(CAPTIONS, 30, np.random.default_rng(0)):
        [target] = query.matching.tolist()
        words = set(content_words(query.text))
        assert words
        assert words <= {word for text in CAPTIONS[target] for word in content_words(text)}
        assert target not in query.unknown
        for picture, texts in enumerate(CAPTIONS):
            shared = words & {word for text in texts for word in content_words(text)}
            if picture != target:
                assert (len(shared) >= len(words) / 2) == (picture in query.unknown)


def test_absent_queries_have_no_word_of_a_caption() -> None:
    texts = ["a volcano", "a dog in space", "cats", "the"]
    assert [query.text for query in absent_queries(CAPTIONS, texts)] == ["a volcano"]
    assert absent_queries([["a dog"], ["a cat"]], texts) == [], "one caption does not say all"


def test_matching_pictures_share_agreed_words() -> None:
    captions = [*CAPTIONS, ["dog in snow", "snow dog", "dog, snow"]]
    queries = picture_queries(captions, 10, np.random.default_rng(0))
    by_picture = {int(query.text): query for query in queries}
    assert by_picture[1].matching.tolist() == [0, 4], "half in common"
    assert 1 in by_picture[1].unknown, "itself is no test"
    assert 2 not in by_picture[1].unknown, "nothing in common"


def test_captions_decide_tags() -> None:
    tags = {tag.name: tag.answers.tolist() for tag in captioned_tags(CAPTIONS)}
    assert tags["dog"] == [1, 1, 0, -1]
    assert tags["cat"] == [0, 0, 0, 1]
    assert captioned_tags([["a dog"], ["a cat"]]) == [], "one caption does not say all"
