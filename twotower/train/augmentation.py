"""Random crops, mirrored pictures and colours, from a generator that the pair's position seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from twotower.errors import TrainError
from twotower.inputs.pictures import Picture
from twotower.inputs.preprocess import Box, Preprocess
from twotower.train.config import DataConfig

TRIES = 10  # of a crop that lies in the picture; then the whole picture is taken


@dataclass(frozen=True)
class Augmentation:
    """Changes of pictures, with the fields of `DataConfig`.

    Raises:
        TrainError: a value out of range.
    """

    zoom: float = 1.0
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    color: float = 0.0

    def __post_init__(self) -> None:
        for name, largest in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
            low, high = getattr(self, name) or (1.0, 1.0)
            if not 0 < low <= high <= largest:
                reason = f"{low},{high} is no range above 0 and up to {largest:g}"
                raise TrainError(f"data.{name}", reason, "give the smaller value before the larger")
        for name in ("flip", "color"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise TrainError(f"data.{name}", f"{value} is not from 0 to 1", "change the value")

    @property
    def enlargement(self) -> float:
        """The largest factor by which a crop enlarges the whole picture."""
        return 1 / math.sqrt(max(self.crop_scale[0], 0.01)) if self.crop_scale else 1.0

    def square(
        self, preprocess: Preprocess, picture: Picture, random: np.random.Generator
    ) -> Image.Image:
        """Return the RGB square of a picture. Raises `PictureError`."""
        corner, zoom = (random.random(), random.random()), random.uniform(1.0, self.zoom)
        if self.crop_scale is None:
            image = preprocess.square(picture, corner, zoom)
        else:
            image = preprocess.stretched(picture, lambda size: self.crop_box(size, random))
        if self.flip and random.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._recolor(image, random) if self.color else image

    def crop_box(self, size: tuple[int, int], random: np.random.Generator) -> Box:
        """Choose a crop of a picture of (width, height): area uniform, shape log-uniform."""
        width, height = size
        assert self.crop_scale is not None
        for _ in range(TRIES):
            area = width * height * random.uniform(*self.crop_scale)
            low, high = map(math.log, self.crop_ratio)
            ratio = math.exp(random.uniform(low, high))
            across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
            x, y = random.random(), random.random()
            if across <= width and down <= height:
                x, y = x * (width - across), y * (height - down)
                return x, y, x + across, y + down
        return 0.0, 0.0, float(width), float(height)

    def _recolor(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(random.uniform(1 - self.color, 1 + self.color))
        return image


def augmentation_of(config: DataConfig) -> Augmentation:
    """Return the augmentation of a configuration. Raises `TrainError`."""
    return Augmentation(
        config.zoom, config.crop_scale, config.crop_ratio, config.flip, config.color
    )
