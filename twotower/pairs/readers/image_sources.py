"""The best of an image's addresses: `srcset`, `picture`, and the attributes of lazy loading."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

Attributes: TypeAlias = Mapping[str, str | None]
MAX_WIDTH = 2048  # pixels; a larger size costs traffic, and training shrinks it anyway
MAX_SIDE = 100_000  # pixels; declared sizes above it are cut to it
# Filled by scripts that load images late; the first that is present wins over `src`.
LAZY_SOURCES = (
    "data-src data-original data-lazy-src data-lazy data-original-src data-cfsrc data-echo "
    "data-hi-res-src data-full-src data-img-src"
).split()
SRCSETS = ("data-srcset", "data-lazy-srcset", "data-original-set", "srcset")
_LAZY_SET, _SRCSET_SET = frozenset(LAZY_SOURCES), frozenset(SRCSETS)

_SPACE = "[ \t\n\f\r]"
_ADDRESS = re.compile(r"[ \t\n\f\r,]*([^ \t\n\f\r]+)")
_DESCRIPTORS = re.compile(r"(?:[^,(]|\([^)]*\)?)*")
_DESCRIPTOR = re.compile(r"(?:[^ \t\n\f\r(]|\([^)]*\)?)+")
_INTEGER = re.compile(r"[0-9]+")
_FLOAT = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LENGTH = re.compile(
    rf"{_SPACE}*([0-9]{{1,5}})(?:\.[0-9]+)?{_SPACE}*(?:px)?{_SPACE}*", re.IGNORECASE
)


class ImageSource(NamedTuple):
    """An address of an image.

    Attributes:
        url: as the page has it.
        width: pixels of the file, or 0 if only the density is known.
        density: pixels of the file for each of the page.
    """

    url: str
    width: int = 0
    density: float = 1.0


class SizedSource(NamedTuple):
    """An address of an image, with the width and height of the file in pixels, or 0."""

    url: str
    width: int
    height: int


def parse_srcset(text: str) -> list[ImageSource]:
    """Parse a `srcset` by the rules of the HTML standard; invalid sources are left out."""
    sources = []
    position = 0
    while address := _ADDRESS.match(text, position):
        url, position = address[1], address.end()
        descriptors: list[str] = []
        if url.endswith(","):
            url = url.rstrip(",")
        else:
            match = _DESCRIPTORS.match(text, position)
            assert match  # it matches nothing at least
            descriptors, position = _DESCRIPTOR.findall(match[0]), match.end()
        source = _parse_descriptors(url, descriptors)
        if source and url:
            sources.append(source)
    return sources


def _parse_descriptors(url: str, descriptors: Sequence[str]) -> ImageSource | None:
    """Return a source, or None if its descriptors are wrong."""
    width = height = 0
    density = None
    for descriptor in descriptors:
        number, unit = descriptor[:-1], descriptor[-1]
        if unit == "w" and _INTEGER.fullmatch(number) and int(number[:9]) and not width:
            if density is not None:
                return None
            width = int(number[:9])
        elif unit == "x" and _FLOAT.fullmatch(number) and density is None:
            density = float(number)
            if width or height or density < 0:
                return None
        elif unit == "h" and _INTEGER.fullmatch(number) and int(number[:9]) and not height:
            if density is not None:
                return None
            height = int(number[:9])
        else:
            return None
    if height and not width:
        return None
    return ImageSource(url, width, 1.0 if density is None else density)


def best_source(sources: Sequence[ImageSource]) -> ImageSource | None:
    """Return the largest source up to `MAX_WIDTH`, else the smallest; the first of equals.

    Sources with a width win over those with a density, of which the densest is chosen.
    """
    if measured := [source for source in sources if source.width]:
        fitting = [source for source in measured if source.width <= MAX_WIDTH]
        if fitting:
            return max(fitting, key=lambda source: source.width)
        return min(measured, key=lambda source: source.width)
    return max(sources, key=lambda source: source.density, default=None)


def choose_source(attributes: Attributes, picture: Sequence[Attributes] = ()) -> SizedSource | None:
    """Return the best address of an `img`, or None if it has none.

    A size of its `srcset` or of the sources of its `picture` wins, then an attribute of lazy
    loading, then `src`. Sources of a `picture` for some screens only (`media`), whose crop may
    differ, count if there is nothing else.

    Args:
        attributes: of the `img`.
        picture: the attributes of each `source` beside it.
    """
    size = declared_size(attributes)
    sources = _srcset_of(attributes)
    for source in picture:
        if not source.get("media"):
            sources += _srcset_of(source)
    best = best_source(sources) if sources else None
    # a density of 1 says no more than `src`
    if best and (best.width or best.density > 1):
        return _with_size(best, size)
    url = _lazy_source(attributes) or (best and best.url) or attributes.get("src") or ""
    if picture and (not url or url.startswith("data:")):
        screens = [source for screen in picture for source in _srcset_of(screen)]
        if fallback := best_source(screens):
            return _with_size(fallback, size)
    return SizedSource(url, *size) if url.strip() else None


def declared_size(attributes: Attributes) -> tuple[int, int]:
    """Return the attributes `width` and `height` in pixels; 0 where they are no such number."""
    return parse_length(attributes.get("width")), parse_length(attributes.get("height"))


def parse_length(text: str | None) -> int:
    """Return a length in pixels, such as "640" or "640px"; 0 for anything else."""
    if text and len(text) <= 5 and text.isascii() and text.isdigit():
        return int(text)
    match = _LENGTH.fullmatch(text) if text else None
    return int(match[1]) if match else 0


def _srcset_of(attributes: Attributes) -> list[ImageSource]:
    """Return the sources of the first `srcset` that does not hold a placeholder."""
    if _SRCSET_SET.isdisjoint(attributes) or "svg" in (attributes.get("type") or ""):
        return []
    for name in SRCSETS:
        if text := attributes.get(name):
            sources = [source for source in parse_srcset(text) if source.url[:5].lower() != "data:"]
            if sources:
                return sources
    return []


def _lazy_source(attributes: Attributes) -> str | None:
    if _LAZY_SET.isdisjoint(attributes):
        return None
    for name in LAZY_SOURCES:
        url = attributes.get(name)
        # some scripts keep settings in these attributes
        if url and url[0] not in "{[" and url[:5] != "data:":
            return url
    return None


def _with_size(source: ImageSource, displayed: tuple[int, int]) -> SizedSource:
    """Return a source with the size of its file, from the displayed size where both are known."""
    width, height = displayed
    if source.width:
        ratio = source.width / width if width else 0.0
        return SizedSource(
            source.url, min(source.width, MAX_SIDE), min(round(height * ratio), MAX_SIDE)
        )
    scale = min(max(source.density, 1.0), 8.0)
    return SizedSource(source.url, round(width * scale), round(height * scale))
