"""Fit the cut-offs of tags on pictures of known content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import BoolArray, Float32Array, Float64Array, IndexArray
from twotower.calibration.calibration import IMPOSSIBLE, Calibration
from twotower.calibration.captions import Captions, captioned_tags
from twotower.calibration.competitors import embed_names
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
MIN_SHOWN = 30  # right tags in a source, to count for the cut-offs
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
    decided = (captioned_tags_of if is_captioned(captions) else named_tags)(model, captions)
    if not decided:
        return TagAnswers(np.zeros(0), np.zeros(0, bool))
    answers = np.stack([tag.answers for tag in decided], axis=1)
    texts = [curves.prepare(entry.tag.names, entry.embed) for entry in decided]
    logits = curves.logits(texts, source.image_embeds[rows])
    return TagAnswers((1 / (1 + np.exp(-logits)))[answers >= 0], answers[answers >= 0] == 1)


@dataclass(frozen=True)
class DecidedTag:
    """A tag of which is known whether pictures show it.

    Attributes:
        embed: [embed_dim].
        answers: [n], 1 for pictures that show it, 0 for those that do not, -1 if undecided.
    """

    tag: Tag
    embed: Float32Array
    answers: NDArray[np.int8]


def captioned_tags_of(model: Encoder, captions: Captions) -> list[DecidedTag]:
    """Return the tags that captions decide.

    Of a tag that more than half of the pictures show ("person"), only as many count as do not:
    most photographs that are captioned for research show people; those of users need not.
    """
    vocabulary = read_vocabulary()
    tags = [
        (tag, balanced(entry.answers))
        for entry in captioned_tags(captions)
        if (tag := vocabulary.find(entry.name)) is not None
    ]
    embeds = embed_tags(model, [tag for tag, _ in tags])
    return [
        DecidedTag(tag, embed, answers) for (tag, answers), embed in zip(tags, embeds, strict=True)
    ]


def balanced(answers: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return answers of which at most half are 1; further ones are undecided."""
    positive = np.flatnonzero(answers == 1)
    kept = positive[even_rows(len(positive), int((answers == 0).sum()))]
    result = answers.copy()
    result[positive] = -1
    result[kept] = 1
    return result


def named_tags(model: Encoder, names: Captions) -> list[DecidedTag]:
    """Return the tags that names of pictures decide."""
    pictures = NamedPictures(names, lambda texts: embed_names(model, texts))
    tags = [
        tag
        for tag in read_vocabulary().assignable
        if not tag.detector and pictures.decides(tag.names)
    ]
    return [
        DecidedTag(tag, embed, pictures.answers(tag.names, embed))
        for tag, embed in zip(tags, embed_tags(model, tags), strict=True)
    ]


def even_rows(count: int, limit: int) -> IndexArray:
    """Return at most `limit` of the rows 0 to `count`, evenly spaced."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, limit)).astype(np.intp))


def precision_cutoffs(sources: Sequence[TagAnswers]) -> list[tuple[float, float]]:
    """Return precisions, and the probability from which tags reach each in the median source.

    The median, because the truth of some sources is incomplete: captions do not name everything,
    and names are not always exact.
    """
    limits = [precision_limits(source) for source in sources if source.answers.sum() >= MIN_SHOWN]
    if not limits:
        return []
    medians = np.median(np.array(limits), axis=0)
    return [
        (precision, float(limit))
        for precision, limit in zip(PRECISIONS, medians, strict=True)
        if limit <= 1
    ]


def precision_limits(source: TagAnswers) -> list[float]:
    """Return the least probability from which tags of a source reach each of `PRECISIONS`.

    A precision counts by the lower end of its interval (one standard error, Wilson 1927), so that a
    few correct answers at the top do not suffice.
    """
    order = np.argsort(-source.probabilities, kind="stable")
    n = np.arange(1, len(order) + 1)
    share = np.cumsum(source.answers[order]) / n
    lower = (share + 0.5 / n - np.sqrt(share * (1 - share) / n + 0.25 / n**2)) / (1 + 1 / n)
    limits = []
    for precision in PRECISIONS:
        reaching = np.flatnonzero(lower >= precision)
        limits.append(
            float(source.probabilities[order[reaching[-1]]]) if len(reaching) else IMPOSSIBLE
        )
    return limits
