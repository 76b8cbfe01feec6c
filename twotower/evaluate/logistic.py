"""Logistic regression on frozen vectors (scikit-learn), and the CLIP paper's search for its C."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array, Int64Array
from twotower.errors import EvaluationError

ITERATIONS = 1000  # of L-BFGS at most (Radford et al. 2021, appendix A.3)
TOLERANCE = 1e-6  # L-BFGS stops when no entry of the gradient is larger
COARSE_C = 10.0 ** np.arange(-6, 7, 2)
STEPS_PER_DECADE = 8
SMALL_PRODUCT = 10**9  # multiplications


@dataclass(frozen=True)
class Logistic:
    """A fitted `LogisticRegression`, whose logits cover classes without training vectors too.

    Attributes:
        classes: number of classes.
        c: inverse strength of the penalty.
    """

    estimator: Any
    classes: int
    c: float

    def logits(self, vectors: NDArray[np.floating[Any]]) -> Float32Array:
        """Return logits [n, classes]; those of a class without training vectors are -inf."""
        decisions = self.estimator.decision_function(vectors)
        if decisions.ndim == 1:  # of two classes, scikit-learn returns the difference
            decisions = np.stack([np.zeros_like(decisions), decisions], axis=1)
        logits = np.full((len(vectors), self.classes), -np.inf, np.float32)
        logits[:, self.estimator.classes_] = decisions
        return logits


def fit_logistic(
    vectors: NDArray[np.floating[Any]],
    labels: Int64Array,
    classes: int,
    c: float,
    start: Logistic | None = None,
    tolerance: float = TOLERANCE,
) -> Logistic:
    """Fit a softmax regression with an L2 penalty, which leaves the intercepts free.

    Args:
        vectors: [n, embed_dim]; products and coefficients have their dtype. float32 is faster than
            float64 on many vectors, at equal accuracy (benchmarks/speed/probe.py).
        labels: [n], numbers below `classes`.
        c: inverse strength of the penalty.
        start: a fit to start from, such as that for a similar C; by default, zero.

    Raises:
        EvaluationError: fewer than two classes have vectors, or scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise EvaluationError(
            "linear probe", "scikit-learn is not installed", "pip install 'twotower[evaluate]'"
        ) from None
    present = np.unique(labels)
    if len(present) < 2:
        raise EvaluationError(
            "linear probe",
            f"needs two classes or more, not {len(present)}",
            "add pictures of others",
        )
    if start is not None and np.array_equal(start.estimator.classes_, present):
        estimator = copy.deepcopy(start.estimator).set_params(C=c, tol=tolerance)
    else:
        estimator = LogisticRegression(C=c, max_iter=ITERATIONS, tol=tolerance, warm_start=True)
    # Several threads slow a small product down: on busy cores to a hundredth of its speed.
    threads = 1 if vectors.size * classes < SMALL_PRODUCT else None
    with warnings.catch_warnings(), threadpool_limits(threads, "blas"):
        warnings.simplefilter("ignore")  # of few shots, and of the limit on iterations
        return Logistic(estimator.fit(vectors, labels), classes, c)


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
