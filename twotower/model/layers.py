"""The pieces that every transformer tower is made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from twotower.model.config import Activation


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), the activation of OpenAI's checkpoints (up to .02 from true GELU)."""
    if torch.is_grad_enabled() and x.requires_grad:
        return F.silu(1.702 * x) / 1.702  # the same; its backward passes over memory half as often
    return x * torch.sigmoid(1.702 * x)  # engines know this form and fuse it


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU's tanh approximation, as in SigLIP's checkpoints."""
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
    """Layer norm in float32 where the precision around it is lower, as OpenAI's code does."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same shape and precision."""
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
        """x: [B, L, width]; mask: added to the attention logits, broadcast to [B, heads, L, L]."""
        q, k, v = split_heads(self.qkv(x), 3, self.heads)  # each [B, heads, L, width / heads]
        return self.out(merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)))


class AttentionPool(nn.Module):
    """Attention pooling by a learned probe, then a residual MLP: SigLIP's "MAP head"."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: Activation, eps: float):
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln = LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_width, activation)
        nn.init.xavier_uniform_(self.probe)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, width] -> [B, width]. The probe itself is not added back to what it attends to."""
        width = x.shape[-1]
        q_weight, kv_weight = self.qkv.weight.split((width, 2 * width))
        q_bias, kv_bias = self.qkv.bias.split((width, 2 * width))
        probe = self.probe.to(x.dtype).expand(x.shape[0], -1, -1)
        (q,) = split_heads(F.linear(probe, q_weight, q_bias), 1, self.heads)
        k, v = split_heads(F.linear(x, kv_weight, kv_bias), 2, self.heads)
        pooled = self.out(merge_heads(F.scaled_dot_product_attention(q, k, v)))  # [B, 1, width]
        pooled = pooled + self.mlp(self.ln(pooled))
        return pooled[:, 0]


class MLP(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, width: int, mlp_width: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, mlp_width)
        self.activation = ACTIVATIONS[activation]
        self.fc2 = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]"""
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm residual block: CLIP and SigLIP."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: Activation, eps: float):
        super().__init__()
        self.ln_1 = LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.ln_2 = LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_width, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, L, width] -> [B, L, width]; `mask` as in `Attention`."""
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class PostNormBlock(Block):
    """The same parts with the norms after the sums: BERT."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, L, width] -> [B, L, width]; `mask` as in `Attention`."""
        x = self.ln_1(x + self.attn(x, mask))
        return self.ln_2(x + self.mlp(x))


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, mask: Tensor | None, checkpointing: bool
) -> Tensor:
    """Apply blocks in order; with `checkpointing`, activations are recomputed in the backward."""
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            x = checkpoint(block, x, mask, use_reentrant=False)
        else:
            x = block(x, mask)
    return x


def split_heads(x: Tensor, parts: int, heads: int) -> list[Tensor]:
    """[B, L, parts * width] -> `parts` tensors [B, heads, L, width / heads]"""
    x = x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4)
    return [x[part] for part in range(parts)]


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, L, width / heads] -> [B, L, width]"""
    return x.transpose(1, 2).flatten(-2)
