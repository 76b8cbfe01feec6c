"""Candidates with new vectors for the texts of the pairs, scored by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from twotower.arrays import Float32Array, Float64Array
from twotower.calibration.background import background_texts
from twotower.progress import Progress
from twotower.train.finetune.candidates import Candidate
from twotower.train.finetune.data import FineTuneData, label_texts, select_sentences
from twotower.train.finetune.held_out import HeldOutSet
from twotower.train.finetune.pair_set import Sample
from twotower.train.finetune.text_fit import STRENGTHS, ShiftMetric, TextFit
from twotower.train.finetune.text_parts import TextParts, TextUpdate


class TextScorer:
    """A held-out set, and the vectors that the model gives to it."""

    def __init__(self, data: FineTuneData, held_out: HeldOutSet, name: str = "pictures") -> None:
        frozen = data.frozen
        self.held_out = held_out
        self.images = frozen.image_embeds(held_out.pictures, data.progress, name)
        self.texts: TextParts = frozen.text_parts(held_out.texts)

    def hits(self, update: TextUpdate | None = None) -> Float64Array:
        """Return the score of each picture with a change of the text tower."""
        return self.held_out.hits(self.images, self.texts.embeds(update))


def make_text_candidates(data: FineTuneData) -> list[Candidate]:
    """Return the model before, and a candidate for each strength of the penalty.

    The domain scores of a candidate are those of pictures that were held out in turn; its weights
    are trained on all of them.
    """
    outside = TextScorer(data, data.outside_choice, "the outside set")
    folds = [TextScorer(data, data.domain.hold_out("domain", fold.choosing)) for fold in data.folds]
    start = Candidate("start", 0.0, np.concatenate([fold.hits() for fold in folds]), outside.hits())
    fits, stage = len(folds) + 1, "Fitting new vectors for the texts"
    data.progress(Progress(0, fits, stage=stage))
    fit_texts = TextFitter(data, outside.images).fit
    scores: list[list[Float64Array]] = [[] for _ in STRENGTHS]
    for number, (fold, scorer) in enumerate(zip(data.folds, folds, strict=True), 1):
        for row, update in enumerate(fit_texts(fold.training)):
            scores[row].append(scorer.hits(update))
        data.progress(Progress(number, fits, stage=stage))
    updates = fit_texts(data.training)
    data.progress(Progress(fits, fits, stage=stage))
    return [start] + [
        Candidate("texts", strength, np.concatenate(hits), outside.hits(update), update)
        for strength, hits, update in zip(STRENGTHS, scores, updates, strict=True)
    ]


class TextFitter:
    """Fits of new vectors for the texts of several selections of the pairs.

    Args:
        outside: image_embeds [m, embed_dim] whose scores should stay.
    """

    def __init__(self, data: FineTuneData, outside: Float32Array) -> None:
        frozen = data.frozen
        self.data, self.scale = data, frozen.encoder.logit_scale
        self.metric = ShiftMetric(
            frozen.text_parts(general_texts(frozen.config.templates[0])), outside
        )

    def fit(self, samples: Sequence[Sample]) -> list[TextUpdate]:
        """Fit new vectors for the texts of samples, for each of `STRENGTHS`."""
        pairs = self.data.domain
        samples = select_sentences(pairs, samples)
        texts, templates, labels = label_texts(pairs, samples)
        problem = TextFit(self.data.frozen.text_parts(texts), templates, self.metric, self.scale)
        path = problem.path(
            self.data.image_embeds(samples), np.array(labels), both_ways=not pairs.classnames
        )
        return [update for _, update in path]


def general_texts(template: str) -> list[str]:
    """Return texts of all kinds of things, alone and in a template."""
    texts = background_texts()
    return list(dict.fromkeys(chain(texts, (template.replace("{}", text) for text in texts))))
