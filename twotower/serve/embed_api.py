"""Our own endpoints for models: embeddings and zero-shot classification, a status per item."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from twotower.arrays import Float32Array
from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.errors import RequestError
from twotower.serve.request_pictures import read_pictures

_TAG = "models"
Text = Annotated[str, Field(min_length=1)]
Label = Annotated[str, Field(pattern=r"\S")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EmbedRequest(_Body):
    """Texts and pictures to embed; pictures as base64, data URIs or URLs."""

    texts: list[Text] = []
    images: list[str] = []
    model: str | None = None
    encoding: Literal["float", "base64"] = "float"


class ItemError(BaseModel):
    """The error of one item."""

    message: str


class EmbeddedItem(BaseModel):
    """An embedding with status 200, or an error; base64 holds little-endian float32."""

    status: int
    embedding: list[float] | str | None = None
    error: ItemError | None = None


class EmbedAnswer(BaseModel):
    """Items in the order of the request."""

    model: str
    texts: list[EmbeddedItem]
    images: list[EmbeddedItem]


class ClassifyRequest(_Body):
    """Pictures and labels to choose from."""

    images: list[str]
    labels: list[Label] = Field(min_length=1)
    template: str | None = Field(None, pattern=r"^[^{}]*\{\}[^{}]*$")
    model: str | None = None


class LabelProbability(BaseModel):
    """A label with its probability."""

    label: str
    probability: float


class ClassifiedItem(BaseModel):
    """The labels of a picture, the most probable first, or an error."""

    status: int
    labels: list[LabelProbability] | None = None
    error: ItemError | None = None


class ClassifyAnswer(BaseModel):
    """Items in the order of the request."""

    model: str
    images: list[ClassifiedItem]


async def embed(call: Call) -> Response:
    """Embed texts and pictures."""
    body = call.parse(EmbedRequest)
    model = call.server.models.find(body.model)
    texts: list[EmbeddedItem] = []
    if body.texts:
        embeds = await model.embed_texts(body.texts)
        texts = [_embedded(row, body.encoding) for row in embeds]
    images: list[EmbeddedItem] = []
    if body.images:
        contents = await read_pictures(body.images, call.server.settings)
        images = [
            _failed(outcome)
            if isinstance(outcome, RequestError)
            else _embedded(outcome.image_embeds, body.encoding)
            for outcome in await model.embed_pictures(contents)
        ]
    return _json(EmbedAnswer(model=model.name, texts=texts, images=images))


async def classify(call: Call) -> Response:
    """Choose among labels."""
    body = call.parse(ClassifyRequest)
    model = call.server.models.find(body.model)
    contents = await read_pictures(body.images, call.server.settings)
    items = []
    for outcome in await model.embed_pictures(contents) if contents else ():
        if isinstance(outcome, RequestError):
            items.append(ClassifiedItem(status=outcome.status, error=_message(outcome)))
            continue
        probabilities = await model.zero_shot(outcome.image_embeds, body.labels, body.template)
        labels = [
            LabelProbability(label=body.labels[index].strip(), probability=float(probability))
            for index, probability in sorted(
                enumerate(probabilities), key=lambda pair: float(pair[1]), reverse=True
            )
        ]
        items.append(ClassifiedItem(status=200, labels=labels))
    return _json(ClassifyAnswer(model=model.name, images=items))


def to_base64(embeds: Float32Array) -> str:
    """Return an embedding as base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(embeds, "<f4").tobytes()).decode()


def _embedded(embeds: Float32Array, encoding: str) -> EmbeddedItem:
    value = to_base64(embeds) if encoding == "base64" else embeds.tolist()
    return EmbeddedItem.model_construct(status=200, embedding=value)


def _failed(error: RequestError) -> EmbeddedItem:
    return EmbeddedItem(status=error.status, error=_message(error))


def _message(error: RequestError) -> ItemError:
    return ItemError(message=error.message)


def _json(answer: BaseModel) -> Response:
    return JSONResponse(answer.model_dump(exclude_none=True))


ENDPOINTS = (
    Endpoint(
        "/api/embed",
        ("POST",),
        embed,
        _TAG,
        "Embed texts and pictures.",
        body=EmbedRequest,
        answer=EmbedAnswer,
    ),
    Endpoint(
        "/api/classify",
        ("POST",),
        classify,
        _TAG,
        "Choose among labels for each picture.",
        body=ClassifyRequest,
        answer=ClassifyAnswer,
    ),
)
