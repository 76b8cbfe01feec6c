"""Round a vision transformer to 4 bits in groups, layer after layer, with the least change.

Each layer is fitted on the inputs that the rounded layers before it give, towards the activations
of the exact tower: a ridge regression corrects the weights for the errors so far, as far as it
helps on pictures held out; GPTQ (Frantar et al. 2023) rounds them and compensates the error of each
column by the columns that are not rounded yet; the mean of the remaining error is subtracted from
the bias.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.twotower_small.gptq import compensation
from twotower.model.layers import Block, merge_heads, split_heads
from twotower.model.vision import VisionTransformer
from twotower.model.weight_files import GROUP
from twotower.model.weights import INT4_LEVELS, GroupedWeight, dequantize, quantize

RIDGE = 0.05  # of the mean square of the inputs
CORRECTIONS = (0.0, 0.35, 0.7, 1.0)  # shares of the ridge regression's correction
SHRINKS = (0.76, 0.82, 0.88, 0.94, 1.0)  # of a group's scale, tried against its largest value
COLUMNS = 128  # rounded before the others are corrected at once
PICTURES = 16  # of a batch where all activations at once would take too much memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundedTower:
    """A tower and its rounded weights; those of `weights` by the name of their parameter."""

    tower: VisionTransformer
    weights: dict[str, GroupedWeight] = field(default_factory=dict)


@torch.no_grad()
def round_tower(exact: VisionTransformer, pixel_values: Tensor, held_out: Tensor) -> RoundedTower:
    """Round the linear layers of all blocks.

    Args:
        pixel_values: [n, 3, S, S], the pictures that the layers are fitted on.
        held_out: [n], True for pictures that only decide on the share of the correction.
    """
    result = RoundedTower(copy.deepcopy(exact).eval())
    rounded = result.tower
    rounded.load_state_dict(
        dequantize(quantize({"patch_embed.weight": exact.patch_embed.weight})), strict=False
    )
    x, y = (in_batches(tower.embed, pixel_values) for tower in (exact, rounded))
    for number in range(len(exact.blocks)):
        block, copied = exact.blocks[number], rounded.blocks[number]
        assert isinstance(block, Block) and isinstance(copied, Block)
        name = f"blocks.{number}"

        def fit(
            layer: nn.Linear, kind: str, inputs: Tensor, target: Tensor, name: str = name
        ) -> Tensor:
            weight, outputs = round_layer(layer, inputs, target, held_out)
            result.weights[f"{name}.{kind}.weight"] = weight
            return outputs

        exact_qkv = block.attn.qkv(block.ln_1(x))
        qkv = fit(copied.attn.qkv, "attn.qkv", copied.ln_1(y), exact_qkv)
        x += block.attn.out(attend(exact_qkv, block.attn.heads))
        y += fit(copied.attn.out, "attn.out", attend(qkv, block.attn.heads), x - y)
        exact_hidden, activate = block.mlp.fc1(block.ln_2(x)), block.mlp.activation
        hidden = fit(copied.mlp.fc1, "mlp.fc1", copied.ln_2(y), exact_hidden)
        x += block.mlp.fc2(in_batches(activate, exact_hidden))
        y += fit(copied.mlp.fc2, "mlp.fc2", in_batches(activate, hidden), x - y)
        error = float((x - y).square().mean() / x.square().mean())
        logger.info("block %d: relative error of its output %.5f", number, error)
    return result


def in_batches(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Apply a function to a few pictures at a time."""
    return torch.cat([function(batch) for batch in inputs.split(PICTURES)])


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Apply self-attention: [n, L, 3 * width] -> [n, L, width]."""

    def of_batch(batch: Tensor) -> Tensor:
        q, k, v = split_heads(batch, 3, heads)
        return merge_heads(F.scaled_dot_product_attention(q, k, v))

    return in_batches(of_batch, qkv)


def round_layer(
    layer: nn.Linear, inputs: Tensor, target: Tensor, held_out: Tensor
) -> tuple[GroupedWeight, Tensor]:
    """Round `layer` so that its outputs for `inputs` are close to `target`.

    Args:
        inputs: [n, L, in_features].
        target: [n, L, out_features].

    Returns:
        The rounded weight, which `layer` has now, too, and its outputs [n, L, out_features].
    """
    tokens = inputs.flatten(0, 1)
    hessian = tokens.T @ tokens / len(tokens)
    missing = target - layer(inputs)
    corrected = layer.weight + correction(inputs, missing, hessian, held_out)
    weight = round_columns(corrected, hessian)
    layer.weight.copy_(weight.values())
    layer.bias.add_((target - layer(inputs)).mean(dim=(0, 1)))
    return weight, layer(inputs)


def correction(inputs: Tensor, missing: Tensor, hessian: Tensor, held_out: Tensor) -> Tensor:
    """Return the change of a weight [out, in] that brings `missing` best on held-out pictures."""
    tokens, errors = inputs[~held_out].flatten(0, 1), missing[~held_out].flatten(0, 1)
    products = (errors - errors.mean(0)).T @ tokens / len(tokens)
    damped = hessian + RIDGE * hessian.diagonal().mean() * torch.eye(len(hessian))
    change = torch.cholesky_solve(products.T.contiguous(), torch.linalg.cholesky(damped)).T
    reached = F.linear(inputs[held_out], change)
    remaining = [
        float((missing[held_out] - share * reached).var(dim=(0, 1)).mean()) for share in CORRECTIONS
    ]
    best = min(range(len(CORRECTIONS)), key=remaining.__getitem__)
    return CORRECTIONS[best] * change


def round_columns(weight: Tensor, hessian: Tensor) -> GroupedWeight:
    """Round `weight` [out, in] to 4 bits in groups of a row, the largest inputs first.

    Args:
        hessian: [in, in], the mean square of the inputs.
    """
    low, high = INT4_LEVELS
    scale = group_scales(weight, hessian.diagonal())
    order = hessian.diagonal().argsort(descending=True)
    factor = compensation(hessian[order][:, order])
    columns = weight.T[order].contiguous()  # [in, out]
    scales = scale.float().T[order // GROUP]
    levels = torch.empty_like(columns)
    for start in range(0, len(columns), COLUMNS):
        end = min(start + COLUMNS, len(columns))
        errors = torch.empty(end - start, columns.shape[1])
        for column in range(start, end):
            value, step = columns[column], scales[column]
            levels[column] = (value / step).round().clamp(low, high)
            error = (value - levels[column] * step) / factor[column, column]
            columns[column:end].addr_(factor[column, column:end], error, alpha=-1)
            errors[column - start] = error
        columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return GroupedWeight(levels[order.argsort()].T.to(torch.int8).contiguous(), scale)


def group_scales(weight: Tensor, importance: Tensor) -> Tensor:
    """Choose the scale of each group, float16 [out, in / GROUP], by its weighted square error.

    A scale may be negative: then the largest value of its group is at the level -8.

    Args:
        importance: [in], the weight of an error in each column.
    """
    low, high = INT4_LEVELS
    groups = weight.unflatten(1, (-1, GROUP))
    importance = importance.view(-1, GROUP)
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    largest = torch.where(largest.abs() < 1e-6, 1e-6, largest)
    best_error = best = torch.full_like(largest, torch.inf)
    for level in (low, high):
        for shrink in SHRINKS:
            scale = (largest / level * shrink).half().float()
            levels = (groups / scale).round().clamp(low, high)
            error = ((levels * scale - groups).square() * importance).sum(2, keepdim=True)
            best = torch.where(error < best_error, scale, best)
            best_error = torch.minimum(error, best_error)
    return best.squeeze(2).half()
