"""Adapters that give every kind of encoder one interface for evaluations.

These are what `load` opens, and Python objects.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image

from twotower.arrays import Float32Array, normalize
from twotower.encode.encoder import Encoder
from twotower.encode.golden import fingerprint
from twotower.encode.load import load
from twotower.encode.stream import EncodedPicture, read_ahead
from twotower.errors import ModelError, PictureError
from twotower.inputs.pictures import Picture, open_picture

BATCH = 32
DEFAULT_SCALE = 100.0  # CLIP's logit scale, for an object without one


class AnyEncoder(Protocol):
    """The methods that an object needs; they return numpy arrays, torch tensors or lists.

    It may also have `logit_scale` (default 100), `logit_bias` and `templates`.
    """

    def encode_image(self, pictures: list[PIL.Image.Image]) -> Any:
        """Encode upright RGB pictures; return [n, embed_dim], which need not have unit length."""

    def encode_text(self, texts: list[str]) -> Any:
        """Encode texts; return [n, embed_dim], which need not have unit length."""


class Model(Protocol):
    """The interface that evaluations use."""

    name: str
    templates: tuple[str, ...]
    logit_scale: float
    logit_bias: float | None

    def stream(self, pictures: Iterable[Picture]) -> Iterator[EncodedPicture]:
        """Yield the image_embeds, of unit length, or the error of each picture in order."""

    def encode_text(self, texts: Sequence[str]) -> Float32Array:
        """Return text_embeds [n, embed_dim] of unit length."""

    def describe(self) -> dict[str, Any]:
        """Return everything that decides the results: fingerprint, preprocessing, engine."""


def open_model(model: str | Path | None = None, engine: str = "onnxruntime") -> Model:
    """Open an encoder by name.

    Args:
        model: any name that `twotower.load` takes; or `package.module:object`, an object with
            `encode_image` and `encode_text` (or a function without arguments that makes one).

    Raises:
        ModelError: there is no such module or object, or `load` raises it.
    """
    model = None if model is None else str(model)
    if model and _names_an_object(model):
        return ObjectModel(_import_encoder(model), model)
    return TwotowerModel(load(model, engine=engine), model)


def _names_an_object(model: str) -> bool:
    module, _, name = model.partition(":")
    words = [*module.split("."), *name.split(".")]
    return bool(name) and all(word.isidentifier() for word in words) and not Path(model).exists()


def _import_encoder(model: str) -> Any:
    """Import `package.module:object`; call it if it is a class or a function.

    Raises:
        ModelError: there is no such object, it cannot be called, or it is no encoder.
    """
    encoder = _import_object(model)
    if not _is_encoder(encoder) or isinstance(encoder, type):
        try:
            encoder = encoder()
        except TypeError as error:
            raise ModelError(
                model,
                f"cannot be called without arguments ({error})",
                "give an object with encode_image and encode_text, or a function that makes one",
            ) from None
    if not _is_encoder(encoder):
        raise ModelError(
            model, "has no encode_image and encode_text", "give an object that has both"
        )
    return encoder


def _import_object(model: str) -> Any:
    module, _, attributes = model.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:  # as `python -m` does
        sys.path.insert(0, folder)
    try:
        value: Any = importlib.import_module(module)
        for attribute in attributes.split("."):
            value = getattr(value, attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(model, str(error), "give package.module:object") from None
    return value


def _is_encoder(value: Any) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("encode_image", "encode_text"))


class TwotowerModel:
    """An `Encoder` of this package, from a model directory or from weights that `load` converts.

    Args:
        requested_name: the name that it was loaded by, if not its own.
    """

    def __init__(self, encoder: Encoder, requested_name: str | None = None) -> None:
        self.encoder = encoder
        self.requested_name = requested_name
        self.name = encoder.config.name
        self.templates = encoder.config.templates
        self.logit_scale = encoder.logit_scale
        self.logit_bias = encoder.logit_bias

    def stream(self, pictures: Iterable[Picture]) -> Iterator[EncodedPicture]:
        """Yield the image_embeds, of unit length, or the error of each picture in order."""
        return self.encoder.stream(pictures, BATCH)

    def encode_text(self, texts: Sequence[str]) -> Float32Array:
        """Return text_embeds [n, embed_dim] of unit length."""
        return self.encoder.encode_text(texts)

    def describe(self) -> dict[str, Any]:
        """Return name, fingerprint, preprocessing and engine."""
        return {
            "name": self.name,
            "asked_for": self.requested_name or self.name,
            "fingerprint": fingerprint(self.encoder.directory),
            "engine": self.encoder.engine,
            "embed_dim": self.encoder.config.embed_dim,
            "preprocess": asdict(self.encoder.config.preprocess),
        }


class ObjectModel:
    """An object with `encode_image` and `encode_text`, which gets decoded PIL pictures."""

    def __init__(self, encoder: AnyEncoder, name: str) -> None:
        self.encoder = encoder
        self.name = name
        self.templates = tuple(getattr(encoder, "templates", ("a photo of a {}.",)))
        bias = getattr(encoder, "logit_bias", None)
        self.logit_scale = float(getattr(encoder, "logit_scale", DEFAULT_SCALE))
        self.logit_bias = None if bias is None else float(bias)

    def stream(self, pictures: Iterable[Picture]) -> Iterator[EncodedPicture]:
        """Yield the image_embeds, of unit length, or the error of each picture in order."""
        waiting: list[tuple[Picture, PIL.Image.Image | PictureError]] = []
        for pair in read_ahead(_rgb, pictures, ahead=2 * BATCH):
            waiting.append(pair)
            if len(waiting) == BATCH:
                yield from self._encode_batch(waiting)
                waiting = []
        yield from self._encode_batch(waiting)

    def _encode_batch(
        self, waiting: list[tuple[Picture, PIL.Image.Image | PictureError]]
    ) -> Iterator[EncodedPicture]:
        images = [image for _, image in waiting if not isinstance(image, PictureError)]
        embeds = iter(self._unit_embeds("encode_image", images) if images else ())
        for source, image in waiting:
            if isinstance(image, PictureError):
                yield EncodedPicture(source, None, image)
            else:
                yield EncodedPicture(source, next(embeds), None)

    def encode_text(self, texts: Sequence[str]) -> Float32Array:
        """Return text_embeds [n, embed_dim] of unit length."""
        return self._unit_embeds("encode_text", list(texts))

    def describe(self) -> dict[str, Any]:
        """Return the name, and the fields of the object's own `describe`, if it has one."""
        fields = self.encoder.describe() if hasattr(self.encoder, "describe") else {}
        return {"name": self.name, "asked_for": self.name, "fingerprint": None, **fields}

    def _unit_embeds(self, method: str, inputs: list[Any]) -> Float32Array:
        output = getattr(self.encoder, method)(inputs)
        if hasattr(output, "detach"):  # a torch tensor, on any device
            output = output.detach().float().cpu()
        features = np.asarray(output, np.float32)
        if features.ndim != 2 or len(features) != len(inputs):
            raise ModelError(
                self.name,
                f"{method} returned an array of shape {features.shape} for {len(inputs)} inputs",
                "it must be [n, embed_dim]",
            )
        if not np.isfinite(features).all():
            raise ModelError(
                self.name, f"{method} returned NaN or infinity", "check its weights and inputs"
            )
        return normalize(features)


def _rgb(picture: Picture) -> PIL.Image.Image:
    return open_picture(picture).convert("RGB")
