"""Questions about uploaded pictures, answered from what the decoders and the tower gave."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from twotower.asking.answer import Answered
from twotower.asking.head import Head, head_of
from twotower.asking.zero_shot import (
    EVERYDAY_STATEMENTS,
    HEAD_SHARES,
    Answerer,
    parse_answerable,
)
from twotower.errors import QuestionError

if TYPE_CHECKING:
    from twotower.arrays import Float32Array
    from twotower.encode.encoder import Encoder

_CACHED_QUESTIONS = 64


@dataclass(frozen=True)
class QuestionAboutPicture:
    """A question, and the picture as `image_embeds` [embed_dim] and `pixel_values` [3, S, S].

    Attributes:
        top: how many replies to keep; None for all.
    """

    question: str
    image_embeds: Float32Array
    pixel_values: Float32Array
    top: int | None


class QuestionAnswerer:
    """Answers as `asking.ask` does.

    It keeps the head, the everyday words and the statements of recent questions, which take longer
    to embed than a picture.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._answerer_of = lru_cache(_CACHED_QUESTIONS)(self._create_answerer)

    def answer_all(self, questions: list[QuestionAboutPicture]) -> list[Answered]:
        """Answer questions, each about its picture; runs in a thread."""
        return [self._answer(question) for question in questions]

    def _answer(self, item: QuestionAboutPicture) -> Answered:
        answerer = self._answerer_of(item.question)
        if isinstance(answerer, QuestionError):
            return Answered(b"", item.question, error=answerer)
        head = answerer.head
        cells = head.towers.patches(item.pixel_values[None])[0] if head else None
        replies, sure = answerer.replies(item.image_embeds, self._everyday, cells)
        return Answered(
            b"",
            item.question,
            answerer.question.kind,
            tuple(replies[: item.top]),
            sure,
            notes=answerer.question.notes,
            by="head" if head else "zero-shot",
        )

    def _create_answerer(self, text: str) -> Answerer | QuestionError:
        question = parse_answerable(text)
        if isinstance(question, QuestionError):
            return question
        head = self._head if question.kind in HEAD_SHARES else None
        return Answerer(question, self._encoder, head)

    @cached_property
    def _everyday(self) -> Float32Array:
        return np.asarray(self._encoder.encode_text(EVERYDAY_STATEMENTS), np.float32)

    @cached_property
    def _head(self) -> Head | None:
        return head_of(self._encoder.directory, self._encoder.engine)
