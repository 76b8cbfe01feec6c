"""The curve from the score of a tag to its probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twotower.arrays import BoolArray, Float32Array, Float64Array
from twotower.calibration.background import Background


@dataclass(frozen=True)
class Recalibration:
    """A correction of log-odds, measured on pictures that the model was not trained on.

    Attributes:
        slope, constant: of the linear correction.
        cutoffs: pairs of a precision and the probability from which tags reach it.
    """

    slope: float
    constant: float
    cutoffs: tuple[tuple[float, float], ...]

    def cutoff(self, precision: float) -> float:
        """Return the probability from which tags reach a precision; above 1 if they never do."""
        reaching = [cutoff for reached, cutoff in self.cutoffs if reached >= precision - 1e-9]
        return min(reaching, default=2.0)


@dataclass(frozen=True)
class TagCurve:
    """A logistic curve from tags and pictures to probabilities; pictures do not compete.

    Frequent tags ("person") differ from rare ones ("snowboarder") in the variance of their scores
    over pictures, and in their distance from generic queries. Each tag also has an offset, linear
    in its embed: tags of the fit have one each, and other tags one between those of similar tags.

    Attributes:
        distance: mean distance of generic queries from their mean, the unit of a tag's distance.
        weights: of the features, and a constant.
        words: weights [embed_dim] of `differences`, which give the offset.
        names: of the tags that the curve was fitted on, in lower case.
        fitted, unfitted: the corrections for those tags, and for all others.
    """

    background: Background
    distance: float
    weights: tuple[float, ...]
    words: Float32Array
    names: frozenset[str]
    fitted: Recalibration
    unfitted: Recalibration

    def logits(
        self, tags: Float32Array, image_embeds: Float32Array, is_fitted: BoolArray
    ) -> Float64Array:
        """Return the log-odds [n, t] that pictures [n, embed_dim] show tags [t, embed_dim].

        Args:
            is_fitted: [t], True for tags in `names`.
        """
        logits = np.tensordot(self.features(tags, image_embeds), self.weights[:-1], 1)
        logits += self.weights[-1] + self.differences(tags) @ self.words
        slopes = np.where(is_fitted, self.fitted.slope, self.unfitted.slope)
        constants = np.where(is_fitted, self.fitted.constant, self.unfitted.constant)
        return np.asarray(logits * slopes + constants)

    def differences(self, tags: Float32Array) -> Float64Array:
        """Return the differences [t, embed_dim] of tags from generic queries."""
        return ((tags - self.background.queries) / self.distance).astype(np.float64)

    def features(self, tags: Float32Array, image_embeds: Float32Array) -> Float64Array:
        """Return the inputs of the curve [n, t, 4].

        They are the deviation of a score from the tag's background, that from the picture's
        background, the standard deviation of the tag's scores, and the tag's distance.
        """
        background = self.background
        scores = image_embeds @ tags.T
        sd, for_tag = background.sds(tags), background.deviations(tags, image_embeds)
        for_picture = (scores - (image_embeds @ background.queries)[:, None]) / background.query_sd
        distance = np.linalg.norm(tags - background.queries, axis=1) / self.distance
        of_tag = [
            np.broadcast_to(values, scores.shape) for values in (sd / background.query_sd, distance)
        ]
        return np.stack([for_tag, for_picture, *of_tag], axis=-1).astype(np.float64)


def simple_tag_curve(
    background: Background,
    distance: float,
    weights: tuple[float, ...],
    cutoffs: tuple[tuple[float, float], ...],
) -> TagCurve:
    """Return a curve without offsets of single tags."""
    unchanged = Recalibration(1.0, 0.0, cutoffs)
    words = np.zeros_like(background.queries)
    return TagCurve(background, distance, weights, words, frozenset(), unchanged, unchanged)


def mean_distance(queries: Float32Array) -> float:
    """Return the mean distance of generic queries [n, embed_dim] from their mean."""
    return float(np.linalg.norm(queries - queries.mean(axis=0), axis=1).mean())
