"""Open still pictures safely: upright, in 8 bits, with one kind of error for every fault."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from twotower.errors import PictureError

Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]
"""A file's path, its contents, a PIL picture, or uint8 [H, W], [H, W, 3] or [H, W, 4]."""

# fmt: off
PICTURE_SUFFIXES: frozenset[str] = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif", ".heic",
    ".heif", ".hif", ".bmp", ".dib", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm",
))
"""Suffixes, in lower case, of the files that `find_pictures` lists in a folder."""
# fmt: on

MAX_PIXELS = 2**28
"""The limit for decompression bombs, about a gigabyte; phones make pictures of 200 megapixels."""

# Tried in this order. Not all that Pillow reads: its EPS reader would start Ghostscript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000")

# Major brands that Pillow does not read by itself: HEVC in the HEIF container (ISO/IEC 23008-12).
_HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)

_HEIF_HEADER = 2**20  # bytes; the boxes before the pixels have a few kilobytes

_NAME = "twotower:name"  # the key of a picture's name in `Image.info`
_WHITE_IS_ZERO = 0  # TIFF tag 262

# libjpeg decodes what is missing before the end as middle grey, or its inverse in CMYK.
_END_OF_IMAGE, _MISSING_LEVELS = b"\xff\xd9", (127, 128)

_EIGHT_BIT_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"))

# EXIF orientation (TIFF tag 274) -> the transposition that turns the stored picture upright.
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
    """Decode a picture completely, and turn it upright by its EXIF orientation.

    An animation gives its first frame. Pixels of more than 8 bits are scaled to 8 bits by their
    highest bits, as Pillow does for 16-bit RGB; otherwise the mode stays that of the file ("P",
    "CMYK", ...). A JPEG cut short that has pixels down to its last row is decoded with a warning.

    Args:
        draft_size: decode a JPEG at the smallest of the scales 1, 1/2, 1/4 and 1/8 that keeps both
            sides at least twice as long. That is much faster, and nearly the same once resized to
            `draft_size`.
        max_pixels: of the decoded picture, checked before. It replaces Pillow's own limit
            (`PIL.Image.MAX_IMAGE_PIXELS`), which does not know of reduced scales.

    Raises:
        PictureError: `source` is missing, damaged, cut short, too large or no picture.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        name = source.info.get(_NAME) or getattr(source, "filename", "") or "<picture>"
        return _decode(source, str(name), max_pixels)
    if isinstance(source, bytes):
        return _decode_file(io.BytesIO(source), "<bytes>", draft_size, max_pixels)
    if not isinstance(source, (str, os.PathLike)):
        raise PictureError(
            f"<{type(source).__name__}>",
            "not a picture",
            "give a path, the bytes of a file, a PIL picture or a uint8 array",
        )
    name = os.fspath(source)
    try:
        with Path(source).open("rb") as file:
            return _decode_file(file, name, draft_size, max_pixels)
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(name, "no such file", "check the path") from None
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
    """List the pictures in `paths`: files unchanged, folders replaced by their pictures, sorted.

    In folders, files are chosen by their suffix (`PICTURE_SUFFIXES`). Hidden files and folders,
    including the `._` files of macOS, are skipped. Linked folders are followed, each one once.

    Missing files and folders without pictures stay in the list, so that opening them gives the
    error in their position.
    """
    pictures: list[Path] = []
    for path in map(Path, paths):
        pictures += list(_walk(path)) or [path]  # a file has nothing to walk
    return pictures


def _walk(folder: Path) -> Iterator[Path]:
    visited: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link to a parent would never end
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            hidden = name.startswith(".")
            if not hidden and path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
                yield path


def open_header(file: IO[bytes], name: str) -> Image.Image:
    """Open a picture without decoding it.

    Args:
        name: the file in messages.

    Raises:
        PictureError: the file is no picture, or its header is damaged.
    """
    try:
        image = _identify(file, name)
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(name, f"too large ({error})", "scale it down first") from error
    except UnidentifiedImageError as error:
        if file.seek(0, os.SEEK_END) == 0:
            raise PictureError(name, "the file is empty", "copy or download it again") from None
        raise PictureError(
            name, "not a picture of a known kind", "convert it to JPEG or PNG"
        ) from error
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged header
        raise _damaged(name, error) from error
    image.info[_NAME] = name
    return image


def _decode_file(
    file: IO[bytes], name: str, draft_size: int | None, max_pixels: int
) -> Image.Image:
    image = open_header(file, name)
    if draft_size is not None:
        image.draft(None, (2 * draft_size, 2 * draft_size))
    return _decode(image, name, max_pixels)


def _identify(file: IO[bytes], name: str) -> Image.Image:
    """Read the header. The format is known by the contents, whatever the file's name."""
    try:
        return _open_unlimited(file, FORMATS)
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
    return _restore_orientation(_open_unlimited(file, ("HEIF",)), file)


def _open_unlimited(file: IO[bytes], formats: Sequence[str]) -> Image.Image:
    """Open a file as `Image.open` does, without its limit of pixels."""
    file.seek(0)
    head = file.read(16)
    Image.preinit()
    for name in formats:
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN[name]
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
            if accept is None or accept(head) is True:
                file.seek(0)
                return factory(file, "")
    raise UnidentifiedImageError


def _restore_orientation(image: Image.Image, file: IO[bytes]) -> Image.Image:
    """Restore the EXIF orientation of a HEIC file whose container has none.

    libheif turns a picture by the container's boxes `irot` and `imir` alone, and pillow-heif resets
    the EXIF orientation in any case.
    """
    orientation = image.info.get("original_orientation")
    file.seek(0)
    header = file.read(_HEIF_HEADER).partition(b"mdat")[0]
    if orientation and b"irot" not in header and b"imir" not in header:
        image.getexif()[ExifTags.Base.Orientation] = orientation
    return image


def _decode(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    pixels = _decoded_pixels(image)
    if not pixels:
        raise PictureError(name, "the picture has no pixels", "replace the file")
    if pixels > max_pixels:
        raise PictureError(
            name,
            f"too large ({image.width} x {image.height}, the limit is {max_pixels:,} pixels)",
            "scale it down first",
        )
    try:
        image.load()
    except Exception as error:  # as in `open_header`; one bad picture must never stop a run
        complete = _complete(image)
        if complete is None:
            raise _damaged(name, error) from error
        warnings.warn(
            f"{name}: cut short, and decoded as far as it goes; copy or download it again",
            stacklevel=2,
        )
        image = complete
    image = _eight_bit(_upright(image), image)
    if image.mode not in _EIGHT_BIT_MODES:
        raise PictureError(
            name,
            f"pixels of the kind {image.mode!r} have no agreed range of brightness",
            "convert it to 8 bits first",
        )
    return image


def _decoded_pixels(image: Image.Image) -> int:
    """Return the number of pixels that decoding keeps in memory."""
    scale: int = next(iter(getattr(image, "decoderconfig", ())), 1)  # of a JPEG, by `draft`
    progressive = bool(image.info.get("progressive"))  # decoded at a reduced scale at the very end
    return image.width * image.height * (scale**2 if progressive else 1)


def _complete(image: Image.Image) -> Image.Image | None:
    """Decode a JPEG that is cut short, as browsers do.

    Returns:
        None for another format, or if the last row of pixels is missing.
    """
    file = getattr(image, "fp", None)
    if image.format not in ("JPEG", "MPO") or file is None:
        return None
    try:
        file.seek(0)
        complete = _open_unlimited(io.BytesIO(file.read() + _END_OF_IMAGE), ("JPEG",))
        complete.draft(None, image.size)
        complete.load()
    except Exception:  # as above
        return None
    missing = np.isin(np.asarray(complete)[-1], _MISSING_LEVELS)
    return None if missing.all() else complete


def _damaged(name: str, error: Exception) -> PictureError:
    reason = str(error) or type(error).__name__
    return PictureError(name, f"damaged or cut short ({reason})", "copy or download it again")


def _upright(image: Image.Image) -> Image.Image:
    try:
        transposition = _TO_UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises nearly anything on a damaged block; the pixels are intact
        return image
    if transposition is None:
        return image
    upright = image.transpose(transposition)
    # `getexif` reads each of these; if they stayed, the picture would be turned a second time.
    for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        upright.info.pop(key, None)
    return upright


def _eight_bit(image: Image.Image, source: Image.Image) -> Image.Image:
    """Scale 16-bit pixels to 8 bits.

    Args:
        source: the picture as opened, which knows its format and TIFF tags.
    """
    # 16-bit PGM files arrive as "I", stretched to 0..65535.
    if not image.mode.startswith("I;16") and not (image.mode == "I" and source.format == "PPM"):
        return image
    tags: Mapping[int, Any] = getattr(source, "tag_v2", {})
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    levels = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO:
        levels = 255 - levels  # Pillow inverts pixels of up to 8 bits by itself
    return Image.fromarray(levels)


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        reason, remedy = f"its type is {array.dtype}", "scale it to 0..255 and convert it to uint8"
    elif array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        reason, remedy = f"its shape is {array.shape}", "give [H, W], [H, W, 3] or [H, W, 4]"
    elif array.size == 0:
        reason, remedy = f"its shape is {array.shape}", "give an array with pixels"
    else:
        return Image.fromarray(array)
    raise PictureError("<array>", reason, remedy)
