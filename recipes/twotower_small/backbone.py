"""The later blocks of EfficientNet-Lite, trained on a CPU four times as fast as the whole tower.

The early blocks are frozen, and their output, a map of each picture, is computed once. In the
later blocks only the 1 x 1 convolutions are trained, which hold 94 % of the weights: as matrix
products in bfloat16, where the CPU has it, with the batch norms folded in. The depthwise filters
are frozen: torch 2.13 spends more than half of a training step on their gradients.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.twotower_small.losses import PRECISION


class EarlyBlocks(nn.Module):
    """From pixel_values to bfloat16 maps, by the first `blocks` of a tower without batch norms."""

    def __init__(self, tower: Any, blocks: int) -> None:
        super().__init__()
        self.blocks = copy.deepcopy(nn.Sequential(tower.stem, *tower.blocks[:blocks]))
        self.to(PRECISION)

    @torch.inference_mode()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, image_size, image_size] -> [B, S, S, channels], contiguous"""
        pixel_values = pixel_values.to(PRECISION).contiguous(memory_format=torch.channels_last)
        maps: Tensor = self.blocks(pixel_values)
        return maps.permute(0, 2, 3, 1).bfloat16().contiguous()


class LaterBlocks(nn.Module):
    """From maps to pooled features, by the blocks from `start` on."""

    def __init__(self, tower: Any, start: int) -> None:
        super().__init__()
        self.start, self.pooled_blocks = start, tower.pooled_blocks
        self.blocks = nn.ModuleList(LaterBlock(block) for block in tower.blocks[start:])
        self.head = Pointwise(tower.head.conv)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, S, S, channels] -> [B, width]"""
        means = []
        with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION is torch.bfloat16):
            x = maps.permute(0, 3, 1, 2).to(PRECISION)
            for index, block in enumerate(self.blocks, self.start):
                x = block(x)
                if index in self.pooled_blocks:
                    means.append(x.mean(dim=(2, 3)))
            head_features = F.relu6(self.head(x)).mean(dim=(2, 3))
        return torch.cat([head_features, *means], dim=1).float()

    @torch.no_grad()
    def write_to(self, tower: Any) -> None:
        """Copy the weights into a tower, whose batch norms become the identity."""
        for block, target in zip(self.blocks, tower.blocks[self.start :], strict=True):
            assert isinstance(block, LaterBlock)
            block.expand.write_to(target.expand)
            block.reduce.write_to(target.reduce)
        self.head.write_to(tower.head)


class LaterBlock(nn.Module):
    """An inverted residual with frozen depthwise filters."""

    filters: Tensor
    bias: Tensor

    def __init__(self, block: Any) -> None:
        super().__init__()
        conv, pad = block.depthwise.conv, block.depthwise.pad
        self.residual, self.stride = block.residual, conv.stride[0]
        self.uneven = pad.padding if self.stride > 1 else (0,)  # otherwise the convolution pads
        self.padding = 0 if self.stride > 1 else pad.padding[0]
        self.expand, self.reduce = Pointwise(block.expand.conv), Pointwise(block.reduce.conv)
        filters = conv.weight.detach().to(PRECISION)
        self.register_buffer("filters", filters.to(memory_format=torch.channels_last))
        self.register_buffer("bias", conv.bias.detach().to(PRECISION, copy=True))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, S, S] -> [B, out_channels, S / stride, S / stride]"""
        out: Tensor = self.reduce(self.filtered(self.expand(x)))
        return x + out if self.residual else out

    def filtered(self, expanded: Tensor) -> Tensor:
        """Apply the depthwise convolution: the output of `expand` -> the input of `reduce`."""
        expanded = F.relu6(expanded)
        if any(self.uneven):
            expanded = F.pad(expanded, self.uneven)
        filtered: Tensor = FixedDepthwise.apply(  # type: ignore[no-untyped-call]
            expanded.to(self.filters.dtype), self.filters, self.bias, self.stride, self.padding
        )
        return F.relu6(filtered)


class Pointwise(nn.Module):
    """A 1 x 1 convolution as a matrix product."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.weight = nn.Parameter(conv.weight.detach()[:, :, 0, 0].clone())
        self.bias = nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, S, S] -> [B, out_channels, S, S]"""
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)

    def write_to(self, conv_and_norm: Any) -> None:
        """Copy the weights into a convolution, and make its batch norm the identity."""
        conv_and_norm.conv.weight.copy_(self.weight[:, :, None, None])
        conv_and_norm.bn.weight.fill_(1)
        conv_and_norm.bn.bias.copy_(self.bias)
        conv_and_norm.bn.running_mean.zero_()
        conv_and_norm.bn.running_var.fill_(1 - conv_and_norm.bn.eps)


class FixedDepthwise(torch.autograd.Function):
    """A depthwise convolution with a gradient for its input alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, filters: Tensor, bias: Tensor, stride: int, padding: int
    ) -> Tensor:
        """[B, channels, S, S] and filters [channels, 1, kernel, kernel]"""
        ctx.save_for_backward(filters)
        ctx.stride, ctx.padding, ctx.side = stride, padding, x.shape[-1]
        return F.conv2d(x, filters, bias, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Convolve the gradient, dilated by the stride, with the flipped filters."""
        [filters] = ctx.saved_tensors
        kernel, channels_last = filters.shape[-1], torch.channels_last
        if ctx.stride > 1:
            side = ctx.side + 2 * ctx.padding - kernel + 1
            dilated = gradient.new_zeros(*gradient.shape[:2], side, side)
            dilated = dilated.contiguous(memory_format=channels_last)
            dilated[:, :, :: ctx.stride, :: ctx.stride] = gradient
            gradient = dilated
        gradient_map, flipped = (
            tensor.contiguous(memory_format=channels_last)
            for tensor in (gradient, filters.flip(2, 3))
        )
        back = F.conv2d(
            gradient_map, flipped, None, 1, kernel - 1 - ctx.padding, groups=len(flipped)
        )
        return back, None, None, None, None
