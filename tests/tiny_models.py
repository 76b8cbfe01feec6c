"""Small models with random weights."""

from dataclasses import replace

import torch

from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, ResNetConfig, TextTransformerConfig, ViTConfig
from twotower.model.presets import preset


def tiny_config(name: str = "tiny") -> CLIPConfig:
    """Return a CLIP with few parameters besides 49408 token embeds, and OpenAI's preprocessing."""
    base = preset("ViT-B-32")
    return replace(
        base,
        name=name,
        embed_dim=32,
        vision=ViTConfig(64, 16, 48, 2, 4, 96, "quick_gelu"),
        text=TextTransformerConfig(77, 49408, 32, 2, 2, 64, "quick_gelu"),
        preprocess=replace(base.preprocess, image_size=64),
    )


def siglip_config() -> CLIPConfig:
    base = preset("SigLIP-B-16-224")
    return replace(
        base,
        name="tiny-siglip",
        embed_dim=32,
        vision=ViTConfig(64, 16, 32, 2, 2, 64, "gelu_tanh", pool="map", eps=1e-6),
        text=TextTransformerConfig(64, 400, 32, 2, 2, 64, "gelu_tanh", eos_id=None, eps=1e-6),
        preprocess=replace(base.preprocess, image_size=64),
    )


def resnet_config() -> CLIPConfig:
    return replace(
        tiny_config("tiny-resnet"),
        vision=ResNetConfig(64, 64, (1, 2, 1, 1)),
        text=TextTransformerConfig(77, 49408, 64, 2, 1, 256, "quick_gelu"),
    )


def random_tensors(config: CLIPConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return weights so large that every part of the model affects its output."""
    torch.manual_seed(seed)
    tensors = CLIP(config).state_dict()
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not name.startswith("logit"):
            tensor += 0.2 * torch.randn_like(tensor)
    return tensors
