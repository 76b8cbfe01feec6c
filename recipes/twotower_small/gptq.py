"""Rounding the later blocks' weights to int8 so that what they say of pictures changes least.

Rounded one by one, as `model.weights.quantize` does, the errors of a row add up. Here each column
of a weight, once it is rounded, hands its error on to those that are still to come, as far as they
can make up for it on the pictures at hand (GPTQ; Frantar et al. 2023), and the mean of what remains
is taken off the bias. Weights then lie where `quantize` puts them, so it changes nothing.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from recipes.twotower_small.backbone import Later, LaterBlock, Pointwise

LEVELS = 127  # of int8, on both sides of zero
TOKENS = 60_000  # places in pictures that a layer is fitted on
DAMPING = 0.01  # of the mean square of inputs


@torch.no_grad()
def rounded(later: Later, maps: Tensor) -> Later:
    """A copy whose 1 x 1 convolutions are on int8's grid, fitted on `maps` [n, S, S, channels]."""
    result = copy.deepcopy(later)
    exact = ours = maps.permute(0, 3, 1, 2).float()
    for block, own in zip(later.blocks, result.blocks, strict=True):
        assert isinstance(block, LaterBlock) and isinstance(own, LaterBlock)
        wide, own_wide = _round(block.expand, own.expand, exact, ours)
        narrow, own_narrow = _round(
            block.reduce, own.reduce, block.filtered(wide), own.filtered(own_wide)
        )
        exact = exact + narrow if block.residual else narrow
        ours = ours + own_narrow if block.residual else own_narrow
    _round(later.head, result.head, exact, ours)
    return result


def _round(
    layer: Pointwise, own: Pointwise, given: Tensor, own_given: Tensor
) -> tuple[Tensor, Tensor]:
    """Round `own`, and give what both layers make of what each is given [B, channels, S, S]."""
    given, own_given = given.float(), own_given.float()
    tokens = own_given.permute(0, 2, 3, 1).flatten(0, 2)
    some = torch.randperm(len(tokens))[:TOKENS]
    own.weight.copy_(round_columns(layer.weight, tokens[some]))
    exact, ours = layer(given), own(own_given)
    shift = (ours - exact).mean(dim=(0, 2, 3))
    own.bias.sub_(shift)
    return exact, ours - shift[:, None, None]


def round_columns(weight: Tensor, tokens: Tensor) -> Tensor:
    """`weight` [out_features, in_features], with a scale for each row, on int8's grid.

    Args:
        tokens: [n, in_features], what the layer is given.
    """
    weight = weight.clone()
    square = tokens.T @ tokens / len(tokens)
    square += DAMPING * square.diagonal().mean() * torch.eye(len(square))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(square))
    spread = torch.linalg.cholesky(inverse, upper=True)
    largest, column_of_largest = weight.abs().max(dim=1)
    scale = largest.clamp(min=torch.finfo(torch.float32).tiny) / LEVELS
    signs = weight.gather(1, column_of_largest[:, None])[:, 0].sign()
    for column in range(weight.shape[1]):
        level = (weight[:, column] / scale).round().clamp(-LEVELS, LEVELS)
        level = torch.where(column_of_largest == column, LEVELS * signs, level)  # keeps the scale
        error = (weight[:, column] - level * scale) / spread[column, column]
        weight[:, column:] -= error[:, None] * spread[column, column:]
        weight[:, column] = level * scale
    return weight
