"""Stored pictures: pixels stay, metadata goes, sizes are limited."""

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pairs.web_in_a_box import bomb_png, encode, exif_jpeg, jpeg
from twotower.errors import PictureError
from twotower.pairs.fetching.stored_picture import (
    PictureSettings,
    is_picture,
    make_stored_picture,
    target_size,
)
from twotower.pairs.fetching.strip_metadata import strip_metadata

ORIGINALS = PictureSettings(resize="none")


def exif() -> PIL.Image.Exif:
    tags = PIL.Image.Exif()
    tags[0x010F] = "SecretCamera"
    return tags


def with_metadata(kind: str, **options: Any) -> bytes:
    options |= {"exif": exif()}
    if kind in ("JPEG", "WEBP"):
        options |= {"xmp": b"<x:xmpmeta>SecretXmp</x:xmpmeta>"}
    return encode(5, (64, 48), kind, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"icc_profile": b"a colour profile" * 10}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"icc_profile": b"a colour profile"}),
    ],
)
def test_stripping_keeps_pixels_and_profile(kind: str, options: dict[str, Any]) -> None:
    content = with_metadata(kind, **options)
    assert b"Secret" in content
    stripped = strip_metadata(content + b"Secret video after the end", kind)
    assert stripped is not None
    assert b"Secret" not in stripped
    before, after = (PIL.Image.open(io.BytesIO(file)) for file in (content, stripped))
    assert np.array_equal(np.asarray(before), np.asarray(after))
    assert after.info.get("icc_profile") == options.get("icc_profile")
    assert not after.getexif()
    assert strip_metadata(stripped, kind) == stripped


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@given(st.data())
def test_a_cut_picture_is_noticed(kind: str, data: st.DataObject) -> None:
    content = with_metadata(kind)
    end = data.draw(st.integers(0, len(content) - 2))
    assert strip_metadata(content[:end], kind) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "nothing"])
@given(st.binary(max_size=200))
def test_stripping_never_raises(kind: str, content: bytes) -> None:
    for beginning in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP"):
        strip_metadata(beginning + content, kind)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(("shorter", "longer")))
def test_target_sizes_keep_the_shape(width: int, height: int, resize: Any) -> None:
    size = target_size(width, height, PictureSettings(resize, 100))
    edge = min(size) if resize == "shorter" else max(size)
    assert edge == min(100, min(width, height) if resize == "shorter" else max(width, height))
    assert size[0] <= width
    assert size[1] <= height
    assert abs(size[0] - width * size[1] / height) <= max(1, width / height)


def test_small_pictures_keep_their_bytes() -> None:
    content = jpeg(1)
    stored = make_stored_picture(content, PictureSettings("shorter", 100))
    assert stored.content == content


def test_a_bomb_is_refused() -> None:
    for settings in (ORIGINALS, PictureSettings()):
        with pytest.raises(PictureError, match="too large"):
            make_stored_picture(bomb_png(), settings)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    stored = make_stored_picture(exif_jpeg(orientation), ORIGINALS)
    image = PIL.Image.open(io.BytesIO(stored.content))
    expected = (48, 64) if orientation >= 5 else (64, 48)
    assert image.size == (stored.width, stored.height) == expected
    assert (stored.original_width, stored.original_height) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_the_first_bytes_of_pictures_are_recognised(kind: str) -> None:
    content = encode(1, (64, 48), kind)
    assert is_picture(content[:512])
    assert make_stored_picture(content, ORIGINALS).suffix in ("jpg", "png", "webp", "bmp")


@pytest.mark.parametrize(
    "content", [b"<svg xmlns='x'></svg>", b"<!DOCTYPE html><html>", b"%PDF-1.7 ........", bytes(16)]
)
def test_other_files_are_not_pictures(content: bytes) -> None:
    assert not is_picture(content)
