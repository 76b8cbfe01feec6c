"""Compare the logistic regression of the linear probe with scikit-learn's: seconds and accuracy.

    python benchmarks/speed/probe.py [PICTURES [ROUNDS]]

The vectors are random: 512 numbers of unit length, in overlapping clusters, one for each class.
There are PICTURES (5,000) of them, or 16 of each class. Each method searches for C (15 fits, scored
on 1,000 validation vectors) and makes the last fit. The methods run in turn, and ratios are taken
within a round. All have the same limits on iterations, gradient and BLAS threads, and start from
the fit for the nearest C. Writes results/probe.csv.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.table import write_results
from twotower.arrays import Float32Array, Int64Array, normalize
from twotower.evaluate.logistic import (
    ITERATIONS,
    SMALL_PRODUCT,
    TOLERANCE,
    Logistic,
    fit_logistic,
    search_c,
)

WIDTH, VALIDATION, TEST, CLASSES, SHOTS = 512, 1000, 2000, (10, 100), 16
NOISE = {10: 6.0, 100: 3.5}  # by number of classes: the distance of a vector from its class
COLUMNS = ("method", "pictures", "classes", "seconds", "times_twotower", "c", "test_top1")

Fit = Callable[[Any, Int64Array, int, float, Any], Logistic]


def main() -> None:
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    rows: list[tuple[object, ...]] = []
    for classes in CLASSES:
        rows += measure_methods(pictures, classes, rounds)
        rows += measure_methods(SHOTS * classes, classes, rounds)
    write_results("probe.csv", COLUMNS, rows)


def measure_methods(pictures: int, classes: int, rounds: int) -> list[tuple[object, ...]]:
    vectors, labels = draw_vectors(pictures + VALIDATION + TEST, classes)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    results: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for name, fit in METHODS.items():
            start = time.perf_counter()
            results[name] = run_probe(fit, vectors, labels, pictures)
            seconds[name].append(time.perf_counter() - start)
    rows: list[tuple[object, ...]] = []
    for name, runs in seconds.items():
        ratios = [run / ours for run, ours in zip(runs, seconds["twotower"], strict=True)]
        c, accuracy = results[name]
        numbers = (f"{statistics.median(runs):.1f}", f"{statistics.median(ratios):.2f}")
        rows.append((name, pictures, classes, *numbers, f"{c:.3g}", f"{accuracy:.4f}"))
    return rows


def draw_vectors(count: int, classes: int) -> tuple[Float32Array, Int64Array]:
    """Return vectors [count, WIDTH] of unit length, and the class of each [count]."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count)
    centers = normalize(random.standard_normal((classes, WIDTH), np.float32))
    noise = random.standard_normal((count, WIDTH), np.float32) * WIDTH**-0.5
    return normalize(centers[labels] + np.float32(NOISE[classes]) * noise), labels


def run_probe(
    fit: Fit, vectors: Float32Array, labels: Int64Array, count: int
) -> tuple[float, float]:
    """Return the chosen C, and the accuracy on the test vectors."""
    classes = int(labels.max()) + 1
    train, validation = slice(0, count), slice(count, count + VALIDATION)
    fits: dict[float, Logistic] = {}

    def accuracy(model: Logistic, rows: slice) -> float:
        return float((model.logits(vectors[rows]).argmax(axis=1) == labels[rows]).mean())

    def score(c: float) -> float:
        nearest = min(fits, key=lambda fitted: abs(np.log(fitted / c)), default=None)
        start = None if nearest is None else fits[nearest]
        fits[c] = fit(vectors[train], labels[train], classes, c, start)
        return accuracy(fits[c], validation)

    c = search_c(score)
    joined = slice(0, count + VALIDATION)
    model = fit(vectors[joined], labels[joined], classes, c, fits[c])
    return c, accuracy(model, slice(count + VALIDATION, None))


def fit_sklearn(
    vectors: Any, labels: Int64Array, classes: int, c: float, start: Logistic | None
) -> Logistic:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=ITERATIONS, tol=TOLERANCE, warm_start=True)
    if start is not None:
        model.coef_ = start.weights.astype(vectors.dtype)
        model.intercept_ = start.bias.astype(vectors.dtype)
    threads = 1 if vectors.size * classes < SMALL_PRODUCT else None
    with warnings.catch_warnings(), threadpool_limits(threads, "blas"):
        warnings.simplefilter("ignore")
        model.fit(vectors, labels)
    return Logistic(model.coef_, model.intercept_, c)


def fit_sklearn_float64(
    vectors: Float32Array, labels: Int64Array, classes: int, c: float, start: Logistic | None
) -> Logistic:
    return fit_sklearn(vectors.astype(np.float64), labels, classes, c, start)


METHODS: dict[str, Fit] = {
    "twotower": fit_logistic,
    "scikit-learn, float64": fit_sklearn_float64,
    "scikit-learn, float32": fit_sklearn,
}

if __name__ == "__main__":
    main()
