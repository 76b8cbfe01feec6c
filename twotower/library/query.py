"""The language of searches: words, pictures, what shall not be there, and filters.

"beach at sunset" - "people" + photo.jpg^0.5 after:2021 folder:trips
"""

from __future__ import annotations

import datetime
import difflib
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower.inputs.raw import RAW_SUFFIXES
from twotower.inputs.video import VIDEO_SUFFIXES
from twotower.library.scan import SUFFIXES

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


class QueryError(ValueError):
    """A query that cannot be understood; the message names the part and says what to write."""


@dataclass(frozen=True)
class Term:
    """Something to look for, or with `wanted` False something that shall not be there.

    Either words (`text`) or a picture (`picture`); the weight says how much it counts.
    """

    text: str = ""
    picture: Path | None = None
    weight: float = 1.0
    wanted: bool = True


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


@dataclass(frozen=True)
class Query:
    """A parsed search. `where` and `parameters` are the filters, as `Catalog.select` takes them.

    A circle cannot be said in SQL alone: of what `where` leaves, `near` has to hold as well.
    """

    text: str
    terms: tuple[Term, ...]
    where: str = "1"
    parameters: tuple[Any, ...] = ()
    near: tuple[Near, ...] = ()

    @property
    def words(self) -> str:
        """All the words that are looked for, for file names and keywords."""
        return " ".join(term.text for term in self.terms if term.wanted and term.text)


def parse_query(text: str, find_picture: Callable[[str], Path | None] | None = None) -> Query:
    """Understand what a person typed.

    Words that stand together are one description. A term may be in quotes, `+` starts another that
    must hold too, `-` one that must not, `^2` makes it count double. `key:value` is a filter.

    Args:
        find_picture: says which file a term that looks like a path means, if any; by default a
            path from the working directory.

    Raises:
        QueryError: naming the token that makes no sense.
    """
    find_picture = find_picture or _existing
    terms: list[Term] = []
    filters: dict[str, list[str]] = {}
    words: list[str] = []
    wanted, signed = True, ""  # of the next term; the + or - that stands just before, if one does

    def end_words() -> None:
        nonlocal wanted
        if words:
            terms.append(_term(" ".join(words), wanted))
            words.clear()
            wanted = True

    for token in _tokens(text):
        if token in ("+", "-"):
            end_words()
            if signed:
                raise QueryError(_nothing_behind(signed))
            wanted, signed = token == "+", token
            continue
        if match := re.fullmatch(r'([+-]?)"(.*)"(\^\S*)?', token, re.DOTALL):
            end_words()
            sign, quoted, weight = match.groups()
            terms.append(_term(quoted + (weight or ""), _sign(sign, wanted)))
            wanted = True
        elif condition := _filter(token, signed):
            end_words()
            key, value = condition
            filters.setdefault(key, []).append(value)
        elif picture := _picture(token, find_picture, signed):
            end_words()
            path, weight = picture
            sign = token[0] if token[0] in "+-" else ""
            terms.append(Term(picture=path, weight=weight, wanted=_sign(sign, wanted)))
            wanted = True
        elif re.fullmatch(r"[+-][^\W\d_].*", token):
            end_words()
            terms.append(_term(token[1:], token[0] == "+"))
            wanted = True
        else:
            words.append(token)
        signed = ""
    end_words()
    _check(text, terms, filters)
    if signed:
        raise QueryError(_nothing_behind(signed))
    where, parameters, near = _conditions(filters)
    return Query(text, tuple(terms), where, parameters, near)


def _tokens(text: str) -> list[str]:
    """Split at spaces, but not inside quotes.

    Raises:
        QueryError: a quote that is not closed.
    """
    text = text.replace("“", '"').replace("”", '"').replace("„", '"')
    if text.count('"') % 2:
        start = text.rindex('"')
        raise QueryError(f'the quote at {text[start : start + 20]!r} is not closed; add a "')
    return re.findall(r'(?:[^\s"]|"[^"]*")+', text)


def _sign(sign: str, wanted: bool) -> bool:
    return sign == "+" if sign else wanted


def _term(text: str, wanted: bool) -> Term:
    words, weight = _split_weight(text)
    if not words.strip():
        raise QueryError(f"{text!r} has no words; write what to look for between the quotes")
    return Term(" ".join(words.split()), weight=weight, wanted=wanted)


def _split_weight(text: str) -> tuple[str, float]:
    """`beach^2` -> ("beach", 2.0). Raises `QueryError` for a weight that is no number above 0."""
    words, mark, number = text.rpartition("^")
    if not mark:
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= 100:
        raise QueryError(
            f'{mark}{number} is no weight; write a number above 0 after ^, as in "beach"^2'
        )
    return words, weight


def _filter(token: str, signed: str) -> tuple[str, str] | None:
    """The key and the value of a filter; None for words, such as `star wars: a hope`.

    Raises:
        QueryError: no such filter, nothing behind the colon, or a sign before it.
    """
    match = re.fullmatch(r"([+-]?)([A-Za-z]+):(.*)", token, re.DOTALL)
    if not match:
        return None
    sign, key, value = match[1], match[2].lower(), match[3].strip('"')
    if key not in FILTERS:
        if sign or not value:
            return None
        raise QueryError(_unknown_filter(key, token))
    if sign or signed:
        raise QueryError(f"{key}:{value} is a filter and takes no + or -; leave that out")
    if not value.strip():
        raise QueryError(
            f"{key}: has nothing behind it; write {key}:{FILTERS[key]} without a space, "
            f'or as words: "{key}:"'
        )
    return key, value


def _nothing_behind(sign: str) -> str:
    return f'{sign} has nothing behind it; write words, or put it in quotes: "{sign}"'


def _picture(
    token: str, find_picture: Callable[[str], Path | None], signed: str
) -> tuple[Path, float] | None:
    """The file that a token means and its weight; None for words.

    Raises:
        QueryError: it can only mean a file, and there is none.
    """
    name, weight = _split_weight(token.lstrip("+-")) if "^" in token else (token.lstrip("+-"), 1.0)
    if Path(name).suffix.lower() not in SUFFIXES:
        return None
    path = find_picture(name)
    if path is not None:
        return path, weight
    if os.sep in name or token[0] in "+-" or signed:
        raise QueryError(f"{name}: there is no such picture; check the path")
    return None  # a file's name, to be looked for among the words


def _existing(name: str) -> Path | None:
    path = Path(name).expanduser()
    return path if path.is_file() else None


def _unknown_filter(key: str, token: str) -> str:
    close = difflib.get_close_matches(key, FILTERS, 1)
    if close:
        return f"{token!r}: no filter {key!r}; did you mean {close[0]}:{token.split(':', 1)[1]}?"
    names = ", ".join(f"{name}:" for name in FILTERS)
    return f'{token!r}: no filter {key!r}; there are {names} or put it in quotes: "{token}"'


def _check(text: str, terms: list[Term], filters: dict[str, list[str]]) -> None:
    if not terms and not filters:
        raise QueryError('nothing to look for; write some words, such as "beach at sunset"')
    if terms and not any(term.wanted for term in terms):
        raise QueryError(
            f"{text!r} only says what shall not be there; add what to look for before the minus"
        )


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
