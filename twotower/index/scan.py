"""What lies in a folder of pictures, and what has changed since the catalog was written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from twotower.index.catalog import KnownFile
from twotower.inputs.media import MEDIA_SUFFIXES

_SUFFIXES = frozenset(map(os.fsencode, MEDIA_SUFFIXES))
_SIDECAR = b".xmp"

# Folders that programs keep copies in; those with a dot in front are passed over anyway.
_CACHES = frozenset((b"@eaDir", b"#recycle", b"$RECYCLE.BIN", b"__MACOSX", b"lost+found"))
_CACHE_SUFFIXES = (b".lrdata", b".cocatalog")  # Lightroom, Capture One


class ScannedFile(NamedTuple):
    """A picture on the disk, by its path from the root; `sidecar_ns` as in `PictureRecord`."""

    path: bytes
    size: int
    mtime_ns: int
    sidecar_ns: int


@dataclass
class Scan:
    """All pictures below a folder, and the folders that could not be read, with the reason."""

    found: list[ScannedFile] = field(default_factory=list)
    unreadable: dict[bytes, str] = field(default_factory=dict)


@dataclass
class Changes:
    """What differs between disk and catalog.

    `new` is on the disk with a path, size or time that the catalog does not have; `stale` are ids
    of rows that nothing on the disk fits. A changed file gives one of each.
    """

    new: list[ScannedFile]
    stale: list[int]
    unchanged: int


def scan(root: Path) -> Scan:
    """Look through `root`: one `scandir` for each folder, one `stat` for each picture.

    Hidden files and folders (the `._` files of macOS among them) and caches are passed over.
    Linked folders are followed, each one once, so that links in a circle end.
    """
    result = Scan()
    seen: set[tuple[int, int]] = set()
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        full = os.path.join(os.fsencode(root), folder)  # noqa: PTH118  names are bytes here
        try:
            here = os.stat(full)  # noqa: PTH116
            if (here.st_dev, here.st_ino) in seen:
                continue
            seen.add((here.st_dev, here.st_ino))
            with os.scandir(full) as entries:
                folders, pictures, sidecars = _sorted_out(entries)
        except OSError as error:
            result.unreadable[folder] = error.strerror or str(error)
            continue
        prefix = folder + b"/" if folder else b""
        waiting += [prefix + name for name in sorted(folders, reverse=True)]
        result.found += sorted(_found(prefix, pictures, sidecars))
    return result


def _sorted_out(
    entries: Iterable[os.DirEntry[bytes]],
) -> tuple[list[bytes], list[os.DirEntry[bytes]], dict[bytes, int]]:
    """Names of folders, pictures, and the sidecars' times of change by their name without .xmp."""
    folders, pictures, sidecars = [], [], {}
    for entry in entries:
        name = entry.name
        if name.startswith(b"."):
            continue
        suffix = _split(name)[1].lower()
        try:
            is_folder = entry.is_dir()
            if suffix in _SUFFIXES and not is_folder:
                pictures.append(entry)
            elif suffix == _SIDECAR and not is_folder:
                sidecars[name[: -len(_SIDECAR)]] = entry.stat().st_mtime_ns
            elif is_folder and name not in _CACHES and suffix not in _CACHE_SUFFIXES:
                folders.append(name)
        except OSError:  # a link to itself, or a file that has just gone
            continue
    return folders, pictures, sidecars


def _found(
    prefix: bytes, pictures: Iterable[os.DirEntry[bytes]], sidecars: dict[bytes, int]
) -> Iterator[ScannedFile]:
    for entry in pictures:
        try:
            one = entry.stat()
        except OSError:  # a link to nothing, or a file that has just gone
            continue
        if not stat.S_ISREG(one.st_mode):
            continue
        name, sidecar = entry.name, 0
        if sidecars:
            # of two, the sum: it changes with either
            sidecar = sidecars.get(name, 0) + sidecars.get(_split(name)[0], 0)
        yield ScannedFile(prefix + name, one.st_size, one.st_mtime_ns, sidecar)


def _split(name: bytes) -> tuple[bytes, bytes]:
    return os.path.splitext(name)  # noqa: PTH122


def compare(result: Scan, known: dict[bytes, KnownFile]) -> Changes:
    """What a scan has found against what the catalog knows."""
    new, unchanged = [], 0
    left = dict(known)
    for one in result.found:
        before = known.get(one.path)
        if before is not None and before[1:] == one[1:]:
            del left[one.path]
            unchanged += 1
        else:
            new.append(one)
    hidden = tuple(folder + b"/" for folder in result.unreadable if folder)
    stale = [
        row.id for path, row in left.items() if not (hidden and path.startswith(hidden))
    ]  # what lies in an unreadable folder may still be there
    return Changes(new, stale, unchanged)
