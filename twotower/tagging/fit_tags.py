"""Fit the probability of tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Int64Array
from twotower.calibration.background import (
    Background,
    background_texts,
)
from twotower.calibration.calibration import TYPICAL_TAGS
from twotower.calibration.captions import (
    captioned_tags,
)
from twotower.calibration.tag_curve import Recalibration, TagCurve, mean_distance, simple_tag_curve
from twotower.tagging.formats import read_vocabulary
from twotower.tagging.tag_embeds import tag_vectors

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder
from dataclasses import replace

from twotower.calibration.calibration import Calibration
from twotower.calibration.fit import Pictures, fit, fit_logistic

FOLDS = 5  # parts of the tags, each judged by what the others teach
SPLITS = 8  # of the tags into such parts; who is left out with whom makes a difference
PRECISIONS = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))  # that tags are cut off at
WORDS_VARIANCE = 12.0  # of the weights of a tag's vector; for tags left out, on flickr8k-train
# A model is mostly calibrated on pictures that it has learned from, of which it is too sure. These
# take log-odds to what they are on others; benchmarks/quality/learned_pictures.py measured them,
# on an image head that learned four fifths of flickr8k-train, by the rest.
OTHERS_SLOPE, OTHERS_CONSTANT = 0.83, -0.22


def fit_calibration(
    model: Encoder, sources: Sequence[Pictures], some_pictures: Sequence[bytes]
) -> Calibration:
    """Fit the calibration of a model: of search, then of tags; arguments as for `fit`."""
    calibration = fit(model, sources, some_pictures)
    tags = fit_tags(model, calibration.text.background, sources)
    return replace(calibration, tags=tags)


def fit_tags(
    model: Encoder,
    background: Background,
    sources: Sequence[Pictures],
    without: frozenset[str] = frozenset(),
) -> TagCurve | None:
    """The curve of tags; None where captions, several of a picture, decide too few of them.

    Args:
        without: names of tags that it shall not know.
    """
    distance = mean_distance(model.encode_text(background_texts()))
    untrained = simple_tag_curve(background, distance, TYPICAL_TAGS, ())
    judged = judged_tags(model, untrained, sources, without)
    if len({one.name for one in judged if one.answers.any()}) < FOLDS:
        return None
    answers = np.concatenate([one.answers for one in judged])
    weights, words = fit_words(judged)
    logits = [one.logits(weights, words) for one in judged]
    unseen = [one for split in range(SPLITS) for one in unseen_logits(judged, split)]
    return TagCurve(
        background,
        distance,
        tuple(weights.tolist()),
        words.astype(np.float32),
        frozenset(one.name.casefold() for one in judged),
        trust(np.concatenate(logits), answers),
        trust(np.concatenate(unseen), np.tile(answers, SPLITS), SPLITS),
    )


@dataclass(frozen=True)
class JudgedTag:
    """A tag, and the pictures of a source of which captions say whether they show it.

    `features` [n, 4] and `difference` [embed_dim] are what a `TagCurve` has weights for.
    """

    name: str
    features: NDArray[np.float64]
    difference: NDArray[np.float64]
    answers: NDArray[np.bool_]

    def logits(
        self, weights: NDArray[np.float64], words: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The log-odds [n] by weights as `fit_words` gives them."""
        return np.asarray(self.features @ weights[:-1] + weights[-1] + self.difference @ words)


def judged_tags(
    model: Encoder,
    curve: TagCurve,
    sources: Sequence[Pictures],
    without: frozenset[str] = frozenset(),
) -> list[JudgedTag]:
    """The tags that the captions of each source decide, with what `curve` knows of them."""
    vocabulary = read_vocabulary()
    judged = []
    for source in sources:
        said = [one for one in captioned_tags(source.captions) if one.name not in without]
        tags = [vocabulary.find(one.name) for one in said]
        vectors = tag_vectors(model, [tag for tag in tags if tag is not None])
        differences = curve.differences(vectors)
        for one, vector, difference in zip(said, vectors, differences, strict=True):
            decided = at_most_half(one.answers)
            features = curve.features(vector[None], source.image_embeds[decided])[:, 0]
            judged.append(JudgedTag(one.name, features, difference, one.answers[decided] == 1))
    return judged


def at_most_half(answers: NDArray[np.int8]) -> Int64Array:
    """The pictures of which captions say yes (1) or no (0), without some of the yeses where they
    are more than half.

    Most photographs that people describe for research show people; those of others need not.
    """
    shown, others = np.flatnonzero(answers == 1), np.flatnonzero(answers == 0)
    if len(shown) > len(others):
        shown = shown[np.linspace(0, len(shown) - 1, len(others)).astype(int)]
    return np.sort(np.concatenate([shown, others]))


def fit_words(
    judged: Sequence[JudgedTag],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of the features with a constant, and of the tags' vectors, by Newton's method.

    The second have a Gaussian prior. The steps are taken among combinations of the tags' vectors,
    where the most probable weights lie.
    """
    differences = np.stack([one.difference for one in judged])
    _, lengths, directions = np.linalg.svd(differences, full_matrices=False)
    directions = directions[lengths > 1e-6 * lengths.max()]
    places = differences @ directions.T  # [tags, directions]
    first = judged[0].features.shape[1] + 1
    prior = np.full(first + len(directions), 1 / WORDS_VARIANCE)
    prior[:first] = 1e-3
    weights = np.zeros(len(prior))
    inputs = [np.column_stack([one.features, np.ones(len(one.answers))]) for one in judged]

    def loss(weights: NDArray[np.float64]) -> float:
        total = float(prior @ weights**2) / 2
        for one, x, place in zip(judged, inputs, places, strict=True):
            logits = x @ weights[:first] + place @ weights[first:]
            total += float(np.logaddexp(0, np.where(one.answers, -logits, logits)).sum())
        return total

    before = loss(weights)
    for _ in range(50):
        gradient, curvature = -prior * weights, np.diag(prior)
        for one, x, place in zip(judged, inputs, places, strict=True):
            p = 1 / (1 + np.exp(-(x @ weights[:first] + place @ weights[first:])))
            left, certain = one.answers - p, p * (1 - p)
            gradient += np.concatenate([x.T @ left, place * left.sum()])
            crossed = np.outer(certain @ x, place)
            curvature[:first, :first] += (x * certain[:, None]).T @ x
            curvature[:first, first:] += crossed
            curvature[first:, :first] += crossed.T
            curvature[first:, first:] += certain.sum() * np.outer(place, place)
        step = np.linalg.solve(curvature, gradient)
        while (after := loss(weights + step)) > before + 1e-9 and np.abs(step).max() > 1e-9:
            step /= 2
        weights, before = weights + step, after
        if np.abs(step).max() < 1e-6:
            break
    return weights[:first], weights[first:] @ directions


def unseen_logits(judged: Sequence[JudgedTag], split: int) -> list[NDArray[np.float64]]:
    """The log-odds of each tag by a fit that did not see it."""
    names = sorted({one.name for one in judged})
    parts = np.random.default_rng(split).permutation(len(names)) % FOLDS
    part_of = dict(zip(names, parts.tolist(), strict=True))
    fits = [
        fit_words([one for one in judged if part_of[one.name] != part]) for part in range(FOLDS)
    ]
    return [one.logits(*fits[part_of[one.name]]) for one in judged]


def trust(logits: NDArray[np.float64], answers: NDArray[np.bool_], times: int = 1) -> Recalibration:
    """What answers came of log-odds, on pictures that the model has learned from, and what will
    come on others.

    Args:
        times: how often each answer is there.
    """
    slope, constant = fit_logistic(logits[:, None], answers)
    slope, constant = OTHERS_SLOPE * slope, OTHERS_SLOPE * constant + OTHERS_CONSTANT
    probabilities = 1 / (1 + np.exp(-(slope * logits + constant)))
    return Recalibration(
        float(slope), float(constant), tuple(cutoffs(probabilities, answers, times))
    )


def cutoffs(
    probabilities: NDArray[np.float64], answers: NDArray[np.bool_], times: int = 1
) -> list[tuple[float, float]]:
    """Precisions, and the least probability from which answers have each, as far as one can say.

    A precision counts by the lower end of its interval (one standard error, Wilson's), so that a
    lucky handful at the top promises nothing, and as what it is on pictures not learned from.
    """
    order = np.argsort(-probabilities, kind="stable")
    share = np.cumsum(answers[order]) / np.arange(1, len(order) + 1)
    n = np.arange(1, len(order) + 1) / times
    lower = (share + 0.5 / n - np.sqrt(share * (1 - share) / n + 0.25 / n**2)) / (1 + 1 / n)
    found = []
    for precision in PRECISIONS:
        odds = (np.log(precision / (1 - precision)) - OTHERS_CONSTANT) / OTHERS_SLOPE
        enough = np.flatnonzero(lower >= 1 / (1 + np.exp(-odds)))
        if len(enough):
            found.append((precision, float(probabilities[order[enough[-1]]])))
    return found
