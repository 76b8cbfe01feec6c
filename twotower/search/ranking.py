"""Judge, order and group candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twotower.calibration.calibration import Calibration, Curve
from twotower.search.query import Query, Term

if TYPE_CHECKING:
    from twotower.index.index import Index
from twotower.arrays import BoolArray, Float32Array, Float64Array, IndexArray, Int64Array

CANDIDATES = 1000  # looked at first for each term; more where half of them match
NEARBY = 200  # places before a hit, at least, among which it may have a copy
FUSION = 60  # of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009)


@dataclass(frozen=True)
class _Found:
    """Candidates: ids [n], image_embeds [n, embed_dim], and what is thought of each.

    `matches` are above the cut-off or `named`: have all the words in path or keywords. `fewest` is
    how many match the wanted term that the least match.
    """

    ids: Int64Array
    image_embeds: Float32Array
    scores: Float64Array
    log_probabilities: Float64Array
    matches: BoolArray
    named: BoolArray
    fewest: int


def _candidates(
    index: Index,
    terms: Sequence[Term],
    calibration: Calibration,
    embeds: Float32Array,
    allowed: Int64Array | None,
    named_ids: Int64Array,
    count: int,
    size: int,
) -> _Found:
    """The `count` nearest to each wanted term, and more for as long as half of them match it.

    Nearest is by cosine, but a match is by logit, which knows what each picture gets from queries
    in general. So it is likely and not certain that every match is among them.
    """
    wanted = [i for i, term in enumerate(terms) if term.wanted]
    while True:
        lists = [index.vectors.search(embeds[i], count, allowed)[0] for i in wanted]
        # a set, because np.unique imports masked arrays, which takes longer than all of this
        ids = np.array(sorted(set(np.concatenate([*lists, named_ids]).tolist())), np.int64)
        found = _judge(index, terms, calibration, embeds, ids, named_ids, size)
        if count >= size or 2 * found.fewest < count:
            return found
        count *= 8


def _judge(
    index: Index,
    terms: Sequence[Term],
    calibration: Calibration,
    embeds: Float32Array,
    ids: Int64Array,
    named_ids: Int64Array,
    size: int,
) -> _Found:
    """What is thought of candidates: every term counts as a statement of its own.

    A picture shows all that is wanted and nothing that is not with the product of the
    probabilities; it is a match if each of them is on the right side of its cut-off.
    """
    image_embeds = index.vectors.get(ids)
    scores, log_probabilities = np.zeros(len(ids)), np.zeros(len(ids))
    matches, fewest = np.ones(len(ids), bool), len(ids)
    for term, embed in zip(terms, embeds, strict=True):
        curve = _curve(term, calibration)
        logits = curve.logits(embed, image_embeds, size)
        above = logits >= np.log(curve.cutoff / (1 - curve.cutoff))
        sign = 1 if term.wanted else -1
        scores += sign * term.weight * (image_embeds @ embed)
        log_probabilities -= term.weight * np.logaddexp(0, -sign * logits)
        matches &= above if term.wanted else ~above
        fewest = min(fewest, int(above.sum())) if term.wanted else fewest
    scores /= sum(term.weight for term in terms)
    named = np.isin(ids, named_ids)
    return _Found(ids, image_embeds, scores, log_probabilities, matches | named, named, fewest)


def _curve(term: Term, calibration: Calibration) -> Curve:
    return calibration.image if term.picture else calibration.text


def _cutoff(query: Query, calibration: Calibration) -> float:
    """The cut-off of a term; of several, what a picture at the cut-off of each would have."""
    cutoff = 1.0
    for term in query.terms:
        curve = _curve(term, calibration)
        cutoff *= (curve.cutoff if term.wanted else 1 - curve.cutoff) ** term.weight
    return cutoff


def _ranked(found: _Found, named_ids: Int64Array) -> IndexArray:
    """Places of the candidates, best first: by probability, fused with the rank by name."""
    order = np.lexsort((found.ids, -found.log_probabilities))
    if not len(named_ids):
        return order
    fused = np.zeros(len(order))
    fused[order] = 1 / (FUSION + np.arange(len(order)))
    places = np.searchsorted(found.ids, named_ids)  # the ids of candidates are sorted
    fused[places] += 1 / (FUSION + np.arange(len(named_ids)))
    return np.lexsort((found.ids, -fused))


def _newest_first(index: Index, listed: IndexArray, found: _Found) -> IndexArray:
    """The matches by date, what has none last; after them the rest, as it was."""
    records = index.catalog.pictures(found.ids[listed])
    dates = {one.id: one.taken or "" for one in records}
    dated = [one for one in listed.tolist() if found.matches[one]]
    dated.sort(key=lambda one: dates.get(int(found.ids[one]), ""), reverse=True)
    return np.array(dated + [one for one in listed.tolist() if not found.matches[one]], np.intp)


def _grouped(listed: IndexArray, image_embeds: Float32Array, least: float) -> list[list[int]]:
    """The listed in groups: each joins the nearest before it whose cosine with it is `least`.

    What is far before it is not looked at. No group depends on what comes after its members, so
    that pages fit together.
    """
    groups: list[list[int]] = []
    group_of: list[list[int]] = []
    for start in range(0, len(listed), NEARBY):
        before = max(0, start - NEARBY)
        some = image_embeds[listed[before : start + NEARBY]]
        new = some[start - before :]
        earlier = np.tri(len(new), len(some), start - before - 1, dtype=bool)
        cosines = np.where(earlier, new @ some.T, -np.inf)
        nearest = cosines.argmax(axis=1)
        close = cosines.max(axis=1) >= least
        for i, one in enumerate(listed[start : start + NEARBY].tolist()):
            if close[i]:
                group = group_of[before + nearest[i]]
            else:
                group = []
                groups.append(group)
            group.append(one)
            group_of.append(group)
    return groups
