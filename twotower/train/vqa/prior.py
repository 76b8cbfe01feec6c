"""Answers without a picture, as a baseline."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from twotower.train.vqa.data import Sample

BEGINNINGS = (4, 3, 2, 1, 0)  # words


class Prior:
    """The most frequent answer to a question, whatever the picture.

    For a question that is not in the samples, the most frequent answer to questions that begin
    with the same words.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._answers: dict[str, Counter[str]] = defaultdict(Counter)
        for sample in samples:
            for beginning in _beginnings(sample.question):
                self._answers[beginning][sample.answer] += 1

    def __call__(self, question: str) -> str:
        """Return the answer."""
        beginnings = _beginnings(question)
        longest = next(beginning for beginning in beginnings if beginning in self._answers)
        return self._answers[longest].most_common(1)[0][0]


def _beginnings(question: str) -> list[str]:
    """Return the question and its beginnings, the longest before the others."""
    words = question.lower().split()
    return [question, *(f"{' '.join(words[:count])} ..." for count in BEGINNINGS)]
