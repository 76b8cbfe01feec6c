"""Labels as classes: embeds over prompt templates, and probabilities from cosines (Radford et al.
2021, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twotower.arrays import Float32Array, normalize
from twotower.encode.encoder import Encoder
from twotower.encode.prompts import TEMPLATES
from twotower.errors import LabelError


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
    earlier: set[str] = set()
    for index, label in enumerate(stripped):
        if not label:
            raise LabelError(f"label {index + 1}", "empty", "remove it or write a word")
        if label in earlier:
            raise LabelError(f"label {label!r}", "given twice", "remove one")
        earlier.add(label)
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
