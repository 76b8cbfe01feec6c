"""Translate filters of a query to SQL."""

from __future__ import annotations

import datetime
import difflib
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twotower.errors import QueryError
from twotower.inputs.media import RAW_SUFFIXES, VIDEO_SUFFIXES

ORIENTATIONS = ("landscape", "portrait", "square")
FILTERS = {  # and what may stand behind each
    "after": "2021",
    "before": "2023-06",
    "camera": "fuji",
    "folder": "trips",
    "near": "48.1,11.5,20km",
    "orientation": "portrait",
    "type": "heic",
}
KINDS = {  # as the catalog has them, and the endings that mean them
    "avif": "avif",
    "bmp": "bmp dib",
    "gif": "gif",
    "heic": "heic heif hif",
    "jpeg": "jpeg jpg jpe jfif mpo",
    "jpeg2000": "jpeg2000 jp2",
    "png": "png apng",
    "ppm": "ppm pgm pbm pnm",
    "raw": " ".join(["raw", *(suffix[1:] for suffix in RAW_SUFFIXES)]),
    "tiff": "tiff tif",
    "video": " ".join(["video", *(suffix[1:] for suffix in VIDEO_SUFFIXES)]),
    "webp": "webp",
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names.split()}
EARTH_KM = 6371.0
KM_PER_DEGREE = 111.0  # a little less than the truth, so that no picture is left out


@dataclass(frozen=True)
class Near:
    """Within `km` of a place."""

    latitude: float
    longitude: float
    km: float

    def holds(self, latitude: float, longitude: float) -> bool:
        """Whether a place lies within the circle (great-circle distance)."""
        a, b = math.radians(self.latitude), math.radians(latitude)
        half = math.radians(longitude - self.longitude) / 2
        chord = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(half) ** 2
        return 2 * EARTH_KM * math.asin(math.sqrt(min(1.0, chord))) <= self.km


# --- filters -------------------------------------------------------------------------------------


def _conditions(
    filters: dict[str, list[str]],
) -> tuple[str, tuple[Any, ...], tuple[Near, ...]]:
    """SQL, its parameters, and circles. Any one value of a key suffices; every key must hold."""
    clauses, parameters = [], []
    near: list[Near] = []
    for key, values in filters.items():
        choices = []
        for value in values:
            condition, some = _CONDITIONS[key](value)
            choices.append(condition)
            parameters += some
            if key == "near":
                near.append(_circle(value))
        joined = " AND " if key in ("after", "before") else " OR "
        clauses.append(f"({joined.join(choices)})")
    return " AND ".join(clauses) or "1", tuple(parameters), tuple(near)


Condition = tuple[str, list[Any]]


def _after(value: str) -> Condition:
    return "taken >= ?", [_date("after", value)]


def _before(value: str) -> Condition:
    return "taken < ?", [_date("before", value)]


def _date(key: str, value: str) -> str:
    """`2021`, `2021-06` or `2021-06-30`, as it sorts beside ISO times."""
    match = re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?", value)
    year, month, day = (int(one or 1) for one in match.groups()) if match else (0, 0, 0)
    try:
        return datetime.date(year, month, day).isoformat()
    except ValueError:
        raise QueryError(
            f"{key}:{value} is no date; write {key}:2021, {key}:2021-06 or {key}:2021-06-30"
        ) from None


def _camera(value: str) -> Condition:
    name = re.sub("[\ud800-\udfff]", "\ufffd", value)  # bytes that are no text, as in the catalog
    return "camera LIKE ? ESCAPE '!'", [f"%{_literal(name)}%"]


def _folder(value: str) -> Condition:
    """The folder of that name or path, wherever in the library it is, and what is below it."""
    name = value.strip("/")
    if not name or name in (".", ".."):
        raise QueryError(f"folder:{value} names no folder; write one, such as folder:trips")
    try:
        part = os.fsencode(f"/{name}/").lower()  # of bytes, as of SQL: the letters A to Z alone
    except UnicodeEncodeError:
        raise QueryError(f"folder:{value!r} is no name that a folder can have") from None
    # as bytes, because names need not be text
    return "instr(CAST(lower('/' || CAST(path AS TEXT)) AS BLOB), ?)", [part]


def _literal(text: str) -> str:
    """A text that LIKE takes as it is."""
    return re.sub("([!%_])", r"!\1", text)


def _type(value: str) -> Condition:
    name = value.lower().lstrip(".")
    if name not in KIND_OF:
        close = difflib.get_close_matches(name, KIND_OF, 1)
        hint = f"; did you mean type:{KIND_OF[close[0]]}?" if close else ""
        raise QueryError(f"type:{value} is none of {', '.join(KINDS)}{hint}")
    return "type = ?", [KIND_OF[name]]


def _orientation(value: str) -> Condition:
    if value.lower() not in ORIENTATIONS:
        close = difflib.get_close_matches(value.lower(), ORIENTATIONS, 1) or ORIENTATIONS[:1]
        raise QueryError(
            f"orientation:{value} is none of {', '.join(ORIENTATIONS)}; "
            f"did you mean orientation:{close[0]}?"
        )
    return "orientation = ?", [value.lower()]


def _near(value: str) -> Condition:
    """A box around the circle: quick to find, a little too large."""
    circle = _circle(value)
    high = circle.km / KM_PER_DEGREE
    condition, parameters = "latitude BETWEEN ? AND ?", [circle.latitude - high] * 2
    parameters[1] = circle.latitude + high
    shrinking = math.cos(math.radians(min(89.9, abs(circle.latitude) + high)))
    wide = high / shrinking
    if wide >= 180 or abs(circle.latitude) + high >= 90:
        return condition, parameters
    condition += (
        " AND (abs(longitude - ?) <= ? OR abs(longitude - ?) >= ?)"  # or past the date line
    )
    return condition, [*parameters, circle.longitude, wide, circle.longitude, 360 - wide]


def _circle(value: str) -> Near:
    number = r"(-?\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"{number},{number}(?:,(\d+(?:\.\d+)?)(km|m))?", value)
    if not match:
        raise QueryError(
            f"near:{value} is no place; write latitude,longitude,distance without spaces, "
            "as in near:48.1,11.5,20km"
        )
    latitude, longitude = float(match[1]), float(match[2])
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise QueryError(
            f"near:{value}: latitude goes from -90 to 90 and longitude from -180 to 180"
        )
    km = float(match[3] or 1) / (1000 if match[4] == "m" else 1)
    return Near(latitude, longitude, km)


_CONDITIONS: dict[str, Callable[[str], Condition]] = {
    "after": _after,
    "before": _before,
    "camera": _camera,
    "folder": _folder,
    "near": _near,
    "orientation": _orientation,
    "type": _type,
}
