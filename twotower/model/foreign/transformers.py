"""transformers directories of CLIP and SigLIP: `config.json`, `preprocessor_config.json`, weights.

Defaults are those of transformers 5 (`models/clip/configuration_clip.py` and siglip's), which omits
values that equal them when it saves a config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from twotower.errors import ModelError
from twotower.inputs.byte_pairs import clip_vocabulary
from twotower.inputs.preprocess import OPENAI_MEAN, OPENAI_STD, PreprocessConfig
from twotower.inputs.tokenizer import (
    OPENAI_TOKENIZER,
    SIGLIP2_TOKENIZER,
    SIGLIP_TOKENIZER,
    TokenizerConfig,
)
from twotower.model.config import Activation, CLIPConfig, TextTransformerConfig, ViTConfig
from twotower.model.foreign.rename import (
    CONVERTIBLE,
    ForeignModel,
    export_tensors,
    import_tensors,
    read_json,
    read_tensors,
)
from twotower.model.weight_files import WEIGHTS_FILE, Tensors, save_arrays

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"

TABLE = (
    (r"^(vision|text)\.blocks\.", r"\1_model.encoder.layers."),
    (r"\.attn\.qkv\.", ".self_attn.{q,k,v}_proj."),
    (r"\.attn\.out\.", ".self_attn.out_proj."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"^vision\.patch_embed\.", "vision_model.embeddings.patch_embedding."),
    (r"^vision\.class_embed", "vision_model.embeddings.class_embedding"),
    (r"^vision\.pos_embed", "vision_model.embeddings.position_embedding.weight"),
    (r"^vision\.ln_pre\.", "vision_model.pre_layrnorm."),  # sic
    (r"^vision\.ln_post\.", "vision_model.post_layernorm."),
    (r"^vision\.proj\.", "visual_projection."),
    (r"^vision\.pool\.probe", "vision_model.head.probe"),
    (r"^vision\.pool\.qkv\.", "vision_model.head.attention.in_proj_"),
    (r"^vision\.pool\.out\.", "vision_model.head.attention.out_proj."),
    (r"^vision\.pool\.ln\.", "vision_model.head.layernorm."),
    (r"^vision\.pool\.mlp\.", "vision_model.head.mlp."),
    (r"^text\.token_embed\.", "text_model.embeddings.token_embedding."),
    (r"^text\.pos_embed", "text_model.embeddings.position_embedding.weight"),
    (r"^text\.ln_final\.", "text_model.final_layer_norm."),
)
# The words of CLIP's tokenizer, as a regular expression of Rust.
HUB_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
CLIP_TABLE = (*TABLE, (r"^text\.proj\.", "text_projection."))
SIGLIP_TABLE = (
    *TABLE,
    (r"^text\.proj\.", "text_model.head."),
    (r"^(logit_scale|logit_bias)", r"\1[None]"),
)
# Old files have the positions 0, 1, 2, ... as a buffer.
POSITION_IDS = r"(vision|text)_model\.embeddings\.position_ids"

ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
CLIP_VISION: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
CLIP_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
SIGLIP_VISION = CLIP_VISION | {
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
SIGLIP_TEXT: dict[str, Any] = CLIP_TEXT | {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "max_position_embeddings": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "projection_size": None,
}


def read_transformers(directory: Path) -> ForeignModel:
    """Read a directory saved by `CLIPModel` or `SiglipModel`, or a download of one.

    Raises:
        ModelError: an unsupported setting, or weights that cannot be read or do not fit.
    """
    config = read_settings(directory)
    theirs = read_tensors(directory, "model", "pytorch_model.bin")
    table = SIGLIP_TABLE if config.logit_bias else CLIP_TABLE
    tensors = import_tensors(config, table, theirs, directory, POSITION_IDS)
    file = config.tokenizer.file
    return ForeignModel(config, tensors, (directory / file,) if file else ())


def read_settings(directory: Path) -> CLIPConfig:
    """Read the configuration of a directory, whose weights may be in another format.

    Raises:
        ModelError: an unsupported setting.
    """
    path = directory / CONFIG
    tree = read_json(path)
    if tree.get("model_type") == "clip_vision_model":  # of a pair of ONNX graphs
        tree = {"model_type": "clip", "vision_config": tree}
    kind = tree.get("model_type")
    if kind not in ("clip", "siglip"):
        raise ModelError(path, f"model_type is {kind!r}", "give one of type 'clip' or 'siglip'")
    siglip = kind == "siglip"
    defaults = (SIGLIP_VISION, SIGLIP_TEXT) if siglip else (CLIP_VISION, CLIP_TEXT)
    vision_tree = defaults[0] | (tree.get("vision_config") or {})
    text_tree = defaults[1] | (tree.get("text_config") or {})
    vision = _vision(vision_tree, "map" if siglip else "class", path)
    return CLIPConfig(
        name=directory.name,
        embed_dim=vision.width if siglip else tree.get("projection_dim", 512),
        vision=vision,
        text=_text(text_tree, siglip, path),
        preprocess=_preprocess(directory, vision.image_size, siglip),
        tokenizer=_tokenizer(directory, text_tree, siglip),
        logit_bias=siglip,
    )


def _activation(tree: Mapping[str, Any], path: Path) -> Activation:
    name = tree["hidden_act"]
    if name not in ACTIVATIONS:
        raise ModelError(path, f"hidden_act is {name!r}", f"supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _vision(tree: Mapping[str, Any], pool: Literal["class", "map"], path: Path) -> ViTConfig:
    if not tree.get("vision_use_head", True):
        raise ModelError(
            path, "vision_use_head is false, so there is no pooled vector", CONVERTIBLE
        )
    return ViTConfig(
        image_size=tree["image_size"],
        patch_size=tree["patch_size"],
        width=tree["hidden_size"],
        layers=tree["num_hidden_layers"],
        heads=tree["num_attention_heads"],
        mlp_width=tree["intermediate_size"],
        activation=_activation(tree, path),
        pool=pool,
        eps=tree["layer_norm_eps"],
    )


def _text(tree: Mapping[str, Any], siglip: bool, path: Path) -> TextTransformerConfig:
    if siglip and tree["projection_size"] not in (None, tree["hidden_size"]):
        raise ModelError(
            path, f"projection_size is {tree['projection_size']}, not hidden_size", CONVERTIBLE
        )
    eos_id = tree["eos_token_id"]
    if eos_id == 2:  # of old files; transformers then pools at the largest id
        eos_id = tree["vocab_size"] - 1
    return TextTransformerConfig(
        context_length=tree["max_position_embeddings"],
        vocab_size=tree["vocab_size"],
        width=tree["hidden_size"],
        layers=tree["num_hidden_layers"],
        heads=tree["num_attention_heads"],
        mlp_width=tree["intermediate_size"],
        activation=_activation(tree, path),
        eos_id=None if siglip else eos_id,
        eps=tree["layer_norm_eps"],
    )


def _tokenizer(directory: Path, text: Mapping[str, Any], siglip: bool) -> TokenizerConfig:
    """Describe the tokenizer: transformers' cleaning, and the vocabulary of the directory."""
    length = text["max_position_embeddings"]
    if not siglip:
        if text["vocab_size"] != 49408:
            raise ModelError(
                directory,
                f"vocab_size is {text['vocab_size']}, but CLIP's vocabulary has 49408",
                CONVERTIBLE,
            )
        return replace(
            OPENAI_TOKENIZER, cleaning="huggingface", pad_id=49407, context_length=length
        )
    sentence_piece = directory / "spiece.model"
    if sentence_piece.exists():
        return replace(SIGLIP_TOKENIZER, cleaning="lower_no_punctuation", context_length=length)
    if not (directory / "tokenizer.json").exists():
        raise ModelError(
            directory, "holds neither spiece.model nor tokenizer.json", "add the vocabulary"
        )
    if text["vocab_size"] >= 256_000:  # Gemma's, of SigLIP 2, which keeps punctuation
        return replace(SIGLIP2_TOKENIZER, context_length=length)
    return replace(
        SIGLIP_TOKENIZER,
        kind="tokenizers",
        cleaning="lower_no_punctuation",
        context_length=length,
        file="tokenizer.json",
    )


def _preprocess(directory: Path, image_size: int, siglip: bool) -> PreprocessConfig:
    path = directory / PREPROCESSOR
    tree = read_json(path)
    half = (0.5, 0.5, 0.5)
    size, crop = tree.get("size", image_size), tree.get("crop_size", image_size)
    edges = {size} if isinstance(size, int) else set(size.values())
    if tree.get("do_center_crop", not siglip):
        edges |= {crop} if isinstance(crop, int) else set(crop.values())
        squash = False
    else:
        squash = isinstance(size, int) or "height" in size
    if edges != {image_size}:
        raise ModelError(
            path,
            f"makes pictures of {sorted(edges)} pixels, but vision_config.image_size in {CONFIG} "
            f"is {image_size}",
            "give both files of the same model",
        )
    resample = tree.get("resample", 3)
    if resample not in (2, 3):
        raise ModelError(
            path, f"resample is {resample}", "supported are 2 (bilinear) and 3 (bicubic)"
        )
    return PreprocessConfig(
        image_size=image_size,
        resize="squash" if squash else "shortest",
        interpolation="bicubic" if resample == 3 else "bilinear",
        mean=tuple(tree.get("image_mean", half if siglip else OPENAI_MEAN)),
        std=tuple(tree.get("image_std", half if siglip else OPENAI_STD)),
        rgb="before_resize",
        crop_offset="floor",
    )


def write_transformers(config: CLIPConfig, tensors: Tensors, directory: Path) -> None:
    """Write a directory for `CLIPModel.from_pretrained` or `SiglipModel.from_pretrained`.

    CLIP's vocabulary is written; any other must exist in `directory`.

    Raises:
        ModelError: neither transformers' CLIP nor its SigLIP has this architecture.
    """
    write_settings(config, directory)
    table = SIGLIP_TABLE if config.logit_bias else CLIP_TABLE
    save_arrays(export_tensors(table, tensors), directory / WEIGHTS_FILE, {"format": "pt"})


def write_settings(config: CLIPConfig, directory: Path) -> None:
    """Write the files of `write_transformers` other than the weights.

    Raises:
        ModelError: neither transformers' CLIP nor its SigLIP has this architecture.
    """
    vision, text = config.vision, config.text
    if not isinstance(vision, ViTConfig) or not isinstance(text, TextTransformerConfig):
        raise ModelError(
            config.name,
            f"transformers' CLIP has no {vision.kind} with {text.kind} towers",
            "keep it in twotower's format",
        )
    if (vision.pool == "map") != config.logit_bias or text.causal == config.logit_bias:
        raise ModelError(
            config.name,
            "neither transformers' CLIP nor its SigLIP has this architecture",
            "keep it in twotower's format",
        )
    siglip = config.logit_bias
    tree = {
        "architectures": ["SiglipModel" if siglip else "CLIPModel"],
        "model_type": "siglip" if siglip else "clip",
        "projection_dim": config.embed_dim,
        "vision_config": _vision_tree(vision, config.embed_dim),
        "text_config": _text_tree(text, config),
    }
    if siglip:
        del tree["projection_dim"]
    _write_json(directory / CONFIG, tree)
    _write_json(directory / PREPROCESSOR, _preprocessor_tree(config.preprocess, siglip))
    if config.tokenizer.kind == "bpe":
        _write_clip_tokenizer(config, directory)


def _vision_tree(vision: ViTConfig, embed_dim: int) -> dict[str, Any]:
    return _tower_tree(vision) | {
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "projection_dim": embed_dim,
    }


def _text_tree(text: TextTransformerConfig, config: CLIPConfig) -> dict[str, Any]:
    ids = {
        "bos_token_id": config.tokenizer.bos_id,
        "eos_token_id": text.eos_id if text.causal else config.tokenizer.eos_id,
        "pad_token_id": config.tokenizer.pad_id,
    }
    return (
        _tower_tree(text)
        | ids
        | {
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "projection_dim": config.embed_dim,
        }
    )


def _tower_tree(tower: ViTConfig | TextTransformerConfig) -> dict[str, Any]:
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": names[tower.activation],
        "layer_norm_eps": tower.eps,
    }


def _preprocessor_tree(preprocess: PreprocessConfig, siglip: bool) -> dict[str, Any]:
    side = preprocess.image_size
    square = {"height": side, "width": side}
    squash = preprocess.resize == "squash"
    kind = "SiglipImageProcessor" if siglip else "CLIPImageProcessor"
    return {
        "image_processor_type": kind,
        "do_resize": True,
        "size": square if squash else {"shortest_edge": side},
        "do_center_crop": not squash,
        "crop_size": square,
        "resample": 3 if preprocess.interpolation == "bicubic" else 2,
        "do_convert_rgb": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": preprocess.mean,
        "image_std": preprocess.std,
    }


def _write_clip_tokenizer(config: CLIPConfig, directory: Path) -> None:
    vocabulary, merges = clip_vocabulary()
    _write_json(directory / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    _write_json(directory / "tokenizer.json", _clip_tokenizer_tree(vocabulary, merges))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": config.text.context_length}
    _write_json(directory / "tokenizer_config.json", settings | special)
    _write_json(directory / "special_tokens_map.json", special)


def _clip_tokenizer_tree(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Describe CLIP's tokenizer for the library `tokenizers` and for transformers.js."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, processors
    from tokenizers import pre_tokenizers as splitters

    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = Tokenizer(
        models.BPE(
            vocab=dict(vocabulary),
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=end,
        )
    )
    space = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), space, normalizers.Lowercase()])
    words = splitters.Split(Regex(HUB_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = splitters.Sequence([words, splitters.ByteLevel(False)])
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), False, False
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=token == start, special=True) for token in (start, end)]
    )
    tree: dict[str, Any] = json.loads(tokenizer.to_str())
    return tree


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
