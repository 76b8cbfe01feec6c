"""Removal of metadata (EXIF, XMP, IPTC, comments) from encoded pictures, without re-encoding."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

# JPEG segments that the pixels need: JFIF, ICC profile (APP2) and Adobe's colour transform.
_KEPT_APPLICATION_SEGMENTS = frozenset((0xE0, 0xE2, 0xEE))
_ICC = b"ICC_PROFILE\0"
_COMMENT = 0xFE
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_MARKER_IN_SCAN = re.compile(
    rb"\xff[^\x00\xff\xd0-\xd7]"
)  # stuffed bytes and restarts belong to it

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = frozenset((b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME"))
_WEBP_METADATA = frozenset((b"EXIF", b"XMP "))
_WEBP_METADATA_FLAGS = 0x08 | 0x04  # of VP8X: EXIF, XMP


def strip_metadata(content: bytes, picture_format: str) -> bytes | None:
    """Return a picture without metadata; its pixels, size and colour profile stay.

    Bytes after the end of the picture, such as a second picture or a video, are removed too.

    Args:
        picture_format: Pillow's name of the format.

    Returns:
        None if the format is unknown here, or the file is cut short or malformed.
    """
    strip = _STRIPPERS.get(picture_format)
    if strip is None:
        return None
    try:
        return strip(content)
    except (struct.error, IndexError, ValueError):
        return None


def _strip_jpeg(content: bytes) -> bytes:
    """Copy the segments that the pixels need. Raises for a malformed file."""
    kept = [b"\xff\xd8"]
    for marker, start, end in _jpeg_segments(content):
        segment = content[start:end]
        if marker == _COMMENT or (
            0xE0 <= marker <= 0xEF and marker not in _KEPT_APPLICATION_SEGMENTS
        ):
            continue
        if marker == 0xE2 and segment[4 : 4 + len(_ICC)] != _ICC:  # the index of several pictures
            continue
        kept.append(segment)
    return b"".join(kept)


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the (marker, start, end) of each segment up to the end of the picture.

    A scan's compressed data belongs to its segment.
    """
    if content[:2] != b"\xff\xd8":
        raise ValueError("no JPEG")
    position = 2
    while True:
        if content[position] != 0xFF:
            raise ValueError("no marker")
        while content[position + 1] == 0xFF:  # fill bytes
            position += 1
        marker = content[position + 1]
        if marker == _END_OF_IMAGE:
            yield marker, position, position + 2
            return
        end = position + 2 + struct.unpack_from(">H", content, position + 2)[0]
        if marker == _START_OF_SCAN:
            following = _MARKER_IN_SCAN.search(content, end)
            if following is None:
                raise ValueError("cut short")
            end = following.start()
        yield marker, position, end
        position = end


def _strip_png(content: bytes) -> bytes:
    if not content.startswith(_PNG_SIGNATURE):
        raise ValueError("no PNG")
    kept, position = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while True:
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            raise ValueError("cut short")
        if kind not in _PNG_METADATA:
            kept.append(content[position:end])
        if kind == b"IEND":
            return b"".join(kept)
        position = end


def _strip_webp(content: bytes) -> bytes:
    size = struct.unpack_from("<4xI", content)[0]
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or size + 8 > len(content):
        raise ValueError("no WebP, or cut short")
    kept, position = [b"WEBP"], 12
    while position + 8 <= size + 8:
        kind, length = struct.unpack_from("<4sI", content, position)
        end = position + 8 + length + length % 2
        chunk = content[position:end]
        if kind == b"VP8X":
            chunk = chunk[:8] + bytes((chunk[8] & ~_WEBP_METADATA_FLAGS,)) + chunk[9:]
        if kind not in _WEBP_METADATA:
            kept.append(chunk)
        position = end
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _keep_bmp(content: bytes) -> bytes:
    """Return the file: the format has no metadata."""
    return content


_STRIPPERS: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": _strip_jpeg,
    "MPO": _strip_jpeg,  # several JPEGs in one file, of which the first is kept
    "PNG": _strip_png,
    "WEBP": _strip_webp,
    "BMP": _keep_bmp,
}
