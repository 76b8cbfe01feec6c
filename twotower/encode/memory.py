"""Batches that are too large for the memory: computed in halves."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array
from twotower.encode.engine import Engine
from twotower.errors import EngineError

# In the messages of onnxruntime, OpenVINO and torch, which have no common class of exception.
_MESSAGES = (
    "bad_alloc",
    "failed to allocate",
    "can't allocate",
    "out of memory",
    "arena::allocate",
)


class HalvingEngine:
    """An engine that computes a batch in halves where the memory is too small for the whole.

    The size that was possible is kept for the batches that follow.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._max_rows: int | None = None

    def __call__(self, batch: NDArray[Any]) -> Float32Array:
        """Compute features as `Engine` does.

        Raises:
            EngineError: the memory is too small for a single row.
        """
        outputs: list[Float32Array] = []
        start = 0
        while start < len(batch) or not outputs:
            rows = batch[start : start + (self._max_rows or len(batch))]
            try:
                outputs.append(self._engine(rows))
                start += len(rows)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(len(rows))
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _halve(self, rows: int) -> None:
        if rows <= 1:
            raise EngineError(
                "a batch of 1",
                "does not fit into the memory",
                "close other programs, or choose a smaller model",
            ) from None
        self._max_rows = rows // 2
        warnings.warn(
            f"the memory is too small for a batch of {rows}; {self._max_rows} are computed at once",
            stacklevel=3,
        )


def is_out_of_memory(error: Exception) -> bool:
    """Return True for the errors of numpy and of the engines when memory cannot be allocated."""
    if isinstance(error, MemoryError):
        return True
    return any(message in str(error).lower() for message in _MESSAGES)
