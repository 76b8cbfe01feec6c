"""ConvNeXt (Liu et al. 2022) as image tower, with the projections of open_clip."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from twotower.model.config import ConvNeXtConfig
from twotower.model.layers import MLP, LayerNorm


class ConvNeXt(nn.Module):
    """Four stages of depthwise convolutions, the average of the last map, a norm, a projection."""

    def __init__(self, config: ConvNeXtConfig, embed_dim: int) -> None:
        super().__init__()
        widths, eps = config.widths, config.eps
        self.stem = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(3, widths[0], 4, stride=4), norm=ChannelNorm(widths[0], eps))
        )
        stages: list[nn.Module] = []
        in_channels = widths[0]
        for depth, width in zip(config.depths, widths, strict=True):
            stages.append(Stage(in_channels, width, depth, eps, downsample=len(stages) > 0))
            in_channels = width
        self.stages = nn.Sequential(*stages)
        self.ln_post = LayerNorm(in_channels, eps=eps)
        if config.hidden_width:
            self.proj: nn.Module = ProjectionMLP(in_channels, config.hidden_width, embed_dim)
        else:
            self.proj = nn.Linear(in_channels, embed_dim, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode [B, 3, image_size, image_size] -> image_features [B, embed_dim]."""
        x = self.stages(self.stem(pixel_values))  # [B, widths[3], image_size / 32, image_size / 32]
        return self.proj(self.ln_post(x.mean(dim=(2, 3))))

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Encode without pooling: [B, 3, image_size, image_size] -> [B, patches, widths[3]].

        The patches are the positions of the last feature map, row by row.
        """
        x = self.stages(self.stem(pixel_values))
        return self.ln_post(x.flatten(2).transpose(1, 2))


class Stage(nn.Module):
    """A norm and a convolution that halves the map, then blocks of one width."""

    def __init__(
        self, in_channels: int, width: int, depth: int, eps: float, *, downsample: bool
    ) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if downsample:
            conv = nn.Conv2d(in_channels, width, 2, stride=2)
            self.downsample = nn.Sequential(
                OrderedDict(norm=ChannelNorm(in_channels, eps), conv=conv)
            )
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, eps) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, in_channels, S, S] -> [B, width, S / 2, S / 2], or S in the first stage."""
        return self.blocks(self.downsample(x))


class ConvNeXtBlock(nn.Module):
    """A 7 x 7 depthwise convolution, a norm and an MLP, scaled and added to the input."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = LayerNorm(width, eps=eps)
        self.mlp = MLP(width, 4 * width, "gelu")
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Transform [B, width, S, S] -> [B, width, S, S]."""
        branch = self.mlp(self.norm(self.conv(x).permute(0, 2, 3, 1)))  # [B, S, S, width]
        return x + (branch * self.scale.to(x.dtype)).permute(0, 3, 1, 2)


class ChannelNorm(LayerNorm):
    """Layer norm over the channels of a feature map."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, channels, H, W] at each position."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ProjectionMLP(nn.Module):
    """A projection through a hidden layer with GELU; the second layer has no bias."""

    def __init__(self, width: int, hidden_width: int, embed_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Project [B, width] -> [B, embed_dim]."""
        return self.fc2(nn.functional.gelu(self.fc1(x)))
