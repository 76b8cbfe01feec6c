"""The metadata in a picture's header: size, date, camera, position and keywords."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

from twotower.metadata.dates import parse_date

# Pillow's names of formats that users call otherwise; an MPO file is a JPEG with more pictures.
USUAL_FORMATS = {"heif": "heic", "mpo": "jpeg", "dib": "bmp"}
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_IPTC_KEYWORDS = (2, 25)


@dataclass(frozen=True)
class Metadata:
    """The metadata of one picture.

    Attributes:
        type: format in lower case ("jpeg", "heic"), or "raw" or "video".
        width, height: in pixels, as displayed.
        taken: ISO 8601, in the camera's local time.
        modified: the time of the last change, or of the creation of a PNG, by its program.
        latitude, longitude: degrees north and east.
        keywords: those of IPTC; those of XMP are in the packet.
        xmp: the embedded XMP packet; empty without one.
    """

    type: str
    width: int
    height: int
    taken: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    keywords: tuple[str, ...] = ()
    xmp: bytes = b""
    modified: str | None = None


def read_metadata(image: Image.Image) -> Metadata:
    """Read the header of an opened picture; missing or damaged fields keep their defaults."""
    pillow_format = (image.format or "unknown").lower()
    metadata = Metadata(
        USUAL_FORMATS.get(pillow_format, pillow_format),
        image.width,
        image.height,
        modified=parse_date(_text(image.info.get("Creation Time"))),  # of a PNG
        keywords=tuple(dict.fromkeys(_iptc_keywords(image))),
        xmp=_xmp(image),
    )
    try:
        exif = image.getexif()
        details, position = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception:  # Pillow raises nearly anything on a damaged block; the pixels are intact
        return metadata
    base = ExifTags.Base
    if exif.get(base.Orientation) in _SIDEWAYS:
        metadata = replace(metadata, width=image.height, height=image.width)
    return replace(
        metadata,
        taken=(
            parse_date(_text(details.get(base.DateTimeOriginal)))
            or parse_date(_text(details.get(base.DateTimeDigitized)))
        ),
        modified=parse_date(_text(exif.get(base.DateTime))) or metadata.modified,
        camera=_camera(_text(exif.get(base.Make)), _text(exif.get(base.Model))),
        latitude=_degrees(position, ExifTags.GPS.GPSLatitude, "S", 90),
        longitude=_degrees(position, ExifTags.GPS.GPSLongitude, "W", 180),
    )


def _xmp(image: Image.Image) -> bytes:
    for name in ("xmp", "XML:com.adobe.xmp"):
        content = image.info.get(name)
        if content:
            return content.encode() if isinstance(content, str) else bytes(content)
    return b""


def _iptc_keywords(image: Image.Image) -> list[str]:
    if not isinstance(image, ImageFile.ImageFile):
        return []
    try:
        value: Any = (IptcImagePlugin.getiptcinfo(image) or {}).get(_IPTC_KEYWORDS, [])
    except Exception:  # as for EXIF
        return []
    items = [value] if isinstance(value, bytes) else value
    return [keyword for keyword in (_text(item) for item in items) if keyword]


def _text(value: Any) -> str:
    """Return a field as one line of valid text; empty if it is not text."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        return ""
    value = value.encode("utf-8", errors="replace").decode()
    return " ".join(value.replace("\0", " ").split())


def _camera(make: str, model: str) -> str | None:
    """Join both, as in "Canon EOS 5D"; the maker is left out if the model begins with it."""
    if make and model.lower().startswith(make.split()[0].lower()):
        make = ""
    return f"{make} {model}".strip() or None


def _degrees(position: Any, tag: int, negative: str, limit: int) -> float | None:
    """Convert degrees, minutes and seconds of GPS tag `tag`, whose direction is the tag before.

    Returns:
        None if the tag is missing, damaged, or beyond `limit`.
    """
    try:
        degrees, minutes, seconds = (float(number) for number in position[tag])
        value = degrees + minutes / 60 + seconds / 3600
        signed = -value if _text(position[tag - 1]).upper() == negative else value
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return round(signed, 7) if abs(signed) <= limit else None  # excludes NaN too
