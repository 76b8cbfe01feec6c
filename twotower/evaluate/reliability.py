"""Expected calibration error, and the bins of a reliability diagram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from twotower.arrays import BoolArray, Float64Array
from twotower.evaluate.intervals import bootstrap

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """The agreement of confidence and accuracy.

    Attributes:
        ece: expected calibration error, a share of 1.
        ci95: its 95 % interval, low and high.
        bins: mappings with "low", "high", "n", "confidence" and "accuracy"; the last two are None
            for an empty bin.
    """

    ece: float
    ci95: list[float]
    bins: list[dict[str, Any]]


def measure_reliability(
    confidence: Float64Array, correct: BoolArray, bins: int = BINS
) -> Reliability:
    """Compare confidence with accuracy over bins of equal width (Guo et al. 2017, section 2).

    The error is overestimated for few answers, because chance alone separates confidence and
    accuracy in a bin. Compare it only between sets of similar size.

    Args:
        confidence: [n], the probability of each answer.
        correct: [n].
    """
    bin_numbers = np.minimum((confidence * bins).astype(np.int64), bins - 1)

    def sums(weights: Float64Array) -> Float64Array:
        """Return, for each bin, the sums of weights, confidence and correct answers [3, bins]."""
        return np.stack(
            [
                np.bincount(bin_numbers, weights * value, bins)
                for value in (1.0, confidence, correct)
            ]
        )

    def ece(weights: Float64Array) -> Float64Array:
        _, confidences, hits = sums(weights)
        return np.array([np.abs(confidences - hits).sum() / weights.sum()])

    ones = np.ones(len(correct))
    [interval] = bootstrap(ece, len(correct)).tolist()
    return Reliability(float(ece(ones)[0]), interval, _bin_rows(*sums(ones)))


def _bin_rows(
    counts: Float64Array, confidences: Float64Array, hits: Float64Array
) -> list[dict[str, Any]]:
    bins = len(counts)
    return [
        {
            "low": number / bins,
            "high": (number + 1) / bins,
            "n": int(count),
            "confidence": confidences[number] / count if count else None,
            "accuracy": hits[number] / count if count else None,
        }
        for number, count in enumerate(counts)
    ]
