"""The recipe of twotower-base on a small vision transformer and random pictures."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from recipes.twotower_base.gptq import group_scales, round_columns, round_tower
from recipes.twotower_base.pictures import to_thumbnails
from twotower.model.config import ViTConfig
from twotower.model.vision import VisionTransformer
from twotower.model.weight_files import GROUP
from twotower.model.weights import GroupedWeight


def round_to_nearest(weight: torch.Tensor) -> GroupedWeight:
    scale = group_scales(weight, torch.ones(weight.shape[1]))
    steps = weight / scale.float().repeat_interleave(GROUP, dim=1)
    return GroupedWeight(steps.round().clamp(-8, 7).to(torch.int8), scale)


@pytest.fixture
def tower() -> VisionTransformer:
    torch.manual_seed(0)
    tower = VisionTransformer(ViTConfig(64, 16, 64, 3, 4, 128, "quick_gelu"), 32).eval()
    for parameter in tower.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return tower


@pytest.fixture
def pixel_values() -> torch.Tensor:
    """Forty smooth pictures."""
    coarse = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, (64, 64), mode="bicubic")


def test_scales_of_either_sign_use_the_longer_side() -> None:
    weight = torch.zeros(2, GROUP)
    weight[0, 3], weight[1, 3] = 0.8, -0.8
    scale = group_scales(weight, torch.ones(GROUP))
    assert scale.dtype == torch.float16 and scale.shape == (2, 1)
    steps = (weight[:, 3:4] / scale.float()).round()
    np.testing.assert_allclose((steps * scale.float())[:, 0], [0.8, -0.8], rtol=1e-3)


def test_errors_are_compensated_by_correlated_inputs() -> None:
    torch.manual_seed(0)
    weight = torch.randn(48, 64)
    tokens = torch.randn(4000, 8) @ torch.randn(8, 64) + 0.3 * torch.randn(4000, 64)
    rounded = round_columns(weight, tokens.T @ tokens / len(tokens))
    assert rounded.levels.min() >= -8 and rounded.levels.max() <= 7
    error, nearest = (
        (F.linear(tokens, grouped.values() - weight)).square().mean()
        for grouped in (rounded, round_to_nearest(weight))
    )
    assert error < 0.5 * nearest


def test_a_rounded_tower_is_closer_than_one_rounded_to_nearest(
    tower: VisionTransformer, pixel_values: torch.Tensor
) -> None:
    calibration, unseen = pixel_values[:32], pixel_values[32:]
    rounded = round_tower(tower, calibration, torch.arange(32) % 8 == 0)
    assert len(rounded.weights) == 4 * len(tower.blocks)
    nearest = VisionTransformer(ViTConfig(64, 16, 64, 3, 4, 128, "quick_gelu"), 32).eval()
    nearest.load_state_dict(tower.state_dict())
    for name, weight in rounded.weights.items():
        assert torch.equal(rounded.tower.get_parameter(name), weight.values())
        nearest.get_parameter(name).data = round_to_nearest(tower.get_parameter(name)).values()
    with torch.no_grad():
        exact = tower(unseen)
        errors = [
            1 - F.cosine_similarity(candidate(unseen), exact).mean()
            for candidate in (rounded.tower, nearest)
        ]
    assert errors[0] < 0.7 * errors[1]


def test_thumbnails_lose_the_details() -> None:
    checks = (torch.arange(224)[:, None] + torch.arange(224)) % 2 * 255
    pixels = checks.to(torch.uint8).expand(1, 3, 224, 224)
    thumbnails = to_thumbnails(pixels)
    assert thumbnails.shape == pixels.shape and thumbnails.dtype == torch.uint8
    assert thumbnails.float().std() < 20 < pixels.float().std()
