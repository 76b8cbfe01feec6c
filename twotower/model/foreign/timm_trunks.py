"""Image towers that open_clip takes from timm: their settings by name, and their tensors.

Settings as in timm 1.0.31 (`models/eva.py`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from twotower.model.config import VisionConfig
from twotower.model.foreign.rename import Settings, Table
from twotower.model.trunk_configs import TimmViTConfig

_perception = partial(
    TimmViTConfig,
    pool="map",
    ln_pre=True,
    key_bias=True,
    rotary_offset=1.0,
    rotary_order="columns",
    eps=1e-5,
)
_eva02 = partial(TimmViTConfig, block="gated", rotary_grid=16)

TRUNKS: dict[str, VisionConfig] = {
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
        224, 14, 1792, 64, 16, 15360, block="post_norm"
    ),
    "eva_giant_patch14_224": TimmViTConfig(224, 14, 1408, 40, 16, 6144),
}

TEXT_TABLE = (
    (r"^text\.token_embed\.", "token_embedding."),
    (r"^text\.pos_embed", "positional_embedding"),
    (r"^text\.proj\.weight", "text_projection.T"),
    (r"^text\.blocks\.(\d+)\.attn\.qkv\.", r"transformer.resblocks.\1.attn.in_proj_"),
    (r"^text\.blocks\.(\d+)\.attn\.out\.", r"transformer.resblocks.\1.attn.out_proj."),
    (r"^text\.blocks\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"^text\.blocks\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"^text\.blocks\.", "transformer.resblocks."),
    (r"^text\.", ""),
)
VIT_TABLE = (
    *TEXT_TABLE,
    (r"^vision\.patch_embed\.", "visual.trunk.patch_embed.proj."),
    (r"^vision\.class_embed", "visual.trunk.cls_token"),
    (r"^vision\.pos_embed", "visual.trunk.pos_embed[None]"),
    (r"^vision\.ln_pre\.", "visual.trunk.norm_pre."),
    (r"^vision\.ln_post\.", "visual.trunk.norm."),
    (r"^vision\.proj\.", "visual.trunk.head."),
    (r"^vision\.pool\.probe", "visual.trunk.attn_pool.latent"),
    (r"^vision\.pool\.qkv\.", "visual.trunk.attn_pool.{q,kv}."),
    (r"^vision\.pool\.out\.", "visual.trunk.attn_pool.proj."),
    (r"^vision\.pool\.ln\.", "visual.trunk.attn_pool.norm."),
    (r"^vision\.pool\.mlp\.", "visual.trunk.attn_pool.mlp."),
    (r"^vision\.", "visual.trunk."),
    (r"^(visual\.trunk\.blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
    (r"^(visual\.trunk\.blocks\.\d+\.(attn|mlp))\.ln\.", r"\1.norm."),
    (r"^(visual\.trunk\.blocks\.\d+\.attn)\.out\.", r"\1.proj."),
)
SUB_NORM_TABLE = (
    *VIT_TABLE,
    (r"^(visual\.trunk\.blocks\.\d+\.attn)\.qkv\.weight", r"\1.{q,k,v}_proj.weight"),
    (r"^(visual\.trunk\.blocks\.\d+\.attn)\.([qv])_bias", r"\1.\2_proj.bias"),
    (r"^(visual\.trunk\.blocks\.\d+\.mlp)\.gate\.", r"\1.fc1_g."),
    (r"^(visual\.trunk\.blocks\.\d+\.mlp)\.fc1\.", r"\1.fc1_x."),
)


def read_trunk(cfg: Settings, name: str) -> VisionConfig:
    """Return the tower of one of `TRUNKS`.

    Raises:
        ModelError: `cfg` has settings under which open_clip does not publish it.
    """
    vision = TRUNKS[name]
    pools = {"class": "token", "map": "map"}
    cfg.expect("timm_pool", pools[vision.pool] if isinstance(vision, TimmViTConfig) else "avg")
    cfg.expect("timm_proj", None)
    cfg.finish()
    return vision


def trunk_table(vision: VisionConfig) -> Table | None:
    """Return the names of a model with a tower of `TRUNKS`; None for other towers."""
    if not isinstance(vision, TimmViTConfig):
        return None
    return SUB_NORM_TABLE if vision.block == "gated" else VIT_TABLE
