"""The lessons of the bundled model's image tower, on made-up ones, and the quick later blocks."""

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

from recipes.twotower_small.backbone import Early, FixedDepthwise, Later
from recipes.twotower_small.gptq import round_columns, rounded
from recipes.twotower_small.hypernyms import Kinds
from recipes.twotower_small.losses import Pictures, Plan, Words, answer_loss
from recipes.twotower_small.vision_student import (
    Classes,
    Lessons,
    folded,
    kept,
    part,
    pool,
    small,
    start_vision,
    train_backbone,
    train_projection,
    whole,
)
from twotower.model.clip import CLIP
from twotower.model.presets import preset
from twotower.model.weights import dequantize, quantize


@pytest.fixture
def vision() -> Any:
    """A tower of random weights through which a signal comes alive."""
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
        quick = folded(vision)
        torch.testing.assert_close(quick(pixel_values), before, rtol=1e-3, atol=1e-4)
        assert not any(isinstance(part, nn.BatchNorm2d) for part in quick.modules())


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
    """Also where maps come from a file, and after the later ones have learned and are put back."""
    pixel_values = torch.randn(3, 3, 64, 64)
    tower = folded(vision)
    later = Later(tower, 7)
    maps = kept(tmp_path / "maps", Early(folded(vision), 7), [pixel_values[:2], pixel_values[2:]])
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


def made_up_lessons(features: Tensor) -> Lessons:
    """Six pictures, each with five captions and a name, which are as different as can be."""
    count = len(features)
    text = F.normalize(features + 0.1 * torch.randn_like(features), dim=-1)
    nothing = np.zeros(0, np.int64), np.zeros(0)
    return Lessons(
        Words([str(one) for one in range(count)], features, np.ones(count), count),
        Pictures(
            features,
            [("",) * 5] * count,
            np.ones(count, bool),
            np.ones(count, bool),
        ),
        text[:, None].expand(-1, 5, -1),
        Kinds([], torch.eye(count, dtype=torch.bool), [nothing] * count),
        text,
        torch.arange(count),
        np.random.default_rng(0),
    )


def silent(line: str) -> None:
    """Says nothing."""


def seen(vision: Any, pooled: Tensor) -> Tensor:
    with torch.no_grad():
        return F.normalize(vision.proj(vision.widen(vision.norm(pooled))), dim=-1)


def test_the_projection_learns_to_see_as_the_teacher_does(vision: Any) -> None:
    """From features that say nothing but which of six pictures it is."""
    pooled = torch.randn(6, 1, vision.hidden.in_features).expand(6, 3, -1)
    features = F.normalize(torch.randn(6, 512), dim=-1)
    plan = Plan(image_steps=30, pictures=6)
    train_projection(vision, pooled, pooled[:, 0], made_up_lessons(features), plan, silent)
    with torch.no_grad():
        embeds = F.normalize(vision.proj(vision.widen(pooled[:, 0])), dim=-1)
    assert ((embeds @ features.T).argmax(dim=1) == torch.arange(6)).all()
    assert (embeds * features).sum(dim=1).mean() > 0.5


def test_the_backbone_starts_from_its_classes_and_learns(vision: Any, tmp_path: Path) -> None:
    pixel_values = torch.randn(6, 3, 64, 64)
    tower = folded(vision)
    later, maps = Later(tower, 7), kept(tmp_path / "maps", Early(tower, 7), [pixel_values])
    features = F.normalize(torch.randn(6, 512), dim=-1)
    classes = Classes(0.01 * torch.randn(1000, 1280), torch.zeros(1000), [""] * 1000)
    class_embeds = F.normalize(torch.randn(1000, 512), dim=-1)
    views = [maps, maps, maps]
    logits = start_vision(vision, later, views, features, classes, class_embeds)
    assert ((seen(vision, pool(later, maps)) @ features.T).argmax(dim=1) == torch.arange(6)).all()
    activations = vision.hidden(vision.norm(pool(later, maps)))[:, :1000]
    torch.testing.assert_close(activations, 0.5 * logits - 1.5, rtol=1e-2, atol=1e-2)

    learned = F.normalize(torch.randn(6, 512), dim=-1)  # something else than where it starts
    weight, plan = later.head.weight.clone(), Plan(backbone_steps=40, backbone_pictures=(6, 6, 6))
    train_backbone(vision, later, views, maps, made_up_lessons(learned), logits, plan, silent)
    assert not torch.equal(later.head.weight, weight)
    assert ((seen(vision, pool(later, maps)) @ learned.T).argmax(dim=1) == torch.arange(6)).all()


def test_a_poodle_is_a_dog_but_no_dog_is_a_poodle() -> None:
    embeds = torch.eye(3)  # poodle, dog, cat
    fits = torch.eye(3, dtype=torch.bool)
    fits[0, 1] = True
    nothing = np.zeros(0, np.int64), np.zeros(0)
    above = [(np.array([1]), np.ones(1)), nothing, nothing]
    lessons = Lessons(
        Words([], embeds, np.ones(0)),
        Pictures(embeds, [], np.zeros(0, bool), np.zeros(0, bool)),
        embeds,
        Kinds([], fits, above),
        embeds,
        torch.arange(3),
        np.random.default_rng(0),
    )
    called = {lessons.kinds.also(0, lessons.draw) for _ in range(50)}
    assert called == {0, 1}
    dog = embeds[[1]]
    assert lessons.called(dog, np.array([1])) < 1e-3
    assert float(lessons.called(embeds[[2]], np.array([1]))) > 50
    losses = [float(lessons.called(dog, np.array([0]))) for _ in range(50)]
    assert min(losses) < 1e-3  # called a dog, that a poodle fits as well is no mistake


def test_what_is_said_often_is_known() -> None:
    """Two poodles and a cat: half of the time a poodle is called a dog."""
    nothing = np.zeros(0, np.int64), np.zeros(0)
    kinds = Kinds([], torch.eye(3), [(np.array([1]), np.ones(1)), nothing, nothing])
    shares = kinds.log_prior(torch.tensor([0, 0, 2])).exp()
    torch.testing.assert_close(shares, torch.tensor([1 / 3, 1 / 3, 1 / 3]))
    embeds = torch.eye(3)
    log_prior = torch.tensor([0.0, 0.0, 150.0])
    alike, right = torch.zeros(1, 3, dtype=torch.bool), torch.tensor([0])
    plainly = answer_loss(embeds[:1], embeds, right, alike)
    assert answer_loss(embeds[:1], embeds, right, alike, log_prior=log_prior) > plainly


def test_rounded_columns_say_nearly_the_same_and_lie_on_the_grid() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2000, 8) @ torch.randn(8, 64)  # inputs go together, as those of nets do
    weight = torch.randn(32, 64)
    plainly = dequantize(quantize({"weight": weight}))["weight"]
    ours = round_columns(weight, tokens)
    torch.testing.assert_close(dequantize(quantize({"weight": ours}))["weight"], ours)
    exact = tokens @ weight.T
    assert (tokens @ ours.T - exact).norm() < 0.3 * (tokens @ plainly.T - exact).norm()


def test_rounded_later_blocks_do_as_before(vision: Any, tmp_path: Path) -> None:
    tower = folded(vision)
    later = Later(tower, 7)
    maps = kept(tmp_path / "maps", Early(tower, 7), [torch.randn(8, 3, 64, 64)])
    before, ours = pool(later, maps), pool(rounded(later, maps), maps)
    assert torch.cosine_similarity(before, ours).min() > 0.999
    assert not torch.equal(before, ours)


@given(seed=st.integers(0, 2**32 - 1), view=st.sampled_from([whole, part, small]))
def test_views_keep_size_and_range(seed: int, view: Callable[..., Any]) -> None:
    pixels = np.full((224, 224, 3), (200, 100, 50), np.uint8)
    seen = view(pixels, np.random.default_rng(seed))
    assert seen.shape == pixels.shape and seen.dtype == np.uint8
    assert np.ptp(seen.reshape(-1, 3), axis=0).max() <= 1  # one colour stays one colour
    again = view(pixels, np.random.default_rng(seed))
    assert np.array_equal(seen, again)
