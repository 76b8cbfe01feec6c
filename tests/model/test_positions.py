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


def test_what_is_no_grid_stays() -> None:
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


@pytest.mark.parametrize(("size", "hint"), [(100, 96), (0, 16), (-16, 16), (3, 16)])
def test_a_size_that_is_no_multiple_of_the_patches(size: int, hint: int) -> None:
    tensors = as_arrays(random_tensors(tiny_config()))
    with pytest.raises(ModelError, match=f"no multiple of .* give --image-size {hint}$"):
        with_image_size(tiny_config(), tensors, size, Path("tiny"))


def test_a_tower_without_positions_of_patches() -> None:
    with pytest.raises(ModelError, match="leave out --image-size"):
        with_image_size(resnet_config(), {}, 96, Path("tiny"))
