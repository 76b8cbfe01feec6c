"""From the score of a tag to its probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array
from twotower.calibration.background import Background


@dataclass(frozen=True)
class Recalibration:
    """How far the log-odds that a curve gives tags of a kind are to be believed.

    `slope` and `constant` make of them what comes true on pictures that the model has not learned
    from; `cutoffs` are pairs, of a precision and the probability from which tags have it there.
    """

    slope: float
    constant: float
    cutoffs: tuple[tuple[float, float], ...]

    def cutoff(self, precision: float) -> float:
        """The probability from which tags have a precision; above 1 where the model is never so
        sure."""
        enough = [cutoff for reached, cutoff in self.cutoffs if reached >= precision - 1e-9]
        return min(enough, default=2.0)


@dataclass(frozen=True)
class TagCurve:
    """From tags and pictures to probabilities: here no pictures compete, each is judged alone.

    What many pictures show ("person") and what few do ("snowboarder") differ in how much the scores
    of their words vary over pictures, and in how far these words lie from generic queries. What is
    left is a tag's own: it is linear in the tag's vector, so that tags of the fit have an offset
    each, and others one between those of the tags that they are like.

    Attributes:
        distance: of generic queries from their mean; the unit of a tag's distance.
        weights: of the two deviations, the spread of the tag's scores, its distance, a constant.
        words: weights [embed_dim] of a tag's difference from generic queries.
        names: of the tags that the curve was fitted on, in lower case.
        known, others: what to make of the log-odds of these, and of all other tags.
    """

    background: Background
    distance: float
    weights: tuple[float, ...]
    words: Float32Array
    names: frozenset[str]
    known: Recalibration
    others: Recalibration

    def logits(
        self, tags: Float32Array, image_embeds: Float32Array, known: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The log-odds [n, t] that pictures [n, embed_dim] show what tags [t, embed_dim] say.

        Args:
            known: [t], of which the name is among `names`.
        """
        logits = np.tensordot(self.features(tags, image_embeds), self.weights[:-1], 1)
        logits += self.weights[-1] + self.differences(tags) @ self.words
        slopes = np.where(known, self.known.slope, self.others.slope)
        return np.asarray(
            logits * slopes + np.where(known, self.known.constant, self.others.constant)
        )

    def differences(self, tags: Float32Array) -> NDArray[np.float64]:
        """What `words` is of: [t, embed_dim]."""
        return ((tags - self.background.queries) / self.distance).astype(np.float64)

    def features(self, tags: Float32Array, image_embeds: Float32Array) -> NDArray[np.float64]:
        """What the weights are of: [n, t, 4]."""
        background = self.background
        scores = image_embeds @ tags.T
        sd, for_tag = background.sds(tags), background.deviations(tags, image_embeds)
        for_picture = (scores - (image_embeds @ background.queries)[:, None]) / background.query_sd
        distance = np.linalg.norm(tags - background.queries, axis=1) / self.distance
        facts = [np.broadcast_to(one, scores.shape) for one in (sd / background.query_sd, distance)]
        return np.stack([for_tag, for_picture, *facts], axis=-1).astype(np.float64)


def simple_tag_curve(
    background: Background,
    distance: float,
    weights: tuple[float, ...],
    cutoffs: tuple[tuple[float, float], ...],
) -> TagCurve:
    """One that knows nothing of single tags."""
    trust = Recalibration(1.0, 0.0, cutoffs)
    words = np.zeros_like(background.queries)
    return TagCurve(background, distance, weights, words, frozenset(), trust, trust)


def mean_distance(queries: Float32Array) -> float:
    """Of generic queries [n, embed_dim] from their mean."""
    return float(np.linalg.norm(queries - queries.mean(axis=0), axis=1).mean())
