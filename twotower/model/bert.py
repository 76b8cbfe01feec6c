"""Text towers of transformers' encoder families: BERT, RoBERTa, XLM-RoBERTa and NLLB."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from twotower.model.config import BertConfig
from twotower.model.layers import Block, LayerNorm, PostNormBlock, run_blocks


class BertEncoder(nn.Module):
    """An encoder with a padding mask, and a projection into the shared space.

    BERT and RoBERTa normalise after each sum and learn the positions; NLLB normalises before,
    scales the token embeds and has sine and cosine positions, which are no weights.

    Attributes:
        checkpointing: recompute activations in the backward pass, to save memory. It can be set
            at any time.
    """

    def __init__(self, config: BertConfig, embed_dim: int) -> None:
        super().__init__()
        width, eps = config.width, config.eps
        self.pad_id, self.pool_kind = config.pad_id, config.pool
        self.first_position = config.first_position
        self.checkpointing = False
        self.token_embed = nn.Embedding(config.vocab_size, width)
        block = Block if config.pre_norm else PostNormBlock
        self.blocks = nn.ModuleList(
            block(width, config.heads, config.mlp_width, config.activation, eps)
            for _ in range(config.layers)
        )
        self.pos_embed: nn.Parameter | None = None
        if config.pre_norm:
            self.ln_final = LayerNorm(width, eps=eps)
        else:
            self.pos_embed = nn.Parameter(torch.randn(config.positions, width) * 0.02)
            self.type_embed = nn.Parameter(torch.randn(config.token_types, width) * 0.02)
            self.ln_embed = LayerNorm(width, eps=eps)
        self.pooler = nn.Linear(width, width) if config.pool == "pooler" else None
        self.proj = _projection(config, embed_dim)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode [B, L] -> text_features [B, embed_dim]."""
        return self.proj(self.pool(self.tokens(input_ids), input_ids))

    def tokens(self, input_ids: Tensor) -> Tensor:
        """Encode without pooling: [B, L] -> [B, L, width]."""
        x = self.embed(input_ids)
        padding = input_ids == self.pad_id  # [B, L]
        mask = torch.zeros_like(padding, dtype=x.dtype)
        mask = mask.masked_fill(padding, torch.finfo(x.dtype).min)
        x = run_blocks(self.blocks, x, mask[:, None, None, :], self.checkpointing)
        return self.ln_final(x) if self.pos_embed is None else x

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embed tokens and positions: [B, L] -> [B, L, width]."""
        x, length = self.token_embed(input_ids), input_ids.shape[1]
        if self.pos_embed is None:
            return x * math.sqrt(x.shape[-1]) + sinusoids(length, self.first_position, x)
        positions = self.pos_embed[self.first_position : self.first_position + length]
        return self.ln_embed(x + self.type_embed[0] + positions)

    def pool(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """Average all but padding, or select the first token: [B, L, width] -> [B, width]."""
        if self.pool_kind == "mean":
            weight = (input_ids != self.pad_id).to(x.dtype).unsqueeze(-1)
            return (x * weight).sum(dim=1) / weight.sum(dim=1)
        return x[:, 0] if self.pooler is None else torch.tanh(self.pooler(x[:, 0]))


def _projection(config: BertConfig, embed_dim: int) -> nn.Module:
    if config.projection == "linear":
        return nn.Linear(config.width, embed_dim, bias=False)
    if config.projection == "mlp":
        hidden = (config.width + embed_dim) // 2
        return nn.Sequential(
            nn.Linear(config.width, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, embed_dim, bias=False),
        )
    return nn.Identity()  # embed_dim == width


def sinusoids(length: int, first_position: int, x: Tensor) -> Tensor:
    """Return the sines, then the cosines of positions [length, width] (Vaswani et al. 2017).

    Args:
        x: [..., width], whose type and device the result has.
    """
    half = x.shape[-1] // 2
    steps = torch.arange(half, device=x.device, dtype=x.dtype)
    frequencies = torch.exp(steps * -(math.log(10000) / (half - 1)))
    positions = torch.arange(length, device=x.device, dtype=x.dtype) + first_position
    angles = positions[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
