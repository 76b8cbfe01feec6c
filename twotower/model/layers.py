"""Layers of the transformer towers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from twotower.model.config import Activation


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the activation of OpenAI's checkpoints; within 0.0203 of exact GELU."""
    if torch.is_grad_enabled() and x.requires_grad:
        return F.silu(1.702 * x) / 1.702  # equal, and its backward reads memory half as often
    return x * torch.sigmoid(1.702 * x)  # engines recognise this form and fuse it


def gelu_tanh(x: Tensor) -> Tensor:
    """Approximate GELU with tanh, as in SigLIP's checkpoints."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
}


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precisions to float32; keep float64, which exact checks use."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LayerNorm(nn.LayerNorm):
    """Layer norm that computes in float32 or higher whatever its input, as in OpenAI's code."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., width] -> [..., width], in the precision of the input."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.layer_norm(x.to(dtype), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.qkv.weight)  # as nn.MultiheadAttention, which OpenAI used
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within sequences: [B, L, width] -> [B, L, width].

        Args:
            mask: added to the attention logits; broadcastable to [B, heads, L, L].
        """
        q, k, v = split_heads(self.qkv(x), 3, self.heads)  # each [B, heads, L, width / heads]
        return self.out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))


class AttentionPool(nn.Module):
    """Attention pooling by a learned query, and a residual MLP: SigLIP's "MAP head"."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: Activation, eps: float):
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln = LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_width, activation)
        nn.init.xavier_uniform_(self.probe)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool [B, L, width] -> [B, width]. The probe has no residual connection.

        Args:
            mask: added to the attention logits; broadcastable to [B, heads, 1, L].
        """
        width = x.shape[-1]
        q_weight, kv_weight = self.qkv.weight.split((width, 2 * width))
        q_bias, kv_bias = self.qkv.bias.split((width, 2 * width))
        probe = self.probe.to(x.dtype).expand(x.shape[0], -1, -1)
        (q,) = split_heads(F.linear(probe, q_weight, q_bias), 1, self.heads)
        k, v = split_heads(F.linear(x, kv_weight, kv_bias), 2, self.heads)
        pooled = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        pooled = self.out(merge_heads(pooled))  # [B, 1, width]
        pooled = pooled + self.mlp(self.ln(pooled))
        return pooled[:, 0]


class QueryPool(nn.Module):
    """Attention pooling of CoCa: a learned query attends to all tokens, without a residual.

    Of the original's queries this is the first, which the image embed is made from; the others are
    for the caption decoder.
    """

    def __init__(self, width: int, embed_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(1, embed_dim))
        self.ln_q = LayerNorm(embed_dim)
        self.ln_k = LayerNorm(width)
        self.q = nn.Linear(embed_dim, embed_dim, bias=False)
        self.k = nn.Linear(width, embed_dim, bias=False)
        self.v = nn.Linear(width, embed_dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(3 * embed_dim))  # of q, k and v
        self.out = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Pool [B, L, width] -> [B, embed_dim]."""
        x = self.ln_k(x)
        query = self.ln_q(self.query).to(x.dtype).expand(x.shape[0], 1, -1)
        q_bias, k_bias, v_bias = self.bias.to(x.dtype).chunk(3)
        (q,) = split_heads(self.q(query) + q_bias, 1, self.heads)
        (k,) = split_heads(self.k(x) + k_bias, 1, self.heads)
        (v,) = split_heads(self.v(x) + v_bias, 1, self.heads)
        pooled: Tensor = self.out(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        return pooled[:, 0]


class MLP(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, width: int, mlp_width: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width)
        self.activation = ACTIVATIONS[activation]
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each vector: [..., width] -> [..., width]."""
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """The pre-norm residual block of CLIP and SigLIP."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: Activation, eps: float):
        super().__init__()
        self.ln_1 = LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.ln_2 = LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_width, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform [B, L, width] -> [B, L, width]; `mask` as in `Attention`."""
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class PostNormBlock(Block):
    """The post-norm residual block of BERT: the same layers, with norms after the sums."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform [B, L, width] -> [B, L, width]; `mask` as in `Attention`."""
        x = self.ln_1(x + self.attn(x, mask))
        return self.ln_2(x + self.mlp(x))


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, mask: Tensor | None, checkpointing: bool
) -> Tensor:
    """Apply blocks in order; with `checkpointing`, the backward pass recomputes activations.

    Args:
        mask: the second argument of each block.
    """
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            x = checkpoint(block, x, mask, use_reentrant=False)
        else:
            x = block(x, mask)
    return x


def split_heads(x: Tensor, count: int, heads: int) -> list[Tensor]:
    """Split [B, L, count * width] -> `count` tensors [B, heads, L, width / heads]."""
    x = x.unflatten(-1, (count, heads, -1)).permute(2, 0, 3, 1, 4)
    return [x[index] for index in range(count)]


def merge_heads(x: Tensor) -> Tensor:
    """Join [B, heads, L, width / heads] -> [B, L, width]."""
    return x.transpose(1, 2).flatten(-2)
