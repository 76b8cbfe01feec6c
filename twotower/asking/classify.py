"""Zero-shot classification with any words as labels (Radford et al. 2021, section 3.1).

A softmax tells which label fits best, not whether any fits. That is judged like the words of a
search, by how the best label stands out among competing words for the same picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twotower.arrays import Float32Array
from twotower.calibration.calibration import text_curves
from twotower.calibration.curves import embed_queries
from twotower.encode.classify import (
    check_labels,
    check_templates,
    to_probabilities,
    zero_shot_classifier,
)
from twotower.encode.encoder import Encoder
from twotower.encode.load import load
from twotower.errors import PictureError
from twotower.inputs.pictures import Picture

NONE_OF_THESE = "none of these"
# Who gives labels presumes that one of them applies, more than who searches a library for a word.
LABEL_PRIOR_LOG_ODDS = 1.4


@dataclass(frozen=True)
class Label:
    """A label of a picture.

    Attributes:
        probability: among all labels (softmax models), or of this label (sigmoid models).
        score: the cosine of picture and label.
    """

    label: str
    probability: float
    score: float


@dataclass(frozen=True)
class Classified:
    """The labels of a picture, most probable first; or an error if it cannot be read."""

    source: Picture
    labels: list[Label]
    error: PictureError | None


def classify(
    pictures: Iterable[Picture],
    labels: Sequence[str],
    *,
    model: Encoder | None = None,
    templates: str | Sequence[str] | None = None,
    top: int | None = None,
    none: bool = False,
    batch_size: int = 32,
) -> Iterator[Classified]:
    """Find out which of `labels` each picture shows.

    Args:
        model: from `load()`; the bundled model by default.
        templates: a name in `TEMPLATES` or sentences with one `{}`; by default those of the model.
        top: the number of labels to return for each picture; all by default.
        none: add the label "none of these", with the probability that the best label does not
            apply, as a search judges it: by how it stands out among other words.

    Yields:
        One `Classified` for each picture, in order; with an error if it cannot be read.

    Raises:
        LabelError: no labels, an empty or repeated label, or a template without `{}`.
        CalibrationError: the calibration of the model is damaged (with `none`).
    """
    model = model or load()
    labels = check_labels(labels)
    templates = check_templates(templates, model)
    judge = LabelJudge(model, labels) if none else None
    return _classify(pictures, labels, model, templates, top, judge, batch_size)


def _classify(
    pictures: Iterable[Picture],
    labels: list[str],
    model: Encoder,
    templates: tuple[str, ...],
    top: int | None,
    judge: LabelJudge | None,
    batch_size: int,
) -> Iterator[Classified]:
    classifier = zero_shot_classifier(model, labels, templates)
    for encoded in model.stream(pictures, batch_size):
        if encoded.image_embeds is None:
            yield Classified(encoded.source, [], encoded.error)
            continue
        scores = classifier @ encoded.image_embeds
        probabilities = to_probabilities(scores, model)
        answers = [
            Label(label, float(probability), float(score))
            for label, probability, score in zip(labels, probabilities, scores, strict=True)
        ]
        if judge is not None:
            answers = judge.with_none(answers, encoded.image_embeds, model.logit_bias is None)
        answers.sort(key=lambda answer: -answer.probability)
        yield Classified(encoded.source, answers[:top], None)


class LabelJudge:
    """Judges whether the best label of a picture applies."""

    def __init__(self, model: Encoder, labels: Sequence[str]) -> None:
        """Embed the labels.

        Raises:
            CalibrationError: the calibration of the model is damaged.
        """
        self._curves = text_curves(model)
        self._texts = [
            self._curves.prepare([label], embed)
            for label, embed in zip(labels, embed_queries(model, labels), strict=True)
        ]
        related = np.any([text.related_words for text in self._texts], axis=0)
        self._other_words = self._curves.competitors.words[~related]

    def with_none(
        self, answers: list[Label], image_embeds: Float32Array, shared: bool
    ) -> list[Label]:
        """Add "none of these" to the labels of a picture; its score is that of the nearest word
        that is not related to a label.

        Args:
            answers: in the order of the labels.
            image_embeds: of the picture [embed_dim].
            shared: True if the probabilities of all answers shall add up to 1.
        """
        best = max(range(len(answers)), key=lambda i: answers[i].score)
        logit = self._curves.logits([self._texts[best]], image_embeds[None])[0, 0]
        applies = float(1 / (1 + np.exp(-(logit + LABEL_PRIOR_LOG_ODDS))))
        if shared:
            answers = [
                replace(answer, probability=applies * answer.probability) for answer in answers
            ]
        nearest = float((self._other_words @ image_embeds).max(initial=-1.0))
        return [*answers, Label(NONE_OF_THESE, 1 - applies, nearest)]
