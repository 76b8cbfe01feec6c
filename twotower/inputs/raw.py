"""Raw files of cameras, read by their embedded preview."""

from __future__ import annotations

import io

import numpy as np
from PIL import ExifTags, Image

from twotower.errors import PictureError
from twotower.inputs.pictures import open_header

# LibRaw's `flip` -> EXIF orientation
_ORIENTATION = {3: 3, 5: 8, 6: 6}


def open_preview(content: bytes, name: str) -> Image.Image:
    """Open the preview in a raw file, not decoded if it is a JPEG.

    A preview without an EXIF orientation gets that of the raw file. A raw file without a preview is
    developed at half its size.

    Args:
        content: the raw file's bytes.
        name: the file in messages.

    Raises:
        PictureError: rawpy is not installed, or the file cannot be read.
    """
    try:
        import rawpy
    except ImportError:
        raise PictureError(
            name, "raw files need one more package", "pip install 'twotower[raw]'"
        ) from None
    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            try:
                preview = raw.extract_thumb()
            except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
                return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))
            if preview.format != rawpy.ThumbFormat.JPEG:
                return Image.fromarray(np.asarray(preview.data))
            image = open_header(io.BytesIO(bytes(preview.data)), name)
            exif = image.getexif()
            if ExifTags.Base.Orientation not in exif:
                exif[ExifTags.Base.Orientation] = _ORIENTATION.get(raw.sizes.flip, 1)
    except PictureError:
        raise
    except (rawpy.LibRawError, OSError, ValueError, SyntaxError) as error:
        raise PictureError(
            name, f"not a raw file that LibRaw reads ({error})", "convert it to DNG or JPEG"
        ) from None
    return image
