"""Where a picture matches words: a heat map, from any encoder, without training.

The picture is looked at through windows of a few sizes that overlap by half. A window counts by
how much nearer it is to the words than to everyday words, and a place by the windows over it. A
vision transformer in torch says what each of its patches shows, and these are the windows then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twotower.arrays import Float32Array
from twotower.encode.encoder import Encoder
from twotower.encode.prompts import EVERYDAY
from twotower.errors import LabelError
from twotower.inputs.pictures import Picture, on_white, open_picture

WINDOWS = (1 / 2, 1 / 3, 1 / 4)  # sides, of the picture's shorter side
CELLS = 48  # along the shorter side of the heat map
LONGEST_STRIP = 3  # times its shorter side; what lies beyond, at both ends, is not looked at
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Explanation:
    """Where a picture matches words.

    Attributes:
        picture: as it was looked at, upright, RGB.
        heat: [rows, columns] over the picture; how much nearer to the words than to everyday
            words the windows or patches are that show a place (a difference of cosines).
        score: the cosine of the whole picture and the words.
    """

    picture: Image.Image
    heat: Float32Array
    score: float

    @property
    def peak(self) -> tuple[float, float]:
        """The hottest place: (x, y), each from 0 to 1."""
        row, column = np.unravel_index(int(self.heat.argmax()), self.heat.shape)
        rows, columns = self.heat.shape
        return (int(column) + 0.5) / columns, (int(row) + 0.5) / rows


def explain(model: Encoder, picture: Picture, text: str) -> Explanation:
    """Find out where `picture` matches `text`.

    It takes one encoding of a square picture where the model `sees_patches`, else about 80, and
    more for a longer one.

    Raises:
        ExplainError: `text` has no words.
        PictureError: the picture cannot be read.
    """
    if not text.strip():
        raise LabelError("there are no words; say what to look for in the picture")
    image = on_white(open_picture(picture))
    image = _middle(image)
    query = model.encode_text(text)[0]
    everyday = model.encode_text(EVERYDAY).mean(axis=0)
    boxes, embeds = _patches(model, image) if model.sees_patches else _windows(model, image)
    score = float(model.encode_image(image)[0] @ query)
    return Explanation(image, _heat(image, boxes, embeds @ (query - everyday)), score)


def draw(explanation: Explanation) -> Image.Image:
    """The picture, grey where it does not match and glowing where it does."""
    picture, heat = explanation.picture, explanation.heat
    low, high = np.quantile(heat, 0.5), heat.max()
    share = np.clip((heat - low) / max(float(high - low), 1e-6), 0, 1)
    levels = Image.fromarray((255 * share).astype(np.uint8)).resize(
        picture.size, Image.Resampling.BICUBIC
    )
    alpha = np.asarray(levels, np.float32)[:, :, None] / 255
    colour = np.asarray(picture, np.float32)
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32) * 0.55 + 40
    shown = grey + (colour - grey) * np.minimum(1, 2 * alpha)
    shown += alpha**2 * 0.45 * (np.array([255, 90, 20], np.float32) - shown)
    return Image.fromarray(np.clip(shown, 0, 255).astype(np.uint8))


def _middle(image: Image.Image) -> Image.Image:
    """A long strip without its ends."""
    most = LONGEST_STRIP * min(image.size)
    left, top = max(0, image.width - most) // 2, max(0, image.height - most) // 2
    return image.crop((left, top, image.width - left, image.height - top))


def _windows(model: Encoder, image: Image.Image) -> tuple[list[Box], Float32Array]:
    """Windows [n] and their embeds [n, embed_dim]."""
    windows = list(_boxes(*image.size, WINDOWS))
    return list(windows), model.encode_image([image.crop(window) for window in windows])


def _patches(model: Encoder, image: Image.Image) -> tuple[list[Box], Float32Array]:
    """Patches [n] and their embeds [n, embed_dim], of squares as large as the picture gives."""
    squares = list(_boxes(*image.size, (1,)))
    pixel_values = np.stack([model.preprocess(image.crop(square)) for square in squares])
    embeds = model.encode_patches(pixel_values)  # [squares, patches, embed_dim]
    grid = round(embeds.shape[1] ** 0.5)
    boxes: list[Box] = []
    for left, top, right, bottom in squares:
        side_x, side_y = (right - left) / grid, (bottom - top) / grid
        for row, column in np.ndindex(grid, grid):
            x, y = left + column * side_x, top + row * side_y
            boxes.append((x, y, x + side_x, y + side_y))
    return boxes, embeds.reshape(-1, embeds.shape[-1])


def _boxes(width: int, height: int, shares: Sequence[float]) -> Iterator[tuple[int, int, int, int]]:
    """Squares of each size (as a share of the shorter side), half a side apart at most."""
    for share in shares:
        side = max(1, round(share * min(width, height)))
        for top in _starts(height, side):
            for left in _starts(width, side):
                yield left, top, left + side, top + side


def _starts(length: int, side: int) -> list[int]:
    count = int(np.ceil(2 * (length - side) / side)) + 1
    return [round(start) for start in np.linspace(0, length - side, count)]


def _heat(image: Image.Image, boxes: Sequence[Box], scores: Float32Array) -> Float32Array:
    """The mean of the windows over each cell; those near whose middle it lies count for more."""
    cell = min(image.size) / CELLS
    columns, rows = round(image.width / cell), round(image.height / cell)
    x = (np.arange(columns) + 0.5) * image.width / columns
    y = (np.arange(rows) + 0.5) * image.height / rows
    total, weight = np.zeros((rows, columns)), np.full((rows, columns), 1e-9)
    for (left, top, right, bottom), score in zip(boxes, scores, strict=True):
        across = _bump((x - left) / (right - left))
        along = _bump((y - top) / (bottom - top))
        seen = along[:, None] * across[None]
        total += seen * score
        weight += seen
    return np.asarray(total / weight, np.float32)


def _bump(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 in the middle of a window, 0 outside, never 0 inside."""
    inside = (place >= 0) & (place <= 1)
    return np.where(inside, np.cos(np.pi * (place - 0.5) * 0.95) ** 2, 0.0)
