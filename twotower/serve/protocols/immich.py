"""Immich's machine learning protocol, the part for smart search: `/predict` and `/ping`.

Read from immich-app/immich: `machine-learning/immich_ml/main.py` (the answers) and
`server/src/constants.ts` (the models). Faces and text recognition are refused: an empty answer
would be stored as "no faces".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from starlette.datastructures import FormData, UploadFile
from starlette.responses import JSONResponse, PlainTextResponse, Response

from twotower.arrays import Float32Array
from twotower.serve.endpoint import Call, Endpoint, parse_json
from twotower.serve.errors import RequestError
from twotower.serve.models import ServedModel, ServedModels

_TAG = "immich"
Tower = Literal["visual", "textual"]

# The length of the vectors that Immich expects of a model, by the name before "__".
_EMBED_DIMS = {
    name: embed_dim
    for embed_dim, names in {
        512: "RN101 ViT-B-16 ViT-B-32 XLM-Roberta-Base-ViT-B-32 XLM-Roberta-Large-Vit-B-32",
        640: "RN50x4 ViT-B-16-plus-240 XLM-Roberta-Large-Vit-B-16Plus",
        768: "RN50x16 ViT-L-14 ViT-L-14-336 ViT-L-14-quickgelu LABSE-Vit-L-14 "
        "XLM-Roberta-Large-Vit-L-14 nllb-clip-base-siglip ViT-B-16-SigLIP ViT-B-16-SigLIP-256 "
        "ViT-B-16-SigLIP-384 ViT-B-16-SigLIP-512 ViT-B-16-SigLIP-i18n-256 ViT-B-16-SigLIP2 "
        "ViT-B-32-SigLIP2-256",
        1024: "RN50 RN50x64 ViT-H-14 ViT-H-14-quickgelu ViT-H-14-378-quickgelu ViT-g-14 "
        "XLM-Roberta-Large-ViT-H-14 ViT-L-16-SigLIP-256 ViT-L-16-SigLIP-384 "
        "ViT-L-16-SigLIP2-256 ViT-L-16-SigLIP2-384 ViT-L-16-SigLIP2-512",
        1152: "nllb-clip-large-siglip ViT-SO400M-14-SigLIP-384 ViT-SO400M-14-SigLIP2 "
        "ViT-SO400M-14-SigLIP2-378 ViT-SO400M-16-SigLIP2-256 ViT-SO400M-16-SigLIP2-384 "
        "ViT-SO400M-16-SigLIP2-512",
        1536: "ViT-gopt-16-SigLIP2-256 ViT-gopt-16-SigLIP2-384",
    }.items()
    for name in names.split()
}


class PredictAnswer(BaseModel):
    """A vector as the text of a JSON array, and the size of a picture in pixels."""

    clip: str
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815


@dataclass(frozen=True)
class _Prediction:
    """A request in either form: the tower, the name of the model, and the form of the answer."""

    tower: Tower
    model_name: str
    bare: bool = False


async def ping(call: Call) -> Response:
    """Answer once the models are loaded; Immich sends no requests before."""
    call.server.require_ready()
    return PlainTextResponse("pong")


async def predict(call: Call) -> Response:
    """Embed a picture or a text."""
    form = await call.form()
    prediction = _read_prediction(form)
    model = find_model(call.server.models, prediction.model_name)
    if prediction.tower == "visual":
        return await _embed_picture(model, form, bare=prediction.bare)
    text = form.get("text")
    if not isinstance(text, str) or not text:
        raise RequestError(400, _no_input("text", "textual"))
    (embeds,) = await model.embed_texts([text])
    return _answer(embeds, bare=prediction.bare)


def find_model(models: ServedModels, name: str) -> ServedModel:
    """Return the model for Immich's name of a model.

    It is the model of that name, where only the last part of a path counts and ":" is "_". A
    single model also stands in for any of Immich's models with vectors of the same length.

    Raises:
        RequestError: 404, there is no such model.
    """
    for model in models.models.values():
        if _clean(model.name) == _clean(name):
            return model
    expected = _EMBED_DIMS.get(_clean(name).partition("__")[0])
    if len(models.models) == 1 and models.default.embed_dim == expected:
        return models.default
    served = ", ".join(f"{model.name} ({model.embed_dim})" for model in models.models.values())
    length = f"with vectors of length {expected}, " if expected else ""
    raise RequestError(404, f"no model {name!r} {length}is served; served with lengths: {served}")


def detail_error(error: RequestError) -> Response:
    """Return `{"detail": "text"}`, the form of FastAPI."""
    return JSONResponse({"detail": error.message}, error.status, headers=error.headers)


def _clean(name: str) -> str:
    """Return a name as Immich makes the name of a folder of it."""
    return name.rstrip("/").rpartition("/")[2].replace(":", "_")


def _read_prediction(form: FormData) -> _Prediction:
    if "entries" not in form:
        return _read_first_form(form)
    entries = _read_json(form["entries"])
    if not isinstance(entries, dict) or not entries:
        raise _invalid("entries is no object of tasks")
    if unsupported := [str(task) for task in entries if task != "clip"]:
        raise RequestError(400, f"the task {unsupported[0]!r} is not supported; only clip is")
    types = entries["clip"]
    if not isinstance(types, dict) or len(types) != 1:
        raise _invalid("clip has other than one type")
    [(tower, entry)] = types.items()
    return _Prediction(_tower(tower), _model_name(entry))


def _read_first_form(form: FormData) -> _Prediction:
    """Read the form of older versions, with a field for each setting; its answer is bare."""
    if form.get("modelType") is None:
        raise _invalid("entries is missing")
    if (task := form["modelType"]) != "clip":
        raise RequestError(400, f"the model type {str(task)[:40]!r} is not supported; only clip is")
    options = _read_json(form.get("options", "{}"))
    mode = options.get("mode") if isinstance(options, dict) else None
    if mode is None:
        mode = "text" if "text" in form else "vision"
    tower = {"text": "textual", "vision": "visual"}.get(mode) if isinstance(mode, str) else None
    return _Prediction(_tower(tower), _model_name(dict(form)), bare=True)


def _read_json(field: object) -> Any:
    try:
        return parse_json(str(field))
    except RequestError as error:
        raise _invalid(error.message) from error


def _tower(tower: object) -> Tower:
    if tower == "visual" or tower == "textual":
        return tower
    raise _invalid("the type of clip is neither visual nor textual")


def _model_name(entry: Any) -> str:
    name = entry.get("modelName") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise _invalid("modelName is missing")
    return name


def _invalid(reason: str) -> RequestError:
    return RequestError(422, f"Invalid request format: {reason}.")


def _no_input(field: str, tower: Tower) -> str:
    return f"Either image or text must be provided: {field} for {tower}"


async def _embed_picture(model: ServedModel, form: FormData, *, bare: bool) -> Response:
    upload = form.get("image")
    if upload is None:
        raise RequestError(400, _no_input("image", "visual"))
    if not isinstance(upload, UploadFile):
        raise RequestError(422, "image is no file")
    picture = await model.embed_picture(await upload.read())
    size = {"imageHeight": picture.height, "imageWidth": picture.width}
    return _answer(picture.image_embeds, size, bare=bare)


def _answer(embeds: Float32Array, size: dict[str, int] | None = None, *, bare: bool) -> Response:
    vector = embeds.tolist()
    if bare:
        return JSONResponse(vector)
    return JSONResponse({"clip": json.dumps(vector), **(size or {})})


_FORM = {
    "multipart/form-data": {
        "type": "object",
        "properties": {
            "entries": {"type": "string", "description": "JSON: the task, its type and model"},
            "image": {"type": "string", "format": "binary"},
            "text": {"type": "string"},
        },
        "required": ["entries"],
    }
}
ENDPOINTS = (
    Endpoint("/ping", ("GET",), ping, _TAG, "Are the models loaded?", errors=detail_error),
    Endpoint(
        "/predict",
        ("POST",),
        predict,
        _TAG,
        "Embed a picture or a text.",
        content=_FORM,
        answer=PredictAnswer,
        errors=detail_error,
    ),
)
