"""timm's vision transformers: EVA, Perception Encoders, MobileCLIP-B and -L, ViTamin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.layers import (
    MLP,
    AttentionPool,
    LayerNorm,
    at_least_float32,
    merge_heads,
    run_blocks,
    split_heads,
)
from twotower.model.stems import build_stem
from twotower.model.trunk_configs import TimmViTConfig

ROTARY_BASE = 10_000.0


class TimmViT(nn.Module):
    """A vision transformer with the variations of `TimmViTConfig`, such as rotary positions.

    Attributes:
        checkpointing: recompute activations in the backward pass, to save memory. It can be set
            at any time.
    """

    def __init__(self, config: TimmViTConfig, embed_dim: int) -> None:
        super().__init__()
        width, eps = config.width, config.eps
        self.config = config
        self.checkpointing = False
        self.grid = config.image_size // config.patch_size
        self.patch_embed = build_stem(config)
        self.class_embed = nn.Parameter(torch.randn(width) * 0.02) if config.class_token else None
        positions = self.grid**2 + (config.class_token and config.positions == "all")
        self.pos_embed = None
        if config.positions != "none":
            self.pos_embed = nn.Parameter(torch.randn(positions, width) * 0.02)
        self.ln_pre = LayerNorm(width, eps=eps) if config.ln_pre else nn.Identity()
        self.blocks = nn.ModuleList(TimmBlock(config) for _ in range(config.layers))
        self.ln_post = LayerNorm(width, eps=eps)
        self.pool = None
        if config.pool == "map":
            self.pool = AttentionPool(width, config.pool_heads, 4 * width, "gelu", eps)
        self.proj = nn.Linear(width, embed_dim, bias=config.proj_bias)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode [B, 3, image_size, image_size] -> image_features [B, embed_dim]."""
        x = self.tokens(pixel_values)
        if self.config.pool == "mean":
            return self.proj(self.ln_post(x.mean(dim=1)))
        x = self.ln_post(x)
        return self.proj(x[:, 0] if self.pool is None else self.pool(x))

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Encode without pooling: [B, 3, image_size, image_size] -> [B, patches, width]."""
        return self.ln_post(self.tokens(pixel_values)[:, int(self.class_embed is not None) :])

    def tokens(self, pixel_values: Tensor) -> Tensor:
        """Apply all blocks: [B, 3, image_size, image_size] -> [B, (class +) patches, width]."""
        x = self.patch_embed(pixel_values).flatten(2).transpose(1, 2)  # [B, patches, width]
        if self.config.positions == "patches":
            x = x + self.pos_embed
        if self.class_embed is not None:
            x = torch.cat([self.class_embed.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        if self.config.positions == "all":
            x = x + self.pos_embed
        return run_blocks(self.blocks, self.ln_pre(x), self.rotation(x), self.checkpointing)

    def rotation(self, x: Tensor) -> Tensor | None:
        """Return sine and cosine [2, (class +) patches, head_width / 2]; the class token has
        angle 0.
        """
        config = self.config
        if config.rotary_grid is None:
            return None
        dtype, frequencies = at_least_float32(x).dtype, config.width // config.heads // 4
        exponents = torch.arange(frequencies, device=x.device, dtype=dtype) / frequencies
        positions = torch.arange(self.grid, device=x.device, dtype=dtype) + config.rotary_offset
        positions = positions / self.grid * config.rotary_grid
        angles = positions[:, None] * ROTARY_BASE**-exponents  # [grid, frequencies]
        rows = angles[:, None].expand(-1, self.grid, -1)
        columns = angles[None].expand(self.grid, -1, -1)
        axes = (rows, columns) if config.rotary_order == "rows" else (columns, rows)
        flat = torch.cat(axes, dim=-1).flatten(0, 1)  # [patches, head_width / 2]
        flat = F.pad(flat, (0, 0, int(self.class_embed is not None), 0))
        return torch.stack([flat.sin(), flat.cos()])


class TimmBlock(nn.Module):
    """A residual block, in one of the four forms of `TimmViTConfig.block`."""

    def __init__(self, config: TimmViTConfig) -> None:
        super().__init__()
        width = config.width
        self.post_norm = config.block == "post_norm"
        self.ln_1 = LayerNorm(width, eps=config.eps)
        self.attn = RotaryAttention(config)
        self.ln_2 = LayerNorm(width, eps=config.eps)
        if config.block == "gated":
            self.mlp: nn.Module = SwiGLU(width, config.mlp_width, config.eps)
        elif config.block == "geglu":
            self.mlp = GeGLU(width, config.mlp_width, config.eps)
        else:
            self.mlp = MLP(width, config.mlp_width, "gelu")

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """Transform [B, L, width] -> [B, L, width]; `rotation` as of `TimmViT.rotation`."""
        if self.post_norm:
            x = x + self.ln_1(self.attn(x, rotation))
            return x + self.ln_2(self.mlp(x))
        x = x + self.attn(self.ln_1(x), rotation)
        return x + self.mlp(self.ln_2(x))


class RotaryAttention(nn.Module):
    """Multi-head self-attention whose queries and keys are rotated by their position."""

    def __init__(self, config: TimmViTConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.key_bias)
        self.q_bias = self.v_bias = None
        if not config.key_bias:
            self.q_bias = nn.Parameter(torch.zeros(width))
            self.v_bias = nn.Parameter(torch.zeros(width))
        gated = config.block == "gated"
        self.ln = LayerNorm(width, eps=config.eps) if gated else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """Attend within sequences: [B, L, width] -> [B, L, width]."""
        bias: Tensor = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = split_heads(F.linear(x, self.qkv.weight, bias), 3, self.heads)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        x = merge_heads(F.scaled_dot_product_attention(q, k, v))
        return self.out(self.ln(x))


class SwiGLU(nn.Module):
    """An MLP with a SiLU gate and a norm before the last layer."""

    def __init__(self, width: int, mlp_width: int, eps: float) -> None:
        super().__init__()
        self.gate = nn.Linear(width, mlp_width)
        self.fc1 = nn.Linear(width, mlp_width)
        self.ln = LayerNorm(mlp_width, eps=eps)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each vector: [..., width] -> [..., width]."""
        return self.fc2(self.ln(F.silu(self.gate(x)) * self.fc1(x)))


class GeGLU(nn.Module):
    """An MLP with a GELU gate and a norm before the first layer."""

    def __init__(self, width: int, mlp_width: int, eps: float) -> None:
        super().__init__()
        self.ln = LayerNorm(width, eps=eps)
        self.gate = nn.Linear(width, mlp_width)
        self.fc1 = nn.Linear(width, mlp_width)
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each vector: [..., width] -> [..., width]."""
        x = self.ln(x)
        return self.fc2(F.gelu(self.gate(x)) * self.fc1(x))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate pairs of neighbours of [B, heads, L, head_width] by [2, L, head_width / 2]."""
    sine, cosine = rotation.to(at_least_float32(x).dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    pairs = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
    return pairs.flatten(-2).to(x.dtype)
