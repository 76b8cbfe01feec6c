"""Pictures in answers, the parameters of requests, and access to the library."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response

from twotower.inputs.media import media_kind
from twotower.serve.errors import RequestError
from twotower.serve.library_queries import display_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from twotower.index.schema import PictureRecord
    from twotower.search.hits import Hit
    from twotower.serve.endpoint import Call
    from twotower.serve.library import LibraryService

TAG = "library"  # in OpenAPI
MAX_TOP = 1000
MAX_OFFSET = 10**9


class Picture(BaseModel):
    """A picture of the library; width and height are upright."""

    id: int
    path: str
    name: str
    width: int | None
    height: int | None
    taken: str | None
    kind: Literal["picture", "raw", "video"]
    probability: float | None
    score: float | None
    match: bool
    named: bool
    copies: list[int]


class Parameters(BaseModel):
    """Query parameters; unknown ones are errors."""

    model_config = ConfigDict(extra="forbid")


class Paging(Parameters):
    """A part of a list."""

    top: int = Field(default=60, ge=1, le=MAX_TOP)
    offset: int = Field(default=0, ge=0, le=MAX_OFFSET)


class Body(BaseModel):
    """A JSON body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


Model = TypeVar("Model", bound=Parameters)


def read_parameters(call: Call, model: type[Model]) -> Model:
    """Return the query parameters.

    Raises:
        RequestError: 400, naming the first one that is wrong.
    """
    try:
        return model.model_validate(dict(call.request.query_params))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(map(str, fault["loc"]))
        raise RequestError(400, f"{name}: {fault['msg']}", field=name) from error


def query_schema(model: type[Parameters]) -> dict[str, dict[str, Any]]:
    """Return the schema of each query parameter, for OpenAPI."""
    properties: dict[str, dict[str, Any]] = model.model_json_schema()["properties"]
    return properties


def library_of(call: Call) -> LibraryService:
    """Return the library.

    Raises:
        RequestError: 404, the server has none.
    """
    library = call.server.library
    if library is None:
        raise RequestError(404, "this server has no library; start it with: twotower serve FOLDER")
    return library


def require_writes(call: Call) -> None:
    """Check that clients may change the library.

    Raises:
        RequestError: 403, the server was started without `--allow-writes`.
    """
    if not call.server.settings.page_writes:
        raise RequestError(403, "the server is read-only; start it with --allow-writes")


def picture_number(call: Call) -> int:
    """Return the id of a picture in the path."""
    return int(call.request.path_params["id"])


def to_picture(record: PictureRecord, hit: Hit | None = None) -> Picture:
    """Return a picture of the catalog, as a hit if it is one."""
    path = display_path(record.path)
    return Picture(
        id=record.id,
        path=path,
        name=PurePosixPath(path).name,
        width=record.width,
        height=record.height,
        taken=record.taken,
        kind=media_kind(record.path),
        probability=hit.probability if hit else None,
        score=hit.score if hit else None,
        match=hit.match if hit else True,
        named=hit.named if hit else False,
        copies=list(hit.copy_ids) if hit else [],
    )


def to_pictures(hits: Iterable[Hit], records: Mapping[int, PictureRecord]) -> list[Picture]:
    """Return the hits that are still in the catalog."""
    return [to_picture(records[hit.id], hit) for hit in hits if hit.id in records]


def to_json(answer: BaseModel | list[Any], status: int = 200) -> Response:
    """Return an answer as JSON; null fields stay."""
    content = answer.model_dump() if isinstance(answer, BaseModel) else answer
    return JSONResponse(content, status)
