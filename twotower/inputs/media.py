"""Open a picture, a raw file or a video in one way."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import IO, Literal, TypeAlias

from PIL import Image

from twotower.inputs.pictures import PICTURE_SUFFIXES, open_header, open_picture
from twotower.inputs.raw import open_preview
from twotower.inputs.video import sample_frames

MediaKind: TypeAlias = Literal["picture", "raw", "video"]

# fmt: off
RAW_SUFFIXES: frozenset[str] = frozenset((
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw",
    ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw", ".x3f",
))
VIDEO_SUFFIXES: frozenset[str] = frozenset((
    ".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv",
    ".webm", ".wmv",
))
# fmt: on
MEDIA_SUFFIXES = PICTURE_SUFFIXES | RAW_SUFFIXES | VIDEO_SUFFIXES
"""Suffixes, in lower case, of the files that a library indexes."""


def media_kind(path: str | PurePath) -> MediaKind:
    """Return the kind of a file by its suffix; every unknown suffix counts as a picture."""
    suffix = PurePath(path).suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "raw" if suffix in RAW_SUFFIXES else "picture"


def open_frames(path: Path, count: int = 8, *, draft_size: int | None = None) -> list[Image.Image]:
    """Decode a picture, the preview in a raw file, or frames of a video, all upright.

    Args:
        count: frames of a video at most; other files give one.
        draft_size: decode a JPEG file at a reduced scale, as in `open_picture`.

    Raises:
        PictureError: the file cannot be decoded, or a package for its kind is not installed.
        OSError: a raw file cannot be read.
    """
    kind = media_kind(path)
    if kind == "video":
        return sample_frames(path, count)
    if kind == "raw":
        return [open_picture(open_preview(path.read_bytes(), str(path)))]
    return [open_picture(path, draft_size=draft_size)]


def open_undecoded(file: IO[bytes], name: str) -> Image.Image:
    """Open a picture, or the preview in a raw file, with its header only.

    Args:
        file: must stay open while the picture is used.
        name: gives the kind by its suffix, and names the file in messages.

    Raises:
        PictureError: the file is neither, is damaged, or a package for its kind is not installed.
    """
    if media_kind(name) == "raw":
        return open_preview(file.read(), name)
    return open_header(file, name)
