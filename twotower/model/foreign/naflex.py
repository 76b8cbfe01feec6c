"""The image tower and preprocessing of transformers' SigLIP 2 NaFlex (`models/siglip2`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twotower.errors import ModelError
from twotower.inputs.preprocess import PreprocessConfig
from twotower.model.foreign.rename import CONVERTIBLE, Settings
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
        grid=_square_root(tree.get("num_patches", 256), "vision_config.num_patches", str(path)),
        eps=tree["layer_norm_eps"],
    )


def read_canvas(settings: Settings) -> PreprocessConfig:
    """Read the settings of the image processor. Raises `ModelError` for an unsupported one."""
    resample = settings.expect("resample", 2, 3)
    patch_size = settings.read("patch_size", 16)
    number = settings.read("max_num_patches", 256)
    return PreprocessConfig(
        image_size=_square_root(number, "max_num_patches", settings.section) * patch_size,
        resize="patches",
        interpolation="bicubic" if resample == 3 else "bilinear",
        mean=settings.channels("image_mean", HALF),
        std=settings.deviations("image_std", HALF),
        rgb="before_resize",
        patch_size=patch_size,
    )


def _square_root(number: int, key: str, section: str) -> int:
    root = math.isqrt(number)
    if root * root != number:
        raise ModelError(section, f"{key} is {number}", "give a square number, such as 256 or 576")
    return root
