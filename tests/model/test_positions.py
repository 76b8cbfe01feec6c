"""Positions of patches for pictures of another size."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tiny_models import random_tensors, resnet_config, tiny_config
from twotower.errors import ModelError
from twotower.model.positions import POSITIONS, resize_grid, with_image_size
from twotower.model.weight_files import as_arrays, expected_shapes


def test_a_grid_of_a_plane_stays_a_plane() -> None:
    rows = np.repeat(np.linspace(0, 1, 8, dtype=np.float32), 8)[:, None]
    resized = resize_grid(np.concatenate([[[np.float32(7)]], rows]), 1 + 16**2)
    assert resized[0] == 7.0
    inner = resized[1:].reshape(16, 16)[4:12, 4:12]
    np.testing.assert_allclose(inner, inner[:, :1].repeat(8, axis=1), atol=1e-5)
    np.testing.assert_allclose(np.diff(inner, axis=0), 1 / 14, atol=2e-3)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize(("side", "new_side"), [(14, 10), (14, 12), (7, 16), (24, 14)])
def test_it_equals_torch(before: int, side: int, new_side: int) -> None:
    positions = np.random.default_rng(0).normal(size=(before + side**2, 6)).astype(np.float32)
    grid = torch.from_numpy(positions[before:]).T.unflatten(1, (side, side))[None]
    size = (new_side, new_side)
    expected = F.interpolate(grid, size, mode="bicubic", antialias=True)[0].flatten(1).T
    resized = resize_grid(positions, before + new_side**2)
    assert np.array_equal(resized[:before], positions[:before])
    np.testing.assert_allclose(resized[before:], expected, atol=2e-5)
    halves = resize_grid(positions.astype(np.float16), before + new_side**2)
    assert halves.dtype == np.float16


def test_rows_that_are_no_grid_are_unchanged() -> None:
    positions = np.ones((17, 3), np.float32)
    assert resize_grid(positions, 20) is positions


def test_only_positions_and_sizes_change() -> None:
    config, tensors = tiny_config(), as_arrays(random_tensors(tiny_config()))
    changed, resized = with_image_size(config, tensors, 96, Path("tiny"))
    assert (changed.vision.image_size, changed.preprocess.image_size) == (96, 96)
    assert changed.name == "tiny-96" and changed.text == config.text
    shapes = {name: array.shape for name, array in resized.items()}
    assert shapes == expected_shapes(changed)
    assert [name for name in tensors if resized[name] is not tensors[name]] == [POSITIONS]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (100, "an image size of 100 is not a multiple of its patch size, 16; give 96"),
        (64, "its image size is 64 already"),
        (16, "too far from 64, that of its training; give one from 32 to 128"),
        (144, "too far from 64"),
        (0, "too far from 64"),
        (-64, "too far from 64"),
    ],
)
def test_sizes_that_are_wrong(size: int, message: str) -> None:
    tensors = as_arrays(random_tensors(tiny_config()))
    with pytest.raises(ModelError, match=message):
        with_image_size(tiny_config(), tensors, size, Path("tiny"))


def test_a_name_has_one_size() -> None:
    config, tensors = tiny_config(), as_arrays(random_tensors(tiny_config()))
    larger = with_image_size(config, tensors, 96, Path("tiny"))
    assert with_image_size(*larger, 48, Path("tiny"))[0].name == "tiny-48"


def test_a_tower_without_positions_of_patches() -> None:
    with pytest.raises(ModelError, match="not a plain vision transformer"):
        with_image_size(resnet_config(), {}, 96, Path("tiny"))
