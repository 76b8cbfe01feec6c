"""Round the weights of the later blocks to int8 with the least change of their output.

Rounded one by one, as `model.weights.quantize` does, the errors of a row add up. Here the rounding
error of each column is compensated by the columns that are not rounded yet, as far as the pictures
at hand allow (GPTQ; Frantar et al. 2023), and the mean of the remaining error is subtracted from
the bias. The weights then lie on the grid of `quantize`, which leaves them unchanged.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from recipes.twotower_small.backbone import LaterBlock, LaterBlocks, Pointwise

LEVELS = 127  # of int8, on both sides of zero
TOKENS = 60_000  # positions in pictures that a layer is fitted on
DAMPING = 0.01  # of the mean square of the inputs


@torch.no_grad()
def quantize_blocks(blocks: LaterBlocks, maps: Tensor) -> LaterBlocks:
    """Return a copy with weights on the int8 grid, fitted on `maps` [n, S, S, channels]."""
    result = copy.deepcopy(blocks)
    exact = quantized = maps.permute(0, 3, 1, 2).float()
    for block, copied in zip(blocks.blocks, result.blocks, strict=True):
        assert isinstance(block, LaterBlock) and isinstance(copied, LaterBlock)
        expanded, quantized_expanded = _quantize(block.expand, copied.expand, exact, quantized)
        reduced, quantized_reduced = _quantize(
            block.reduce,
            copied.reduce,
            block.filtered(expanded),
            copied.filtered(quantized_expanded),
        )
        exact = exact + reduced if block.residual else reduced
        quantized = quantized + quantized_reduced if block.residual else quantized_reduced
    _quantize(blocks.head, result.head, exact, quantized)
    return result


def _quantize(
    layer: Pointwise, copied: Pointwise, inputs: Tensor, quantized_inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Round `copied`; return the outputs of both layers for their inputs [B, channels, S, S]."""
    inputs, quantized_inputs = inputs.float(), quantized_inputs.float()
    tokens = quantized_inputs.permute(0, 2, 3, 1).flatten(0, 2)
    sample = torch.randperm(len(tokens))[:TOKENS]
    copied.weight.copy_(round_columns(layer.weight, tokens[sample]))
    exact, quantized = layer(inputs), copied(quantized_inputs)
    shift = (quantized - exact).mean(dim=(0, 2, 3))
    copied.bias.sub_(shift)
    return exact, quantized - shift[:, None, None]


def round_columns(weight: Tensor, tokens: Tensor) -> Tensor:
    """Round `weight` [out_features, in_features] to int8 with a scale for each row.

    Args:
        tokens: [n, in_features], inputs of the layer.
    """
    weight = weight.clone()
    factor = compensation(tokens.T @ tokens / len(tokens))
    largest, column_of_largest = weight.abs().max(dim=1)
    scale = largest.clamp(min=torch.finfo(torch.float32).tiny) / LEVELS
    signs = weight.gather(1, column_of_largest[:, None])[:, 0].sign()
    for column in range(weight.shape[1]):
        level = (weight[:, column] / scale).round().clamp(-LEVELS, LEVELS)
        level = torch.where(column_of_largest == column, LEVELS * signs, level)  # keeps the scale
        error = (weight[:, column] - level * scale) / factor[column, column]
        weight[:, column:] -= error[:, None] * factor[column, column:]
        weight[:, column] = level * scale
    return weight


def compensation(hessian: Tensor) -> Tensor:
    """Return the upper triangular factor by which an error of a column is moved to later ones.

    Args:
        hessian: [in_features, in_features], the mean square of the inputs.
    """
    damped = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)
