"""Compare the linear probe, which scikit-learn fits, with the same regression in plain scipy.

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from benchmarks.table import write_results
from twotower.arrays import Float32Array, Float64Array, Int64Array, normalize
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
PEER = "scipy, float32 and float64"
COLUMNS = ("method", "pictures", "classes", "seconds", "time_ratio", "c", "test_top1")

Fit = Callable[[Float32Array, Int64Array, int, float, Any], Any]


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
        ratios = [run / peer for run, peer in zip(runs, seconds[PEER], strict=True)]
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
    fits: dict[float, Any] = {}

    def accuracy(model: Any, rows: slice) -> float:
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


def fit_float64(
    vectors: Float32Array, labels: Int64Array, classes: int, c: float, start: Logistic | None
) -> Logistic:
    return fit_logistic(vectors.astype(np.float64), labels, classes, c, start)


@dataclass(frozen=True)
class ScipyLogistic:
    """Weights [classes, width + 1], the bias in the last column."""

    weights: Float64Array

    def logits(self, vectors: NDArray[np.floating[Any]]) -> Float64Array:
        return np.asarray(vectors @ self.weights[:, :-1].T + self.weights[:, -1])


def fit_scipy(
    vectors: Float32Array, labels: Int64Array, classes: int, c: float, start: ScipyLogistic | None
) -> ScipyLogistic:
    """Minimise the same objective with float32 products and float64 weights."""
    n, width = vectors.shape
    penalty = 1.0 / (c * n)
    one_hot = np.zeros((n, classes), vectors.dtype)
    one_hot[np.arange(n), labels] = 1

    def loss(flat: Float64Array) -> tuple[float, Float64Array]:
        """Return the mean loss and its gradient [classes * (width + 1)]."""
        weights = flat.reshape(classes, width + 1)
        logits = vectors @ weights[:, :width].T.astype(vectors.dtype) + weights[:, width]
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        sums = exponentials.sum(axis=1, keepdims=True)
        losses = np.log(sums[:, 0]) - logits[np.arange(n), labels]
        error = ((exponentials / sums - one_hot) / n).astype(vectors.dtype)  # [n, classes]
        gradient = np.empty_like(weights)
        gradient[:, :width] = error.T @ vectors + penalty * weights[:, :width]
        gradient[:, width] = error.sum(axis=0, dtype=np.float64)
        value = losses.mean(dtype=np.float64) + penalty / 2 * (weights[:, :width] ** 2).sum()
        return float(value), gradient.ravel()

    initial = np.zeros(classes * (width + 1)) if start is None else start.weights.ravel()
    options = {"maxiter": ITERATIONS, "gtol": TOLERANCE, "ftol": 64 * np.finfo(float).eps}
    threads = 1 if n * width * classes < SMALL_PRODUCT else None
    with threadpool_limits(threads, "blas"):
        optimum = minimize(loss, initial, jac=True, method="L-BFGS-B", options=options)
    return ScipyLogistic(optimum.x.reshape(classes, width + 1))


METHODS: dict[str, Fit] = {
    PEER: fit_scipy,
    "twotower (scikit-learn, float32)": fit_logistic,
    "scikit-learn, float64": fit_float64,
}

if __name__ == "__main__":
    main()
