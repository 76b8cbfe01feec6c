"""EVA, PE-Core, MobileCLIP and ViTamin: image towers that open_clip takes from timm, by name.

Settings as in timm 1.0.31 (`eva.py`, `fastvit.py`, `vision_transformer_hybrid.py`, `vitamin.py` in
`models/`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from twotower.model.foreign.rename import Settings
from twotower.model.trunk_configs import FastViTConfig, TimmViTConfig

_perception = partial(
    TimmViTConfig,
    pool="map",
    ln_pre=True,
    rotary_offset=1.0,
    rotary_order="columns",
    eps=1e-5,
)
_eva02 = partial(TimmViTConfig, block="gated", key_bias=False, rotary_grid=16)
_vitamin = partial(
    TimmViTConfig,
    pool="mean",
    block="geglu",
    stem="inverted",
    class_token=False,
    positions="patches",
    proj_bias=False,
)
VITAMIN_SIZES = {
    "small": _vitamin(224, 16, 384, 14, 6, 768, stem_widths=(64, 128)),
    "base": _vitamin(224, 16, 768, 14, 12, 1536, stem_widths=(128, 256)),
    "large": _vitamin(224, 16, 1024, 31, 16, 2048, stem_widths=(160, 320)),
    "large2": _vitamin(224, 16, 1024, 31, 16, 2048, stem_widths=(160, 320)),
    "xlarge": _vitamin(256, 16, 1152, 32, 16, 2304, stem_widths=(192, 384), positions="none"),
}

TIMM_TOWERS: dict[str, TimmViTConfig] = {
    "vit_pe_core_tiny_patch16_384": _perception(384, 16, 192, 12, 3, 768, rotary_grid=24),
    "vit_pe_core_small_patch16_384": _perception(384, 16, 384, 12, 6, 1536, rotary_grid=24),
    "vit_pe_core_base_patch16_224": _perception(224, 16, 768, 12, 12, 3072, rotary_grid=14),
    "vit_pe_core_large_patch14_336": _perception(336, 14, 1024, 24, 16, 4096, rotary_grid=24),
    "vit_pe_core_gigantic_patch14_448": replace(
        _perception(448, 14, 1536, 50, 16, 8960, rotary_grid=32),
        class_token=False,
        rotary_offset=0.0,
    ),
    "eva02_base_patch16_clip_224": _eva02(224, 16, 768, 12, 12, 2048),
    "eva02_large_patch14_clip_224": _eva02(224, 14, 1024, 24, 16, 2730),
    "eva02_large_patch14_clip_336": _eva02(336, 14, 1024, 24, 16, 2730),
    "eva02_enormous_patch14_clip_224": TimmViTConfig(
        224, 14, 1792, 64, 16, 15360, block="post_norm", key_bias=False
    ),
    "eva_giant_patch14_224": TimmViTConfig(224, 14, 1408, 40, 16, 6144, key_bias=False),
    "vit_base_mci_224": TimmViTConfig(224, 16, 768, 12, 12, 3072, stem="conv", positions="patches"),
    "vit_large_patch14_clip_224": TimmViTConfig(224, 14, 1024, 24, 16, 4096, ln_pre=True, eps=1e-5),
    **{
        f"vitamin_{size}_{pixels}": tower
        for size, tower in VITAMIN_SIZES.items()
        for pixels in (224, 256, 336, 384)
    },
}
_large_fastvit = partial(
    FastViTConfig,
    mlp_ratio=4,
    attention_stages=2,
    squeeze_stages=(),
    layer_norm=True,
    stem_scale=False,
)
FASTVITS: dict[str, FastViTConfig] = {
    "fastvit_mci0": FastViTConfig(256, (2, 6, 10, 2), (64, 128, 256, 512)),
    "fastvit_mci1": FastViTConfig(256, (4, 12, 20, 4), (64, 128, 256, 512)),
    "fastvit_mci2": FastViTConfig(256, (4, 12, 24, 4), (80, 160, 320, 640)),
    "fastvit_mci3": _large_fastvit(256, (2, 12, 24, 4, 2), (96, 192, 384, 768, 1536)),
    "fastvit_mci4": _large_fastvit(256, (2, 12, 24, 4, 4), (128, 256, 512, 1024, 2048)),
}
POOLS = {"class": "token", "map": "map", "mean": ""}  # ours -> `timm_pool`


def read_timm_tower(cfg: Settings, name: str, image_size: int) -> TimmViTConfig:
    """Return the tower of one of `TIMM_TOWERS`.

    Raises:
        ModelError: `cfg` has settings under which open_clip does not publish it.
    """
    vision = TIMM_TOWERS[name]
    cfg.expect("timm_pool", POOLS[vision.pool])
    cfg.expect("timm_proj", None if vision.proj_bias else "linear")
    cfg.finish()
    return replace(vision, image_size=image_size)


def read_fastvit(cfg: Settings, name: str, image_size: int) -> FastViTConfig:
    """Return the tower of one of `FASTVITS`.

    Raises:
        ModelError: `cfg` has settings under which open_clip does not publish it.
    """
    cfg.expect("timm_pool", "avg")
    cfg.expect("timm_proj", None)
    cfg.finish()
    return replace(FASTVITS[name], image_size=image_size)
