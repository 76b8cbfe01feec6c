"""Names of the tensors of timm's image towers in open_clip."""

from __future__ import annotations

from twotower.model.trunk_configs import TimmViTConfig

Rules = tuple[tuple[str, str], ...]

POOL: Rules = (
    (r"^vision\.pool\.probe", "visual.trunk.attn_pool.latent"),
    (r"^vision\.pool\.qkv\.", "visual.trunk.attn_pool.{q,kv}."),
    (r"^vision\.pool\.out\.", "visual.trunk.attn_pool.proj."),
    (r"^vision\.pool\.ln\.", "visual.trunk.attn_pool.norm."),
    (r"^vision\.pool\.mlp\.", "visual.trunk.attn_pool.mlp."),
)
BLOCKS: Rules = (
    (r"^vision\.(blocks\.\d+)\.ln_([12])\.", r"visual.trunk.\1.norm\2."),
    (r"^vision\.(blocks\.\d+\.(attn|mlp))\.ln\.", r"visual.trunk.\1.norm."),
    (r"^vision\.(blocks\.\d+\.attn)\.out\.", r"visual.trunk.\1.proj."),
)
SWIGLU: Rules = (
    (r"^vision\.(blocks\.\d+\.attn)\.qkv\.weight", r"visual.trunk.\1.{q,k,v}_proj.weight"),
    (r"^vision\.(blocks\.\d+\.attn)\.([qv])_bias", r"visual.trunk.\1.\2_proj.bias"),
    (r"^vision\.(blocks\.\d+\.mlp)\.gate\.", r"visual.trunk.\1.fc1_g."),
    (r"^vision\.(blocks\.\d+\.mlp)\.fc1\.", r"visual.trunk.\1.fc1_x."),
)
GEGLU: Rules = (
    (r"^vision\.(blocks\.\d+\.mlp)\.gate\.", r"visual.trunk.\1.w0."),
    (r"^vision\.(blocks\.\d+\.mlp)\.fc([12])\.", r"visual.trunk.\1.w\2."),
)
STEMS: dict[str, Rules] = {
    "patch": ((r"^vision\.patch_embed\.", "visual.trunk.patch_embed.proj."),),
    "conv": (
        (r"^vision\.patch_embed\.(conv|bn)1\.", r"visual.trunk.patch_embed.backbone.0.\1."),
        (r"^vision\.patch_embed\.(conv|bn)2\.", r"visual.trunk.patch_embed.backbone.1.\1."),
        (r"^vision\.patch_embed\.conv3\.", "visual.trunk.patch_embed.backbone.2.conv."),
    ),
    "inverted": (
        (r"^vision\.patch_embed\.conv([12])\.", r"visual.trunk.patch_embed.backbone.stem.conv\1."),
        (r"^vision\.patch_embed\.ln1\.", "visual.trunk.patch_embed.backbone.stem.norm1."),
        (r"^vision\.patch_embed\.ln_post\.", "visual.trunk.patch_embed.backbone.pool.norm."),
        (r"^vision\.patch_embed\.proj\.", "visual.trunk.patch_embed.backbone.pool.proj."),
        # the shortcut of a block with stride has its convolution after a pool
        (
            r"^vision\.patch_embed\.(stages\.\d\.\d)\.shortcut\.",
            r"visual.trunk.patch_embed.backbone.\1.shortcut.expand.",
        ),
        (
            r"^vision\.patch_embed\.(stages\.\d\.\d)\.ln\.",
            r"visual.trunk.patch_embed.backbone.\1.pre_norm.",
        ),
        (
            r"^vision\.patch_embed\.(stages\.\d\.\d)\.expand\.",
            r"visual.trunk.patch_embed.backbone.\1.conv1_1x1.",
        ),
        (
            r"^vision\.patch_embed\.(stages\.\d\.\d)\.depthwise\.",
            r"visual.trunk.patch_embed.backbone.\1.conv2_kxk.",
        ),
        (
            r"^vision\.patch_embed\.(stages\.\d\.\d)\.reduce\.",
            r"visual.trunk.patch_embed.backbone.\1.conv3_1x1.",
        ),
    ),
}
FASTVIT: Rules = (
    (
        r"^vision\.(stages\.\d+)\.downsample\.0\.(large|small)\.",
        r"visual.trunk.\1.downsample.proj.0.\2_conv.",
    ),
    (r"^vision\.(stages\.\d+)\.downsample\.", r"vision.\1.downsample.proj."),
    (r"^vision\.(stages\.\d+)\.position\.conv\.", r"visual.trunk.\1.pos_emb.pos_enc."),
    (r"^vision\.(.*)\.mixer\.norm\.", r"visual.trunk.\1.token_mixer.norm.identity."),
    (r"^vision\.(.*)\.mixer\.scale", r"visual.trunk.\1.token_mixer.layer_scale.gamma"),
    (r"^vision\.(.*)\.mixer\.", r"vision.\1.token_mixer.mixer."),
    (r"^vision\.(.*)\.mlp\.filter\.", r"visual.trunk.\1.mlp.conv."),
    (r"^vision\.(.*)\.scale(_[12])?$", r"visual.trunk.\1.layer_scale\2.gamma"),
    (r"^vision\.(.*)\.qkv\.", r"visual.trunk.\1.token_mixer.qkv."),
    (r"^vision\.(.*)\.out\.", r"visual.trunk.\1.token_mixer.proj."),
    (r"^vision\.final\.", "vision.final_conv."),
    (r"^vision\.(.*)\.main\.", r"visual.trunk.\1.conv_kxk.0."),
    (r"^vision\.(.*)\.point\.", r"visual.trunk.\1.conv_scale."),
    (r"^vision\.(.*)\.squeeze\.", r"visual.trunk.\1.se."),
    (r"^vision\.proj\.", "visual.trunk.head.fc."),
    (r"^vision\.", "visual.trunk."),
)


def timm_vit_rules(vision: TimmViTConfig) -> Rules:
    """Return the table of an image tower."""
    mean = vision.pool == "mean"
    return (
        *STEMS[vision.stem],
        *POOL,
        *{"gated": SWIGLU, "geglu": GEGLU}.get(vision.block, ()),
        *BLOCKS,
        (r"^vision\.class_embed", "visual.trunk.cls_token[None]"),
        (r"^vision\.pos_embed", "visual.trunk.pos_embed[None]"),
        (r"^vision\.ln_pre\.", "visual.trunk.norm_pre."),
        (r"^vision\.ln_post\.", "visual.trunk.fc_norm." if mean else "visual.trunk.norm."),
        (r"^vision\.proj\.", "visual.trunk.head." if vision.proj_bias else "visual.head.proj."),
        (r"^vision\.", "visual.trunk."),
    )
