"""open_clip directories: `open_clip_config.json` beside safetensors or a pickle.

Settings as in open_clip 3.3.0 (`model.py`, `tokenizer.py`, `model_configs/`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower.errors import ModelError
from twotower.inputs.preprocess import OPENAI_MEAN, OPENAI_STD, PreprocessConfig
from twotower.inputs.tokenizer import (
    OPENAI_TOKENIZER,
    SIGLIP2_TOKENIZER,
    SIGLIP_TOKENIZER,
    TokenizerConfig,
)
from twotower.model.config import (
    Activation,
    CLIPConfig,
    ResNetConfig,
    TextTransformerConfig,
    VisionConfig,
    ViTConfig,
)
from twotower.model.foreign.openai import OPENAI_TABLE
from twotower.model.foreign.rename import (
    ForeignModel,
    Settings,
    export_tensors,
    import_tensors,
    read_json,
    read_tensors,
)
from twotower.model.weight_files import Tensors, save_arrays

CONFIG, WEIGHTS, PICKLE = "open_clip_config.json", "open_clip_model", "open_clip_pytorch_model.bin"

# SigLIP's image tower is timm's; its text tower is open_clip's, under `text.`.
SIGLIP_TABLE = (
    (r"^vision\.patch_embed\.", "visual.trunk.patch_embed.proj."),
    (r"^vision\.pos_embed", "visual.trunk.pos_embed[None]"),
    (r"^vision\.pool\.probe", "visual.trunk.attn_pool.latent"),
    (r"^vision\.pool\.qkv\.", "visual.trunk.attn_pool.{q,kv}."),
    (r"^vision\.pool\.out\.", "visual.trunk.attn_pool.proj."),
    (r"^vision\.pool\.ln\.", "visual.trunk.attn_pool.norm."),
    (r"^vision\.pool\.mlp\.", "visual.trunk.attn_pool.mlp."),
    (r"^vision\.ln_post\.", "visual.trunk.norm."),
    (r"^vision\.blocks\.(\d+)\.ln_([12])\.", r"visual.trunk.blocks.\1.norm\2."),
    (r"^vision\.blocks\.(\d+)\.attn\.out\.", r"visual.trunk.blocks.\1.attn.proj."),
    (r"^vision\.blocks\.", "visual.trunk.blocks."),
    (r"^text\.token_embed\.", "text.token_embedding."),
    (r"^text\.pos_embed", "text.positional_embedding"),
    (r"^text\.proj\.", "text.text_projection."),
    (r"^text\.blocks\.", "text.transformer.resblocks."),
    (r"^(text\..*)\.attn\.qkv\.", r"\1.attn.in_proj_"),
    (r"^(text\..*)\.attn\.out\.", r"\1.attn.out_proj."),
    (r"^(text\..*)\.mlp\.fc1\.", r"\1.mlp.c_fc."),
    (r"^(text\..*)\.mlp\.fc2\.", r"\1.mlp.c_proj."),
)

# timm 1.0.31's SigLIP towers: name -> (width, layers, heads, mlp_width). Their activation is exact
# GELU, except in the towers of TIMM_TANH, and independent of the text tower's.
TIMM_WIDTHS = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
TIMM_TANH = ("base_patch32", "large_patch16_siglip_512", "so400m_patch16", "giantopt")

IGNORED_KEYS = {"timm_model_pretrained", "patch_dropout", "output_tokens", "timm_drop"}


def read_open_clip(directory: Path) -> ForeignModel:
    """Read an open_clip directory, as its `hf-hub:` and `local-dir:` loaders expect it.

    Raises:
        ModelError: an unsupported setting, or weights that cannot be read or do not fit.
    """
    path = directory / CONFIG
    tree = read_json(path)
    model = Settings(tree.get("model_cfg", {}), f"{path}: model_cfg")
    vision_cfg, text_cfg = model.pop("vision_cfg", {}), model.pop("text_cfg", {})
    activation: Activation = "quick_gelu" if model.pop("quick_gelu", False) else "gelu"
    embed_dim, bias = model.pop("embed_dim"), model.pop("init_logit_bias")
    for key in ("custom_text", "init_logit_scale", "cast_dtype"):
        model.pop(key)
    model.finish()
    vision = _vision(Settings(vision_cfg, f"{path}: vision_cfg"), activation)
    settings = Settings(text_cfg, f"{path}: text_cfg")
    tokenizer = _tokenizer(settings, directory)
    text = _text(settings, activation)
    tokenizer = replace(tokenizer, context_length=text.context_length)
    config = CLIPConfig(
        name=directory.name,
        embed_dim=embed_dim,
        vision=vision,
        text=text,
        preprocess=_preprocess(tree.get("preprocess_cfg", {}), vision.image_size, path),
        tokenizer=tokenizer,
        logit_bias=bias is not None,
    )
    theirs = read_tensors(directory, WEIGHTS, PICKLE)
    if text.causal:  # CustomTextCLIP has the text tower under a prefix
        theirs = {name.removeprefix("text."): tensor for name, tensor in theirs.items()}
    tensors = import_tensors(config, _table(config), theirs, directory, ignored="attn_mask")
    files = (directory / tokenizer.file,) if tokenizer.file else ()
    return ForeignModel(config, tensors, files)


def _table(config: CLIPConfig) -> tuple[tuple[str, str], ...]:
    mapped = isinstance(config.vision, ViTConfig) and config.vision.pool == "map"
    return SIGLIP_TABLE if mapped else OPENAI_TABLE


def _vision(cfg: Settings, activation: Activation) -> VisionConfig:
    image_size = cfg.pop("image_size", 224)
    for key in IGNORED_KEYS:
        cfg.pop(key)
    if name := cfg.pop("timm_model_name"):
        return _timm_vision(cfg, name, image_size)
    layers, width = cfg.pop("layers", 12), cfg.pop("width", 768)
    patch_size, head_width = cfg.pop("patch_size", 16), cfg.pop("head_width", 64)
    mlp_width = int(width * cfg.pop("mlp_ratio", 4.0))
    eps = (cfg.pop("norm_kwargs") or {}).get("eps", 1e-5)
    activation = _activation(cfg, activation)
    cfg.expect("pool_type", "tok")
    for key in ("no_ln_pre", "attentional_pool", "final_ln_after_pool"):
        cfg.expect(key, False)
    cfg.finish()
    if isinstance(layers, list):
        if head_width != 64:
            raise cfg.unsupported("head_width of a ResNet", head_width)
        return ResNetConfig(image_size, width, (layers[0], layers[1], layers[2], layers[3]))
    heads = width // head_width
    return ViTConfig(image_size, patch_size, width, layers, heads, mlp_width, activation, eps=eps)


def _timm_vision(cfg: Settings, name: str, image_size: int) -> ViTConfig:
    cfg.expect("timm_pool", "map")
    cfg.expect("timm_proj", "none", "")
    cfg.finish()
    _, size, patch, *suffixes = [*name.split("_"), ""]
    if size not in TIMM_WIDTHS or not patch.startswith("patch") or "siglip" not in suffixes:
        raise cfg.unsupported("timm_model_name", name)
    width, layers, heads, mlp_width = TIMM_WIDTHS[size]
    return ViTConfig(
        image_size=image_size,
        patch_size=int(patch.removeprefix("patch")),
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


def _text(cfg: Settings, activation: Activation) -> TextTransformerConfig:
    width = cfg.pop("width", 512)
    bidirectional = cfg.pop("no_causal_mask", False)
    eps = (cfg.pop("norm_kwargs") or {}).get("eps", 1e-5)
    mlp_width = int(width * cfg.pop("mlp_ratio", 4.0))
    vocab_size = cfg.pop("vocab_size", 49408)
    text = TextTransformerConfig(
        context_length=cfg.pop("context_length", 77),
        vocab_size=vocab_size,
        width=width,
        layers=cfg.pop("layers", 12),
        heads=cfg.pop("heads", 8),
        mlp_width=mlp_width,
        activation=_activation(cfg, activation),
        eos_id=None if bidirectional else vocab_size - 1,  # pooled at the largest id
        eps=eps,
    )
    cfg.expect("pool_type", *(("last",) if bidirectional else ("argmax",)))
    cfg.expect("proj_bias", bidirectional)
    cfg.expect("proj_type", "linear")
    cfg.expect("embed_cls", False)
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
    text = Settings(model_cfg.get("text_cfg", {}), f"{vocabulary}: text_cfg")
    context_length = text.pop("context_length", 77)
    size = preprocess_cfg.get("size", 224)
    size = size if isinstance(size, int) else size[0]
    preprocess = _preprocess(preprocess_cfg, size, vocabulary)
    return preprocess, replace(_tokenizer(text, vocabulary), context_length=context_length)


def _activation(cfg: Settings, activation: Activation) -> Activation:
    """Apply open_clip's `act_kwargs` to the activation of a tower; QuickGELU has none."""
    arguments = cfg.pop("act_kwargs") or {}
    if arguments == {"approximate": "tanh"} and activation == "gelu":
        return "gelu_tanh"
    if arguments:
        raise cfg.unsupported("act_kwargs", arguments)
    return activation


def _tokenizer(cfg: Settings, directory: Path) -> TokenizerConfig:
    name, arguments = cfg.pop("hf_tokenizer_name"), cfg.pop("tokenizer_kwargs") or {}
    cfg.expect("tokenizer_mode", None)
    if name is None and not arguments:
        literals = {"<start_of_text>": 49406, "<end_of_text>": 49407}
        return replace(OPENAI_TOKENIZER, special_tokens=literals)
    clean = arguments.get("clean", "whitespace")
    if clean != "canonicalize":
        raise cfg.unsupported("tokenizer_kwargs.clean", clean)
    base = SIGLIP2_TOKENIZER if "SigLIP2" in str(name) else SIGLIP_TOKENIZER
    if (directory / "tokenizer.json").exists():
        return replace(base, kind="tokenizers", file="tokenizer.json", cleaning="canonicalize")
    return replace(base, cleaning="canonicalize")


def _preprocess(cfg: Mapping[str, Any], image_size: int, path: Path) -> PreprocessConfig:
    settings = Settings(cfg, f"{path}: preprocess_cfg")
    settings.expect("size", image_size, [image_size, image_size])
    settings.expect("mode", "RGB")
    settings.pop("fill_color")
    mean, std = settings.pop("mean", OPENAI_MEAN), settings.pop("std", OPENAI_STD)
    interpolation = settings.pop("interpolation", "bicubic")
    resize = settings.pop("resize_mode", "shortest")
    settings.finish()
    return PreprocessConfig(
        image_size=image_size,
        resize=resize,
        interpolation=interpolation,
        mean=tuple(mean),
        std=tuple(std),
    )


def write_open_clip(config: CLIPConfig, tensors: Tensors, directory: Path) -> None:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` into `directory`.

    Raises:
        ModelError: open_clip has no such architecture, tokenizer or preprocessing.
    """
    text = config.text
    if not isinstance(text, TextTransformerConfig) or config.tokenizer.kind == "wordpiece":
        raise _inexpressible(config.name, "open_clip has no such sentence-encoder text tower")
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
    theirs = export_tensors(_table(config), tensors)
    save_arrays(theirs, directory / f"{WEIGHTS}.safetensors", {"format": "pt"})
    (directory / CONFIG).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _inexpressible(name: str, reason: str) -> ModelError:
    return ModelError(name, reason, "keep it in twotower's format")


def _vision_cfg(config: CLIPConfig) -> dict[str, Any]:
    vision, text = config.vision, config.text
    if isinstance(vision, ResNetConfig):
        return {"image_size": vision.image_size, "layers": vision.layers, "width": vision.width}
    if not isinstance(vision, ViTConfig):
        raise _inexpressible(config.name, f"open_clip has no {vision.kind} image tower")
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
