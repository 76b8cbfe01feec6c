"""Pictures, raw files and videos are opened in one way; transparency is laid over white."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.index.test_index import write_dng
from twotower.errors import PictureError
from twotower.inputs.media import (
    MEDIA_SUFFIXES,
    RAW_SUFFIXES,
    VIDEO_SUFFIXES,
    media_kind,
    open_frames,
    open_undecoded,
)
from twotower.inputs.pictures import PICTURE_SUFFIXES, on_white, open_picture

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


def test_kinds_are_known_by_their_suffix() -> None:
    assert media_kind("a/b.jpg") == media_kind(Path("c.unknown")) == media_kind("d") == "picture"
    assert {media_kind(f"a{suffix.upper()}") for suffix in RAW_SUFFIXES} == {"raw"}
    assert {media_kind(f"a{suffix}") for suffix in VIDEO_SUFFIXES} == {"video"}
    assert len(MEDIA_SUFFIXES) == sum(map(len, (PICTURE_SUFFIXES, RAW_SUFFIXES, VIDEO_SUFFIXES)))


def test_a_picture_gives_one_frame() -> None:
    [frame] = open_frames(PHOTOS / "cat.jpg", draft_size=50)
    assert frame.tobytes() == open_picture(PHOTOS / "cat.jpg", draft_size=50).tobytes()


def test_a_raw_file_gives_its_preview_upright(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "a.DNG"
    write_dng(path, PIL.Image.new("RGB", (320, 240)), orientation=6)
    assert [frame.size for frame in open_frames(path)] == [(240, 320)]
    with path.open("rb") as file:
        assert open_undecoded(file, str(path)).size == (320, 240)


@pytest.mark.parametrize("name", ["a.jpg", "a.dng", "a.mp4"])
def test_damaged_files_of_each_kind(name: str, tmp_path: Path) -> None:
    for package in ("rawpy", "av"):
        pytest.importorskip(package)
    path = tmp_path / name
    path.write_bytes(b"not one")
    with pytest.raises(PictureError) as error:
        open_frames(path)
    assert error.value.subject == str(path)
    if name != "a.mp4":
        with pytest.raises(PictureError) as error:
            open_undecoded(io.BytesIO(b"not one"), name)
        assert error.value.subject == name


def test_transparent_parts_are_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 128, 255)
    for mode in ("RGBA", "LA"):
        image = on_white(PIL.Image.fromarray(pixels).convert(mode))
        assert image.mode == "RGB"
        assert np.asarray(image)[0, :, 0].tolist() == [255, 127, 0]
    opaque = PIL.Image.new("CMYK", (2, 2), (10, 20, 30, 40))
    assert on_white(opaque).tobytes() == opaque.convert("RGB").tobytes()
