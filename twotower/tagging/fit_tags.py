"""Fit the cut-offs of tags on pictures of known content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import BoolArray, Float64Array, IndexArray
from twotower.calibration.calibration import Calibration
from twotower.calibration.captions import captioned_tags
from twotower.calibration.curves import TextCurves
from twotower.calibration.fit import Pictures, fit, is_captioned
from twotower.calibration.named import NamedPictures
from twotower.progress import ReportProgress, ignore_progress
from twotower.tagging.formats import read_vocabulary
from twotower.tagging.tag_embeds import embed_tags
from twotower.tagging.vocabulary import Tag

if TYPE_CHECKING:
    from twotower.encode.encoder import Encoder

PRECISIONS = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))  # that get a cut-off
PICTURES = 500  # of each source on which the cut-offs are measured


@dataclass(frozen=True)
class TagAnswers:
    """Probabilities of tags of the pictures of one source, and whether they are right.

    Attributes:
        probabilities: [k].
        answers: [k].
    """

    probabilities: Float64Array
    answers: BoolArray


def fit_calibration(
    model: Encoder,
    sources: Sequence[Pictures],
    samples: Sequence[bytes],
    report: ReportProgress = ignore_progress,
) -> Calibration:
    """Fit the calibration of a model, first of search and then of tags; arguments as for `fit`."""
    fitted = fit(model, sources, samples, report)
    measured = [
        measure_tags(model, curves, source)
        for curves, source in zip(fitted.held_out, sources, strict=True)
    ]
    return replace(fitted.calibration, precisions=tuple(precision_cutoffs(measured)))


def measure_tags(model: Encoder, curves: TextCurves, source: Pictures) -> TagAnswers:
    """Tag the pictures of a source by curves that were fitted on others."""
    rows = even_rows(len(source.captions), PICTURES)
    captions = [source.captions[row] for row in rows]
    decided = captioned_answers(captions) if is_captioned(captions) else named_answers(captions)
    if not decided:
        return TagAnswers(np.zeros(0), np.zeros(0, bool))
    tags, answers = [tag for tag, _ in decided], np.stack([column for _, column in decided], axis=1)
    texts = [
        curves.prepare(tag.names, embed)
        for tag, embed in zip(tags, embed_tags(model, tags), strict=True)
    ]
    logits = curves.logits(texts, source.image_embeds[rows])
    return TagAnswers((1 / (1 + np.exp(-logits)))[answers >= 0], answers[answers >= 0] == 1)


def captioned_answers(captions: Sequence[Sequence[str]]) -> list[tuple[Tag, NDArray[np.int8]]]:
    """Return the tags that captions decide: 1 for pictures that show one, 0 for others, -1 for
    undecided ones.

    Of a tag that more than half of the pictures show ("person"), only as many count as do not:
    most photographs that are captioned for research show people; those of users need not.
    """
    vocabulary = read_vocabulary()
    decided = []
    for captioned in captioned_tags(captions):
        if (tag := vocabulary.find(captioned.name)) is not None:
            answers = captioned.answers.copy()
            positive = np.flatnonzero(answers == 1)
            kept = positive[even_rows(len(positive), int((answers == 0).sum()))]
            answers[positive] = -1
            answers[kept] = 1
            decided.append((tag, answers))
    return decided


def named_answers(names: Sequence[Sequence[str]]) -> list[tuple[Tag, NDArray[np.int8]]]:
    """Return the tags that names of pictures decide; answers as in `captioned_answers`."""
    pictures = NamedPictures(names)
    return [
        (tag, pictures.answers(tag.names))
        for tag in read_vocabulary().assignable
        if not tag.detector and pictures.decides(tag.names)
    ]


def even_rows(count: int, limit: int) -> IndexArray:
    """Return at most `limit` of the rows 0 to `count`, evenly spaced."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, limit)).astype(np.intp))


def precision_cutoffs(sources: Sequence[TagAnswers]) -> list[tuple[float, float]]:
    """Return precisions, and the least probability from which tags reach each.

    Every source counts equally. A precision counts by the lower end of its interval (one standard
    error, Wilson 1927), so that a few correct answers at the top do not suffice.
    """
    probabilities = np.concatenate([source.probabilities for source in sources])
    answers = np.concatenate([source.answers for source in sources])
    order = np.argsort(-probabilities, kind="stable")
    n = np.arange(1, len(order) + 1)
    share = np.cumsum(answers[order]) / n
    lower = (share + 0.5 / n - np.sqrt(share * (1 - share) / n + 0.25 / n**2)) / (1 + 1 / n)
    cutoffs = []
    for precision in PRECISIONS:
        reaching = np.flatnonzero(lower >= precision)
        if len(reaching):
            cutoffs.append((precision, float(probabilities[order[reaching[-1]]])))
    return cutoffs
