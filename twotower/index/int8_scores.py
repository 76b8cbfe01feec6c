"""Exact top-k search over int8 codes, a quarter of the bytes of the float32 vectors.

The error of a score from rounded vectors has a known bound (`_int8_scorer`). Every row whose score
may be among the `top` highest within that bound is a candidate; the caller scores the candidates
with the float32 vectors. Without simsimd, which multiplies int8, all float32 vectors are read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import BoolArray, Float32Array, IndexArray
from twotower.encode.machine import available_threads

CHUNK = 32768  # rows that a thread scores at a time

_FLOAT32_ERROR = 1e-5  # more than float32 loses in a dot product of unit vectors
_OUTLIER = 0.2  # share of the query's length above which a component is not rounded

# rows [n, embed_dim], their codes and scales, and a range of rows -> scores and error bounds
_Scorer: TypeAlias = Callable[
    [Float32Array, NDArray[np.int8], Float32Array, slice], tuple[NDArray[Any], NDArray[Any]]
]


def quantize(rows: Float32Array) -> tuple[NDArray[np.int8], Float32Array]:
    """Round vectors [n, embed_dim] to 8 bits.

    Returns:
        codes [n, embed_dim] and scales [n, 2]: the size of one step of the codes, and the length of
        the rounding error.
    """
    steps = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30) / 127
    codes = np.rint(rows / steps).astype(np.int8)
    errors = np.linalg.norm(rows - codes * steps, axis=1, keepdims=True)
    return codes, np.hstack([steps, errors]).astype(np.float32)


def find_candidates(
    rows: Float32Array,
    codes: NDArray[np.int8],
    scales: Float32Array,
    query: Float32Array,
    top: int,
    allowed: BoolArray | None,
) -> IndexArray:
    """Return all rows that may be among the `top` nearest to `query` [embed_dim].

    Args:
        rows: vectors [n, embed_dim], with their `quantize`d codes and scales.
        allowed: the rows to search [n]; None for all.

    Returns:
        row numbers [m], ascending; m is little above `top`.
    """
    scorer = _int8_scorer(query) or _float32_scorer(query)
    candidates = _Candidates(top)

    def score_chunk(start: int) -> None:
        chunk = slice(start, start + CHUNK)
        scores, bounds = scorer(rows, codes, scales, chunk)
        possible = scores + bounds >= candidates.threshold
        if allowed is not None:
            possible &= allowed[chunk]
        numbers = np.flatnonzero(possible)
        candidates.add(start + numbers, scores[numbers], bounds[numbers])

    for _ in _threads().map(score_chunk, range(0, len(rows), CHUNK)):
        pass  # re-raises the errors of threads
    return candidates.numbers()


class _Candidates:
    """The rows that may be among the `top` best of those that all threads have scored so far.

    Attributes:
        threshold: a score that `top` of them certainly reach.
    """

    def __init__(self, top: int) -> None:
        self.threshold = -np.inf
        self._top = top
        self._lock = threading.Lock()
        self._rows = np.zeros(0, np.intp), np.zeros(0), np.zeros(0)  # numbers, scores, bounds

    def add(self, numbers: IndexArray, scores: NDArray[Any], bounds: NDArray[Any]) -> None:
        with self._lock:
            numbers, scores, bounds = (
                np.concatenate(pair)
                for pair in zip(self._rows, (numbers, scores, bounds), strict=True)
            )
            if len(numbers) > self._top:
                lowest = scores - bounds
                self.threshold = np.partition(lowest, -self._top)[-self._top]
            possible = scores + bounds >= self.threshold
            self._rows = numbers[possible], scores[possible], bounds[possible]

    def numbers(self) -> IndexArray:
        return np.sort(self._rows[0])


def _int8_scorer(query: Float32Array) -> _Scorer | None:
    """Return a function that scores rows by their codes; None if simsimd is not installed.

    With x', q' for the rounded vectors, the error of the score of a row x is at most its bound:
    |q.x - q'.x'| = |q.(x - x') + (q - q').x'| <= |q| |x - x'| + |q - q'| |x'|.

    CLIP's text embeds have one or two components many times as large as the others, which would
    make the steps of q' coarse; these outliers are multiplied without rounding.
    """
    try:
        import simsimd
    except ImportError:
        return None
    length = float(np.linalg.norm(query))
    outliers = np.flatnonzero(np.abs(query) > _OUTLIER * length)
    rounded = query.copy()
    rounded[outliers] = 0
    query_codes, [[step, error]] = quantize(rounded[None])

    def score(
        rows: Float32Array, codes: NDArray[np.int8], scales: Float32Array, chunk: slice
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        distances = simsimd.cdist(codes[chunk], query_codes, metric="dot")
        products = step * np.asarray(distances)[:, 0]
        if len(outliers):
            products += codes[chunk][:, outliers] @ query[outliers]
        row_steps, row_errors = scales[chunk].T
        bounds = length * row_errors + error * (1 + row_errors) + _FLOAT32_ERROR
        return products * row_steps, bounds

    return score


def _float32_scorer(query: Float32Array) -> _Scorer:
    """Return a function that scores rows by their float32 vectors."""

    def score(
        rows: Float32Array, codes: NDArray[np.int8], scales: Float32Array, chunk: slice
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        scores = rows[chunk] @ query
        return scores, np.full(len(scores), _FLOAT32_ERROR, np.float32)

    return score


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(available_threads(), thread_name_prefix="twotower-search")
