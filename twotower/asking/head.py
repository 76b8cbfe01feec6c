"""Answers by a head that was trained on a model's towers (`twotower train vqa`). Takes torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from twotower.asking.answered import Answered, Reply
from twotower.asking.questions import QuestionError, plain
from twotower.encode.cells import Cells
from twotower.encode.golden import model_hash
from twotower.encode.stream import read_ahead
from twotower.inputs.pictures import Picture, PictureError

LEAST = 0.5  # less probable than this is an abstention
AHEAD = 16  # pictures that are decoded in advance


class Head:
    """A trained head with the towers that it sits on.

    Args:
        directory: the head's.
        model: the directory of the model that it was trained on.

    Raises:
        HeadError: the head cannot be read, or is of another model.
        EngineError: torch is not installed.
    """

    def __init__(self, directory: Path, model: Path) -> None:
        self.towers = Cells(model)
        from twotower.model.fusion import HeadError, load_head

        self.head = load_head(directory)
        if self.head.config.model != model_hash(model):
            raise HeadError(
                f"{directory}: was trained on another model than {model}; give that one with "
                "--model, or train the head again"
            )

    def replies(self, picture: Picture, questions: Sequence[str]) -> list[list[Reply]]:
        """All answers to each question, most probable first. Raises `PictureError`."""
        return self.judge(self.towers.preprocess(picture), questions)

    def judge(self, pixel_values: np.ndarray, questions: Sequence[str]) -> list[list[Reply]]:
        """The same, of a picture that is preprocessed: [3, S, S]."""
        import torch

        tokens, real = self.towers.of_questions(questions)
        cells = torch.from_numpy(self.towers.of_pictures(pixel_values[None]))
        with torch.inference_mode():
            picture = torch.zeros(len(questions), dtype=torch.long)
            probabilities = self.head(cells, tokens, real, picture).softmax(dim=1).numpy()
        names = self.head.config.answers
        return [
            [Reply(names[i], float(row[i])) for i in np.argsort(-row, kind="stable")]
            for row in probabilities
        ]


def answer_all(
    pictures: Iterable[Picture],
    questions: Sequence[str],
    head: Head,
    answers: Sequence[str] = (),
    top: int | None = None,
) -> Iterator[Answered]:
    """Every question about every picture, in order; arguments as in `ask`."""
    problems = [_problem(one) for one in questions]
    good = [one for one, problem in zip(questions, problems, strict=True) if problem is None]
    for picture, pixels in read_ahead(head.towers.preprocess, pictures, AHEAD):
        found = iter(
            [] if isinstance(pixels, PictureError) or not good else head.judge(pixels, good)
        )
        for question, problem in zip(questions, problems, strict=True):
            error = pixels if isinstance(pixels, PictureError) else problem
            if error:
                yield Answered(picture, question, "trained", error=error)
                continue
            replies = [one for one in next(found) if not answers or one.answer in answers]
            sure = bool(replies) and (replies[0].probability or 0) >= LEAST
            yield Answered(picture, question, "trained", tuple(replies[:top]), sure)


def _problem(question: str) -> QuestionError | None:
    try:
        plain(question)
    except QuestionError as error:
        return error
    return None
