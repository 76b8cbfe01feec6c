"""Configurations of the image towers that open_clip takes from timm. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TimmViTConfig:
    """A vision transformer of the EVA family (Sun et al. 2023) or a Perception Encoder (Bolya et
    al. 2025).

    Attributes:
        pool: "class" for the class token, "map" for attention pooling by a learned probe.
        block: "pre_norm"; "post_norm", where each branch is normalised before it is added; or
            "gated", with SwiGLU and a norm inside the attention and inside the MLP.
        class_token: False for attention pooling of the patches alone.
        ln_pre: True for a norm before the blocks, with a patch convolution without bias.
        key_bias: False if keys have no bias, unlike queries and values.
        rotary_grid: the side of the grid whose positions the rotary angles count; other grids are
            scaled to it. None for no rotation.
        rotary_offset: the first of these positions.
        rotary_order: the axis that rotates the first half of a head.
        pool_heads: of the attention pooling.
        eps: of the layer norms.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    pool: Literal["class", "map"] = "class"
    block: Literal["pre_norm", "post_norm", "gated"] = "pre_norm"
    class_token: bool = True
    ln_pre: bool = False
    key_bias: bool = False
    rotary_grid: int | None = None
    rotary_offset: float = 0.0
    rotary_order: Literal["rows", "columns"] = "rows"
    pool_heads: int = 8
    eps: float = 1e-6
    kind: Literal["timm_vit"] = "timm_vit"


@dataclass(frozen=True)
class NaFlexConfig:
    """SigLIP 2's vision transformer for pictures of any shape (Tschannen et al. 2025).

    Attributes:
        image_size: of the canvas whose slots are patches (`inputs/patch_canvas.py`).
        grid: the side of the grid of learned positions, which are resized for each picture.
        eps: of the layer norms.
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    grid: int
    eps: float = 1e-6
    kind: Literal["naflex"] = "naflex"
