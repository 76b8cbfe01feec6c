"""Answers of the MCP tools: structured, and in words."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel

from twotower.errors import TwotowerError
from twotower.serve.errors import RequestError
from twotower.serve.library_queries import display_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twotower.index.schema import PictureRecord
    from twotower.search.hits import Hit
    from twotower.serve.library import LibraryService
    from twotower.serve.library_queries import SearchPage

P = ParamSpec("P")
Result = TypeVar("Result")


class FoundPicture(BaseModel):
    """A picture of the library; `path` is relative to its folder.

    `probability` is that the picture shows what was searched for, null for filters alone; `match`
    is True above the cut-off of the search; `by_name` is True if the words are in its path or
    keywords.
    """

    number: int
    id: int
    path: str
    probability: float | None
    match: bool
    by_name: bool
    taken: str | None
    copies: list[int]


class SearchFindings(BaseModel):
    """Pictures that match, and if none does, the nearest one."""

    message: str
    query: str
    understood: list[str]
    cutoff: float | None
    matches: int
    pictures: list[FoundPicture]
    nearest: FoundPicture | None
    warnings: list[str]


class AnswerFindings(BaseModel):
    """An answer with its evidence.

    For a question about one picture, `answers` are the alternatives with their probabilities, and
    `certain` is False for hardly more than a guess. For one about the library, the true number is
    between `count_low` and `count_high` in nine of ten cases, and `pictures` are the evidence.
    """

    message: str
    answer: str
    certain: bool
    probability: float | None
    answers: dict[str, float | None]
    count_low: int | None
    count_expected: float | None
    count_high: int | None
    evidence: str
    pictures: list[FoundPicture]


class PictureFacts(BaseModel):
    """Facts about a picture; width and height are upright, in pixels."""

    id: int
    path: str
    width: int | None
    height: int | None
    taken: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    keywords: list[str]
    size_bytes: int


class TagCountFinding(BaseModel):
    """A tag with the number of its pictures."""

    tag: str
    pictures: int


class PictureTagFinding(BaseModel):
    """A tag of a picture; `verdict` is that of a person, null without one."""

    tag: str
    probability: float
    assigned: bool
    verdict: bool | None


class TagFindings(BaseModel):
    """The tags of the library, or of one picture."""

    message: str
    library: list[TagCountFinding]
    picture: list[PictureTagFinding]


class DuplicateFindings(BaseModel):
    """Groups of near-duplicates, the largest file of each first; `total` counts all groups."""

    message: str
    total: int
    groups: list[list[FoundPicture]]


class LibraryFindings(BaseModel):
    """Facts about the library."""

    message: str
    name: str
    indexed: bool
    pictures: int
    unreadable: int
    model: str | None
    cameras: list[str]
    indexing: str
    writable: bool


def with_tool_errors(
    library: LibraryService, function: Callable[P, Awaitable[Result]]
) -> Callable[P, Awaitable[Result]]:
    """Return a tool whose errors tell the assistant what to correct."""

    @functools.wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> Result:
        try:
            return await function(*args, **kwargs)
        except RequestError as error:
            state = library.indexer.state
            progress = f" (indexing: {state.done} of {state.total})"
            message = error.message + (progress if library.indexer.is_running else "")
            raise ToolError(message) from error
        except TwotowerError as error:
            raise ToolError(str(error)) from error

    return run


def to_result(answer: BaseModel, text: str, *content: ContentBlock) -> CallToolResult:
    """Return an answer as text, further content, and structured content."""
    return CallToolResult(
        content=[TextContent(type="text", text=text), *content],
        structured_content=answer.model_dump(mode="json"),
    )


def to_found(number: int, hit: Hit, record: PictureRecord) -> FoundPicture:
    """Return a hit with its number in the answer."""
    return FoundPicture(
        number=number,
        id=record.id,
        path=display_path(record.path),
        probability=None if hit.probability is None else round(hit.probability, 4),
        match=hit.match,
        by_name=hit.named,
        taken=record.taken,
        copies=list(hit.copy_ids),
    )


def to_findings(
    page: SearchPage, offset: int, nearest: tuple[Hit, PictureRecord] | None, root: str
) -> SearchFindings:
    """Return a page of a search.

    Args:
        nearest: the picture below the cut-off that is nearest, if none matches.
        root: the folder of pictures.
    """
    result = page.result
    pictures = number_hits(result.hits, page.records, offset)
    near = to_found(1, *nearest) if nearest else None
    return SearchFindings(
        message=_summary(page, pictures, near),
        query=result.query,
        understood=_understood(page, root),
        cutoff=result.cutoff,
        matches=result.matches,
        pictures=pictures,
        nearest=near,
        warnings=list(page.warnings),
    )


def number_hits(
    hits: list[Hit], records: Mapping[int, PictureRecord], offset: int = 0
) -> list[FoundPicture]:
    """Return the hits that are still in the catalog, numbered from `offset` + 1."""
    present = [hit for hit in hits if hit.id in records]
    return [
        to_found(number, hit, records[hit.id]) for number, hit in enumerate(present, offset + 1)
    ]


def describe_picture(picture: FoundPicture) -> str:
    """Return a line such as "1. beach.jpg (id 7), probability 93%, taken 2024-07-01"."""
    line = f"{picture.number}. {picture.path} (id {picture.id})"
    if picture.probability is not None:
        line += f", probability {picture.probability:.1%}"
    if picture.by_name:
        line += ", the words are in its name or keywords"
    if picture.taken:
        line += f", taken {picture.taken}"
    if picture.copies:
        line += f", near-duplicates: {', '.join(map(str, picture.copies))}"
    return line


def describe_pictures(message: str, pictures: list[FoundPicture]) -> str:
    """Return a message, then a line for each picture."""
    return "\n".join((message, *map(describe_picture, pictures)))


def _summary(page: SearchPage, pictures: list[FoundPicture], near: FoundPicture | None) -> str:
    query, matches = page.result.query, page.result.matches
    if matches:
        text = f"{matches} of the library's pictures match {query!r}; {len(pictures)} are listed."
        return text if page.result.cutoff is None else f"{text} Cut-off {page.result.cutoff:.0%}."
    text = f"no picture matches {query!r}"
    if near is None:
        return f"{text}."
    chance = "" if near.probability is None else f" with probability {near.probability:.1%}"
    return f"{text}; the nearest is {near.path} (id {near.id}){chance}."


def _understood(page: SearchPage, root: str) -> list[str]:
    understood = []
    for term in page.query.terms:
        name = f"words: {term.text}" if term.text else f"picture: {term.picture}"
        name = name.replace(f"{root}/", "")
        understood.append(f"not {name}" if term.negated else name)
    return understood + [f"filter: {parsed.text}" for parsed in page.query.filters]
