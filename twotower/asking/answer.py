"""The answer to a question about a picture, in one form for all ways of answering."""

from __future__ import annotations

from dataclasses import dataclass

from twotower.errors import PictureError, QuestionError
from twotower.inputs.pictures import Picture


@dataclass(frozen=True)
class Reply:
    """A possible answer, and the probability that it is correct (None from a server)."""

    answer: str
    probability: float | None


@dataclass(frozen=True)
class Answered:
    """A question about a picture, with its replies or an error.

    Attributes:
        source: the picture, as it was passed.
        question: the question, as it was typed.
        kind: the kind of question (`Question.kind`); "trained" or "server" if the question was
            passed on unparsed.
        replies: the most probable at the front.
        sure: False if the best reply is hardly better than a guess, so that `answer` is None.
        notes: known weaknesses that affect the answer.
        by: "zero-shot", "head" (a trained one) or "server".
        error: the reason why there are no replies.
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
        """The best reply, or None if that would be a guess."""
        return self.replies[0].answer if self.replies and self.sure else None
