"""Text towers: input_ids [B, L] -> text_features [B, embed_dim], for L up to context_length.

With a causal mask or a padding mask, positions after the last token do not change the result, so a
batch can be cut to its longest text. A bidirectional tower without a padding mask (SigLIP) needs
texts padded to context_length.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.bert import BertEncoder
from twotower.model.config import (
    BertConfig,
    GraphTextConfig,
    SentenceEncoderConfig,
    TextConfig,
    TextTransformerConfig,
    graph_only,
)
from twotower.model.layers import Block, LayerNorm, PostNormBlock, run_blocks


def build_text(config: TextConfig, embed_dim: int) -> TextTower:
    """Build the tower of a configuration, with initial weights."""
    if isinstance(config, TextTransformerConfig):
        return TextTransformer(config, embed_dim)
    if isinstance(config, BertConfig):
        return BertEncoder(config, embed_dim)
    if isinstance(config, GraphTextConfig):
        raise graph_only("text tower")
    return SentenceEncoder(config, embed_dim)


class TextTransformer(nn.Module):
    """CLIP's causal text tower (Radford et al. 2021), or SigLIP's bidirectional one.

    Attributes:
        checkpointing: recompute activations in the backward pass, to save memory. It can be set
            at any time.
    """

    def __init__(self, config: TextTransformerConfig, embed_dim: int) -> None:
        super().__init__()
        width = config.width
        self.eos_id, self.fixed_length = config.eos_id, config.fixed_length
        self.causal = config.causal
        self.checkpointing = False
        self.token_embed = nn.Embedding(config.vocab_size, width)
        self.class_embed = nn.Parameter(torch.randn(width) * 0.01) if config.class_token else None
        positions = config.context_length + config.class_token
        self.pos_embed = nn.Parameter(torch.randn(positions, width) * 0.01)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_width, config.activation, config.eps)
            for _ in range(config.layers)
        )
        self.ln_final = LayerNorm(width, eps=config.eps)
        projection = config.projection or ("linear" if config.causal else "affine")
        self.proj: nn.Module = nn.Identity()  # embed_dim == width
        if projection != "none":
            self.proj = nn.Linear(width, embed_dim, bias=projection == "affine")
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise as OpenAI does: outputs of residual branches shrink with the depth, so that
        the variance of their sum does not depend on it.
        """
        width, depth = self.token_embed.embedding_dim, len(self.blocks)
        nn.init.normal_(self.token_embed.weight, std=0.02)
        if isinstance(self.proj, nn.Linear):
            nn.init.normal_(self.proj.weight, std=width**-0.5)
        block: Any
        for block in self.blocks:
            nn.init.normal_(block.attn.qkv.weight, std=width**-0.5)
            nn.init.normal_(block.attn.out.weight, std=width**-0.5 * (2 * depth) ** -0.5)
            nn.init.normal_(block.mlp.fc1.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.fc2.weight, std=width**-0.5 * (2 * depth) ** -0.5)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode [B, L] -> text_features [B, embed_dim]."""
        return self.proj(self.pool(self.encode(input_ids), input_ids))

    def tokens(self, input_ids: Tensor) -> Tensor:
        """Encode without pooling: [B, L] -> [B, L, width]."""
        x = self.encode(input_ids)
        return x if self.class_embed is None else x[:, :-1]

    def encode(self, input_ids: Tensor) -> Tensor:
        """Apply all layers: [B, L] -> [B, L, width], or [B, L + 1, width] with a class token."""
        x = self.token_embed(input_ids)  # [B, L, width]
        if self.class_embed is not None:
            x = torch.cat([x, self.class_embed.to(x.dtype).expand(x.shape[0], 1, -1)], dim=1)
        x = x + self.pos_embed[: x.shape[1]].to(x.dtype)
        mask = causal_mask(x) if self.causal else None
        if self.class_embed is not None:
            mask = causal_mask(x) + class_token_mask(input_ids, x)
        return self.ln_final(run_blocks(self.blocks, x, mask, self.checkpointing))

    def pool(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """Select the first end-of-text, or the last position: [B, L, width] -> [B, width]."""
        if self.eos_id is None or self.class_embed is not None:
            return x[:, -1]
        position = (input_ids == self.eos_id).int().argmax(dim=-1)  # argmax: the first maximum
        return x[torch.arange(x.shape[0], device=x.device), position]


class SentenceEncoder(nn.Module):
    """A BERT-family encoder with mean pooling and a projection into the shared space.

    The embedding of token type 0, which BERT adds at every position, is part of `pos_embed`. Names
    of a lexicon follow the tokens of a text; the encoder treats them as padding.
    """

    def __init__(self, config: SentenceEncoderConfig, embed_dim: int) -> None:
        super().__init__()
        width = config.width
        self.pad_id, self.vocab_size = config.pad_id, config.vocab_size
        self.checkpointing = False
        self.token_embed = nn.Embedding(config.vocab_size, width)
        self.pos_embed = nn.Parameter(torch.randn(config.context_length, width) * 0.02)
        self.ln_embed = LayerNorm(width, eps=config.eps)
        self.blocks = nn.ModuleList(
            PostNormBlock(width, config.heads, config.mlp_width, config.activation, config.eps)
            for _ in range(config.layers)
        )
        hidden = config.hidden_width
        self.hidden = nn.Linear(width, hidden) if hidden else None
        self.proj = nn.Linear(width + hidden, embed_dim, bias=False)
        self.lexicon = None
        if config.lexicon_size:
            self.lexicon = LexiconEmbedding(config.lexicon_size, config.lexicon_rank, embed_dim)
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.proj.weight, std=(width + hidden) ** -0.5)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode [B, L] -> text_features [B, embed_dim]."""
        features: Tensor = self.proj(self.widen(self.pool(input_ids)))
        if self.lexicon is None:
            return features
        names = (input_ids - (self.vocab_size - 1)).clamp(min=0)  # 0 for a token
        return features + features.norm(dim=-1, keepdim=True) * self.lexicon(names)

    def pool(self, input_ids: Tensor) -> Tensor:
        """Average the tokens other than padding: [B, L] -> [B, width]."""
        x = self.tokens(input_ids)
        weight = (self.without_names(input_ids) != self.pad_id).to(x.dtype).unsqueeze(-1)
        return (x * weight).sum(dim=1) / weight.sum(dim=1)

    def widen(self, pooled: Tensor) -> Tensor:
        """Append the hidden layer to its input: [B, width] -> [B, width + hidden_width]."""
        if self.hidden is None:
            return pooled
        return torch.cat([pooled, F.gelu(self.hidden(pooled))], dim=1)

    def tokens(self, input_ids: Tensor) -> Tensor:
        """Encode without pooling: [B, L] -> [B, L, width]."""
        input_ids = self.without_names(input_ids)
        not_padding = input_ids != self.pad_id  # [B, L]
        x = self.token_embed(input_ids) + self.pos_embed[: input_ids.shape[1]]
        x = self.ln_embed(x)
        mask = torch.zeros_like(not_padding, dtype=x.dtype)
        mask = mask.masked_fill(~not_padding, torch.finfo(x.dtype).min)  # [B, L]
        return run_blocks(self.blocks, x, mask[:, None, None, :], self.checkpointing)

    def without_names(self, input_ids: Tensor) -> Tensor:
        """Replace names of the lexicon by padding."""
        if self.lexicon is None:
            return input_ids
        return input_ids.masked_fill(input_ids >= self.vocab_size, self.pad_id)


class LexiconEmbedding(nn.Module):
    """The mean vector of a text's names, in few dimensions, and its projection to the features."""

    def __init__(self, size: int, rank: int, embed_dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(1 + size, rank)  # row 0 belongs to no name
        self.proj = nn.Linear(rank, embed_dim, bias=False)
        with torch.no_grad():
            self.embed.weight.normal_(std=0.02)[0] = 0

    def forward(self, names: Tensor) -> Tensor:
        """Average names [B, L], 0 at positions without one -> [B, embed_dim]."""
        mask = (names > 0).to(self.proj.weight.dtype).unsqueeze(-1)  # [B, L, 1]
        mean = (self.embed(names) * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        projected: Tensor = self.proj(mean)
        return projected


class TokenEncoder(nn.Module):
    """A text tower without its pooling, as a module of its own for export."""

    def __init__(self, text: TextTower) -> None:
        super().__init__()
        self.text = text

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode [B, L] -> [B, L, width]."""
        return self.text.tokens(input_ids)


def causal_mask(x: Tensor) -> Tensor:
    """Return [L, L] with -inf above the diagonal and 0 elsewhere, for x [B, L, width]."""
    length = x.shape[1]
    mask = torch.full((length, length), float("-inf"), device=x.device, dtype=x.dtype)
    return torch.triu(mask, diagonal=1)


def class_token_mask(input_ids: Tensor, x: Tensor) -> Tensor:
    """Return CoCa's padding mask [B, 1, 1, L + 1] for ids [B, L]: -inf where it hides a position.

    The published weights were trained with a mask that is shifted by one position (open_clip's
    `correct_cls_mask`): a position is hidden if the id before it is padding.
    """
    hidden = F.pad(input_ids == 0, (1, 0))  # [B, L + 1]
    mask = torch.zeros_like(hidden, dtype=x.dtype).masked_fill(hidden, float("-inf"))
    return mask[:, None, None]


TextTower = TextTransformer | SentenceEncoder | BertEncoder
