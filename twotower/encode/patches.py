"""The unpooled outputs of both towers: patches of a picture and tokens of a question."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from twotower.arrays import BoolArray, Float32Array
from twotower.encode.engine import Engine, start_engine
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.config import read_config

TEXT_BATCH = 64
MAX_SIDE = 7  # patches along each side; finer grids are averaged down to it


class UnpooledEncoder:
    """The towers of a model directory without their pooling, started on first use.

    Raises:
        EngineError: the engine is unknown or not installed, or the directory lacks the graphs.
    """

    def __init__(self, directory: Path, engine: str = "onnxruntime") -> None:
        self.directory, self.engine = directory, engine
        config = read_config(directory)
        self.preprocess = Preprocess(config.preprocess)
        self.tokenizer = load_tokenizer(config.tokenizer, config.text_directory(directory))
        self.needs_padding = config.needs_padding

    def patches(self, pixel_values: Float32Array) -> Float32Array:
        """Encode pictures [n, 3, S, S] -> [n, patches, width], row by row; at most 7 x 7."""
        patches = self._vision(pixel_values)
        side = round(patches.shape[1] ** 0.5)
        if side <= MAX_SIDE:
            return patches
        mean = _averaging_matrix(side)
        square = patches.reshape(len(patches), side, side, -1)
        coarse = np.einsum("ar,bc,nrcw->nabw", mean, mean, square, optimize=True)
        return np.asarray(coarse.reshape(len(patches), MAX_SIDE * MAX_SIDE, -1), np.float32)

    def tokens(self, questions: Sequence[str]) -> tuple[Float32Array, BoolArray]:
        """Encode questions -> tokens [n, L, width], and a mask [n, L] that is False at padding."""
        tokens = self.tokenizer(questions)
        length = int(tokens.attention_mask.sum(axis=1).max())
        if self.needs_padding:
            length = tokens.input_ids.shape[1]
        input_ids = np.ascontiguousarray(tokens.input_ids[:, :length])
        batches = [
            self._text(input_ids[start : start + TEXT_BATCH])
            for start in range(0, len(input_ids), TEXT_BATCH)
        ]
        return np.concatenate(batches), tokens.attention_mask[:, :length].astype(bool)

    @cached_property
    def _vision(self) -> Engine:
        return start_engine(self.engine, self.directory, "patches")

    @cached_property
    def _text(self) -> Engine:
        return start_engine(self.engine, self.directory, "tokens")


def _averaging_matrix(side: int) -> Float32Array:
    """Return [MAX_SIDE, side], whose rows average windows that together cover `side` patches."""
    mean = np.zeros((MAX_SIDE, side), np.float32)
    for row in range(MAX_SIDE):
        window = slice(row * side // MAX_SIDE, -(-(row + 1) * side // MAX_SIDE))
        mean[row, window] = 1 / (window.stop - window.start)
    return mean
