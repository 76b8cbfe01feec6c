"""What a model is, as frozen dataclasses that go to JSON and back; no torch.

`CLIPConfig` holds everything that decides the numbers a model gives: both towers, the
preprocessing of pictures and the tokenizer. It is written beside the weights as `config.json`.
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from twotower.errors import ModelError
from twotower.inputs.preprocess import PreprocessConfig
from twotower.inputs.tokenizer import (
    TokenizerConfig,
)

CONFIG_FILE = "config.json"

LATER = {"later": True}  # a field that older directories lack and mean the default of

Activation = Literal["quick_gelu", "gelu", "gelu_tanh", "relu"]


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
            raise ModelError(
                f"{self.name}: preprocess.image_size is {self.preprocess.image_size} but "
                f"vision.image_size is {self.vision.image_size}; they must be equal"
            )
        if self.tokenizer.context_length > self.text.context_length:
            raise ModelError(
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
        raise ModelError(f"{path}: {error.strerror}; a model directory holds one") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path}: not UTF-8 text") from None
    return CLIPConfig.from_json(text, path)


def parse(expected: type, text: str, source: str | Path) -> Any:
    """An object of a frozen dataclass from its JSON; `source` is named in errors.

    Raises:
        ConfigError: not JSON, an unknown or missing key, or a value of a wrong type.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{source}: not valid JSON ({error})") from None
    try:
        return _parse(expected, tree, "config")
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from None


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
    raise ModelError(f"{where} is {tree!r}; expected {wanted}")


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
        raise ModelError(f"{where} is {tree!r}; expected an object")
    hints = typing.get_type_hints(expected)
    for key in tree:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ModelError(f"{where} has an unknown key {key!r}{hint}")
    asked = [item.name for item in fields(expected) if "later" not in item.metadata]
    missing = [name for name in asked if name not in tree]
    if missing:
        raise ModelError(f"{where} lacks {', '.join(missing)}")
    values = {key: _parse(hints[key], tree[key], f"{where}.{key}") for key in tree}
    try:
        return expected(**values)
    except ModelError:
        raise
    except ValueError as error:  # a dataclass of `inputs` refuses one of its values
        raise ModelError(f"{where}: {error}") from None


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
        raise ModelError(f"{where}.kind is {kind!r}; expected one of {', '.join(by_kind)}")
    return by_kind[kind]
