"""Zero-shot classification: any words as labels (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import normalize
from twotower.encode.encoder import Encoder
from twotower.encode.load import load
from twotower.encode.prompts import EVERYDAY, TEMPLATES
from twotower.errors import LabelError, PictureError
from twotower.inputs.pictures import Picture

NONE_OF_THESE = "none of these"
SYNONYM_COSINE = 0.9  # an everyday word this near to a label says the same thing


@dataclass(frozen=True)
class Label:
    """One label of one picture: `score` is the cosine, `probability` over all labels given."""

    label: str
    probability: float
    score: float


@dataclass(frozen=True)
class Classified:
    """The labels of one picture, most probable first; or why it could not be read."""

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
    """Say which of `labels` each picture shows, in the order of the pictures.

    Args:
        model: from `load()`; the bundled one by default.
        templates: a name in `TEMPLATES` or sentences with one `{}`; by default the model's own.
        top: how many labels to keep for each picture; all by default.
        none: add the label "none of these", the probability that goes to everyday things which
            are not among the labels.

    Yields:
        One `Classified` for each picture; an unreadable one carries its error.

    Raises:
        LabelError: no labels, an empty or repeated one, or a template without `{}`.
    """
    model = model or load()
    labels = check_labels(labels)
    templates = check_templates(templates, model)
    return _classify(pictures, labels, model, templates, top, none, batch_size)


def _classify(
    pictures: Iterable[Picture],
    labels: list[str],
    model: Encoder,
    templates: tuple[str, ...],
    top: int | None,
    none: bool,
    batch_size: int,
) -> Iterator[Classified]:
    classifier = zero_shot_classifier(model, labels, templates)
    if none:
        everyday = zero_shot_classifier(model, EVERYDAY, templates)
        classifier = np.vstack([classifier, _not_among(everyday, classifier)])
    for encoded in model.stream(pictures, batch_size):
        if encoded.image_embeds is None:
            yield Classified(encoded.source, [], encoded.error)
            continue
        scores = classifier @ encoded.image_embeds
        probabilities = to_probabilities(scores, model)
        answers = [
            Label(label, float(probability), float(score))
            for label, probability, score in zip(labels, probabilities, scores, strict=False)
        ]
        if none:
            answers.append(_none_of_these(probabilities[len(labels) :], scores[len(labels) :]))
        answers.sort(key=lambda answer: -answer.probability)
        yield Classified(encoded.source, answers[:top], None)


def zero_shot_classifier(
    model: Encoder, classnames: Sequence[str], templates: Sequence[str]
) -> NDArray[np.float32]:
    """Text embeds of classes: the mean over templates, of unit length again.

    Returns:
        [n, embed_dim]; cosines of pictures to classes are `image_embeds @ classifier.T`.
    """
    prompts = [template.replace("{}", name) for name in classnames for template in templates]
    text_embeds = model.encode_text(prompts).reshape(len(classnames), len(templates), -1)
    return normalize(text_embeds.mean(axis=1))


def to_probabilities(scores: NDArray[np.float32], model: Encoder) -> NDArray[np.float32]:
    """Cosines [n] to probabilities: softmax over the labels, or a sigmoid for each (SigLIP)."""
    logits = model.logit_scale * scores.astype(np.float64)
    if model.logit_bias is not None:
        return np.asarray(1 / (1 + np.exp(-(logits + model.logit_bias))), np.float32)
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum(), np.float32)


def check_labels(labels: Sequence[str]) -> list[str]:
    """The labels without surrounding spaces.

    Raises:
        LabelError: none at all, an empty one, or one given twice.
    """
    stripped = [label.strip() for label in labels]
    if not stripped:
        raise LabelError('no labels; give some words, such as "cat, dog, car"')
    for place, label in enumerate(stripped):
        if not label:
            raise LabelError(f"label {place + 1} is empty; remove it or write a word")
        if label in stripped[:place]:
            raise LabelError(f"label {label!r} is given twice; remove one")
    return stripped


def check_templates(templates: str | Sequence[str] | None, model: Encoder) -> tuple[str, ...]:
    """The sentences of a template set.

    Raises:
        LabelError: an unknown name, or a sentence without exactly one `{}`.
    """
    if templates is None:
        return model.config.templates
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        templates = [templates]
    for template in templates:
        if template.count("{}") != 1:
            raise LabelError(
                f"template {template!r} needs one {{}} where the label goes, or one of the names "
                f"{', '.join(TEMPLATES)}"
            )
    return tuple(templates)


def _not_among(
    everyday: NDArray[np.float32], classifier: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The everyday words that mean something else than every label."""
    return everyday[(everyday @ classifier.T).max(axis=1) < SYNONYM_COSINE]


def _none_of_these(probabilities: NDArray[np.float32], scores: NDArray[np.float32]) -> Label:
    """All the probability that everyday words took (for sigmoid models: the most likely one's)."""
    probability = min(1.0, float(probabilities.sum())) if len(probabilities) else 0.0
    return Label(NONE_OF_THESE, probability, float(scores.max(initial=-1.0)))
