"""Configurations of models: frozen dataclasses that are stored as JSON. No torch.

`CLIPConfig` determines the outputs of a model together with its weights: both towers, the
preprocessing of pictures and the tokenizer. It is stored beside the weights as `config.json`.
"""

from __future__ import annotations

import difflib
import json
import os
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from twotower.errors import ModelError, TwotowerError
from twotower.inputs.preprocess import PreprocessConfig
from twotower.inputs.tokenizer import TokenizerConfig
from twotower.model.trunk_configs import FastViTConfig, NaFlexConfig, TimmViTConfig

CONFIG_FILE = "config.json"
OPTIONAL = {"optional": True}  # a field that older directories lack; they mean its default

Activation: TypeAlias = Literal["quick_gelu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer.

    Attributes:
        pool: "class" for CLIP (class token, `ln_pre`, bias-free patch convolution and projection),
            "map" for SigLIP (attention pooling by a learned probe, without a projection), "average"
            for CLIPA (a class token that is not pooled, the norm after the average of the patches)
            or "query" for CoCa (attention of a learned query to all tokens, then a projection).
        eps: of the layer norms.
        no_ln_pre: the embedded patches are not normalised (CLIPA, timm's towers); "map" never does.
        patch_bias: the patch convolution has a bias (timm's towers); with "map" it always has.
        pool_heads: the heads of the attention of "query".
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    pool: Literal["class", "map", "average", "query"] = "class"
    eps: float = 1e-5
    no_ln_pre: bool = field(default=False, metadata=OPTIONAL)
    patch_bias: bool = field(default=False, metadata=OPTIONAL)
    pool_heads: int = field(default=0, metadata=OPTIONAL)
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

    Attributes:
        width_multiplier, depth_multiplier: of the seven stages of EfficientNet-B0; the widths of
            stem (32) and head (1280) are fixed.
        pooled_stages: the number of last stages that are pooled in addition to the head.
        hidden_width: of a layer between pooling and projection, which is applied to the pooled
            vector and this layer's output; 0 for none.
    """

    image_size: int
    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    pooled_stages: int = field(default=0, metadata=OPTIONAL)
    hidden_width: int = field(default=0, metadata=OPTIONAL)
    kind: Literal["efficientnet_lite"] = "efficientnet_lite"


@dataclass(frozen=True)
class ConvNeXtConfig:
    """ConvNeXt (Liu et al. 2022) with patches of 4 x 4 pixels.

    Attributes:
        depths, widths: of the four stages.
        hidden_width: of a layer before the projection; 0 for none.
        eps: of the layer norms.
    """

    image_size: int
    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    hidden_width: int = 0
    eps: float = 1e-6
    kind: Literal["convnext"] = "convnext"


@dataclass(frozen=True)
class TextTransformerConfig:
    """A pre-norm text transformer.

    Attributes:
        eos_id: the end-of-text token of a causal transformer, which is pooled at its first
            occurrence (CLIP). None for a bidirectional one, which is pooled at the last position
            and needs inputs padded to `context_length` (SigLIP, CLIPA).
        projection: "linear" without a bias, "affine" with one, or "none"; None for the usual form,
            which is linear for a causal transformer and affine for a bidirectional one.
        class_token: a learned token after the last position is pooled (CoCa), which needs inputs
            padded with 0 to `context_length`.
        bidirectional: True if positions attend to all others although `eos_id` is pooled
            (MobileCLIP), which needs padded inputs, too.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation
    eos_id: int | None = 49407
    eps: float = 1e-5
    projection: Literal["linear", "affine", "none"] | None = field(default=None, metadata=OPTIONAL)
    class_token: bool = field(default=False, metadata=OPTIONAL)
    bidirectional: bool = field(default=False, metadata=OPTIONAL)
    kind: Literal["transformer"] = "transformer"

    @property
    def causal(self) -> bool:
        """True if a position attends only to itself and those before it."""
        return self.eos_id is not None and not self.bidirectional

    @property
    def fixed_length(self) -> bool:
        """True if the features depend on padding, so that texts keep their full length."""
        return not self.causal or self.class_token


@dataclass(frozen=True)
class SentenceEncoderConfig:
    """A BERT-family encoder, such as MiniLM, mean-pooled over the tokens other than `pad_id`.

    Ids from `vocab_size` on are names of a lexicon: what they mean is added to the features.

    Attributes:
        hidden_width: of a layer between pooling and projection, as in `EfficientNetLiteConfig`.
        lexicon_size: the number of names; 0 for no lexicon.
        lexicon_rank: the width of their vectors before they are projected.
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
    hidden_width: int = field(default=0, metadata=OPTIONAL)
    lexicon_size: int = field(default=0, metadata=OPTIONAL)
    lexicon_rank: int = field(default=0, metadata=OPTIONAL)
    kind: Literal["sentence_encoder"] = "sentence_encoder"


@dataclass(frozen=True)
class BertConfig:
    """An encoder of transformers with a padding mask: BERT, RoBERTa, XLM-RoBERTa or NLLB.

    Attributes:
        positions: the rows of the table of learned positions; 0 for NLLB.
        first_position: the row of the first token.
        token_types: the rows of the table of token types, of which the first is used.
        pool: "mean" over the tokens other than `pad_id`, "first" for the first token, or "pooler"
            for BERT's, a dense layer with tanh on it.
        projection: without biases; "mlp" has a hidden layer as wide as the mean of both sides.
        pre_norm: NLLB's form: norms before attention and MLP and at the end, scaled token embeds,
            sine and cosine positions.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    pad_id: int
    positions: int
    first_position: int
    token_types: int
    pool: Literal["mean", "first", "pooler"]
    projection: Literal["linear", "mlp", "none"]
    activation: Activation = "gelu"
    pre_norm: bool = False
    eps: float = 1e-5
    kind: Literal["bert"] = "bert"


@dataclass(frozen=True)
class GraphVisionConfig:
    """An image tower of which the ONNX graph is all that is known."""

    image_size: int
    kind: Literal["graph"] = "graph"


@dataclass(frozen=True)
class GraphTextConfig:
    """A text tower of which the ONNX graph is all that is known.

    Attributes:
        padded: True if texts need padding to `context_length`.
    """

    context_length: int
    padded: bool
    kind: Literal["graph"] = "graph"


VisionConfig: TypeAlias = (
    ViTConfig
    | ResNetConfig
    | EfficientNetLiteConfig
    | ConvNeXtConfig
    | TimmViTConfig
    | NaFlexConfig
    | FastViTConfig
    | GraphVisionConfig
)
TextConfig: TypeAlias = TextTransformerConfig | SentenceEncoderConfig | BertConfig | GraphTextConfig


@dataclass(frozen=True)
class CLIPConfig:
    """Two towers, the dimension of their shared space, and the preparation of their inputs.

    Attributes:
        logit_bias: True for models trained with the sigmoid loss (Zhai et al. 2023), whose scores
            are sigmoid(exp(logit_scale) * cosine + logit_bias) instead of a softmax over
            candidates.
        templates: the sentences of zero-shot classification, with `{}` for the label.
        text_folder: the folder of the text tower and its vocabulary, relative to the model
            directory, if several models share it.
    """

    name: str
    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    preprocess: PreprocessConfig
    tokenizer: TokenizerConfig
    logit_bias: bool = False
    templates: tuple[str, ...] = field(default=("a photo of a {}.",))
    text_folder: str | None = field(default=None, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        pixels, positions = self.vision.image_size, self.text.context_length
        if self.preprocess.image_size != pixels:
            raise ModelError(
                self.name,
                f"preprocess.image_size is {self.preprocess.image_size} but vision.image_size is "
                f"{pixels}",
                "make them equal",
            )
        if self.tokenizer.max_length > positions:
            raise ModelError(
                self.name,
                f"tokenizer.context_length is {self.tokenizer.max_length} but "
                f"text.context_length is {positions}",
                f"make the first {positions} or less",
            )
        if isinstance(self.text, BertConfig) and self.text.pad_id != self.tokenizer.pad_id:
            raise ModelError(
                self.name,
                f"tokenizer.pad_id is {self.tokenizer.pad_id} but text.pad_id is "
                f"{self.text.pad_id}",
                "make them equal",
            )

    @property
    def embeds_patches(self) -> bool:
        """True for vision transformers with a class token, whose patches have features."""
        return isinstance(self.vision, ViTConfig) and self.vision.pool == "class"

    @property
    def needs_padding(self) -> bool:
        """True if texts need padding to the whole context, as SigLIP's do."""
        if isinstance(self.text, TextTransformerConfig):
            return self.text.fixed_length
        return isinstance(self.text, GraphTextConfig) and self.text.padded

    def text_directory(self, directory: Path) -> Path:
        """Return the folder of the text tower of the model in `directory`."""
        if self.text_folder is None:
            return directory
        return Path(os.path.normpath(directory / self.text_folder))

    def to_json(self) -> str:
        """Return the configuration as indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str | Path = "config.json") -> CLIPConfig:
        """Parse the output of `to_json`; `source` is named in errors.

        Raises:
            ModelError: not JSON, an unknown or missing key, or a value of a wrong type.
        """
        return typing.cast(CLIPConfig, parse(cls, text, source))


def graph_only(tower: str) -> ModelError:
    """Return the error for a tower whose layers are needed and not known."""
    return ModelError(
        tower,
        "made from an ONNX graph, which does not name its layers",
        "use the original weights, as safetensors",
    )


@dataclass(frozen=True)
class FusionConfig:
    """A head that answers questions about pictures.

    Attributes:
        model: `golden_hash` of the model whose towers it reads.
        answers: the classes.
        vision_width, text_width: of the patches and tokens that it reads.
        cells: the number of patches; `head.json` has it under this name.
        width, layers, heads: of its own blocks.
    """

    model: str
    answers: tuple[str, ...]
    vision_width: int
    text_width: int
    cells: int
    width: int = 96
    layers: int = 2
    heads: int = 4


def read_config(directory: Path) -> CLIPConfig:
    """Read the configuration of a model directory.

    Raises:
        ModelError: there is no `config.json`, or it is invalid.
    """
    path = directory / CONFIG_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(
            path, str(error.strerror), "give a model directory, which has this file"
        ) from None
    except UnicodeDecodeError:
        raise ModelError(path, "not UTF-8 text", "download the model again") from None
    config = CLIPConfig.from_json(text, path)
    if not config.text_directory(directory).is_dir():
        raise ModelError(
            path,
            f"its text tower is in {config.text_directory(directory)}, which does not exist",
            "copy that folder too",
        )
    return config


def is_model_directory(path: Path) -> bool:
    """Return True for a model directory of twotower, not of transformers or Immich."""
    try:
        tree = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and "embed_dim" in tree and "vision_cfg" not in tree


def parse(expected: type, text: str, source: str | Path) -> Any:
    """Build a frozen dataclass from its JSON; `source` is named in errors.

    Raises:
        ModelError: not JSON, an unknown or missing key, or a value of a wrong type.
    """
    try:
        return _parse(expected, json.loads(text), "config")
    except _FieldError as error:
        raise ModelError(source, error.reason, error.remedy) from None
    except json.JSONDecodeError as error:
        raise ModelError(source, f"not valid JSON ({error})", "restore the file") from None


class _FieldError(Exception):
    """A field that cannot be parsed; `parse` adds the file."""

    def __init__(self, reason: str, remedy: str = "correct it") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


def _parse(expected: Any, value: Any, name: str) -> Any:
    """Build `expected` (a dataclass, union, tuple, literal or scalar type) from parsed JSON."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if is_dataclass(expected):
        return _parse_dataclass(typing.cast(type, expected), value, name)
    if origin in (types.UnionType, typing.Union):
        return _parse(_member(arguments, value, name), value, name)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(inner) == len(value):
            return tuple(_parse(kind, item, name) for kind, item in zip(inner, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: _parse(arguments[1], item, f"{name}.{key}") for key, item in value.items()}
    if expected is float and type(value) in (int, float):
        return float(value)
    if isinstance(expected, type) and type(value) is expected:
        return value
    kind = getattr(expected, "__name__", str(expected)) if origin is None else str(expected)
    raise _FieldError(f"{name} is {value!r}, expected {kind}")


def _parse_dataclass(expected: type, tree: Any, name: str) -> Any:
    if not isinstance(tree, dict):
        raise _FieldError(f"{name} is {tree!r}, expected an object")
    hints = typing.get_type_hints(expected)
    for key in tree:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, 1)
            remedy = f"did you mean {close[0]!r}?" if close else "remove it"
            raise _FieldError(f"{name} has an unknown key {key!r}", remedy)
    required = [item.name for item in fields(expected) if "optional" not in item.metadata]
    missing = [key for key in required if key not in tree]
    if missing:
        raise _FieldError(f"{name} lacks {', '.join(missing)}", "add what is missing")
    values = {key: _parse(hints[key], tree[key], f"{name}.{key}") for key in tree}
    try:
        return expected(**values)
    except TwotowerError as error:
        raise _FieldError(f"{name}: {error.reason}", error.remedy) from None
    except ValueError as error:
        reason, _, remedy = str(error).partition("; ")
        raise _FieldError(f"{name}: {reason}", remedy or "correct it") from None


def _member(members: tuple[Any, ...], value: Any, name: str) -> Any:
    """Return the member of a union that `value` belongs to: None, or the class of its `kind`."""
    if value is None and type(None) in members:
        return type(None)
    classes = [member for member in members if is_dataclass(member)]
    choices = [member for member in members if member is not type(None)]
    if not classes or len(choices) == 1:
        return choices[0]
    kind = value.get("kind") if isinstance(value, dict) else None
    by_kind = {typing.get_args(typing.get_type_hints(cls)["kind"])[0]: cls for cls in classes}
    if kind not in by_kind:
        raise _FieldError(f"{name}.kind is {kind!r}, expected one of {', '.join(by_kind)}")
    return by_kind[kind]
