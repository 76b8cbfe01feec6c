"""Corrupt pictures with noise, blur, weather and compression, at five severities.

Kinds and constants are those of ImageNet-C (Hendrycks and Dietterich 2019, "Benchmarking neural
network robustness to common corruptions and perturbations"; hendrycks/robustness at commit
8190fe3, Apache-2.0), implemented with numpy and Pillow alone. They are defined for squares of 224
pixels, so each picture is first resized and cropped to one. The results are close to ImageNet-C's
stored pictures, but not equal: compare models under these corruptions, and do not compare the
figures with published ones of ImageNet-C.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import PIL.Image

from twotower.arrays import Float64Array
from twotower.errors import EvaluationError, PictureError
from twotower.inputs.pictures import Picture, open_picture
from twotower.inputs.preprocess import Preprocess, PreprocessConfig

SIDE = 224
SEVERITIES = (1, 2, 3, 4, 5)

Pixels: TypeAlias = Float64Array  # [224, 224, 3], 0 to 1
Random: TypeAlias = np.random.Generator

_square = Preprocess(PreprocessConfig(image_size=SIDE)).square


def corrupt(picture: Picture, kind: str, severity: int, number: int) -> Picture:
    """Return a corrupted square of 224 pixels, equal in every run for the same number.

    A picture that cannot be read is returned as it is, so that the encoder reports its error.

    Args:
        kind: a key of `KINDS`.
        severity: 1 to 5.
        number: seeds the random numbers.
    """
    try:
        square = _square(open_picture(picture).convert("RGB"))
    except PictureError:
        return picture
    random = np.random.default_rng([zlib.crc32(kind.encode()), severity, number])
    pixels = np.asarray(square) / 255.0
    changed = KINDS[kind](pixels, severity - 1, random)
    return np.asarray(np.round(np.clip(changed, 0, 1) * 255), np.uint8)


# --- noise ---------------------------------------------------------------------------------------


def gaussian_noise(pixels: Pixels, level: int, random: Random) -> Pixels:
    """Add Gaussian noise, as of low light, to every channel."""
    return pixels + random.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[level], size=pixels.shape)


def shot_noise(pixels: Pixels, level: int, random: Random) -> Pixels:
    """Add Poisson noise of counted photons, which grows with brightness."""
    photons = (60, 25, 12, 5, 3)[level]
    return np.asarray(random.poisson(pixels * photons) / photons)


def impulse_noise(pixels: Pixels, level: int, random: Random) -> Pixels:
    """Set random values to 0 or 1, as of defective pixels (salt and pepper)."""
    drawn, share = random.random(pixels.shape), (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    return np.where(drawn < share / 2, 0.0, np.where(drawn < share, 1.0, pixels))


# --- blur ----------------------------------------------------------------------------------------


def gaussian_blur(pixels: Pixels, level: int, random: Random) -> Pixels:
    """Blur with a Gaussian kernel."""
    return _convolve(pixels, _gaussian((1, 2, 3, 4, 6)[level]))


def defocus_blur(pixels: Pixels, level: int, random: Random) -> Pixels:
    """Blur with a disk that has a soft edge, as of a lens out of focus."""
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach = np.arange(-radius - 2, radius + 3)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.float64)
    kernel = _convolve(disk[..., None], _gaussian(softness))[..., 0]
    return _convolve(pixels, kernel / kernel.sum())


def motion_blur(pixels: Pixels, level: int, random: Random) -> Pixels:
    """Blur along a line, as of a moving camera."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _convolve(pixels, _streak(radius, sigma, random.uniform(-45, 45)))


# --- weather -------------------------------------------------------------------------------------


def fog(pixels: Pixels, level: int, random: Random) -> Pixels:
    """Blend with clouds of a plasma fractal."""
    amount, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[level]
    clouds = _plasma(256, decay, random)[:SIDE, :SIDE, None]
    brightest = pixels.max()
    return (pixels + amount * clouds) * brightest / (brightest + amount)


def snow(pixels: Pixels, level: int, random: Random) -> Pixels:
    """Brighten the picture and add streaks of falling flakes."""
    mean, spread, zoom, threshold, radius, sigma, kept = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    small = int(np.ceil(SIDE / zoom))
    dots = random.normal(mean, spread, (small, small)).astype(np.float32)
    flakes = np.array(PIL.Image.fromarray(dots).resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR))
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1).astype(np.float64)
    falling = _convolve(flakes[..., None], _streak(radius, sigma, random.uniform(-135, -45)))
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    whiter = np.maximum(pixels, grey[..., None] * 1.5 + 0.5)
    return kept * pixels + (1 - kept) * whiter + falling + falling[::-1, ::-1]


def brightness(pixels: Pixels, level: int, random: Random) -> Pixels:
    """Raise the value of each pixel (HSV); keep its hue and saturation."""
    value = pixels.max(axis=2, keepdims=True)
    raised = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 1)
    return np.where(value > 0, pixels * raised / np.maximum(value, 1e-9), raised)


# --- compression ---------------------------------------------------------------------------------


def jpeg(pixels: Pixels, level: int, random: Random) -> Pixels:
    """Compress as JPEG with a low quality."""
    file = io.BytesIO()
    picture = PIL.Image.fromarray(np.asarray(np.round(pixels * 255), np.uint8))
    picture.save(file, "jpeg", quality=(25, 18, 15, 10, 7)[level])
    with PIL.Image.open(file) as stored:
        return np.asarray(stored) / 255.0


FAMILIES: dict[str, tuple[Callable[[Pixels, int, Random], Pixels], ...]] = {
    "noise": (gaussian_noise, shot_noise, impulse_noise),
    "blur": (gaussian_blur, defocus_blur, motion_blur),
    "weather": (fog, snow, brightness),
    "compression": (jpeg,),
}
KINDS = {function.__name__: function for family in FAMILIES.values() for function in family}


def choose_kinds(words: Sequence[str]) -> list[str]:
    """Return the kinds for names of kinds or families, in the order of `KINDS`.

    Args:
        words: names of kinds or of families, or "all".

    Raises:
        EvaluationError: a name is unknown.
    """
    chosen: set[str] = set()
    for word in words:
        if word == "all":
            chosen |= set(KINDS)
        elif word in FAMILIES:
            chosen |= {function.__name__ for function in FAMILIES[word]}
        elif word in KINDS:
            chosen.add(word)
        else:
            names = ", ".join(("all", *FAMILIES, *KINDS))
            raise EvaluationError(f"corruption {word!r}", "unknown", f"choose from: {names}")
    return [kind for kind in KINDS if kind in chosen]


# --- kernels and clouds --------------------------------------------------------------------------


def _gaussian(sigma: float) -> Pixels:
    """Return a square Gaussian kernel that extends over four standard deviations."""
    reach = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    bell = np.exp(-(reach**2) / (2 * sigma**2))
    kernel = bell[:, None] * bell
    return kernel / kernel.sum()


def _streak(radius: int, sigma: float, degrees: float) -> Pixels:
    """Return a kernel: a line from the centre in one direction, with Gaussian weights."""
    size, angle = 2 * radius, np.radians(degrees)
    kernel = np.zeros((2 * size + 1, 2 * size + 1))
    for step in range(size + 1):
        row, column = round(step * np.sin(angle)), round(step * np.cos(angle))
        kernel[size + row, size + column] += np.exp(-(step**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def _convolve(pixels: Pixels, kernel: Pixels) -> Pixels:
    """Convolve [H, W, C] with a square kernel of odd side; the border is mirrored."""
    half = len(kernel) // 2
    mode: Literal["reflect", "constant"] = "reflect"
    if half >= min(pixels.shape[:2]):  # only where a kernel is convolved with another
        mode = "constant"
    padded = np.pad(pixels, ((half, half), (half, half), (0, 0)), mode)
    height, width = padded.shape[:2]
    product = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, (height, width))[..., None]
    convolved = np.fft.irfft2(product, (height, width), axes=(0, 1))
    return np.asarray(convolved[2 * half :, 2 * half :])


def _plasma(side: int, decay: float, random: Random) -> Pixels:
    """Return heights [side, side] from 0 to 1: diamond-square algorithm with wrapped borders."""
    heights = np.zeros((side, side))
    step, amplitude = side, 100.0

    def displaced_mean(total: Pixels) -> Pixels:
        return total / 4 + amplitude * random.uniform(-amplitude, amplitude, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        rows = corners + np.roll(corners, -1, axis=0)
        heights[half::step, half::step] = displaced_mean(rows + np.roll(rows, -1, axis=1))
        middles, corners = heights[half::step, half::step], heights[::step, ::step]
        heights[::step, half::step] = displaced_mean(
            middles + np.roll(middles, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        )
        heights[half::step, ::step] = displaced_mean(
            middles + np.roll(middles, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        )
        step, amplitude = half, amplitude / decay
    heights -= heights.min()
    return heights / heights.max()
