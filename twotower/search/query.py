"""The query language: descriptions, pictures, exclusions and filters.

    "beach at sunset" - "people" + photo.jpg^0.5 after:2021 folder:trips

This file is syntax alone: it opens no file and reads no catalog. `filters.py` turns the filters
into SQL, and `search.py` runs the query.
"""

from __future__ import annotations

import datetime
import difflib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from twotower.errors import QueryError
from twotower.inputs.media import MEDIA_SUFFIXES, RAW_SUFFIXES, VIDEO_SUFFIXES

if TYPE_CHECKING:
    from twotower.arrays import Float32Array

ORIENTATIONS = ("landscape", "portrait", "square")
FILTERS = {  # each key with an example of its value
    "after": "2021",
    "before": "2023-06",
    "camera": "fuji",
    "folder": "trips",
    "near": "48.1,11.5,20km",
    "orientation": "portrait",
    "type": "heic",
}
TYPES = {  # types of files as the catalog names them, each with the names that mean it
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
TYPE_OF_NAME = {name: kind for kind, names in TYPES.items() for name in names.split()}
MAX_WEIGHT = 100.0

FindPicture: TypeAlias = Callable[[str], Path | None]


@dataclass(frozen=True)
class Term:
    """A description (`text`) or a picture (`picture`) to search for.

    Attributes:
        weight: the factor of its score and the exponent of its probability.
        negated: exclude what the term describes.
        image_embeds: of a picture that is no file, [embed_dim]; `picture` then only names it.
    """

    text: str = ""
    picture: Path | None = None
    weight: float = 1.0
    negated: bool = False
    image_embeds: Float32Array | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Circle:
    """All places within `km` of a point; latitude and longitude in degrees."""

    latitude: float
    longitude: float
    km: float


@dataclass(frozen=True)
class Filter:
    """A condition on the facts about a picture.

    Attributes:
        key: one of `FILTERS`.
        value: an ISO date for `after` and `before`, a `Circle` for `near`, one of `ORIENTATIONS`
            or of `TYPES`, or the text of a camera or folder.
        text: the filter as it was typed.
    """

    key: str
    value: str | Circle
    text: str = field(default="", compare=False)


@dataclass(frozen=True)
class Query:
    """A parsed query; `text` is the query as it was typed."""

    text: str
    terms: tuple[Term, ...]
    filters: tuple[Filter, ...] = ()

    @property
    def words(self) -> str:
        """The descriptions to search for, for comparison with file names and keywords."""
        return " ".join(term.text for term in self.terms if term.text and not term.negated)


def parse_query(text: str, find_picture: FindPicture, terms: Sequence[Term] = ()) -> Query:
    """Parse a query as a person types it.

    Adjacent words are one description. A description may be in quotes; `+` starts another that must
    match too, `-` one that must not, and `^2` doubles a weight. `key:value` is a filter.

    Args:
        find_picture: returns the file that a name with the suffix of a picture stands for, or None.
        terms: further terms, which precede those of the text.

    Raises:
        QueryError: the query makes no sense; `subject` is the part of it at fault.
    """
    parser = _Parser(find_picture)
    parser.terms.extend(terms)
    for token in _tokens(text):
        parser.add_token(token)
    parser.end_description()
    every_term, filters = tuple(parser.terms), tuple(parser.filters)
    if not every_term and not filters:
        raise QueryError("query", "nothing to look for", 'write words, such as "beach at sunset"')
    if every_term and all(term.negated for term in every_term):
        raise QueryError(
            repr(text), "only excludes pictures", "add what to look for before the minus"
        )
    if parser.sign:
        raise _dangling(parser.sign)
    return Query(text, every_term, filters)


def _tokens(text: str) -> list[str]:
    """Split at spaces, but not inside quotes.

    Raises:
        QueryError: a quote is not closed.
    """
    text = text.replace("“", '"').replace("”", '"').replace("„", '"')
    if text.count('"') % 2:
        start = text.rindex('"')
        raise QueryError(repr(text[start : start + 20]), "the quote is not closed", 'add a "')
    return re.findall(r'(?:[^\s"]|"[^"]*")+', text)


class _Parser:
    """Terms and filters, collected token by token.

    Attributes:
        sign: the + or - that is the token before this, else "".
    """

    def __init__(self, find_picture: FindPicture) -> None:
        self.terms: list[Term] = []
        self.filters: list[Filter] = []
        self.sign = ""
        self._find_picture = find_picture
        self._words: list[str] = []  # of the description that is not complete yet
        self._negated = False  # by a - that stands alone before the next term

    def add_token(self, token: str) -> None:
        """Add a token. Raises `QueryError` if it makes no sense."""
        if token in ("+", "-"):
            self._add_sign(token)
            return
        if match := re.fullmatch(r'([+-]?)"(.*)"(\^\S*)?', token, re.DOTALL):
            self.end_description()
            sign, quoted, weight = match.groups()
            self._add_term(_description(quoted + (weight or "")), sign)
        elif parsed := _parse_filter(token, self.sign):
            self.end_description()
            self.filters.append(parsed)
        elif picture := _parse_picture(token, self._find_picture, self.sign):
            self.end_description()
            self._add_term(picture, token[0])
        elif re.fullmatch(r"[+-][^\W\d_].*", token):
            self.end_description()
            self._add_term(_description(token[1:]), token[0])
        else:
            self._words.append(token)
        self.sign = ""

    def end_description(self) -> None:
        """Make a term of the words since the last term, if there are any."""
        if self._words:
            text = " ".join(self._words)
            self._words.clear()
            self._add_term(_description(text), "")

    def _add_sign(self, sign: str) -> None:
        self.end_description()
        if self.sign:
            raise _dangling(self.sign)
        self._negated, self.sign = sign == "-", sign

    def _add_term(self, term: Term, sign: str) -> None:
        negated = sign == "-" if sign in ("+", "-") else self._negated
        self.terms.append(replace(term, negated=negated))
        self._negated = False


def _dangling(sign: str) -> QueryError:
    return QueryError(
        sign, "nothing follows it", f'write words after it, or put it in quotes: "{sign}"'
    )


def _description(text: str) -> Term:
    words, weight = _split_weight(text)
    if not words.strip():
        raise QueryError(repr(text), "has no words", "write what to look for between the quotes")
    return Term(" ".join(words.split()), weight=weight)


def _split_weight(text: str) -> tuple[str, float]:
    """`beach^2` -> ("beach", 2.0).

    Raises:
        QueryError: the weight is not a number from above 0 to `MAX_WEIGHT`.
    """
    words, mark, number = text.rpartition("^")
    if not mark:
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= MAX_WEIGHT:
        raise QueryError(
            f"^{number}", "not a weight", 'write a number above 0 after ^, as in "beach"^2'
        )
    return words, weight


def _parse_picture(token: str, find_picture: FindPicture, sign: str) -> Term | None:
    """Return the picture that a token stands for; None for words.

    Raises:
        QueryError: the token can only be a picture, and no such file exists.
    """
    name, weight = token.lstrip("+-"), 1.0
    if "^" in token:
        name, weight = _split_weight(name)
    if Path(name).suffix.lower() not in MEDIA_SUFFIXES:
        return None
    path = find_picture(name)
    if path is not None:
        return Term(picture=path, weight=weight)
    if os.sep in name or token[0] in "+-" or sign:
        raise QueryError(name, "no such file", "check the path")
    return None  # the name of a file, to be compared with the names in the library


# --- filters -------------------------------------------------------------------------------------


def _parse_filter(token: str, sign: str) -> Filter | None:
    """Return the filter that a token stands for; None for words, such as `star wars: a hope`.

    Raises:
        QueryError: there is no such filter, its value is missing or wrong, or a sign precedes it.
    """
    match = re.fullmatch(r"([+-]?)([A-Za-z]+):(.*)", token, re.DOTALL)
    if not match:
        return None
    key, value = match[2].lower(), match[3].strip('"')
    if key not in FILTERS:
        if match[1] or not value:
            return None
        raise _unknown_filter(key, token)
    if match[1] or sign:
        raise QueryError(f"{key}:{value}", "a filter takes no + or -", "leave that out")
    if not value.strip():
        raise QueryError(
            f"'{key}:'",
            "nothing follows the colon",
            f'write {key}:{FILTERS[key]} without a space, or as words: "{key}:"',
        )
    return Filter(key, _VALUES[key](key, value), token)


def _unknown_filter(key: str, token: str) -> QueryError:
    remedy = f'use {", ".join(f"{name}:" for name in FILTERS)} or put it in quotes: "{token}"'
    if close := difflib.get_close_matches(key, FILTERS, 1):
        remedy = f"did you mean {close[0]}:{token.split(':', 1)[1]}?"
    return QueryError(repr(token), f"no filter {key!r}", remedy)


def _date(key: str, value: str) -> str:
    """`2021`, `2021-06` or `2021-06-30` as the ISO date of the first day."""
    match = re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?", value)
    year, month, day = (int(number or 1) for number in match.groups()) if match else (0, 0, 0)
    try:
        return datetime.date(year, month, day).isoformat()
    except ValueError:
        raise QueryError(
            f"{key}:{value}", "not a date", f"write {key}:2021, {key}:2021-06 or {key}:2021-06-30"
        ) from None


def _text(key: str, value: str) -> str:
    return value


def _folder(key: str, value: str) -> str:
    name = value.strip("/")
    if not name or name in (".", ".."):
        raise QueryError(f"folder:{value}", "names no folder", "write one, such as folder:trips")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        raise QueryError(
            f"folder:{value!r}", "not a name that a folder can have", "write that of a folder"
        ) from None
    return name


def _type(key: str, value: str) -> str:
    name = value.lower().lstrip(".")
    if name not in TYPE_OF_NAME:
        close = difflib.get_close_matches(name, TYPE_OF_NAME, 1)
        hint = f"did you mean type:{TYPE_OF_NAME[close[0]]}?" if close else "write one of them"
        raise QueryError(f"type:{value}", f"none of {', '.join(TYPES)}", hint)
    return TYPE_OF_NAME[name]


def _orientation(key: str, value: str) -> str:
    if value.lower() not in ORIENTATIONS:
        close = difflib.get_close_matches(value.lower(), ORIENTATIONS, 1) or ORIENTATIONS[:1]
        raise QueryError(
            f"orientation:{value}",
            f"none of {', '.join(ORIENTATIONS)}",
            f"did you mean orientation:{close[0]}?",
        )
    return value.lower()


def _circle(key: str, value: str) -> Circle:
    number = r"(-?\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"{number},{number}(?:,(\d+(?:\.\d+)?)(km|m))?", value)
    if not match:
        raise QueryError(
            f"near:{value}",
            "not a place",
            "write latitude,longitude,distance without spaces, as in near:48.1,11.5,20km",
        )
    latitude, longitude = float(match[1]), float(match[2])
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise QueryError(
            f"near:{value}",
            "no such place on earth",
            "write a latitude from -90 to 90 and a longitude from -180 to 180",
        )
    return Circle(latitude, longitude, float(match[3] or 1) / (1000 if match[4] == "m" else 1))


_VALUES: dict[str, Callable[[str, str], str | Circle]] = {
    "after": _date,
    "before": _date,
    "camera": _text,
    "folder": _folder,
    "near": _circle,
    "orientation": _orientation,
    "type": _type,
}
