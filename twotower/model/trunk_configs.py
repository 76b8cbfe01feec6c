"""Configurations of the image towers that open_clip takes from timm. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TimmViTConfig:
    """A vision transformer of timm: EVA (Sun et al. 2023), Perception Encoders (Bolya et al. 2025),
    MobileCLIP-B and -L (Vasu et al. 2024, Faghri et al. 2025), ViTamin (Chen et al. 2024).

    Attributes:
        patch_size: the side of a patch, or the stride of the stem.
        pool: "class" for the class token, "map" for attention pooling by a learned probe, "mean"
            for the mean of the patches, which is normalised after it.
        block: "pre_norm"; "post_norm", where each branch is normalised before it is added; "gated",
            with SwiGLU and a norm inside the attention and inside the MLP; or "geglu", with a norm
            before the gated MLP.
        stem: "patch" for one convolution, "conv" for three (MobileCLIP), "inverted" for two stages
            of inverted bottlenecks (ViTamin).
        stem_widths: of these two stages.
        class_token: True if a class token attends with the patches.
        positions: of the class token and the patches, of the "patches", or "none".
        ln_pre: True for a norm before the blocks, with a patch convolution without bias.
        key_bias: False if keys have no bias, unlike queries and values.
        proj_bias: True if the projection has a bias.
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
    pool: Literal["class", "map", "mean"] = "class"
    block: Literal["pre_norm", "post_norm", "gated", "geglu"] = "pre_norm"
    stem: Literal["patch", "conv", "inverted"] = "patch"
    stem_widths: tuple[int, int] | None = None
    class_token: bool = True
    positions: Literal["all", "patches", "none"] = "all"
    ln_pre: bool = False
    key_bias: bool = True
    proj_bias: bool = True
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


@dataclass(frozen=True)
class FastViTConfig:
    """FastViT in the sizes of MobileCLIP (Vasu et al. 2023 and 2024; Faghri et al. 2025).

    Attributes:
        layers, widths: of the stages.
        attention_stages: the number of last stages whose blocks attend.
        squeeze_stages: those that begin with squeeze-and-excitation.
        layer_norm: True for layer norms before the attention, in place of batch norms.
        stem_scale: True if the stem's convolutions have a branch of 1 x 1.
    """

    image_size: int
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    mlp_ratio: int = 3
    attention_stages: int = 1
    squeeze_stages: tuple[int, ...] = (2, 3)
    layer_norm: bool = False
    stem_scale: bool = True
    kind: Literal["fastvit"] = "fastvit"
