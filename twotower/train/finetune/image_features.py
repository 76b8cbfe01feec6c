"""The features of pictures by a tower whose weights were changed, in torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twotower.arrays import Float32Array
from twotower.errors import PictureError
from twotower.inputs.preprocess import Preprocess
from twotower.model.clip import CLIP
from twotower.model.config import ViTConfig

VIT_BATCH, CONVNET_BATCH = 32, 8  # pictures; small batches stay in a CPU's cache


@torch.inference_mode()
def image_features(model: CLIP, pictures: Iterable[bytes]) -> Float32Array:
    """Return image_features [n, embed_dim]; a row of NaN for an unreadable picture."""
    preprocess = Preprocess(model.config.preprocess)
    side = preprocess.config.image_size
    unreadable = np.full((3, side, side), np.nan, np.float32)

    def read(picture: bytes) -> Float32Array:
        try:
            return preprocess(picture)
        except PictureError:
            return unreadable

    size = VIT_BATCH if isinstance(model.config.vision, ViTConfig) else CONVNET_BATCH
    vision = _fast_vision(model)
    rows, remaining = [], iter(pictures)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        while batch := list(islice(remaining, size)):
            pixels = np.stack(list(threads.map(read, batch)))
            broken = np.isnan(pixels[:, 0, 0, 0])
            features = vision(torch.from_numpy(np.nan_to_num(pixels))).numpy()
            features[broken] = np.nan
            rows.append(features)
    return np.concatenate(rows)


def _fast_vision(model: CLIP) -> Callable[[Tensor], Tensor]:
    """Return the image tower, in channels-last order if it has convolutions."""
    vision: Any = model.vision
    if isinstance(model.config.vision, ViTConfig):
        return vision
    vision.to(memory_format=torch.channels_last)
    return lambda pixels: vision(pixels.contiguous(memory_format=torch.channels_last))
