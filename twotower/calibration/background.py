"""The scores that pictures get from typical queries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array

SPREAD_RANK = 64  # directions in which the spread of pictures is kept; the rest counts as even
LARGEST = 5000  # library that curves are fitted on; of larger ones the competition is not known


@dataclass(frozen=True)
class Background:
    """What queries of one kind and pictures in general look like, in one model's space.

    `pictures` [embed_dim] is the mean of image_embeds and `spread` [k, embed_dim] their
    covariance: the variance of a query's scores is the sum of (spread @ query) ** 2, plus `rest`.
    `queries` [embed_dim] is the mean of generic queries, and a picture's scores to those vary by
    `query_sd` around its own mean.
    """

    pictures: Float32Array
    spread: Float32Array
    rest: float
    queries: Float32Array
    query_sd: float

    def features(
        self, query: Float32Array, image_embeds: Float32Array, size: int
    ) -> NDArray[np.float64]:
        """How far each picture stands out, twice, and the competition: [n, 3].

        Args:
            query: embed of a text or a picture [embed_dim].
            image_embeds: [n, embed_dim].
            size: among how many pictures these were found.
        """
        scores = image_embeds @ query
        variance = float(((self.spread @ query) ** 2).sum()) + self.rest
        for_query = (scores - self.pictures @ query) / np.sqrt(variance)
        for_picture = (scores - image_embeds @ self.queries) / self.query_sd
        competition = np.full(len(scores), np.log(np.clip(size, 1, LARGEST)))
        return np.stack([for_query, for_picture, competition], axis=1).astype(np.float64)

    def deviations(self, queries: Float32Array, image_embeds: Float32Array) -> Float32Array:
        """How far each picture stands out for each query among pictures in general [n, q]."""
        scores = (image_embeds - self.pictures) @ queries.T
        return np.asarray(scores / self.sds(queries), np.float32)

    def sds(self, queries: Float32Array) -> Float32Array:
        """How far the scores of queries [q, embed_dim] vary among pictures in general [q]."""
        return np.asarray(np.sqrt(((self.spread @ queries.T) ** 2).sum(axis=0) + self.rest))


def background_texts() -> list[str]:
    """Generic queries, of things and scenes of all kinds."""
    path = Path(__file__).parent / "background.txt"
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def measure_background(image_embeds: Float32Array, queries: Float32Array) -> Background:
    """What pictures [n, embed_dim] and generic queries [m, embed_dim] have in common."""
    pictures, mean = image_embeds.mean(axis=0), queries.mean(axis=0)
    centred = image_embeds - pictures
    _, lengths, directions = np.linalg.svd(
        centred.T @ centred / max(len(image_embeds) - 1, 1), hermitian=True
    )
    kept = min(SPREAD_RANK, len(lengths) - 1)
    spread = directions[:kept] * np.sqrt(lengths[:kept, None])
    residuals = image_embeds @ (queries - mean).T  # [n, m]
    return Background(
        pictures=pictures.astype(np.float32),
        spread=spread.astype(np.float16, order="C").astype(np.float32),
        rest=max(float(lengths[kept:].mean()), 1e-9),
        queries=mean.astype(np.float32),
        query_sd=max(float(residuals.std()), 1e-6),
    )


def no_background(embed_dim: int) -> Background:
    """One that leaves a cosine as it is."""
    nothing = np.zeros(embed_dim, np.float32)
    return Background(nothing, np.zeros((1, embed_dim), np.float32), 1.0, nothing, 1.0)
