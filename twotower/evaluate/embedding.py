"""Embed the pictures, texts and class names of a set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from twotower.arrays import Float32Array, Int64Array, normalize
from twotower.errors import EvaluationError, PictureError
from twotower.evaluate.models import Model
from twotower.inputs.pictures import Picture
from twotower.progress import Progress, ReportProgress, ignore_progress

TEXT_BATCH = 1024  # texts between two reports


@dataclass(frozen=True)
class EmbeddedPictures:
    """The embeds of the readable pictures of a set, and the errors of the others.

    Attributes:
        image_embeds: [n, embed_dim].
        numbers: [n], the position of each in the set.
        errors: by position.
    """

    image_embeds: Float32Array
    numbers: Int64Array
    errors: dict[int, PictureError]

    def unreadable(self, keys: Sequence[str]) -> list[str]:
        """Return a line for each unreadable picture: its key, the reason and the remedy."""
        return [
            f"{keys[number]}: {error.reason}; {error.remedy}"
            for number, error in self.errors.items()
        ]


def embed_pictures(
    model: Model,
    pictures: Iterable[Picture],
    name: str,
    total: int,
    report: ReportProgress = ignore_progress,
    stage: str = "Pictures",
) -> EmbeddedPictures:
    """Embed all pictures of a set in order; memory holds only the embeds.

    Args:
        name: the set, for the error message.
        total: number of pictures.

    Raises:
        EvaluationError: no picture can be read.
    """
    image_embeds: list[Float32Array] = []
    numbers: list[int] = []
    errors: dict[int, PictureError] = {}
    for number, encoded in enumerate(model.stream(pictures)):
        if encoded.error is not None:
            errors[number] = encoded.error
        else:
            assert encoded.image_embeds is not None  # one of the two is always set
            image_embeds.append(encoded.image_embeds)
            numbers.append(number)
        report(Progress(number + 1, total, len(errors), stage))
    if not numbers:
        reason = f" ({next(iter(errors.values()))})" if errors else ""
        raise EvaluationError(
            name, f"no picture could be read{reason}", "give pictures that can be opened"
        )
    return EmbeddedPictures(np.stack(image_embeds), np.array(numbers), errors)


def embed_texts(
    model: Model, texts: Sequence[str], report: ReportProgress = ignore_progress
) -> Float32Array:
    """Return text_embeds [n, embed_dim] of unit length."""
    batches = []
    for start in range(0, len(texts), TEXT_BATCH):
        batches.append(model.encode_text(texts[start : start + TEXT_BATCH]))
        report(Progress(min(start + TEXT_BATCH, len(texts)), len(texts), stage="Texts"))
    return np.concatenate(batches)


def make_classifier(
    model: Model,
    classes: Sequence[Sequence[str]],
    templates: Sequence[str],
    report: ReportProgress = ignore_progress,
) -> Float32Array:
    """Return the text embed of each class [classes, embed_dim], of unit length.

    It is the mean over the names of the class and the templates.
    """
    means = []
    for names in classes:
        prompts = [template.replace("{}", name) for name in names for template in templates]
        means.append(model.encode_text(prompts).mean(axis=0))
        report(Progress(len(means), len(classes), stage="Classes"))
    return normalize(np.stack(means))
