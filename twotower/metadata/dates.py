"""Dates and places as EXIF, XMP, PNG and videos write them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from twotower.errors import MetadataError
from twotower.metadata.xmp import Packet, Property

_DATE = re.compile(r"(\d{4})[:.-](\d\d)[:.-](\d\d)(?:[ T]+(\d\d):(\d\d)(?::(\d\d))?|$)")
_EXIF, _PHOTOSHOP = "http://ns.adobe.com/exif/1.0/", "http://ns.adobe.com/photoshop/1.0/"
_XMP_DATES = (
    Property("exif", _EXIF, "DateTimeOriginal"),
    Property("photoshop", _PHOTOSHOP, "DateCreated"),
    Property("exif", _EXIF, "DateTimeDigitized"),
    Property("xmp", "http://ns.adobe.com/xap/1.0/", "CreateDate"),
)
_XMP_LATITUDE = Property("exif", _EXIF, "GPSLatitude")
_XMP_LONGITUDE = Property("exif", _EXIF, "GPSLongitude")
_COORDINATE = re.compile(r"(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?(?:,(\d+(?:\.\d+)?))?([NSEW])")
# The local time with its zone comes before UTC.
_VIDEO_DATES = ("com.apple.quicktime.creationdate", "date", "creation_time")
_VIDEO_PLACES = ("com.apple.quicktime.location.iso6709", "location")
_ISO_6709 = re.compile(r"([+-]\d{1,2}(?:\.\d+)?)([+-]\d{1,3}(?:\.\d+)?)(?![\d.])")
_QUICKTIME_ZERO = "1904-01-01"  # of a camera without a clock


@dataclass(frozen=True)
class DatePlace:
    """Date and place of a picture.

    Attributes:
        taken: ISO 8601, without a zone.
        latitude, longitude: degrees north and east; both or neither.
    """

    taken: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def parse_date(text: str) -> str | None:
    """Return a date of EXIF or ISO 8601 as ISO 8601, or None if it does not exist.

    The time may be missing. Fractions of a second and the zone are dropped.
    """
    match = _DATE.match(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(number or 0) for number in match.groups())
    try:
        return datetime.datetime(year, month, day, hour, minute, second).isoformat()
    except ValueError:  # such as 30 February
        return None


def merge_dates_places(sources: Iterable[DatePlace]) -> DatePlace:
    """Return the first date and the first place of several sources."""
    sources = list(sources)
    taken = next((source.taken for source in sources if source.taken), None)
    located = next((source for source in sources if source.latitude is not None), DatePlace())
    return DatePlace(taken, located.latitude, located.longitude)


def read_packet(content: bytes) -> DatePlace:
    """Return date and place in an XMP packet; nothing if it cannot be read."""
    if not content:
        return DatePlace()
    try:
        packet = Packet(content)
    except MetadataError:
        return DatePlace()
    texts = (text for name in _XMP_DATES for text in packet.items(name))
    latitude, longitude = (
        next(map(_parse_coordinate, packet.items(name)), None)
        for name in (_XMP_LATITUDE, _XMP_LONGITUDE)
    )
    return _located(_first_date(texts), latitude, longitude)


def read_video_tags(tags: Mapping[str, str]) -> DatePlace:
    """Return date and place among the tags of a video, by their names in FFmpeg."""
    lower = {name.lower(): text for name, text in tags.items()}
    taken = _first_date(
        lower[name]
        for name in _VIDEO_DATES
        if name in lower and not lower[name].startswith(_QUICKTIME_ZERO)
    )
    for name in _VIDEO_PLACES:
        if match := _ISO_6709.match(lower.get(name, "")):
            return _located(taken, float(match[1]), float(match[2]))
    return DatePlace(taken)


def _first_date(texts: Iterable[str]) -> str | None:
    return next(filter(None, map(parse_date, texts)), None)


def _parse_coordinate(text: str) -> float | None:
    """Return degrees from XMP's "48,6.5N" or "48,6,30N"."""
    match = _COORDINATE.fullmatch(text.strip())
    if match is None:
        return None
    degrees, minutes, seconds = (float(number or 0) for number in match.groups()[:3])
    value = degrees + minutes / 60 + seconds / 3600
    return -value if match[4] in "SW" else value


def _located(taken: str | None, latitude: float | None, longitude: float | None) -> DatePlace:
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return DatePlace(taken)
    return DatePlace(taken, round(latitude, 7), round(longitude, 7))
