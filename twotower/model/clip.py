"""CLIP: two towers, one space, a learned temperature.

Pictures and texts become unit vectors of one space (`CLIP.embed`, which is all of the model that a
training step runs); their cosines, scaled by the temperature, are the logits (`CLIP.forward`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twotower.model.config import CLIPConfig
from twotower.model.layers import at_least_float32
from twotower.model.presets import LOGIT_SCALE_INIT, SIGLIP_LOGIT_BIAS_INIT, SIGLIP_LOGIT_SCALE_INIT
from twotower.model.text import build_text
from twotower.model.vision import build_vision


@dataclass(frozen=True)
class ClipOutput:
    """The result of a forward pass. Embeds are projected and of unit length."""

    image_embeds: Tensor  # [I, embed_dim]
    text_embeds: Tensor  # [T, embed_dim]
    logits_per_image: Tensor  # [I, T]
    logits_per_text: Tensor  # [T, I]


class CLIP(nn.Module):
    """Radford et al. 2021; with `config.logit_bias`, SigLIP (Zhai et al. 2023).

    `logit_scale` is stored as its logarithm and exponentiated in `forward`.
    """

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = build_vision(config.vision, config.embed_dim)
        self.text = build_text(config.text, config.embed_dim)
        scale = SIGLIP_LOGIT_SCALE_INIT if config.logit_bias else LOGIT_SCALE_INIT
        self.logit_scale = nn.Parameter(torch.tensor(scale))
        self.logit_bias = (
            nn.Parameter(torch.tensor(SIGLIP_LOGIT_BIAS_INIT)) if config.logit_bias else None
        )

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> ClipOutput:
        """Score every picture against every text: [I, 3, image_size, image_size] and [T, L]."""
        image_embeds, text_embeds = self.embed(pixel_values, input_ids)
        logits = self.logit_scale.exp() * image_embeds @ text_embeds.T  # [I, T]
        if self.logit_bias is not None:
            logits = logits + self.logit_bias
        return ClipOutput(image_embeds, text_embeds, logits, logits.T)

    def embed(
        self, pixel_values: Tensor, input_ids: Tensor | Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Embed pictures and texts.

        Args:
            pixel_values: [I, 3, image_size, image_size].
            input_ids: [T, L]; or groups of texts, each cut to its longest.

        Returns:
            image_embeds [I, embed_dim] and text_embeds [T, embed_dim]: unit length, float32 where
            the towers compute in half precision.
        """
        return self.encode_image(pixel_values), self.encode_text(input_ids)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Embed pictures: [B, 3, image_size, image_size] -> image_embeds [B, embed_dim]."""
        image_features = self.vision(pixel_values)  # [B, embed_dim]
        return F.normalize(at_least_float32(image_features), dim=-1)

    def encode_text(self, input_ids: Tensor | Sequence[Tensor]) -> Tensor:
        """Embed texts: [B, L], or groups of such -> text_embeds [B, embed_dim]."""
        groups = [input_ids] if isinstance(input_ids, Tensor) else input_ids
        text_features = torch.cat([self.text(group) for group in groups])  # [B, embed_dim]
        return F.normalize(at_least_float32(text_features), dim=-1)
