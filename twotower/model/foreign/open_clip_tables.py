"""Names of open_clip's tensors: a table for each tower, joined for a model.

Each pattern begins with the tower, so that no rule of one applies to the other.
"""

from __future__ import annotations

from twotower.model.config import (
    BertConfig,
    CLIPConfig,
    ConvNeXtConfig,
    TextConfig,
    TextTransformerConfig,
    VisionConfig,
    ViTConfig,
)
from twotower.model.foreign.timm_tables import FASTVIT, timm_vit_rules
from twotower.model.trunk_configs import FastViTConfig, TimmViTConfig

Rules = tuple[tuple[str, str], ...]

CLIP_VISION: Rules = (
    (r"^vision\.pool\.query", "visual.attn_pool.query[:1]"),
    (r"^vision\.pool\.([qkv])\.weight", r"visual.attn_pool.attn.\1_proj_weight"),
    (r"^vision\.pool\.bias", "visual.attn_pool.attn.in_proj_bias"),
    (r"^vision\.pool\.out\.", "visual.attn_pool.attn.out_proj."),
    (r"^vision\.pool\.", "visual.attn_pool."),
    (r"^vision\.proj\.weight", "visual.proj.T"),
    (r"^vision\.patch_embed\.", "visual.conv1."),
    (r"^vision\.class_embed", "visual.class_embedding"),
    (r"^vision\.pos_embed", "visual.positional_embedding"),
    (r"^vision\.(blocks\..*)\.attn\.qkv\.", r"vision.\1.attn.in_proj_"),
    (r"^vision\.(blocks\..*)\.attn\.out\.", r"vision.\1.attn.out_proj."),
    (r"^vision\.(blocks\..*)\.mlp\.fc1\.", r"vision.\1.mlp.c_fc."),
    (r"^vision\.(blocks\..*)\.mlp\.fc2\.", r"vision.\1.mlp.c_proj."),
    (r"^vision\.blocks\.", "visual.transformer.resblocks."),
    (r"^vision\.(.*)\.downsample\.conv\.", r"vision.\1.downsample.0."),
    (r"^vision\.(.*)\.downsample\.bn\.", r"vision.\1.downsample.1."),
    (r"^vision\.(stem|stages)\.", "visual."),
    (r"^vision\.attnpool\.pos_embed", "visual.attnpool.positional_embedding"),
    (r"^vision\.attnpool\.([qkv])\.", r"visual.attnpool.\1_proj."),
    (r"^vision\.attnpool\.out\.", "visual.attnpool.c_proj."),
    (r"^vision\.", "visual."),
)
TIMM_VIT: Rules = (
    (r"^vision\.patch_embed\.", "visual.trunk.patch_embed.proj."),
    (r"^vision\.pos_embed", "visual.trunk.pos_embed[None]"),
    (r"^vision\.class_embed", "visual.trunk.cls_token[None]"),
    (r"^vision\.pool\.probe", "visual.trunk.attn_pool.latent"),
    (r"^vision\.pool\.qkv\.", "visual.trunk.attn_pool.{q,kv}."),
    (r"^vision\.pool\.out\.", "visual.trunk.attn_pool.proj."),
    (r"^vision\.pool\.ln\.", "visual.trunk.attn_pool.norm."),
    (r"^vision\.pool\.mlp\.", "visual.trunk.attn_pool.mlp."),
    (r"^vision\.ln_post\.", "visual.trunk.norm."),
    (r"^vision\.proj\.", "visual.head.proj."),
    (r"^vision\.blocks\.(\d+)\.ln_([12])\.", r"visual.trunk.blocks.\1.norm\2."),
    (r"^vision\.blocks\.(\d+)\.attn\.out\.", r"visual.trunk.blocks.\1.attn.proj."),
    (r"^vision\.blocks\.", "visual.trunk.blocks."),
)
CONVNEXT: Rules = (
    (r"^vision\.stem\.conv\.", "visual.trunk.stem.0."),
    (r"^vision\.stem\.norm\.", "visual.trunk.stem.1."),
    (r"^vision\.(.*)\.downsample\.norm\.", r"vision.\1.downsample.0."),
    (r"^vision\.(.*)\.downsample\.conv\.", r"vision.\1.downsample.1."),
    (r"^vision\.(stages\..*)\.conv\.", r"vision.\1.conv_dw."),
    (r"^vision\.(stages\..*)\.scale$", r"vision.\1.gamma"),
    (r"^vision\.ln_post\.", "visual.trunk.head.norm."),
    (r"^vision\.proj\.(fc[12])\.", r"visual.head.mlp.\1."),
    (r"^vision\.proj\.", "visual.head.proj."),
    (r"^vision\.", "visual.trunk."),
)
CLIP_TEXT: Rules = (
    (r"^(text\..*)\.attn\.qkv\.", r"\1.attn.in_proj_"),
    (r"^(text\..*)\.attn\.out\.", r"\1.attn.out_proj."),
    (r"^(text\..*)\.mlp\.fc1\.", r"\1.mlp.c_fc."),
    (r"^(text\..*)\.mlp\.fc2\.", r"\1.mlp.c_proj."),
    (r"^text\.token_embed\.", "text.token_embedding."),
    (r"^text\.pos_embed", "text.positional_embedding"),
    (r"^text\.class_embed", "text.cls_emb"),
    (r"^text\.blocks\.", "text.transformer.resblocks."),
)
# Encoders of transformers, which open_clip has under `text.transformer.`
BERT_BLOCKS: Rules = (
    (r"^(text\.blocks\..*)\.attn\.qkv\.", r"\1.attention.self.{query,key,value}."),
    (r"^(text\.blocks\..*)\.attn\.out\.", r"\1.attention.output.dense."),
    (r"^(text\.blocks\..*)\.ln_1\.", r"\1.attention.output.LayerNorm."),
    (r"^(text\.blocks\..*)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(text\.blocks\..*)\.mlp\.fc2\.", r"\1.output.dense."),
    (r"^(text\.blocks\..*)\.ln_2\.", r"\1.output.LayerNorm."),
    (r"^text\.blocks\.", "text.encoder.layer."),
    (r"^text\.token_embed\.", "text.embeddings.word_embeddings."),
    (r"^text\.pos_embed", "text.embeddings.position_embeddings.weight"),
    (r"^text\.type_embed", "text.embeddings.token_type_embeddings.weight"),
    (r"^text\.ln_embed\.", "text.embeddings.LayerNorm."),
    (r"^text\.pooler\.", "text.pooler.dense."),
)
NLLB_BLOCKS: Rules = (
    (r"^(text\.blocks\..*)\.attn\.qkv\.", r"\1.self_attn.{q,k,v}_proj."),
    (r"^(text\.blocks\..*)\.attn\.out\.", r"\1.self_attn.out_proj."),
    (r"^(text\.blocks\..*)\.ln_1\.", r"\1.self_attn_layer_norm."),
    (r"^(text\.blocks\..*)\.ln_2\.", r"\1.final_layer_norm."),
    (r"^(text\.blocks\..*)\.mlp\.", r"\1."),
    (r"^text\.blocks\.", "text.layers."),
    (r"^text\.token_embed\.", "text.embed_tokens."),
    (r"^text\.ln_final\.", "text.layer_norm."),
)
AFFINE_PROJECTION: Rules = ((r"^text\.proj\.", "text.text_projection."),)
LINEAR_PROJECTION: Rules = ((r"^text\.proj\.weight", "text.text_projection.T"),)


def open_clip_table(config: CLIPConfig, prefix: str) -> Rules:
    """Return the table of a model.

    Args:
        prefix: of the text tower's tensors, "text." in models with `custom_text`, else "".
    """
    text = config.text
    rules = (*_vision_rules(config.vision), *_text_rules(text))
    return rules if prefix else (*rules, (r"^text\.", ""))


def _vision_rules(vision: VisionConfig) -> Rules:
    if isinstance(vision, TimmViTConfig):
        return timm_vit_rules(vision)
    if isinstance(vision, FastViTConfig):
        return FASTVIT
    if isinstance(vision, ViTConfig) and (vision.pool == "map" or vision.patch_bias):
        return TIMM_VIT
    if isinstance(vision, ConvNeXtConfig):
        return CONVNEXT
    return CLIP_VISION


def _text_rules(text: TextConfig) -> Rules:
    if isinstance(text, BertConfig):
        blocks = NLLB_BLOCKS if text.pre_norm else BERT_BLOCKS
        return (*blocks, (r"^text\.(?!proj\.)", "text.transformer."))
    assert isinstance(text, TextTransformerConfig)
    affine = text.projection == "affine" or (text.projection is None and not text.causal)
    return (*CLIP_TEXT, *(AFFINE_PROJECTION if affine else LINEAR_PROJECTION))
