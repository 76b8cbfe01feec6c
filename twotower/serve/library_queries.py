"""Queries of clients to a library: search, layout, timeline and files, without access by path."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twotower.index.catalog import STOPPED_AT
from twotower.search.hits import Hit, SearchResult
from twotower.search.query import Query, Term, parse_query
from twotower.search.search import Sort, search, select
from twotower.serve.errors import RequestError

if TYPE_CHECKING:
    from twotower.arrays import Float32Array
    from twotower.index.index import Index
    from twotower.index.schema import PictureRecord, PictureShape

UPLOAD = "upload"  # names an uploaded picture in a query
_MAX_ID = 2**63 - 1  # of SQLite


@dataclass(frozen=True)
class SearchRequest:
    """The arguments of a search; `image_embeds` [embed_dim] is that of an uploaded picture.

    `top` is None for all hits.
    """

    text: str = ""
    top: int | None = 60
    offset: int = 0
    sort: Sort = "relevance"
    all: bool = False
    group: bool = False
    folder: str = ""
    image_embeds: Float32Array | None = None


@dataclass(frozen=True)
class SearchPage:
    """A page of a search.

    Attributes:
        query: the query as it was understood.
        records: of the hits and the pictures near the cut-off, by id.
        warnings: one line each.
    """

    query: Query
    result: SearchResult
    records: dict[int, PictureRecord]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """All pictures of a search: the first `matches` match, the others come near.

    Attributes:
        probabilities: that each matches; None where it was not estimated.
    """

    shapes: Sequence[PictureShape]
    probabilities: Sequence[float | None]
    matches: int


@dataclass(frozen=True)
class Month:
    """The pictures of a month, such as "2024-07", or "" for those without a date.

    Attributes:
        offset: the number of pictures before them, in the order of `sort="date"`.
    """

    month: str
    count: int
    offset: int


def search_page(index: Index, request: SearchRequest) -> SearchPage:
    """Return a page of a search; without words, filters and upload, of all pictures.

    Raises:
        QueryError: the query makes no sense.
        RequestError: 404, no picture is in the folder.
    """
    query = parse(index, request)
    result = run(index, query, request)
    return SearchPage(
        query, result, records_of(index, [*result.hits, *result.near]), _warnings(index, query)
    )


def similar_page(index: Index, number: int, request: SearchRequest) -> SearchPage:
    """Return a page of the pictures that look like a picture of the library.

    Raises:
        RequestError: 404, there is no such picture.
    """
    record = find_record(index, number)
    term = Term(picture=Path(record.path))
    if is_current(index, record):
        term = Term(picture=index.root / record.path)
    else:
        term = replace(term, image_embeds=index.vectors.get(np.array([number]))[0])
    query = Query(display_path(record.path), (term,))
    result = run(index, query, request)
    return SearchPage(query, result, records_of(index, [*result.hits, *result.near]))


def layout(index: Index, request: SearchRequest) -> Layout:
    """Return all pictures of a search, in their order, each copy for itself.

    With `request.all`, all pictures below the cut-off follow, else those that come near.

    Raises:
        QueryError: the query makes no sense.
    """
    query = parse(index, request)
    shapes = index.catalog.shapes()
    if not query.terms and not query.filters and not request.folder:
        return Layout(shapes, [None] * len(shapes), len(shapes))
    request = replace(request, group=False, offset=0, top=None)
    result = run(index, query, request)
    by_id = {shape.id: shape for shape in shapes}
    hits = [hit for hit in (*result.hits, *result.near) if hit.id in by_id]
    matches = sum(hit.match for hit in hits)
    return Layout([by_id[hit.id] for hit in hits], [hit.probability for hit in hits], matches)


def timeline(index: Index, request: SearchRequest) -> list[Month]:
    """Return the matches of a search by month, the newest first.

    Raises:
        QueryError: the query makes no sense.
    """
    matches = layout(index, replace(request, sort="date"))
    months: list[Month] = []
    offset = 0
    for month, shapes in groupby(matches.shapes[: matches.matches], month_of):
        count = len(list(shapes))
        months.append(Month(month, count, offset))
        offset += count
    return months


def month_of(shape: PictureShape) -> str:
    """Return the month of a picture, such as "2024-07"; "" without a date."""
    return (shape.taken or "")[:7]


def parse(index: Index, request: SearchRequest) -> Query:
    """Parse a query; its pictures are looked up among the paths of the catalog alone.

    Raises:
        QueryError: the query makes no sense.
    """

    def find_picture(name: str) -> Path | None:
        record = index.catalog.find_path(name)
        return index.root / record.path if record and is_current(index, record) else None

    terms: tuple[Term, ...] = ()
    if request.image_embeds is not None:
        terms = (Term(picture=Path(UPLOAD), image_embeds=request.image_embeds),)
    if not request.text.strip():
        return Query("", terms)
    return parse_query(request.text, find_picture, terms)


def run(index: Index, query: Query, request: SearchRequest) -> SearchResult:
    """Run a parsed query.

    Raises:
        RequestError: 404, no picture is in the folder.
    """
    folder = _folder(index, request.folder)
    if not query.terms and not query.filters:
        return _newest(index, request, folder)
    return search(
        index,
        query,
        top=request.top,
        offset=request.offset,
        all=request.all,
        sort=request.sort,
        group=request.group,
        folder=folder,
    )


def records_of(index: Index, hits: Iterable[Hit]) -> dict[int, PictureRecord]:
    """Return the records of hits by id."""
    return {record.id: record for record in index.catalog.pictures(hit.id for hit in hits)}


def find_record(index: Index, number: int) -> PictureRecord:
    """Return the record of a readable picture.

    Raises:
        RequestError: 404, there is no such picture.
    """
    records = index.catalog.pictures([number]) if number <= _MAX_ID else []
    if not records or records[0].error is not None:
        raise RequestError(404, f"no picture {number} is in the library")
    return records[0]


def find_file(index: Index, number: int) -> tuple[PictureRecord, Path, os.stat_result]:
    """Return a picture's file, if it is the one that was indexed.

    Raises:
        RequestError: 404, there is no such picture; 410, its file was removed or changed.
    """
    record = find_record(index, number)
    path = index.root / record.path
    status = _current_status(path, record)
    if status is None:
        raise RequestError(
            410, f"the file of picture {number} was removed or changed after it was indexed"
        )
    return record, path, status


def is_current(index: Index, record: PictureRecord) -> bool:
    """Return True if the file of a picture is as it was indexed."""
    return _current_status(index.root / record.path, record) is not None


def display_path(path: str) -> str:
    """Return a path as valid text."""
    return os.fsencode(path).decode("utf-8", "replace")


def _current_status(path: Path, record: PictureRecord) -> os.stat_result | None:
    """Return the status of a file; None if a link leads elsewhere now, or it was changed."""
    try:
        status = path.stat()
    except OSError:
        return None
    unchanged = (status.st_size, status.st_mtime_ns) == (record.size, record.mtime_ns)
    return status if unchanged and stat.S_ISREG(status.st_mode) else None


def _folder(index: Index, name: str) -> Path | None:
    """Return a folder of the catalog. Raises `RequestError` 404."""
    steps = [step for step in name.split("/") if step]
    if not steps:
        return None
    missing = RequestError(404, f"no pictures are in the folder {name!r}", field="folder")
    try:
        condition, parameters = index.catalog.in_folder("/".join(steps))
    except UnicodeEncodeError:
        raise missing from None
    if not len(index.catalog.select(condition, parameters)):
        raise missing
    return index.root.joinpath(*steps)


def _newest(index: Index, request: SearchRequest, folder: Path | None) -> SearchResult:
    """Return a page of all pictures, the newest first."""
    shapes = index.catalog.shapes()
    if folder is not None:
        ids = set(select(index, Query("", ()), folder).tolist())
        shapes = [shape for shape in shapes if shape.id in ids]
    end = None if request.top is None else request.offset + request.top
    page = shapes[request.offset : end]
    records = index.catalog.pictures(shape.id for shape in page)
    hits = [
        Hit(index.root / record.path, None, None, True, taken=record.taken, id=record.id)
        for record in records
    ]
    return SearchResult("", None, len(shapes), len(shapes), hits)


def _warnings(index: Index, query: Query) -> tuple[str, ...]:
    warnings = []
    if stopped_at := index.catalog.get_setting(STOPPED_AT):
        warnings.append(f"indexing was stopped at {stopped_at}, or still goes on")
    texts = [term.text for term in query.terms if term.text]
    if texts and index.encoder.tokenizer(texts).truncated.any():
        warnings.append("a description is longer than the model reads; its end is ignored")
    return tuple(warnings)
