"""Endpoints for a picture: its files, facts and heat map. Clients name it by its id alone."""

from __future__ import annotations

import asyncio
import io
from email.utils import formatdate
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field
from starlette.responses import FileResponse, Response

from twotower.encode.explain import draw_overlay, explain
from twotower.inputs.media import media_kind
from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.library_api.answers import (
    TAG,
    Parameters,
    Picture,
    library_of,
    picture_number,
    query_schema,
    read_parameters,
    to_json,
    to_picture,
)
from twotower.serve.library_api.tags import PictureTagAnswer
from twotower.serve.library_queries import display_path, find_file, find_record

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.index.schema import PictureRecord
    from twotower.serve.library import LibraryService
    from twotower.serve.tags import PictureTag

TAG_SECONDS = 1.0  # that the facts about a picture wait for its tags
_YEAR = 365 * 24 * 3600  # seconds
# Types of files by the suffix; a browser shows those that begin with "image" or "video", or saves.
_MEDIA_TYPES = {
    "apng": "image/apng",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "dib": "image/bmp",
    "gif": "image/gif",
    "heic": "image/heic",
    "heif": "image/heif",
    "hif": "image/heif",
    "jfif": "image/jpeg",
    "jp2": "image/jp2",
    "jpe": "image/jpeg",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "mpo": "image/jpeg",
    "png": "image/png",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "webp": "image/webp",
    "3gp": "video/3gpp",
    "avi": "video/x-msvideo",
    "m4v": "video/mp4",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp4": "video/mp4",
    "mpeg": "video/mpeg",
    "mpg": "video/mpeg",
    "ogv": "video/ogg",
    "webm": "video/webm",
    "wmv": "video/x-ms-wmv",
}


class PictureDetails(Picture):
    """The facts about a picture; `tags_ready` is False while the tags are being computed."""

    folder: str
    size_bytes: int
    camera: str | None
    latitude: float | None
    longitude: float | None
    keywords: list[str]
    tags: list[PictureTagAnswer]
    tags_ready: bool


class ThumbnailParameters(Parameters):
    """The height of a thumbnail in pixels; with `v`, the library's version, it may be cached."""

    height: int = Field(default=240, ge=1, le=4096)
    v: str = ""


class OriginalParameters(Parameters):
    """Use `view=1` for a JPEG that every browser shows."""

    view: bool = False


class HeatMapParameters(Parameters):
    """The text to look for."""

    text: str = Field(min_length=1, max_length=1000)


async def details(call: Call) -> Response:
    """Return the facts about a picture, with its tags as soon as they are computed."""
    library, number = library_of(call), picture_number(call)
    record = await library.facts.run(lambda index: find_record(index, number))
    tags = asyncio.ensure_future(library.tags.of_picture(number))
    tags.add_done_callback(_ignore_result)
    done, _ = await asyncio.wait((tags,), timeout=TAG_SECONDS)
    return to_json(_to_details(record, tags.result() if done else None))


async def thumbnail(call: Call) -> Response:
    """Return a small JPEG of a picture."""
    library, number = library_of(call), picture_number(call)
    parameters = read_parameters(call, ThumbnailParameters)
    version = await library.version()
    etag = f'"{version}-{number}-{parameters.height}"'
    fresh = parameters.v == version
    headers = {
        "ETag": etag,
        "Cache-Control": f"private, max-age={_YEAR}, immutable" if fresh else "private, no-cache",
    }
    if etag in call.request.headers.get("if-none-match", ""):
        await library.facts.run(lambda index: find_record(index, number))
        return Response(status_code=304, headers=headers)
    content = await library.thumbnail(number, parameters.height)
    return Response(content, media_type="image/jpeg", headers=headers)


async def original(call: Call) -> Response:
    """Return the file of a picture, or ranges of it; with `view=1` a JPEG of it."""
    library, number = library_of(call), picture_number(call)
    if read_parameters(call, OriginalParameters).view:
        content = await library.view(number)
        headers = {"Cache-Control": "private, no-cache"}
        return Response(content, media_type="image/jpeg", headers=headers)
    record, path, status = await library.facts.run(lambda index: find_file(index, number))
    name = PurePosixPath(display_path(record.path)).name
    return FileResponse(
        path,
        media_type=_media_type(record.path),
        filename=name,
        content_disposition_type="inline",
        stat_result=status,
        headers={
            "Cache-Control": "private, no-cache",
            "Last-Modified": formatdate(status.st_mtime, usegmt=True),
        },
    )


async def heat_map(call: Call) -> Response:
    """Return a transparent PNG of where a picture matches a text; X-Probability has how well."""
    library, number = library_of(call), picture_number(call)
    text = " ".join(read_parameters(call, HeatMapParameters).text.split())
    content, probability = await draw_heat_map(library, number, text)
    headers = {"X-Probability": f"{probability:.4f}", "Cache-Control": "private, no-cache"}
    return Response(content, media_type="image/png", headers=headers)


async def draw_heat_map(library: LibraryService, number: int, text: str) -> tuple[bytes, float]:
    """Return a PNG, and the probability that the picture matches the text.

    Raises:
        RequestError: 404 or 410, there is no such picture or file; 422, it cannot be decoded.
    """
    view = await library.view(number)

    def draw(index: Index) -> tuple[bytes, float]:
        from PIL import Image

        with Image.open(io.BytesIO(view)) as image:
            image.thumbnail((_HEAT_SIDE, _HEAT_SIDE))
            overlay = draw_overlay(explain(index.encoder, image, text), image.size)
        content = io.BytesIO()
        overlay.save(content, "PNG")
        return content.getvalue(), _probability(index, number, text)

    return await library.asking.run(draw)


_HEAT_SIDE = 1024  # pixels of a heat map, the longer side


def _probability(index: Index, number: int, text: str) -> float:
    from twotower.calibration.curves import embed_queries

    curves = index.calibration.text
    judged = curves.prepare([text], embed_queries(index.encoder, [text])[0])
    [[logit]] = curves.logits([judged], index.vectors.get(np.array([number])))
    return float(1 / (1 + np.exp(-logit)))


def _to_details(record: PictureRecord, tags: list[PictureTag] | None) -> PictureDetails:
    folder = PurePosixPath(display_path(record.path)).parent.as_posix()
    return PictureDetails(
        **to_picture(record).model_dump(),
        folder="" if folder == "." else folder,
        size_bytes=record.size,
        camera=record.camera,
        latitude=record.latitude,
        longitude=record.longitude,
        keywords=record.keywords.split("\n") if record.keywords else [],
        tags=[PictureTagAnswer(**vars(tag)) for tag in tags or ()],
        tags_ready=tags is not None,
    )


def _media_type(path: str) -> str:
    """Return the type of a file; raw files are saved, not shown."""
    suffix = PurePosixPath(path).suffix.lower().lstrip(".")
    if media_kind(path) == "raw":
        return "application/octet-stream"
    return _MEDIA_TYPES.get(suffix, "application/octet-stream")


def _ignore_result(future: asyncio.Future[list[PictureTag]]) -> None:
    """Retrieve an exception that no request waits for any more, so that it is not logged."""
    if not future.cancelled():
        future.exception()


ENDPOINTS = (
    Endpoint(
        "/api/pictures/{id:int}",
        ("GET",),
        details,
        TAG,
        "Facts about a picture.",
        answer=PictureDetails,
    ),
    Endpoint(
        "/api/pictures/{id:int}/thumbnail",
        ("GET",),
        thumbnail,
        TAG,
        "A small JPEG of a picture.",
        media_types=("image/jpeg",),
        query=query_schema(ThumbnailParameters),
    ),
    Endpoint(
        "/api/pictures/{id:int}/original",
        ("GET",),
        original,
        TAG,
        "The file of a picture, or ranges of it.",
        media_types=("image/*", "video/*", "application/octet-stream"),
        query=query_schema(OriginalParameters),
    ),
    Endpoint(
        "/api/pictures/{id:int}/heatmap",
        ("GET",),
        heat_map,
        TAG,
        "A transparent PNG of where a picture matches a text.",
        media_types=("image/png",),
        query=query_schema(HeatMapParameters),
    ),
)
