"""Names and phrases: how each is embedded, its features and its curve."""

import numpy as np
import pytest

from tests.calibration.worlds import DIM, WordEncoder, random_competitors
from twotower.arrays import normalize
from twotower.calibration.curves import (
    LogisticCurve,
    TextCurves,
    embed_queries,
    is_phrase,
    judged_text,
)

NAME = LogisticCurve((0.3, 0.2, -1.0), 0.4)
PHRASE = LogisticCurve((0.1, 0.2, 0.3, 0.4, 0.05, -5.0), 0.6)
PICTURES = normalize(np.random.default_rng(5).standard_normal((6, DIM)).astype(np.float32))


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("dog", False),
        ("a dog", False),
        ("the acoustic guitar", False),
        ("a dog on the grass", False),  # two content words
        ("a brown dog on grass", True),
        ("", False),
    ],
)
def test_longer_texts_are_phrases(text: str, phrase: bool) -> None:
    assert is_phrase(text) == phrase


def test_phrases_are_embedded_as_they_are() -> None:
    encoder = WordEncoder()
    phrase = "a brown dog runs on grass"
    embeds = embed_queries(encoder, [phrase, "dog"])
    np.testing.assert_allclose(embeds[0], encoder.encode_text([phrase])[0], atol=1e-6)
    bare = encoder.encode_text(["dog"])[0]
    assert 0.5 < float(embeds[1] @ bare) < 0.999, "a mean over templates"


def test_a_name_has_two_features_and_a_phrase_five() -> None:
    competitors = random_competitors()
    standings = competitors.compare(PICTURES)
    embed = normalize(np.random.default_rng(6).standard_normal((1, DIM)).astype(np.float32))[0]
    name = judged_text(competitors, ["dog"], embed).features(PICTURES, standings)
    phrase = judged_text(competitors, ["big dog barks"], embed).features(PICTURES, standings)
    assert name.shape == (6, 2)
    assert phrase.shape == (6, 5)
    np.testing.assert_allclose(phrase[:, 4], 100 * PICTURES @ embed, rtol=1e-5)
    related = competitors.related_words(["dog"], embed)
    words, captions = standings
    np.testing.assert_array_equal(name, words.features(PICTURES @ embed, related))
    assert not np.array_equal(phrase[:, 2:4], phrase[:, :2])
    np.testing.assert_array_equal(
        phrase[:, 2:4], captions.features(PICTURES @ embed, competitors.related_captions(embed))
    )


def test_names_and_phrases_have_their_own_curves() -> None:
    curves = TextCurves(random_competitors(), NAME, PHRASE)
    assert curves.of("a dog") is NAME and curves.of("a dog and a cat on grass") is PHRASE
    texts = ["a dog", "a dog and a cat on grass"]
    embeds = embed_queries(WordEncoder(), texts)
    judged = [curves.prepare([text], embed) for text, embed in zip(texts, embeds, strict=True)]
    logits = curves.logits(judged, PICTURES)
    standings = curves.competitors.compare(PICTURES)
    for column, curve in enumerate((NAME, PHRASE)):
        expected = curve.logits(judged[column].features(PICTURES, standings))
        np.testing.assert_array_equal(logits[:, column], expected)


def test_a_judgement_needs_no_other_pictures() -> None:
    curves = TextCurves(random_competitors(), NAME, PHRASE)
    text = curves.prepare(["a dog"], embed_queries(WordEncoder(), ["a dog"])[0])
    together = curves.logits([text], PICTURES)
    alone = np.concatenate([curves.logits([text], PICTURES[row : row + 1]) for row in range(6)])
    np.testing.assert_allclose(alone, together, atol=1e-4)


def test_logits_by_hand() -> None:
    np.testing.assert_allclose(NAME.logits(np.array([[10.0, 5.0], [0.0, 0.0]])), [3.0, -1.0])
