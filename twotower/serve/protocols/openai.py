"""OpenAI's embeddings and models, with the dialects of infinity, Jina and vLLM."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StrictInt, WithJsonSchema
from starlette.responses import JSONResponse, Response

from twotower.serve.embed_api import to_base64
from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.errors import RequestError
from twotower.serve.models import ServedModel
from twotower.serve.protocols.items import Item, embed_items
from twotower.serve.protocols.openai_inputs import items_of_input, items_of_messages

_TAG = "OpenAI"
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"type": "string"},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": {"type": "object"}}]},
    },
    "required": ["role", "content"],
}
_MESSAGES = {"type": "array", "minItems": 1, "items": _MESSAGE}
_JINA = [
    {"type": "object", "properties": {kind: _TEXT}, "required": [kind]}
    for kind in ("text", "image")
]
_INPUT_SCHEMA = {
    "description": "A text, or a list: of texts; of pictures, with modality image or as data "
    'URIs; of {"text"} and {"image"}; of messages. Token ids are refused.',
    "anyOf": [
        _TEXT,
        {"type": "array", "minItems": 1, "items": {"anyOf": [_TEXT, *_JINA, _MESSAGE, _MESSAGES]}},
        {"type": "null"},
    ],
}
_MESSAGES_SCHEMA = {
    "description": "In place of input: a conversation about one text or picture, or a list of such",
    "anyOf": [
        _MESSAGES,
        {"type": "array", "minItems": 1, "items": _MESSAGES},
        {"type": "null"},
    ],
}


class _EmbeddingOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    embedding_type: Literal["float", "base64"] | None = None
    dimensions: StrictInt | None = None


class EmbeddingRequest(_EmbeddingOptions):
    """Texts and pictures to embed. Further fields of the dialects are accepted and ignored.

    `dimensions` is the model's own number, or 0. `embedding_type` is Jina's name of
    `encoding_format`. Base64 holds little-endian float32, so `embed_dtype` and `endianness` may
    say nothing else.
    """

    input: Annotated[Any, WithJsonSchema(_INPUT_SCHEMA)] = None
    messages: Annotated[Any, WithJsonSchema(_MESSAGES_SCHEMA)] = None
    modality: Literal["text", "image"] | None = None
    embed_dtype: Literal["float32"] | None = None
    endianness: Literal["native", "little"] | None = None


class ImageEmbeddingRequest(_EmbeddingOptions):
    """Pictures to embed: data URIs, base64, or URLs where these are fetched."""

    input: str | list[str]


class Embedding(BaseModel):
    """An embedding of unit length; base64 holds little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """The tokens of the texts; pictures have none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Embeddings in the order of the request."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def openai_error(error: RequestError) -> Response:
    """Return `{"error": {"message", "type", "param", "code"}}`, which both clients unwrap.

    A wrong field has status 400 in this protocol. Clients repeat a request with status 504 unless
    told otherwise, and it would take as long again.
    """
    status = 400 if error.status == 422 else error.status
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    content = {
        "message": error.message,
        "type": kind,
        "param": error.field or None,
        "code": _CODES.get(status),
    }
    headers = error.headers | ({"x-should-retry": "false"} if status == 504 else {})
    return JSONResponse({"error": content}, status, headers=headers)


async def embeddings(call: Call) -> Response:
    """Embed texts and pictures."""
    body = call.parse(EmbeddingRequest)
    return await _respond(call, body, _items(body))


async def embeddings_image(call: Call) -> Response:
    """Embed pictures, in infinity's earlier form."""
    body = call.parse(ImageEmbeddingRequest)
    return await _respond(call, body, items_of_input(body.input, "image"))


async def models(call: Call) -> Response:
    """List the models."""
    cards = [_card(model) for model in call.server.models.models.values()]
    return JSONResponse(ModelList(data=cards).model_dump())


async def model(call: Call) -> Response:
    """Describe a model."""
    name = call.request.path_params["id"]
    return JSONResponse(_card(call.server.models.find(name)).model_dump())


async def health(call: Call) -> Response:
    """Answer as long as the process does, for infinity's clients."""
    return JSONResponse({"unix": time.time()})


def _items(body: EmbeddingRequest) -> list[Item]:
    if (body.input is None) == (body.messages is None):
        raise RequestError(400, "give either input or messages", field="input")
    if body.messages is not None:
        return items_of_messages(body.messages)
    return items_of_input(body.input, body.modality)


async def _respond(call: Call, body: _EmbeddingOptions, items: list[Item]) -> Response:
    served = call.server.models.find(body.model)
    _check_dimensions(body.dimensions, served)
    embedded = await embed_items(items, served, call.server.settings)
    as_base64 = (body.encoding_format or body.embedding_type) == "base64"
    rows = map(to_base64, embedded.embeds) if as_base64 else embedded.embeds.tolist()
    content = {
        "id": f"embd-{uuid.uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": served.name,
        "data": [
            {"object": "embedding", "index": index, "embedding": row}
            for index, row in enumerate(rows)
        ],
        "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens},
    }
    return JSONResponse(content)


def _check_dimensions(dimensions: int | None, served: ServedModel) -> None:
    if dimensions not in (None, 0, served.embed_dim):
        raise RequestError(
            400,
            f"{served.name} has {served.embed_dim} dimensions, which cannot be changed; "
            "leave dimensions out",
            field="dimensions",
        )


def _card(served: ServedModel) -> ModelCard:
    changed = (served.encoder.directory / "config.json").stat().st_mtime
    return ModelCard(id=served.name, created=int(changed), owned_by="twotower")


ENDPOINTS = (
    *(
        Endpoint(
            path,
            ("POST",),
            embeddings,
            _TAG,
            "Embed texts and pictures.",
            body=EmbeddingRequest,
            answer=EmbeddingList,
            errors=openai_error,
        )
        for path in ("/v1/embeddings", "/embeddings")
    ),
    Endpoint("/health", ("GET",), health, _TAG, "Is the process alive (infinity)?", public=True),
    Endpoint(
        "/embeddings_image",
        ("POST",),
        embeddings_image,
        _TAG,
        "Embed pictures (infinity).",
        body=ImageEmbeddingRequest,
        answer=EmbeddingList,
        errors=openai_error,
    ),
    *(
        Endpoint(
            path, ("GET",), models, _TAG, "List models.", answer=ModelList, errors=openai_error
        )
        for path in ("/v1/models", "/models")
    ),
    Endpoint(
        "/v1/models/{id:path}",
        ("GET",),
        model,
        _TAG,
        "Describe a model.",
        answer=ModelCard,
        errors=openai_error,
    ),
)
