"""Questions about a picture of a served library, and about all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from twotower.asking import ask, library_answers
from twotower.serve.errors import RequestError
from twotower.serve.library_queries import records_of

if TYPE_CHECKING:
    from twotower.asking.answer import Answered
    from twotower.asking.library_answers import LibraryAnswer
    from twotower.index.index import Index
    from twotower.index.schema import PictureRecord
    from twotower.serve.library import LibraryService


async def ask_picture(library: LibraryService, number: int, question: str) -> Answered:
    """Answer a question about a picture.

    Raises:
        RequestError: 404 or 410, there is no such picture or file; 422, the picture cannot be
            decoded, or the question cannot be answered.
    """
    view = await library.view(number)

    def answer(index: Index) -> Answered:
        (answered,) = ask.ask(view, question, model=index.encoder)
        return answered

    answered = await library.asking.run(answer)
    if answered.error is not None:
        raise RequestError(422, str(answered.error), field="question")
    return replace(answered, source="")


async def ask_library(
    library: LibraryService, question: str, top: int
) -> tuple[LibraryAnswer, dict[int, PictureRecord]]:
    """Answer a question about the library; return the records of its hits too.

    Raises:
        QuestionError: the question is not about a library.
    """

    def answer(index: Index) -> tuple[LibraryAnswer, dict[int, PictureRecord]]:
        answered = library_answers.ask_library(index, question, top)
        return answered, records_of(index, answered.hits)

    return await library.asking.run(answer)
