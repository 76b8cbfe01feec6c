"""The keywords of a picture, from wherever they may be kept: sidecars, embedded XMP, IPTC."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from twotower.errors import MetadataError, PictureError
from twotower.inputs.media import media_kind, open_undecoded
from twotower.metadata.exif import Metadata, read_metadata
from twotower.metadata.ownership import MARK, Keywords, combined, read_keywords_of
from twotower.metadata.xmp import Packet


def sidecars_of(picture: Path) -> list[Path]:
    """The XMP files that speak of a picture: `a.jpg.xmp`, and `a.xmp` as Lightroom names it."""
    found = []
    for stem in (picture.name, picture.stem):
        for suffix in (".xmp", ".XMP"):
            if (path := picture.with_name(stem + suffix)).is_file():
                found.append(path)
                break
    return found


def read_keywords(picture: Path) -> Keywords:
    """What people have said of a picture, and what we have, told apart by our mark.

    What cannot be read says nothing.
    """
    try:
        facts = _facts(picture)
    except (PictureError, OSError):
        facts = None
    if facts is None:
        return keywords_of((), b"", sidecars_of(picture))
    return keywords_of(facts.keywords, facts.xmp, sidecars_of(picture))


def is_marked(sidecar: Path) -> bool:
    """Whether tags of ours are in it, by a look at its bytes: to parse all takes ten times as long.

    In UTF-16 there is a zero beside each letter.
    """
    try:
        return MARK.uri.encode() in sidecar.read_bytes().replace(b"\0", b"")
    except OSError:
        return False


def _facts(picture: Path) -> Metadata | None:
    """What a picture's header says; None for videos, of which only sidecars are read."""
    if media_kind(picture) == "video":
        return None
    with picture.open("rb") as file:
        return read_metadata(open_undecoded(file, str(picture)))


def keywords_of(iptc: Iterable[str], xmp: bytes, sidecars: Iterable[Path]) -> Keywords:
    """The same from what was read already: IPTC keywords, an embedded packet, and sidecars."""
    packets = [xmp] if xmp else []
    for path in sidecars:
        try:
            packets.append(path.read_bytes())
        except OSError:  # it has just gone, or is not for us to read
            continue
    known = []
    for content in packets:
        try:
            known.append(read_keywords_of(Packet(content)))
        except MetadataError:
            continue
    return combined([*known, Keywords(tuple((text,) for text in iptc))])
