"""The losses: worked by hand, against transformers, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from twotower.train.loss import clip_loss, siglip_loss

LOSSES = {"clip": clip_loss, "siglip": siglip_loss}
both = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
Loss = Callable[[Tensor], Tensor]


def log_of(odds: list[list[float]]) -> Tensor:
    """Logits whose exponentials are small numbers, so that probabilities are fractions."""
    return torch.tensor(odds, dtype=torch.float64).log()


def logits(size: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(size, size, dtype=dtype, generator=torch.Generator().manual_seed(0))


def surprise(*probabilities: float) -> float:
    """The mean of -log p."""
    return -sum(math.log(p) for p in probabilities) / len(probabilities)


def test_clip_loss_of_two_pairs() -> None:
    # Rows give the pairs 3/4 and 2/3, columns 3/4 and 2/3 of 3+1 and 1+2.
    found = clip_loss(log_of([[3, 1], [1, 2]]))
    assert found.item() == pytest.approx(surprise(3 / 4, 2 / 3), abs=1e-12)
    # Rows: 1/5 and 6/9; columns: 1/4 and 6/10.
    found = clip_loss(log_of([[1, 4], [3, 6]]))
    expected = (surprise(1 / 5, 6 / 9) + surprise(1 / 4, 6 / 10)) / 2
    assert found.item() == pytest.approx(expected, abs=1e-12)
    assert found.item() == pytest.approx(0.978006, abs=1e-6)


def test_clip_loss_of_three_pairs() -> None:
    # Row sums 4, 6, 4; column sums 4, 5, 5.
    found = clip_loss(log_of([[2, 1, 1], [1, 3, 2], [1, 1, 2]]))
    expected = (surprise(2 / 4, 3 / 6, 2 / 4) + surprise(2 / 4, 3 / 5, 2 / 5)) / 2
    assert found.item() == pytest.approx(expected, abs=1e-12)
    assert clip_loss(torch.zeros(3, 3)).item() == pytest.approx(math.log(3))


def test_siglip_loss_of_two_pairs() -> None:
    # Pairs are taken with probabilities 3/4 and 2/3; others left with 1/2 and 1 - 4/5.
    found = siglip_loss(log_of([[3, 1], [4, 2]]))
    expected = 4 * surprise(3 / 4, 1 / 2, 1 / 5, 2 / 3) / 2
    assert found.item() == pytest.approx(expected, abs=1e-12)
    assert found.item() == pytest.approx(1.497866, abs=1e-6)
    assert siglip_loss(torch.zeros(2, 2)).item() == pytest.approx(2 * math.log(2))


def test_siglip_loss_of_three_pairs() -> None:
    found = siglip_loss(log_of([[3, 1, 1], [1, 1, 4], [1, 1, 2]]))
    pairs, others = (3 / 4, 1 / 2, 2 / 3), (1 / 2, 1 / 2, 1 / 2, 1 / 5, 1 / 2, 1 / 2)
    assert found.item() == pytest.approx(9 * surprise(*pairs, *others) / 3, abs=1e-12)


@both
def test_right_pairs_cost_nothing_and_wrong_ones_much(loss: Loss) -> None:
    right = 100 * (2 * torch.eye(3) - 1)
    assert loss(right).item() == pytest.approx(0, abs=1e-6)
    assert loss(right.roll(1, dims=0)).item() > 100
    assert loss(-right).item() > 100


def test_clip_loss_equals_transformers() -> None:
    for size in (1, 2, 7):
        found, expected = clip_loss(logits(size)), image_text_contrastive_loss(logits(size).T)
        torch.testing.assert_close(found, expected)


def test_siglip_loss_equals_the_paper() -> None:
    """Zhai et al. 2023, algorithm 1; tests/model/test_parity.py has transformers' own."""
    for size in (1, 2, 7):
        sign = 2 * torch.eye(size, dtype=torch.float64) - torch.ones(size, size)
        expected = F.softplus(-sign * logits(size)).sum(dim=1).mean()
        torch.testing.assert_close(siglip_loss(logits(size)), expected)


@both
def test_order_of_the_pairs_does_not_matter(loss: Loss) -> None:
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(logits()[order][:, order]), loss(logits()))
    assert not torch.allclose(loss(logits()[order]), loss(logits()))


@both
def test_pictures_and_texts_may_change_places(loss: Loss) -> None:
    torch.testing.assert_close(loss(logits().T), loss(logits()))


def test_only_siglip_loss_feels_a_constant() -> None:
    torch.testing.assert_close(clip_loss(logits() + 5), clip_loss(logits()))
    assert abs(siglip_loss(logits() + 5) - siglip_loss(logits())) > 1


@both
def test_gradient(loss: Loss) -> None:
    assert torch.autograd.gradcheck(loss, logits().requires_grad_())


def test_gradient_of_clip_loss_is_probability_minus_target() -> None:
    x = logits().requires_grad_()
    clip_loss(x).backward()
    rows, columns = x.detach().softmax(dim=1), x.detach().softmax(dim=0)
    torch.testing.assert_close(x.grad, (rows + columns - 2 * torch.eye(4)) / (2 * 4))


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    low = logits().to(dtype)
    found = loss(low)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(low.double()).float(), rtol=1e-6, atol=1e-6)
