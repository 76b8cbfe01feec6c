"""Scores relative to their background, and the curve from them to a probability.

A cosine alone means little: a value that is high for one query is low for the next, and some
pictures are near everything. So a score is measured against two backgrounds: the scores of this
query with pictures in general, and the scores of this picture with queries in general. A logistic
curve over both and the number of competing pictures gives the probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twotower.arrays import Float32Array, Float64Array

SPREAD_RANK = 64  # principal directions of the covariance that are kept; the others count as equal
LARGEST = 5000  # pictures in the largest library that curves are fitted on


@dataclass(frozen=True)
class Background:
    """Statistics of pictures and of queries of one kind in the space of a model.

    The variance of a query's scores is the sum of (spread @ query) ** 2, plus `residual`.

    Attributes:
        pictures: the mean of image_embeds [embed_dim].
        spread: their covariance as scaled principal directions [k, embed_dim].
        residual: the variance in each of the other directions.
        queries: the mean of generic queries [embed_dim].
        query_sd: the standard deviation of a picture's scores with generic queries.
    """

    pictures: Float32Array
    spread: Float32Array
    residual: float
    queries: Float32Array
    query_sd: float

    def features(self, query: Float32Array, image_embeds: Float32Array, size: int) -> Float64Array:
        """Return the inputs of a curve [n, 3].

        They are the deviation of each picture's score from the query's background, that from the
        picture's background, and the logarithm of the number of competing pictures.

        Args:
            query: embed of a text or a picture [embed_dim].
            image_embeds: [n, embed_dim].
            size: the number of pictures that these were selected from.
        """
        scores = image_embeds @ query
        variance = float(((self.spread @ query) ** 2).sum()) + self.residual
        for_query = (scores - self.pictures @ query) / np.sqrt(variance)
        for_picture = (scores - image_embeds @ self.queries) / self.query_sd
        competition = np.full(len(scores), np.log(np.clip(size, 1, LARGEST)))
        return np.stack([for_query, for_picture, competition], axis=1).astype(np.float64)

    def deviations(self, queries: Float32Array, image_embeds: Float32Array) -> Float32Array:
        """Return the deviations [n, q] of scores from the backgrounds of queries."""
        scores = (image_embeds - self.pictures) @ queries.T
        return np.asarray(scores / self.sds(queries), np.float32)

    def sds(self, queries: Float32Array) -> Float32Array:
        """Return the standard deviations [q] of the scores of queries with pictures in general."""
        return np.asarray(np.sqrt(((self.spread @ queries.T) ** 2).sum(axis=0) + self.residual))


@dataclass(frozen=True)
class Curve:
    """A logistic curve from the features of a score to the probability of a match.

    Attributes:
        weights: of the three features, and a constant.
        cutoff: the probability from which a picture is a match. At the cut-off, 90 % of the queries
            without a matching picture return nothing, in the data that the curve was fitted on.
    """

    background: Background
    weights: tuple[float, ...]
    cutoff: float

    def logits(self, query: Float32Array, image_embeds: Float32Array, size: int) -> Float64Array:
        """Return the log-odds of a match [n]; arguments as in `Background.features`."""
        features = self.background.features(query, image_embeds, size)
        return np.asarray(features @ self.weights[:-1] + self.weights[-1])


def background_texts() -> list[str]:
    """Return generic queries, for things and scenes of all kinds."""
    path = Path(__file__).parent / "background.txt"
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def measure_background(image_embeds: Float32Array, queries: Float32Array) -> Background:
    """Measure the background of pictures [n, embed_dim] and generic queries [m, embed_dim]."""
    pictures, mean = image_embeds.mean(axis=0), queries.mean(axis=0)
    centred = image_embeds - pictures
    _, variances, directions = np.linalg.svd(
        centred.T @ centred / max(len(image_embeds) - 1, 1), hermitian=True
    )
    kept = min(SPREAD_RANK, len(variances) - 1)
    spread = directions[:kept] * np.sqrt(variances[:kept, None])
    residuals = image_embeds @ (queries - mean).T  # [n, m]
    return Background(
        pictures=pictures.astype(np.float32),
        spread=spread.astype(np.float16, order="C").astype(np.float32),
        residual=max(float(variances[kept:].mean()), 1e-9),
        queries=mean.astype(np.float32),
        query_sd=max(float(residuals.std()), 1e-6),
    )


def no_background(embed_dim: int) -> Background:
    """Return a background that leaves a cosine unchanged."""
    zero = np.zeros(embed_dim, np.float32)
    return Background(zero, np.zeros((1, embed_dim), np.float32), 1.0, zero, 1.0)
