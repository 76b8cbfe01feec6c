"""`pixel_values` equal OpenAI's to the bit, and transformers' if the config says so."""

from __future__ import annotations

import hashlib
import io
import json
import math
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from twotower.errors import PictureError
from twotower.inputs.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess, PreprocessConfig

GOLDEN = Path(__file__).parents[1] / "golden"
MAKER = runpy.run_path(str(GOLDEN / "make_preprocess.py"))
RECORD = json.loads((GOLDEN / "preprocess" / "openai.json").read_text())

SIZES = [
    *((224, 224), (1, 1), (1, 2), (3, 1), (17, 23), (225, 224), (226, 224), (227, 224), (224, 231)),
    *((640, 427), (427, 640), (235, 1000), (1000, 237), (512, 1536)),
]


def noise(width: int, height: int, bands: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(width * 1000 + height).integers(
        0, 256, (height, width, bands), dtype=np.uint8
    )


def sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def reference(image: Image.Image, size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Apply OpenAI's transform literally (`clip/clip.py:79`), without regard to time or memory."""
    width, height = image.size
    if width <= height:
        image = image.resize((size, int(size * height / width)), Image.Resampling.BICUBIC)
    else:
        image = image.resize((int(size * width / height), size), Image.Resampling.BICUBIC)
    x = round((image.width - size) / 2.0)
    y = round((image.height - size) / 2.0)
    levels = np.asarray(image.crop((x, y, x + size, y + size)).convert("RGB"))
    values = levels.astype(np.float32) / np.float32(255)
    values = (values - np.float32(OPENAI_MEAN)) / np.float32(OPENAI_STD)
    return levels, np.ascontiguousarray(values.transpose(2, 0, 1))


# OpenAI --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "golden", RECORD["cases"], ids=lambda golden: "-".join(map(str, golden["case"]))
)
def test_openai_bit_for_bit(golden: dict[str, Any]) -> None:
    """Pillow 11.3, 12.0, 12.2 and 13.0 give these bits; a later one may round differently."""
    mode, width, height, size = golden["case"]
    preprocess = Preprocess(PreprocessConfig(image_size=size))
    picture = MAKER["picture"](mode, width, height)
    why = f"golden by Pillow {RECORD['versions']['pillow']}, here is {PIL.__version__}"
    assert sha256(np.asarray(preprocess.square(picture))) == golden["levels"], why
    assert sha256(preprocess(picture).astype("<f4")) == golden["values"], why


def test_openai_whole_arrays() -> None:
    preprocess = Preprocess(PreprocessConfig(image_size=32))
    with np.load(GOLDEN / "preprocess" / "openai.npz") as golden:
        np.testing.assert_array_equal(preprocess(MAKER["ramp"]()), golden["ramp"])
        for index, (mode, width, height, _) in enumerate(MAKER["KEPT"]):
            picture = MAKER["picture"](mode, width, height)
            levels = np.asarray(preprocess.square(picture))
            np.testing.assert_array_equal(levels, golden[f"levels{index}"])
            np.testing.assert_array_equal(preprocess(picture), golden[f"values{index}"])


def test_all_golden_cases_are_there() -> None:
    assert [tuple(golden["case"]) for golden in RECORD["cases"]] == MAKER["CASES"]


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.sampled_from((1, 7, 32, 224)),
    bands=st.sampled_from((1, 3, 4)),
)
@settings(max_examples=60, deadline=None)
def test_any_array_equals_the_reference(width: int, height: int, size: int, bands: int) -> None:
    array = noise(width, height, bands).squeeze(2) if bands == 1 else noise(width, height, bands)
    preprocess = Preprocess(PreprocessConfig(image_size=size))
    levels, values = reference(Image.fromarray(array), size)
    pixel_values = preprocess(array)
    assert pixel_values.shape == (3, size, size)
    assert pixel_values.dtype == np.float32
    assert pixel_values.flags.c_contiguous
    assert np.isfinite(pixel_values).all()
    np.testing.assert_array_equal(np.asarray(preprocess.square(array)), levels)
    np.testing.assert_array_equal(pixel_values, values)


# transformers --------------------------------------------------------------------------------


def processor(name: str, **options: Any) -> Any:
    """Return transformers' processor, without torchvision."""
    pytest.importorskip("transformers")
    if name == "clip":
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        return CLIPImageProcessorPil(**options)
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return SiglipImageProcessorPil(**options)


TRANSFORMERS_CONFIGS = {
    "clip": PreprocessConfig(rgb="before_resize", crop_offset="floor"),
    "siglip": PreprocessConfig(
        resize="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), rgb="before_resize"
    ),
}


def assert_like_transformers(name: str, image: Image.Image) -> None:
    preprocess = Preprocess(TRANSFORMERS_CONFIGS[name])
    bare = processor(name, do_rescale=False, do_normalize=False)
    levels = np.asarray(bare(image)["pixel_values"][0]).transpose(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(preprocess.square(image)), levels)
    values = processor(name)(image)["pixel_values"][0]
    np.testing.assert_array_equal(preprocess(image), values)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_transformers_sizes(name: str, size: tuple[int, int]) -> None:
    assert_like_transformers(name, Image.fromarray(noise(*size)))


@pytest.mark.parametrize("mode", MAKER["MODES"])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_transformers_modes(name: str, mode: str) -> None:
    assert_like_transformers(name, MAKER["picture"](mode, 331, 250))


# Choices of the config ----------------------------------------------------------------------


@pytest.mark.parametrize("margin", range(12))
def test_crop_offsets_differ_where_the_margin_leaves_three_by_four(margin: int) -> None:
    columns = np.arange(100 + margin, dtype=np.uint8) * 2
    strip = np.broadcast_to(columns, (100, 100 + margin))
    offsets = {}
    for crop_offset in ("round", "floor"):
        config = PreprocessConfig(image_size=100, crop_offset=crop_offset)
        offsets[crop_offset] = np.asarray(Preprocess(config).square(strip))[0, 0, 0] // 2
    assert offsets["floor"] == math.floor(margin / 2)
    assert offsets["round"] == math.floor(margin / 2) + (margin % 4 == 3)


def test_alpha_is_dropped_last_or_laid_over_white_first() -> None:
    clear_red = np.zeros((40, 40, 4), np.uint8)
    clear_red[..., 0] = 200
    dropped = np.asarray(Preprocess(PreprocessConfig(image_size=40)).square(clear_red))
    config = PreprocessConfig(image_size=40, rgb="before_resize")
    laid = np.asarray(Preprocess(config).square(clear_red))
    assert (dropped == (200, 0, 0)).all()
    assert (laid == 255).all()


def test_palettes_are_smooth_when_converted_first() -> None:
    image = Image.fromarray(noise(90, 90)).quantize(32)
    smooth = Preprocess(PreprocessConfig(image_size=32, rgb="before_resize")).square(image)
    nearest = Preprocess(PreprocessConfig(image_size=32)).square(image)
    palette = {tuple(colour) for colour in np.reshape(image.getpalette(), (-1, 3)).tolist()}
    assert {tuple(colour) for colour in np.asarray(nearest).reshape(-1, 3).tolist()} <= palette
    assert np.asarray(smooth).std() < 0.7 * np.asarray(nearest).std()


def test_squash_keeps_the_edges_and_bilinear_is_bilinear() -> None:
    image = Image.fromarray(noise(91, 57))
    config = PreprocessConfig(image_size=32, resize="squash", interpolation="bilinear")
    expected = image.resize((32, 32), Image.Resampling.BILINEAR)
    assert Preprocess(config).square(image).tobytes() == expected.tobytes()


def photograph(width: int, height: int) -> bytes:
    """Return a JPEG with soft shapes and some grain."""
    y, x = np.indices((height, width)) / 40
    shapes = np.stack([np.sin(x + y / 3), np.cos(y - x / 2), np.sin(x * y / 30)], -1) * 90 + 128
    grain = np.random.default_rng(0).normal(0, 8, shapes.shape)
    file = io.BytesIO()
    image = Image.fromarray((shapes + grain).clip(0, 255).astype(np.uint8))
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


# If the scale does not divide the sides, the crop may begin half a pixel away.
@pytest.mark.parametrize(("size", "cosine"), [((1200, 900), 0.9999), ((901, 1203), 0.999)])
def test_fast_decode_is_close(size: tuple[int, int], cosine: float) -> None:
    data = photograph(*size)
    fast = Preprocess(PreprocessConfig(fast_decode=True))
    assert min(fast.open(data).size) < min(size)
    a, b = fast(data).ravel(), Preprocess(PreprocessConfig())(data).ravel()
    assert not np.array_equal(a, b)
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > cosine


def test_what_open_gives_is_not_turned_again(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(noise(50, 30)).save(path, exif=exif)
    preprocess = Preprocess(PreprocessConfig(image_size=32))
    upright = np.rot90(noise(50, 30), -1)
    for picture in (path, preprocess.open(path), upright):
        np.testing.assert_array_equal(preprocess(picture), preprocess(upright))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("image_size", 0), ("resize", "longest"), ("interpolation", "nearest"), ("rgb", "never")),
        *(("crop_offset", "ceil"), ("mean", (0.5,)), ("std", (1.0, 0.0, 1.0)), ("std", (1.0, 1.0))),
    ],
)
def test_a_wrong_config_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} is .*; give "):
        PreprocessConfig(**{field: value})


# Extremes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tall", [True, False])
@pytest.mark.parametrize("long", [400, 401])
def test_strips_show_their_middle(long: int, tall: bool) -> None:
    """A strip just long enough to be trimmed can still be resized whole for comparison."""
    strip = noise(1, long) if tall else noise(long, 1)
    levels, _ = reference(Image.fromarray(strip), 224)
    trimmed = np.asarray(Preprocess(PreprocessConfig()).square(strip))
    assert np.abs(trimmed.astype(int) - levels).max() <= 1


@pytest.mark.parametrize("rgb", ["after_resize", "before_resize"])
def test_wide_strips_show_their_middle(rgb: Any) -> None:
    y, x = np.indices((9, 4001))
    waves = (128 + 100 * np.sin(x / 3) * np.cos(y / 4)).astype(np.uint8)
    levels, _ = reference(Image.fromarray(waves), 224)
    trimmed = np.asarray(Preprocess(PreprocessConfig(rgb=rgb)).square(waves)).astype(int)
    # The middle may be half a resized pixel away, and these waves rise 4 levels per pixel.
    assert np.abs(trimmed - levels).max() <= 4


MEMORY = """
import resource, sys, numpy as np
from twotower.inputs.preprocess import Preprocess, PreprocessConfig
preprocess = Preprocess(PreprocessConfig(image_size=336))
preprocess(np.zeros((300, 400, 3), np.uint8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shape in ((1, 30000, 3), (30000, 1, 4), (30000, 1), (2, 3_000_000, 3), (100, 60000, 3)):
    assert np.isfinite(preprocess(np.full(shape, 7, np.uint8))).all()
unit = 1 if sys.platform == "darwin" else 1024
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit // 2**20)
"""


def test_strips_take_little_memory() -> None:
    """The first strip, resized whole, would take 13 GB."""
    pytest.importorskip("resource", reason="this system does not tell the peak of memory")
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 160


@pytest.mark.parametrize("mode", [*MAKER["MODES"], "RGB"])
def test_one_pixel_of_any_kind(mode: str) -> None:
    for config in (
        PreprocessConfig(image_size=8),
        TRANSFORMERS_CONFIGS["clip"],
        TRANSFORMERS_CONFIGS["siglip"],
    ):
        pixel_values = Preprocess(config)(MAKER["picture"](mode, 1, 1))
        assert pixel_values.shape == (3, config.image_size, config.image_size)
        assert (pixel_values == pixel_values[:, :1, :1]).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", MAKER["MODES"])
def test_no_warning_for_sound_pictures(mode: str, tmp_path: Path) -> None:
    image = MAKER["picture"](mode, 30, 20)
    path = tmp_path / ("picture.jpg" if mode in ("CMYK", "YCbCr") else "picture.png")
    image.save(path)
    Preprocess(PreprocessConfig())(path)
    Preprocess(TRANSFORMERS_CONFIGS["clip"])(path)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(photograph(200, 100)[:-900])
    with pytest.raises(PictureError, match=r"broken\.jpg: damaged or cut short"):
        Preprocess(PreprocessConfig())(path)
