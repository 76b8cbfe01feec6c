import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from twotower.arrays import normalize
from twotower.asking.classify import LABEL_PRIOR_LOG_ODDS, classify
from twotower.calibration.calibration import text_curves
from twotower.calibration.curves import embed_queries
from twotower.encode.classify import check_labels, to_probabilities, zero_shot_classifier
from twotower.encode.encoder import Encoder
from twotower.errors import LabelError

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWOTOWER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def encoder(tiny_directory: Path) -> Encoder:
    return Encoder(tiny_directory)


def pictures(count: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(count)]


def test_classifier_averages_unit_vectors_and_renormalises(encoder: Encoder) -> None:
    templates = ("a photo of a {}.", "art of the {}.")
    classifier = zero_shot_classifier(encoder, ["cat", "dog"], templates)
    prompts = ["a photo of a dog.", "art of the dog."]
    expected = normalize(encoder.encode_text(prompts).mean(axis=0, keepdims=True))
    np.testing.assert_allclose(classifier[1:], expected, atol=1e-6)


def test_probabilities_are_a_softmax_of_scaled_cosines(encoder: Encoder) -> None:
    [answer] = classify(pictures(1), ["cat", "dog", "car"], model=encoder)
    scores = {label.label: label.score for label in answer.labels}
    classifier = zero_shot_classifier(encoder, ["cat", "dog", "car"], ("a photo of a {}.",))
    cosines = encoder.encode_image(pictures(1)) @ classifier.T
    np.testing.assert_allclose([scores["cat"], scores["dog"], scores["car"]], cosines[0], atol=1e-6)
    weights = np.exp(cosines[0] / 0.07)  # the scale of an untrained model
    probabilities = {label.label: label.probability for label in answer.labels}
    assert probabilities["car"] == pytest.approx(weights[2] / weights.sum(), rel=1e-4)
    ordered = [label.probability for label in answer.labels]
    assert ordered == sorted(ordered, reverse=True) and sum(ordered) == pytest.approx(1)


def test_sigmoid_models_judge_each_label_alone(encoder: Encoder) -> None:
    class Sigmoid:
        logit_scale, logit_bias = 10.0, -2.0

    np.testing.assert_allclose(
        to_probabilities(np.array([0.2, 0.3], np.float32), Sigmoid()), [0.5, 1 / (1 + np.exp(-1))]
    )


def test_none_of_these_is_judged_as_a_search_judges_the_best_label(encoder: Encoder) -> None:
    curves = text_curves(encoder)
    embeds = dict(zip(["cat", "dog"], embed_queries(encoder, ["cat", "dog"]), strict=True))
    alone = classify(pictures(), ["cat", "dog"], model=encoder)
    for plain, answer in zip(
        alone, classify(pictures(), ["cat", "dog"], model=encoder, none=True), strict=True
    ):
        labels = {label.label: label.probability for label in answer.labels}
        assert set(labels) == {"cat", "dog", "none of these"}
        best = plain.labels[0].label
        [image_embeds] = encoder.encode_image([answer.source])
        judged = curves.prepare([best], embeds[best])
        logit = curves.logits([judged], image_embeds[None])[0, 0] + LABEL_PRIOR_LOG_ODDS
        none = 1 / (1 + np.exp(logit))
        assert labels["none of these"] == pytest.approx(none, abs=1e-4)
        for label in plain.labels:
            assert labels[label.label] == pytest.approx(label.probability * (1 - none), abs=1e-4)


def test_top_and_order(encoder: Encoder) -> None:
    sources = pictures(5)
    answers = list(classify(sources, ["a", "b", "c"], model=encoder, top=2, batch_size=2))
    assert [answer.source is source for answer, source in zip(answers, sources, strict=True)]
    assert all(len(answer.labels) == 2 for answer in answers)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "labels: none given"),
        (["cat", " "], "label 2: empty"),
        (["cat", "dog", "cat "], "'cat': given twice"),
    ],
)
def test_bad_labels(encoder: Encoder, labels: list[str], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        classify(pictures(), labels, model=encoder)


def test_many_labels_are_checked_at_once() -> None:
    """A comparison of each with all before it takes half a minute."""
    labels = [f"label {number}" for number in range(200_000)]
    start = time.process_time()
    assert check_labels(labels) == labels
    assert time.process_time() - start < 5


def test_bad_template(encoder: Encoder) -> None:
    with pytest.raises(LabelError, match=r"needs one \{\}"):
        classify(pictures(), ["cat"], model=encoder, templates="a photo")


def test_labels_are_any_text(encoder: Encoder) -> None:
    labels = ["{}", "100 %", "naïve 🍎", "a {cat}"]
    [answer] = classify(pictures(1), labels, model=encoder)
    assert {label.label for label in answer.labels} == set(labels)
