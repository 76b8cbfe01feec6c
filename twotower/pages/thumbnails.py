"""Thumbnails of pictures, raw files and videos."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def thumbnail(path: Path, height: int) -> Image.Image | None:
    """Return a picture of at most that height, upright, RGB; None if it can no longer be read.

    Of a video it shows the middle frame. The width is at most four times the height.
    """
    from PIL import Image

    from twotower.errors import PictureError
    from twotower.inputs.media import open_frames
    from twotower.inputs.pictures import on_white

    try:
        picture = on_white(open_frames(path, 1, draft_size=height)[0])
    except (PictureError, OSError):
        return None
    scale = min(1.0, height / picture.height, 4 * height / picture.width)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def jpeg_base64(image: Image.Image, quality: int) -> str:
    """Return an RGB picture as a JPEG in base64, for a `data:` URI."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(content.getvalue()).decode()
