"""Convolutional image towers: CLIP's ModifiedResNet, and EfficientNet-Lite."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.config import EfficientNetLiteConfig, ResNetConfig
from twotower.model.layers import merge_heads, split_heads


class ModifiedResNet(nn.Module):
    """The ResNet of Radford et al. 2021, section 2.4.

    It differs from that of He et al. in a stem of three convolutions, average pools in place of
    strides (anti-aliasing), and attention pooling in place of the global average.
    """

    def __init__(self, config: ResNetConfig, embed_dim: int) -> None:
        super().__init__()
        width = config.width
        self.stem = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False),
                bn1=nn.BatchNorm2d(width // 2),
                relu1=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False),
                bn2=nn.BatchNorm2d(width // 2),
                relu2=nn.ReLU(inplace=True),
                conv3=nn.Conv2d(width // 2, width, 3, padding=1, bias=False),
                bn3=nn.BatchNorm2d(width),
                relu3=nn.ReLU(inplace=True),
                pool=nn.AvgPool2d(2),
            )
        )
        stages, in_channels = OrderedDict[str, nn.Module](), width
        for index, depth in enumerate(config.layers):
            channels, blocks = width * 2**index, []
            for block in range(depth):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(Bottleneck(in_channels, channels, stride))
                in_channels = channels * Bottleneck.expansion
            stages[f"layer{index + 1}"] = nn.Sequential(*blocks)
        self.stages = nn.Sequential(stages)
        heads = width * 32 // 64
        self.attnpool = GridAttentionPool(config.image_size // 32, width * 32, heads, embed_dim)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode [B, 3, image_size, image_size] -> image_features [B, embed_dim]."""
        x = self.stem(pixel_values)  # [B, width, image_size / 4, image_size / 4]
        x = self.stages(x)  # [B, 32 * width, image_size / 32, image_size / 32]
        return self.attnpool(x)

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Encode without pooling: [B, 3, image_size, image_size] -> [B, patches, 32 * width].

        The patches are the positions of the last feature map, row by row.
        """
        return self.stages(self.stem(pixel_values)).flatten(2).transpose(1, 2)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions of stride 1; a stride becomes an average pool after the 3x3."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                OrderedDict(
                    pool=nn.AvgPool2d(stride),
                    conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
                    bn=nn.BatchNorm2d(out_channels),
                )
            )
        nn.init.zeros_(self.bn3.weight)  # each block starts as its shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, in_channels, S, S] -> [B, 4 * channels, S / stride, S / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.pool(out)))
        return F.relu(out + self.downsample(x))


class GridAttentionPool(nn.Module):
    """Attention over the positions of a feature map, with their mean as the query."""

    def __init__(self, grid: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.pos_embed = nn.Parameter(torch.randn(grid**2 + 1, width) * width**-0.5)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, embed_dim)
        for linear in (self.q, self.k, self.v, self.out):
            nn.init.normal_(linear.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Pool and project [B, width, grid, grid] -> [B, embed_dim]."""
        x = x.flatten(2).transpose(1, 2)  # [B, grid * grid, width]
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + self.pos_embed.to(x.dtype)
        (q,) = split_heads(self.q(x[:, :1]), 1, self.heads)
        (k,), (v,) = split_heads(self.k(x), 1, self.heads), split_heads(self.v(x), 1, self.heads)
        pooled = merge_heads(F.scaled_dot_product_attention(q, k, v))  # [B, 1, width]
        return self.out(pooled)[:, 0]


# EfficientNet-B0's stages (Tan and Le 2019, table 1): kernel, depth, channels, expansion, stride.
EFFICIENTNET_STAGES = (
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)


class EfficientNetLite(nn.Module):
    """EfficientNet without squeeze-excitation and with ReLU6, which makes it easy to quantise."""

    def __init__(self, config: EfficientNetLiteConfig, embed_dim: int) -> None:
        super().__init__()
        self.stem = conv_bn(3, 32, 3, stride=2)
        blocks, in_channels, last_stage = [], 32, len(EFFICIENTNET_STAGES) - 1
        ends, widths = [], []  # the last block of each stage, and its channels
        for index, (kernel, depth, channels, expansion, stride) in enumerate(EFFICIENTNET_STAGES):
            channels = round_channels(channels * config.width_multiplier)
            if index not in (0, last_stage):
                depth = math.ceil(depth * config.depth_multiplier)
            for block in range(depth):
                step = stride if block == 0 else 1
                blocks.append(InvertedResidual(in_channels, channels, kernel, expansion, step))
                in_channels = channels
            ends.append(len(blocks) - 1)
            widths.append(channels)
        self.blocks = nn.Sequential(*blocks)
        self.head = conv_bn(in_channels, 1280, 1)
        first_pooled = len(ends) - config.pooled_stages
        self.pooled_blocks = frozenset(ends[first_pooled:])
        width = 1280 + sum(widths[first_pooled:])
        hidden = config.hidden_width
        self.norm = nn.BatchNorm1d(width, affine=False) if hidden else nn.Identity()
        self.hidden = nn.Linear(width, hidden) if hidden else None
        self.proj = nn.Linear(width + hidden, embed_dim, bias=hidden > 0)
        nn.init.normal_(self.proj.weight, std=(width + hidden) ** -0.5)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode [B, 3, image_size, image_size] -> image_features [B, embed_dim]."""
        features: Tensor = self.proj(self.widen(self.norm(self.pool(pixel_values))))
        return features

    def widen(self, pooled: Tensor) -> Tensor:
        """Append the hidden layer to its input: [B, width] -> [B, width + hidden_width]."""
        if self.hidden is None:
            return pooled
        return torch.cat([pooled, F.gelu(self.hidden(pooled))], dim=1)

    def pool(self, pixel_values: Tensor) -> Tensor:
        """Average head and pooled stages: [B, 3, image_size, image_size] -> [B, 1280 + ...]."""
        return torch.cat(self._feature_maps(pixel_values, lambda x: x.mean(dim=(2, 3))), dim=1)

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Encode without pooling: [B, 3, image_size, image_size] -> [B, patches, 1280 + ...].

        The patches are the positions of the last feature map, row by row; finer maps are averaged
        down to its size.
        """
        head, *stages = self._feature_maps(pixel_values, lambda x: x)
        size = head.shape[2], head.shape[3]
        coarse = [F.adaptive_avg_pool2d(stage, size) for stage in stages]
        return torch.cat([head, *coarse], dim=1).flatten(2).transpose(1, 2)

    def _feature_maps(
        self, pixel_values: Tensor, reduce: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Return the output of the head, then those of the pooled stages, each reduced."""
        x, stages = self.stem(pixel_values), []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.pooled_blocks:
                stages.append(reduce(x))
        return [reduce(self.head(x)), *stages]


class InvertedResidual(nn.Module):
    """Expand, filter each channel, reduce (Sandler et al. 2018, MobileNetV2).

    With a residual connection if input and output have the same shape.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, expansion: int, stride: int
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = conv_bn(in_channels, width, 1) if expansion > 1 else nn.Identity()
        self.depthwise = conv_bn(width, width, kernel, stride=stride, groups=width)
        self.reduce = conv_bn(width, out_channels, 1, activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, in_channels, S, S] -> [B, out_channels, S / stride, S / stride]."""
        out = self.reduce(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


def conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    """Build a convolution, batch norm and ReLU6, with the padding of TensorFlow.

    The released weights expect it: with stride 2 and an even side, it is one pixel less before
    than after.
    """
    before, after = ((kernel - 2) // 2, (kernel - 1) // 2) if stride == 2 else (kernel // 2,) * 2
    layers: dict[str, nn.Module] = {
        "pad": nn.ZeroPad2d((before, after, before, after)),
        "conv": nn.Conv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False),
        "bn": nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
    }
    if activation:
        layers["relu"] = nn.ReLU6(inplace=True)
    return nn.Sequential(OrderedDict(layers))


def round_channels(channels: float, divisor: int = 8) -> int:
    """Return the nearest multiple of `divisor` that is at most 10 % below `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
