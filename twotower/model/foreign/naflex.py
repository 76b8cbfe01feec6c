"""The image tower and preprocessing of transformers' SigLIP 2 NaFlex (`models/siglip2`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twotower.errors import ModelError
from twotower.inputs.preprocess import PreprocessConfig
from twotower.model.foreign.rename import CONVERTIBLE, read_json
from twotower.model.trunk_configs import NaFlexConfig

HALF = (0.5, 0.5, 0.5)


def read_naflex(tree: Mapping[str, Any], preprocess: PreprocessConfig, path: Path) -> NaFlexConfig:
    """Read `vision_config` of a config.json.

    Args:
        tree: with the defaults of SigLIP.
        preprocess: of the same directory.
        path: of the config.json, for errors.

    Raises:
        ModelError: an unsupported setting.
    """
    for key, expected in (
        ("hidden_act", "gelu_pytorch_tanh"),
        ("vision_use_head", True),
        ("patch_size", preprocess.patch_size),
    ):
        if tree[key] != expected:
            raise ModelError(path, f"vision_config.{key} is {tree[key]!r}", CONVERTIBLE)
    return NaFlexConfig(
        image_size=preprocess.image_size,
        patch_size=tree["patch_size"],
        width=tree["hidden_size"],
        layers=tree["num_hidden_layers"],
        heads=tree["num_attention_heads"],
        mlp_width=tree["intermediate_size"],
        grid=_square_root(tree.get("num_patches", 256), "vision_config.num_patches", path),
        eps=tree["layer_norm_eps"],
    )


def read_canvas(path: Path) -> PreprocessConfig:
    """Read a preprocessor_config.json.

    Raises:
        ModelError: it cannot be read, or has an unsupported setting.
    """
    tree = read_json(path)
    resample, patch_size = tree.get("resample", 2), tree.get("patch_size", 16)
    if resample not in (2, 3):
        raise ModelError(
            path, f"resample is {resample}", "supported are 2 (bilinear) and 3 (bicubic)"
        )
    side = _square_root(tree.get("max_num_patches", 256), "max_num_patches", path)
    return PreprocessConfig(
        image_size=side * patch_size,
        resize="patches",
        interpolation="bicubic" if resample == 3 else "bilinear",
        mean=tuple(tree.get("image_mean", HALF)),
        std=tuple(tree.get("image_std", HALF)),
        rgb="before_resize",
        patch_size=patch_size,
    )


def _square_root(number: int, key: str, path: Path) -> int:
    root = math.isqrt(number)
    if root * root != number:
        raise ModelError(path, f"{key} is {number}", "give a square number, such as 256 or 576")
    return root
