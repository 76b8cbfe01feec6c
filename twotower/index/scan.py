"""Scan a folder for pictures, and compare the result with the catalog."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from twotower.index.schema import FileState, PictureRecord
from twotower.inputs.media import MEDIA_SUFFIXES

_SUFFIXES = frozenset(map(os.fsencode, MEDIA_SUFFIXES))
_SIDECAR = b".xmp"

# Folders in which programs keep copies; hidden ones are skipped besides.
_CACHES = frozenset((b"@eaDir", b"#recycle", b"$RECYCLE.BIN", b"__MACOSX", b"lost+found"))
_CACHE_SUFFIXES = (b".lrdata", b".cocatalog")  # Lightroom, Capture One


class ScannedFile(NamedTuple):
    """A picture on the disk; `path` is relative to the root, times are as in `PictureRecord`."""

    path: bytes
    size: int
    mtime_ns: int
    sidecar_ns: int
    ctime_ns: int


@dataclass
class Scan:
    """The result of a scan.

    Attributes:
        files: all pictures below the root.
        unreadable: folders that could not be read, and the reasons.
    """

    files: list[ScannedFile] = field(default_factory=list)
    unreadable: dict[bytes, str] = field(default_factory=dict)


@dataclass
class Changes:
    """The differences between disk and catalog; a changed file is both new and stale.

    Attributes:
        new: files with a path, size or time that is not in the catalog.
        stale: ids of pictures whose file is no longer there as it was.
        unchanged: all other files, with their ids.
    """

    new: list[ScannedFile]
    stale: list[int]
    unchanged: dict[int, ScannedFile]


def scan(root: Path) -> Scan:
    """Find all pictures below `root`, with one `scandir` a folder and one `stat` a picture.

    Hidden files and folders and caches are skipped. Symbolic links to folders are followed; each
    folder is read once, so that cycles of links end.
    """
    result = Scan()
    visited: set[tuple[int, int]] = set()
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        full = os.path.join(os.fsencode(root), folder)  # noqa: PTH118  names are bytes here
        try:
            status = os.stat(full)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(full) as entries:
                folders, pictures, sidecars = _classify(entries)
        except OSError as error:
            result.unreadable[folder] = error.strerror or str(error)
            continue
        prefix = folder + b"/" if folder else b""
        waiting += [prefix + name for name in sorted(folders, reverse=True)]
        result.files += sorted(_scanned_files(prefix, pictures, sidecars))
    return result


def _classify(
    entries: Iterable[os.DirEntry[bytes]],
) -> tuple[list[bytes], list[os.DirEntry[bytes]], dict[bytes, int]]:
    """Return folders, pictures, and the times of sidecars by their name without ".xmp"."""
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
                status = entry.stat()
                # the later time, because some file systems keep no time of change
                sidecars[name[: -len(_SIDECAR)]] = max(status.st_mtime_ns, status.st_ctime_ns)
            elif is_folder and name not in _CACHES and suffix not in _CACHE_SUFFIXES:
                folders.append(name)
        except OSError:  # a link to itself, or a file that was just deleted
            continue
    return folders, pictures, sidecars


def _scanned_files(
    prefix: bytes, pictures: Iterable[os.DirEntry[bytes]], sidecars: dict[bytes, int]
) -> Iterator[ScannedFile]:
    for entry in pictures:
        try:
            status = entry.stat()
        except OSError:  # a broken link, or a file that was just deleted
            continue
        if not stat.S_ISREG(status.st_mode):
            continue
        name, sidecar = entry.name, 0
        if sidecars:
            # of two, the sum: it changes with either
            sidecar = sidecars.get(name, 0) + sidecars.get(_split(name)[0], 0)
        yield ScannedFile(
            prefix + name, status.st_size, status.st_mtime_ns, sidecar, status.st_ctime_ns
        )


def _split(name: bytes) -> tuple[bytes, bytes]:
    return os.path.splitext(name)  # noqa: PTH122


def compare(
    result: Scan, indexed: dict[bytes, FileState], *, verify_content: bool = False
) -> Changes:
    """Compare a scan with the files of the catalog.

    Pictures in an unreadable folder may still be there; they are not stale.

    Args:
        verify_content: take every file for changed, so that its content is read.
    """
    new: list[ScannedFile] = []
    unchanged: dict[int, ScannedFile] = {}
    remaining = dict(indexed)
    for file in result.files:
        state = indexed.get(file.path)
        if state is not None and is_unchanged(file, state) and not verify_content:
            del remaining[file.path]
            unchanged[state.id] = file
        else:
            new.append(file)
    hidden = tuple(folder + b"/" for folder in result.unreadable if folder)
    stale = [
        state.id for path, state in remaining.items() if not (hidden and path.startswith(hidden))
    ]
    return Changes(new, stale, unchanged)


def is_unchanged(file: ScannedFile, state: FileState | PictureRecord) -> bool:
    """Return True if size and times of a file are those of its row in the catalog."""
    return has_same_content(file, state) and file.sidecar_ns == state.sidecar_ns


def has_same_content(file: ScannedFile, state: FileState | PictureRecord) -> bool:
    """Return True if size and times of a file, without its sidecar, are those of its row."""
    same_change = state.ctime_ns in (file.ctime_ns, 0)
    return (file.size, file.mtime_ns) == (state.size, state.mtime_ns) and same_change
