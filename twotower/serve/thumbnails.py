"""Thumbnails of a library's pictures, kept on the disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Container
from typing import TYPE_CHECKING

from twotower.files import atomic_write

if TYPE_CHECKING:
    from pathlib import Path

    from twotower.serve.decoding import DecoderPool

HEIGHTS = (120, 240, 480)  # pixels; others are rounded up to one of them
VIEW_SIDE = 2048  # pixels of a view, the longer side
_VIEW = "view"  # the folder of views
_PER_FOLDER = 1000  # pictures


class ThumbnailCache:
    """JPEG files of pictures by id and height; the id of a picture stands for its content.

    A file of height 240 has about 12 kB. If the folder cannot be written, nothing is kept.
    """

    def __init__(self, folder: Path, decoders: DecoderPool) -> None:
        self._folder, self._decoders = folder, decoders
        self._pending: dict[tuple[str, int], asyncio.Task[bytes]] = {}

    async def thumbnail(self, number: int, picture: Path, height: int) -> bytes:
        """Return a JPEG of a picture of at most that height, and four times that width.

        Raises:
            PictureError: the picture cannot be decoded.
        """
        height = next((step for step in HEIGHTS if step >= height), HEIGHTS[-1])
        return await self._read(str(height), number, picture, 4 * height, height)

    async def view(self, number: int, picture: Path) -> bytes:
        """Return a JPEG that every browser shows, of at most `VIEW_SIDE` pixels.

        Raises:
            PictureError: the picture cannot be decoded.
        """
        return await self._read(_VIEW, number, picture, VIEW_SIDE, VIEW_SIDE)

    def remove_except(self, ids: Container[int]) -> None:
        """Remove the files of all other pictures."""
        for path in self._folder.glob("*/*/*.jpg"):
            if path.stem.isdigit() and int(path.stem) not in ids:
                with contextlib.suppress(OSError):
                    path.unlink()

    async def _read(self, size: str, number: int, picture: Path, width: int, height: int) -> bytes:
        path = self._folder / size / str(number // _PER_FOLDER) / f"{number}.jpg"
        try:
            return await asyncio.to_thread(path.read_bytes)
        except OSError:
            pass
        key = size, number
        if key not in self._pending:  # requests for the same file wait for one decoder
            self._pending[key] = asyncio.create_task(self._make(path, picture, width, height))
            self._pending[key].add_done_callback(lambda task: self._finish(key, task))
        return await asyncio.shield(self._pending[key])

    def _finish(self, key: tuple[str, int], task: asyncio.Task[bytes]) -> None:
        del self._pending[key]
        if not task.cancelled():
            task.exception()  # clients may have left, and then nothing else retrieves it

    async def _make(self, path: Path, picture: Path, width: int, height: int) -> bytes:
        content = await self._decoders.shrink_file(picture, width, height)
        await asyncio.to_thread(_keep, path, content)
        return content


def _keep(path: Path, content: bytes) -> None:
    """Write a file; a library that is read-only works without it."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb") as file:
            file.write(content)
