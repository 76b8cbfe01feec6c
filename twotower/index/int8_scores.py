"""Exact top-k search over int8 codes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array, IndexArray

_ROUNDING = 1e-5  # more than float32 loses in a sum of unit vectors' products
_OUTLIER = 0.2  # of a query's length: numbers above it are not rounded


class _Best:
    """What can still be among the best `top`, as seen so far by all threads.

    `floor` is a score that `top` of them surely reach.
    """

    def __init__(self, top: int) -> None:
        self.floor = -np.inf
        self._top = top
        self._lock = threading.Lock()
        self._kept = np.zeros(0, np.intp), np.zeros(0), np.zeros(0)

    def put(self, slots: IndexArray, scores: NDArray[Any], margins: NDArray[Any]) -> None:
        with self._lock:
            kept = [
                np.concatenate(pair)
                for pair in zip(self._kept, (slots, scores, margins), strict=True)
            ]
            if len(kept[0]) > self._top:
                surely = kept[1] - kept[2]
                self.floor = np.partition(surely, -self._top)[-self._top]
            can_be = kept[1] + kept[2] >= self.floor
            self._kept = kept[0][can_be], kept[1][can_be], kept[2][can_be]

    def slots(self) -> IndexArray:
        return np.sort(self._kept[0])


def _round(rows: Float32Array) -> tuple[NDArray[np.int8], Float32Array]:
    """Codes [n, embed_dim], and for each row the worth of one step and the length that is lost."""
    steps = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30) / 127
    codes = np.rint(rows / steps).astype(np.int8)
    lost = np.linalg.norm(rows - codes * steps, axis=1, keepdims=True)
    return codes, np.hstack([steps, lost]).astype(np.float32)


_Score = Callable[
    [Float32Array, NDArray[np.int8], Float32Array, slice], tuple[NDArray[Any], NDArray[Any]]
]


def _rounded_scores(query: Float32Array) -> _Score | None:
    """What scores a part of the rows by their codes; None if simsimd is not installed.

    The score of a row x is wrong by at most its margin: with x', q' for the rounded,
    |q.x - q'.x'| = |q.(x - x') + (q - q').x'| <= |q| |x - x'| + |q - q'| |x'|.

    Words have a number or two in CLIP's space that are many times as large as all others, whose
    steps would be as coarse; so these are multiplied apart.
    """
    try:
        import simsimd
    except ImportError:
        return None
    length = float(np.linalg.norm(query))
    outliers = np.flatnonzero(np.abs(query) > _OUTLIER * length)
    even = query.copy()
    even[outliers] = 0
    codes, [[step, lost]] = _round(even[None])

    def score(
        rows: Float32Array, all_codes: NDArray[np.int8], scales: Float32Array, part: slice
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        products = step * np.asarray(simsimd.cdist(all_codes[part], codes, metric="dot"))[:, 0]
        if len(outliers):
            products += all_codes[part][:, outliers] @ query[outliers]
        row_steps, row_lost = scales[part].T
        margins = length * row_lost + lost * (1 + row_lost) + _ROUNDING
        return products * row_steps, margins

    return score


def _true_scores(query: Float32Array) -> _Score:
    """What scores a part of the rows by their vectors."""

    def score(
        rows: Float32Array, codes: NDArray[np.int8], scales: Float32Array, part: slice
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        scores = rows[part] @ query
        return scores, np.full(len(scores), _ROUNDING, np.float32)

    return score
