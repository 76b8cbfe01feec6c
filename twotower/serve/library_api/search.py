"""Endpoints that describe and search the library."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import BaseModel, RootModel
from starlette.responses import Response

from twotower.errors import QueryError
from twotower.index.schema import PictureShape
from twotower.search.hits import SearchResult
from twotower.search.query import Circle, Filter, Query, Term
from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.errors import RequestError
from twotower.serve.lanes import NOT_INDEXED
from twotower.serve.library_api.answers import (
    TAG,
    Paging,
    Parameters,
    Picture,
    library_of,
    picture_number,
    query_schema,
    read_parameters,
    to_json,
    to_pictures,
)
from twotower.serve.library_api.indexing import IndexAnswer, to_answer
from twotower.serve.library_queries import (
    Layout,
    Month,
    SearchPage,
    SearchRequest,
    display_path,
    layout,
    month_of,
    search_page,
    similar_page,
    timeline,
)

if TYPE_CHECKING:
    from twotower.index.index import Index

Result = TypeVar("Result")
_ASPECT_DIGITS = 4
_EMPTY_PAGE = SearchPage(Query("", ()), SearchResult("", None, 0, 0, []), {})


class LibraryAnswer(BaseModel):
    """Facts about the library; `version` changes when its ids do."""

    name: str
    pictures: int
    failed: int
    model: str | None
    better_model: str | None
    exists: bool
    writable: bool
    indexing: IndexAnswer
    cameras: list[str]
    needs_key: bool
    version: str


class UnderstoodTerm(BaseModel):
    """A description, a picture of the library, or an uploaded picture."""

    text: str | None
    picture: str | None
    upload: str | None
    negated: bool
    weight: float


class UnderstoodFilter(BaseModel):
    """A filter, its value as it was understood and the text as it was typed."""

    key: str
    value: str
    text: str


class Understood(BaseModel):
    """The parts of a query, as they were understood."""

    terms: list[UnderstoodTerm]
    filters: list[UnderstoodFilter]
    warnings: list[str]


class SearchAnswer(BaseModel):
    """A page of hits, and where the matches end, the nearest pictures below the cut-off.

    `left_out` has the numbers of pictures that filters leave out because they have no "date" or no
    "place".
    """

    query: str
    understood: Understood
    cutoff: float | None
    matches: int
    groups: int
    hits: list[Picture]
    near: list[Picture]
    left_out: dict[str, int]
    milliseconds: float


class LayoutAnswer(BaseModel):
    """Columns of equal length: the first `matches` pictures match, the others come near."""

    ids: list[int]
    aspect: list[float]
    month: list[str]
    probability: list[float | None]
    matches: int


class MonthAnswer(BaseModel):
    """The pictures of a month; `offset` counts those before them with sort=date."""

    month: str
    count: int
    offset: int


class TimelineAnswer(RootModel[list[MonthAnswer]]):
    """Months, the newest first."""


class QueryParameters(Parameters):
    """A query."""

    q: str = ""
    folder: str = ""
    upload: str = ""


class LayoutParameters(QueryParameters):
    """A query, an order, and True for all pictures below the cut-off too."""

    sort: Literal["relevance", "date"] = "relevance"
    all: bool = False


class SearchParameters(LayoutParameters, Paging):
    """A query, an order, and a part of the hits."""

    group: bool = False


async def describe(call: Call) -> Response:
    """Describe the library."""
    library, settings = library_of(call), call.server.settings
    answer = LibraryAnswer(
        name=library.name,
        pictures=0,
        failed=0,
        model=None,
        better_model=None,
        exists=False,
        writable=settings.allow_writes,
        indexing=to_answer(library.indexer.state),
        cameras=[],
        needs_key=call.server.access.needs_key,
        version="",
    )
    if await library.is_indexed():
        facts = await library.describe()
        answer = answer.model_copy(update={"exists": True, **asdict(facts)})
    return to_json(answer)


async def search(call: Call) -> Response:
    """Search the library."""
    started = time.perf_counter()
    parameters = read_parameters(call, SearchParameters)
    request = replace(
        await _to_request(call, parameters),
        top=parameters.top,
        offset=parameters.offset,
        sort=parameters.sort,
        all=parameters.all,
        group=parameters.group,
    )
    page = await _run(call, lambda index: search_page(index, request), _EMPTY_PAGE)
    return to_json(_to_answer(call, page, parameters.q, parameters.upload, started))


async def similar(call: Call) -> Response:
    """Search for pictures that look like a picture of the library."""
    started = time.perf_counter()
    parameters = read_parameters(call, Paging)
    request = SearchRequest(top=parameters.top, offset=parameters.offset)
    number = picture_number(call)
    page = await library_of(call).searches.run(lambda index: similar_page(index, number, request))
    return to_json(_to_answer(call, page, page.query.text, "", started))


async def lay_out(call: Call) -> Response:
    """Return what a page needs to place all pictures of a search."""
    parameters = read_parameters(call, LayoutParameters)
    request = replace(await _to_request(call, parameters), sort=parameters.sort, all=parameters.all)
    pictures = await _run(call, lambda index: layout(index, request), Layout([], [], 0))
    return to_json(_to_layout(pictures))


async def months(call: Call) -> Response:
    """Return the matches of a search by month."""
    request = await _to_request(call, read_parameters(call, QueryParameters))
    answer: list[Month] = await _run(call, lambda index: timeline(index, request), [])
    return to_json([asdict(month) for month in answer])


async def _run(call: Call, function: Callable[[Index], Result], empty: Result) -> Result:
    """Return the result of a search; `empty` before the first picture is indexed.

    Raises:
        RequestError: 400, the query makes no sense.
    """
    try:
        return await library_of(call).searches.run(function)
    except QueryError as error:
        raise RequestError(400, str(error), field="q") from error
    except RequestError as error:
        if error.status == NOT_INDEXED:
            return empty
        raise


async def _to_request(call: Call, parameters: QueryParameters) -> SearchRequest:
    upload = None
    if parameters.upload:
        upload = await library_of(call).find_upload(parameters.upload)
    return SearchRequest(
        text=parameters.q,
        folder=parameters.folder,
        image_embeds=upload.image_embeds if upload else None,
    )


def _to_answer(
    call: Call, page: SearchPage, text: str, upload: str, started: float
) -> SearchAnswer:
    result, root = page.result, library_of(call).root
    return SearchAnswer(
        query=text,
        understood=Understood(
            terms=[_to_term(term, upload, root) for term in page.query.terms],
            filters=[_to_filter(parsed) for parsed in page.query.filters],
            warnings=list(page.warnings),
        ),
        cutoff=result.cutoff,
        matches=result.matches,
        groups=result.groups,
        hits=to_pictures(result.hits, page.records),
        near=to_pictures(result.near, page.records),
        left_out={"date": 0, "place": 0, **result.left_out},
        milliseconds=round(1000 * (time.perf_counter() - started), 1),
    )


def _to_term(term: Term, upload: str, root: Path) -> UnderstoodTerm:
    is_upload = bool(upload) and term.image_embeds is not None
    path = term.picture
    if path is not None and path.is_relative_to(root):
        path = path.relative_to(root)
    return UnderstoodTerm(
        text=term.text or None,
        picture=None if path is None else display_path(path.as_posix()),
        upload=upload if is_upload else None,
        negated=term.negated,
        weight=term.weight,
    )


def _to_filter(parsed: Filter) -> UnderstoodFilter:
    value = parsed.value
    if isinstance(value, Circle):
        value = f"{value.latitude:g},{value.longitude:g},{value.km:g}km"
    return UnderstoodFilter(key=parsed.key, value=value, text=parsed.text)


def _to_layout(pictures: Layout) -> LayoutAnswer:
    return LayoutAnswer.model_construct(
        ids=[shape.id for shape in pictures.shapes],
        aspect=[_aspect(shape) for shape in pictures.shapes],
        month=[month_of(shape) for shape in pictures.shapes],
        probability=list(pictures.probabilities),
        matches=pictures.matches,
    )


def _aspect(shape: PictureShape) -> float:
    if not (shape.width and shape.height):
        return 1.0
    return round(shape.width / shape.height, _ASPECT_DIGITS)


ENDPOINTS = (
    Endpoint(
        "/api/library", ("GET",), describe, TAG, "Facts about the library.", answer=LibraryAnswer
    ),
    Endpoint(
        "/api/search",
        ("GET",),
        search,
        TAG,
        "Search by words, pictures and filters.",
        answer=SearchAnswer,
        query=query_schema(SearchParameters),
    ),
    Endpoint(
        "/api/layout",
        ("GET",),
        lay_out,
        TAG,
        "All pictures of a search, in columns.",
        answer=LayoutAnswer,
        query=query_schema(LayoutParameters),
    ),
    Endpoint(
        "/api/timeline",
        ("GET",),
        months,
        TAG,
        "The matches of a search by month.",
        answer=TimelineAnswer,
        query=query_schema(QueryParameters),
    ),
    Endpoint(
        "/api/pictures/{id:int}/similar",
        ("GET",),
        similar,
        TAG,
        "Pictures that look like a picture.",
        answer=SearchAnswer,
        query=query_schema(Paging),
    ),
)
