"""Judge candidates, order them, and group near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twotower.arrays import (
    BoolArray,
    Float32Array,
    Float64Array,
    IndexArray,
    Int64Array,
    best_first,
)
from twotower.calibration.calibration import Calibration
from twotower.calibration.curves import LogisticCurve
from twotower.search.query import Term

COPY_WINDOW = 200  # ranks before a hit, at least, among which it may have a near-duplicate
# Weight of the cosine beside the log-probability in the order of hits: half a logit for each 0.01.
# Competing words tell best whether a picture matches; the cosine ranks better what is one thing
# among several in the picture (docs/measurements/search.md).
COSINE_WEIGHT = 50.0
RANK_FUSION_K = 60  # constant of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009)


@dataclass(frozen=True)
class Candidates:
    """Pictures that may match a query, with the judgement on each.

    Attributes:
        ids: [n], ascending.
        image_embeds: [n, embed_dim].
        scores: [n], weighted mean cosine of the terms.
        log_probabilities: [n], of a match.
        relevance: [n], the order of the hits.
        matches: [n], above the cut-off of every term, or `named`.
        named: [n], with all words of the query in path or keywords.
        fewest: the number of candidates above the cut-off of the most selective wanted term.
    """

    ids: Int64Array
    image_embeds: Float32Array
    scores: Float64Array
    log_probabilities: Float64Array
    relevance: Float64Array
    matches: BoolArray
    named: BoolArray
    fewest: int


def judge(
    terms: Sequence[Term],
    embeds: Float32Array,
    calibration: Calibration,
    ids: Int64Array,
    image_embeds: Float32Array,
    named: BoolArray,
) -> Candidates:
    """Score candidates by the terms of a query, each as an independent statement.

    The probability of a match is the product over the terms, with 1 - p for a negated term and the
    weight as exponent. A match is on the right side of the cut-off of each term. The cosines of
    wanted terms take part in the order.

    Args:
        embeds: of the terms [t, embed_dim].
        ids: of the candidates [n], ascending.
        image_embeds: of the candidates [n, embed_dim].
        named: [n], True for candidates that match by name.
    """
    scores, positive, log_probabilities = np.zeros((3, len(ids)))
    matches, fewest = np.ones(len(ids), bool), len(ids)
    for term, embed in zip(terms, embeds, strict=True):
        logits = _logits(term, embed, image_embeds, calibration)
        cutoff = _curve(term, calibration).cutoff
        passed = logits >= np.log(cutoff / (1 - cutoff))
        sign = -1 if term.negated else 1
        weighted = term.weight * (image_embeds @ embed)
        scores += sign * weighted
        positive += 0 if term.negated else weighted
        log_probabilities -= term.weight * np.logaddexp(0, -sign * logits)
        matches &= ~passed if term.negated else passed
        fewest = fewest if term.negated else min(fewest, int(passed.sum()))
    scores /= sum(term.weight for term in terms)
    relevance = log_probabilities + COSINE_WEIGHT * positive
    return Candidates(
        *(ids, image_embeds, scores, log_probabilities, relevance),
        *(matches | named, named, fewest),
    )


def joint_cutoff(terms: Sequence[Term], calibration: Calibration) -> float:
    """Return the probability of a picture that is at the cut-off of every term."""
    cutoff = 1.0
    for term in terms:
        of_term = _curve(term, calibration).cutoff
        cutoff *= (1 - of_term if term.negated else of_term) ** term.weight
    return cutoff


def rank(candidates: Candidates, named_ids: Int64Array) -> IndexArray:
    """Order candidates [n], best first: by relevance, fused with the order of `named_ids`."""
    order = best_first(candidates.relevance, candidates.ids)
    if not len(named_ids):
        return order
    fused = np.zeros(len(order))
    fused[order] = 1 / (RANK_FUSION_K + np.arange(len(order)))
    rows = np.searchsorted(candidates.ids, named_ids)
    fused[rows] += 1 / (RANK_FUSION_K + np.arange(len(named_ids)))
    return best_first(fused, candidates.ids)


def group_copies(
    order: IndexArray, image_embeds: Float32Array, threshold: float
) -> list[list[int]]:
    """Group ranked candidates with their near-duplicates.

    Each candidate joins the group of the most similar one of the at least `COPY_WINDOW` before it,
    if their cosine reaches `threshold`. No group depends on candidates after its members, so the
    pages of a search fit together.

    Args:
        order: rows of the candidates, best first.

    Returns:
        Rows of each group, in the order of its best member.
    """
    groups: list[list[int]] = []
    group_of: list[list[int]] = []
    for start in range(0, len(order), COPY_WINDOW):
        before = max(0, start - COPY_WINDOW)
        window = image_embeds[order[before : start + COPY_WINDOW]]
        new = window[start - before :]
        earlier = np.tri(len(new), len(window), start - before - 1, dtype=bool)
        cosines = np.where(earlier, new @ window.T, -np.inf)
        nearest = cosines.argmax(axis=1)
        close = cosines.max(axis=1) >= threshold
        for i, row in enumerate(order[start : start + COPY_WINDOW].tolist()):
            if close[i]:
                group = group_of[before + nearest[i]]
            else:
                group = []
                groups.append(group)
            group.append(row)
            group_of.append(group)
    return groups


def _curve(term: Term, calibration: Calibration) -> LogisticCurve:
    return calibration.image if term.picture else calibration.text.of(term.text)


def _logits(
    term: Term, embed: Float32Array, image_embeds: Float32Array, calibration: Calibration
) -> Float64Array:
    """Return the log-odds [n] that pictures [n, embed_dim] match a term."""
    if term.picture:
        return calibration.image.logits((image_embeds @ embed)[:, None].astype(np.float64))
    return calibration.text.logits([calibration.text.prepare([term.text], embed)], image_embeds)[
        :, 0
    ]
