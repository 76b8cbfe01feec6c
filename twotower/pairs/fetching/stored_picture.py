"""The picture that a shard stores for a download: resized or not, upright, without metadata."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from PIL import ExifTags, Image

from twotower.errors import PictureError
from twotower.inputs.pictures import on_white, open_header, open_picture
from twotower.pairs.fetching.strip_metadata import strip_metadata

Resize: TypeAlias = Literal["shorter", "longer", "none"]

MAX_PIXELS = 2**26  # of a decoded picture, 200 MB as RGB; each thread decodes one at a time
JPEG_QUALITY = 95  # img2dataset's default
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}
_TURNED = frozenset((5, 6, 7, 8))  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class StoredPicture:
    """A picture for a shard.

    Attributes:
        content: the encoded file.
        suffix: its extension, without the dot.
        width, height: in pixels.
        original_width, original_height: of the download, upright.
        sha256: of the bytes of the download, in hexadecimal.
    """

    content: bytes
    suffix: str
    width: int
    height: int
    original_width: int
    original_height: int
    sha256: str


@dataclass(frozen=True)
class PictureSettings:
    """Settings of the stored pictures.

    Attributes:
        resize: the edge that `size` limits; "none" keeps originals.
        size: in pixels. Smaller pictures are not enlarged, and keep their encoding.
        keep_metadata: keep EXIF and other metadata of pictures that keep their encoding.
    """

    resize: Resize = "shorter"
    size: int = 512
    keep_metadata: bool = False


def make_stored_picture(content: bytes, settings: PictureSettings) -> StoredPicture:
    """Return the picture to store for a download.

    It keeps its encoding unless it is resized, turned upright, or of a format whose metadata cannot
    be removed; then it becomes a JPEG.

    Raises:
        PictureError: no picture, damaged, cut short or too large.
    """
    header = _read_header(content)
    kept = _keep_encoding(content, header, settings)
    if kept is not None:
        return kept
    original = header.upright_size
    size = target_size(*original, settings)
    return StoredPicture(_encode(content, size), "jpg", *size, *original, _digest(content))


def keep_encoding(content: bytes, settings: PictureSettings) -> StoredPicture | None:
    """Return the picture without metadata in its own encoding, or None if it must be encoded anew.

    The pixels are not decoded.

    Raises:
        PictureError: as `make_stored_picture`.
    """
    return _keep_encoding(content, _read_header(content), settings)


def _keep_encoding(
    content: bytes, header: _Header, settings: PictureSettings
) -> StoredPicture | None:
    size = header.upright_size
    if header.orientation != 1 or target_size(*size, settings) != size:
        return None
    if size[0] * size[1] > MAX_PIXELS:
        raise PictureError("<download>", f"too large ({size[0]} x {size[1]})", "scale it down")
    stripped = strip_metadata(content, header.format)
    if stripped is None:
        return None
    kept = content if settings.keep_metadata else stripped
    return StoredPicture(kept, _SUFFIXES[header.format], *size, *size, _digest(content))


def target_size(width: int, height: int, settings: PictureSettings) -> tuple[int, int]:
    """Return the (width, height) of the stored picture, in pixels."""
    if settings.resize == "none":
        return width, height
    edge = min(width, height) if settings.resize == "shorter" else max(width, height)
    scale = min(1.0, settings.size / edge)
    return max(1, round(width * scale)), max(1, round(height * scale))


def is_picture(beginning: bytes) -> bool:
    """Return True if a file may be a picture that can be stored, by its first bytes.

    Fewer than 16 bytes decide nothing.
    """
    if len(beginning) < 16:
        return True
    return (
        beginning.startswith(_SIGNATURES)
        or (beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP")
        or beginning[4:8] == b"ftyp"  # AVIF and HEIC
        or beginning[4:8] == b"jP  "  # JPEG 2000
    )


_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\xff\x4f\xff\x51",
)


class _Header(NamedTuple):
    """The facts in the header of a picture: Pillow's name of its format, the EXIF orientation."""

    format: str
    width: int
    height: int
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        if self.orientation in _TURNED:
            return self.height, self.width
        return self.width, self.height


def _read_header(content: bytes) -> _Header:
    with open_header(io.BytesIO(content), "<download>") as header:
        return _Header(str(header.format), *header.size, _orientation(header))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _orientation(header: Image.Image) -> int:
    try:
        return int(header.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises nearly anything on a damaged block; the pixels are intact
        return 1


def _encode(content: bytes, size: tuple[int, int]) -> bytes:
    """Return a JPEG of the picture in a size, upright, on white, with its colour profile."""
    image = open_picture(content, draft_size=min(size), max_pixels=MAX_PIXELS)
    profile = image.info.get("icc_profile") if image.mode == "RGB" else None
    image = on_white(image)
    image.info = {}  # Pillow would write its comment
    if image.size != size:
        image = image.resize(size, Image.Resampling.BOX)  # the area, as img2dataset
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, icc_profile=profile)
    return file.getvalue()
