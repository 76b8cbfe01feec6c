"""Any encoder in one shape: ours, foreign weights, a pair of ONNX graphs, or a Python object."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from twotower.arrays import normalize
from twotower.encode.encoder import Encoder
from twotower.encode.golden import fingerprint
from twotower.encode.load import load
from twotower.encode.stream import EncodedPicture, read_ahead
from twotower.errors import ModelError, PictureError
from twotower.evaluate.onnx_pair import OnnxPair, find_graphs
from twotower.inputs.pictures import Picture, open_picture

BATCH = 32
DEFAULT_SCALE = 100.0  # what CLIP's cosines are multiplied with, where an object does not say


class AnyEncoder(Protocol):
    """What an object must have to be evaluated; numpy arrays, torch tensors or lists come back.

    It may also have `logit_scale` (default 100), `logit_bias` and `templates`.
    """

    def encode_image(self, pictures: list[PIL.Image.Image]) -> Any:
        """Upright RGB pictures -> [n, embed_dim], of any length: it is normalised here."""

    def encode_text(self, texts: list[str]) -> Any:
        """Texts -> [n, embed_dim], likewise."""


class Model(Protocol):
    """What the evaluation asks of an encoder."""

    name: str
    templates: tuple[str, ...]
    logit_scale: float
    logit_bias: float | None

    def stream(self, pictures: Iterable[Picture]) -> Iterator[EncodedPicture]:
        """image_embeds of unit length, or the error, one by one in the order given."""

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """text_embeds [n, embed_dim] of unit length."""

    def describe(self) -> dict[str, Any]:
        """What decides the numbers: fingerprint of the weights, preprocessing, engine."""


def open_model(model: str | Path | None = None, engine: str = "onnxruntime") -> Model:
    """The encoder that a name stands for.

    Args:
        model: whatever `twotower.load` takes; a folder with a pair of ONNX graphs, or the two of
            them with a comma between; or `package.module:object`, an object with `encode_image`
            and `encode_text` (or a function without arguments that makes one).

    Raises:
        ModelError: there is no such module, object or pair; and what `load` raises.
    """
    model = None if model is None else str(model)
    if model and (graphs := find_graphs(model)):
        return ObjectModel(OnnxPair(*graphs), model)
    if model and _names_an_object(model):
        return ObjectModel(_import(model), model)
    return TwotowerModel(load(model, engine=engine), model)


def _names_an_object(model: str) -> bool:
    module, _, name = model.partition(":")
    words = [*module.split("."), *name.split(".")]
    return bool(name) and all(word.isidentifier() for word in words) and not Path(model).exists()


def _import(model: str) -> Any:
    module, _, name = model.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it, so that a module beside you is found
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"{model}: {error}; give package.module:object") from None
    if not _encodes(found) or isinstance(found, type):  # a class is called to make its object
        try:
            found = found()
        except TypeError as error:
            raise ModelError(f"{model}: cannot be called without arguments ({error})") from None
    if not _encodes(found):
        raise ModelError(f"{model}: has no encode_image and encode_text")
    return found


def _encodes(found: Any) -> bool:
    return all(callable(getattr(found, name, None)) for name in ("encode_image", "encode_text"))


class TwotowerModel:
    """Our `Encoder`, and with it everything that `load` converts."""

    def __init__(self, encoder: Encoder, asked: str | None = None) -> None:
        self.encoder = encoder
        self.asked = asked
        self.name = encoder.config.name
        self.templates = encoder.config.templates
        self.logit_scale = encoder.logit_scale
        self.logit_bias = encoder.logit_bias

    def stream(self, pictures: Iterable[Picture]) -> Iterator[EncodedPicture]:
        """image_embeds of unit length, or the error, one by one in the order given."""
        return self.encoder.stream(pictures, BATCH)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """text_embeds [n, embed_dim] of unit length."""
        return self.encoder.encode_text(texts)

    def describe(self) -> dict[str, Any]:
        """Name, fingerprint, preprocessing and engine."""
        return {
            "name": self.name,
            "asked_for": self.asked or self.name,
            "fingerprint": fingerprint(self.encoder.directory),
            "engine": self.encoder.engine,
            "embed_dim": self.encoder.config.embed_dim,
            "preprocess": asdict(self.encoder.config.preprocess),
        }


class ObjectModel:
    """Any object with `encode_image` and `encode_text`; it gets PIL pictures, decoded ahead."""

    def __init__(self, encoder: AnyEncoder, name: str) -> None:
        self.encoder = encoder
        self.name = name
        self.templates = tuple(getattr(encoder, "templates", ("a photo of a {}.",)))
        bias = getattr(encoder, "logit_bias", None)
        self.logit_scale = float(getattr(encoder, "logit_scale", DEFAULT_SCALE))
        self.logit_bias = None if bias is None else float(bias)

    def stream(self, pictures: Iterable[Picture]) -> Iterator[EncodedPicture]:
        """image_embeds of unit length, or the error, one by one in the order given."""
        waiting: list[tuple[Picture, PIL.Image.Image | PictureError]] = []
        for pair in read_ahead(_rgb, pictures, ahead=2 * BATCH):
            waiting.append(pair)
            if len(waiting) == BATCH:
                yield from self._answer(waiting)
                waiting = []
        yield from self._answer(waiting)

    def _answer(
        self, waiting: list[tuple[Picture, PIL.Image.Image | PictureError]]
    ) -> Iterator[EncodedPicture]:
        images = [one for _, one in waiting if not isinstance(one, PictureError)]
        embeds = iter(self._unit("encode_image", images) if images else ())
        for source, image in waiting:
            if isinstance(image, PictureError):
                yield EncodedPicture(source, None, image)
            else:
                yield EncodedPicture(source, next(embeds), None)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """text_embeds [n, embed_dim] of unit length."""
        return self._unit("encode_text", list(texts))

    def describe(self) -> dict[str, Any]:
        """Name, and what the object says of itself in `describe`, if it does."""
        own = self.encoder.describe() if hasattr(self.encoder, "describe") else {}
        return {"name": self.name, "asked_for": self.name, "fingerprint": None, **own}

    def _unit(self, method: str, inputs: list[Any]) -> NDArray[np.float32]:
        answer = getattr(self.encoder, method)(inputs)
        if hasattr(answer, "detach"):  # a torch tensor, wherever it lies
            answer = answer.detach().float().cpu()
        vectors = np.asarray(answer, np.float32)
        if vectors.ndim != 2 or len(vectors) != len(inputs):
            raise ModelError(
                f"{self.name}: {method} gave an array of shape {vectors.shape} for "
                f"{len(inputs)} inputs; it must be [n, embed_dim]"
            )
        if not np.isfinite(vectors).all():
            raise ModelError(f"{self.name}: {method} gave vectors with NaN or infinity")
        return normalize(vectors)


def _rgb(picture: Picture) -> PIL.Image.Image:
    return open_picture(picture).convert("RGB")
