"""A head that answers questions about pictures, on the unpooled outputs of frozen towers.

Its weights keep the names under which files store them; "cells" there are patches here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.config import FusionConfig
from twotower.model.layers import merge_heads, split_heads

DROPOUT = 0.2  # of the patches, and of the output of each residual branch


class FusionHead(nn.Module):
    """Cross-attention from the tokens of a question to patches, then a classifier over answers."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cell_proj = nn.Linear(config.vision_width, width)
        self.pos_embed = nn.Parameter(torch.randn(config.cells, width) * 0.02)
        self.ln_cells = nn.LayerNorm(width)
        self.token_proj = nn.Linear(config.text_width, width)
        self.ln_tokens = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(FusionBlock(width, config.heads) for _ in range(config.layers))
        self.ln_final = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, len(config.answers))

    def forward(self, patches: Tensor, tokens: Tensor, mask: Tensor, picture: Tensor) -> Tensor:
        """Compute the logits of the answers [Q, answers].

        Args:
            patches: of P pictures [P, patches, vision_width].
            tokens: of Q questions [Q, L, text_width].
            mask: [Q, L], False at padding.
            picture: [Q], the row in `patches` of the picture that each question is about.
        """
        patches = F.dropout(self.cell_proj(patches), DROPOUT, self.training)
        patches = self.ln_cells(patches + self.pos_embed)  # [P, patches, width]
        x = self.ln_tokens(self.token_proj(tokens))  # [Q, L, width]
        for block in self.blocks:
            x = block(x, patches, picture)
        weight = mask.to(x.dtype).unsqueeze(-1)  # [Q, L, 1]
        pooled = (self.ln_final(x) * weight).sum(dim=1) / weight.sum(dim=1)  # [Q, width]
        return self.classifier(pooled)


class FusionBlock(nn.Module):
    """Pre-norm residual block: cross-attention from tokens to patches, then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, patches: Tensor, picture: Tensor) -> Tensor:
        """Transform x [Q, L, width], given patches [P, patches, width] and picture [Q]."""
        (q,) = split_heads(self.q(self.ln_1(x)), 1, self.heads)
        k, v = split_heads(self.kv(patches), 2, self.heads)  # [P, heads, patches, width / heads]
        attended = F.scaled_dot_product_attention(q, k[picture], v[picture])
        x = x + F.dropout(self.out(merge_heads(attended)), DROPOUT, self.training)
        transformed = self.fc2(F.gelu(self.fc1(self.ln_2(x))))
        return x + F.dropout(transformed, DROPOUT, self.training)
