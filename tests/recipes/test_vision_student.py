"""The objectives of the image tower on random data, and the fast later blocks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from recipes.twotower_small.backbone import EarlyBlocks, FixedDepthwise, LaterBlocks
from recipes.twotower_small.gptq import quantize_blocks, round_columns
from recipes.twotower_small.hypernyms import Hypernyms
from recipes.twotower_small.losses import Pictures, RecipeConfig, Words, label_loss
from recipes.twotower_small.vision_student import (
    Classes,
    Objectives,
    fold_batch_norms,
    initialize_vision,
    pool,
    store_maps,
    train_backbone,
    train_projection,
    view_crop,
    view_thumbnail,
    view_whole,
)
from twotower.model.clip import CLIP
from twotower.model.presets import preset
from twotower.model.weights import dequantize, quantize


@pytest.fixture
def vision() -> Any:
    """A tower of random weights that keeps the variance of its input."""
    torch.manual_seed(0)
    tower: Any = CLIP(preset("twotower-small")).vision.eval()
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return tower


def test_a_folded_tower_is_the_same_tower(vision: Any) -> None:
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = vision(pixel_values)
        quick = fold_batch_norms(vision)
        torch.testing.assert_close(quick(pixel_values), before, rtol=1e-3, atol=1e-4)
        assert not any(isinstance(view_crop, nn.BatchNorm2d) for view_crop in quick.modules())


@pytest.mark.parametrize(
    ("kernel", "stride", "side", "padding"),
    [(3, 1, 6, 1), (5, 1, 7, 2), (3, 2, 7, 0), (5, 2, 9, 0), (3, 2, 8, 0), (3, 2, 8, 1)],
)
def test_the_gradient_of_fixed_filters(kernel: int, stride: int, side: int, padding: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, side, side, dtype=torch.double, requires_grad=True)
    filters = torch.randn(2, 1, kernel, kernel, dtype=torch.double)
    bias = torch.randn(2, dtype=torch.double)

    def filtered(x: Tensor) -> Any:
        return FixedDepthwise.apply(x, filters, bias, stride, padding)  # type: ignore[no-untyped-call]

    assert torch.autograd.gradcheck(filtered, x)


def test_early_and_later_blocks_are_the_tower(vision: Any, tmp_path: Path) -> None:
    """Also with maps from a file, and after the later blocks were changed and copied back."""
    pixel_values = torch.randn(3, 3, 64, 64)
    tower = fold_batch_norms(vision)
    later = LaterBlocks(tower, 7)
    maps = store_maps(
        tmp_path / "maps",
        EarlyBlocks(fold_batch_norms(vision), 7),
        [pixel_values[:2], pixel_values[2:]],
    )
    with torch.inference_mode():
        before = tower.pool(pixel_values)
    assert F.cosine_similarity(pool(later, maps), before).min() > 0.995  # of bfloat16
    with torch.no_grad():
        for parameter in later.parameters():
            parameter.mul_(1.02)
    later.write_to(vision)
    with torch.inference_mode():
        after = vision.pool(pixel_values)
    assert F.cosine_similarity(pool(later, maps), after).min() > 0.995
    torch.testing.assert_close(pool(later, maps).norm(dim=1), after.norm(dim=1), rtol=0.01, atol=0)
    assert (after.norm(dim=1) > 1.02 * before.norm(dim=1)).all()


def random_objectives(features: Tensor) -> Objectives:
    """Random pictures, each with five captions and a name, all different."""
    count = len(features)
    text = F.normalize(features + 0.1 * torch.randn_like(features), dim=-1)
    no_choices = np.zeros(0, np.int64), np.zeros(0)
    return Objectives(
        Words([str(item) for item in range(count)], features, np.ones(count), count),
        Pictures(
            features,
            [("",) * 5] * count,
            np.ones(count, bool),
            np.ones(count, bool),
        ),
        text[:, None].expand(-1, 5, -1),
        Hypernyms([], torch.eye(count, dtype=torch.bool), [no_choices] * count),
        text,
        torch.arange(count),
        np.random.default_rng(0),
    )


def embed_pictures(vision: Any, pooled: Tensor) -> Tensor:
    with torch.no_grad():
        return F.normalize(vision.proj(vision.widen(vision.norm(pooled))), dim=-1)


def test_the_projection_learns_the_features_of_the_teacher(vision: Any) -> None:
    """Random features identify six pictures."""
    pooled = torch.randn(6, 1, vision.hidden.in_features).expand(6, 3, -1)
    features = F.normalize(torch.randn(6, 512), dim=-1)
    config = RecipeConfig(image_steps=30, pictures=6)
    train_projection(vision, pooled, pooled[:, 0], random_objectives(features), config)
    with torch.no_grad():
        embeds = F.normalize(vision.proj(vision.widen(pooled[:, 0])), dim=-1)
    assert ((embeds @ features.T).argmax(dim=1) == torch.arange(6)).all()
    assert (embeds * features).sum(dim=1).mean() > 0.5


def test_the_backbone_starts_from_its_classes_and_learns(vision: Any, tmp_path: Path) -> None:
    pixel_values = torch.randn(6, 3, 64, 64)
    tower = fold_batch_norms(vision)
    later, maps = (
        LaterBlocks(tower, 7),
        store_maps(tmp_path / "maps", EarlyBlocks(tower, 7), [pixel_values]),
    )
    features = F.normalize(torch.randn(6, 512), dim=-1)
    classes = Classes(0.01 * torch.randn(1000, 1280), torch.zeros(1000), [""] * 1000)
    class_embeds = F.normalize(torch.randn(1000, 512), dim=-1)
    views = [maps, maps, maps]
    logits = initialize_vision(vision, later, views, features, classes, class_embeds)
    assert (
        (embed_pictures(vision, pool(later, maps)) @ features.T).argmax(dim=1) == torch.arange(6)
    ).all()
    activations = vision.hidden(vision.norm(pool(later, maps)))[:, :1000]
    torch.testing.assert_close(activations, 0.5 * logits - 1.5, rtol=1e-2, atol=1e-2)

    targets = F.normalize(torch.randn(6, 512), dim=-1)  # other vectors than at the start
    weight, config = (
        later.head.weight.clone(),
        RecipeConfig(backbone_steps=40, backbone_pictures=(6, 6, 6)),
    )
    train_backbone(vision, later, views, maps, random_objectives(targets), logits, config)
    assert not torch.equal(later.head.weight, weight)
    assert (
        (embed_pictures(vision, pool(later, maps)) @ targets.T).argmax(dim=1) == torch.arange(6)
    ).all()


def test_a_poodle_is_a_dog_but_no_dog_is_a_poodle() -> None:
    embeds = torch.eye(3)  # poodle, dog, cat
    fits = torch.eye(3, dtype=torch.bool)
    fits[0, 1] = True
    no_choices = np.zeros(0, np.int64), np.zeros(0)
    choices = [(np.array([1]), np.ones(1)), no_choices, no_choices]
    objectives = Objectives(
        Words([], embeds, np.ones(0)),
        Pictures(embeds, [], np.zeros(0, bool), np.zeros(0, bool)),
        embeds,
        Hypernyms([], fits, choices),
        embeds,
        torch.arange(3),
        np.random.default_rng(0),
    )
    called = {objectives.hypernyms.sample(0, objectives.random) for _ in range(50)}
    assert called == {0, 1}
    dog = embeds[[1]]
    assert objectives.name_loss(dog, np.array([1])) < 1e-3
    assert float(objectives.name_loss(embeds[[2]], np.array([1]))) > 50
    losses = [float(objectives.name_loss(dog, np.array([0]))) for _ in range(50)]
    assert min(losses) < 1e-3  # for the label dog, poodle is no negative


def test_the_prior_of_frequent_names() -> None:
    """Two poodles and a cat; half of the time a poodle is labelled a dog."""
    no_choices = np.zeros(0, np.int64), np.zeros(0)
    kinds = Hypernyms([], torch.eye(3), [(np.array([1]), np.ones(1)), no_choices, no_choices])
    shares = kinds.log_prior(torch.tensor([0, 0, 2])).exp()
    torch.testing.assert_close(shares, torch.tensor([1 / 3, 1 / 3, 1 / 3]))
    embeds = torch.eye(3)
    log_prior = torch.tensor([0.0, 0.0, 150.0])
    alike, right = torch.zeros(1, 3, dtype=torch.bool), torch.tensor([0])
    without_prior = label_loss(embeds[:1], embeds, right, alike)
    assert label_loss(embeds[:1], embeds, right, alike, log_prior=log_prior) > without_prior


def test_rounded_columns_lie_on_the_grid_with_a_smaller_error() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2000, 8) @ torch.randn(8, 64)  # correlated inputs, as in networks
    weight = torch.randn(32, 64)
    rounded = dequantize(quantize({"weight": weight}))["weight"]
    quantized = round_columns(weight, tokens)
    torch.testing.assert_close(dequantize(quantize({"weight": quantized}))["weight"], quantized)
    exact = tokens @ weight.T
    assert (tokens @ quantized.T - exact).norm() < 0.3 * (tokens @ rounded.T - exact).norm()


def test_quantized_blocks_are_close_to_the_exact_ones(vision: Any, tmp_path: Path) -> None:
    tower = fold_batch_norms(vision)
    later = LaterBlocks(tower, 7)
    maps = store_maps(tmp_path / "maps", EarlyBlocks(tower, 7), [torch.randn(8, 3, 64, 64)])
    before, quantized = pool(later, maps), pool(quantize_blocks(later, maps), maps)
    assert torch.cosine_similarity(before, quantized).min() > 0.999
    assert not torch.equal(before, quantized)


@given(
    seed=st.integers(0, 2**32 - 1), view=st.sampled_from([view_whole, view_crop, view_thumbnail])
)
def test_views_keep_size_and_range(seed: int, view: Callable[..., Any]) -> None:
    pixels = np.full((224, 224, 3), (200, 100, 50), np.uint8)
    embed_pictures = view(pixels, np.random.default_rng(seed))
    assert embed_pictures.shape == pixels.shape and embed_pictures.dtype == np.uint8
    assert np.ptp(embed_pictures.reshape(-1, 3), axis=0).max() <= 1  # one colour stays one colour
    repeated = view(pixels, np.random.default_rng(seed))
    assert np.array_equal(embed_pictures, repeated)
