"""The configuration of a training run: frozen dataclasses that go to JSON and back."""

from __future__ import annotations

import difflib
import functools
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from twotower.errors import TrainError
from twotower.model.config import OPTIONAL, CLIPConfig, parse
from twotower.train.architecture import architecture_types, change_architecture

Tower = Literal["vision", "text"]
SHOWN_RENAMES = 4  # in the error about a file of an earlier version


@dataclass(frozen=True)
class OptimizerConfig:
    """The parameters that learn, and how fast."""

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = 5e-4
    vision_lr: float | None = field(default=None, metadata=OPTIONAL)  # of the tower; `lr` if None
    text_lr: float | None = field(default=None, metadata=OPTIONAL)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.2
    warmup_steps: int = 2000
    schedule: Literal["cosine", "wsd", "constant", "rsqrt"] = "cosine"
    decay_share: float = 0.2  # the share of all steps in which "wsd" decays
    max_grad_norm: float | None = 1.0
    layer_decay: float = 1.0  # factor on the learning rate for each block towards the input
    locked: tuple[Tower, ...] = ()  # towers that do not learn (LiT, Zhai et al. 2022)
    lora: int | None = None  # rank of the low-rank updates that learn in place of the weights
    frozen_statistics: bool = False  # batch norms keep their statistics (fine-tuning)
    ema: float | None = None  # decay of an average of the weights, which becomes the model


@dataclass(frozen=True)
class DataConfig:
    """The pairs, and how they become batches."""

    sources: tuple[str, ...]  # as `open_source` takes them
    batch_size: int = 1024  # pairs of all ranks together
    weights: tuple[float, ...] = ()  # passes over each source in an epoch; 1 by default
    zoom: float = 1.0  # a picture is enlarged by up to this factor before a square is cut out
    # RandomResizedCrop in place of `zoom`: the share of the picture's area, and width / height
    crop_scale: tuple[float, float] | None = field(default=None, metadata=OPTIONAL)
    crop_ratio: tuple[float, float] = field(default=(3 / 4, 4 / 3), metadata=OPTIONAL)
    flip: float = field(default=0.0, metadata=OPTIONAL)  # the share of mirrored pictures
    # brightness, contrast and saturation change by a factor of up to 1 +- color
    color: float = field(default=0.0, metadata=OPTIONAL)
    workers: int = 0  # processes that decode
    buffer: int = 100_000  # pairs that are shuffled together
    # the step at which the order of pairs begins: that of a resumption with other pairs or batches
    first_step: int = field(default=0, metadata=OPTIONAL)


@dataclass(frozen=True)
class LossConfig:
    """The contrastive loss, and two distillation losses."""

    multi_positive: bool = False  # equal pictures or captions of a batch belong together
    teacher: str | None = None  # a model directory
    contrastive_weight: float = 1.0
    feature_weight: float = 0.0
    affinity_weight: float = 0.0
    # exp(logit_scale) and logit_bias at the start; by default those of the weights
    initial_scale: float | None = field(default=None, metadata=OPTIONAL)
    initial_bias: float | None = field(default=None, metadata=OPTIONAL)
    # the limit of exp(logit_scale); by default 100, and none for the sigmoid loss
    max_scale: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class MemoryConfig:
    """Memory and speed."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    chunk_size: int | None = None  # pairs of a rank in one graph; all of its pairs by default
    limit: int | None = None  # bytes of a rank, from which `chunk_size` is computed
    patch_dropout: float = 0.0
    unmasked_steps: int = 0  # at the end, without patch dropout (Li et al. 2023)
    checkpointing: bool = False
    compile: bool = False
    wrapper: Literal["ddp", "fsdp"] = "ddp"


@dataclass(frozen=True)
class ValidationConfig:
    """Scores on held-out pairs."""

    every: int = 500  # steps
    retrieval: str | None = None  # pairs for recall, as `open_source` takes them
    zero_shot: str | None = None  # pairs whose caption is the name of the picture's class


@dataclass(frozen=True)
class OutputConfig:
    """The log and the checkpoints of a run."""

    log_every: int = 10  # steps
    tensorboard: bool = False  # a TensorBoard log beside log.jsonl
    save_every: int = 500  # steps
    keep: int = 3  # checkpoints


@dataclass(frozen=True)
class TrainConfig:
    """A run. Defaults are those of Radford et al. 2021 where one machine can follow them."""

    model: CLIPConfig
    data: DataConfig
    steps: int
    seed: int = 0
    start_from: str | None = None  # a model directory; fresh weights by default
    tokenizer_files: str | None = None  # the folder of the vocabulary
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __new__(cls, *values: Any, **fields: Any) -> TrainConfig:
        """Refuse fields outside their groups, as earlier versions had them."""
        for name, value in fields.items():
            group, _, member = grouped_names().get(name, name).rpartition(".")
            if group and not is_dataclass(value):
                raise TrainError(
                    f"TrainConfig({name}={value!r})",
                    f"{name} is now {group}.{member}",
                    f"use {group}={group.capitalize()}Config({member}={value!r})",
                )
        return super().__new__(cls)

    def to_json(self) -> str:
        """Return the whole configuration as indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str | Path) -> TrainConfig:
        """Parse the output of `to_json`; `source` is named in errors.

        Raises:
            ModelError: not JSON, an unknown or missing field, or a value of a wrong type.
            TrainError: fields outside their groups, as earlier versions wrote them.
        """
        _refuse_flat_fields(text, source)
        return typing.cast(TrainConfig, parse(cls, text, source))


# bare names of fields that had another name before they were grouped, or a short one
RENAMED = {
    "learning_rate": "optimizer.lr",
    "optimizer": "optimizer.name",
    "batch": "data.batch_size",
    "memory": "memory.limit",
    "evaluate_every": "validation.every",
}


def with_values(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return `config` with other values of fields, by names such as `optimizer.lr` or `steps`."""
    architecture = {name: values[name] for name in values if name.startswith("model.")}
    if architecture:
        config = replace(config, model=change_architecture(config.model, architecture))
    for name, value in values.items():
        group, _, member = name.rpartition(".")
        if name in architecture:
            continue
        if group:
            value = replace(getattr(config, group), **{member: value})
        config = replace(config, **{group or name: value})
    return config


def value_of(config: TrainConfig, name: str) -> Any:
    """Return the value of a field by a name such as `optimizer.lr` or `steps`."""
    return functools.reduce(getattr, name.split("."), config)


def with_settings(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """Return `config` with `NAME=VALUE` overrides, such as `optimizer.lr=1e-4`.

    Raises:
        TrainError: an unknown name (the nearest is suggested), a value of a wrong type, or an
            architecture that cannot be built.
    """
    types = setting_types() | architecture_types(config.model)
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name not in types or not equals:
            raise _unknown_setting(name, equals, text, types)
        values[name] = _parse_value(types[name], text, setting)
    return with_values(config, values)


@functools.cache
def setting_types() -> dict[str, Any]:
    """Return the type of each field that a setting can change, by its name with the group."""
    types: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(TrainConfig).items():
        if name == "model":
            continue
        if is_dataclass(kind):
            members = typing.get_type_hints(kind)
            types |= {f"{name}.{member}": members[member] for member in members}
        else:
            types[name] = kind
    return types


@functools.cache
def grouped_names() -> dict[str, str]:
    """Return the names with groups by the bare names, including the names of earlier versions."""
    return {name.rpartition(".")[2]: name for name in setting_types()} | RENAMED


def _unknown_setting(name: str, equals: str, text: str, types: Mapping[str, Any]) -> TrainError:
    """Return the error about a setting whose name is wrong or that has no value."""
    option, grouped = f"--set {name}{equals}{text}", grouped_names()
    if name in types:
        return TrainError(option, "has no value", f"use --set {name}=VALUE")
    if grouped.get(name, name) != name:  # a name without its group
        example = f"--set {grouped[name]}={text or 'VALUE'}"
        return TrainError(option, f"{name} is now {grouped[name]}", f"use {example}")
    close = difflib.get_close_matches(name, [*types, *grouped], 1)
    field = name.rpartition(".")[2]
    close = [grouped[field]] if field in grouped else close
    if close:
        remedy = f"did you mean {grouped.get(close[0], close[0])!r}?"
    else:
        remedy = f"use one of {', '.join(types)}"
    return TrainError(option, "no such setting", remedy)


def _refuse_flat_fields(text: str, source: str | Path) -> None:
    try:
        tree = json.loads(text)
    except ValueError:
        return  # `parse` reports it
    if not isinstance(tree, dict):
        return
    grouped = grouped_names()
    flat = {
        name: grouped[name]
        for name, value in tree.items()
        if grouped.get(name, name) != name and not isinstance(value, dict)
    }
    if flat:
        renamed = sorted(flat, key=lambda name: name not in RENAMED)[:SHOWN_RENAMES]
        more = len(flat) - len(renamed)
        pairs = ", ".join(f"{name} is now {flat[name]}" for name in renamed)
        raise TrainError(
            source,
            "an earlier version wrote it, without groups of fields "
            f"({pairs}{f', and {more} more' if more else ''})",
            "rename them, or finish the run with the version that began it",
        )


WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _parse_value(kind: Any, text: str, setting: str) -> Any:
    """Return `text` as a value of the type `kind`."""
    options = typing.get_args(kind)
    if type(None) in options:
        if text.lower() in ("none", ""):
            return None
        [kind] = [option for option in options if option is not type(None)]
        options = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        items = list(filter(None, text.split(",")))
        if options[-1] is not Ellipsis and len(items) != len(options):
            raise TrainError(
                f"--set {setting}",
                f"{text!r} is not {len(options)} values",
                "separate them by commas",
            )
        return tuple(_parse_value(options[0], item.strip(), setting) for item in items)
    try:
        if typing.get_origin(kind) is Literal:
            return options[options.index(text)]
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        expected = WORDS.get(kind) or " or ".join(map(str, options))
        raise TrainError(
            f"--set {setting}", f"{text!r} is not {expected}", "change the value"
        ) from None
