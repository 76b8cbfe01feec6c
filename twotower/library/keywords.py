"""The keywords of a picture, from wherever they may be kept: sidecars, embedded XMP, IPTC."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from twotower.inputs.metadata import Metadata, read_metadata
from twotower.inputs.pictures import PictureError, open_header
from twotower.inputs.raw import RAW_SUFFIXES, open_preview
from twotower.inputs.video import VIDEO_SUFFIXES
from twotower.inputs.xmp import Packet, XmpError
from twotower.library.marks import MARK, Keywords, Tag, combined, read_keywords_of
from twotower.library.scan import scan, sidecars_of


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


def rejected_tags(root: Path) -> dict[bytes, list[Tag]]:
    """By picture in `root`, the tags of ours that a person has taken out of its sidecars.

    Those that were only moved, below another name, are not among them.
    """
    found = {}
    for one in scan(root).found:
        if one.sidecar_ns:
            sidecars = sidecars_of(root / os.fsdecode(one.path))
            known = keywords_of((), b"", filter(_is_marked, sidecars))
            theirs = {name.casefold() for tag in known.person for name in tag}
            if rejected := [tag for tag in known.rejected if tag[-1].casefold() not in theirs]:
                found[one.path] = rejected
    return found


def _is_marked(sidecar: Path) -> bool:
    """Whether tags of ours are in it, by a look at its bytes: to parse all takes ten times as long.

    In UTF-16 there is a zero beside each letter.
    """
    try:
        return MARK.uri.encode() in sidecar.read_bytes().replace(b"\0", b"")
    except OSError:
        return False


def _facts(picture: Path) -> Metadata | None:
    """What a picture's header says; None for videos, of which only sidecars are read."""
    suffix = picture.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return None
    if suffix in RAW_SUFFIXES:
        return read_metadata(open_preview(picture.read_bytes(), str(picture)))
    with picture.open("rb") as file:
        return read_metadata(open_header(file, str(picture)))


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
        except XmpError:
            continue
    return combined([*known, Keywords(tuple((text,) for text in iptc))])
