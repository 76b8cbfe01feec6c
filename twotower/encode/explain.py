"""Heat maps of where a picture matches a text, from any encoder, without training.

The picture is cut into windows of a few sizes that overlap by half. The score of a window is the
cosine to the text minus the cosine to everyday words; a position of the heat map has the weighted
mean of the windows that cover it. For a vision transformer, the windows are its patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from twotower.arrays import Float32Array, Float64Array
from twotower.encode.encoder import Encoder
from twotower.encode.prompts import EVERYDAY_WORDS
from twotower.errors import LabelError
from twotower.inputs.pictures import Picture, on_white, open_picture

WINDOW_SIDES = (1 / 2, 1 / 3, 1 / 4)  # as shares of the picture's shorter side
SQUARE_SIDES = (1, 2 / 3)  # of the squares whose patches are compared
PATCHES_BESIDE = 2  # on each side of a patch, that its score counts for
HEAT_SIDE = 48  # positions along the shorter side of the heat map
MAX_ASPECT_RATIO = 3  # longer pictures are cropped to it at both ends
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Explanation:
    """A heat map of where a picture matches a text.

    Attributes:
        picture: upright, RGB, cropped to `MAX_ASPECT_RATIO`.
        heat: [rows, columns] over the picture: the mean score of the windows that cover a
            position, the cosine to the text minus the cosine to everyday words.
        score: the cosine of the whole picture and the text.
    """

    picture: Image.Image
    heat: Float32Array
    score: float

    @property
    def peak(self) -> tuple[float, float]:
        """The position (x, y) of the highest heat, each from 0 to 1."""
        row, column = np.unravel_index(int(self.heat.argmax()), self.heat.shape)
        rows, columns = self.heat.shape
        return (int(column) + 0.5) / columns, (int(row) + 0.5) / rows


def explain(model: Encoder, picture: Picture, text: str) -> Explanation:
    """Find out where `picture` matches `text`.

    This encodes about 80 windows of a square picture, or 5 squares if the model `supports_patches`;
    more for a longer picture.

    Raises:
        LabelError: `text` is empty.
        PictureError: the picture cannot be read.
    """
    if not text.strip():
        raise LabelError("text", "empty", "write what to look for in the picture")
    image = _crop_middle(on_white(open_picture(picture)))
    query = model.encode_text(text)[0]
    everyday = model.encode_text(EVERYDAY_WORDS).mean(axis=0)
    boxes, embeds = _patches(model, image) if model.supports_patches else _windows(model, image)
    score = float(model.encode_image(image)[0] @ query)
    return Explanation(image, _heat(image, boxes, embeds @ (query - everyday)), score)


def draw(explanation: Explanation) -> Image.Image:
    """Draw the picture in colour and orange where the heat is high, in grey elsewhere."""
    picture = explanation.picture
    alpha = np.asarray(_levels(explanation), np.float32)[:, :, None] / 255
    colour = np.asarray(picture, np.float32)
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32) * 0.55 + 40
    drawn = grey + (colour - grey) * np.minimum(1, 2 * alpha)
    drawn += alpha**2 * 0.45 * (np.array([255, 90, 20], np.float32) - drawn)
    return Image.fromarray(np.clip(drawn, 0, 255).astype(np.uint8))


def draw_overlay(explanation: Explanation, size: tuple[int, int]) -> Image.Image:
    """Draw the heat alone, orange and the more opaque, the higher it is.

    Args:
        size: of the picture before it was cropped; the overlay, RGBA, has it.
    """
    overlay = Image.new("RGBA", size, (255, 90, 20, 0))
    levels = _levels(explanation).point(lambda level: level * 0.7)
    corner = (size[0] - levels.width) // 2, (size[1] - levels.height) // 2
    alpha = Image.new("L", size, 0)
    alpha.paste(levels, corner)
    overlay.putalpha(alpha)
    return overlay


def _levels(explanation: Explanation) -> Image.Image:
    """Return the heat above its median from 0 to 255, in the size of the picture."""
    heat = explanation.heat
    low, high = np.quantile(heat, 0.5), heat.max()
    relative = np.clip((heat - low) / max(float(high - low), 1e-6), 0, 1)
    levels = Image.fromarray((255 * relative).astype(np.uint8))
    return levels.resize(explanation.picture.size, Image.Resampling.BICUBIC)


def _crop_middle(image: Image.Image) -> Image.Image:
    """Cut off the ends of a picture that is longer than `MAX_ASPECT_RATIO`."""
    longest = MAX_ASPECT_RATIO * min(image.size)
    x, y = max(0, image.width - longest) // 2, max(0, image.height - longest) // 2
    return image.crop((x, y, image.width - x, image.height - y))


def _windows(model: Encoder, image: Image.Image) -> tuple[list[Box], Float32Array]:
    """Return n windows and their embeds [n, embed_dim]."""
    windows = list(_boxes(*image.size, WINDOW_SIDES))
    return list(windows), model.encode_image([image.crop(window) for window in windows])


def _patches(model: Encoder, image: Image.Image) -> tuple[list[Box], Float32Array]:
    """Return n patches of squares that cover the picture, and their embeds [n, embed_dim].

    The box of a patch also covers patches beside it, because single patches of a transformer can
    be similar to any words.
    """
    squares = list(_boxes(*image.size, SQUARE_SIDES))
    pixel_values = np.stack([model.preprocess(image.crop(square)) for square in squares])
    batches = [model.encode_patches(pixel_values[i : i + 4]) for i in range(0, len(squares), 4)]
    embeds = np.concatenate(batches)  # [squares, patches, embed_dim]
    grid = round(embeds.shape[1] ** 0.5)
    boxes: list[Box] = []
    for x1, y1, x2, y2 in squares:
        width, height = (x2 - x1) / grid, (y2 - y1) / grid
        for row, column in np.ndindex(grid, grid):
            x, y = x1 + (column + 0.5) * width, y1 + (row + 0.5) * height
            across, down = (PATCHES_BESIDE + 0.5) * width, (PATCHES_BESIDE + 0.5) * height
            boxes.append((x - across, y - down, x + across, y + down))
    return boxes, embeds.reshape(-1, embeds.shape[-1])


def _boxes(width: int, height: int, shares: Sequence[float]) -> Iterator[tuple[int, int, int, int]]:
    """Yield squares of each size (as a share of the shorter side), at most half a side apart."""
    for share in shares:
        side = max(1, round(share * min(width, height)))
        for y in _starts(height, side):
            for x in _starts(width, side):
                yield x, y, x + side, y + side


def _starts(length: int, side: int) -> list[int]:
    count = int(np.ceil(2 * (length - side) / side)) + 1
    return [round(start) for start in np.linspace(0, length - side, count)]


def _heat(image: Image.Image, boxes: Sequence[Box], scores: Float32Array) -> Float32Array:
    """Return [rows, columns]: at each position the mean of the boxes that cover it.

    A box counts the more, the nearer the position is to its centre.
    """
    step = min(image.size) / HEAT_SIDE
    columns, rows = round(image.width / step), round(image.height / step)
    x = (np.arange(columns) + 0.5) * image.width / columns
    y = (np.arange(rows) + 0.5) * image.height / rows
    total, weight = np.zeros((rows, columns)), np.full((rows, columns), 1e-9)
    for (x1, y1, x2, y2), score in zip(boxes, scores, strict=True):
        box_weight = _bump((y - y1) / (y2 - y1))[:, None] * _bump((x - x1) / (x2 - x1))[None]
        total += box_weight * score
        weight += box_weight
    return np.asarray(total / weight, np.float32)


def _bump(position: Float64Array) -> Float64Array:
    """Weight positions in the interval [0, 1]: 1 at its centre, 0 outside, above 0 inside."""
    inside = (position >= 0) & (position <= 1)
    return np.where(inside, np.cos(np.pi * (position - 0.5) * 0.95) ** 2, 0.0)
