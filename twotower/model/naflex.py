"""SigLIP 2's NaFlex vision transformer: a sequence of patches of a picture of any shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twotower.model.layers import AttentionPool, Block, LayerNorm, at_least_float32, run_blocks
from twotower.model.trunk_configs import NaFlexConfig


class NaFlex(nn.Module):
    """SigLIP's vision transformer over the slots of a canvas, of which a picture fills the first.

    Attributes:
        checkpointing: recompute activations in the backward pass, to save memory. It can be set
            at any time.
    """

    def __init__(self, config: NaFlexConfig, embed_dim: int) -> None:
        super().__init__()
        assert embed_dim == config.width
        width = config.width
        self.config = config
        self.checkpointing = False
        self.patch_embed = nn.Linear(3 * config.patch_size**2, width)
        self.pos_embed = nn.Parameter(torch.randn(config.grid**2, width) * width**-0.5)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_width, "gelu_tanh", config.eps)
            for _ in range(config.layers)
        )
        self.ln_post = LayerNorm(width, eps=config.eps)
        self.pool = AttentionPool(width, config.heads, config.mlp_width, "gelu_tanh", config.eps)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode canvases [B, 4, image_size, image_size] -> image_features [B, embed_dim]."""
        x, mask = self.tokens(pixel_values)
        pooled: Tensor = self.pool(self.ln_post(x), mask)
        return pooled

    def tokens(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Apply all blocks.

        Returns:
            [B, slots, width], and a mask [B, 1, 1, slots] with -inf at empty slots.
        """
        size, side = self.config.patch_size, self.config.image_size // self.config.patch_size
        patches = pixel_values[:, :3].unflatten(3, (side, size)).unflatten(2, (side, size))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        shape = pixel_values[:, 3, 0, :2]  # [B, 2], rows and columns
        slot = torch.arange(side**2, device=shape.device, dtype=shape.dtype)  # [slots]
        filled = slot < shape.prod(dim=1, keepdim=True)  # [B, slots]
        x = self.patch_embed(patches) + self.positions(shape, slot * filled).to(patches.dtype)
        mask = torch.zeros_like(filled, dtype=x.dtype).masked_fill(~filled, float("-inf"))
        mask = mask[:, None, None]
        return run_blocks(self.blocks, x, mask, self.checkpointing), mask

    def positions(self, shape: Tensor, slot: Tensor) -> Tensor:
        """Resize the learned positions to each picture's shape [B, 2] -> [B, slots, width].

        Args:
            slot: [B, slots], its place in reading order.
        """
        columns = shape[:, 1:]
        row = torch.floor(slot / columns)
        column = slot - row * columns
        vertical = self.resize_weights(row, shape[:, :1])  # [B, slots, grid]
        horizontal = self.resize_weights(column, columns)
        weights = (vertical[..., :, None] * horizontal[..., None, :]).flatten(2)
        return weights @ at_least_float32(self.pos_embed)

    def resize_weights(self, index: Tensor, length: Tensor) -> Tensor:
        """Return the weights of an antialiased linear filter along one axis.

        Args:
            index: [B, slots], positions from 0 to `length` - 1.
            length: [B, 1], to which the grid is resized.

        Returns:
            [B, slots, grid], whose rows add up to 1.
        """
        grid = self.config.grid
        scale = grid / at_least_float32(length)
        center = (index + 0.5) * scale - 0.5
        source = torch.arange(grid, device=index.device, dtype=center.dtype)
        distance = (center[..., None] - source).abs() / scale.clamp(min=1.0)[..., None]
        weights = (1 - distance).clamp(min=0.0)
        return weights / weights.sum(dim=-1, keepdim=True)
