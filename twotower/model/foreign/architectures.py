"""Architectures of open_clip 3.3.0 by name, for weights without a configuration (`--arch`).

These are the ones that read CLIP's own vocabulary; others need a directory with theirs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from twotower.errors import ModelError

Text = tuple[int, int, int]  # width, heads, layers
Shape = tuple[int, dict[str, Any], Text]  # embed_dim, vision_cfg, text tower

_B, _L = (512, 8, 12), (768, 12, 12)
_640, _H, _G = (640, 10, 12), (1024, 16, 24), (1280, 20, 32)
QUICK_GELU = "-quickgelu"  # the suffix of names whose towers have OpenAI's activation


def _resnet(image_size: int, width: int, *layers: int) -> dict[str, Any]:
    return {"image_size": image_size, "width": width, "layers": list(layers)}


def _vit(
    image_size: int, patch_size: int, width: int, layers: int, **settings: Any
) -> dict[str, Any]:
    sizes = {"image_size": image_size, "patch_size": patch_size}
    return sizes | {"width": width, "layers": layers} | settings


def _convnext(size: str, image_size: int, projection: str = "linear") -> dict[str, Any]:
    name = {"timm_model_name": f"convnext_{size}", "timm_pool": "", "timm_proj": projection}
    return name | {"image_size": image_size}


_HUGE = {"head_width": 80}
_GIANT = {"head_width": 88, "mlp_ratio": 4.3637}
_GIGANTIC = {"head_width": 104, "mlp_ratio": 4.9231}

CLIPS: dict[str, Shape] = {  # also with QuickGELU
    "RN50": (1024, _resnet(224, 64, 3, 4, 6, 3), _B),
    "RN101": (512, _resnet(224, 64, 3, 4, 23, 3), _B),
    "RN50x4": (640, _resnet(288, 80, 4, 6, 10, 6), _640),
    "RN50x16": (768, _resnet(384, 96, 6, 8, 18, 8), _L),
    "RN50x64": (1024, _resnet(448, 128, 3, 15, 36, 10), (1024, 16, 12)),
    "ViT-B-32": (512, _vit(224, 32, 768, 12), _B),
    "ViT-B-32-256": (512, _vit(256, 32, 768, 12), _B),
    "ViT-B-16": (512, _vit(224, 16, 768, 12), _B),
    "ViT-B-16-plus-240": (640, _vit(240, 16, 896, 12), _640),
    "ViT-L-14": (768, _vit(224, 14, 1024, 24), _L),
    "ViT-L-14-336": (768, _vit(336, 14, 1024, 24), _L),
    "ViT-H-14": (1024, _vit(224, 14, 1280, 32, **_HUGE), _H),
    "ViT-H-14-378": (1024, _vit(378, 14, 1280, 32, **_HUGE), _H),
    "ViT-g-14": (1024, _vit(224, 14, 1408, 40, **_GIANT), _H),
    "ViT-bigG-14": (1280, _vit(224, 14, 1664, 48, **_GIGANTIC), _G),
}
CONVNEXTS: dict[str, Shape] = {
    "convnext_base": (512, _convnext("base", 224), _B),
    "convnext_base_w": (640, _convnext("base", 256), _640),
    "convnext_base_w_320": (640, _convnext("base", 320), _640),
    "convnext_large_d": (768, _convnext("large", 256, "mlp"), (768, 12, 16)),
    "convnext_large_d_320": (768, _convnext("large", 320, "mlp"), (768, 12, 16)),
    "convnext_xxlarge": (1024, _convnext("xxlarge", 256), _H),
}
COCAS: dict[str, Shape] = {
    "coca_ViT-B-32": (512, _vit(224, 32, 768, 12, attentional_pool=True), _B),
    "coca_ViT-L-14": (768, _vit(224, 14, 1024, 24, attentional_pool=True), _L),
}


def architecture(name: str) -> dict[str, Any]:
    """Return an architecture as open_clip's `model_cfg`.

    Raises:
        ModelError: the name is unknown.
    """
    if name not in set(architecture_names()):
        close = difflib.get_close_matches(name, architecture_names(), 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        bases = ", ".join([*CLIPS, *CONVNEXTS, *COCAS])
        remedy = f"{hint}there are {bases}, and CLIP's with the suffix {QUICK_GELU}"
        raise ModelError(name, "no such architecture", remedy)
    base = name.removesuffix(QUICK_GELU)
    embed_dim, vision_cfg, (width, heads, layers) = (CLIPS | CONVNEXTS | COCAS)[base]
    text_cfg: dict[str, Any] = {"width": width, "heads": heads, "layers": layers}
    model_cfg = {"embed_dim": embed_dim, "vision_cfg": dict(vision_cfg), "text_cfg": text_cfg}
    if name in COCAS:
        model_cfg["text_cfg"] = text_cfg | {"context_length": 76, "embed_cls": True}
        model_cfg["multimodal_cfg"] = {}
    return model_cfg | {"quick_gelu": name != base}


def architecture_names() -> Iterator[str]:
    """Yield the names that `architecture` knows."""
    yield from CLIPS
    yield from (name + QUICK_GELU for name in CLIPS)
    yield from CONVNEXTS
    yield from COCAS
