"""Endpoints for pictures to search with."""

from __future__ import annotations

from pydantic import BaseModel
from starlette.responses import Response

from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.errors import RequestError
from twotower.serve.library_api.answers import TAG, library_of, to_json


class UploadAnswer(BaseModel):
    """The token of an upload, and the size of the picture, upright."""

    upload: str
    width: int
    height: int


async def upload(call: Call) -> Response:
    """Keep a picture to search with, in memory."""
    library = library_of(call)
    if not call.body:
        raise RequestError(400, "the body is empty; send the bytes of a picture")
    token, embedded = await library.add_upload(call.body)
    return to_json(UploadAnswer(upload=token, width=embedded.width, height=embedded.height))


async def thumbnail(call: Call) -> Response:
    """Return a small JPEG of an upload."""
    kept = library_of(call).uploads.find(call.request.path_params["token"])
    return Response(
        kept.thumbnail,
        media_type="image/jpeg",
        headers={"Cache-Control": "private, max-age=3600"},
    )


ENDPOINTS = (
    Endpoint(
        "/api/uploads",
        ("POST",),
        upload,
        TAG,
        "Upload a picture to search with.",
        content={"application/octet-stream": {"type": "string", "format": "binary"}},
        answer=UploadAnswer,
    ),
    Endpoint(
        "/api/uploads/{token}/thumbnail",
        ("GET",),
        thumbnail,
        TAG,
        "A small JPEG of an upload.",
        media_types=("image/jpeg",),
    ),
)
