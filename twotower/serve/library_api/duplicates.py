"""Endpoint for near-duplicate pictures."""

from __future__ import annotations

from pydantic import BaseModel, Field
from starlette.responses import Response

from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.library_api.answers import (
    TAG,
    Paging,
    Picture,
    library_of,
    query_schema,
    read_parameters,
    to_json,
    to_pictures,
)
from twotower.serve.library_queries import records_of


class DuplicatesParameters(Paging):
    """A part of the groups."""

    top: int = Field(default=20, ge=1, le=200)


class DuplicatesAnswer(BaseModel):
    """Groups of near-duplicates, the largest group and in it the largest file first."""

    groups: list[list[Picture]]
    total: int


async def duplicates(call: Call) -> Response:
    """Return groups of near-duplicates."""
    library, parameters = library_of(call), read_parameters(call, DuplicatesParameters)
    groups = await library.duplicates()
    page = groups[parameters.offset : parameters.offset + parameters.top]
    hits = [hit for group in page for hit in group]
    records = await library.facts.run(lambda index: records_of(index, hits))
    answer = DuplicatesAnswer(
        groups=[to_pictures(group, records) for group in page], total=len(groups)
    )
    return to_json(answer)


ENDPOINTS = (
    Endpoint(
        "/api/duplicates",
        ("GET",),
        duplicates,
        TAG,
        "Groups of near-duplicate pictures.",
        answer=DuplicatesAnswer,
        query=query_schema(DuplicatesParameters),
    ),
)
