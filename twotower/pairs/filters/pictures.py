"""Facts of a picture that the filters compare: size, contrast, and a perceptual hash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from twotower.arrays import Float32Array, UInt8Array
from twotower.errors import PictureError
from twotower.inputs.pictures import Picture, on_white, open_picture
from twotower.pairs.filters.settings import KEPT, FilterSettings, code

SIDE, COARSE, FINE = 64, 8, 16  # pixels; frequencies in each direction of the two hashes
COARSE_BYTES, FINE_BYTES = COARSE**2 // 8, FINE**2 // 8
HASH_BYTES = COARSE_BYTES + FINE_BYTES


class PictureFacts(NamedTuple):
    """Facts of a picture.

    Attributes:
        width, height: in pixels.
        contrast: standard deviation of its grey levels, 0 to 127.5.
        hash: `HASH_BYTES` bytes, see `picture_hash`.
    """

    width: int
    height: int
    contrast: float
    hash: bytes


def read_facts(picture: Picture) -> PictureFacts:
    """Decode a picture, reduced where its format allows it, and return its facts.

    The width and height are those of the decoded picture: a reduced JPEG has smaller ones.

    Raises:
        PictureError: it cannot be read.
    """
    image = on_white(open_picture(picture, draft_size=SIDE))
    grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    levels = np.asarray(grey, np.float32)
    return PictureFacts(image.width, image.height, float(levels.std()), picture_hash(levels))


def picture_hash(levels: Float32Array) -> bytes:
    """Return the signs of low frequencies of grey levels [64, 64], relative to their median.

    The first 64 bits are the 8 x 8 lowest frequencies of the discrete cosine transform (the hash
    of pHash.org), which survive cropping best and find candidates. The next 256 bits are the
    16 x 16 lowest without the mean of rows and columns (as in Meta's PDQ), which tell copies from
    similar pictures.
    """
    spectrum = _DCT @ levels @ _DCT.T
    coarse, fine = spectrum[:COARSE, :COARSE], spectrum[1:, 1:]
    return b"".join(np.packbits(block > np.median(block)).tobytes() for block in (coarse, fine))


def _cosines(frequencies: int, samples: int) -> Float32Array:
    """Return the rows of the discrete cosine transform (DCT-II) [frequencies, samples]."""
    angles = np.outer(np.arange(frequencies), np.arange(samples) + 0.5) * np.pi / samples
    return np.cos(angles).astype(np.float32)


_DCT = _cosines(FINE + 1, SIDE)


def hash_pictures(pictures: Iterable[Picture]) -> UInt8Array:
    """Return the hashes [n, HASH_BYTES] of the pictures that can be read."""
    hashes = []
    for picture in pictures:
        try:
            hashes.append(read_facts(picture).hash)
        except PictureError:
            continue
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


def size_reason(width: int, height: int, contrast: float, settings: FilterSettings) -> int:
    """Return the code of the reason to remove a picture by itself, or `KEPT`."""
    if not settings.applies("size"):
        return KEPT
    if min(width, height) < settings.min_side:
        return code("size", "too small")
    if max(width, height) > settings.max_aspect * min(width, height):
        return code("size", "too elongated")
    if contrast < settings.min_contrast:
        return code("size", "blank")
    return KEPT
