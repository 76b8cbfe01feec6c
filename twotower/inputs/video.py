"""Videos, read by several frames spread over their length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from twotower.errors import PictureError


def sample_frames(path: Path, count: int = 8) -> list[Image.Image]:
    """Decode at most `count` frames, from the middles of `count` equal sections, upright.

    A frame is the key frame before that time, which is cheap to find and close enough.

    Raises:
        PictureError: PyAV is not installed, or no frame can be decoded.
    """
    with _opened(path) as container:
        frames = list(_frames(container, count))
    if not frames:
        raise PictureError(str(path), "a video without pictures", "replace the file")
    return frames


def read_tags(path: Path) -> dict[str, str]:
    """Return the tags of a video, such as "creation_time", by their names in FFmpeg.

    Raises:
        PictureError: PyAV is not installed, or the file is no video.
    """
    with _opened(path) as container:
        return {**container.streams.video[0].metadata, **container.metadata}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a video. Raises `PictureError`, also for errors inside the block."""
    try:
        import av
    except ImportError:
        raise PictureError(
            str(path), "videos need one more package", "pip install 'twotower[video]'"
        ) from None
    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise PictureError(
            str(path), f"not a video that can be decoded ({error})", "convert it to MP4"
        ) from None


def _frames(container: Any, count: int) -> Iterator[Image.Image]:
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    length = container.duration  # in millionths of a second; None for a bare stream
    times = [int(length * (section + 0.5) / count) for section in range(count)] if length else [0]
    timestamps = set()
    for time in times:
        container.seek(time)  # to the key frame before
        frame = next(container.decode(stream), None)
        if frame is not None and frame.pts not in timestamps:
            timestamps.add(frame.pts)
            yield frame.to_image().rotate(getattr(frame, "rotation", 0), expand=True)
