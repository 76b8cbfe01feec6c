"""Decoding in worker processes with limits on memory and time.

A picture from the network can exploit or exhaust a decoder. A worker that exceeds its time is
killed, one that exceeds its memory fails, and either costs no more than the one picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from twotower.errors import PictureError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from pathlib import Path

    from twotower.arrays import Float32Array
    from twotower.inputs.preprocess import PreprocessConfig

UPLOAD = "<upload>"  # the subject of errors


class DecodedPicture(NamedTuple):
    """A picture as a model reads it: `pixel_values` [channels, S, S], and its size upright."""

    pixel_values: Float32Array
    width: int
    height: int


class DecoderPool:
    """Worker processes that turn the bytes of pictures into `pixel_values`."""

    def __init__(self, workers: int, *, seconds: float, memory_mb: int, max_pixels: int) -> None:
        """Create the pool; each worker starts with its first picture.

        Args:
            workers: processes; 0 for one per core.
            seconds: the limit on the time of one picture.
            memory_mb: the limit on the address space of a worker, in megabytes (Linux, macOS).
            max_pixels: of a picture.
        """
        count = workers or os.cpu_count() or 1
        self.restarts = 0
        self._seconds = seconds
        self._arguments = (memory_mb * 2**20, max_pixels)
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._workers = [_Worker(self._arguments) for _ in range(count)]
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def preprocess(self, content: bytes, config: PreprocessConfig) -> DecodedPicture:
        """Decode the bytes of a file for a model.

        Raises:
            PictureError: the picture cannot be decoded within the limits.
        """
        result: DecodedPicture = await self._run(("preprocess", content, config))
        return result

    async def thumbnail(self, content: bytes, height: int) -> tuple[bytes, int, int]:
        """Return a JPEG of at most that height, and the picture's width and height, upright.

        Raises:
            PictureError: the picture cannot be decoded within the limits.
        """
        result: tuple[bytes, int, int] = await self._run(("thumbnail", content, height))
        return result

    async def shrink_file(self, path: Path, width: int, height: int) -> bytes:
        """Return a JPEG of a picture, raw file or video of the library, at most of that size.

        Raises:
            PictureError: the file cannot be decoded within the limits.
        """
        content: bytes = await self._run(("shrink_file", path, (width, height)))
        return content

    async def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            await asyncio.to_thread(worker.stop)

    async def _run(self, job: tuple[Any, ...]) -> Any:
        worker = await self._idle.get()
        finished = asyncio.ensure_future(asyncio.to_thread(worker.run, job, self._seconds))
        finished.add_done_callback(lambda _: self._idle.put_nowait(worker))
        try:
            # the worker is busy until it has answered, even if the client has left
            outcome = await asyncio.shield(finished)
        except (EOFError, OSError):
            self.restarts += 1
            raise PictureError(UPLOAD, "stopped its decoder", "send a picture") from None
        except TimeoutError:
            self.restarts += 1
            raise PictureError(
                UPLOAD, f"took more than {self._seconds:g} s to decode", "send a smaller picture"
            ) from None
        if isinstance(outcome, PictureError):
            raise outcome
        return outcome


class _Worker:
    """A process that decodes one picture at a time; it is started again after it was killed."""

    def __init__(self, arguments: tuple[int, int]) -> None:
        self._arguments = arguments
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def run(self, job: tuple[Any, ...], seconds: float) -> Any:
        """Return the outcome of a job; raise `TimeoutError`, or `EOFError` if it died."""
        connection = self._connection or self._start()
        try:
            connection.send(job)
            if not connection.poll(seconds):
                raise TimeoutError
            return connection.recv()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        connection, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, *self._arguments), name="twotower-decoder", daemon=True
        )
        process.start()
        theirs.close()
        if not connection.poll(60) or connection.recv() != "ready":
            process.kill()
            raise EOFError
        self._process, self._connection = process, connection
        return connection


def _serve(connection: Connection, memory: int, max_pixels: int) -> None:
    """Decode pictures until the parent closes the connection; runs in a worker."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    from twotower.inputs import media, pictures, preprocess  # noqa: F401  before memory is limited

    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    connection.send("ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            job, content, option = connection.recv()
            try:
                if job == "shrink_file":
                    connection.send(_shrink_file(content, *option))
                    continue
                image = pictures.open_picture(
                    content, draft_size=_draft_size(job, option), max_pixels=max_pixels
                )
                connection.send(_JOBS[job](image, option, *_upright_size(content, image)))
            except PictureError as error:
                connection.send(PictureError(UPLOAD, error.reason, error.remedy))
            except MemoryError:
                connection.send(PictureError(UPLOAD, "needs too much memory", "send a smaller one"))
            except Exception as error:  # of a decoder: whatever it is, it concerns this picture
                connection.send(PictureError(UPLOAD, f"cannot be decoded ({error})", "check it"))


def _draft_size(job: str, option: Any) -> int | None:
    if job == "thumbnail":
        return int(option)
    return int(option.image_size) if option.fast_decode else None


def _upright_size(content: bytes, decoded: Any) -> tuple[int, int]:
    """Return the width and height of the file's pixels; `decoded` can be at a reduced scale."""
    import io

    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
    except UnidentifiedImageError:  # a format that Pillow leaves to others, decoded in full
        return int(decoded.width), int(decoded.height)
    turned = (width > height) != (decoded.width > decoded.height)
    return (height, width) if turned else (width, height)


def _preprocess(image: Any, config: PreprocessConfig, width: int, height: int) -> DecodedPicture:
    from twotower.inputs.preprocess import Preprocess

    return DecodedPicture(Preprocess(config)(image), width, height)


def _thumbnail(image: Any, limit: int, width: int, height: int) -> tuple[bytes, int, int]:
    return _shrink(image, 4 * limit, limit), width, height


def _shrink_file(path: Path, width: int, height: int) -> bytes:
    from twotower.inputs.media import open_frames

    return _shrink(open_frames(path, 1, draft_size=height)[0], width, height)


def _shrink(image: Any, width: int, height: int) -> bytes:
    """Return a JPEG of at most that size."""
    import io

    from twotower.inputs.pictures import on_white

    image = on_white(image)
    image.thumbnail((width, height))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return content.getvalue()


_JOBS: dict[str, Any] = {"preprocess": _preprocess, "thumbnail": _thumbnail}
