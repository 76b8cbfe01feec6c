"""The back end of clip-retrieval: search of the library by vector.

Read from rom1504/clip-retrieval, `clip_retrieval/clip_back.py` and `clip_client.py`. Safety models,
aesthetic scores and the multilingual model are not served; their settings are accepted and have no
effect, as in a back end without these models.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field, RootModel
from starlette.responses import JSONResponse, PlainTextResponse, Response

from twotower.arrays import Float32Array, normalize
from twotower.index.schema import PictureRecord
from twotower.serve.endpoint import Call, Endpoint, Handler, Integer
from twotower.serve.errors import RequestError
from twotower.serve.library import LibraryService
from twotower.serve.models import ServedModel
from twotower.serve.neighbours import Neighbour, nearest
from twotower.serve.request_pictures import decode_base64, decode_data_uri, read_picture

_TAG = "clip-retrieval"
DUPLICATE_COSINE = 0.94  # from which the back end's `deduplicate` links results
MAX_RESULTS = 5000  # of `num_result_ids`, whose vectors are compared with each other
Count = Annotated[Integer, Field(ge=0)]
Id = Annotated[Integer, Field(ge=-(2**63), lt=2**63)]


class KnnRequest(BaseModel):
    """A search by the first that is set of text, image (base64), URL and vector."""

    text: str | None = None
    image: str | None = None
    image_url: str | None = None
    embedding_input: list[Annotated[float, Field(strict=True)]] | None = None
    modality: Literal["image", "text"]
    num_images: Count
    num_result_ids: Count | None = None
    indice_name: str | None
    deduplicate: Annotated[bool, Field(strict=True)] = False


class KnnRow(BaseModel):
    """A result; metadata is in the first `num_images` rows alone."""

    id: int
    similarity: float
    url: str | None = None
    caption: str | None = None
    image_path: str | None = None
    width: int | None = None
    height: int | None = None


class KnnAnswer(RootModel[list[KnnRow]]):
    """Results, the most similar first."""


class MetadataRequest(BaseModel):
    """The ids of results."""

    ids: Annotated[list[Id], Field(max_length=MAX_RESULTS)]
    indice_name: str | None = None


class Metadata(BaseModel):
    """The facts about a picture."""

    url: str
    caption: str
    image_path: str
    width: int | None = None
    height: int | None = None


class MetadataRow(BaseModel):
    """A picture and the facts about it."""

    id: int
    metadata: Metadata


class MetadataAnswer(RootModel[list[MetadataRow]]):
    """Rows in the order of the ids; ids without a picture are left out."""


class Indices(RootModel[list[str]]):
    """The name of the library."""


class FrontConfig(BaseModel):
    """Settings of clip-retrieval's page."""

    defaultBackend: str  # noqa: N815
    defaultIndex: str  # noqa: N815
    urlColumn: str  # noqa: N815


async def indices_list(call: Call) -> Response:
    """List the library."""
    return JSONResponse([_library(call).name])


async def front_config(call: Call) -> Response:
    """Return the settings of clip-retrieval's page."""
    back_end = str(call.request.base_url)
    return JSONResponse({"defaultBackend": back_end, "defaultIndex": "", "urlColumn": "url"})


async def metrics_summary(call: Call) -> Response:
    """Name the place of the metrics."""
    return PlainTextResponse("Prometheus metrics are at /metrics.\n")


async def knn_service(call: Call) -> Response:
    """Find the pictures nearest to a text, a picture or a vector."""
    body = call.parse(KnnRequest)
    library = _library(call)
    _check_index(library, body.indice_name)
    if body.modality == "text":
        raise RequestError(400, "the library has pictures alone; use the modality image")
    top = body.num_images if body.num_result_ids is None else body.num_result_ids
    if top > MAX_RESULTS:
        raise RequestError(400, f"num_result_ids is {top}; the limit is {MAX_RESULTS}")
    query = await _query(call, await library.served_model(), body)
    unique_above = DUPLICATE_COSINE if body.deduplicate else None
    results = []
    if top:
        results = await library.searches.run(lambda index: nearest(index, query, top, unique_above))
    return JSONResponse(await _rows(call, library, results, body.num_images))


async def metadata(call: Call) -> Response:
    """Return the facts about pictures."""
    body = call.parse(MetadataRequest)
    library = _library(call)
    _check_index(library, body.indice_name)
    return JSONResponse(
        [
            {"id": record.id, "metadata": _metadata(call, record)}
            for record in await _records(library, body.ids)
        ]
    )


def message_error(error: RequestError) -> Response:
    """Return `{"message": "text"}`, the form of flask-restful."""
    return JSONResponse({"message": error.message}, error.status, headers=error.headers)


def _library(call: Call) -> LibraryService:
    library = call.server.library
    if library is None:
        raise RequestError(404, "no library is served; start: twotower serve FOLDER")
    return library


def _check_index(library: LibraryService, name: str | None) -> None:
    if name not in (None, "", library.name):
        raise RequestError(404, f"there is no index {name!r}; choose {library.name!r}")


async def _query(call: Call, model: ServedModel, body: KnnRequest) -> Float32Array:
    """Return the vector [embed_dim] of a search. Raises `RequestError` 400 or 422."""
    if body.text:
        (embeds,) = await model.embed_texts([body.text])
        return np.asarray(embeds)
    if body.image:
        is_uri = body.image.startswith("data:")
        content = decode_data_uri(body.image) if is_uri else decode_base64(body.image)
        return (await model.embed_picture(content)).image_embeds
    if body.image_url:
        if not body.image_url.lower().startswith(("http://", "https://", "data:")):
            raise RequestError(400, "image_url is no URL")
        content = await read_picture(body.image_url, call.server.settings)
        return (await model.embed_picture(content)).image_embeds
    if body.embedding_input is not None:
        return _unit_vector(body.embedding_input, model.embed_dim)
    raise RequestError(400, "text, image, image_url and embedding_input are empty; give one")


def _unit_vector(values: list[float], embed_dim: int) -> Float32Array:
    if len(values) != embed_dim:
        raise RequestError(
            400, f"embedding_input has {len(values)} numbers; the index has {embed_dim}"
        )
    vector = np.array(values, np.float64)
    length = np.abs(vector).max()
    if not 0 < length < np.inf:
        raise RequestError(400, "embedding_input is zero or not finite")
    return normalize((vector / length).astype(np.float32)[None])[0]


async def _rows(
    call: Call, library: LibraryService, results: list[Neighbour], num_images: int
) -> list[dict[str, object]]:
    described = [result.id for result in results[:num_images]]
    records = {record.id: record for record in await _records(library, described)}
    rows = []
    for result in results:
        record = records.get(result.id)
        facts = _metadata(call, record) if record else {}
        rows.append({**facts, "id": result.id, "similarity": result.similarity})
    return rows


async def _records(library: LibraryService, ids: list[int]) -> list[PictureRecord]:
    """Return the records of `ids`, in that order; ids without a record are left out."""
    return await library.facts.run(lambda index: index.catalog.pictures(ids))


def _metadata(call: Call, record: PictureRecord) -> dict[str, object]:
    path = record.path.encode("utf-8", "replace").decode()  # names may be no UTF-8
    facts: dict[str, object] = {
        "url": f"{call.request.base_url}api/pictures/{record.id}/original?view=1",
        "caption": ", ".join(record.keywords.split("\n")) or path.rpartition("/")[2],
        "image_path": path,
    }
    if record.width and record.height:
        facts |= {"width": record.width, "height": record.height}
    return facts


def _post(
    path: str,
    handler: Handler,
    summary: str,
    body: type[BaseModel],
    answer: type[BaseModel],
) -> Endpoint:
    return Endpoint(
        path, ("POST",), handler, _TAG, summary, body=body, answer=answer, errors=message_error
    )


def _get(
    path: str, handler: Handler, summary: str, answer: type[BaseModel] | None = None
) -> Endpoint:
    return Endpoint(path, ("GET",), handler, _TAG, summary, answer=answer, errors=message_error)


ENDPOINTS = (
    _post("/knn-service", knn_service, "Search by vector.", KnnRequest, KnnAnswer),
    _post("/metadata", metadata, "Facts about pictures.", MetadataRequest, MetadataAnswer),
    _get("/indices-list", indices_list, "The library.", Indices),
    _get("/config.json", front_config, "Settings of clip-retrieval's page.", FrontConfig),
    _get("/metrics-summary", metrics_summary, "The place of the metrics."),
)
