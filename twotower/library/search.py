"""Words, pictures and filters to hits: ranked, with a probability, and cut off where it ends."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, overload

import numpy as np
from numpy.typing import NDArray

from twotower.library.calibrate import Calibration, Curve, library_calibration
from twotower.library.catalog import STOPPED_AT, LibraryError, PictureRecord
from twotower.library.labelled import EMPTY_WORDS
from twotower.library.query import Query, QueryError, Term, parse_query
from twotower.library.scan import Found

if TYPE_CHECKING:
    from twotower.library.library import Library

Sort = Literal["relevance", "date"]
Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Numbers = NDArray[np.float64]
Truths = NDArray[np.bool_]
Places = NDArray[np.intp]

CANDIDATES = 1000  # looked at first for each term; more where half of them match
NEARBY = 200  # places before a hit, at least, among which it may have a copy
BLOCK = 4096  # vectors that `duplicates` has in memory at once, twice
STRIP = 256  # of them are compared with a block at once
FUSION = 60  # of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009)


@dataclass(frozen=True)
class Hit:
    """A picture that a search found.

    Attributes:
        path: where it lies.
        score: the cosine; of several terms, the weighted mean (minus what shall not be there). None
            where filters alone were asked.
        probability: that a person would call it a match, by what it shows. None where that was not
            judged: by filters alone, and of copies.
        match: whether it is above the cut-off, or is named so.
        named: whether all the words are in its path or keywords.
        taken: when, as the camera wrote it; ISO 8601.
        copies: near-duplicates of it that were found too.
    """

    path: Path
    score: float | None
    probability: float | None
    match: bool
    named: bool = False
    taken: str | None = None
    copies: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Answer(Sequence[Hit]):
    """What a search gives: a sequence of hits, the best first.

    Attributes:
        query: as it was typed.
        cutoff: the probability from which a picture counts as a match; None for filters alone.
        matches: how many pictures do, on this page or not.
        groups: how many hits there are on all pages; near-duplicates are one.
        hits: those asked for.
    """

    query: str
    cutoff: float | None
    matches: int
    groups: int
    hits: list[Hit]

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> list[Hit]: ...
    def __getitem__(self, place: int | slice) -> Hit | list[Hit]:
        """The hit at a place, or some."""
        return self.hits[place]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


@dataclass(frozen=True)
class _Found:
    """Candidates: ids [n], image_embeds [n, embed_dim], and what is thought of each.

    `matches` are above the cut-off or `named`: have all the words in path or keywords. `fewest` is
    how many match the wanted term that the least match.
    """

    ids: Ids
    image_embeds: Floats
    scores: Numbers
    log_probabilities: Numbers
    matches: Truths
    named: Truths
    fewest: int


def search(
    library: Library,
    query: str,
    *,
    top: int = 20,
    offset: int = 0,
    all: bool = False,
    sort: Sort = "relevance",
    group: bool = True,
) -> Answer:
    """Find the pictures that match.

    Args:
        query: words, pictures and filters; the language is described in docs/search.md.
        top: how many hits at most, of which the first `offset` are left out.
        all: list what is below the cut-off too, after the matches.
        sort: "relevance", or "date" for the newest first among the matches.
        group: list near-duplicates of a hit under it (`Hit.copies`).

    Raises:
        QueryError: the query cannot be understood.
        LibraryError: nothing is indexed.
        PictureError: a picture in the query cannot be read.
        ValueError: `top`, `offset` or `sort` is none that there can be.
    """
    parsed = parse_query(query, lambda name: find_picture(library, name))
    return answer(library, parsed, top=top, offset=offset, all=all, sort=sort, group=group)


def similar(
    library: Library,
    picture: str | Path,
    *,
    top: int = 20,
    offset: int = 0,
    all: bool = False,
    group: bool = False,
) -> Answer:
    """Pictures that look like `picture`, a file of the library or any other.

    Raises:
        QueryError: there is no such file.
        PictureError: it cannot be read.
    """
    query = like(library, picture)
    return answer(library, query, top=top, offset=offset, all=all, group=group)


def like(library: Library, picture: str | Path) -> Query:
    """The query for pictures that look like one. Raises `QueryError`: there is no such file."""
    path = find_picture(library, os.fspath(picture))
    if path is None:
        raise QueryError(f"{picture}: there is no such picture; check the path")
    return Query(os.fspath(picture), (Term(picture=path),))


def duplicates(library: Library, folder: Path | None = None) -> list[list[Hit]]:
    """Groups of pictures (in `folder`) that are copies of one another, the largest file first.

    A copy is a picture whose cosine to another of its group reaches `Calibration.duplicate`.
    """
    least = library_calibration(library).duplicate
    warn_of_missing(library, len(library.vectors), len(library.catalog))
    query = Query("", ())
    if folder is not None:
        query = within(library, query, folder)
    ids = library.catalog.select(query.where, query.parameters)
    groups = []
    for members in _connected(lambda some: library.vectors.get(ids[some]), len(ids), least):
        records = sorted(
            library.catalog.pictures(ids[members]), key=lambda one: (-one.size, one.path)
        )
        own = library.vectors.get(np.array([one.id for one in records]))
        groups.append(
            [
                Hit(library.root / record.path, float(cosine), None, True, taken=record.taken)
                for record, cosine in zip(records, own @ own[0], strict=True)
            ]
        )
    return sorted(groups, key=lambda group: (-len(group), group[0].path))


def answer(
    library: Library,
    query: Query,
    *,
    top: int,
    offset: int = 0,
    all: bool = False,
    sort: Sort = "relevance",
    group: bool = True,
) -> Answer:
    """What `search` gives, for a query that is parsed already."""
    if top < 1 or offset < 0:
        raise ValueError(f"top={top}, offset={offset}: ask for 1 hit or more, from 0 on")
    if sort not in get_args(Sort):
        raise ValueError(f"sort={sort!r} is none of {', '.join(get_args(Sort))}")
    allowed = _allowed(library, query)
    if not query.terms:
        return _by_filters_alone(library, query, allowed, top, offset)
    calibration = library_calibration(library)
    embeds = _embed(library, query.terms)
    named_ids = _named(library, query, allowed)
    size = len(library.vectors) if allowed is None else len(allowed)
    count = max(CANDIDATES, 2 * (offset + top))
    while True:
        found = _candidates(
            library, query.terms, calibration, embeds, allowed, named_ids, count, size
        )
        order = _ranked(found, named_ids)
        below = order[~found.matches[order]] if all else order[:0]
        listed = np.concatenate([order[found.matches[order]], below])
        if sort == "date":
            listed = _newest_first(library, listed, found)
        groups = [[one] for one in listed.tolist()]
        if group:
            groups = _grouped(listed, found.image_embeds, calibration.duplicate)
        if not all or len(groups) >= offset + top or count >= size:
            break
        count *= 8  # most of the candidates are copies of others
    hits = _hits(library, groups[offset : offset + top], found)
    matches = int(found.matches.sum())
    return Answer(query.text, _cutoff(query, calibration), matches, len(groups), hits)


def _hits(library: Library, groups: list[list[int]], found: _Found) -> list[Hit]:
    """A hit for each group of candidates, without those that have left the catalog meanwhile."""
    ids = found.ids.tolist()
    records = library.catalog.pictures(ids[one] for group in groups for one in group)
    known = {record.id: record for record in records}
    present = [[one for one in group if ids[one] in known] for group in groups]
    return [
        Hit(
            path=library.root / known[ids[first]].path,
            score=float(found.scores[first]),
            probability=float(np.exp(found.log_probabilities[first])),
            match=bool(found.matches[first]),
            named=bool(found.named[first]),
            taken=known[ids[first]].taken,
            copies=tuple(library.root / known[ids[one]].path for one in copies),
        )
        for first, *copies in filter(None, present)
    ]


def find_picture(library: Library, name: str) -> Path | None:
    """The file that a name means: from the working directory, or else inside the library."""
    for path in (Path(name).expanduser(), library.root / name):
        if path.is_file():
            return path
    return None


def within(library: Library, query: Query, folder: Path) -> Query:
    """The query, for a folder inside the library and what is below it.

    Raises:
        LibraryError: the folder is not in the library.
    """
    root = library.root.resolve()
    if not folder.is_dir() or not folder.resolve().is_relative_to(root):
        raise LibraryError(f"{folder}: no folder in {root}; give one that is, or another library")
    relative = folder.resolve().relative_to(root)
    if relative == Path():
        return query
    condition, parameters = library.catalog.in_folder(relative.as_posix())
    where = f"({query.where}) AND {condition}"
    return replace(query, where=where, parameters=(*query.parameters, *parameters))


def warn_of_missing(library: Library, vectors: int, rows: int) -> None:
    """Warn where indexing was stopped, or there are fewer vectors than readable pictures."""
    shortfall = f"the vectors of {rows - vectors} of {rows} pictures are missing"
    if stopped_at := library.catalog.get_setting(STOPPED_AT):
        shortfall = f"indexing was stopped at {stopped_at}, or still goes on"
    if stopped_at or vectors < rows:
        warnings.warn(f"{shortfall}; run: twotower index", stacklevel=4)


def _allowed(library: Library, query: Query) -> Ids | None:
    """Ids that pass the filters and are not themselves the question; None for all."""
    asked = [_id_of(library, term.picture) for term in query.terms if term.picture]
    own = [number for number in asked if number is not None]
    vectors, rows = len(library.vectors), len(library.catalog)
    warn_of_missing(library, vectors, rows)
    # more vectors than rows are left over by a crash: no picture, no hit
    if query.where == "1" and not own and vectors == rows:
        return None
    ids = library.catalog.select(query.where, query.parameters)
    if query.near:
        records = library.catalog.pictures(ids)
        ids = np.array([one.id for one in records if _is_near(one, query)], np.int64)
    return ids[~np.isin(ids, own)]


def _is_near(record: PictureRecord, query: Query) -> bool:
    place = record.latitude, record.longitude
    if place[0] is None or place[1] is None:
        return False
    return any(near.holds(place[0], place[1]) for near in query.near)


def _by_filters_alone(
    library: Library, query: Query, allowed: Ids | None, top: int, offset: int
) -> Answer:
    """Everything that passes the filters is a match; the newest first."""
    assert allowed is not None  # without terms there are filters
    records = library.catalog.pictures(allowed)
    records.sort(key=lambda one: one.path)
    records.sort(key=lambda one: one.taken or "", reverse=True)
    hits = [
        Hit(library.root / one.path, None, None, True, taken=one.taken)
        for one in records[offset : offset + top]
    ]
    return Answer(query.text, None, len(records), len(records), hits)


def _embed(library: Library, terms: Sequence[Term]) -> Floats:
    """Embeds of the terms [t, embed_dim]; those of pictures in the library are looked up."""
    embeds = np.zeros((len(terms), library.vectors.embed_dim), np.float32)
    words = [i for i, term in enumerate(terms) if term.picture is None]
    if words:
        embeds[words] = library.model.encode_text([terms[i].text for i in words])
    for i, term in enumerate(terms):
        if term.picture is not None:
            number = _id_of(library, term.picture)
            embeds[i] = (
                _embed_file(library, term.picture)
                if number is None
                else library.vectors.get(np.array([number]))[0]
            )
    return embeds


def _embed_file(library: Library, picture: Path) -> Floats:
    """The embed [embed_dim] that a picture, raw file or video would have in the library.

    Raises:
        PictureError: it cannot be read.
    """
    from twotower.encode.encoder import normalize
    from twotower.inputs.pictures import PictureError
    from twotower.library.intake import Intake

    stat = picture.stat()
    intake = Intake(Path(), library.model.preprocess)
    taken = intake(Found(os.fsencode(picture), stat.st_size, stat.st_mtime_ns, 0))
    if taken is None or taken.pixel_values is None:
        error = taken.record.error if taken else None
        reason, _, remedy = (error or "there is no such file; check the path").partition("; ")
        raise PictureError(str(picture), reason, remedy)
    frames = library.model.encode_pixels(taken.pixel_values)
    return normalize(frames.mean(axis=0, keepdims=True))[0]


def _id_of(library: Library, picture: Path) -> int | None:
    """The id of a picture of the library that has not changed since it was indexed."""
    path, root = picture.resolve(), library.root.resolve()
    if not path.is_relative_to(root):
        return None
    relative = os.fsencode(path.relative_to(root).as_posix())
    stat = path.stat()
    ids = library.catalog.select(
        "path = ? AND size = ? AND mtime_ns = ?", [relative, stat.st_size, stat.st_mtime_ns]
    )
    return int(ids[0]) if len(ids) else None


def _candidates(
    library: Library,
    terms: Sequence[Term],
    calibration: Calibration,
    embeds: Floats,
    allowed: Ids | None,
    named_ids: Ids,
    count: int,
    size: int,
) -> _Found:
    """The `count` nearest to each wanted term, and more for as long as half of them match it.

    Nearest is by cosine, but a match is by logit, which knows what each picture gets from queries
    in general. So it is likely and not certain that every match is among them.
    """
    wanted = [i for i, term in enumerate(terms) if term.wanted]
    while True:
        lists = [library.vectors.search(embeds[i], count, allowed)[0] for i in wanted]
        # a set, because np.unique imports masked arrays, which takes longer than all of this
        ids = np.array(sorted(set(np.concatenate([*lists, named_ids]).tolist())), np.int64)
        found = _judge(library, terms, calibration, embeds, ids, named_ids, size)
        if count >= size or 2 * found.fewest < count:
            return found
        count *= 8


def _judge(
    library: Library,
    terms: Sequence[Term],
    calibration: Calibration,
    embeds: Floats,
    ids: Ids,
    named_ids: Ids,
    size: int,
) -> _Found:
    """What is thought of candidates: every term counts as a statement of its own.

    A picture shows all that is wanted and nothing that is not with the product of the
    probabilities; it is a match if each of them is on the right side of its cut-off.
    """
    image_embeds = library.vectors.get(ids)
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


def _named(library: Library, query: Query, allowed: Ids | None) -> Ids:
    """Pictures that have all the words in path or keywords, the best first.

    Only where nothing but words is looked for: a name does not say what is not in a picture.
    """
    words = set(_name_words(query.words))
    wanted = words - EMPTY_WORDS or words
    if not wanted or any(term.picture or not term.wanted for term in query.terms):
        return np.zeros(0, np.int64)
    ids = library.catalog.match_words(" ".join(sorted(wanted)))
    if allowed is not None:
        ids = ids[np.isin(ids, allowed)]
    records = library.catalog.pictures(ids[:CANDIDATES])
    named = [
        one.id
        for one in records
        if one.error is None and wanted <= set(_name_words(f"{one.path} {one.keywords}"))
    ]
    return np.array(named, np.int64)


def _name_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _ranked(found: _Found, named_ids: Ids) -> Places:
    """Places of the candidates, best first: by probability, fused with the rank by name."""
    order = np.lexsort((found.ids, -found.log_probabilities))
    if not len(named_ids):
        return order
    fused = np.zeros(len(order))
    fused[order] = 1 / (FUSION + np.arange(len(order)))
    places = np.searchsorted(found.ids, named_ids)  # the ids of candidates are sorted
    fused[places] += 1 / (FUSION + np.arange(len(named_ids)))
    return np.lexsort((found.ids, -fused))


def _newest_first(library: Library, listed: Places, found: _Found) -> Places:
    """The matches by date, what has none last; after them the rest, as it was."""
    records = library.catalog.pictures(found.ids[listed])
    dates = {one.id: one.taken or "" for one in records}
    dated = [one for one in listed.tolist() if found.matches[one]]
    dated.sort(key=lambda one: dates.get(int(found.ids[one]), ""), reverse=True)
    return np.array(dated + [one for one in listed.tolist() if not found.matches[one]], np.intp)


def _grouped(listed: Places, image_embeds: Floats, least: float) -> list[list[int]]:
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


def _connected(get: Callable[[slice], Floats], count: int, least: float) -> list[Places]:
    """Places of vectors that are linked, directly or through others, by a cosine of `least`.

    Args:
        get: gives the vectors at some of the places 0 to `count`.
    """
    lowest = np.arange(count)  # place -> the lowest that it is known to be linked with
    for start in range(0, count, BLOCK):
        rows = get(slice(start, start + BLOCK))
        for other in range(start, count, BLOCK):
            columns = rows if other == start else get(slice(other, other + BLOCK))
            for strip in range(0, len(rows), STRIP):
                close = rows[strip : strip + STRIP] @ columns.T >= least
                if close.any():
                    first, second = start + strip, other
                    height, width = close.shape
                    known = lowest[first : first + height, None] == lowest[second : second + width]
                    one, another = np.nonzero(close & ~known)
                    _link(lowest, first + one, second + another)
    sizes = np.bincount(lowest, minlength=count)
    members = np.flatnonzero(sizes[lowest] > 1)
    members = members[np.argsort(lowest[members], kind="stable")]
    ends = np.cumsum(sizes[sizes > 1])
    return np.split(members, ends[:-1]) if len(ends) else []


def _link(lowest: Places, one: Places, another: Places) -> None:
    """Join, in place, the groups of each pair of linked places."""
    while True:
        low = np.minimum(lowest[one], lowest[another])
        high = np.maximum(lowest[one], lowest[another])
        apart = low < high
        if not apart.any():
            return
        np.minimum.at(lowest, high[apart], low[apart])
        while ((further := lowest[lowest]) != lowest).any():
            lowest[:] = further
