"""Filters of a query as SQL: conditions on the table `pictures` of the catalog."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from twotower.search.query import Circle, Filter

EARTH_RADIUS_KM = 6371.0
KM_PER_DEGREE = 111.0  # a little less than the true 111.2, so that a box contains its circle

Clause: TypeAlias = tuple[str, list[Any]]  # SQL with ?, and the parameters


@dataclass(frozen=True)
class Condition:
    """A condition, as `Catalog.select` takes it, and what SQL alone cannot express.

    Attributes:
        sql: the condition, with a ? for each of `parameters`.
        circles: if there are any, a picture must also lie in one of them (`in_circle`).
    """

    sql: str
    parameters: tuple[Any, ...]
    circles: tuple[Circle, ...] = ()


def to_condition(filters: Sequence[Filter]) -> Condition:
    """Join filters: values of the same key with OR (dates with AND), different keys with AND."""
    by_key: dict[str, list[Clause]] = {}
    for parsed in filters:
        by_key.setdefault(parsed.key, []).append(_CLAUSES[parsed.key](parsed.value))
    clauses = []
    for key, choices in by_key.items():
        joined = " AND " if key in ("after", "before") else " OR "
        clauses.append(f"({joined.join(sql for sql, _ in choices)})")
    parameters = [value for choices in by_key.values() for _, values in choices for value in values]
    circles = [parsed.value for parsed in filters if isinstance(parsed.value, Circle)]
    return Condition(" AND ".join(clauses) or "1", tuple(parameters), tuple(circles))


def in_circle(circle: Circle, latitude: float, longitude: float) -> bool:
    """Return True for a place within the circle, by the haversine formula on a sphere."""
    a, b = math.radians(circle.latitude), math.radians(latitude)
    half = math.radians(longitude - circle.longitude) / 2
    chord = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(half) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, chord))) <= circle.km


def _after(date: str) -> Clause:
    return "taken >= ?", [date]


def _before(date: str) -> Clause:
    return "taken < ?", [date]


def _camera(name: str) -> Clause:
    # the catalog holds U+FFFD for bytes that are not text
    name = re.sub("[\ud800-\udfff]", "\ufffd", name)
    literal = re.sub("([!%_])", r"!\1", name)
    return "camera LIKE ? ESCAPE '!'", [f"%{literal}%"]


def _folder(name: str) -> Clause:
    """Match the folder of that name or path at any depth, and everything below it.

    The name is compared in its composed and its decomposed form, which macOS stores.
    """
    # as bytes, because names need not be text; bytes.lower() and SQL's lower() change A to Z alone
    spellings = {name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))}
    folders = sorted(os.fsencode(f"/{spelling}/").lower() for spelling in spellings)
    match = "instr(CAST(lower('/' || CAST(path AS TEXT)) AS BLOB), ?)"
    return f"({' OR '.join([match] * len(folders))})", list(folders)


def _near(circle: Circle) -> Clause:
    """Match a box around the circle: quick to look up, and a little larger."""
    height = circle.km / KM_PER_DEGREE  # from the centre to the edge, in degrees
    sql = "latitude BETWEEN ? AND ?"
    parameters = [circle.latitude - height, circle.latitude + height]
    shrinking = math.cos(math.radians(min(89.9, abs(circle.latitude) + height)))
    width = height / shrinking
    if width >= 180 or abs(circle.latitude) + height >= 90:  # around a pole
        return sql, parameters
    sql += " AND (abs(longitude - ?) <= ? OR abs(longitude - ?) >= ?)"  # or past the date line
    return sql, [*parameters, circle.longitude, width, circle.longitude, 360 - width]


def _orientation(name: str) -> Clause:
    return "orientation = ?", [name]


def _type(name: str) -> Clause:
    return "type = ?", [name]


_CLAUSES: dict[str, Callable[[Any], Clause]] = {
    "after": _after,
    "before": _before,
    "camera": _camera,
    "folder": _folder,
    "near": _near,
    "orientation": _orientation,
    "type": _type,
}
