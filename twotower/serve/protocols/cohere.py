"""Cohere's `/v2/embed`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints
from starlette.responses import JSONResponse, Response

from twotower.arrays import Float32Array
from twotower.serve.embed_api import to_base64
from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.errors import RequestError, located_message
from twotower.serve.models import ServedModel
from twotower.serve.protocols.items import Item, embed_items, item_of_content

EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
_FloatRows: TypeAlias = list[list[float]]
_IntegerRows: TypeAlias = list[list[int]]
_Text = Annotated[str, StringConstraints(min_length=1)]


class ContentUrl(BaseModel):
    """The URL of a picture: a data URI, or http(s) where URLs are fetched."""

    url: _Text


class ContentPart(BaseModel):
    """A text or a picture."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ContentUrl | None = None


class ContentInput(BaseModel):
    """Content with one embedding: texts, which are joined, or one picture."""

    content: list[ContentPart] = Field(min_length=1)


class CohereRequest(BaseModel):
    """One of `texts`, `images` (data URIs) and `inputs`. `input_type` has no effect on CLIP."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    input_type: str | None = None
    texts: list[_Text] | None = None
    images: list[_Text] | None = None
    inputs: list[ContentInput] | None = None
    embedding_types: list[EmbeddingType] | None = None
    truncate: Literal["NONE", "START", "END"] = "END"
    output_dimension: StrictInt | None = None


class EmbeddingsByType(BaseModel):
    """Embeddings in the types of the request; int8 is 127 times the value, uint8 is int8 + 128.

    A bit of ubinary is 1 for values of at least 0, the most significant bit being the first;
    binary is ubinary - 128.
    """

    float: _FloatRows | None = None
    int8: _IntegerRows | None = None
    uint8: _IntegerRows | None = None
    binary: _IntegerRows | None = None
    ubinary: _IntegerRows | None = None
    base64: list[str] | None = None


class CohereApiVersion(BaseModel):
    """The version of the protocol."""

    version: Literal["2"] = "2"


class CohereBilledUnits(BaseModel):
    """The tokens of texts, and the number of pictures."""

    input_tokens: int | None = None
    images: int | None = None


class CohereMeta(BaseModel):
    """Facts about the answer."""

    api_version: CohereApiVersion
    billed_units: CohereBilledUnits


class CohereAnswer(BaseModel):
    """Embeddings in the order of the request."""

    id: str
    embeddings: EmbeddingsByType
    texts: list[str] | None = None
    meta: CohereMeta
    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"


def cohere_error(error: RequestError) -> Response:
    """Return `{"message": "text"}`."""
    return JSONResponse({"message": located_message(error)}, error.status, headers=error.headers)


async def embed(call: Call) -> Response:
    """Embed texts and pictures."""
    body = call.parse(CohereRequest)
    items = _items(body)
    served = call.server.models.find(body.model)
    _check_dimensions(body, served)
    embedded = await embed_items(items, served, call.server.settings, body.truncate)
    pictures = sum(item.kind == "picture" for item in items)
    units = {"input_tokens": embedded.tokens, "images": pictures}
    content = {
        "id": str(uuid.uuid4()),
        "embeddings": _to_types(embedded.embeds, body.embedding_types or ["float"]),
        "texts": body.texts or [],
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {name: count for name, count in units.items() if count},
        },
        "response_type": "embeddings_by_type",
    }
    return JSONResponse(content)


def _items(body: CohereRequest) -> list[Item]:
    lists = [name for name in ("texts", "images", "inputs") if getattr(body, name)]
    if len(lists) != 1:
        raise RequestError(400, "give one of texts, images and inputs, with at least one entry")
    if body.texts:
        return [Item("text", text, f"texts[{index}]") for index, text in enumerate(body.texts)]
    if body.images:
        return [Item("picture", uri, f"images[{index}]") for index, uri in enumerate(body.images)]
    return [
        item_of_content([content.model_dump() for content in entry.content], f"inputs[{index}]")
        for index, entry in enumerate(body.inputs or [])
    ]


def _check_dimensions(body: CohereRequest, served: ServedModel) -> None:
    if body.output_dimension not in (None, served.embed_dim):
        raise RequestError(
            400,
            f"{served.name} has {served.embed_dim} dimensions, which cannot be changed",
            field="output_dimension",
        )
    if served.embed_dim % 8 and {"binary", "ubinary"} & set(body.embedding_types or ()):
        raise RequestError(
            400,
            f"{served.name} has {served.embed_dim} dimensions; bits need a multiple of 8",
            field="embedding_types",
        )


def _to_types(embeds: Float32Array, types: Sequence[EmbeddingType]) -> dict[str, Any]:
    return {name: _CONVERSIONS[name](embeds) for name in dict.fromkeys(types)}


def _to_int8(embeds: Float32Array) -> list[list[int]]:
    return np.rint(embeds * 127).astype(np.int16).tolist()


def _to_uint8(embeds: Float32Array) -> list[list[int]]:
    return (np.rint(embeds * 127).astype(np.int16) + 128).tolist()


def _to_ubinary(embeds: Float32Array) -> list[list[int]]:
    return np.packbits(embeds >= 0, axis=1).tolist()


def _to_binary(embeds: Float32Array) -> list[list[int]]:
    return (np.packbits(embeds >= 0, axis=1).astype(np.int16) - 128).tolist()


_CONVERSIONS: dict[EmbeddingType, Callable[[Float32Array], list[Any]]] = {
    "float": lambda embeds: embeds.tolist(),
    "int8": _to_int8,
    "uint8": _to_uint8,
    "binary": _to_binary,
    "ubinary": _to_ubinary,
    "base64": lambda embeds: [to_base64(row) for row in embeds],
}

ENDPOINTS = (
    Endpoint(
        "/v2/embed",
        ("POST",),
        embed,
        "Cohere",
        "Embed texts and pictures.",
        body=CohereRequest,
        answer=CohereAnswer,
        errors=cohere_error,
    ),
)
