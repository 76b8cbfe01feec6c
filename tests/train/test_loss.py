"""Losses: worked by hand, against transformers, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from twotower.train.loss import clip_loss, siglip_loss, tiled_clip_loss, tiled_siglip_loss

LOSSES = {"clip": clip_loss, "siglip": siglip_loss}
both_losses = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
Loss = Callable[[Tensor], Tensor]


def log_of(odds: list[list[float]]) -> Tensor:
    """Return logits whose exponentials are small numbers, so that probabilities are fractions."""
    return torch.tensor(odds, dtype=torch.float64).log()


def logits(size: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(size, size, dtype=dtype, generator=torch.Generator().manual_seed(0))


def surprise(*probabilities: float) -> float:
    """Return the mean of -log p."""
    return -sum(math.log(p) for p in probabilities) / len(probabilities)


def test_clip_loss_of_two_pairs() -> None:
    # Rows give the pairs 3/4 and 2/3, columns 3/4 and 2/3 of 3+1 and 1+2.
    actual = clip_loss(log_of([[3, 1], [1, 2]]))
    assert actual.item() == pytest.approx(surprise(3 / 4, 2 / 3), abs=1e-12)
    # Rows: 1/5 and 6/9; columns: 1/4 and 6/10.
    actual = clip_loss(log_of([[1, 4], [3, 6]]))
    expected = (surprise(1 / 5, 6 / 9) + surprise(1 / 4, 6 / 10)) / 2
    assert actual.item() == pytest.approx(expected, abs=1e-12)
    assert actual.item() == pytest.approx(0.978006, abs=1e-6)


def test_clip_loss_of_three_pairs() -> None:
    # Row sums 4, 6, 4; column sums 4, 5, 5.
    actual = clip_loss(log_of([[2, 1, 1], [1, 3, 2], [1, 1, 2]]))
    expected = (surprise(2 / 4, 3 / 6, 2 / 4) + surprise(2 / 4, 3 / 5, 2 / 5)) / 2
    assert actual.item() == pytest.approx(expected, abs=1e-12)
    assert clip_loss(torch.zeros(3, 3)).item() == pytest.approx(math.log(3))


def test_siglip_loss_of_two_pairs() -> None:
    # Pairs are taken with probabilities 3/4 and 2/3; others left with 1/2 and 1 - 4/5.
    actual = siglip_loss(log_of([[3, 1], [4, 2]]))
    expected = 4 * surprise(3 / 4, 1 / 2, 1 / 5, 2 / 3) / 2
    assert actual.item() == pytest.approx(expected, abs=1e-12)
    assert actual.item() == pytest.approx(1.497866, abs=1e-6)
    assert siglip_loss(torch.zeros(2, 2)).item() == pytest.approx(2 * math.log(2))


def test_siglip_loss_of_three_pairs() -> None:
    actual = siglip_loss(log_of([[3, 1, 1], [1, 1, 4], [1, 1, 2]]))
    pairs, unpaired = (3 / 4, 1 / 2, 2 / 3), (1 / 2, 1 / 2, 1 / 2, 1 / 5, 1 / 2, 1 / 2)
    assert actual.item() == pytest.approx(9 * surprise(*pairs, *unpaired) / 3, abs=1e-12)


@both_losses
def test_correct_pairs_have_no_loss_and_wrong_pairs_much(loss: Loss) -> None:
    right = 100 * (2 * torch.eye(3) - 1)
    assert loss(right).item() == pytest.approx(0, abs=1e-6)
    assert loss(right.roll(1, dims=0)).item() > 100
    assert loss(-right).item() > 100


def test_clip_loss_equals_transformers() -> None:
    for size in (1, 2, 7):
        actual, expected = clip_loss(logits(size)), image_text_contrastive_loss(logits(size).T)
        torch.testing.assert_close(actual, expected)


def test_siglip_loss_equals_the_paper() -> None:
    """Zhai et al. 2023, algorithm 1; tests/model/test_parity.py has transformers' own."""
    for size in (1, 2, 7):
        sign = 2 * torch.eye(size, dtype=torch.float64) - torch.ones(size, size)
        expected = F.softplus(-sign * logits(size)).sum(dim=1).mean()
        torch.testing.assert_close(siglip_loss(logits(size)), expected)


@both_losses
def test_order_of_the_pairs_does_not_matter(loss: Loss) -> None:
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(logits()[order][:, order]), loss(logits()))
    assert not torch.allclose(loss(logits()[order]), loss(logits()))


@both_losses
def test_pictures_and_texts_can_be_swapped(loss: Loss) -> None:
    torch.testing.assert_close(loss(logits().T), loss(logits()))


def test_only_siglip_loss_changes_with_a_constant() -> None:
    torch.testing.assert_close(clip_loss(logits() + 5), clip_loss(logits()))
    assert abs(siglip_loss(logits() + 5) - siglip_loss(logits())) > 1


@both_losses
def test_gradient(loss: Loss) -> None:
    assert torch.autograd.gradcheck(loss, logits().requires_grad_())


def test_gradient_of_clip_loss_is_probability_minus_target() -> None:
    x = logits().requires_grad_()
    clip_loss(x).backward()
    rows, columns = x.detach().softmax(dim=1), x.detach().softmax(dim=0)
    torch.testing.assert_close(x.grad, (rows + columns - 2 * torch.eye(4)) / (2 * 4))


@both_losses
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    low = logits().to(dtype)
    actual = loss(low)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, loss(low.double()).float(), rtol=1e-6, atol=1e-6)


# --- repeated pictures or captions ---------------------------------------------------------------


def test_positives_share_the_target() -> None:
    """Pairs 0 and 1 are equal, so the target of each is half on both.

    Row sums are 4, 6, 4, column sums 4, 5, 5.
    """
    positives = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    actual = clip_loss(log_of([[2, 1, 1], [1, 3, 2], [1, 1, 2]]), positives)
    rows = (surprise(2 / 4, 1 / 4), surprise(1 / 6, 3 / 6), surprise(2 / 4))
    columns = (surprise(2 / 4, 1 / 4), surprise(1 / 5, 3 / 5), surprise(2 / 5))
    assert actual.item() == pytest.approx((sum(rows) + sum(columns)) / 6, abs=1e-12)


def test_positives_of_siglip_are_all_attracted() -> None:
    positives = torch.ones(2, 2, dtype=torch.bool)
    actual = siglip_loss(log_of([[3, 1], [4, 2]]), positives)
    assert actual.item() == pytest.approx(4 * surprise(3 / 4, 1 / 2, 4 / 5, 2 / 3) / 2, abs=1e-12)


@both_losses
def test_the_diagonal_is_the_default(loss: Callable[..., Tensor]) -> None:
    torch.testing.assert_close(loss(logits(), torch.eye(4, dtype=torch.bool)), loss(logits()))


# --- tiles ---------------------------------------------------------------------------------------

B, D = 11, 6
REPEATED = (
    torch.tensor([0, 1, 2, 3, 0, 5, 6, 7, 8, 2, 10]),
    torch.tensor([0, 1, 2, 3, 4, 5, 1, 7, 7, 9, 10]),
)


def parameters() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """image_embeds, text_embeds, logit_scale and logit_bias, in float64, asking for gradients."""
    generator = torch.Generator().manual_seed(1)
    embeds = torch.randn(2, B, D, dtype=torch.float64, generator=generator)
    images, texts = F.normalize(embeds, dim=-1)
    scalars = torch.tensor([1.5, -2.0], dtype=torch.float64)
    return tuple(tensor.clone().requires_grad_() for tensor in (images, texts, *scalars))  # type: ignore


def mask_of(ids: tuple[Tensor, Tensor] | None) -> Tensor | None:
    if ids is None:
        return None
    return (ids[0][:, None] == ids[0]) | (ids[1][:, None] == ids[1])


@pytest.mark.parametrize("ids", [None, REPEATED], ids=["distinct", "repeated"])
@pytest.mark.parametrize("tile", [1, 3, 4, 11, 1000])
@pytest.mark.parametrize("sigmoid", [False, True], ids=["clip", "siglip"])
def test_tiles_give_the_plain_loss_and_gradients(
    sigmoid: bool, tile: int, ids: tuple[Tensor, Tensor] | None
) -> None:
    plain, tiled = parameters(), parameters()
    images, texts, scale, bias = plain
    logits_per_image = scale.exp() * images @ texts.T
    if sigmoid:
        expected = siglip_loss(logits_per_image + bias, mask_of(ids))
        actual = tiled_siglip_loss(*tiled, ids=ids, tile=tile)
    else:
        expected = clip_loss(logits_per_image, mask_of(ids)) + 0 * bias
        actual = tiled_clip_loss(*tiled[:3], ids=ids, tile=tile) + 0 * tiled[3]
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    (3 * expected).backward()
    (3 * actual).backward()
    for tensor, expected_tensor in zip(tiled, plain, strict=True):
        torch.testing.assert_close(tensor.grad, expected_tensor.grad, rtol=1e-11, atol=1e-13)


def test_tiles_do_not_overflow_where_logits_are_large() -> None:
    generator = torch.Generator().manual_seed(3)
    images = F.normalize(torch.randn(9, 4, dtype=torch.float64, generator=generator), dim=-1)
    scale = torch.tensor(math.log(1e4), dtype=torch.float64)
    actual = tiled_clip_loss(images, images, scale, tile=2)
    torch.testing.assert_close(actual, clip_loss(scale.exp() * images @ images.T))


def test_half_precision_embeds_are_widened_and_get_half_precision_gradients() -> None:
    images, texts = (
        tensor.detach().to(torch.bfloat16).requires_grad_() for tensor in parameters()[:2]
    )
    loss = tiled_clip_loss(images, texts, torch.tensor(1.5), tile=4)
    loss.backward()
    assert loss.dtype == torch.float32
    assert images.grad is not None and images.grad.dtype == torch.bfloat16
