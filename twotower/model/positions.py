"""Learned positions of patches for another number of patches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from twotower.errors import ModelError
from twotower.model.config import CLIPConfig, ViTConfig

POSITIONS = "vision.pos_embed"


def resize_grid(positions: NDArray[Any], rows: int) -> NDArray[Any]:
    """Resize the positions of a square grid, bicubic and antialiased; others precede them.

    Args:
        positions: [1 + side * side, width], or without the row of a class token or mean.
        rows: of the result. If they are no such grid, the positions stay as they are.
    """
    side, new_side = math.isqrt(len(positions)), math.isqrt(rows)
    before = len(positions) - side**2
    if rows - new_side**2 != before:
        return positions
    grid = positions[before:].astype(np.float32).reshape(side, side, -1)
    size, bicubic = (new_side, new_side), PIL.Image.Resampling.BICUBIC
    channels = (PIL.Image.fromarray(channel) for channel in np.moveaxis(grid, 2, 0))
    resized = np.stack([np.asarray(channel.resize(size, bicubic)) for channel in channels], axis=2)
    tail = resized.reshape(new_side**2, -1).astype(positions.dtype)
    return np.concatenate([positions[:before], tail])


def with_image_size(
    config: CLIPConfig, tensors: Mapping[str, NDArray[Any]], image_size: int, source: Path
) -> tuple[CLIPConfig, dict[str, NDArray[Any]]]:
    """Return a model for pictures of another size, of which a smaller one is computed faster.

    Args:
        tensors: under the names of `CLIP.state_dict()`, or quantised.
        image_size: in pixels, a multiple of the patch size.
        source: the model, for messages.

    Raises:
        ModelError: the image tower is no vision transformer, or the size is no such multiple.
    """
    vision = config.vision
    if not isinstance(vision, ViTConfig):
        raise ModelError(
            source,
            "its image tower is not one whose positions can be resized, as of a ViT",
            "leave out --image-size",
        )
    side, remainder = divmod(image_size, vision.patch_size)
    if side < 1 or remainder:
        nearest = vision.patch_size * max(1, round(image_size / vision.patch_size))
        raise ModelError(
            source,
            f"{image_size} pixels are no multiple of its patches of {vision.patch_size}",
            f"give --image-size {nearest}",
        )
    class_tokens = len(tensors[POSITIONS]) - (vision.image_size // vision.patch_size) ** 2
    resized = resize_grid(tensors[POSITIONS], side**2 + class_tokens)
    changed = replace(
        config,
        name=f"{config.name}-{image_size}",
        vision=replace(vision, image_size=image_size),
        preprocess=replace(config.preprocess, image_size=image_size),
    )
    return changed, {**tensors, POSITIONS: resized}
