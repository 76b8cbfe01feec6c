"""Bootstrap and Wilson intervals, and a paired permutation test."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from twotower.arrays import Float64Array

RESAMPLES = 1000
FLIPS = 100_000
Z95 = 1.959964  # 95 % of a normal distribution lie within this many standard deviations


def bootstrap(
    statistic: Callable[[Float64Array], Float64Array],
    n: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Float64Array:
    """Return 95 % intervals of statistics of n pictures (Efron's percentile bootstrap).

    Pictures are resampled, each with everything that belongs to it, such as its five captions.

    Args:
        statistic: the number of times that each picture was drawn [n] -> statistics [m].

    Returns:
        Low and high [m, 2]; NaN if the statistic was NaN in every resample.
    """
    random = np.random.default_rng(seed)
    drawn = np.array([statistic(_draw(random, n)) for _ in range(resamples)])  # [resamples, m]
    intervals = np.full((drawn.shape[1], 2), np.nan)
    for column, values in enumerate(drawn.T):
        defined = values[~np.isnan(values)]
        if len(defined):
            intervals[column] = np.quantile(defined, (0.025, 0.975))
    return intervals


def _draw(random: np.random.Generator, n: int) -> Float64Array:
    """Draw n pictures with replacement; return the number of times that each was drawn [n]."""
    return np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)


def bootstrap_shares(
    numerators: Float64Array, denominators: Float64Array, resamples: int = RESAMPLES, seed: int = 0
) -> Float64Array:
    """Return 95 % intervals of shares: summed numerators divided by summed denominators.

    A share of exactly 0 or 1 gets Wilson's interval, because every resample of it is the same.

    Args:
        numerators: [n, m], the contribution of each picture to each share.
        denominators: [n], its contribution to the denominator of all of them.

    Returns:
        Low and high [m, 2].
    """
    n = len(denominators)
    intervals = bootstrap(
        lambda weights: (weights @ numerators) / (weights @ denominators), n, resamples, seed
    )
    for column in range(numerators.shape[1]):
        share = numerators[:, column].sum() / denominators.sum()
        intervals[column] = widen_point(share, intervals[column], n)
    return intervals


def widen_point(share: float, interval: Float64Array, n: int) -> list[float]:
    """Return Wilson's interval for a share of exactly 0 or 1, whose resamples are all equal."""
    return list(wilson(share, n) if share in (0.0, 1.0) else interval.tolist())


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval, low and high, of a proportion (Wilson 1927)."""
    middle = share + Z95**2 / (2 * n)
    margin = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return max(0.0, (middle - margin) / scale), min(1.0, (middle + margin) / scale)


def sign_flip_test(differences: Float64Array, seed: int = 0) -> float:
    """Return the p-value of a paired permutation test of a mean difference.

    If both models are equally good, the sign of each picture's difference is arbitrary. For right
    and wrong answers this is McNemar's exact test, up to the sampling error of `FLIPS` draws.

    Args:
        differences: [n], the first model's value for a picture minus the second's.

    Returns:
        The two-sided p-value, at least 1 / (FLIPS + 1).
    """
    random = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    sums = np.zeros(FLIPS)
    for size, count in zip(sizes, counts, strict=True):  # flip a binomial share of equal sizes
        sums += size * (2.0 * random.binomial(count, 0.5, FLIPS) - count)
    observed = abs(differences.sum())
    return float((np.sum(np.abs(sums) >= observed - 1e-9) + 1) / (FLIPS + 1))
