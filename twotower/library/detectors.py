"""Tags that the pixels decide without any model: blurry and black pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twotower.encode.stream import read_ahead
from twotower.inputs.pictures import PictureError, open_picture
from twotower.inputs.raw import RAW_SUFFIXES, open_preview
from twotower.inputs.video import VIDEO_SUFFIXES, sample_frames

if TYPE_CHECKING:
    from twotower.library.library import Library

SIDE = 512  # pixels of the longer side at which pictures are looked at, as a person does
BLOCK = 32  # pixels: the sharpest of these decides, since a background may be out of focus
# Constant and slope of the log-odds, set by hand; how well they do: benchmarks/detectors.py.
BLURRY = (7.4, -2.0)  # over the logarithm of the sharpness
BLACK = (6.0, -0.5)  # over the 99th percentile of the brightness, 0 to 255

Measures = NDArray[np.float64]  # [n, 2]: sharpness, brightness; NaN where it cannot be read


def measure(image: Image.Image) -> tuple[float, float]:
    """Sharpness and brightness of a picture.

    The sharpness is the standard deviation of the Laplacian in the sharpest twentieth of the
    blocks, the brightness the 99th percentile of the grey values.
    """
    scale = SIDE / max(image.size)
    size = max(3, round(image.width * scale)), max(3, round(image.height * scale))
    grey = image.convert("RGB").convert("L")
    if scale < 1:
        grey = grey.resize(size, Image.Resampling.BOX)
    pixels = np.asarray(grey, np.float32)
    if min(pixels.shape) < 3:
        return 0.0, float(pixels.max())
    laplacian = (
        pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    ) - 4 * pixels[1:-1, 1:-1]
    blocks = [
        laplacian[top : top + BLOCK, left : left + BLOCK].std()
        for top in range(0, laplacian.shape[0], BLOCK)
        for left in range(0, laplacian.shape[1], BLOCK)
    ]
    return float(np.quantile(blocks, 0.95)), float(np.quantile(pixels, 0.99))


def judge_pixels(detector: str, measures: Measures) -> NDArray[np.float64]:
    """Log-odds [n] that `detector` holds; where nothing could be measured, that it does not."""
    sharpness, brightness = measures[:, 0], measures[:, 1]
    black = BLACK[0] + BLACK[1] * brightness
    if detector == "black":
        logits = black
    else:  # a black picture has nothing that could be sharp
        logits = BLURRY[0] + BLURRY[1] * np.log1p(sharpness)
        logits = np.minimum(logits, -black)
    return np.where(np.isnan(logits), -20.0, np.clip(logits, -20, 20))


def measure_pictures(
    library: Library, ids: Sequence[int], progress: Callable[[int], None] = lambda count: None
) -> Measures:
    """The measures of pictures [n, 2]; they are kept in the catalog, so each is opened once.

    Args:
        progress: called with how many more are done.
    """
    known = library.catalog.measures(ids)
    missing = [one for one in ids if one not in known]
    new: dict[int, tuple[float, float]] = {}
    paths = {one.id: library.root / one.path for one in library.catalog.pictures(missing)}
    for (number, _), measured in read_ahead(_measure_file, list(paths.items()), ahead=8):
        assert not isinstance(measured, PictureError)
        new[number] = measured
        progress(1)
        if len(new) % 500 == 0:
            _keep(library, new)
    _keep(library, new)
    known.update(new)
    nothing = (np.nan, np.nan)
    return np.array([known.get(one, nothing) for one in ids], np.float64).reshape(-1, 2)


def _keep(library: Library, new: dict[int, tuple[float, float]]) -> None:
    if library.catalog.writable:
        library.catalog.add_measures(new)


def _measure_file(numbered: tuple[int, Path]) -> tuple[float, float]:
    try:
        return measure(_open(numbered[1]))
    except (PictureError, OSError):
        return np.nan, np.nan


def _open(path: Path) -> Image.Image:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return sample_frames(path, 1)[0]
    if path.suffix.lower() in RAW_SUFFIXES:
        return open_preview(path.read_bytes(), str(path))
    return open_picture(path, draft_size=SIDE)
