"""`ask`: questions about pictures, answered by an encoder, a trained head, or a server."""

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
        pictures: one or many: paths, encoded bytes, PIL images or uint8 arrays [H, W, 3].
        questions: one or many, in English.
        model: from `load()`; the bundled one by default. Where a trained head comes with it, that
            answers the kinds of questions that it answers better.
        answers: those among which to choose; by default the question's kind decides.
        head: a trained head that answers instead (`twotower.asking.head.Head`).
        vlm: a server that answers instead (`twotower.asking.vlm.Vlm`).
        top: how many replies to keep; None for all.

    Yields:
        One `Answered` for each picture and question. What cannot be read or understood carries
        its error, and the others are answered.
    """
    single = isinstance(pictures, str | bytes | Path | PIL.Image.Image | np.ndarray)
    listed: Iterable[Picture] = [pictures] if single else pictures  # type: ignore[list-item, assignment]
    asked = [questions] if isinstance(questions, str) else list(questions)
    if vlm is not None:
        from twotower.asking import vlm as server

        return server.answer_all(listed, asked, vlm, answers)
    if head is not None:
        from twotower.asking import head as trained

        return trained.answer_all(listed, asked, head, answers, top)
    from twotower.asking import zero_shot

    return zero_shot.answer_all(listed, asked, model or load(), answers, top)
