"""Configurations of architectures by name: published ones, and small ones for first trainings.

Figures are those of OpenAI's checkpoints, open_clip's model configurations and big_vision's SigLIP.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import replace
from typing import Any

from twotower.errors import ModelError
from twotower.inputs.preprocess import PreprocessConfig
from twotower.inputs.tokenizer import (
    OPENAI_TOKENIZER,
    SIGLIP2_TOKENIZER,
    SIGLIP_TOKENIZER,
    TokenizerConfig,
)
from twotower.model.config import (
    Activation,
    CLIPConfig,
    EfficientNetLiteConfig,
    ResNetConfig,
    SentenceEncoderConfig,
    TextTransformerConfig,
    VisionConfig,
    ViTConfig,
)

LOGIT_SCALE_INIT = math.log(1 / 0.07)  # Radford et al. 2021, section 2.5
SIGLIP_LOGIT_SCALE_INIT = math.log(10.0)  # Zhai et al. 2023, section 3
SIGLIP_LOGIT_BIAS_INIT = -10.0  # Zhai et al. 2023, section 3


def _clip(
    name: str,
    embed_dim: int,
    vision: VisionConfig,
    text: tuple[int, int, int],
    activation: Activation = "quick_gelu",
) -> CLIPConfig:
    """Describe a CLIP model; `text` is (width, heads, layers)."""
    width, heads, layers = text
    tower = TextTransformerConfig(77, 49408, width, layers, heads, 4 * width, activation)
    preprocess = PreprocessConfig(image_size=vision.image_size)
    return CLIPConfig(name, embed_dim, vision, tower, preprocess, OPENAI_TOKENIZER)


def _vit(
    image_size: int,
    patch_size: int,
    width: int,
    layers: int,
    heads: int,
    activation: Activation = "quick_gelu",
    mlp_width: int | None = None,
) -> ViTConfig:
    mlp_width = mlp_width or 4 * width
    return ViTConfig(image_size, patch_size, width, layers, heads, mlp_width, activation)


def _siglip(
    name: str,
    size: tuple[int, int],
    shape: tuple[int, int, int, int],
    vocab_size: int,
    tokenizer: TokenizerConfig,
) -> CLIPConfig:
    """Describe a SigLIP model.

    Args:
        size: (image_size, patch_size).
        shape: (width, layers, heads, mlp_width) of both towers.
    """
    width, layers, heads, mlp_width = shape
    act: Activation = "gelu_tanh"
    vision = ViTConfig(*size, width, layers, heads, mlp_width, act, pool="map", eps=1e-6)
    text = TextTransformerConfig(
        64, vocab_size, width, layers, heads, mlp_width, act, eos_id=None, eps=1e-6
    )
    half = (0.5, 0.5, 0.5)
    preprocess = PreprocessConfig(
        image_size=size[0], resize="squash", mean=half, std=half, rgb="before_resize"
    )
    return CLIPConfig(name, width, vision, text, preprocess, tokenizer, logit_bias=True)


def _small(name: str, vision: VisionConfig, text: tuple[int, int, int]) -> CLIPConfig:
    """Describe a model that trains in minutes; `text` is (width, heads, layers) for 32 tokens."""
    config = _clip(name, 256, vision, text)
    return replace(
        config,
        text=replace(config.text, context_length=32),
        tokenizer=replace(OPENAI_TOKENIZER, context_length=32),
    )


def _bundled() -> CLIPConfig:
    """Describe the model in the package: EfficientNet-Lite1 and MiniLM-L6 (docs/model-card.md)."""
    tokenizer = TokenizerConfig(
        kind="wordpiece",
        context_length=64,
        cleaning="none",  # BERT's normaliser lower-cases and strips accents itself
        pad_id=0,
        bos_id=101,
        eos_id=102,
        special_tokens={},
        file="vocab.txt",
    )
    preprocess = PreprocessConfig(
        image_size=224,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        rgb="before_resize",
        fast_decode=True,
    )
    text = SentenceEncoderConfig(512, 30522, 384, 6, 12, 1536, hidden_width=2048)
    vision = EfficientNetLiteConfig(224, 1.0, 1.1, pooled_stages=4, hidden_width=2536)
    return CLIPConfig("twotower-small", 512, vision, text, preprocess, tokenizer)


_B, _L = (512, 8, 12), (768, 12, 12)
_SIGLIP_B, _SIGLIP_SO400M = (768, 12, 12, 3072), (1152, 27, 16, 4304)

PRESETS: dict[str, CLIPConfig] = {
    config.name: config
    for config in (
        _clip("RN50", 1024, ResNetConfig(224, 64, (3, 4, 6, 3)), _B),
        _clip("RN101", 512, ResNetConfig(224, 64, (3, 4, 23, 3)), _B),
        _clip("RN50x4", 640, ResNetConfig(288, 80, (4, 6, 10, 6)), (640, 10, 12)),
        _clip("RN50x16", 768, ResNetConfig(384, 96, (6, 8, 18, 8)), _L),
        _clip("RN50x64", 1024, ResNetConfig(448, 128, (3, 15, 36, 10)), (1024, 16, 12)),
        _clip("ViT-B-32", 512, _vit(224, 32, 768, 12, 12), _B),
        _clip("ViT-B-16", 512, _vit(224, 16, 768, 12, 12), _B),
        _clip("ViT-L-14", 768, _vit(224, 14, 1024, 24, 16), _L),
        _clip("ViT-L-14-336", 768, _vit(336, 14, 1024, 24, 16), _L),
        _clip("ViT-H-14", 1024, _vit(224, 14, 1280, 32, 16, "gelu"), (1024, 16, 24), "gelu"),
        _clip(
            "ViT-bigG-14",
            1280,
            _vit(224, 14, 1664, 48, 16, "gelu", 8192),
            (1280, 20, 32),
            "gelu",
        ),
        _siglip("SigLIP-B-16-224", (224, 16), _SIGLIP_B, 32000, SIGLIP_TOKENIZER),
        _siglip("SigLIP-SO400M-14-384", (384, 14), _SIGLIP_SO400M, 32000, SIGLIP_TOKENIZER),
        _siglip("SigLIP2-B-16-256", (256, 16), _SIGLIP_B, 256000, SIGLIP2_TOKENIZER),
        _small("ViT-mini-16-112", _vit(112, 16, 256, 6, 4), (256, 4, 4)),
        _small("RN-mini-64", ResNetConfig(64, 32, (1, 1, 1, 1)), (128, 2, 2)),
        _bundled(),
    )
}


def preset(name: str, **changes: Any) -> CLIPConfig:
    """Return the configuration of a published architecture, such as `preset("ViT-B-32")`.

    Args:
        changes: fields of `CLIPConfig` to replace.

    Raises:
        ModelError: no preset has that name.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ModelError(name, "no such preset", f"{hint}there are {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)
