"""Whether confidence can be believed: expected calibration error, and what a diagram needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.evaluate.intervals import bootstrap

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """`ece` and its interval; `bins` with "low", "high", "n", "confidence" and "accuracy"."""

    ece: float
    ci95: list[float]
    bins: list[dict[str, Any]]


def calibration(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS
) -> Calibration:
    """How far confidence and accuracy are apart, over equal bins (Guo et al. 2017, section 2).

    The error of few pictures is too high, since chance alone parts the two: compare only sets of
    like size.

    Args:
        confidence: [n], the probability of the class that was given. right: [n].
    """
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)

    def sums(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """[3, bins]: pictures, confidence and right ones of each bin."""
        return np.stack(
            [np.bincount(place, weights * one, bins) for one in (1.0, confidence, right)]
        )

    def ece(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        _, sure, hits = sums(weights)
        return np.array([np.abs(sure - hits).sum() / weights.sum()])

    ones = np.ones(len(right))
    counts, sure, hits = sums(ones)
    rows = [
        {
            "low": number / bins,
            "high": (number + 1) / bins,
            "n": int(counts[number]),
            "confidence": sure[number] / counts[number] if counts[number] else None,
            "accuracy": hits[number] / counts[number] if counts[number] else None,
        }
        for number in range(bins)
    ]
    [interval] = bootstrap(ece, len(right)).tolist()
    return Calibration(float(ece(ones)[0]), interval, rows)
