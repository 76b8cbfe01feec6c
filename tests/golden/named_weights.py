"""Random weights that are a function of the names and shapes of a model's tensors.

Golden files of tiny models need not contain their weights, and stay small.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

SCALES = ("gamma", "norm", "ln_", "LayerNorm", "layer_norm", ".bn", "identity", "running_var")


def named_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """Return a tensor for each name; scales of norms are around 1, everything else around 0."""
    return {name: _tensor(name, tuple(shape)) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    scale = len(shape) == 1 and not name.endswith("bias") and any(norm in name for norm in SCALES)
    spread = 0.3 if len(shape) > 1 else 0.1
    return np.asarray(spread * normal + float(scale), np.float32)
