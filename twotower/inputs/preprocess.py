"""Pictures to `pixel_values`: resized, cropped and normalised exactly as in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from PIL import Image

from twotower.arrays import Float32Array, UInt8Array
from twotower.errors import ModelError
from twotower.inputs.patch_canvas import pack_patches, patch_grid
from twotower.inputs.pictures import Picture, on_white, open_picture

# Per channel, of values in 0..1 (openai/CLIP `clip/clip.py`, commit d05afc4).
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

Resize = Literal["shortest", "squash", "patches"]
Interpolation = Literal["bicubic", "bilinear"]
RgbOrder = Literal["after_resize", "before_resize"]
CropOffset = Literal["round", "floor"]
Box = tuple[float, float, float, float]  # left, upper, right and lower edge, in pixels

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# A long strip, resized by its short side, can grow a thousandfold, and is then cropped. If the
# resized picture would have more pixels than this (64 MiB), its ends are cut off before, and this
# many squares of its middle are kept.
_MAX_RESIZED_PIXELS = 2**24
_STRIP_SQUARES = 16


@dataclass(frozen=True)
class PreprocessConfig:
    """The steps from a picture to `pixel_values`. The defaults give OpenAI's pixels to the bit.

    Attributes:
        resize: "shortest" scales the shorter side to `image_size` and crops the middle, "squash"
            squashes to a square, "patches" keeps the shape as nearly as patches allow
            (`patch_canvas.py`).
        mean, std: per channel, of values in 0..1.
        rgb: OpenAI converts to RGB last, which drops alpha and resizes palettes by nearest
            neighbour; transformers converts first and lays transparent parts over white.
        crop_offset: half of an odd margin is rounded to even by torchvision and open_clip, and
            down by transformers.
        fast_decode: decode large JPEGs at a reduced scale; the pixels are close, not equal.
        patch_size: of "patches"; `image_size` is a multiple of it.

    Raises:
        ValueError: a field has an invalid value; the message begins with its name.
    """

    image_size: int = 224
    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    rgb: RgbOrder = "after_resize"
    crop_offset: CropOffset = "round"
    fast_decode: bool = False
    patch_size: int | None = field(default=None, metadata={"optional": True})

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; give a number of pixels above 0")
        if len(self.mean) != 3:
            raise ValueError(f"mean is {self.mean}; give three numbers")
        if len(self.std) != 3 or 0 in self.std:
            raise ValueError(f"std is {self.std}; give three numbers other than 0")
        if (self.resize == "patches") != (self.patch_size is not None):
            raise ValueError(
                f"patch_size is {self.patch_size} and resize {self.resize!r}; give a patch_size "
                "with 'patches' only"
            )
        if self.patch_size is not None and self.image_size % self.patch_size:
            raise ValueError(f"image_size is {self.image_size}; give a multiple of patch_size")
        for name, choices in (
            ("resize", Resize),
            ("interpolation", Interpolation),
            ("rgb", RgbOrder),
            ("crop_offset", CropOffset),
        ):
            value, allowed = getattr(self, name), get_args(choices)
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; give one of {', '.join(allowed)}")

    @property
    def channels(self) -> int:
        """The number of channels of `pixel_values`: with "patches", a fourth has the shape."""
        return 3 if self.patch_size is None else 4


class Preprocess:
    """Turn pictures into `pixel_values` by a `PreprocessConfig`. Safe to call from many threads.

    Args:
        draft_size: decode large JPEGs at a reduced scale, see `open_picture`; overrides
            `config.fast_decode`. For training.
    """

    def __init__(self, config: PreprocessConfig, draft_size: int | None = None) -> None:
        self.config = config
        self._draft_size = draft_size or (config.image_size if config.fast_decode else None)
        self._mean = np.array(config.mean, np.float32)[:, None, None]
        self._std = np.array(config.std, np.float32)[:, None, None]

    def open(self, source: Picture) -> Image.Image:
        """Open `source`, at a reduced scale if allowed. Raises `PictureError`."""
        return open_picture(source, draft_size=self._draft_size)

    def square(
        self, picture: Picture, position: tuple[float, float] | None = None, zoom: float = 1.0
    ) -> Image.Image:
        """Return the RGB square that the model sees, before it is normalised.

        `position` and `zoom` are for training, and have no effect on squashed pictures.

        Args:
            position: of the square along the width and the height, from 0 to 1; by default it is
                in the middle.
            zoom: length of the resized picture's shorter side, in sides of the square.

        Raises:
            PictureError: the picture cannot be read.
            ModelError: the model reads pictures of several shapes.
        """
        self._require_squares()
        image = self._open_rgb(picture)
        if self.config.resize == "squash":
            size = self.config.image_size
            image = image.resize((size, size), _FILTERS[self.config.interpolation])
        else:
            image = self._resize_shortest(image, position, zoom)
        return _to_rgb(image)

    def stretched(
        self, picture: Picture, choose_box: Callable[[tuple[int, int]], Box]
    ) -> Image.Image:
        """Return a part of a picture, stretched to an RGB square, before it is normalised.

        Args:
            choose_box: (width, height) -> left, upper, right and lower edge of the part.

        Raises:
            PictureError: the picture cannot be read.
            ModelError: the model reads pictures of several shapes.
        """
        self._require_squares()
        image, size = self._open_rgb(picture), self.config.image_size
        filter = _FILTERS[self.config.interpolation]
        return _to_rgb(image.resize((size, size), filter, choose_box(image.size)))

    def __call__(self, picture: Picture) -> Float32Array:
        """Return `pixel_values` [channels, image_size, image_size]. Raises `PictureError`."""
        patch_size = self.config.patch_size
        if patch_size is None:
            return self._normalize(np.asarray(self.square(picture)))
        image = self._open_rgb(picture)
        patches = (self.config.image_size // patch_size) ** 2
        rows, columns = patch_grid(image.height, image.width, patch_size, patches)
        size = (columns * patch_size, rows * patch_size)
        image = _to_rgb(image.resize(size, _FILTERS[self.config.interpolation]))
        pixel_values = self._normalize(np.asarray(image))
        return pack_patches(pixel_values, patch_size, self.config.image_size)

    def _require_squares(self) -> None:
        if self.config.patch_size is not None:
            raise ModelError(
                "preprocess.resize",
                "is 'patches', which makes no square",
                "give a model that reads squares",
            )

    def _open_rgb(self, picture: Picture) -> Image.Image:
        """Open a picture, laid over white if the configuration says so."""
        image = self.open(picture)
        return on_white(image) if self.config.rgb == "before_resize" else image

    def _normalize(self, levels: UInt8Array) -> Float32Array:
        """Normalise pixels [height, width, 3] -> [3, height, width]."""
        pixel_values = levels.transpose(2, 0, 1).astype(np.float32, order="C")
        # Three steps as in OpenAI's code: one multiplication and one addition round differently.
        pixel_values /= 255
        pixel_values -= self._mean
        pixel_values /= self._std
        return pixel_values

    def _resize_shortest(
        self, image: Image.Image, position: tuple[float, float] | None, zoom: float
    ) -> Image.Image:
        side = self.config.image_size
        size = round(side * zoom)
        short, long = sorted(image.size)
        if size * int(size * long / short) > _MAX_RESIZED_PIXELS:
            image = _cut_ends(image, (long - _STRIP_SQUARES * short) // 2)
            long = max(image.size)

        resized_long = int(size * long / short)
        tall = image.width <= image.height
        image = image.resize(
            (size, resized_long) if tall else (resized_long, size),
            _FILTERS[self.config.interpolation],
        )
        across, down = position or (None, None)
        x, y = self._crop_offset(image.width, across), self._crop_offset(image.height, down)
        return image.crop((x, y, x + side, y + side))

    def _crop_offset(self, side: int, position: float | None) -> int:
        margin = side - self.config.image_size
        if position is not None:
            return min(int(position * (margin + 1)), margin)
        return margin // 2 if self.config.crop_offset == "floor" else round(margin / 2)


def _to_rgb(image: Image.Image) -> Image.Image:
    # Transparency is dropped here anyway; with this entry, Pillow would warn about palettes.
    image.info.pop("transparency", None)
    return image.convert("RGB")


def _cut_ends(image: Image.Image, pixels: int) -> Image.Image:
    """Cut `pixels` from both ends of the longer side."""
    x, y = (pixels, 0) if image.width == max(image.size) else (0, pixels)
    return image.crop((x, y, image.width - x, image.height - y))
