"""What comes back from a question, whoever answers it."""

from __future__ import annotations

from dataclasses import dataclass

from twotower.errors import PictureError, QuestionError
from twotower.inputs.pictures import Picture


@dataclass(frozen=True)
class Reply:
    """One answer; the probability that it is right, None where whoever answers gives none."""

    answer: str
    probability: float | None


@dataclass(frozen=True)
class Answered:
    """A question about a picture, answered, or why it could not be.

    Attributes:
        source: the picture, as it was given.
        question: as it was typed.
        kind: what kind of question it was taken for (`Question.kind`); "trained" or "server" where
            the question was handed on as it is.
        replies: the most probable first.
        sure: False where the best reply is not much better than a guess: an abstention.
        notes: what a reader should know.
        by: who answered: "zero-shot", a trained "head", or a "server".
        error: instead of all of that.
    """

    source: Picture
    question: str
    kind: str = ""
    replies: tuple[Reply, ...] = ()
    sure: bool = False
    notes: tuple[str, ...] = ()
    by: str = "zero-shot"
    error: PictureError | QuestionError | None = None

    @property
    def answer(self) -> str | None:
        """The best reply, or None where that would be a guess."""
        return self.replies[0].answer if self.replies and self.sure else None
