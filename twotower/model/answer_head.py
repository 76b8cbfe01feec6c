"""A head that answers questions on top of frozen towers: tokens look at a picture's cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.config import FusionConfig
from twotower.model.layers import merge_heads, split_heads

DROPOUT = 0.2  # of what is seen, and of what each block adds


class FusionHead(nn.Module):
    """Cross-attention from question tokens to cells, then a classifier over answers."""

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

    def forward(self, cells: Tensor, tokens: Tensor, real: Tensor, picture: Tensor) -> Tensor:
        """Logits of the answers [Q, answers].

        Args:
            cells: of P pictures [P, cells, vision_width].
            tokens: of Q questions [Q, L, text_width]; `real` [Q, L] is False where padded.
            picture: which of the P each question is about [Q].
        """
        projected = F.dropout(self.cell_proj(cells), DROPOUT, self.training)
        seen = self.ln_cells(projected + self.pos_embed)  # [P, cells, width]
        x = self.ln_tokens(self.token_proj(tokens))  # [Q, L, width]
        for block in self.blocks:
            x = block(x, seen, picture)
        weight = real.to(x.dtype).unsqueeze(-1)
        pooled = (self.ln_final(x) * weight).sum(dim=1) / weight.sum(dim=1)
        return self.classifier(pooled)


class FusionBlock(nn.Module):
    """Tokens look at the cells, then think: pre-norm, residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, seen: Tensor, picture: Tensor) -> Tensor:
        """x: [Q, L, width]; seen: [P, cells, width]; picture: [Q] -> [Q, L, width]"""
        (q,) = split_heads(self.q(self.ln_1(x)), 1, self.heads)
        k, v = split_heads(self.kv(seen), 2, self.heads)
        looked = self.out(merge_heads(F.scaled_dot_product_attention(q, k[picture], v[picture])))
        x = x + F.dropout(looked, DROPOUT, self.training)
        thought = self.fc2(F.gelu(self.fc1(self.ln_2(x))))
        return x + F.dropout(thought, DROPOUT, self.training)
