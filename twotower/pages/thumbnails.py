"""Thumbnails of pictures, raw files and videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def thumbnail(path: Path, height: int) -> Image.Image | None:
    """A picture of that height at most, upright, RGB; None if it cannot be read any more."""
    from PIL import Image

    from twotower.errors import PictureError

    try:
        picture = _open(path, height)
    except (PictureError, OSError):
        return None
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    picture = picture.convert("RGB")
    scale = min(1.0, height / picture.height, 4 * height / picture.width)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _open(path: Path, height: int) -> Image.Image:
    """A picture, the preview in a raw file, or the middle frame of a video."""
    from twotower.inputs.pictures import open_picture
    from twotower.inputs.raw import RAW_SUFFIXES, open_preview
    from twotower.inputs.video import VIDEO_SUFFIXES, sample_frames

    if path.suffix.lower() in VIDEO_SUFFIXES:
        return sample_frames(path, 1)[0]
    if path.suffix.lower() in RAW_SUFFIXES:
        return open_picture(open_preview(path.read_bytes(), str(path)))
    return open_picture(path, draft_size=height)
