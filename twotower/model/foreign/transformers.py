"""transformers directories of CLIP and SigLIP: `config.json`, the image processor's, weights.

Defaults are those of transformers 5 (`models/clip/configuration_clip.py` and siglip's), which omits
values that equal them when it saves a config.json. Keys that transformers ignores are ignored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower.errors import ModelError
from twotower.inputs.byte_pairs import clip_vocabulary
from twotower.inputs.preprocess import OPENAI_MEAN, OPENAI_STD, PreprocessConfig, Resize
from twotower.inputs.tokenizer import (
    OPENAI_TOKENIZER,
    SIGLIP2_TOKENIZER,
    SIGLIP_TOKENIZER,
    TokenizerConfig,
)
from twotower.model.config import (
    Activation,
    BertConfig,
    CLIPConfig,
    TextTransformerConfig,
    ViTConfig,
)
from twotower.model.foreign.hub_tokenizer import BERT, ROBERTA, T5, hub_tokenizer
from twotower.model.foreign.naflex import read_canvas, read_naflex
from twotower.model.foreign.open_clip_tables import BERT_BLOCKS
from twotower.model.foreign.rename import (
    CONVERTIBLE,
    Channels,
    ForeignModel,
    Settings,
    export_tensors,
    import_tensors,
    read_json,
    read_tensors,
)
from twotower.model.trunk_configs import NaFlexConfig
from twotower.model.weight_files import WEIGHTS_FILE, Tensors, save_arrays

MODEL_TYPES = ("chinese_clip", "clip", "metaclip_2", "siglip", "siglip2")
CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"

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
CHINESE_TABLE = (
    *BERT_BLOCKS,
    (r"^text\.proj\.", "text_projection."),
    (r"^text\.", "text_model."),
    *((ours, theirs) for ours, theirs in TABLE if "text" not in ours),
    (r"^vision\.blocks\.", "vision_model.encoder.layers."),
)
CHINESE_NO_WEIGHTS = r"(vision|text)_model\.embeddings\.position_ids|text_model\.pooler\..*"
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
CHINESE_TEXT: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
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
}


def read_transformers(directory: Path) -> ForeignModel:
    """Read a directory of `CLIPModel`, `SiglipModel` or `Siglip2Model`.

    Raises:
        ModelError: an unsupported setting, or weights that cannot be read or do not fit.
    """
    config = read_settings(directory)
    theirs = read_tensors(directory, "model", "pytorch_model.bin")
    if isinstance(config.text, BertConfig):
        table, ignored = CHINESE_TABLE, CHINESE_NO_WEIGHTS
    else:
        table, ignored = SIGLIP_TABLE if config.logit_bias else CLIP_TABLE, POSITION_IDS
    tensors = import_tensors(config, table, theirs, directory, ignored)
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
    if kind not in MODEL_TYPES:
        raise ModelError(path, f"model_type is {kind!r}", f"supported are {', '.join(MODEL_TYPES)}")
    if kind == "chinese_clip":
        return _chinese_clip_settings(directory, tree)
    siglip = kind in ("siglip", "siglip2")
    preprocess = None
    if kind == "siglip2":
        preprocess = read_canvas(_image_processor(directory))
        sizes = SIGLIP_VISION | (tree.get("vision_config") or {})
        vision: ViTConfig | NaFlexConfig = read_naflex(sizes, preprocess, path)
    else:
        vision = _vision(_tower(tree, "vision", siglip, path), siglip)
    settings = _tower(tree, "text", siglip, path)
    eos_id = settings.unread.get("eos_token_id", 2)
    text = _text(settings, siglip)
    if siglip:
        _check_projection(settings, text.width, vision.width)
    if kind == "metaclip_2":
        text = replace(text, eos_id=eos_id)
        tokenizer = _metaclip_2_tokenizer(directory, text.context_length)
    else:
        tokenizer = _tokenizer(directory, text, siglip)
    return CLIPConfig(
        name=directory.name,
        embed_dim=vision.width if siglip else Settings(tree, str(path)).read("projection_dim", 512),
        vision=vision,
        text=text,
        preprocess=preprocess or _preprocess(directory, vision.image_size, siglip),
        tokenizer=tokenizer,
        logit_bias=siglip,
    )


def _chinese_clip_settings(directory: Path, tree: Mapping[str, Any]) -> CLIPConfig:
    """Read a `ChineseCLIPModel`'s configuration: CLIP's image tower and a BERT, pooled at [CLS]."""
    path = directory / CONFIG
    vision = _vision(_tower(tree, "vision", False, path), False)
    settings = _tower(tree, "text", False, path)
    positions = settings.read("max_position_embeddings", CHINESE_TEXT["max_position_embeddings"])
    text = BertConfig(
        context_length=positions,
        vocab_size=settings.read("vocab_size", CHINESE_TEXT["vocab_size"]),
        pad_id=settings.pop("pad_token_id", 0),
        positions=positions,
        first_position=0,
        token_types=settings.read("type_vocab_size", CHINESE_TEXT["type_vocab_size"]),
        pool="first",
        projection="linear",
        **_shape(settings, CHINESE_TEXT),
    )
    return CLIPConfig(
        name=directory.name,
        embed_dim=Settings(tree, str(path)).read("projection_dim", 512),
        vision=vision,
        text=text,
        preprocess=_preprocess(directory, vision.image_size, False),
        tokenizer=hub_tokenizer(directory, BERT, "none", text.context_length),
    )


def _tower(tree: Mapping[str, Any], tower: str, siglip: bool, path: Path) -> Settings:
    """Return the settings of a tower.

    transformers' CLIP prefers `vision_config_dict` and `text_config_dict`, which old versions
    wrote, to the sections named after the towers, and takes nothing else from the latter.
    """
    section = f"{tower}_config"
    if not siglip and tree.get(f"{section}_dict") is not None:
        section = f"{section}_dict"
    return Settings(tree.get(section) or {}, f"{path}: {section}")


def _activation(settings: Settings, default: str) -> Activation:
    name = settings.read("hidden_act", default)
    if name not in ACTIVATIONS:
        raise ModelError(
            settings.section,
            f"hidden_act is {name!r}",
            f"supported are {', '.join(ACTIVATIONS)}",
        )
    return ACTIVATIONS[name]


def _vision(settings: Settings, siglip: bool) -> ViTConfig:
    defaults = SIGLIP_VISION if siglip else CLIP_VISION
    settings.expect("vision_use_head", True)  # without it there is no pooled vector
    settings.expect("num_channels", 3)
    return ViTConfig(
        image_size=settings.side("image_size", defaults["image_size"]),
        patch_size=settings.side("patch_size", defaults["patch_size"]),
        pool="map" if siglip else "class",
        **_shape(settings, defaults),
    )


def _shape(settings: Settings, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that both towers have."""
    width = settings.read("hidden_size", defaults["hidden_size"])
    heads = settings.read("num_attention_heads", defaults["num_attention_heads"])
    if width % heads:
        raise settings.unsupported("num_attention_heads", heads)
    return {
        "width": width,
        "heads": heads,
        "layers": settings.read("num_hidden_layers", defaults["num_hidden_layers"]),
        "mlp_width": settings.read("intermediate_size", defaults["intermediate_size"]),
        "activation": _activation(settings, defaults["hidden_act"]),
        "eps": settings.read("layer_norm_eps", defaults["layer_norm_eps"]),
    }


def _check_projection(settings: Settings, width: int, embed_dim: int) -> None:
    """Raise `ModelError` unless texts are projected to the width of the image tower."""
    size = settings.pop("projection_size") or width
    if size != embed_dim:
        raise settings.unsupported("projection_size", size)


def _text(settings: Settings, siglip: bool) -> TextTransformerConfig:
    defaults = SIGLIP_TEXT if siglip else CLIP_TEXT
    shape = _shape(settings, defaults)
    vocab_size = settings.read("vocab_size", defaults["vocab_size"])
    eos_id = None if siglip else settings.read("eos_token_id", defaults["eos_token_id"])
    if eos_id == 2:  # of old files; transformers then pools at the largest id
        eos_id = vocab_size - 1
    return TextTransformerConfig(
        context_length=settings.read(
            "max_position_embeddings", defaults["max_position_embeddings"]
        ),
        vocab_size=vocab_size,
        eos_id=eos_id,
        **shape,
    )


def _tokenizer(directory: Path, text: TextTransformerConfig, siglip: bool) -> TokenizerConfig:
    """Describe the tokenizer: transformers' cleaning, and the vocabulary of the directory."""
    length = text.context_length
    if not siglip:
        if text.vocab_size != 49408:
            raise ModelError(
                directory,
                f"vocab_size is {text.vocab_size}, but CLIP's vocabulary has 49408",
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
    if text.vocab_size >= 256_000:  # Gemma's, of SigLIP 2, which keeps punctuation
        return replace(SIGLIP2_TOKENIZER, context_length=length)
    return replace(
        SIGLIP_TOKENIZER,
        kind="tokenizers",
        cleaning="lower_no_punctuation",
        context_length=length,
        file="tokenizer.json",
    )


def _metaclip_2_tokenizer(directory: Path, context_length: int) -> TokenizerConfig:
    """Describe the tokenizer of XLM-V, or of mT5 in the smaller models."""
    settings = directory / "tokenizer_config.json"
    kind = read_json(settings).get("tokenizer_class", "") if settings.exists() else ""
    return hub_tokenizer(directory, T5 if "T5" in kind else ROBERTA, "none", context_length)


def _preprocess(directory: Path, image_size: int, siglip: bool) -> PreprocessConfig:
    settings = _image_processor(directory)
    siglip = _is_siglip_processor(settings, siglip)
    settings.expect("do_resize", True)
    settings.expect("do_pad", False, None)
    settings.expect("use_square_size", False, None)
    resample = settings.pop("resample", 3)
    if resample not in (2, 3):
        raise ModelError(
            settings.section,
            f"resample is {resample!r}",
            "supported are 2 (bilinear) and 3 (bicubic)",
        )
    mean, std = _normalization(settings, siglip)
    return PreprocessConfig(
        image_size=image_size,
        resize=_resize(settings, image_size, siglip),
        interpolation="bicubic" if resample == 3 else "bilinear",
        mean=mean,
        std=std,
        rgb="before_resize",
        crop_offset="floor",
    )


def _image_processor(directory: Path) -> Settings:
    """Return the settings of the image processor, which has a file of its own before version 5.

    As in transformers, the newer file is preferred.
    """
    path = directory / PROCESSOR
    tree = read_json(path).get("image_processor") if path.exists() else None
    section = f"{path}: image_processor"
    if tree is None:
        path = directory / PREPROCESSOR
        section = str(path)
        if not path.exists():
            raise ModelError(
                path, f"no such file, and no image_processor in {PROCESSOR}", "save the processor"
            )
        tree = read_json(path)
    return Settings(tree, section)


def _flag(settings: Settings, key: str, default: bool) -> bool:
    """Read a flag; null means false, as in transformers."""
    if settings.unread.get(key, default) is None:
        settings.unread[key] = False
    return settings.read(key, default)


def _is_siglip_processor(settings: Settings, siglip: bool) -> bool:
    """Return True if defaults are those of SigLIP's processor, which a CLIP may have."""
    default = "SiglipImageProcessor" if siglip else "CLIPImageProcessor"
    older = settings.pop("feature_extractor_type") or default
    name = str(settings.pop("image_processor_type") or older)
    if not re.fullmatch(
        r"((Chinese)?CLIP|Siglip)(ImageProcessor(Fast|Pil)?|FeatureExtractor)", name
    ):
        raise settings.unsupported("image_processor_type", name)
    return name.startswith("Siglip")


def _normalization(settings: Settings, siglip: bool) -> tuple[Channels, Channels]:
    """Return mean and standard deviation of values in 0..1, from those of any other range."""
    half, scale = (0.5, 0.5, 0.5), 255.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _flag(settings, "do_rescale", True):
        scale *= settings.read("rescale_factor", 1 / 255)
    if math.isclose(scale, 1):
        scale = 1.0
    if _flag(settings, "do_normalize", True):
        mean = settings.channels("image_mean", half if siglip else OPENAI_MEAN)
        std = settings.deviations("image_std", half if siglip else OPENAI_STD)
    return (
        (mean[0] / scale, mean[1] / scale, mean[2] / scale),
        (std[0] / scale, std[1] / scale, std[2] / scale),
    )


def _resize(settings: Settings, image_size: int, siglip: bool) -> Resize:
    square = {"height": 224, "width": 224}
    to_square = _flag(settings, "default_to_square", False)
    size = _edges(settings, "size", square if siglip else {"shortest_edge": 224}, to_square)
    squash, crop = size.keys() == {"height", "width"}, _flag(settings, "do_center_crop", not siglip)
    if not squash and size.keys() != {"shortest_edge"}:
        raise settings.unsupported("size", size)
    if not squash and not crop:
        raise settings.unsupported("do_center_crop", crop)
    edges = set(size.values())
    if crop:
        edges |= set(_edges(settings, "crop_size", square, to_square=True).values())
    if edges != {image_size}:
        raise ModelError(
            settings.section,
            f"makes pictures of {sorted(edges)} pixels, but vision_config.image_size in {CONFIG} "
            f"is {image_size}",
            "give both files of the same model",
        )
    return "squash" if squash else "shortest"


def _edges(
    settings: Settings, key: str, default: dict[str, int], to_square: bool
) -> dict[str, int]:
    """Read a size: a number, [height, width] or an object."""
    size = settings.pop(key, default)
    if isinstance(size, list) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    elif not isinstance(size, dict):
        size = {"height": size, "width": size} if to_square else {"shortest_edge": size}
    edges = {edge: length for edge, length in size.items() if length is not None}
    if not edges or not all(type(length) is int for length in edges.values()):
        raise settings.unsupported(key, size)
    return edges


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
    if vision.pool != ("map" if config.logit_bias else "class") or not _is_plain(config):
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


def _is_plain(config: CLIPConfig) -> bool:
    """Return True for towers whose settings are those of `CLIPModel` or `SiglipModel`."""
    vision, text = config.vision, config.text
    assert isinstance(vision, ViTConfig) and isinstance(text, TextTransformerConfig)
    if vision.no_ln_pre or vision.patch_bias or text.class_token or text.projection:
        return False
    if not text.causal:
        return config.logit_bias
    return not config.logit_bias and config.tokenizer.kind == "bpe"


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
            "projection_size" if config.logit_bias else "projection_dim": config.embed_dim,
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
