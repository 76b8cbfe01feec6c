"""Small models with random weights, made once for all tests."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from twotower.encode.export import write_directory
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, TextTransformerConfig, ViTConfig, preset


def tiny_config(name: str = "tiny") -> CLIPConfig:
    """A CLIP of a few thousand parameters (and 49408 tokens) with OpenAI's preprocessing."""
    base = preset("ViT-B-32")
    return replace(
        base,
        name=name,
        embed_dim=32,
        vision=ViTConfig(64, 16, 48, 2, 4, 96, "quick_gelu"),
        text=TextTransformerConfig(77, 49408, 32, 2, 2, 64, "quick_gelu"),
        preprocess=replace(base.preprocess, image_size=64),
    )


def random_tensors(config: CLIPConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights large enough that every part of the model matters to its output."""
    torch.manual_seed(seed)
    tensors = CLIP(config).state_dict()
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not name.startswith("logit"):
            tensor += 0.2 * torch.randn_like(tensor)
    return tensors


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our model directory of `tiny_config`."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    config = tiny_config()
    write_directory(config, random_tensors(config), (), directory)
    return directory
