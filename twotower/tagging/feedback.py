"""Verdicts of a person on tags of pictures, and what a tag learns from them.

A tag keeps the log-odds that its words give. Accepted and rejected pictures shift them: a logistic
regression with these log-odds as offset and a Gaussian prior on the shift, which is a Gaussian
process over pictures (Rasmussen and Williams 2006, chapter 3). Near corrected pictures the verdicts
decide; far from them, and while there are few, the words do. The regression uses the corrected
pictures alone, so it takes milliseconds.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from twotower.arrays import BoolArray, Float32Array, Float64Array
from twotower.calibration.background import Background
from twotower.index.scan import scan
from twotower.metadata.keywords import collect_keywords, find_sidecars, has_our_mark

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.tagging.vocabulary import Tag, TagPath, Vocabulary

# Prior variances of the shift, in squared log-odds; chosen on flickr8k-train.
PRIOR_BIAS_VARIANCE = 1.0  # of a shift that is equal for all pictures
PRIOR_LINEAR_VARIANCE = 4.0  # of a shift that is linear in the image embed
PRIOR_LOCAL_VARIANCE = 4.0  # of a shift that similar pictures share
LOCAL_WIDTH = (
    0.5  # squared length scale of that; two unrelated pictures have a squared distance of 2
)
MAX_CORRECTIONS = 1000  # of one tag; older ones are ignored
MAX_ITERATIONS = 30
MAX_HALVINGS = 30  # of one step

Verdicts: TypeAlias = dict[int, dict[int, bool]]
"""Accepted (True) and rejected (False) tags: picture id -> column of the tag -> verdict."""


@dataclass(frozen=True)
class Feedback:
    """The corrected pictures of a tag [m, embed_dim] and their weights [m]."""

    image_embeds: Float32Array
    weights: Float64Array

    def shift(self, background: Background, image_embeds: Float32Array) -> Float64Array:
        """Return what to add to the log-odds of pictures [n, embed_dim]: [n]."""
        return np.asarray(kernel(background, image_embeds, self.image_embeds) @ self.weights)


def fit_feedback(
    background: Background, image_embeds: Float32Array, logits: Float64Array, accepted: BoolArray
) -> Feedback:
    """Fit the most probable shift of the log-odds given the verdicts.

    Newton's method (Rasmussen and Williams 2006, algorithm 3.1). A step is halved while it makes
    the fit worse: verdicts that contradict each other on similar pictures can make whole steps
    oscillate.

    Args:
        image_embeds: the corrected pictures [m, embed_dim], the latest last.
        logits: their log-odds by the words [m].
        accepted: the verdicts [m].
    """
    image_embeds = image_embeds[-MAX_CORRECTIONS:]
    logits, accepted = logits[-MAX_CORRECTIONS:], accepted[-MAX_CORRECTIONS:]
    covariance = kernel(background, image_embeds, image_embeds)
    weights = np.zeros(len(logits))
    loss = _loss(covariance, weights, logits, accepted)
    for _ in range(MAX_ITERATIONS):
        step = _newton_step(covariance, weights, logits, accepted)
        for _ in range(MAX_HALVINGS):
            changed_loss = _loss(covariance, weights + step, logits, accepted)
            if changed_loss <= loss:
                break
            step /= 2
        else:
            break  # at the optimum, but for rounding
        weights, loss = weights + step, changed_loss
        if np.abs(covariance @ step).max() < 1e-6:
            break
    return Feedback(image_embeds, weights)


def _newton_step(
    covariance: Float64Array, weights: Float64Array, logits: Float64Array, accepted: BoolArray
) -> Float64Array:
    """Return the change of the weights [m] to the optimum of a quadratic approximation."""
    shift = covariance @ weights
    p = 1 / (1 + np.exp(-np.clip(logits + shift, -30, 30)))
    curvature = np.maximum(p * (1 - p), 1e-9)
    root = np.sqrt(curvature)
    inner = np.eye(len(p)) + root[:, None] * covariance * root
    target = curvature * shift + accepted - p
    optimum = target - root * np.linalg.solve(inner, root * (covariance @ target))
    return np.asarray(optimum - weights)


def _loss(
    covariance: Float64Array, weights: Float64Array, logits: Float64Array, accepted: BoolArray
) -> float:
    """Return the negative log-posterior of the weights [m], but for a constant."""
    shift = covariance @ weights
    contradictions = np.logaddexp(0, np.where(accepted, -1, 1) * (logits + shift))
    return float(contradictions.sum() + weights @ shift / 2)


def kernel(background: Background, a: Float32Array, b: Float32Array) -> Float64Array:
    """Return the prior covariances [n, m] of the shifts at pictures [n, embed_dim] and
    [m, embed_dim].
    """
    even = len(background.pictures) - len(background.spread)  # directions of equal variance
    # squared distance of a usual picture from the mean
    size = float((background.spread**2).sum()) + even * background.residual
    a, b = a - background.pictures, b - background.pictures
    products = (a @ b.T).astype(np.float64) / size
    squares = (a**2).sum(axis=1)[:, None] / size + (b**2).sum(axis=1) / size
    distances = np.maximum(squares - 2 * products, 0)
    local = PRIOR_LOCAL_VARIANCE * np.exp(-distances / (2 * LOCAL_WIDTH))
    return PRIOR_BIAS_VARIANCE + PRIOR_LINEAR_VARIANCE * products + local


# --- verdicts ------------------------------------------------------------------------------------


def read_corrections(
    index: Index, vocabulary: Vocabulary, columns: Mapping[TagPath, int]
) -> Verdicts:
    """Read the tags removed from sidecars, and the corrections, which take precedence.

    Args:
        columns: the column of each tag.
    """
    catalog = index.catalog
    verdicts: Verdicts = defaultdict(dict)
    files, readable = catalog.file_states(), set(catalog.select().tolist())
    for path, tags in rejected_tags(index.root).items():
        for tag_path in tags:
            column = _column(vocabulary.find_foreign("|".join(tag_path)), columns)
            if column is not None and path in files and files[path].id in readable:
                verdicts[files[path].id][column] = False
    matches = [
        (correction, vocabulary.find(correction.tag)) for correction in catalog.corrections()
    ]
    for correction, tag in sorted(
        matches, key=lambda match: match[1] is not None
    ):  # exact ones win
        column = _column(tag or vocabulary.find_foreign(correction.tag), columns)
        if column is not None and correction.id is not None:
            verdicts[correction.id][column] = correction.accepted
    return dict(verdicts)


def read_keyword_verdicts(
    index: Index, vocabulary: Vocabulary, columns: Mapping[TagPath, int]
) -> Verdicts:
    """Read the tags among the keywords that people gave; all are accepted."""
    verdicts: Verdicts = defaultdict(dict)
    for picture_id, keywords in index.catalog.keywords().items():
        for keyword in keywords:
            if (column := _column(vocabulary.find(keyword), columns)) is not None:
                verdicts[picture_id][column] = True
    return dict(verdicts)


def _column(tag: Tag | None, columns: Mapping[TagPath, int]) -> int | None:
    return None if tag is None else columns[tag.path]


def training_examples(
    corrections: Verdicts, keywords: Verdicts
) -> dict[int, list[tuple[int, bool]]]:
    """Collect the pictures that each tag learns from: column -> (picture id, accepted).

    Keywords only accept, and alone would raise a tag everywhere. So only as many of them are used
    as balance the rejections, the latest pictures first.
    """
    examples: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    deficit: dict[int, int] = defaultdict(int)  # rejections less acceptances
    for picture_id, verdicts in corrections.items():
        for column, accepted in verdicts.items():
            examples[column].append((picture_id, accepted))
            deficit[column] += -1 if accepted else 1
    for picture_id in sorted(keywords, reverse=True):
        for column in keywords[picture_id]:
            if deficit[column] > 0 and column not in corrections.get(picture_id, {}):
                examples[column].append((picture_id, True))
                deficit[column] -= 1
    return examples


def rejected_tags(root: Path) -> dict[bytes, list[TagPath]]:
    """Find, by picture in `root`, our tags that a person has removed from its sidecars.

    Tags that were only renamed or moved in the tree are not among them.
    """
    rejected_by_picture = {}
    for file in scan(root).files:
        if file.sidecar_ns:
            sidecars = find_sidecars(root / os.fsdecode(file.path))
            keywords = collect_keywords((), b"", filter(has_our_mark, sidecars))
            theirs = {name.casefold() for tag in keywords.person for name in tag}
            if rejected := [tag for tag in keywords.rejected if tag[-1].casefold() not in theirs]:
                rejected_by_picture[file.path] = rejected
    return rejected_by_picture
