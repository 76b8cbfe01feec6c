"""Image towers that open_clip takes from timm, except SigLIP's. Figures are timm 1.0.31's."""

from __future__ import annotations

import re

from twotower.model.config import ConvNeXtConfig, VisionConfig, ViTConfig
from twotower.model.foreign.rename import Settings

CONVNEXTS: dict[str, ConvNeXtConfig] = {
    "convnext_tiny": ConvNeXtConfig(224, (3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ConvNeXtConfig(224, (3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ConvNeXtConfig(224, (3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": ConvNeXtConfig(224, (3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnext_xlarge": ConvNeXtConfig(224, (3, 3, 27, 3), (256, 512, 1024, 2048)),
    "convnext_xxlarge": ConvNeXtConfig(224, (3, 4, 30, 3), (384, 768, 1536, 3072), eps=1e-5),
}
VITS = {  # with a class token, of the original paper: (width, layers, heads)
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}


def timm_trunk(cfg: Settings, name: str, image_size: int, embed_dim: int) -> VisionConfig | None:
    """Describe the image tower of an open_clip configuration; None for names of other trunks.

    Raises:
        ModelError: a pooling or projection that is not supported.
    """
    if name in CONVNEXTS:
        hidden_width = 2 * embed_dim if _projection(cfg, "linear", "mlp") == "mlp" else 0
        trunk = CONVNEXTS[name]
        return ConvNeXtConfig(image_size, trunk.depths, trunk.widths, hidden_width, trunk.eps)
    match = re.fullmatch(r"vit_([a-z]+)_patch(\d+)_\d+", name)
    if match and match[1] in VITS:
        _projection(cfg, "linear")
        width, layers, heads = VITS[match[1]]
        return ViTConfig(
            image_size=image_size,
            patch_size=int(match[2]),
            width=width,
            layers=layers,
            heads=heads,
            mlp_width=4 * width,
            activation="gelu",
            eps=1e-6,
            no_ln_pre=True,
            patch_bias=True,
        )
    return None


def _projection(cfg: Settings, *supported: str) -> str:
    """Read the projection; the pooling is the trunk's own."""
    cfg.expect("timm_pool", "", "avg" if "mlp" in supported else "token")
    projection = str(cfg.pop("timm_proj", "linear"))
    if projection not in supported:
        raise cfg.unsupported("timm_proj", projection)
    cfg.expect("timm_proj_bias", False)
    cfg.finish()
    return projection
