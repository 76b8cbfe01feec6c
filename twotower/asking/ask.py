"""`ask`: questions about pictures, answered by an encoder, a trained head, or a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from twotower.asking.answered import Answered
from twotower.encode.encoder import Encoder
from twotower.encode.load import load
from twotower.inputs.pictures import Picture


def ask(
    pictures: Picture | Iterable[Picture],
    questions: str | Sequence[str],
    *,
    model: Encoder | None = None,
    answers: Sequence[str] = (),
    top: int | None = 5,
) -> Iterator[Answered]:
    """Answer every question about every picture, picture by picture.

    Args:
        pictures: one or many: paths, encoded bytes, PIL images or uint8 arrays [H, W, 3].
        questions: one or many, in English.
        model: from `load()`; the bundled one by default.
        answers: those among which to choose; by default the question's kind decides.
        top: how many replies to keep; None for all.

    Yields:
        One `Answered` for each picture and question. What cannot be read or understood carries
        its error, and the others are answered.
    """
    from twotower.asking.zero_shot import answer_all

    single = isinstance(pictures, str | bytes | Path | PIL.Image.Image | np.ndarray)
    listed: Iterable[Picture] = [pictures] if single else pictures  # type: ignore[list-item, assignment]
    asked = [questions] if isinstance(questions, str) else list(questions)
    return answer_all(listed, asked, model or load(), answers, top)
