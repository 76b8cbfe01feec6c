"""Convolutions in front of a vision transformer: pixels to a grid of patches."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.layers import LayerNorm
from twotower.model.trunk_configs import TimmViTConfig

EPS = 1e-6  # of the norms of the inverted bottlenecks


def build_stem(config: TimmViTConfig) -> nn.Module:
    """Build the stem of a configuration: [B, 3, S, S] -> [B, width, grid, grid]."""
    if config.stem == "conv":
        return ConvStem(config.width)
    if config.stem == "inverted":
        assert config.stem_widths is not None
        return InvertedStem(config.stem_widths, config.width)
    size = config.patch_size
    return nn.Conv2d(3, config.width, size, stride=size, bias=not config.ln_pre)


class ConvStem(nn.Sequential):
    """Three convolutions with strides 4, 2 and 2, without overlap (MobileCLIP-B)."""

    def __init__(self, width: int) -> None:
        narrow = width // 4
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(3, narrow, 4, stride=4, bias=False),
                bn1=nn.BatchNorm2d(narrow),
                gelu1=nn.GELU(),
                conv2=nn.Conv2d(narrow, narrow, 2, stride=2, bias=False),
                bn2=nn.BatchNorm2d(narrow),
                gelu2=nn.GELU(),
                conv3=nn.Conv2d(narrow, width, 2, stride=2),
            )
        )


class InvertedStem(nn.Module):
    """Two stages of two and four inverted bottlenecks (ViTamin); its stride is 16."""

    def __init__(self, widths: tuple[int, int], width: int) -> None:
        super().__init__()
        narrow, wide = widths
        self.conv1 = nn.Conv2d(3, narrow, 3, stride=2, padding=1)
        self.ln1 = ChannelNorm(narrow, eps=EPS)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.stages = nn.Sequential(
            nn.Sequential(
                InvertedBottleneck(narrow, narrow, 2), InvertedBottleneck(narrow, narrow)
            ),
            nn.Sequential(
                InvertedBottleneck(narrow, wide, 2),
                *(InvertedBottleneck(wide, wide) for _ in range(3)),
            ),
        )
        self.ln_post = ChannelNorm(wide, eps=EPS)
        self.proj = nn.Conv2d(wide, width, 3, stride=2, padding=1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode [B, 3, S, S] -> [B, width, S / 16, S / 16]."""
        x = self.conv2(F.gelu(self.ln1(self.conv1(pixel_values))))
        return self.proj(self.ln_post(self.stages(x)))


class InvertedBottleneck(nn.Module):
    """Norm, expand fourfold, filter each channel, reduce; a stride averages the shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        wide = 4 * out_channels
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.ln = ChannelNorm(in_channels, eps=EPS)
        self.expand = nn.Conv2d(in_channels, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide)
        self.reduce = nn.Conv2d(wide, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, in_channels, S, S] -> [B, out_channels, S / stride, S / stride]."""
        shortcut = x
        if self.stride == 2:
            shortcut = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        x = self.reduce(F.gelu(self.depthwise(F.gelu(self.expand(self.ln(x))))))
        return x + self.shortcut(shortcut)


class ChannelNorm(LayerNorm):
    """Layer norm over the channels of a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, channels, height, width], each position by itself."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
