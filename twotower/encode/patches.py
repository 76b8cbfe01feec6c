"""What the towers see before they pool: cells of a picture, tokens of a question."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array
from twotower.encode.engine import Engine, start_engine
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.config import read_config

TEXTS = 64  # questions that are computed together
SIDE = 7  # cells along each side at most; finer grids are averaged down to it


class Cells:
    """The frozen towers of a model directory, without their pooling; started on first use.

    Raises:
        EngineError: the engine is unknown or not installed, or the directory lacks the graphs.
    """

    def __init__(self, directory: Path, engine: str = "onnxruntime") -> None:
        self.directory, self.engine = directory, engine
        config = read_config(directory)
        self.preprocess = Preprocess(config.preprocess)
        self.tokenizer = load_tokenizer(config.tokenizer, directory)
        self.bidirectional = config.text.kind == "transformer" and not config.text.causal

    def of_pictures(self, pixel_values: Float32Array) -> Float32Array:
        """[n, 3, S, S] -> [n, cells, width], row by row of the picture."""
        grid = self._cells(pixel_values)
        side = round(grid.shape[1] ** 0.5)
        if side <= SIDE:
            return grid
        mean = _windows(side)
        square = grid.reshape(len(grid), side, side, -1)
        coarse = np.einsum("ar,bc,nrcw->nabw", mean, mean, square, optimize=True)
        return np.asarray(coarse.reshape(len(grid), SIDE * SIDE, -1), np.float32)

    def of_questions(self, questions: Sequence[str]) -> tuple[Float32Array, NDArray[np.bool_]]:
        """Tokens [n, L, width], and which are no padding [n, L]."""
        tokens = self.tokenizer(questions)
        length = int(tokens.attention_mask.sum(axis=1).max())
        if self.bidirectional:  # SigLIP's must see their padding
            length = tokens.input_ids.shape[1]
        input_ids = np.ascontiguousarray(tokens.input_ids[:, :length])
        parts = [self._tokens(input_ids[i : i + TEXTS]) for i in range(0, len(input_ids), TEXTS)]
        return np.concatenate(parts), tokens.attention_mask[:, :length].astype(bool)

    @cached_property
    def _cells(self) -> Engine:
        return start_engine(self.engine, self.directory, "cells")

    @cached_property
    def _tokens(self) -> Engine:
        return start_engine(self.engine, self.directory, "tokens")


def _windows(side: int) -> Float32Array:
    """What averages `side` cells down to SIDE, in windows that overlap where they must."""
    mean = np.zeros((SIDE, side), np.float32)
    for row in range(SIDE):
        window = slice(row * side // SIDE, -(-(row + 1) * side // SIDE))
        mean[row, window] = 1 / (window.stop - window.start)
    return mean
