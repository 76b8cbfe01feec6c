"""Array types, and the arithmetic on embeddings that several rooms share."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]
Int64Array: TypeAlias = NDArray[np.int64]
UInt8Array: TypeAlias = NDArray[np.uint8]
BoolArray: TypeAlias = NDArray[np.bool_]
IndexArray: TypeAlias = NDArray[np.intp]


def normalize(features: Float32Array) -> Float32Array:
    """Scale the rows of `features` [n, embed_dim] to unit length; a zero row stays zero."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-12), np.float32)


def best_first(scores: NDArray[Any], ids: Int64Array) -> IndexArray:
    """Return the order of descending `scores` [n], the lower of `ids` [n] first among equals."""
    return np.lexsort((ids, -scores))
