"""Contrastive losses on logits: what pulls a picture and its words together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(logits_per_image: Tensor) -> Tensor:
    """Symmetric InfoNCE over a batch of B pairs (Radford et al. 2021, figure 3).

    Args:
        logits_per_image: [B, B], exp(logit_scale) * cosine, row i and column i one pair.
    """
    logits = at_least_float32(logits_per_image)
    target = torch.arange(logits.shape[0], device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def siglip_loss(logits_per_image: Tensor) -> Tensor:
    """Pairwise sigmoid loss, summed over texts and averaged over pictures (Zhai et al. 2023).

    Args:
        logits_per_image: [B, B], exp(logit_scale) * cosine + logit_bias.
    """
    logits = at_least_float32(logits_per_image)
    sign = 2 * torch.eye(logits.shape[0], device=logits.device) - 1  # +1 on pairs, -1 elsewhere
    return -F.logsigmoid(sign * logits).sum() / logits.shape[0]


def at_least_float32(x: Tensor) -> Tensor:
    """Half precisions widened; float64, for checks against exact values, left as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
