"""Everything that decides a training run, as one frozen dataclass that goes to JSON and back."""

from __future__ import annotations

import difflib
import json
import typing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from twotower.errors import TrainError
from twotower.model.config import CLIPConfig, parse


@dataclass(frozen=True)
class TrainConfig:
    """A run. Defaults are those of Radford et al. 2021 where one machine can follow them."""

    model: CLIPConfig
    sources: tuple[str, ...]  # as `open_source` takes them
    steps: int
    batch_size: int = 1024  # pairs of all ranks together
    weights: tuple[float, ...] = ()  # how often an epoch sees each source; once by default
    seed: int = 0
    start_from: str | None = None  # a model directory; by default fresh weights
    tokenizer_files: str | None = None  # the folder of `model.tokenizer.file`
    # the optimizer
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.2
    warmup_steps: int = 2000
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_share: float = 0.2  # of all steps, the way down of "wsd"
    max_grad_norm: float | None = 1.0
    layer_decay: float = 1.0
    locked: tuple[Literal["vision", "text"], ...] = ()  # towers that do not learn (LiT)
    lora: int | None = None  # rank of the updates that learn in place of the towers' own weights
    frozen_statistics: bool = False  # batch norms keep what they have seen (fine-tuning)
    ema: float | None = None  # share of the old average that each step keeps
    # a teacher whose embeds the student's shall match
    teacher: str | None = None  # a model directory
    contrastive_weight: float = 1.0
    feature_weight: float = 0.0
    affinity_weight: float = 0.0
    # the memory and the speed
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    chunk_size: int | None = None  # pairs of a rank in a graph at a time; all by default
    memory: int | None = None  # bytes; chooses the chunk size
    zoom: float = 1.0  # pictures are enlarged by up to this before a square is cut out
    patch_dropout: float = 0.0
    unmasked_steps: int = 0  # at the end, without patch dropout (Li et al. 2023)
    checkpointing: bool = False
    compile: bool = False
    multi_positive: bool = False  # equal pictures or captions in a batch belong together
    wrapper: Literal["ddp", "fsdp"] = "ddp"
    workers: int = 0
    buffer: int = 100_000
    # what is written, in steps
    log_every: int = 10
    tensorboard: bool = False  # a TensorBoard log beside log.jsonl
    save_every: int = 500
    keep: int = 3  # checkpoints
    evaluate_every: int = 500
    retrieval: str | None = None  # held-out pairs
    zero_shot: str | None = None  # held-out pictures whose caption is the name of their class

    def to_json(self) -> str:
        """The whole configuration as indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str | Path) -> TrainConfig:
        """Parse what `to_json` wrote. Raises `ConfigError`."""
        return typing.cast(TrainConfig, parse(cls, text, source))


def with_settings(config: TrainConfig, settings: list[str]) -> TrainConfig:
    """`config` with `NAME=VALUE` overrides; "lr" and "batch" are short for their fields.

    Raises:
        TrainError: an unknown name (the nearest is suggested) or a value of a wrong type.
    """
    short = {"lr": "learning_rate", "batch": "batch_size"}
    kinds = typing.get_type_hints(TrainConfig)
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = short.get(name, name)
        if name not in kinds or name == "model" or not equals:
            known = [one.name for one in fields(TrainConfig) if one.name != "model"]
            close = difflib.get_close_matches(name, [*known, *short], 1)
            hint = f"; did you mean {close[0]!r}?" if close else f" (there are {', '.join(known)})"
            raise TrainError(f"--set {setting}: no such setting{hint}")
        changes[name] = _value(kinds[name], text, setting)
    return replace(config, **changes)


def _value(kind: Any, text: str, setting: str) -> Any:
    """`text` as a value of `kind`."""
    options = typing.get_args(kind)
    if type(None) in options:
        if text.lower() in ("none", ""):
            return None
        [kind] = [one for one in options if one is not type(None)]
        options = typing.get_args(kind)
    try:
        if typing.get_origin(kind) is tuple:
            inner = options[0]
            return tuple(_value(inner, part.strip(), setting) for part in text.split(",") if part)
        if typing.get_origin(kind) is Literal:
            if text not in options:
                raise ValueError
            return text
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        wanted = " or ".join(map(str, options)) or getattr(kind, "__name__", kind)
        raise TrainError(f"--set {setting}: {text!r} is not {wanted}") from None
