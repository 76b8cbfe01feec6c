"""Logistic regression on frozen vectors by L-BFGS, and the CLIP paper's search for its C.

scikit-learn's `LogisticRegression` finds the same minimum. For the search for C and the last fit on
512 numbers, in float64 it takes 1.14 (10 classes) and 1.06 (100 classes) times as long on 5,000
vectors, and 1.33 and 1.90 times as long on 16 vectors of each class. In float32 it is faster on
5,000 vectors, but stops before the minimum if C is small (benchmarks/speed/probe.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array, Float64Array, Int64Array
from twotower.errors import EvaluationError

ITERATIONS = 1000  # of L-BFGS at most (Radford et al. 2021, appendix A.3)
TOLERANCE = 1e-6  # L-BFGS stops when no entry of the gradient is larger
COARSE_C = 10.0 ** np.arange(-6, 7, 2)
STEPS_PER_DECADE = 8
SMALL_PRODUCT = 10**9  # multiplications


@dataclass(frozen=True)
class Logistic:
    """A classifier: logits = vectors @ weights.T + bias.

    Attributes:
        weights: [classes, embed_dim].
        bias: [classes].
        c: inverse strength of the penalty that it was fitted with.
    """

    weights: Float64Array
    bias: Float64Array
    c: float

    def logits(self, vectors: NDArray[np.floating[Any]]) -> Float32Array:
        """Return logits [n, classes]."""
        return np.asarray(vectors @ self.weights.T + self.bias, np.float32)


def fit_logistic(
    vectors: NDArray[np.floating[Any]],
    labels: Int64Array,
    classes: int,
    c: float,
    start: Logistic | None = None,
    tolerance: float = TOLERANCE,
) -> Logistic:
    """Fit a softmax regression: minimise c * sum of the losses + half the squared weights.

    The bias has no penalty. The minimum is that of scikit-learn's `LogisticRegression(C=c)`, which
    has a single weight vector for two classes; the penalty for two classes is doubled to match it.

    Args:
        vectors: [n, embed_dim]; products have their dtype.
        labels: [n], numbers below `classes`.
        start: a fit to start from, such as that for a similar C; by default, zero.

    Raises:
        EvaluationError: there are fewer than two classes, or scipy is not installed.
    """
    try:
        from scipy.optimize import minimize
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise EvaluationError(
            "linear probe", "scipy is not installed", "pip install 'twotower[evaluate]'"
        ) from None
    if classes < 2:
        raise EvaluationError(
            "linear probe", f"needs two classes or more, not {classes}", "add pictures of others"
        )
    size = classes * (vectors.shape[1] + 1)
    initial = np.zeros(size)
    if start is not None:
        initial = np.hstack([start.weights, start.bias[:, None]]).ravel()
    options = {"maxiter": ITERATIONS, "gtol": tolerance, "ftol": 64 * np.finfo(float).eps}
    # Several threads slow a small product down: on busy cores to a hundredth of its speed.
    threads = 1 if vectors.size * classes < SMALL_PRODUCT else None
    with threadpool_limits(threads, "blas"):
        optimum = minimize(
            _loss_function(vectors, labels, classes, c),
            initial,
            jac=True,
            method="L-BFGS-B",
            options=options,
        )
    solution = optimum.x.reshape(classes, -1)
    return Logistic(solution[:, :-1], solution[:, -1], c)


def _loss_function(
    vectors: NDArray[np.floating[Any]], labels: Int64Array, classes: int, c: float
) -> Callable[[Float64Array], tuple[float, Float64Array]]:
    """Return the mean loss and its gradient as a function of weights and bias.

    Its argument is flat: [classes, embed_dim + 1], with the bias in the last column.
    """
    n, width = vectors.shape
    penalty = (2.0 if classes == 2 else 1.0) / (c * n)
    one_hot = np.zeros((n, classes), vectors.dtype)
    one_hot[np.arange(n), labels] = 1

    def loss(flat: Float64Array) -> tuple[float, Float64Array]:
        parameters = flat.reshape(classes, width + 1)
        weights, bias = parameters[:, :width], parameters[:, width]
        logits = vectors @ weights.T.astype(vectors.dtype) + bias
        logits -= logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits)
        sums = exponentials.sum(axis=1, keepdims=True)
        losses = np.log(sums[:, 0]) - logits[np.arange(n), labels]
        error = ((exponentials / sums - one_hot) / n).astype(vectors.dtype)  # [n, classes]
        gradient = np.empty_like(parameters)
        gradient[:, :width] = error.T @ vectors + penalty * weights
        gradient[:, width] = error.sum(axis=0, dtype=np.float64)
        value = losses.mean(dtype=np.float64) + penalty / 2 * (weights**2).sum()
        return float(value), gradient.ravel()

    return loss


def search_c(score: Callable[[float], float]) -> float:
    """Return the C that scores best: try seven values from 1e-6 to 1e6, then halve the step.

    This is the parametric search of Radford et al. 2021, appendix A.3: it ends at eight steps for a
    decade, so 15 fits replace 96.

    Args:
        score: C -> accuracy on a validation set. The smallest of equally good C is returned.
    """
    scores = {float(np.log10(c)): score(float(c)) for c in COARSE_C}
    step = 2.0
    while step > 1 / STEPS_PER_DECADE:
        step /= 2
        best = _best_exponent(scores)
        for exponent in (best - step, best + step):
            if COARSE_C[0] <= 10**exponent <= COARSE_C[-1]:
                scores[exponent] = score(10**exponent)
    return float(10 ** _best_exponent(scores))


def _best_exponent(scores: dict[float, float]) -> float:
    return max(scores, key=lambda exponent: (scores[exponent], -exponent))
