"""What a model is, as frozen dataclasses that go to JSON and back; no torch.

`CLIPConfig` holds everything that decides the numbers a model gives: both towers, the
preprocessing of pictures and the tokenizer. It is written beside the weights as `config.json`.
"""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from twotower.inputs.preprocess import PreprocessConfig
from twotower.inputs.tokenizer import (
    OPENAI_TOKENIZER,
    SIGLIP2_TOKENIZER,
    SIGLIP_TOKENIZER,
    TokenizerConfig,
)

CONFIG_FILE = "config.json"

LATER = {"later": True}  # a field that older directories lack and mean the default of

Activation = Literal["quick_gelu", "gelu", "gelu_tanh", "relu"]


class ConfigError(ValueError):
    """A configuration that names an unknown key, lacks one, or holds a value of a wrong type."""


@dataclass(frozen=True)
class ViTConfig:
    """Vision transformer.

    `pool` is "class" for CLIP (class token, `ln_pre`, bias-free patch convolution and projection)
    or "map" for SigLIP (attention pooling by a learned probe, no projection after it).
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    pool: Literal["class", "map"] = "class"
    eps: float = 1e-5
    kind: Literal["vit"] = "vit"


@dataclass(frozen=True)
class ResNetConfig:
    """CLIP's ModifiedResNet: three-convolution stem, anti-aliased strides, attention pooling."""

    image_size: int
    width: int
    layers: tuple[int, int, int, int]
    kind: Literal["resnet"] = "resnet"


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """EfficientNet-Lite (Tan and Le 2019; the Lite variant has ReLU6 and no squeeze-excitation).

    The multipliers scale the seven stages of EfficientNet-B0; stem (32) and head (1280) stay.
    """

    image_size: int
    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    # so many of the last stages are pooled too, beside the head
    pooled_stages: int = field(default=0, metadata=LATER)
    # of a layer between pooling and projection, which sees both; 0 is none
    hidden_width: int = field(default=0, metadata=LATER)
    kind: Literal["efficientnet_lite"] = "efficientnet_lite"


@dataclass(frozen=True)
class TextTransformerConfig:
    """Pre-norm text transformer: causal and pooled at the first `eos_id` (CLIP), or bidirectional
    and pooled at the last position (SigLIP: `eos_id` is None, inputs always padded in full)."""

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    eos_id: int | None = 49407
    eps: float = 1e-5
    kind: Literal["transformer"] = "transformer"

    @property
    def causal(self) -> bool:
        """Whether a position sees only those before it."""
        return self.eos_id is not None


@dataclass(frozen=True)
class SentenceEncoderConfig:
    """BERT-family encoder (MiniLM and kin), mean-pooled over the tokens that are not `pad_id`.

    `hidden_width`: a hidden layer so wide before the projection, which is given both; 0 for none.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    pad_id: int = 0
    activation: Activation = "gelu"
    eps: float = 1e-12
    hidden_width: int = field(default=0, metadata=LATER)
    kind: Literal["sentence_encoder"] = "sentence_encoder"


VisionConfig = ViTConfig | ResNetConfig | EfficientNetLiteConfig
TextConfig = TextTransformerConfig | SentenceEncoderConfig


@dataclass(frozen=True)
class CLIPConfig:
    """Two towers, one space of `embed_dim`, and what turns pictures and words into their inputs.

    `logit_bias` is True for models trained with the sigmoid loss, whose scores are
    sigmoid(exp(logit_scale) * cosine + logit_bias) instead of a softmax over candidates.
    """

    name: str
    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    preprocess: PreprocessConfig
    tokenizer: TokenizerConfig
    logit_bias: bool = False
    templates: tuple[str, ...] = field(default=("a photo of a {}.",))

    def __post_init__(self) -> None:
        if self.preprocess.image_size != self.vision.image_size:
            raise ConfigError(
                f"{self.name}: preprocess.image_size is {self.preprocess.image_size} but "
                f"vision.image_size is {self.vision.image_size}; they must be equal"
            )
        if self.tokenizer.context_length > self.text.context_length:
            raise ConfigError(
                f"{self.name}: tokenizer.context_length is {self.tokenizer.context_length} but "
                f"text.context_length is {self.text.context_length}; the text tower has no "
                "positions for the rest"
            )

    def to_json(self) -> str:
        """The whole configuration as indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str | Path = "config.json") -> CLIPConfig:
        """Parse what `to_json` wrote; `source` is named in errors.

        Raises:
            ConfigError: not JSON, an unknown or missing key, or a value of a wrong type.
        """
        return typing.cast(CLIPConfig, parse(cls, text, source))


def read_config(directory: Path) -> CLIPConfig:
    """The configuration of a model directory.

    Raises:
        ConfigError: no `config.json` there, or one that does not hold.
    """
    path = directory / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; a model directory holds one") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    return CLIPConfig.from_json(text, path)


def parse(expected: type, text: str, source: str | Path) -> Any:
    """An object of a frozen dataclass from its JSON; `source` is named in errors.

    Raises:
        ConfigError: not JSON, an unknown or missing key, or a value of a wrong type.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{source}: not valid JSON ({error})") from None
    try:
        return _parse(expected, tree, "config")
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _parse(expected: Any, tree: Any, where: str) -> Any:
    """Build `expected` (a dataclass, union, tuple, literal or scalar type) from parsed JSON."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if is_dataclass(expected):
        return _parse_dataclass(typing.cast(type, expected), tree, where)
    if origin in (types.UnionType, typing.Union):
        return _parse(_member(arguments, tree, where), tree, where)
    if origin is Literal and tree in arguments:
        return tree
    if origin is tuple and isinstance(tree, list):
        inner = arguments[:1] * len(tree) if arguments[-1] is Ellipsis else arguments
        if len(inner) == len(tree):
            return tuple(_parse(kind, item, where) for kind, item in zip(inner, tree, strict=True))
    if origin is dict and isinstance(tree, dict):
        return {key: _parse(arguments[1], value, f"{where}.{key}") for key, value in tree.items()}
    if expected is float and type(tree) in (int, float):
        return float(tree)
    if isinstance(expected, type) and type(tree) is expected:
        return tree
    wanted = getattr(expected, "__name__", str(expected)) if origin is None else str(expected)
    raise ConfigError(f"{where} is {tree!r}; expected {wanted}")


@dataclass(frozen=True)
class FusionConfig:
    """Sizes of a head that answers questions, its answers, and its model's hash (`model`)."""

    model: str
    answers: tuple[str, ...]
    vision_width: int
    text_width: int
    cells: int
    width: int = 96
    layers: int = 2
    heads: int = 4


def _parse_dataclass(expected: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} is {tree!r}; expected an object")
    hints = typing.get_type_hints(expected)
    for key in tree:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{where} has an unknown key {key!r}{hint}")
    asked = [item.name for item in fields(expected) if "later" not in item.metadata]
    missing = [name for name in asked if name not in tree]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    values = {key: _parse(hints[key], tree[key], f"{where}.{key}") for key in tree}
    try:
        return expected(**values)
    except ConfigError:
        raise
    except ValueError as error:  # a dataclass of `inputs` refuses one of its values
        raise ConfigError(f"{where}: {error}") from None


def _member(members: tuple[Any, ...], tree: Any, where: str) -> Any:
    """The member of a union that `tree` is meant for: None, or the dataclass of that `kind`."""
    if tree is None and type(None) in members:
        return type(None)
    classes = [member for member in members if is_dataclass(member)]
    if not classes:
        return next(member for member in members if member is not type(None))
    kind = tree.get("kind") if isinstance(tree, dict) else None
    by_kind = {typing.get_args(typing.get_type_hints(one)["kind"])[0]: one for one in classes}
    if kind not in by_kind:
        raise ConfigError(f"{where}.kind is {kind!r}; expected one of {', '.join(by_kind)}")
    return by_kind[kind]


# Presets. Figures: OpenAI's released checkpoints, open_clip's model configs, big_vision's SigLIP.

LOGIT_SCALE_INIT = math.log(1 / 0.07)  # Radford et al. 2021, section 2.5
SIGLIP_LOGIT_SCALE_INIT = math.log(10.0)  # Zhai et al. 2023, section 3
SIGLIP_LOGIT_BIAS_INIT = -10.0  # Zhai et al. 2023, section 3


def _clip(
    name: str,
    embed_dim: int,
    vision: VisionConfig,
    text: tuple[int, int, int],
    activation: Activation = "quick_gelu",
) -> CLIPConfig:
    """A CLIP model whose text tower is given as (width, heads, layers)."""
    width, heads, layers = text
    tower = TextTransformerConfig(77, 49408, width, layers, heads, 4 * width, activation)
    preprocess = PreprocessConfig(image_size=vision.image_size)
    return CLIPConfig(name, embed_dim, vision, tower, preprocess, OPENAI_TOKENIZER)


def _vit(
    image_size: int,
    patch_size: int,
    width: int,
    layers: int,
    heads: int,
    activation: Activation = "quick_gelu",
    mlp_width: int | None = None,
) -> ViTConfig:
    mlp_width = mlp_width or 4 * width
    return ViTConfig(image_size, patch_size, width, layers, heads, mlp_width, activation)


def _siglip(
    name: str,
    size: tuple[int, int],
    shape: tuple[int, int, int, int],
    vocab_size: int,
    tokenizer: TokenizerConfig,
) -> CLIPConfig:
    """A SigLIP model: `size` is (image, patch), `shape` (width, layers, heads, mlp_width)."""
    width, layers, heads, mlp_width = shape
    act: Activation = "gelu_tanh"
    vision = ViTConfig(*size, width, layers, heads, mlp_width, act, pool="map", eps=1e-6)
    text = TextTransformerConfig(
        64, vocab_size, width, layers, heads, mlp_width, act, eos_id=None, eps=1e-6
    )
    half = (0.5, 0.5, 0.5)
    preprocess = PreprocessConfig(
        image_size=size[0], resize="squash", mean=half, std=half, rgb="before_resize"
    )
    return CLIPConfig(name, width, vision, text, preprocess, tokenizer, logit_bias=True)


def _bundled() -> CLIPConfig:
    """The model inside the package: EfficientNet-Lite1 and MiniLM-L6 (see docs/model-card.md)."""
    tokenizer = TokenizerConfig(
        kind="wordpiece",
        context_length=64,
        cleaning="none",  # BERT's own normaliser lower-cases and strips accents
        pad_id=0,
        bos_id=101,
        eos_id=102,
        special_tokens={},
        file="vocab.txt",
    )
    preprocess = PreprocessConfig(
        image_size=224,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        rgb="before_resize",
        fast_decode=True,
    )
    text = SentenceEncoderConfig(512, 30522, 384, 6, 12, 1536, hidden_width=2048)
    vision = EfficientNetLiteConfig(224, 1.0, 1.1, pooled_stages=4, hidden_width=2536)
    return CLIPConfig("twotower-small", 512, vision, text, preprocess, tokenizer)


_B, _L = (512, 8, 12), (768, 12, 12)
_SIGLIP_B, _SIGLIP_SO400M = (768, 12, 12, 3072), (1152, 27, 16, 4304)

PRESETS: dict[str, CLIPConfig] = {
    config.name: config
    for config in (
        _clip("RN50", 1024, ResNetConfig(224, 64, (3, 4, 6, 3)), _B),
        _clip("RN101", 512, ResNetConfig(224, 64, (3, 4, 23, 3)), _B),
        _clip("RN50x4", 640, ResNetConfig(288, 80, (4, 6, 10, 6)), (640, 10, 12)),
        _clip("RN50x16", 768, ResNetConfig(384, 96, (6, 8, 18, 8)), _L),
        _clip("RN50x64", 1024, ResNetConfig(448, 128, (3, 15, 36, 10)), (1024, 16, 12)),
        _clip("ViT-B-32", 512, _vit(224, 32, 768, 12, 12), _B),
        _clip("ViT-B-16", 512, _vit(224, 16, 768, 12, 12), _B),
        _clip("ViT-L-14", 768, _vit(224, 14, 1024, 24, 16), _L),
        _clip("ViT-L-14-336", 768, _vit(336, 14, 1024, 24, 16), _L),
        _clip("ViT-H-14", 1024, _vit(224, 14, 1280, 32, 16, "gelu"), (1024, 16, 24), "gelu"),
        _clip(
            "ViT-bigG-14",
            1280,
            _vit(224, 14, 1664, 48, 16, "gelu", 8192),
            (1280, 20, 32),
            "gelu",
        ),
        _siglip("SigLIP-B-16-224", (224, 16), _SIGLIP_B, 32000, SIGLIP_TOKENIZER),
        _siglip("SigLIP-SO400M-14-384", (384, 14), _SIGLIP_SO400M, 32000, SIGLIP_TOKENIZER),
        _siglip("SigLIP2-B-16-256", (256, 16), _SIGLIP_B, 256000, SIGLIP2_TOKENIZER),
        _bundled(),
    )
}


def preset(name: str, **changes: Any) -> CLIPConfig:
    """The configuration of a published architecture, e.g. `preset("ViT-B-32")`.

    Raises:
        ConfigError: no preset of that name; the closest one is suggested.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"no preset {name!r}{hint} (presets: {', '.join(PRESETS)})")
    return replace(PRESETS[name], **changes)
