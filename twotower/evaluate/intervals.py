"""How sure a number is: bootstrap intervals, and whether two models differ on the same pictures."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
FLIPS = 100_000
Z95 = 1.959964  # of the normal distribution, 95 % lie within this many deviations

Weights = NDArray[np.float64]
Interval = tuple[float, float]


def bootstrap(
    statistic: Callable[[Weights], NDArray[np.float64]],
    n: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """95 % intervals of numbers about n pictures (Efron's percentile bootstrap).

    Pictures are what is drawn again, with all that belongs to each, such as its five captions.

    Args:
        statistic: how often each picture was drawn [n] -> the numbers [m].

    Returns:
        [m, 2], low and high; NaN where a number never came out.
    """
    random = np.random.default_rng(seed)
    drawn = np.array([statistic(_draw(random, n)) for _ in range(resamples)])  # [resamples, m]
    intervals = np.full((drawn.shape[1], 2), np.nan)
    for column, values in enumerate(drawn.T):
        there = values[~np.isnan(values)]
        if len(there):
            intervals[column] = np.quantile(there, (0.025, 0.975))
    return intervals


def bootstrap_shares(
    right: NDArray[np.float64], of: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """95 % intervals of shares: the sum over pictures of `right` by that of `of`.

    Where all pictures agree, drawing them again cannot show a doubt; Wilson's interval stands in.

    Args:
        right: [n, m], what each picture adds to each numerator. of: [n], and to the denominator.

    Returns:
        [m, 2].
    """
    n = len(of)
    intervals = bootstrap(lambda weights: (weights @ right) / (weights @ of), n, resamples, seed)
    for column in range(right.shape[1]):
        share = right[:, column].sum() / of.sum()
        if share in (0.0, 1.0):
            intervals[column] = wilson(share, n)
    return intervals


def wilson(share: float, n: int) -> Interval:
    """Wilson's 95 % interval of a proportion (Wilson 1927)."""
    middle = share + Z95**2 / (2 * n)
    margin = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return max(0.0, (middle - margin) / scale), min(1.0, (middle + margin) / scale)


def sign_flip_test(differences: NDArray[np.float64], seed: int = 0) -> float:
    """How often chance alone gives a mean difference this far from zero: a paired permutation test.

    Under "the two models are alike", each picture's difference may as well have the other sign.
    For right and wrong answers it is McNemar's exact test, up to the error of `FLIPS` draws.

    Args:
        differences: [n], of one picture, first model less second.

    Returns:
        p, two-sided, never below 1 / (FLIPS + 1).
    """
    random = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    sums = np.zeros(FLIPS)
    for size, count in zip(sizes, counts, strict=True):  # of `count` equal sizes, some are flipped
        sums += size * (2.0 * random.binomial(count, 0.5, FLIPS) - count)
    seen = abs(differences.sum())
    return float((np.sum(np.abs(sums) >= seen - 1e-9) + 1) / (FLIPS + 1))


def _draw(random: np.random.Generator, n: int) -> Weights:
    return np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)
