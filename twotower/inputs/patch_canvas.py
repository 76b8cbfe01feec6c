"""Pictures of any shape as a sequence of patches in a square canvas, for SigLIP 2 NaFlex.

The canvas has as many slots as the model reads patches at most. The patches of a picture fill the
first of them in reading order, so that all pictures of a batch have arrays of one shape. A fourth
channel has the picture's number of rows and columns of patches in its first two values.
"""

from __future__ import annotations

import math

import numpy as np

from twotower.arrays import Float32Array

MAX_SCALE = 100.0  # of a picture's sides
TOLERANCE = 1e-5  # of the scale


def patch_grid(height: int, width: int, patch_size: int, max_patches: int) -> tuple[int, int]:
    """Return rows and columns of patches for a picture: the most in its shape, up to a maximum.

    Both sides are scaled alike and rounded up to whole patches. The scale is searched by bisection
    with the bounds of big_vision and transformers, since its rounding decides the grid.
    """
    low, high = TOLERANCE / 10, MAX_SCALE

    def grid(scale: float) -> tuple[int, int]:
        rows, columns = (
            math.ceil(height * scale / patch_size),
            math.ceil(width * scale / patch_size),
        )
        return max(1, rows), max(1, columns)

    while high - low >= TOLERANCE:
        middle = (low + high) / 2
        if math.prod(grid(middle)) <= max_patches:
            low = middle
        else:
            high = middle
    return grid(low)


def pack_patches(pixel_values: Float32Array, patch_size: int, canvas_size: int) -> Float32Array:
    """Lay the patches of a picture into a canvas: [3, height, width] -> [4, side, side]."""
    _, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    side = canvas_size // patch_size
    patches = pixel_values.reshape(3, rows, patch_size, columns, patch_size)
    patches = patches.transpose(1, 3, 0, 2, 4).reshape(-1, 3, patch_size, patch_size)
    slots = np.zeros((side * side, *patches.shape[1:]), np.float32)
    slots[: len(patches)] = patches
    canvas = np.zeros((4, canvas_size, canvas_size), np.float32)
    slots = slots.reshape(side, side, 3, patch_size, patch_size).transpose(2, 0, 3, 1, 4)
    canvas[:3] = slots.reshape(3, canvas_size, canvas_size)
    canvas[3, 0, :2] = rows, columns
    return canvas
