"""Random crops, mirrored pictures and colours."""

import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from PIL import Image

from tests.tiny_models import tiny_config
from twotower.errors import TrainError
from twotower.inputs.preprocess import Preprocess
from twotower.train.augmentation import Augmentation

SIDE = 64
PREPROCESS = Preprocess(replace(tiny_config().preprocess, image_size=SIDE))


def gradient(width: int = 200, height: int = 100) -> bytes:
    """Return a picture whose red is the column and whose green is the row, from 0 to 250."""
    x, y = np.meshgrid(np.linspace(0, 250, width), np.linspace(0, 250, height))
    levels = np.stack([x, y, np.full_like(x, 100)], axis=2).round().astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def square(augmentation: Augmentation, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.asarray(augmentation.square(PREPROCESS, gradient(), random)).astype(float)


def test_crops_have_the_area_and_the_shape() -> None:
    """The slopes of the gradient are width and height of the crop."""
    augmentation = Augmentation(crop_scale=(0.2, 0.5), crop_ratio=(0.5, 2.0))
    areas, ratios = [], []
    for seed in range(60):
        pixels = square(augmentation, seed)
        assert pixels.shape == (SIDE, SIDE, 3)
        middle = slice(8, 56)
        width = np.ptp(pixels[:, middle, 0].mean(axis=0)) / 47 * SIDE / 250
        height = np.ptp(pixels[middle, :, 1].mean(axis=1)) / 47 * SIDE / 250
        areas.append(width * height)
        ratios.append(2 * width / height)
    assert 0.19 < min(areas) < 0.25 and 0.42 < max(areas) < 0.51
    assert 0.49 < min(ratios) < 0.65 and 1.5 < max(ratios) < 2.05


def test_a_crop_that_never_fits_is_the_whole_picture() -> None:
    augmentation = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(0.5, 0.5))
    box = augmentation.crop_box((200, 100), np.random.default_rng(0))
    assert box == (0.0, 0.0, 200.0, 100.0)


def test_half_of_the_pictures_are_mirrored() -> None:
    mirrored = [square(Augmentation(flip=0.5), seed) for seed in range(40)]
    rising = [pixels[:, -1, 0].mean() > pixels[:, 0, 0].mean() for pixels in mirrored]
    assert 10 < sum(rising) < 30
    plain = square(Augmentation(), 3)
    assert np.array_equal(square(Augmentation(flip=1.0), 3), plain[:, ::-1])


def test_colours_change_and_shapes_stay() -> None:
    plain = square(Augmentation(), 1)
    changed = [square(Augmentation(color=0.4), seed) for seed in range(20)]
    means = [pixels.mean() for pixels in changed]
    assert np.std(means) > 5 and 0.5 * plain.mean() < np.mean(means) < 1.5 * plain.mean()
    for pixels in changed:
        assert np.all(np.diff(pixels[:, :, 0].mean(axis=0)) >= -1)


def test_pictures_depend_on_the_seed_alone() -> None:
    augmentation = Augmentation(1.2, (0.2, 1.0), (0.75, 1.333), 0.5, 0.4)
    assert np.array_equal(square(augmentation, 5), square(augmentation, 5))
    assert not np.array_equal(square(augmentation, 5), square(augmentation, 6))


def test_without_options_the_pictures_are_those_of_before() -> None:
    random = np.random.default_rng(4)
    corner, zoom = (random.random(), random.random()), random.uniform(1.0, 1.3)
    expected: Image.Image = PREPROCESS.square(gradient(), corner, zoom)
    assert np.array_equal(square(Augmentation(1.3), 4), np.asarray(expected))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_scale": (0.0, 1.0)}, "data.crop_scale: 0.0,1.0 is no range above 0 and up to 1"),
        ({"crop_scale": (0.5, 0.2)}, "give the smaller value before the larger"),
        ({"crop_ratio": (-1.0, 2.0)}, "data.crop_ratio"),
        ({"flip": 1.5}, "data.flip: 1.5 is not from 0 to 1"),
        ({"color": -0.1}, "data.color"),
    ],
)
def test_values_out_of_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        Augmentation(**fields)
