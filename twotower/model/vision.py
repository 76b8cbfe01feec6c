"""Image towers: pixel_values [B, 3, image_size, image_size] -> image_features [B, embed_dim].

This file has the vision transformer; convolutional towers are in `convnets.py` and `convnext.py`,
timm's in `timm_vit.py` and `fastvit.py`, that for any shape of picture in `naflex.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.config import (
    ConvNeXtConfig,
    GraphVisionConfig,
    ResNetConfig,
    VisionConfig,
    ViTConfig,
    graph_only,
)
from twotower.model.convnets import EfficientNetLite, ModifiedResNet
from twotower.model.convnext import ConvNeXt
from twotower.model.fastvit import FastViT
from twotower.model.layers import (
    AttentionPool,
    Block,
    LayerNorm,
    QueryPool,
    merge_heads,
    run_blocks,
    split_heads,
)
from twotower.model.naflex import NaFlex
from twotower.model.timm_vit import TimmViT
from twotower.model.trunk_configs import FastViTConfig, NaFlexConfig, TimmViTConfig


def build_vision(config: VisionConfig, embed_dim: int) -> VisionTower:
    """Build the tower of a configuration, with initial weights."""
    if isinstance(config, ViTConfig):
        return VisionTransformer(config, embed_dim)
    if isinstance(config, ResNetConfig):
        return ModifiedResNet(config, embed_dim)
    if isinstance(config, TimmViTConfig):
        return TimmViT(config, embed_dim)
    if isinstance(config, NaFlexConfig):
        return NaFlex(config, embed_dim)
    if isinstance(config, FastViTConfig):
        return FastViT(config, embed_dim)
    if isinstance(config, ConvNeXtConfig):
        return ConvNeXt(config, embed_dim)
    if isinstance(config, GraphVisionConfig):
        raise graph_only("image tower")
    return EfficientNetLite(config, embed_dim)


class VisionTransformer(nn.Module):
    """The vision transformer (Dosovitskiy et al. 2021), with CLIP's class token or SigLIP's
    attention pooling.

    Attributes:
        patch_dropout: the share of patches that training leaves out (Li et al. 2023, FLIP). It can
            be set at any time.
        checkpointing: recompute activations in the backward pass, to save memory. It can be set
            at any time.
    """

    def __init__(self, config: ViTConfig, embed_dim: int) -> None:
        super().__init__()
        width, class_token = config.width, config.pool != "map"
        patches = (config.image_size // config.patch_size) ** 2
        self.patch_dropout = 0.0
        self.checkpointing = False
        self.patch_embed = nn.Conv2d(
            3,
            width,
            config.patch_size,
            stride=config.patch_size,
            bias=config.patch_bias or not class_token,
        )
        self.class_embed = nn.Parameter(torch.randn(width) * width**-0.5) if class_token else None
        self.pos_embed = nn.Parameter(torch.randn(patches + class_token, width) * width**-0.5)
        normalized = class_token and not config.no_ln_pre
        self.ln_pre = LayerNorm(width, eps=config.eps) if normalized else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_width, config.activation, config.eps)
            for _ in range(config.layers)
        )
        self.average = config.pool == "average"
        self.pool: AttentionPool | QueryPool | None = None
        self.proj: nn.Module = nn.Identity()  # embed_dim == width
        if config.pool == "map":
            self.ln_post = LayerNorm(width, eps=config.eps)
            self.pool = AttentionPool(
                width, config.heads, config.mlp_width, config.activation, config.eps
            )
            return
        if config.pool == "query":
            self.pool = QueryPool(width, embed_dim, config.pool_heads)
            width = embed_dim
        self.ln_post = LayerNorm(width, eps=config.eps)
        self.proj = nn.Linear(width, embed_dim, bias=False)
        nn.init.normal_(self.proj.weight, std=width**-0.5)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode [B, 3, image_size, image_size] -> image_features [B, embed_dim]."""
        x = self.tokens(pixel_values)
        if isinstance(self.pool, AttentionPool):
            return self.proj(self.pool(self.ln_post(x)))
        if self.pool is not None:
            return self.proj(self.ln_post(self.pool(x)))
        pooled = x[:, 1:].mean(dim=1) if self.average else x[:, 0]
        return self.proj(self.ln_post(pooled))

    def patches(self, pixel_values: Tensor) -> Tensor:
        """Encode without pooling: [B, 3, image_size, image_size] -> [B, patches, width]."""
        x = self.tokens(pixel_values)[:, int(self.class_embed is not None) :]
        return self.pool.ln_k(x) if isinstance(self.pool, QueryPool) else self.ln_post(x)

    def patch_features(self, pixel_values: Tensor) -> Tensor:
        """Encode each patch in the shared space: [B, 3, S, S] -> [B, patches, embed_dim].

        For towers with a class token. In the last block, patches attend to patches with similar
        queries, and its residual connection and MLP are omitted (Lan et al. 2024, ClearCLIP):
        these serve the class token, which collects the whole picture, and would blur locations.
        """
        last_block = self.blocks[-1]
        assert isinstance(last_block, Block)
        x = run_blocks(self.blocks[:-1], self.embed(pixel_values), None, self.checkpointing)
        attention = last_block.attn
        q, _, v = split_heads(attention.qkv(last_block.ln_1(x)), 3, attention.heads)
        x = attention.out(merge_heads(F.scaled_dot_product_attention(q, q, v)))
        return self.proj(self.ln_post(x[:, 1:]))

    def tokens(self, pixel_values: Tensor) -> Tensor:
        """Apply all blocks: [B, 3, image_size, image_size] -> [B, (class +) patches, width]."""
        return run_blocks(self.blocks, self.embed(pixel_values), None, self.checkpointing)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """Embed patches: [B, 3, image_size, image_size] -> [B, (class +) patches, width]."""
        x = self.patch_embed(pixel_values)  # [B, width, grid, grid]
        x = x.flatten(2).transpose(1, 2)  # [B, patches, width]
        if self.class_embed is not None:
            x = torch.cat([self.class_embed.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        return self.ln_pre(self.drop_patches(x + self.pos_embed.to(x.dtype)))

    def drop_patches(self, x: Tensor) -> Tensor:
        """Keep a random subset of the patches of each picture, and the class token."""
        if not self.training or self.patch_dropout == 0.0:
            return x
        class_tokens = int(self.class_embed is not None)
        patches = x.shape[1] - class_tokens
        kept = max(1, round(patches * (1 - self.patch_dropout)))
        order = torch.rand(x.shape[0], patches, device=x.device).argsort(dim=1)
        index = order[:, :kept] + class_tokens  # [B, kept]
        chosen = x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return torch.cat([x[:, :class_tokens], chosen], dim=1)


class PatchEncoder(nn.Module):
    """An image tower without its pooling, as a module of its own for export."""

    def __init__(self, vision: GridTower) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode [B, 3, image_size, image_size] -> [B, patches, width], row by row."""
        return self.vision.patches(pixel_values)


class PatchFeatures(nn.Module):
    """A vision transformer with each patch in the shared space, as a module for export."""

    def __init__(self, vision: VisionTransformer) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode [B, 3, image_size, image_size] -> [B, patches, embed_dim], row by row."""
        return self.vision.patch_features(pixel_values)


GridTower = VisionTransformer | ModifiedResNet | EfficientNetLite | ConvNeXt | TimmViT | FastViT
VisionTower = GridTower | NaFlex
