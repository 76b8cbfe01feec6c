"""The keywords of a picture from every source: sidecars, embedded XMP and IPTC."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from twotower.errors import MetadataError, PictureError
from twotower.inputs.media import media_kind, open_undecoded
from twotower.metadata.exif import Metadata, read_metadata
from twotower.metadata.ownership import MARK, Keywords, merge_keywords, packet_keywords
from twotower.metadata.xmp import Packet


def find_sidecars(picture: Path) -> list[Path]:
    """Return the XMP files of a picture: `a.jpg.xmp`, and `a.xmp` as Lightroom names it."""
    sidecars = []
    for stem in (picture.name, picture.stem):
        for suffix in (".xmp", ".XMP"):
            if (path := picture.with_name(stem + suffix)).is_file():
                sidecars.append(path)
                break
    return sidecars


def read_sidecar(path: Path) -> bytes:
    """Return the content of a sidecar; empty if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:  # deleted meanwhile, or not readable for this user
        return b""


def read_keywords(picture: Path) -> Keywords:
    """Read the keywords of a picture from its header and its sidecars.

    Files that cannot be read count as empty.
    """
    metadata = read_header(picture)
    return collect_keywords(metadata.keywords, metadata.xmp, find_sidecars(picture))


def collect_keywords(iptc: Iterable[str], xmp: bytes, sidecars: Iterable[Path]) -> Keywords:
    """Merge IPTC keywords, an embedded packet (may be empty) and sidecars.

    Packets and files that cannot be read count as empty.
    """
    sources = []
    for content in filter(None, [xmp, *map(read_sidecar, sidecars)]):
        try:
            sources.append(packet_keywords(Packet(content)))
        except MetadataError:
            continue
    return merge_keywords([*sources, Keywords(tuple((keyword,) for keyword in iptc))])


def has_our_mark(sidecar: Path) -> bool:
    """Return whether a sidecar contains tags of ours.

    The bytes are searched, since parsing takes ten times as long. UTF-16 has a zero byte beside
    each letter.
    """
    try:
        return MARK.uri.encode() in sidecar.read_bytes().replace(b"\0", b"")
    except OSError:
        return False


def read_header(picture: Path) -> Metadata:
    """Read the metadata in the header of a picture or video; empty if it cannot be read."""
    try:
        if media_kind(picture) == "video":
            return Metadata("video", 0, 0)
        with picture.open("rb") as file:
            return read_metadata(open_undecoded(file, str(picture)))
    except (PictureError, OSError):
        return Metadata("unknown", 0, 0)
