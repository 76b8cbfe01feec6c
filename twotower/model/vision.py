"""Image towers: pixel_values [B, 3, image_size, image_size] -> image_features [B, embed_dim]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.config import ResNetConfig, VisionConfig, ViTConfig
from twotower.model.convnets import EfficientNetLite, ModifiedResNet
from twotower.model.layers import (
    AttentionPool,
    Block,
    LayerNorm,
    merge_heads,
    run_blocks,
    split_heads,
)


def build_vision(config: VisionConfig, embed_dim: int) -> VisionTower:
    """The tower that a configuration describes, with fresh weights."""
    if isinstance(config, ViTConfig):
        return VisionTransformer(config, embed_dim)
    if isinstance(config, ResNetConfig):
        return ModifiedResNet(config, embed_dim)
    return EfficientNetLite(config, embed_dim)


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2021 with CLIP's class token or SigLIP's attention pooling.

    `patch_dropout` is the share of patches left out in training (Li et al. 2023, FLIP);
    `checkpointing` trades compute for memory in the backward pass. Both may be set at any time.
    """

    def __init__(self, config: ViTConfig, embed_dim: int) -> None:
        super().__init__()
        width, class_token = config.width, config.pool == "class"
        patches = (config.image_size // config.patch_size) ** 2
        self.patch_dropout = 0.0
        self.checkpointing = False
        self.patch_embed = nn.Conv2d(
            3, width, config.patch_size, stride=config.patch_size, bias=not class_token
        )
        self.class_embed = nn.Parameter(torch.randn(width) * width**-0.5) if class_token else None
        self.pos_embed = nn.Parameter(torch.randn(patches + class_token, width) * width**-0.5)
        self.ln_pre = LayerNorm(width, eps=config.eps) if class_token else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_width, config.activation, config.eps)
            for _ in range(config.layers)
        )
        self.ln_post = LayerNorm(width, eps=config.eps)
        if class_token:
            self.pool = None
            self.proj: nn.Module = nn.Linear(width, embed_dim, bias=False)
            nn.init.normal_(self.proj.weight, std=width**-0.5)
        else:
            self.pool = AttentionPool(
                width, config.heads, config.mlp_width, config.activation, config.eps
            )
            self.proj = nn.Identity()  # embed_dim == width

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, image_size, image_size] -> image_features [B, embed_dim]"""
        x = self.tokens(pixel_values)
        if self.pool is not None:
            return self.proj(self.pool(self.ln_post(x)))
        return self.proj(self.ln_post(x[:, 0]))

    def grid(self, pixel_values: Tensor) -> Tensor:
        """What each patch became: [B, 3, image_size, image_size] -> [B, patches, width]"""
        return self.ln_post(self.tokens(pixel_values)[:, int(self.class_embed is not None) :])

    def patch_features(self, pixel_values: Tensor) -> Tensor:
        """What each place shows: [B, 3, image_size, image_size] -> [B, patches, embed_dim].

        For towers with a class token. In the last block, patches attend to those with like queries,
        and neither what they were before nor the MLP is added (Lan et al. 2024, ClearCLIP): these
        gather the whole picture for the class token, and blur where things are.
        """
        last = self.blocks[-1]
        assert isinstance(last, Block)
        x = run_blocks(self.blocks[:-1], self.embed(pixel_values), None, self.checkpointing)
        q, _, v = split_heads(last.attn.qkv(last.ln_1(x)), 3, last.attn.heads)
        x = last.attn.out(merge_heads(F.scaled_dot_product_attention(q, q, v)))
        return self.proj(self.ln_post(x[:, 1:]))

    def tokens(self, pixel_values: Tensor) -> Tensor:
        """Through the blocks: [B, 3, image_size, image_size] -> [B, patches (+ class), width]"""
        return run_blocks(self.blocks, self.embed(pixel_values), None, self.checkpointing)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """What enters the first block: [B, patches, width], with the class token first if any."""
        x = self.patch_embed(pixel_values)  # [B, width, grid, grid]
        x = x.flatten(2).transpose(1, 2)  # [B, patches, width]
        if self.class_embed is not None:
            x = torch.cat([self.class_embed.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        return self.ln_pre(self.drop_patches(x + self.pos_embed.to(x.dtype)))

    def drop_patches(self, x: Tensor) -> Tensor:
        """Keep a random subset of patches, another one for each picture; never the class token."""
        if not self.training or self.patch_dropout == 0.0:
            return x
        fixed = int(self.class_embed is not None)
        patches = x.shape[1] - fixed
        kept = max(1, round(patches * (1 - self.patch_dropout)))
        order = torch.rand(x.shape[0], patches, device=x.device).argsort(dim=1)[:, :kept] + fixed
        chosen = x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return torch.cat([x[:, :fixed], chosen], dim=1)


VisionTower = VisionTransformer | ModifiedResNet | EfficientNetLite
