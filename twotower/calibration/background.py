"""The scores of a query with pictures in general.

Detectors, groups of tags and corrections compare pictures: how far does a picture stand out for a
sentence among pictures in general?
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twotower.arrays import Float32Array

SPREAD_RANK = 64  # principal directions of the covariance that are kept; the others count as equal


@dataclass(frozen=True)
class Background:
    """Statistics of pictures in the space of a model.

    The variance of a query's scores is the sum of (spread @ query) ** 2, plus `residual`.

    Attributes:
        pictures: the mean of image_embeds [embed_dim].
        spread: their covariance as scaled principal directions [k, embed_dim].
        residual: the variance in each of the other directions.
    """

    pictures: Float32Array
    spread: Float32Array
    residual: float

    def deviations(self, queries: Float32Array, image_embeds: Float32Array) -> Float32Array:
        """Return the deviations [n, q] of scores from the backgrounds of queries."""
        scores = (image_embeds - self.pictures) @ queries.T
        sds = np.sqrt(((self.spread @ queries.T) ** 2).sum(axis=0) + self.residual)
        return np.asarray(scores / sds, np.float32)


def background_texts() -> list[str]:
    """Return generic queries, for things and scenes of all kinds."""
    path = Path(__file__).parent / "background.txt"
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def measure_background(image_embeds: Float32Array) -> Background:
    """Measure the background of pictures [n, embed_dim]."""
    pictures = image_embeds.mean(axis=0)
    centred = image_embeds - pictures
    _, variances, directions = np.linalg.svd(
        centred.T @ centred / max(len(image_embeds) - 1, 1), hermitian=True
    )
    kept = min(SPREAD_RANK, len(variances) - 1)
    spread = directions[:kept] * np.sqrt(variances[:kept, None])
    return Background(
        pictures=pictures.astype(np.float32),
        spread=spread.astype(np.float16, order="C").astype(np.float32),
        residual=max(float(variances[kept:].mean()), 1e-9),
    )
