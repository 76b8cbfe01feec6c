"""Answers by a head that was trained on a model's towers (`twotower train vqa`). No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array
from twotower.asking.answer import Answered, Reply
from twotower.asking.questions import plain
from twotower.encode.engine import start_session
from twotower.encode.golden import golden_hash
from twotower.encode.onnx import HEAD_CONFIG, HEAD_GRAPH, HEAD_WEIGHTS
from twotower.encode.patches import Cells
from twotower.encode.stream import read_ahead
from twotower.errors import EngineError, ModelError, PictureError, QuestionError
from twotower.inputs.pictures import Picture
from twotower.model.config import FusionConfig, parse

FOLDER = "head"  # of a model directory, where a head comes with the model
LEAST = 0.5  # less probable than this is an abstention
AHEAD = 16  # pictures that are decoded in advance


class Head:
    """A trained head with the towers that it sits on.

    Args:
        directory: the head's.
        model: the directory of the model that it was trained on.
        engine: what runs the towers.

    Raises:
        HeadError: the head cannot be read, or is of another model.
        EngineError: the towers cannot be started.
    """

    def __init__(self, directory: Path, model: Path, engine: str = "onnxruntime") -> None:
        self.config: FusionConfig = _read_config(directory)
        if self.config.model != golden_hash(model):
            raise ModelError(
                f"{directory}: was trained on another model than {model}; give that one with "
                "--model, or train the head again"
            )
        try:
            self._session = start_session(directory / HEAD_GRAPH)
        except EngineError as error:
            raise _damaged(directory, error) from None
        if self._session.get_outputs()[0].shape[1] != len(self.config.answers):
            raise _damaged(directory, f"{HEAD_CONFIG} and {HEAD_GRAPH} do not belong together")
        self.towers = Cells(model, engine)

    def replies(self, picture: Picture, questions: Sequence[str]) -> list[list[Reply]]:
        """All answers to each question, most probable first. Raises `PictureError`."""
        return self.judge(self.towers.preprocess(picture), questions)

    def judge(self, pixel_values: Float32Array, questions: Sequence[str]) -> list[list[Reply]]:
        """The same, of a picture that is preprocessed: [3, S, S]."""
        cells = self.towers.of_pictures(pixel_values[None])[0]
        names, found = self.config.answers, []
        for row in self.logits(cells, *self.towers.of_questions(questions)):
            probabilities = np.exp(row - row.max())
            probabilities /= probabilities.sum()
            order = np.argsort(-probabilities, kind="stable")
            found.append([Reply(names[i], float(probabilities[i])) for i in order])
        return found

    def logits(
        self, cells: Float32Array, tokens: Float32Array, real: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Of all answers to n questions about a picture [n, answers].

        Args:
            cells: `towers.of_pictures` of the picture [cells, width].
            tokens: `towers.of_questions` [n, L, width], with `real` [n, L].
        """
        picture = np.zeros(len(tokens), np.int64)
        inputs = {"cells": cells[None], "tokens": tokens, "real": real, "picture": picture}
        return np.asarray(self._session.run(None, inputs)[0], np.float64)


def head_of(model: Path, engine: str = "onnxruntime") -> Head | None:
    """The head that comes with a model, if one does."""
    directory = model / FOLDER
    return Head(directory, model, engine) if directory.is_dir() else None


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
            yield Answered(picture, question, "trained", tuple(replies[:top]), sure, by="head")


def _problem(question: str) -> QuestionError | None:
    try:
        plain(question)
    except QuestionError as error:
        return error
    return None


def _read_config(directory: Path) -> FusionConfig:
    for name in (HEAD_CONFIG, HEAD_WEIGHTS, HEAD_GRAPH):
        if not (directory / name).is_file():
            raise ModelError(
                f"{directory / name}: no such file; make a head with: twotower train vqa"
            )
    try:
        text = (directory / HEAD_CONFIG).read_text(encoding="utf-8")
        config: FusionConfig = parse(FusionConfig, text, directory / HEAD_CONFIG)
    except (OSError, UnicodeDecodeError, ModelError) as error:
        raise _damaged(directory, error) from None
    return config


def _damaged(directory: Path, why: object) -> ModelError:
    first = str(why).strip().splitlines()[0]
    return ModelError(f"{directory}: not a head of twotower's, or a damaged one ({first})")
