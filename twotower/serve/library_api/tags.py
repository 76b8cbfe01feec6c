"""Endpoints for tags: counts, a review of uncertain ones, verdicts, and sidecars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, RootModel
from starlette.responses import Response

from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.library_api.answers import (
    TAG,
    Body,
    Parameters,
    Picture,
    library_of,
    query_schema,
    read_parameters,
    require_writes,
    to_json,
    to_picture,
)

if TYPE_CHECKING:
    from twotower.index.schema import PictureRecord
    from twotower.serve.tags import TagReview

MAX_VERDICTS = 1000  # in one request


class PictureTagAnswer(BaseModel):
    """A tag of a picture; `verdict` is that of a person."""

    tag: str
    probability: float
    assigned: bool
    verdict: bool | None


class TagCount(BaseModel):
    """A tag with the number of pictures that have it."""

    tag: str
    pictures: int


class TagCounts(RootModel[list[TagCount]]):
    """Tags, the most frequent first."""


class ReviewedPicture(Picture):
    """A picture with the probability of the tag, and True if the tag is assigned."""

    assigned: bool


class TagReviewAnswer(BaseModel):
    """A tag with the pictures on which a verdict teaches most, the least certain first."""

    tag: str
    pictures: list[ReviewedPicture]


class TagReviews(RootModel[list[TagReviewAnswer]]):
    """Tags to review, the most useful first."""


class ReviewParameters(Parameters):
    """The number of tags."""

    limit: int = Field(default=20, ge=1, le=60)


class Verdict(Body):
    """True if the picture has the tag, False if not, null to forget an earlier verdict."""

    id: int = Field(ge=0)
    tag: str
    accepted: bool | None


class VerdictsRequest(Body):
    """Verdicts of a person."""

    verdicts: list[Verdict] = Field(min_length=1, max_length=MAX_VERDICTS)


class VerdictsAnswer(BaseModel):
    """The number of verdicts, and a token to undo them."""

    applied: int
    undo: str


class UndoRequest(Body):
    """The token of verdicts."""

    undo: str


class UndoAnswer(BaseModel):
    """The number of verdicts that were undone."""

    undone: int


class SidecarsRequest(Body):
    """With `dry_run`, nothing is written."""

    dry_run: bool = False


class SidecarsAnswer(BaseModel):
    """Counts of pictures and files; `removed` counts earlier tags of ours."""

    dry_run: bool
    pictures: int
    files: int
    removed: int
    unchanged: int
    errors: list[str]


class SidecarsUndoAnswer(BaseModel):
    """Counts of files: restored, edited since (only our tags were removed), and unchanged."""

    restored: int
    untagged: int
    unchanged: int
    errors: list[str]


async def counts(call: Call) -> Response:
    """Return the assigned tags."""
    tags = await library_of(call).tags.counts()
    return to_json([{"tag": tag, "pictures": pictures} for tag, pictures in tags])


async def review(call: Call) -> Response:
    """Return the tags to review."""
    library = library_of(call)
    reviews = await library.tags.review(read_parameters(call, ReviewParameters).limit)
    ids = {number for chosen in reviews for number, _, _ in chosen.pictures}
    records = {
        record.id: record
        for record in await library.facts.run(lambda index: index.catalog.pictures(ids))
    }
    return to_json([_to_review(chosen, records).model_dump() for chosen in reviews])


async def judge(call: Call) -> Response:
    """Keep verdicts; the tags learn from them at once."""
    require_writes(call)
    verdicts = call.parse(VerdictsRequest).verdicts
    rows = [(verdict.id, verdict.tag, verdict.accepted) for verdict in verdicts]
    token = await library_of(call).tags.judge(rows)
    return to_json(VerdictsAnswer(applied=len(verdicts), undo=token))


async def undo(call: Call) -> Response:
    """Undo verdicts."""
    require_writes(call)
    undone = await library_of(call).tags.undo(call.parse(UndoRequest).undo)
    return to_json(UndoAnswer(undone=undone))


async def write_sidecars(call: Call) -> Response:
    """Write the assigned tags into sidecars."""
    require_writes(call)
    dry_run = call.parse(SidecarsRequest).dry_run
    report = await library_of(call).tags.write(dry_run=dry_run)
    return to_json(SidecarsAnswer(dry_run=dry_run, **vars(report)))


async def undo_sidecars(call: Call) -> Response:
    """Undo the last writing of sidecars."""
    require_writes(call)
    report = await library_of(call).tags.undo_write()
    return to_json(SidecarsUndoAnswer(**vars(report)))


def _to_review(chosen: TagReview, records: dict[int, PictureRecord]) -> TagReviewAnswer:
    pictures = []
    for number, probability, assigned in chosen.pictures:
        if number in records:
            picture = to_picture(records[number]).model_dump()
            pictures.append(
                ReviewedPicture(**picture | {"probability": probability}, assigned=assigned)
            )
    return TagReviewAnswer(tag=chosen.tag, pictures=pictures)


ENDPOINTS = (
    Endpoint("/api/tags", ("GET",), counts, TAG, "Assigned tags.", answer=TagCounts),
    Endpoint(
        "/api/tags/review",
        ("GET",),
        review,
        TAG,
        "Tags on which verdicts are most useful.",
        answer=TagReviews,
        query=query_schema(ReviewParameters),
    ),
    Endpoint(
        "/api/tags/verdicts",
        ("POST",),
        judge,
        TAG,
        "Accept and reject tags.",
        body=VerdictsRequest,
        answer=VerdictsAnswer,
    ),
    Endpoint(
        "/api/tags/undo",
        ("POST",),
        undo,
        TAG,
        "Undo verdicts.",
        body=UndoRequest,
        answer=UndoAnswer,
    ),
    Endpoint(
        "/api/tags/sidecars",
        ("POST",),
        write_sidecars,
        TAG,
        "Write the assigned tags into sidecars.",
        body=SidecarsRequest,
        answer=SidecarsAnswer,
    ),
    Endpoint(
        "/api/tags/sidecars/undo",
        ("POST",),
        undo_sidecars,
        TAG,
        "Undo the last writing of sidecars.",
        answer=SidecarsUndoAnswer,
    ),
)
