"""Endpoints that answer questions about a picture and about the library."""

from __future__ import annotations

from pydantic import BaseModel, Field
from starlette.responses import Response

from twotower.serve.endpoint import Call, Endpoint
from twotower.serve.library_api.answers import (
    TAG,
    Body,
    Picture,
    library_of,
    picture_number,
    to_json,
    to_pictures,
)
from twotower.serve.questions import ask_library, ask_picture

EVIDENCE_PICTURES = 24  # of an answer about the library


class Question(Body):
    """A question in English."""

    question: str = Field(min_length=1, max_length=1000)


class Reply(BaseModel):
    """A possible answer, and the probability that it is right."""

    answer: str
    probability: float | None


class PictureReply(BaseModel):
    """The answer about a picture; `certain` is False if it is hardly better than a guess."""

    answer: str
    probability: float | None
    answers: list[Reply]
    evidence: str
    certain: bool


class LibraryReply(BaseModel):
    """The answer about the library; `count` has the lowest, expected and highest number.

    The true number is between lowest and highest in nine of ten cases; null if nothing is counted.
    """

    answer: str
    count: tuple[int, float, int] | None
    hits: list[Picture]
    evidence: str


async def about_picture(call: Call) -> Response:
    """Answer a question about a picture."""
    question = call.parse(Question).question
    answered = await ask_picture(library_of(call), picture_number(call), question)
    answers = [Reply(**vars(reply)) for reply in answered.replies]
    best = answers[0] if answers else Reply(answer="", probability=None)
    return to_json(
        PictureReply(
            answer=best.answer,
            probability=best.probability,
            answers=answers,
            evidence="; ".join((f"answered by: {answered.by}", *answered.notes)),
            certain=answered.sure,
        )
    )


async def about_library(call: Call) -> Response:
    """Answer a question about all pictures."""
    question = call.parse(Question).question
    answer, records = await ask_library(library_of(call), question, EVIDENCE_PICTURES)
    return to_json(
        LibraryReply(
            answer=answer.answer or "nothing matches",
            count=(answer.low, answer.expected, answer.high),
            hits=to_pictures(answer.hits, records),
            evidence="; ".join(
                (f"{answer.matches} of {answer.total} pictures match", *answer.notes)
            ),
        )
    )


ENDPOINTS = (
    Endpoint(
        "/api/pictures/{id:int}/ask",
        ("POST",),
        about_picture,
        TAG,
        "Answer a question about a picture.",
        body=Question,
        answer=PictureReply,
    ),
    Endpoint(
        "/api/ask",
        ("POST",),
        about_library,
        TAG,
        "Answer a question about the library.",
        body=Question,
        answer=LibraryReply,
    ),
)
