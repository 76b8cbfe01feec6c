"""What a picture's file says about itself: when, where and with what it was taken, and keywords."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from PIL import ExifTags, Image, ImageFile, IptcImagePlugin

# What Pillow calls otherwise than people do; an MPO is a JPEG with more pictures behind it.
_KINDS = {"heif": "heic", "mpo": "jpeg", "dib": "bmp"}
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_DATE = re.compile(r"(\d{4}):(\d\d):(\d\d)[ T](\d\d):(\d\d):(\d\d)")
_IPTC_KEYWORDS = (2, 25)


@dataclass(frozen=True)
class Metadata:
    """Sides as displayed; `taken` in the camera's local time, ISO 8601; degrees north and east.

    `keywords` are IPTC's; those of XMP are in the packet `xmp`.
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


def read_metadata(image: Image.Image) -> Metadata:
    """The facts in the header of an opened picture; what is missing or damaged is left out."""
    kind = (image.format or "unknown").lower()
    facts = Metadata(_KINDS.get(kind, kind), image.width, image.height)
    facts = replace(facts, keywords=tuple(dict.fromkeys(_iptc_keywords(image))), xmp=_xmp(image))
    try:
        exif = image.getexif()
        details, places = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception:  # a broken EXIF block says nothing, and the pixels are sound
        return facts
    if exif.get(ExifTags.Base.Orientation) in _TURNED:
        facts = replace(facts, width=image.height, height=image.width)
    base = ExifTags.Base
    return replace(
        facts,
        taken=_date(details.get(base.DateTimeOriginal)) or _date(exif.get(base.DateTime)),
        camera=_camera(_text(exif.get(base.Make)), _text(exif.get(base.Model))),
        latitude=_degrees(places, ExifTags.GPS.GPSLatitude, "S", 90),
        longitude=_degrees(places, ExifTags.GPS.GPSLongitude, "W", 180),
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
        found: Any = (IptcImagePlugin.getiptcinfo(image) or {}).get(_IPTC_KEYWORDS, [])
    except Exception:  # as for EXIF
        return []
    items = [found] if isinstance(found, bytes) else found
    return [line for line in (_text(item) for item in items) if line]


def _text(value: Any) -> str:
    """One clean line of what should have been text."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        return ""
    value = value.encode("utf-8", errors="replace").decode()
    return " ".join(value.replace("\0", " ").split())


def _date(value: Any) -> str | None:
    match = _DATE.match(_text(value))
    if match is None or match[1] == "0000" or not "01" <= match[2] <= "12":
        return None
    year, month, day, hour, minute, second = match.groups()
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}"


def _camera(make: str, model: str) -> str | None:
    """ "Canon EOS 5D", whether or not the model repeats the maker."""
    if make and model.lower().startswith(make.split()[0].lower()):
        make = ""
    return f"{make} {model}".strip() or None


def _degrees(places: Any, tag: int, negative: str, limit: int) -> float | None:
    """Degrees of GPS tag `tag` (degrees, minutes, seconds); its direction is the tag before."""
    try:
        degrees, minutes, seconds = (float(part) for part in places[tag])
        value = degrees + minutes / 60 + seconds / 3600
        signed = -value if _text(places[tag - 1]).upper() == negative else value
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return round(signed, 7) if abs(signed) <= limit else None  # also leaves out NaN
