"""FastViT, the convolutional image towers of MobileCLIP.

Each convolution is stored as the branches that it was trained with. They are linear, so the tower
computes the sum of their filters and convolves once; engines compute that sum when they load a
graph. Batch norms use their stored statistics, in training too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.convnets import round_channels
from twotower.model.layers import merge_heads, split_heads
from twotower.model.stems import ChannelNorm
from twotower.model.trunk_configs import FastViTConfig

HEAD_WIDTH = 32


class FastViT(nn.Module):
    """Convolutional stages, then stages with attention (Vasu et al. 2023 and 2024)."""

    def __init__(self, config: FastViTConfig, embed_dim: int) -> None:
        super().__init__()
        widths, scale = config.widths, config.stem_scale
        narrow, wide = widths[0], widths[-1]
        self.stem = nn.Sequential(
            MobileOne(3, narrow, 3, stride=2, scale=scale),
            MobileOne(narrow, narrow, 3, stride=2, groups=narrow, scale=scale),
            MobileOne(narrow, narrow, 1),
        )
        self.stages = nn.Sequential(*(Stage(config, index) for index in range(len(widths))))
        self.final = MobileOne(wide, 2 * wide, 3, groups=wide, squeeze=2 * wide // 16)
        self.proj = nn.Linear(2 * wide, embed_dim)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode [B, 3, image_size, image_size] -> image_features [B, embed_dim]."""
        return self.proj(self.patches(pixel_values).mean(dim=1))

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Encode without pooling: [B, 3, image_size, image_size] -> [B, patches, 2 * last width].

        The patches are the positions of the last feature map, row by row.
        """
        x = self.final(self.stages(self.stem(pixel_values)))
        return x.flatten(2).transpose(1, 2)


class Stage(nn.Module):
    """Halve the sides and widen, unless it is the first stage; then blocks of one kind."""

    def __init__(self, config: FastViTConfig, index: int) -> None:
        super().__init__()
        widths, attends = config.widths, index >= len(config.widths) - config.attention_stages
        width, ratio = widths[index], config.mlp_ratio
        self.downsample: nn.Module = nn.Identity()
        if index:
            squeeze = round_channels(width / 4) if index in config.squeeze_stages else 0
            self.downsample = nn.Sequential(
                LargeKernel(widths[index - 1], width, squeeze), MobileOne(width, width, 1)
            )
        self.position = FilteredShortcut(width) if attends else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                AttentionBlock(width, ratio, config.layer_norm)
                if attends
                else MixerBlock(width, ratio)
                for _ in range(config.layers[index])
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, in_channels, S, S] -> [B, width, S / 2, S / 2], or S in the first stage."""
        return self.blocks(self.position(self.downsample(x)))


class MixerBlock(nn.Module):
    """Mix neighbours of each channel, then an MLP."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.mixer = Mixer(width)
        self.mlp = ConvMLP(width, ratio)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, width, S, S] -> [B, width, S, S]."""
        x = self.mixer(x)
        return x + self.scale * self.mlp(x)


class AttentionBlock(nn.Module):
    """Self-attention of all positions, then an MLP."""

    def __init__(self, width: int, ratio: int, layer_norm: bool) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.norm: nn.Module = ChannelNorm(width) if layer_norm else FrozenNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.scale_1 = nn.Parameter(torch.full((width, 1, 1), 1e-5))
        self.mlp = ConvMLP(width, ratio)
        self.scale_2 = nn.Parameter(torch.full((width, 1, 1), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, width, S, S] -> [B, width, S, S]."""
        positions = self.norm(x).flatten(2).transpose(1, 2)  # [B, L, width]
        q, k, v = split_heads(self.qkv(positions), 3, self.heads)
        mixed = self.out(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        x = x + self.scale_1 * mixed.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.scale_2 * self.mlp(x)


class ConvMLP(nn.Module):
    """Filter each channel by 7 x 7, then an MLP of each position."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.filter = Branch(width, width, 7, groups=width)
        self.fc1 = nn.Conv2d(width, ratio * width, 1)
        self.fc2 = nn.Conv2d(ratio * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, width, S, S] -> [B, width, S, S]."""
        weight, bias = self.filter.fused()
        x = F.conv2d(x, weight, bias, padding=3, groups=x.shape[1])
        return self.fc2(F.gelu(self.fc1(x)))


class MobileOne(nn.Module):
    """A convolution trained as up to three branches: of its size, 1 x 1, and identity.

    Args:
        scale: add a branch of 1 x 1, unless the kernel is of that size.
        squeeze: the channels of a squeeze-and-excitation before the activation; 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        scale: bool = True,
        squeeze: int = 0,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        self.main = Branch(in_channels, out_channels, kernel, groups)
        scaled = scale and kernel > 1
        self.point = Branch(in_channels, out_channels, 1, groups) if scaled else None
        has_identity = in_channels == out_channels and stride == 1
        self.identity = FrozenNorm(in_channels) if has_identity else None
        self.squeeze = SqueezeExcite(out_channels, squeeze) if squeeze else nn.Identity()

    def fused(self) -> tuple[Tensor, Tensor]:
        """Return filter and bias of the convolution that the branches add up to."""
        branches = [self.main.fused()]
        if self.point is not None:
            branches.append(self.point.fused(self.kernel))
        if self.identity is not None:
            branches.append(self.identity.fused(self.kernel, self.groups))
        weights, biases = zip(*branches, strict=True)
        return sum(weights[1:], weights[0]), sum(biases[1:], biases[0])

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, in_channels, S, S] -> [B, out_channels, S / stride, S / stride]."""
        weight, bias = self.fused()
        x = F.conv2d(x, weight, bias, self.stride, self.kernel // 2, groups=self.groups)
        return F.gelu(self.squeeze(x))


class LargeKernel(nn.Module):
    """A depthwise convolution of 7 x 7 with stride 2, trained beside one of 3 x 3."""

    def __init__(self, in_channels: int, out_channels: int, squeeze: int) -> None:
        super().__init__()
        self.groups = in_channels
        self.large = Branch(in_channels, out_channels, 7, in_channels)
        self.small = Branch(in_channels, out_channels, 3, in_channels)
        self.squeeze = SqueezeExcite(out_channels, squeeze) if squeeze else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, in_channels, S, S] -> [B, out_channels, S / 2, S / 2]."""
        weight, bias = self.large.fused()
        small_weight, small_bias = self.small.fused(7)
        x = F.conv2d(x, weight + small_weight, bias + small_bias, 2, 3, groups=self.groups)
        return F.gelu(self.squeeze(x))


class Mixer(nn.Module):
    """Mix each channel's 3 x 3 neighbours: x + scale * (branches(x) - norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = FrozenNorm(width)
        self.main = Branch(width, width, 3, width)
        self.point = Branch(width, width, 1, width)
        self.identity = FrozenNorm(width)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, width, S, S] -> [B, width, S, S]."""
        width = x.shape[1]
        main, main_bias = self.main.fused()
        point, point_bias = self.point.fused(3)
        identity, identity_bias = self.identity.fused(3, width)
        norm, norm_bias = self.norm.fused(3, width)
        weight = self.scale[..., None] * (main + point + identity - norm)
        bias = self.scale[:, 0, 0] * (main_bias + point_bias + identity_bias - norm_bias)
        return x + F.conv2d(x, weight, bias, padding=1, groups=width)


class FilteredShortcut(nn.Module):
    """Positions, by a depthwise convolution that is added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, width, S, S] -> [B, width, S, S]."""
        return x + self.conv(x)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that depends on the means of all (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, channels, S, S] -> [B, channels, S, S]."""
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * self.fc2(F.relu(self.fc1(means))).sigmoid()


class FrozenNorm(nn.BatchNorm2d):
    """A batch norm with stored statistics, which is a convolution of 1 x 1."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return what it multiplies each channel by, and what it adds then."""
        assert self.running_var is not None and self.running_mean is not None
        factor = self.weight / (self.running_var + self.eps).sqrt()
        return factor, self.bias - self.running_mean * factor

    def fused(self, kernel: int, groups: int) -> tuple[Tensor, Tensor]:
        """Return filter [channels, channels / groups, kernel, kernel] and bias."""
        factor, bias = self.factors()
        width = self.num_features // groups
        channel = torch.arange(self.num_features, device=factor.device)
        diagonal = channel[:, None] % width == torch.arange(width, device=factor.device)
        weight = (diagonal * factor[:, None])[..., None, None]
        return pad_filter(weight, kernel), bias

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, channels, S, S]."""
        factor, bias = self.factors()
        return x * factor[:, None, None] + bias[:, None, None]


class Branch(nn.Module):
    """A convolution and its batch norm, as weights of a branch."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, groups=groups, bias=False)
        self.bn = FrozenNorm(out_channels)

    def fused(self, kernel: int | None = None) -> tuple[Tensor, Tensor]:
        """Return filter and bias of the two, padded to a filter of side `kernel`."""
        factor, bias = self.bn.factors()
        weight = self.conv.weight * factor[:, None, None, None]
        return pad_filter(weight, kernel or weight.shape[-1]), bias


def pad_filter(weight: Tensor, kernel: int) -> Tensor:
    """Pad a filter [out, in, k, k] by zeros to [out, in, kernel, kernel]."""
    margin = (kernel - weight.shape[-1]) // 2
    return F.pad(weight, (margin,) * 4) if margin else weight
