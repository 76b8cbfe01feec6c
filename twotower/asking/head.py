"""Answers by a head that was trained on a model's towers (`twotower train vqa`), without torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from twotower.arrays import BoolArray, Float32Array, Float64Array
from twotower.asking.answer import Answered, Reply
from twotower.asking.questions import normalize_question
from twotower.encode.golden import golden_hash
from twotower.encode.onnx import HEAD_CONFIG, HEAD_GRAPH, HEAD_WEIGHTS
from twotower.encode.patches import UnpooledEncoder
from twotower.encode.sessions import start_session
from twotower.encode.stream import read_ahead
from twotower.errors import EngineError, ModelError, PictureError, QuestionError
from twotower.inputs.pictures import Picture
from twotower.model.config import FusionConfig, parse

FOLDER = "head"  # of a model directory, for the head that is stored with the model
MIN_PROBABILITY = 0.5  # of a sure reply
PICTURES_AHEAD = 16  # decoded in advance


class Head:
    """A trained head with the towers that it reads.

    Attributes:
        config: the answers and sizes of the head.
        towers: the frozen towers of the model.
    """

    def __init__(self, directory: Path, model: Path, engine: str = "onnxruntime") -> None:
        """Load a head.

        Args:
            directory: the files of the head.
            model: the directory of the model that it was trained on.
            engine: the runtime of the towers.

        Raises:
            ModelError: the head cannot be read, or was trained on another model.
            EngineError: the towers cannot be started.
        """
        self.config: FusionConfig = _read_config(directory)
        if self.config.model != golden_hash(model):
            raise ModelError(
                directory,
                f"was trained on another model than {model}",
                "name that model with --model, or train the head again",
            )
        try:
            self._session = start_session(directory / HEAD_GRAPH)
        except EngineError as error:
            raise _damaged(directory, error) from None
        if self._session.get_outputs()[0].shape[1] != len(self.config.answers):
            raise _damaged(directory, f"{HEAD_CONFIG} and {HEAD_GRAPH} do not belong together")
        self.towers = UnpooledEncoder(model, engine)

    def replies(self, picture: Picture, questions: Sequence[str]) -> list[list[Reply]]:
        """Return all answers to each question, most probable first.

        Raises:
            PictureError: the picture cannot be read.
        """
        return self.replies_to_pixels(self.towers.preprocess(picture), questions)

    def replies_to_pixels(
        self, pixel_values: Float32Array, questions: Sequence[str]
    ) -> list[list[Reply]]:
        """Return the same for a preprocessed picture [3, S, S]."""
        cells = self.towers.patches(pixel_values[None])[0]
        replies = []
        for row in self.logits(cells, *self.towers.tokens(questions)):
            probabilities = np.exp(row - row.max())
            probabilities /= probabilities.sum()
            order = np.argsort(-probabilities, kind="stable")
            replies.append([Reply(self.config.answers[i], float(probabilities[i])) for i in order])
        return replies

    def logits(
        self, cells: Float32Array, tokens: Float32Array, attention_mask: BoolArray
    ) -> Float64Array:
        """Return the logits of all answers to n questions about a picture [n, answers].

        Args:
            cells: `towers.patches` of the picture [cells, width].
            tokens: `towers.tokens` [n, L, width].
            attention_mask: False for padding [n, L].
        """
        picture = np.zeros(len(tokens), np.int64)  # the row of `cells` for each question
        inputs = {
            "cells": cells[None],
            "tokens": tokens,
            "real": attention_mask,
            "picture": picture,
        }
        return np.asarray(self._session.run(None, inputs)[0], np.float64)


def head_of(model: Path, engine: str = "onnxruntime") -> Head | None:
    """Load the head that is stored in a model directory, if there is one."""
    directory = model / FOLDER
    return Head(directory, model, engine) if directory.is_dir() else None


def answer_all(
    pictures: Iterable[Picture],
    questions: Sequence[str],
    head: Head,
    answers: Sequence[str] = (),
    top: int | None = None,
) -> Iterator[Answered]:
    """Answer every question about every picture, in order; arguments as in `ask`."""
    problems = [_problem(question) for question in questions]
    valid = [text for text, problem in zip(questions, problems, strict=True) if problem is None]
    for picture, pixels in read_ahead(head.towers.preprocess, pictures, PICTURES_AHEAD):
        replies_by_question = iter(
            []
            if isinstance(pixels, PictureError) or not valid
            else head.replies_to_pixels(pixels, valid)
        )
        for question, problem in zip(questions, problems, strict=True):
            error = pixels if isinstance(pixels, PictureError) else problem
            if error:
                yield Answered(picture, question, "trained", error=error)
                continue
            replies = [
                reply
                for reply in next(replies_by_question)
                if not answers or reply.answer in answers
            ]
            sure = bool(replies) and (replies[0].probability or 0) >= MIN_PROBABILITY
            yield Answered(picture, question, "trained", tuple(replies[:top]), sure, by="head")


def _problem(question: str) -> QuestionError | None:
    try:
        normalize_question(question)
    except QuestionError as error:
        return error
    return None


def _read_config(directory: Path) -> FusionConfig:
    for name in (HEAD_CONFIG, HEAD_WEIGHTS, HEAD_GRAPH):
        if not (directory / name).is_file():
            raise ModelError(
                directory / name, "no such file", "make a head with: twotower train vqa"
            )
    try:
        text = (directory / HEAD_CONFIG).read_text(encoding="utf-8")
        config: FusionConfig = parse(FusionConfig, text, directory / HEAD_CONFIG)
    except (OSError, UnicodeDecodeError, ModelError) as error:
        raise _damaged(directory, error) from None
    return config


def _damaged(directory: Path, cause: object) -> ModelError:
    line = str(cause).strip().splitlines()[0]
    return ModelError(
        directory,
        f"not a head of twotower, or damaged ({line})",
        "train it again with: twotower train vqa",
    )
