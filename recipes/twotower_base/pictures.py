"""The photographs that the rounded tower is fitted on, and their thumbnails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.twotower_small.losses import read_pairs
from recipes.twotower_small.pretrained import TEACHER
from recipes.twotower_small.vision_student import shrink
from twotower.inputs.preprocess import Preprocess
from twotower.model.presets import preset
from twotower.train.batches import normalize_pixels

THUMBNAIL = 32  # pixels; such pictures need weights that photographs hardly use


def read_photographs(folder: Path, count: int) -> Tensor:
    """Return `count` of the photographs in a folder of tars, uint8 [count, 3, S, S].

    They are spread evenly over all tars.
    """
    square = Preprocess(preset(TEACHER).preprocess).square
    pairs = [pair for tar in sorted(folder.glob("*.tar")) for pair in read_pairs(tar)]
    if len(pairs) < count:
        raise FileNotFoundError(f"{folder}: {len(pairs)} photographs in tars, but {count} needed")
    rows = np.linspace(0, len(pairs) - 1, count).round().astype(int)
    pixels = np.stack([np.asarray(square(pairs[row].picture)) for row in rows])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def to_thumbnails(pixels: Tensor) -> Tensor:
    """Shrink pictures [n, 3, S, S] to 32 pixels and enlarge them again."""
    rows = pixels.permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.stack([shrink(row, THUMBNAIL) for row in rows])).permute(0, 3, 1, 2)


def normalize(pixels: Tensor) -> Tensor:
    """Return pixel_values [n, 3, S, S] in float32."""
    return normalize_pixels(pixels, preset(TEACHER).preprocess)
