"""`ask`: answer questions about pictures, by an encoder, a trained head, or a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from twotower.asking.answer import Answered
from twotower.encode.encoder import Encoder
from twotower.encode.load import load
from twotower.inputs.pictures import Picture

if TYPE_CHECKING:
    from twotower.asking.head import Head
    from twotower.asking.vlm import Vlm


def ask(
    pictures: Picture | Iterable[Picture],
    questions: str | Sequence[str],
    *,
    model: Encoder | None = None,
    answers: Sequence[str] = (),
    head: Head | None = None,
    vlm: Vlm | None = None,
    top: int | None = 5,
) -> Iterator[Answered]:
    """Answer every question about every picture, picture by picture.

    Args:
        pictures: one or several paths, encoded bytes, PIL images or uint8 arrays [H, W, 3].
        questions: one or several, in English.
        model: an encoder from `load()`; the bundled one by default. If a trained head is stored
            with it, that answers the kinds of questions that it answers better.
        answers: the answers to choose from; by default the kind of question decides.
        head: a trained head that answers everything.
        vlm: a server that answers everything.
        top: how many replies to keep; None for all.

    Yields:
        One `Answered` for each picture and question. A picture that cannot be read and a question
        that cannot be parsed have an error instead of replies, and do not affect the others.

    Raises:
        ModelError: the model, or the head stored with it, cannot be used.
    """
    single = isinstance(pictures, str | bytes | Path | PIL.Image.Image | np.ndarray)
    sources: Iterable[Picture] = [pictures] if single else pictures  # type: ignore[list-item, assignment]
    texts = [questions] if isinstance(questions, str) else list(questions)
    if vlm is not None:
        from twotower.asking import vlm as server

        return server.answer_all(sources, texts, vlm, answers)
    if head is not None:
        from twotower.asking import head as trained

        return trained.answer_all(sources, texts, head, answers, top)
    from twotower.asking import zero_shot

    return zero_shot.answer_all(sources, texts, model or load(), answers, top)
