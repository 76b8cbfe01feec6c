"""The later blocks of EfficientNet-Lite, trained on a CPU four times as fast as the whole tower.

What the first blocks make of a picture, a map, is computed once and kept, and they stay as they
are. Of the later blocks the 1 x 1 convolutions learn, which hold 94 % of their weights, as products
of matrices, in bfloat16 where the CPU has it; batch norms are part of them. Their depthwise filters
stay too: torch 2.13 needs more than half of a training step for the gradients of these.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.twotower_small.losses import PRECISION


class Early(nn.Module):
    """Pictures -> maps, kept in bfloat16. `folded` is a tower without batch norms."""

    def __init__(self, folded: Any, blocks: int) -> None:
        super().__init__()
        self.blocks = copy.deepcopy(nn.Sequential(folded.stem, *folded.blocks[:blocks]))
        self.to(PRECISION)

    @torch.inference_mode()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, image_size, image_size] -> [B, S, S, channels]: channels last in memory too"""
        pixel_values = pixel_values.to(PRECISION).contiguous(memory_format=torch.channels_last)
        maps: Tensor = self.blocks(pixel_values)
        return maps.permute(0, 2, 3, 1).bfloat16().contiguous()


class Later(nn.Module):
    """Maps -> what the projection is given."""

    def __init__(self, folded: Any, first: int) -> None:
        super().__init__()
        self.first, self.pooled_blocks = first, folded.pooled_blocks
        self.blocks = nn.ModuleList(LaterBlock(block) for block in folded.blocks[first:])
        self.head = Pointwise(folded.head.conv)

    def forward(self, maps: Tensor) -> Tensor:
        """[B, S, S, channels] -> [B, width]"""
        means = []
        with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION is torch.bfloat16):
            x = maps.permute(0, 3, 1, 2).to(PRECISION)
            for index, block in enumerate(self.blocks, self.first):
                x = block(x)
                if index in self.pooled_blocks:
                    means.append(x.mean(dim=(2, 3)))
            last = F.relu6(self.head(x)).mean(dim=(2, 3))
        return torch.cat([last, *means], dim=1).float()

    @torch.no_grad()
    def write_to(self, tower: Any) -> None:
        """What was learned, into a tower with batch norms, which then leave it as it is."""
        for block, written in zip(self.blocks, tower.blocks[self.first :], strict=True):
            assert isinstance(block, LaterBlock)
            block.expand.write_to(written.expand)
            block.reduce.write_to(written.reduce)
        self.head.write_to(tower.head)


class LaterBlock(nn.Module):
    """An inverted residual whose depthwise filters are fixed."""

    filters: Tensor
    bias: Tensor

    def __init__(self, block: Any) -> None:
        super().__init__()
        conv, pad = block.depthwise.conv, block.depthwise.pad
        self.residual, self.stride = block.residual, conv.stride[0]
        self.uneven = pad.padding if self.stride > 1 else (0,)  # others are part of the convolution
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
        """What `expand` made -> what `reduce` is given."""
        wide = F.relu6(expanded)
        if any(self.uneven):
            wide = F.pad(wide, self.uneven)
        filtered: Tensor = FixedDepthwise.apply(  # type: ignore[no-untyped-call]
            wide.to(self.filters.dtype), self.filters, self.bias, self.stride, self.padding
        )
        return F.relu6(filtered)


class Pointwise(nn.Module):
    """A 1 x 1 convolution as a product of matrices."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.weight = nn.Parameter(conv.weight.detach()[:, :, 0, 0].clone())
        self.bias = nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, S, S] -> [B, out_channels, S, S]"""
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)

    def write_to(self, part: Any) -> None:
        """Into a convolution and its batch norm."""
        part.conv.weight.copy_(self.weight[:, :, None, None])
        part.bn.weight.fill_(1)
        part.bn.bias.copy_(self.bias)
        part.bn.running_mean.zero_()
        part.bn.running_var.fill_(1 - part.bn.eps)


class FixedDepthwise(torch.autograd.Function):
    """A depthwise convolution, and the gradient of what it is given."""

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
        """A convolution with the filters turned around, over the gradient with zeros between."""
        [filters] = ctx.saved_tensors
        kernel, channels_last = filters.shape[-1], torch.channels_last
        if ctx.stride > 1:
            side = ctx.side + 2 * ctx.padding - kernel + 1
            spread = gradient.new_zeros(*gradient.shape[:2], side, side)
            spread = spread.contiguous(memory_format=channels_last)
            spread[:, :, :: ctx.stride, :: ctx.stride] = gradient
            gradient = spread
        given, turned = (
            one.contiguous(memory_format=channels_last) for one in (gradient, filters.flip(2, 3))
        )
        back = F.conv2d(given, turned, None, 1, kernel - 1 - ctx.padding, groups=len(turned))
        return back, None, None, None, None
