"""Zero-shot classification with any words as labels (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from twotower.arrays import Float32Array, normalize
from twotower.encode.encoder import Encoder
from twotower.encode.load import load
from twotower.encode.prompts import EVERYDAY_WORDS, TEMPLATES
from twotower.errors import LabelError, PictureError
from twotower.inputs.pictures import Picture

NONE_OF_THESE = "none of these"
SYNONYM_COSINE = 0.9  # an everyday word with this similarity to a label is a synonym of it


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
        none: add the label "none of these", with the probability of everyday words that are not
            among the labels.

    Yields:
        One `Classified` for each picture, in order; with an error if it cannot be read.

    Raises:
        LabelError: no labels, an empty or repeated label, or a template without `{}`.
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
        everyday = zero_shot_classifier(model, EVERYDAY_WORDS, templates)
        classifier = np.vstack([classifier, _without_synonyms(everyday, classifier)])
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
) -> Float32Array:
    """Embed classes: the mean of the text embeds over templates, scaled to unit length.

    Returns:
        [n, embed_dim]; cosines of pictures and classes are `image_embeds @ classifier.T`.
    """
    prompts = [template.replace("{}", name) for name in classnames for template in templates]
    text_embeds = model.encode_text(prompts).reshape(len(classnames), len(templates), -1)
    return normalize(text_embeds.mean(axis=1))


def to_probabilities(scores: Float32Array, model: Encoder) -> Float32Array:
    """Convert cosines [n] to probabilities: softmax over labels, or sigmoid of each (SigLIP)."""
    logits = model.logit_scale * scores.astype(np.float64)
    if model.logit_bias is not None:
        return np.asarray(1 / (1 + np.exp(-(logits + model.logit_bias))), np.float32)
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum(), np.float32)


def check_labels(labels: Sequence[str]) -> list[str]:
    """Return the labels without surrounding spaces.

    Raises:
        LabelError: there are no labels, or a label is empty or repeated.
    """
    stripped = [label.strip() for label in labels]
    if not stripped:
        raise LabelError("labels", "none given", 'give some words, such as "cat, dog, car"')
    for index, label in enumerate(stripped):
        if not label:
            raise LabelError(f"label {index + 1}", "empty", "remove it or write a word")
        if label in stripped[:index]:
            raise LabelError(f"label {label!r}", "given twice", "remove one")
    return stripped


def check_templates(templates: str | Sequence[str] | None, model: Encoder) -> tuple[str, ...]:
    """Return the sentences of a template set.

    Args:
        templates: a name in `TEMPLATES`, or sentences; None for those of the model.

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
                f"template {template!r}",
                "needs one {} in place of the label",
                f"add it, or choose one of {', '.join(TEMPLATES)}",
            )
    return tuple(templates)


def _without_synonyms(everyday: Float32Array, classifier: Float32Array) -> Float32Array:
    """Return the embeds of everyday words that are no synonyms of a label."""
    return everyday[(everyday @ classifier.T).max(axis=1) < SYNONYM_COSINE]


def _none_of_these(probabilities: Float32Array, scores: Float32Array) -> Label:
    """Sum the probabilities of everyday words, up to 1."""
    probability = min(1.0, float(probabilities.sum())) if len(probabilities) else 0.0
    return Label(NONE_OF_THESE, probability, float(scores.max(initial=-1.0)))
