"""open_clip directories: `open_clip_config.json` beside safetensors or a pickle.

Settings as in open_clip 3.3.0 (`model.py`, `tokenizer.py`, `model_configs/`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from twotower.errors import ModelError
from twotower.inputs.preprocess import (
    OPENAI_MEAN,
    OPENAI_STD,
    Interpolation,
    PreprocessConfig,
    Resize,
)
from twotower.inputs.tokenizer import (
    OPENAI_TOKENIZER,
    SIGLIP2_TOKENIZER,
    SIGLIP_TOKENIZER,
    Cleaning,
    TokenizerConfig,
)
from twotower.model.config import (
    Activation,
    CLIPConfig,
    ResNetConfig,
    TextConfig,
    TextTransformerConfig,
    VisionConfig,
    ViTConfig,
)
from twotower.model.foreign.hub_text import hub_text
from twotower.model.foreign.hub_tokenizer import hub_tokenizer, open_clip_cleaning, special_tokens
from twotower.model.foreign.open_clip_tables import open_clip_table
from twotower.model.foreign.rename import (
    ForeignModel,
    Settings,
    export_tensors,
    import_tensors,
    read_json,
    read_tensors,
)
from twotower.model.foreign.timm_towers import (
    FASTVITS,
    TIMM_TOWERS,
    read_fastvit,
    read_timm_tower,
)
from twotower.model.foreign.timm_trunks import timm_trunk
from twotower.model.weight_files import Arrays, Tensors, save_arrays

CONFIG, WEIGHTS, PICKLE = "open_clip_config.json", "open_clip_model", "open_clip_pytorch_model.bin"

# timm 1.0.31's SigLIP towers: name -> (width, layers, heads, mlp_width). Their activation is exact
# GELU, except in the towers of TIMM_TANH, and independent of the text tower's.
TIMM_WIDTHS = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
TIMM_TANH = ("base_patch32", "large_patch16_siglip_512", "so400m_patch16", "giantopt")

# Tensors that are no weights of the towers.
NO_WEIGHTS = (
    r"(text\.)?attn_mask|text_decoder\..*"
    r"|text\.transformer\.(embeddings\.position_ids|embed_positions\.weights)"
)

TOKENIZER_KEYS = ("tokenizer_mode", "hf_tokenizer_name", "tokenizer_kwargs")
IGNORED_KEYS = {
    "timm_model_pretrained",
    "patch_dropout",
    "output_tokens",
    "timm_drop",
    "timm_drop_path",
}


def read_open_clip(directory: Path) -> ForeignModel:
    """Read an open_clip directory, as its `hf-hub:` and `local-dir:` loaders expect it.

    Raises:
        ModelError: an unsupported setting, or weights that cannot be read or do not fit.
    """
    path = directory / CONFIG
    tree, theirs = read_json(path), read_tensors(directory, WEIGHTS, PICKLE)
    config = open_clip_config(tree, theirs, path)
    file = config.tokenizer.file
    files = (directory / file,) if file else ()
    return ForeignModel(config, import_open_clip(config, theirs, directory), files)


def open_clip_config(tree: Mapping[str, Any], theirs: Tensors, path: Path) -> CLIPConfig:
    """Read the content of an `open_clip_config.json`.

    Args:
        theirs: open_clip's tensors, which have the sizes of a text tower of transformers.
        path: of the file, for errors; the vocabulary is beside it.

    Raises:
        ModelError: an unsupported setting.
    """
    model = Settings(tree.get("model_cfg"), f"{path}: model_cfg")
    vision_cfg, text_cfg = model.pop("vision_cfg"), model.pop("text_cfg")
    activation: Activation = "quick_gelu" if model.read("quick_gelu", False) else "gelu"
    embed_dim, bias = model.pop("embed_dim"), model.pop("init_logit_bias")
    if type(embed_dim) is not int:
        raise model.unsupported("embed_dim", embed_dim)
    for key in ("custom_text", "init_logit_scale", "cast_dtype", "multimodal_cfg"):
        model.pop(key)
    model.finish()
    vision = _vision(Settings(vision_cfg, f"{path}: vision_cfg"), activation, embed_dim)
    text = _text(Settings(text_cfg, f"{path}: text_cfg"), theirs, activation)
    tokenizer = _tokenizer(Settings(text_cfg, f"{path}: text_cfg"), path.parent)
    return CLIPConfig(
        name=path.parent.name,
        embed_dim=embed_dim,
        vision=vision,
        text=text,
        preprocess=_preprocess(tree.get("preprocess_cfg", {}), vision.image_size, path),
        tokenizer=tokenizer,
        logit_bias=bias is not None,
    )


def import_open_clip(config: CLIPConfig, theirs: Tensors, source: Path) -> Arrays:
    """Rename open_clip's tensors to ours.

    Raises:
        ModelError: a tensor is missing, unexpected, or of a wrong shape.
    """
    prefix = "text." if any(name.startswith("text.") for name in theirs) else ""
    return import_tensors(config, open_clip_table(config, prefix), theirs, source, NO_WEIGHTS)


def _vision(cfg: Settings, activation: Activation, embed_dim: int) -> VisionConfig:
    image_size = cfg.side("image_size", 224)
    for key in IGNORED_KEYS:
        cfg.pop(key)
    if name := cfg.pop("timm_model_name"):
        trunk = timm_trunk(cfg, str(name), image_size, embed_dim)
        return trunk or _timm_vision(cfg, str(name), image_size)
    layers = cfg.pop("layers", 12)
    if isinstance(layers, list) and cfg.unread.get("patch_size", 0) is None:
        cfg.pop("patch_size")  # as in open_clip's own files of ResNets, which have no patches
    patch_size, head_width = cfg.side("patch_size", 16), cfg.read("head_width", 64)
    width, mlp_width = _widths(cfg, 768)
    eps = _eps(cfg)
    activation = _activation(cfg, activation)
    pooling = _pooling(cfg)
    cfg.finish()
    if (
        isinstance(layers, list)
        and len(layers) == 4
        and all(type(depth) is int for depth in layers)
    ):
        if head_width != 64:
            raise cfg.unsupported("head_width of a ResNet", head_width)
        return ResNetConfig(image_size, width, (layers[0], layers[1], layers[2], layers[3]))
    if type(layers) is not int:
        raise cfg.unsupported("layers", layers)
    if width % head_width:
        raise cfg.unsupported("head_width", head_width)
    heads = width // head_width
    return ViTConfig(
        image_size, patch_size, width, layers, heads, mlp_width, activation, eps=eps, **pooling
    )


def _pooling(cfg: Settings) -> dict[str, Any]:
    """Read the pooling of open_clip's vision transformer and what depends on it."""
    settings = {"no_ln_pre": cfg.pop("no_ln_pre", False)}
    heads = cfg.pop("attn_pooler_heads", 8)
    cfg.pop("attn_pooler_queries")
    cfg.expect("pos_embed_type", "learnable", "sin_cos_2d")  # both are among the weights
    after_pool = cfg.pop("final_ln_after_pool", False)
    pool = cfg.pop("pool_type", "tok")
    if cfg.unread.get("attentional_pool") is True and pool == "tok":
        cfg.pop("attentional_pool")
        return settings | {"pool": "query", "pool_heads": heads}
    cfg.expect("attentional_pool", False)
    if pool == "avg" and after_pool:
        return settings | {"pool": "average"}
    if pool != "tok":
        raise cfg.unsupported("pool_type", pool)
    return settings  # of one token, the norm before and after the pooling is the same


def _widths(cfg: Settings, default: int) -> tuple[int, int]:
    """Read the width of a tower, and that of its perceptrons."""
    width = cfg.read("width", default)
    return width, int(width * cfg.read("mlp_ratio", 4.0))


def _eps(cfg: Settings) -> float:
    """Read the only setting of the layer norms that can differ."""
    arguments = Settings(cfg.pop("norm_kwargs") or {}, f"{cfg.section}: norm_kwargs")
    eps = arguments.read("eps", 1e-5)
    arguments.finish()
    return eps


def _timm_vision(cfg: Settings, name: str, image_size: int) -> VisionConfig:
    if name in FASTVITS:
        return read_fastvit(cfg, name, image_size)
    if name in TIMM_TOWERS:
        return read_timm_tower(cfg, name, image_size)
    match = re.fullmatch(r"vit_([a-z0-9]+)_patch(\d+)_siglip(_.*)?", name)
    if not match or match[1] not in TIMM_WIDTHS:
        raise cfg.unsupported("timm_model_name", name)
    cfg.expect("timm_pool", "map")
    cfg.expect("timm_proj", "none", "")
    cfg.finish()
    width, layers, heads, mlp_width = TIMM_WIDTHS[match[1]]
    return ViTConfig(
        image_size=image_size,
        patch_size=int(match[2]),
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width,
        activation=_timm_activation(name),
        pool="map",
        eps=1e-6,
    )


def _timm_activation(name: str) -> Activation:
    return "gelu_tanh" if any(tower in name for tower in TIMM_TANH) else "gelu"


def _text(cfg: Settings, theirs: Tensors, activation: Activation) -> TextConfig:
    context_length = cfg.read("context_length", 77)
    for key in TOKENIZER_KEYS:
        cfg.pop(key)
    if name := cfg.pop("hf_model_name"):
        return hub_text(cfg, name, theirs, context_length)
    width, mlp_width = _widths(cfg, 512)
    bidirectional = cfg.read("no_causal_mask", False)
    vocab_size, heads = cfg.read("vocab_size", 49408), cfg.read("heads", 8)
    if width % heads:
        raise cfg.unsupported("heads", heads)
    text = TextTransformerConfig(
        context_length=context_length,
        vocab_size=vocab_size,
        width=width,
        layers=cfg.read("layers", 12),
        heads=heads,
        mlp_width=mlp_width,
        activation=_activation(cfg, activation),
        eos_id=_pooled_id(cfg, vocab_size, bidirectional),
        eps=_eps(cfg),
        projection=_projection(cfg, bidirectional),
        class_token=cfg.pop("embed_cls", False),
    )
    text = replace(text, bidirectional=bidirectional and text.eos_id is not None)
    cfg.expect("pad_id", 0)
    cfg.pop("output_tokens")
    cfg.finish()
    return text


def read_input_settings(
    model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any], vocabulary: Path
) -> tuple[PreprocessConfig, TokenizerConfig]:
    """Read the preparation of pictures and texts from open_clip's settings.

    Args:
        model_cfg, preprocess_cfg: the sections of `open_clip_config.json`.
        vocabulary: the folder of the tokenizer's files, which is named in errors.

    Raises:
        ModelError: an unsupported setting.
    """
    text = Settings(model_cfg.get("text_cfg") or {}, f"{vocabulary}: text_cfg")
    size = Settings(preprocess_cfg, f"{vocabulary}: preprocess_cfg").side("size", 224)
    return _preprocess(preprocess_cfg, size, vocabulary), _tokenizer(text, vocabulary)


def _pooled_id(cfg: Settings, vocab_size: int, bidirectional: bool) -> int | None:
    """Read the pooling of a text tower; return the id whose first position is pooled."""
    if bidirectional and cfg.unread.get("pool_type") == "last":
        cfg.pop("pool_type")
        return None
    largest = vocab_size - 1
    if cfg.unread.get("pool_type") == "eos":
        cfg.pop("pool_type")
        return int(cfg.pop("eos_id", 2))
    cfg.pop("eos_id")  # without effect
    cfg.expect("pool_type", "argmax")
    return largest


def _projection(cfg: Settings, bidirectional: bool) -> Literal["linear", "affine", "none"] | None:
    """Read the projection of a text tower; None for the usual form."""
    affine = cfg.pop("proj_bias", False)
    if cfg.unread.get("proj_type") == "none":
        cfg.pop("proj_type")
        return "none"
    cfg.expect("proj_type", "linear")
    if affine == bidirectional:
        return None
    return "affine" if affine else "linear"


def _activation(cfg: Settings, activation: Activation) -> Activation:
    """Apply open_clip's `act_kwargs` to the activation of a tower; QuickGELU has none."""
    arguments = cfg.pop("act_kwargs") or {}
    if arguments == {"approximate": "tanh"} and activation == "gelu":
        return "gelu_tanh"
    if arguments:
        raise cfg.unsupported("act_kwargs", arguments)
    return activation


def _tokenizer(cfg: Settings, directory: Path) -> TokenizerConfig:
    cfg.expect("tokenizer_mode", None)
    name, kwargs = cfg.pop("hf_tokenizer_name"), cfg.pop("tokenizer_kwargs") or {}
    context_length = cfg.unread.get("context_length", 77)
    if name is None and not kwargs:
        literals = {"<start_of_text>": 49406, "<end_of_text>": 49407}
        return replace(OPENAI_TOKENIZER, context_length=context_length, special_tokens=literals)
    arguments = Settings(kwargs, f"{cfg.section}: tokenizer_kwargs")
    cleaning = open_clip_cleaning(arguments.unread)
    clean, strip_sep = arguments.pop("clean"), arguments.pop("strip_sep_token", False)
    arguments.finish()
    if cleaning is None:
        raise arguments.unsupported("clean", clean)
    if "siglip" in str(name).lower():
        return _siglip_tokenizer(str(name), directory, cleaning, context_length)
    tokens = special_tokens(str(name))
    if tokens is None:
        raise cfg.unsupported("hf_tokenizer_name", name)
    tokenizer = hub_tokenizer(directory, tokens, cleaning, context_length)
    if strip_sep:
        return replace(tokenizer, eos_id=0)  # open_clip replaces [SEP] by 0
    return tokenizer


def _siglip_tokenizer(
    name: str, directory: Path, cleaning: Cleaning, context_length: int
) -> TokenizerConfig:
    base = SIGLIP2_TOKENIZER if "SigLIP2" in name else SIGLIP_TOKENIZER
    base = replace(base, context_length=context_length, cleaning=cleaning)
    if (directory / "tokenizer.json").exists():
        return replace(base, kind="tokenizers", file="tokenizer.json")
    return base


def _preprocess(cfg: Any, image_size: int, path: Path) -> PreprocessConfig:
    settings = Settings(cfg, f"{path}: preprocess_cfg")
    settings.expect("size", image_size, [image_size, image_size])
    settings.expect("mode", "RGB")
    settings.pop("fill_color")
    mean, std = settings.channels("mean", OPENAI_MEAN), settings.deviations("std", OPENAI_STD)
    interpolation: Interpolation = settings.expect("interpolation", "bicubic", "bilinear")
    resize: Resize = settings.expect("resize_mode", "shortest", "squash")
    settings.finish()
    return PreprocessConfig(
        image_size=image_size, resize=resize, interpolation=interpolation, mean=mean, std=std
    )


def write_open_clip(config: CLIPConfig, tensors: Tensors, directory: Path) -> None:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` into `directory`.

    Raises:
        ModelError: open_clip has no such architecture, tokenizer or preprocessing.
    """
    text = config.text
    if not isinstance(text, TextTransformerConfig) or config.tokenizer.kind == "wordpiece":
        raise _inexpressible(config.name, "open_clip has no such sentence-encoder text tower")
    if not _is_plain(config.vision, text):
        raise _inexpressible(config.name, "only plain CLIP and SigLIP towers are written")
    if config.preprocess.fast_decode:
        raise _inexpressible(config.name, "open_clip cannot decode at reduced scale")
    model_cfg: dict[str, Any] = {
        "embed_dim": config.embed_dim,
        "vision_cfg": _vision_cfg(config),
        "text_cfg": _text_cfg(text),
    }
    if config.logit_bias:
        model_cfg |= {"init_logit_bias": -10, "custom_text": True}
        name = "timm/ViT-B-16-SigLIP" + ("2" if text.vocab_size > 200_000 else "")
        model_cfg["text_cfg"] |= {
            "hf_tokenizer_name": name,
            "tokenizer_kwargs": {"clean": "canonicalize"},
        }
    elif text.activation == "quick_gelu":
        model_cfg["quick_gelu"] = True
    preprocess = config.preprocess
    preprocess_cfg = {
        "mean": preprocess.mean,
        "std": preprocess.std,
        "interpolation": preprocess.interpolation,
        "resize_mode": preprocess.resize,
    }
    tree = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    table = open_clip_table(config, "text." if config.logit_bias else "")
    theirs = export_tensors(table, tensors)
    save_arrays(theirs, directory / f"{WEIGHTS}.safetensors", {"format": "pt"})
    (directory / CONFIG).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _is_plain(vision: VisionConfig, text: TextTransformerConfig) -> bool:
    """Return True for the towers of CLIP and SigLIP, whose pooling and projection are usual."""
    if isinstance(vision, ViTConfig):
        usual = vision.pool in ("class", "map") and not (vision.no_ln_pre or vision.patch_bias)
    else:
        usual = isinstance(vision, ResNetConfig)
    usual_eos = text.eos_id in (None, text.vocab_size - 1)
    return usual and usual_eos and text.projection is None and not text.class_token


def _inexpressible(name: str, reason: str) -> ModelError:
    return ModelError(name, reason, "keep it in twotower's format")


def _vision_cfg(config: CLIPConfig) -> dict[str, Any]:
    vision, text = config.vision, config.text
    if isinstance(vision, ResNetConfig):
        return {"image_size": vision.image_size, "layers": vision.layers, "width": vision.width}
    if not isinstance(vision, ViTConfig):
        raise _inexpressible(config.name, f"an {vision.kind} tower is not written")
    if vision.pool == "map":
        return {
            "image_size": vision.image_size,
            "timm_model_name": _timm_name(config.name, vision),
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        }
    assert isinstance(text, TextTransformerConfig)  # by `write_open_clip`
    if (vision.activation == "quick_gelu") != (text.activation == "quick_gelu"):
        raise _inexpressible(config.name, "open_clip has QuickGELU in both towers or in none")
    cfg = {
        "image_size": vision.image_size,
        "layers": vision.layers,
        "width": vision.width,
        "head_width": vision.width // vision.heads,
        "mlp_ratio": _ratio(vision.mlp_width, vision.width),
        "patch_size": vision.patch_size,
    }
    return cfg | _kwargs(vision.activation, vision.eps)


def _timm_name(name: str, vision: ViTConfig) -> str:
    shape = (vision.width, vision.layers, vision.heads, vision.mlp_width)
    for size, timm_shape in TIMM_WIDTHS.items():
        timm_name = f"vit_{size}_patch{vision.patch_size}_siglip_{vision.image_size}"
        if shape == timm_shape and vision.activation == _timm_activation(timm_name):
            return timm_name
    raise _inexpressible(
        name,
        "open_clip takes SigLIP's image tower from timm, which has none of this shape with "
        f"{vision.activation}",
    )


def _text_cfg(text: TextTransformerConfig) -> dict[str, Any]:
    cfg: dict[str, Any] = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.heads,
        "layers": text.layers,
    }
    if text.mlp_width != 4 * text.width:
        cfg["mlp_ratio"] = _ratio(text.mlp_width, text.width)
    if not text.causal:
        cfg |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    return cfg | _kwargs(text.activation, text.eps)


def _ratio(mlp_width: int, width: int) -> float:
    """Return a ratio with int(width * ratio) == mlp_width."""
    ratio = mlp_width / width
    return ratio if int(width * ratio) == mlp_width else (mlp_width + 0.5) / width


def _kwargs(activation: Activation, eps: float) -> dict[str, Any]:
    cfg: dict[str, Any] = {}
    if activation == "gelu_tanh":
        cfg["act_kwargs"] = {"approximate": "tanh"}
    if eps != 1e-5:
        cfg["norm_kwargs"] = {"eps": eps}
    return cfg
