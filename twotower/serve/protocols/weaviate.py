"""The inference container of Weaviate's module multi2vec-clip.

Read from weaviate/multi2vec-clip-inference, `app.py`, and from Weaviate's client,
`modules/multi2vec-clip/clients`.
"""

from __future__ import annotations

from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.errors import RequestError, text_error
from twotower.serve.models import ServedModel
from twotower.serve.request_pictures import read_pictures

_TAG = "weaviate"


class VectorizeRequest(BaseModel):
    """Texts, and pictures in base64; Weaviate leaves out, or sends null for, what it has not."""

    texts: list[str] | None = None
    images: list[str] | None = None


class VectorizeAnswer(BaseModel):
    """A vector of unit length for each text and picture, in order."""

    textVectors: list[list[float]]  # noqa: N815
    imageVectors: list[list[float]]  # noqa: N815


class MetaAnswer(BaseModel):
    """The model that embeds."""

    model: str
    embed_dim: int


async def live(call: Call) -> Response:
    """Answer as long as the process does."""
    return Response(status_code=204)


async def ready(call: Call) -> Response:
    """Answer once the models are loaded."""
    call.server.require_ready()
    return Response(status_code=204)


async def meta(call: Call) -> Response:
    """Describe the model."""
    model = call.server.models.default
    return JSONResponse({"model": model.name, "embed_dim": model.embed_dim})


async def vectorize(call: Call) -> Response:
    """Embed texts and pictures with the default model."""
    body = call.parse(VectorizeRequest)
    model = call.server.models.default
    images = await _embed_pictures(call, model, body.images or [])
    return JSONResponse(
        {"textVectors": await _embed_texts(model, body.texts or []), "imageVectors": images}
    )


async def _embed_texts(model: ServedModel, texts: list[str]) -> list[list[float]]:
    if not texts:
        return []
    # an object may have an empty text, which has the tokens of a blank
    embeds = await model.embed_texts([text or " " for text in texts])
    vectors: list[list[float]] = embeds.tolist()
    return vectors


async def _embed_pictures(call: Call, model: ServedModel, images: list[str]) -> list[list[float]]:
    if not images:
        return []
    contents = await read_pictures(images, call.server.settings)
    vectors = []
    for index, outcome in enumerate(await model.embed_pictures(contents)):
        if isinstance(outcome, RequestError):
            raise RequestError(outcome.status, f"images[{index}]: {outcome.message}")
        vectors.append(outcome.image_embeds.tolist())
    return vectors


ENDPOINTS = (
    Endpoint(
        "/.well-known/live",
        ("GET",),
        live,
        _TAG,
        "Is the process alive? Answers 204.",
        status=204,
        errors=text_error,
        public=True,
    ),
    Endpoint(
        "/.well-known/ready",
        ("GET",),
        ready,
        _TAG,
        "Are the models loaded? Answers 204.",
        status=204,
        errors=text_error,
        public=True,
    ),
    Endpoint("/meta", ("GET",), meta, _TAG, "The model.", answer=MetaAnswer, errors=text_error),
    Endpoint(
        "/vectorize",
        ("POST",),
        vectorize,
        _TAG,
        "Embed texts and pictures.",
        body=VectorizeRequest,
        answer=VectorizeAnswer,
        errors=text_error,
    ),
)
