"""Logistic regression over frozen vectors, and its C found as in the CLIP paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.errors import EvaluationError

ITERATIONS = 1000  # of L-BFGS at most (Radford et al. 2021, appendix A.3)
GRADIENT = 1e-6  # where it has converged: no entry of the gradient is larger
FIRST_C = 10.0 ** np.arange(-6, 7, 2)
STEPS_PER_DECADE = 8
SMALL = 10**9  # multiplications of a matrix product


@dataclass(frozen=True)
class Logistic:
    """logits = vectors @ weights.T + bias: weights [classes, embed_dim], bias [classes]."""

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    c: float

    def logits(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """[n, classes]."""
        return np.asarray(vectors @ self.weights.T + self.bias, np.float32)


def fit_logistic(
    vectors: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    classes: int,
    c: float,
    start: Logistic | None = None,
    tolerance: float = GRADIENT,
) -> Logistic:
    """The softmax regression that scikit-learn's `LogisticRegression(C=c)` also finds.

    Both minimise c * sum of the losses + half the squared weights, the bias left free; with two
    classes scikit-learn has one vector of weights, whose penalty this matches.

    Args:
        vectors: [n, embed_dim]. labels: [n], numbers below `classes`.
        start: where to begin, such as the fit for a C nearby; by default at zero.

    Raises:
        LogisticError: fewer than two classes, or scipy is not installed.
    """
    try:
        from scipy.optimize import minimize
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise EvaluationError("a linear probe needs pip install 'twotower[evaluate]'") from None
    n, width = vectors.shape
    if classes < 2:
        raise EvaluationError(f"a probe needs two classes or more, not {classes}")
    penalty = (2.0 if classes == 2 else 1.0) / (c * n)
    wanted = np.zeros((n, classes), vectors.dtype)
    wanted[np.arange(n), labels] = 1

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Mean loss and its gradient at weights and bias [classes * (width + 1)]."""
        both = flat.reshape(classes, width + 1)
        logits = vectors @ both[:, :width].T.astype(vectors.dtype) + both[:, width]
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        sums = exponentials.sum(axis=1, keepdims=True)
        losses = np.log(sums[:, 0]) - logits[np.arange(n), labels]
        error = ((exponentials / sums - wanted) / n).astype(vectors.dtype)  # [n, classes]
        gradient = np.empty_like(both)
        gradient[:, :width] = error.T @ vectors + penalty * both[:, :width]
        gradient[:, width] = error.sum(axis=0, dtype=np.float64)
        value = losses.mean(dtype=np.float64) + penalty / 2 * (both[:, :width] ** 2).sum()
        return float(value), gradient.ravel()

    first = np.zeros(classes * (width + 1))
    if start is not None:
        first = np.hstack([start.weights, start.bias[:, None]]).ravel()
    options = {"maxiter": ITERATIONS, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps}
    # a small product is slower in several threads, and on busy cores a hundred times as slow
    threads = 1 if n * width * classes < SMALL else None
    with threadpool_limits(threads, "blas"):
        found = minimize(loss, first, jac=True, method="L-BFGS-B", options=options)
    both = found.x.reshape(classes, width + 1)
    return Logistic(both[:, :width], both[:, width], c)


def search_c(score: Callable[[float], float]) -> float:
    """The C that scores best: seven from 1e-6 to 1e6, then ever nearer around the best of them.

    The paper's parametric search: the step is halved until there are eight to a decade, so 15
    fits stand for 96.

    Args:
        score: C -> accuracy on a validation set. Of equal ones the smallest C is taken.
    """
    scores = {float(np.log10(c)): score(float(c)) for c in FIRST_C}
    step = 2.0
    while step > 1 / STEPS_PER_DECADE:
        step /= 2
        best = _best(scores)
        for exponent in (best - step, best + step):
            if FIRST_C[0] <= 10**exponent <= FIRST_C[-1]:
                scores[exponent] = score(10**exponent)
    return float(10 ** _best(scores))


def _best(scores: dict[float, float]) -> float:
    return max(scores, key=lambda exponent: (scores[exponent], -exponent))
