"""Open any picture safely: every fault is one clear error, and what comes back is upright."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from twotower.errors import PictureError

Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
"""A file's path, a file's contents, a PIL picture, or uint8 [H, W], [H, W, 3] or [H, W, 4]."""

# fmt: off
PICTURE_SUFFIXES: frozenset[str] = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif", ".heic",
    ".heif", ".hif", ".bmp", ".dib", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm",
))
"""Endings, in lower case, by which `find_pictures` knows a picture inside a folder."""
# fmt: on

MAX_PIXELS = 178_956_970
"""Where Pillow itself refuses a file as a decompression bomb, unless it is told otherwise."""

# Tried in this order. Not everything that Pillow knows: its EPS reader would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000")

# Major brands that Pillow does not read by itself: HEVC in the HEIF container (ISO/IEC 23008-12).
_HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)

_EIGHT_BIT_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"))

# EXIF orientation (TIFF tag 274) -> what turns the stored picture upright.
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_picture(
    source: Picture, *, draft_size: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode `source` completely, and turn it upright as its EXIF orientation says.

    Of an animation this is the first frame. 16-bit pixels are scaled to 8 bits by their high byte,
    as Pillow does for 16-bit RGB; otherwise the mode stays what the file holds ("P", "CMYK", ...).

    With `draft_size`, JPEGs are decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 that
    keeps both sides at least twice as long: much faster, and nearly the same once resized to
    `draft_size`. `max_pixels` is checked before anything is decoded; Pillow's own limit
    (`PIL.Image.MAX_IMAGE_PIXELS`) stays in force beside it.

    Raises `PictureError` for whatever is missing, damaged, cut short, too large or no picture.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, str(getattr(source, "filename", "")) or "<picture>", max_pixels)
    if isinstance(source, bytes):
        return _decode_file(io.BytesIO(source), "<bytes>", draft_size, max_pixels)
    if not isinstance(source, (str, os.PathLike)):
        raise PictureError(
            f"<{type(source).__name__}>",
            "this is not a picture",
            "give a path, the bytes of a file, a PIL picture or a uint8 array",
        )
    name = os.fspath(source)
    try:
        with Path(source).open("rb") as file:
            return _decode_file(file, name, draft_size, max_pixels)
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(name, "there is no such file", "check the path") from None
    except IsADirectoryError:
        raise PictureError(
            name, "a folder, not a picture", "give pictures, or a folder that holds some"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte in it
        raise PictureError(name, f"cannot be read ({error})", "check the path") from error


def on_white(image: Image.Image) -> Image.Image:
    """Convert a picture to RGB, its transparent parts laid over white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def find_pictures(paths: Iterable[str | Path]) -> list[Path]:
    """List the pictures in `paths`: a file as it is given, a folder by all it holds, sorted.

    Inside folders, files count by their ending (`PICTURE_SUFFIXES`). Hidden files and folders, the
    `._` files of macOS among them, are passed over; linked folders are followed, each one once.

    What is missing, and a folder without pictures, stays in the list as it was given, so that
    opening it gives the error in its place.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        found += list(_walk(path)) or [path]  # nothing is found inside a file
    return found


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link back up would lead round for ever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(here, name)
            hidden = name.startswith(".")
            if not hidden and path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
                yield path


def open_header(file: IO[bytes], name: str) -> Image.Image:
    """Open a picture without decoding it; `name` is for messages. Raises `PictureError`."""
    try:
        return _identify(file, name)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(name, f"too large ({error})", "scale it down first") from error
    except UnidentifiedImageError as error:
        if file.seek(0, os.SEEK_END) == 0:
            raise PictureError(name, "the file is empty", "copy or download it again") from None
        raise PictureError(
            name, "this is not a picture of a known kind", "convert it to JPEG or PNG"
        ) from error
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged header
        raise _damaged(name, error) from error


def _decode_file(
    file: IO[bytes], name: str, draft_size: int | None, max_pixels: int
) -> Image.Image:
    image = open_header(file, name)
    if draft_size is not None:
        image.draft(None, (2 * draft_size, 2 * draft_size))
    return _decode(image, name, max_pixels)


def _identify(file: IO[bytes], name: str) -> Image.Image:
    """Read the header by its contents, whatever the file's name says."""
    try:
        return Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        head = file.read(12)
        if head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS:
            raise
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(
            name, "HEIC pictures need one more package", "pip install twotower[heif]"
        ) from None
    pillow_heif.register_heif_opener()
    return Image.open(file, formats=("HEIF",))


def _decode(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    pixels = image.width * image.height
    if not pixels:
        raise PictureError(name, "the picture has no pixels", "give one that has some")
    if pixels > max_pixels:
        raise PictureError(
            name,
            f"too large ({image.width} x {image.height}, the limit is {max_pixels:,} pixels)",
            "scale it down first",
        )
    try:
        image.load()
    except Exception as error:  # as above; one bad picture must never stop a run
        raise _damaged(name, error) from error
    image = _eight_bit(_upright(image))
    if image.mode not in _EIGHT_BIT_MODES:
        raise PictureError(
            name,
            f"pixels of the kind {image.mode!r} have no agreed range of brightness",
            "convert it to 8 bits first",
        )
    return image


def _damaged(name: str, error: Exception) -> PictureError:
    what = str(error) or type(error).__name__
    return PictureError(name, f"damaged or cut short ({what})", "copy or download it again")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TO_UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken EXIF block says nothing, and the pixels are sound
        return image
    if turn is None:
        return image
    upright = image.transpose(turn)
    # Each place that `getexif` looks in; left there, the picture would be turned a second time.
    for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        upright.info.pop(key, None)
    return upright


def _eight_bit(image: Image.Image) -> Image.Image:
    # 16-bit PGM files arrive as "I", stretched to 0..65535.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        reason, remedy = f"its type is {array.dtype}", "scale it to 0..255 and convert it to uint8"
    elif array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        reason, remedy = f"its shape is {array.shape}", "give [H, W], [H, W, 3] or [H, W, 4]"
    elif array.size == 0:
        reason, remedy = f"its shape is {array.shape}", "give one that has pixels"
    else:
        return Image.fromarray(array)
    raise PictureError("<array>", reason, remedy)
