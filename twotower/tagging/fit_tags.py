"""Fit the probabilities of tags to pictures with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import BoolArray, Float64Array, Int64Array
from twotower.calibration.background import Background, background_texts
from twotower.calibration.calibration import TYPICAL_TAGS, Calibration
from twotower.calibration.captions import captioned_tags
from twotower.calibration.fit import Pictures, fit, fit_logistic
from twotower.calibration.tag_curve import Recalibration, TagCurve, mean_distance, simple_tag_curve
from twotower.tagging.formats import read_vocabulary
from twotower.tagging.tag_embeds import embed_tags

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder

FOLDS = 5  # of the tags; each is scored by a fit on the others
SPLITS = 8  # divisions of the tags into folds, since the results depend on the division
PRECISIONS = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))  # that get a cut-off
# Prior variance of the weights of a tag's embed; chosen for held-out tags on flickr8k-train.
EMBED_WEIGHT_VARIANCE = 12.0
FEATURE_WEIGHT_PRECISION = 1e-3  # nearly flat
# A model is mostly calibrated on pictures that it was trained on, and is too sure of those. These
# convert log-odds to their values on other pictures. benchmarks/quality/learned_pictures.py
# measured them, on the held-out fifth of flickr8k-train for an image head trained on the others.
UNSEEN_SLOPE, UNSEEN_CONSTANT = 0.83, -0.22
MAX_STEPS = 50  # of Newton's method


def fit_calibration(
    model: Encoder, sources: Sequence[Pictures], samples: Sequence[bytes]
) -> Calibration:
    """Fit the calibration of a model, first of search and then of tags; arguments as for `fit`."""
    calibration = fit(model, sources, samples)
    tags = fit_tags(model, calibration.text.background, sources)
    return replace(calibration, tags=tags)


def fit_tags(
    model: Encoder,
    background: Background,
    sources: Sequence[Pictures],
    held_out: frozenset[str] = frozenset(),
) -> TagCurve | None:
    """Fit the curve of tags.

    Args:
        held_out: names of tags that are not used.

    Returns:
        The curve, or None if the captions decide fewer than FOLDS tags, as where pictures have
        only one caption each.
    """
    distance = mean_distance(model.encode_text(background_texts()))
    untrained = simple_tag_curve(background, distance, TYPICAL_TAGS, ())
    examples = tag_examples(model, untrained, sources, held_out)
    if len({tag.name for tag in examples if tag.answers.any()}) < FOLDS:
        return None
    answers = np.concatenate([tag.answers for tag in examples])
    weights, embed_weights = fit_weights(examples)
    fitted = [tag.logits(weights, embed_weights) for tag in examples]
    unfitted = [row for split in range(SPLITS) for row in cross_validated_logits(examples, split)]
    return TagCurve(
        background,
        distance,
        tuple(weights.tolist()),
        embed_weights.astype(np.float32),
        frozenset(tag.name.casefold() for tag in examples),
        recalibrate(np.concatenate(fitted), answers),
        recalibrate(np.concatenate(unfitted), np.tile(answers, SPLITS), SPLITS),
    )


@dataclass(frozen=True)
class TagExamples:
    """A tag, and the pictures of a source for which captions decide whether they show it.

    Attributes:
        name: of the tag.
        features: of tag and picture, as `TagCurve` weights them [n, 4].
        difference: of the tag's embed from generic queries [embed_dim].
        answers: True for pictures that show it [n].
    """

    name: str
    features: Float64Array
    difference: Float64Array
    answers: BoolArray

    def logits(self, weights: Float64Array, embed_weights: Float64Array) -> Float64Array:
        """Return the log-odds [n] by the weights from `fit_weights`."""
        return np.asarray(
            self.features @ weights[:-1] + weights[-1] + self.difference @ embed_weights
        )


def tag_examples(
    model: Encoder,
    curve: TagCurve,
    sources: Sequence[Pictures],
    held_out: frozenset[str] = frozenset(),
) -> list[TagExamples]:
    """Collect the tags that the captions of each source decide, with their features by `curve`."""
    vocabulary = read_vocabulary()
    examples = []
    for source in sources:
        captioned = [tag for tag in captioned_tags(source.captions) if tag.name not in held_out]
        tags = [vocabulary.find(tag.name) for tag in captioned]
        embeds = embed_tags(model, [tag for tag in tags if tag is not None])
        differences = curve.differences(embeds)
        for tag, embed, difference in zip(captioned, embeds, differences, strict=True):
            rows = balanced_rows(tag.answers)
            features = curve.features(embed[None], source.image_embeds[rows])[:, 0]
            examples.append(TagExamples(tag.name, features, difference, tag.answers[rows] == 1))
    return examples


def balanced_rows(answers: NDArray[np.int8]) -> Int64Array:
    """Return the pictures whose captions say yes (1) or no (0), at most half of them yes.

    Most photographs that are captioned for research show people; those of users need not.
    """
    positive, negative = np.flatnonzero(answers == 1), np.flatnonzero(answers == 0)
    if len(positive) > len(negative):
        positive = positive[np.linspace(0, len(positive) - 1, len(negative)).astype(int)]
    return np.sort(np.concatenate([positive, negative]))


# --- the fit -------------------------------------------------------------------------------------


def fit_weights(examples: Sequence[TagExamples]) -> tuple[Float64Array, Float64Array]:
    """Fit a logistic regression over the features and the embeds of tags, by Newton's method.

    The weights of the embeds have a Gaussian prior. The steps are taken in the span of the tags'
    differences, in which the most probable weights lie.

    Returns:
        Weights of the features and a constant [5], and weights of the differences [embed_dim].
    """
    differences = np.stack([tag.difference for tag in examples])
    _, lengths, directions = np.linalg.svd(differences, full_matrices=False)
    directions = directions[lengths > 1e-6 * lengths.max()]
    problem = _Problem.of(examples, differences @ directions.T)
    weights = np.zeros(len(problem.prior))
    loss = problem.loss(weights)
    for _ in range(MAX_STEPS):
        gradient, curvature = problem.derivatives(weights)
        step = np.linalg.solve(curvature, gradient)
        while (after := problem.loss(weights + step)) > loss + 1e-9 and np.abs(step).max() > 1e-9:
            step /= 2
        weights, loss = weights + step, after
        if np.abs(step).max() < 1e-6:
            break
    return weights[: problem.split], weights[problem.split :] @ directions


@dataclass(frozen=True)
class _Problem:
    """A logistic regression with one row of coordinates for all pictures of a tag.

    Attributes:
        inputs: features and a constant of the pictures of each tag [n, split].
        answers: of the pictures of each tag [n].
        coordinates: of the tags in the span of their differences [tags, directions].
        prior: precision of each weight [split + directions].
        split: the number of weights of features.
    """

    inputs: Sequence[Float64Array]
    answers: Sequence[BoolArray]
    coordinates: Float64Array
    prior: Float64Array
    split: int

    @classmethod
    def of(cls, examples: Sequence[TagExamples], coordinates: Float64Array) -> _Problem:
        split = examples[0].features.shape[1] + 1
        prior = np.full(split + coordinates.shape[1], 1 / EMBED_WEIGHT_VARIANCE)
        prior[:split] = FEATURE_WEIGHT_PRECISION
        inputs = [np.column_stack([tag.features, np.ones(len(tag.answers))]) for tag in examples]
        return cls(inputs, [tag.answers for tag in examples], coordinates, prior, split)

    def loss(self, weights: Float64Array) -> float:
        """Return the negative log-posterior of the weights, up to a constant."""
        total = float(self.prior @ weights**2) / 2
        for x, answers, row in zip(self.inputs, self.answers, self.coordinates, strict=True):
            logits = x @ weights[: self.split] + row @ weights[self.split :]
            total += float(np.logaddexp(0, np.where(answers, -logits, logits)).sum())
        return total

    def derivatives(self, weights: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the descent direction (the negative gradient) and the matrix of second
        derivatives.
        """
        split = self.split
        gradient, curvature = -self.prior * weights, np.diag(self.prior)
        for x, answers, row in zip(self.inputs, self.answers, self.coordinates, strict=True):
            p = 1 / (1 + np.exp(-(x @ weights[:split] + row @ weights[split:])))
            residuals, variances = answers - p, p * (1 - p)
            gradient += np.concatenate([x.T @ residuals, row * residuals.sum()])
            crossed = np.outer(variances @ x, row)
            curvature[:split, :split] += (x * variances[:, None]).T @ x
            curvature[:split, split:] += crossed
            curvature[split:, :split] += crossed.T
            curvature[split:, split:] += variances.sum() * np.outer(row, row)
        return gradient, curvature


def cross_validated_logits(examples: Sequence[TagExamples], split: int) -> list[Float64Array]:
    """Return the log-odds of each tag by a fit without it; `split` seeds the folds."""
    names = sorted({tag.name for tag in examples})
    folds = np.random.default_rng(split).permutation(len(names)) % FOLDS
    fold_of = dict(zip(names, folds.tolist(), strict=True))
    fits = [
        fit_weights([tag for tag in examples if fold_of[tag.name] != fold]) for fold in range(FOLDS)
    ]
    return [tag.logits(*fits[fold_of[tag.name]]) for tag in examples]


def recalibrate(logits: Float64Array, answers: BoolArray, repeats: int = 1) -> Recalibration:
    """Fit a correction of log-odds to answers on pictures that the model was trained on, and
    convert it to other pictures.

    Args:
        repeats: how often each answer occurs.
    """
    slope, constant = fit_logistic(logits[:, None], answers)
    slope, constant = UNSEEN_SLOPE * slope, UNSEEN_SLOPE * constant + UNSEEN_CONSTANT
    probabilities = 1 / (1 + np.exp(-(slope * logits + constant)))
    return Recalibration(
        float(slope),
        float(constant),
        tuple(precision_cutoffs(probabilities, answers, repeats)),
    )


def precision_cutoffs(
    probabilities: Float64Array, answers: BoolArray, repeats: int = 1
) -> list[tuple[float, float]]:
    """Return precisions, and the least probability from which answers reach each.

    A precision counts by the lower end of its interval (one standard error, Wilson 1927), so that a
    few correct answers at the top do not suffice, and as converted to pictures that the model was
    not trained on.
    """
    order = np.argsort(-probabilities, kind="stable")
    share = np.cumsum(answers[order]) / np.arange(1, len(order) + 1)
    n = np.arange(1, len(order) + 1) / repeats
    lower = (share + 0.5 / n - np.sqrt(share * (1 - share) / n + 0.25 / n**2)) / (1 + 1 / n)
    cutoffs = []
    for precision in PRECISIONS:
        odds = (np.log(precision / (1 - precision)) - UNSEEN_CONSTANT) / UNSEEN_SLOPE
        reaching = np.flatnonzero(lower >= 1 / (1 + np.exp(-odds)))
        if len(reaching):
            cutoffs.append((precision, float(probabilities[order[reaching[-1]]])))
    return cutoffs
