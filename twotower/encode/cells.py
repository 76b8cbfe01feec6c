"""What the towers see before they pool: cells of a picture, tokens of a question. Takes torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twotower.encode.engine import INSTALL, EngineError
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.config import read_config

if TYPE_CHECKING:
    from torch import Tensor

TEXTS = 64  # questions that are computed together
SIDE = 7  # cells along each side at most; finer grids are averaged down to it


class Cells:
    """The frozen towers of a model directory, without their pooling.

    Raises:
        EngineError: torch is not installed.
    """

    def __init__(self, directory: Path) -> None:
        try:
            from twotower.model.weights import load_model
        except ModuleNotFoundError as error:
            raise EngineError(
                f"a trained head needs the package {error.name!r}: {INSTALL['torch']}"
            ) from None
        self.directory = directory
        config = read_config(directory)
        self.preprocess = Preprocess(config.preprocess)
        self.tokenizer = load_tokenizer(config.tokenizer, directory)
        self.model = load_model(directory)
        self.bidirectional = config.text.kind == "transformer" and not config.text.causal

    def of_pictures(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, 3, S, S] -> [n, cells, width], row by row of the picture."""
        import torch
        import torch.nn.functional as F

        with torch.inference_mode():
            grid = self.model.vision.grid(torch.from_numpy(pixel_values))  # [n, cells, width]
            side = round(grid.shape[1] ** 0.5)
            if side > SIDE:
                square = grid.transpose(1, 2).unflatten(2, (side, side))
                grid = F.adaptive_avg_pool2d(square, SIDE).flatten(2).transpose(1, 2)
        return np.asarray(grid.numpy(), np.float32)

    def of_questions(self, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens [n, L, width], and which are no padding [n, L]."""
        import torch

        tokens = self.tokenizer(questions)
        length = int(tokens.attention_mask.sum(axis=1).max())
        if self.bidirectional:  # SigLIP's must see their padding
            length = tokens.input_ids.shape[1]
        real = torch.from_numpy(tokens.attention_mask[:, :length].astype(bool))
        input_ids = torch.from_numpy(np.ascontiguousarray(tokens.input_ids[:, :length]))
        with torch.inference_mode():
            parts = [self.model.text.tokens(some) for some in input_ids.split(TEXTS)]
        return torch.cat(parts).clone(), real
