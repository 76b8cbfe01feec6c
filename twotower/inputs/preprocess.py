"""From a picture to `pixel_values`: resize, crop, normalise, exactly as a model was trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twotower.inputs.pictures import Picture, on_white, open_picture

# Per channel, of values in 0..1 (openai/CLIP `clip/clip.py`, commit d05afc4).
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

Resize = Literal["shortest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
RgbOrder = Literal["after_resize", "before_resize"]
CropOffset = Literal["round", "floor"]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# A long strip, resized by its short side, can grow a thousandfold only to be cropped away: beyond
# this many pixels (64 MiB) all but its middle is cut off first, and this many squares are kept.
_MAX_RESIZED_PIXELS = 2**24
_STRIP_SQUARES = 16


@dataclass(frozen=True)
class PreprocessConfig:
    """How pictures become `pixel_values`. The defaults give OpenAI's own pixels, bit for bit.

    `resize`: scale the shorter side to `image_size` and crop the middle, or squash to the square.
    `mean`, `std`: per channel, of values in 0..1.
    `rgb`: OpenAI converts to RGB last, dropping alpha and resizing palettes by nearest neighbour;
    transformers converts first and lays transparent parts over white.
    `crop_offset`: of an odd margin, torchvision and open_clip round half of it to even,
    transformers rounds it down.
    `fast_decode`: decode large JPEGs at a reduced scale; close, no longer bit for bit.

    Raises `ValueError` naming the field that holds something else.
    """

    image_size: int = 224
    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    rgb: RgbOrder = "after_resize"
    crop_offset: CropOffset = "round"
    fast_decode: bool = False

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; give a number of pixels above 0")
        if len(self.mean) != 3:
            raise ValueError(f"mean is {self.mean}; give three numbers")
        if len(self.std) != 3 or 0 in self.std:
            raise ValueError(f"std is {self.std}; give three numbers other than 0")
        for field, choices in (
            ("resize", Resize),
            ("interpolation", Interpolation),
            ("rgb", RgbOrder),
            ("crop_offset", CropOffset),
        ):
            value, allowed = getattr(self, field), get_args(choices)
            if value not in allowed:
                raise ValueError(f"{field} is {value!r}; give one of {', '.join(allowed)}")


class Preprocess:
    """A picture in, `pixel_values` out, as `config` says. Safe to call from many threads.

    `draft_size` overrides `fast_decode`, for training: large JPEGs are decoded at the smallest
    scale that keeps both sides twice as long.
    """

    def __init__(self, config: PreprocessConfig, draft_size: int | None = None) -> None:
        self.config = config
        self._draft_size = draft_size or (config.image_size if config.fast_decode else None)
        self._mean = np.array(config.mean, np.float32)[:, None, None]
        self._std = np.array(config.std, np.float32)[:, None, None]

    def open(self, source: Picture) -> Image.Image:
        """Open `source`, at a reduced scale if that is allowed. Raises `PictureError`."""
        return open_picture(source, draft_size=self._draft_size)

    def square(
        self, picture: Picture, place: tuple[float, float] | None = None, zoom: float = 1.0
    ) -> Image.Image:
        """The RGB square that the model gets to see, before it is normalised.

        `place` and `zoom` are for training: where along the width and the height the square is cut
        out, from 0 to 1 (by default in the middle), and how much larger than it the picture's
        shorter side is made first. Squashed pictures are always seen whole.
        """
        image = self.open(picture)
        if self.config.rgb == "before_resize":
            image = on_white(image)
        if self.config.resize == "squash":
            size = self.config.image_size
            image = image.resize((size, size), _FILTERS[self.config.interpolation])
        else:
            image = self._resize_shortest(image, place, zoom)
        # What is see-through is dropped here anyway; named, it makes Pillow warn about palettes.
        image.info.pop("transparency", None)
        return image.convert("RGB")

    def __call__(self, picture: Picture) -> NDArray[np.float32]:
        """Turn `picture` into float32 [3, image_size, image_size]. Raises `PictureError`."""
        levels = np.asarray(self.square(picture))  # [image_size, image_size, 3]
        pixel_values = levels.transpose(2, 0, 1).astype(np.float32, order="C")
        # Three steps, as in the original: one multiplication and one addition round differently.
        pixel_values /= 255
        pixel_values -= self._mean
        pixel_values /= self._std
        return pixel_values

    def _resize_shortest(
        self, image: Image.Image, place: tuple[float, float] | None, zoom: float
    ) -> Image.Image:
        side = self.config.image_size
        size = round(side * zoom)
        short, long = sorted(image.size)
        if size * int(size * long / short) > _MAX_RESIZED_PIXELS:
            # The same from both ends, so that the middle stays the middle.
            trim = (long - _STRIP_SQUARES * short) // 2
            left, top = (trim, 0) if image.width == long else (0, trim)
            image = image.crop((left, top, image.width - left, image.height - top))
            long = max(image.size)

        resized_long = int(size * long / short)
        tall = image.width <= image.height
        image = image.resize(
            (size, resized_long) if tall else (resized_long, size),
            _FILTERS[self.config.interpolation],
        )
        across, along = place or (None, None)
        left, top = self._crop_offset(image.width, across), self._crop_offset(image.height, along)
        return image.crop((left, top, left + side, top + side))

    def _crop_offset(self, side: int, place: float | None) -> int:
        margin = side - self.config.image_size
        if place is not None:
            return min(int(place * (margin + 1)), margin)
        return margin // 2 if self.config.crop_offset == "floor" else round(margin / 2)
