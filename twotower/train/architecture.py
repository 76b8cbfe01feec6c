"""Architectures to train: presets with other sizes, files of architectures, and any weights."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from twotower.encode.download import HUB_PREFIX
from twotower.encode.load import find_model
from twotower.encode.registry import bundled_name, named_model
from twotower.errors import ModelError, TrainError
from twotower.model.config import CLIPConfig, GraphVisionConfig, graph_only, read_config
from twotower.model.foreign.open_clip import open_clip_config
from twotower.model.presets import PRESETS, preset

TOP = ("embed_dim", "logit_bias")  # fields of `CLIPConfig` itself that a setting can change


def open_architecture(model: str) -> tuple[CLIPConfig, Path | None]:
    """Return an architecture, and the model directory of its weights unless they are fresh.

    Args:
        model: a preset; a JSON file, of `CLIPConfig` or of open_clip; or weights in any format
            that `load` takes, which are converted once.

    Raises:
        ModelError: no such preset, file or model.
    """
    path = Path(model)
    if model in PRESETS and not path.is_dir():
        return preset(model), None
    if path.suffix == ".json" and path.is_file():
        return read_architecture(path), None
    loadable = bundled_name(model) or named_model(model) or model.startswith(HUB_PREFIX)
    if not loadable and not path.exists():
        return preset(model), None  # raises the error
    directory = find_model(model)
    config = read_config(directory)
    if isinstance(config.vision, GraphVisionConfig):
        raise graph_only(model)
    return config, directory


def read_architecture(path: Path) -> CLIPConfig:
    """Read the JSON of a `CLIPConfig`, or of an architecture of open_clip.

    Raises:
        ModelError: not JSON, or not an architecture that `CLIP` has.
    """
    text = path.read_text(encoding="utf-8")
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise ModelError(path, f"not valid JSON ({error})", "correct it") from None
    if not isinstance(tree, dict) or not {"vision_cfg", "model_cfg"} & tree.keys():
        return replace(CLIPConfig.from_json(text, path), text_folder=None)
    described = tree if "model_cfg" in tree else {"model_cfg": tree}
    return replace(open_clip_config(described, {}, path), name=path.stem)


def architecture_types(model: CLIPConfig) -> dict[str, Any]:
    """Return the type of each field that a setting can change, such as `model.vision.width`."""
    top = typing.get_type_hints(CLIPConfig)
    types = {f"model.{name}": top[name] for name in TOP}
    for tower in ("vision", "text"):
        hints = typing.get_type_hints(type(getattr(model, tower)))
        types |= {f"model.{tower}.{name}": hints[name] for name in hints if name != "kind"}
    return types | {"model.tokenizer.context_length": int}


def change_architecture(model: CLIPConfig, values: Mapping[str, Any]) -> CLIPConfig:
    """Return `model` with other values of fields, by names such as `model.vision.width`.

    The preparation of inputs follows: the size of pictures, and the length of texts.

    Raises:
        TrainError: sizes that do not fit each other.
    """
    changes: dict[str, dict[str, Any]] = {"vision": {}, "text": {}, "tokenizer": {}, "": {}}
    for name, value in values.items():
        group, _, member = name.removeprefix("model.").rpartition(".")
        changes[group][member] = value
    vision = replace(model.vision, **changes["vision"])
    text = replace(model.text, **changes["text"])
    length = min(model.tokenizer.context_length, text.context_length)
    if model.tokenizer.context_length == model.text.context_length:
        length = text.context_length
    tokenizer = replace(model.tokenizer, **{"context_length": length} | changes["tokenizer"])
    preprocess = replace(model.preprocess, image_size=vision.image_size)
    changed = replace(
        model,
        vision=vision,
        text=text,
        tokenizer=tokenizer,
        preprocess=preprocess,
        **changes[""],
    )
    _check_sizes(changed)
    return changed


def _check_sizes(model: CLIPConfig) -> None:
    """Raise `TrainError` for sizes that do not fit each other."""
    for tower in ("vision", "text"):
        config = getattr(model, tower)
        width, heads = getattr(config, "width", 0), getattr(config, "heads", 1)
        if heads < 1 or width % heads:
            raise TrainError(
                f"model.{tower}.width",
                f"{width} cannot be divided by {heads} heads",
                f"change it, or set model.{tower}.heads",
            )
        if getattr(config, "pool", None) == "map" and width != model.embed_dim:
            raise TrainError(
                f"model.{tower}.width",
                f"the tower has no projection, so its {width} numbers are the embed, which has "
                f"{model.embed_dim}",
                "make width and model.embed_dim equal",
            )
    patch_size = getattr(model.vision, "patch_size", 1)
    if not 0 < patch_size <= model.vision.image_size:
        raise TrainError(
            "model.vision.patch_size",
            f"{patch_size} is no size of a patch in a picture of {model.vision.image_size}",
            "change it, or set model.vision.image_size",
        )
