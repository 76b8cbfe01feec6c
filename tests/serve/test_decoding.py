"""Decoders: a hostile picture costs one answer, never the process."""

import asyncio
import io
import os
import signal
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from twotower.encode.load import load
from twotower.errors import PictureError
from twotower.serve.decoding import DecodedPicture, DecoderPool

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
Result = TypeVar("Result")


def with_pool(
    use: Callable[[DecoderPool], Awaitable[Result]],
    *,
    seconds: float = 20.0,
    memory_mb: int = 2048,
    max_pixels: int = 50_000_000,
) -> Result:
    async def run() -> Result:
        pool = DecoderPool(1, seconds=seconds, memory_mb=memory_mb, max_pixels=max_pixels)
        try:
            return await use(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


CONFIG = load("small").config.preprocess


def png(width: int, height: int) -> bytes:
    """A valid PNG of one colour whose pixels are far larger than its file."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
    rows = zlib.compress(bytes((1 + 3 * width) * height), 9)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in chunks
    )


def test_pixels_are_those_of_the_model() -> None:
    content = (PHOTOS / "cat.jpg").read_bytes()

    async def use(pool: DecoderPool) -> DecodedPicture:
        return await pool.preprocess(content, CONFIG)

    decoded = with_pool(use)
    np.testing.assert_array_equal(decoded.pixel_values, load("small").preprocess(content))
    with Image.open(io.BytesIO(content)) as image:
        assert (decoded.width, decoded.height) == image.size


def test_the_size_is_that_of_the_upright_picture() -> None:
    content = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # stored lying, turned by a quarter
    Image.new("RGB", (900, 600), "red").save(content, "JPEG", exif=exif)

    async def use(pool: DecoderPool) -> DecodedPicture:
        return await pool.preprocess(content.getvalue(), CONFIG)

    decoded = with_pool(use)
    assert (decoded.width, decoded.height) == (600, 900)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture"),
        (png(20_000, 20_000), "pixels"),
        ((PHOTOS / "cat.jpg").read_bytes()[:900], ""),
    ],
    ids=["empty", "svg", "postscript", "bomb", "truncated"],
)
def test_a_bad_picture_is_refused_and_the_next_is_decoded(content: bytes, reason: str) -> None:
    async def use(pool: DecoderPool) -> tuple[str, int]:
        with pytest.raises(PictureError) as caught:
            await pool.preprocess(content, CONFIG)
        await pool.preprocess((PHOTOS / "cat.jpg").read_bytes(), CONFIG)
        return str(caught.value), pool.restarts

    message, restarts = with_pool(use)
    assert reason in message and "<upload>" in message
    assert restarts == 0


def test_too_much_memory_is_refused() -> None:
    async def use(pool: DecoderPool) -> str:
        with pytest.raises(PictureError) as caught:
            await pool.preprocess(png(14_000, 14_000), CONFIG)
        await pool.preprocess((PHOTOS / "cat.jpg").read_bytes(), CONFIG)
        return str(caught.value)

    assert "memory" in with_pool(use, memory_mb=700, max_pixels=10**9)


def test_a_decoder_that_hangs_is_replaced() -> None:
    async def use(pool: DecoderPool) -> tuple[str, int]:
        content = (PHOTOS / "cat.jpg").read_bytes()
        await pool.preprocess(content, CONFIG)
        process = pool._workers[0]._process
        assert process is not None and process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)  # as a picture that takes forever
        with pytest.raises(PictureError) as caught:
            await pool.preprocess(content, CONFIG)
        await pool.preprocess(content, CONFIG)
        return str(caught.value), pool.restarts

    started = time.monotonic()
    message, restarts = with_pool(use, seconds=5.0)
    assert "more than 5 s" in message and restarts == 1
    assert time.monotonic() - started < 120


def test_a_decoder_that_dies_is_replaced() -> None:
    async def use(pool: DecoderPool) -> int:
        content = (PHOTOS / "cat.jpg").read_bytes()
        await pool.preprocess(content, CONFIG)
        process = pool._workers[0]._process
        assert process is not None
        process.kill()
        process.join()
        with pytest.raises(PictureError, match="stopped its decoder"):
            await pool.preprocess(content, CONFIG)
        await pool.preprocess(content, CONFIG)
        return pool.restarts

    assert with_pool(use) == 1


def test_a_cancelled_request_does_not_mix_up_answers() -> None:
    async def use(pool: DecoderPool) -> DecodedPicture:
        large, small = (io.BytesIO() for _ in range(2))
        Image.new("RGB", (3000, 2000), "red").save(large, "PNG")
        Image.new("RGB", (30, 20), "blue").save(small, "PNG")
        await pool.preprocess(small.getvalue(), CONFIG)
        leaving = asyncio.create_task(pool.preprocess(large.getvalue(), CONFIG))
        await asyncio.sleep(0.01)
        leaving.cancel()
        return await pool.preprocess(small.getvalue(), CONFIG)

    assert with_pool(use).width == 30
