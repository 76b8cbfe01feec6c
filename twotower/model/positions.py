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
    prefix = len(positions) - side**2
    if rows - new_side**2 != prefix:
        return positions
    grid = positions[prefix:].astype(np.float32).reshape(side, side, -1)
    size, bicubic = (new_side, new_side), PIL.Image.Resampling.BICUBIC
    channels = (PIL.Image.fromarray(channel) for channel in np.moveaxis(grid, 2, 0))
    resized = np.stack([np.asarray(channel.resize(size, bicubic)) for channel in channels], axis=2)
    grid_rows = resized.reshape(new_side**2, -1).astype(positions.dtype)
    return np.concatenate([positions[:prefix], grid_rows])


def with_image_size(
    config: CLIPConfig, tensors: Mapping[str, NDArray[Any]], image_size: int, source: Path
) -> tuple[CLIPConfig, dict[str, NDArray[Any]]]:
    """Return a model for pictures of another size, of which a smaller one is computed faster.

    Args:
        tensors: under the names of `CLIP.state_dict()`, or quantised.
        image_size: in pixels, a multiple of the patch size, from half to twice that of `config`.
        source: the model, for messages.

    Raises:
        ModelError: the image tower is no `ViTConfig`, or the size is no such multiple.
    """
    vision = config.vision
    if not isinstance(vision, ViTConfig):
        raise ModelError(
            source,
            "its image tower is not a plain vision transformer, so its image size is fixed",
            "leave out --image-size",
        )
    _check_image_size(vision, image_size, source)
    old_side, side = vision.image_size // vision.patch_size, image_size // vision.patch_size
    class_tokens = len(tensors[POSITIONS]) - old_side**2
    positions = resize_grid(tensors[POSITIONS], class_tokens + side**2)
    new_config = replace(
        config,
        name=f"{config.name.removesuffix(f'-{vision.image_size}')}-{image_size}",
        vision=replace(vision, image_size=image_size),
        preprocess=replace(config.preprocess, image_size=image_size),
    )
    return new_config, {**tensors, POSITIONS: positions}


def _check_image_size(vision: ViTConfig, image_size: int, source: Path) -> None:
    old_size, patch_size = vision.image_size, vision.patch_size
    if image_size == old_size:
        raise ModelError(source, f"its image size is {old_size} already", "give another one")
    if not old_size / 2 <= image_size <= old_size * 2:
        raise ModelError(
            source,
            f"an image size of {image_size} is too far from {old_size}, that of its training",
            f"give one from {old_size // 2} to {old_size * 2}",
        )
    if image_size % patch_size:
        nearest = patch_size * round(image_size / patch_size)
        raise ModelError(
            source,
            f"an image size of {image_size} is not a multiple of its patch size, {patch_size}",
            f"give {nearest}",
        )
