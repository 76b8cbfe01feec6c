"""Words, pictures and filters to hits: ranked, with a probability, and cut off where it ends."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from twotower.calibration.captions import EMPTY_WORDS
from twotower.errors import LibraryError, QueryError
from twotower.index.catalog import STOPPED_AT, PictureRecord
from twotower.index.scan import ScannedFile
from twotower.search.calibrated import library_calibration
from twotower.search.query import Query, Term, parse_query

if TYPE_CHECKING:
    from twotower.index.index import Index
from twotower.arrays import Float32Array, Int64Array
from twotower.search.hits import Hit, SearchResult
from twotower.search.ranking import (
    CANDIDATES,
    _candidates,
    _cutoff,
    _Found,
    _grouped,
    _newest_first,
    _ranked,
)

Sort = Literal["relevance", "date"]
BLOCK = 4096  # vectors that `duplicates` has in memory at once, twice
STRIP = 256  # of them are compared with a block at once


def search(
    index: Index,
    query: str,
    *,
    top: int = 20,
    offset: int = 0,
    all: bool = False,
    sort: Sort = "relevance",
    group: bool = True,
    folder: Path | None = None,
) -> SearchResult:
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
    parsed = parse_query(query, lambda name: find_picture(index, name))
    if folder is not None:
        parsed = limit_to_folder(index, parsed, folder)
    return run_query(index, parsed, top=top, offset=offset, all=all, sort=sort, group=group)


def similar(
    index: Index,
    picture: str | Path,
    *,
    top: int = 20,
    offset: int = 0,
    all: bool = False,
    group: bool = False,
    folder: Path | None = None,
) -> SearchResult:
    """Pictures that look like `picture`, a file of the library or any other.

    Raises:
        QueryError: there is no such file.
        PictureError: it cannot be read.
    """
    query = picture_query(index, picture)
    if folder is not None:
        query = limit_to_folder(index, query, folder)
    return run_query(index, query, top=top, offset=offset, all=all, group=group)


def picture_query(index: Index, picture: str | Path) -> Query:
    """The query for pictures that look like one. Raises `QueryError`: there is no such file."""
    path = find_picture(index, os.fspath(picture))
    if path is None:
        raise QueryError(f"{picture}: there is no such picture; check the path")
    return Query(os.fspath(picture), (Term(picture=path),))


def run_query(
    index: Index,
    query: Query,
    *,
    top: int,
    offset: int = 0,
    all: bool = False,
    sort: Sort = "relevance",
    group: bool = True,
) -> SearchResult:
    """What `search` gives, for a query that is parsed already."""
    if top < 1 or offset < 0:
        raise ValueError(f"top={top}, offset={offset}: ask for 1 hit or more, from 0 on")
    if sort not in get_args(Sort):
        raise ValueError(f"sort={sort!r} is none of {', '.join(get_args(Sort))}")
    allowed = _allowed(index, query)
    if not query.terms:
        return _by_filters_alone(index, query, allowed, top, offset)
    calibration = library_calibration(index)
    embeds = _embed(index, query.terms)
    named_ids = _named(index, query, allowed)
    size = len(index.vectors) if allowed is None else len(allowed)
    count = max(CANDIDATES, 2 * (offset + top))
    while True:
        found = _candidates(
            index, query.terms, calibration, embeds, allowed, named_ids, count, size
        )
        order = _ranked(found, named_ids)
        below = order[~found.matches[order]] if all else order[:0]
        listed = np.concatenate([order[found.matches[order]], below])
        if sort == "date":
            listed = _newest_first(index, listed, found)
        groups = [[one] for one in listed.tolist()]
        if group:
            groups = _grouped(listed, found.image_embeds, calibration.duplicate)
        if not all or len(groups) >= offset + top or count >= size:
            break
        count *= 8  # most of the candidates are copies of others
    hits = _hits(index, groups[offset : offset + top], found)
    matches = int(found.matches.sum())
    return SearchResult(query.text, _cutoff(query, calibration), matches, len(groups), hits)


def _hits(index: Index, groups: list[list[int]], found: _Found) -> list[Hit]:
    """A hit for each group of candidates, without those that have left the catalog meanwhile."""
    ids = found.ids.tolist()
    records = index.catalog.pictures(ids[one] for group in groups for one in group)
    known = {record.id: record for record in records}
    present = [[one for one in group if ids[one] in known] for group in groups]
    return [
        Hit(
            path=index.root / known[ids[first]].path,
            score=float(found.scores[first]),
            probability=float(np.exp(found.log_probabilities[first])),
            match=bool(found.matches[first]),
            named=bool(found.named[first]),
            taken=known[ids[first]].taken,
            copies=tuple(index.root / known[ids[one]].path for one in copies),
        )
        for first, *copies in filter(None, present)
    ]


def find_picture(index: Index, name: str) -> Path | None:
    """The file that a name means: from the working directory, or else inside the library."""
    for path in (Path(name).expanduser(), index.root / name):
        if path.is_file():
            return path
    return None


def limit_to_folder(index: Index, query: Query, folder: Path) -> Query:
    """The query, for a folder inside the library and what is below it.

    Raises:
        LibraryError: the folder is not in the library.
    """
    root = index.root.resolve()
    if not folder.is_dir() or not folder.resolve().is_relative_to(root):
        raise LibraryError(f"{folder}: no folder in {root}; give one that is, or another library")
    relative = folder.resolve().relative_to(root)
    if relative == Path():
        return query
    condition, parameters = index.catalog.in_folder(relative.as_posix())
    where = f"({query.where}) AND {condition}"
    return replace(query, where=where, parameters=(*query.parameters, *parameters))


def warn_of_missing(index: Index, vectors: int, rows: int) -> None:
    """Warn where indexing was stopped, or there are fewer vectors than readable pictures."""
    shortfall = f"the vectors of {rows - vectors} of {rows} pictures are missing"
    if stopped_at := index.catalog.get_setting(STOPPED_AT):
        shortfall = f"indexing was stopped at {stopped_at}, or still goes on"
    if stopped_at or vectors < rows:
        warnings.warn(f"{shortfall}; run: twotower index", stacklevel=4)


def _allowed(index: Index, query: Query) -> Int64Array | None:
    """Ids that pass the filters and are not themselves the question; None for all."""
    asked = [_id_of(index, term.picture) for term in query.terms if term.picture]
    own = [number for number in asked if number is not None]
    vectors, rows = len(index.vectors), len(index.catalog)
    warn_of_missing(index, vectors, rows)
    # more vectors than rows are left over by a crash: no picture, no hit
    if query.where == "1" and not own and vectors == rows:
        return None
    ids = index.catalog.select(query.where, query.parameters)
    if query.near:
        records = index.catalog.pictures(ids)
        ids = np.array([one.id for one in records if _is_near(one, query)], np.int64)
    return ids[~np.isin(ids, own)]


def _is_near(record: PictureRecord, query: Query) -> bool:
    place = record.latitude, record.longitude
    if place[0] is None or place[1] is None:
        return False
    return any(near.holds(place[0], place[1]) for near in query.near)


def _by_filters_alone(
    index: Index, query: Query, allowed: Int64Array | None, top: int, offset: int
) -> SearchResult:
    """Everything that passes the filters is a match; the newest first."""
    assert allowed is not None  # without terms there are filters
    records = index.catalog.pictures(allowed)
    records.sort(key=lambda one: one.path)
    records.sort(key=lambda one: one.taken or "", reverse=True)
    hits = [
        Hit(index.root / one.path, None, None, True, taken=one.taken)
        for one in records[offset : offset + top]
    ]
    return SearchResult(query.text, None, len(records), len(records), hits)


def _embed(index: Index, terms: Sequence[Term]) -> Float32Array:
    """Embeds of the terms [t, embed_dim]; those of pictures in the library are looked up."""
    embeds = np.zeros((len(terms), index.vectors.embed_dim), np.float32)
    words = [i for i, term in enumerate(terms) if term.picture is None]
    if words:
        embeds[words] = index.encoder.encode_text([terms[i].text for i in words])
    for i, term in enumerate(terms):
        if term.picture is not None:
            number = _id_of(index, term.picture)
            embeds[i] = (
                _embed_file(index, term.picture)
                if number is None
                else index.vectors.get(np.array([number]))[0]
            )
    return embeds


def _embed_file(index: Index, picture: Path) -> Float32Array:
    """The embed [embed_dim] that a picture, raw file or video would have in the library.

    Raises:
        PictureError: it cannot be read.
    """
    from twotower.arrays import normalize
    from twotower.errors import PictureError
    from twotower.index.reader import PictureReader

    stat = picture.stat()
    intake = PictureReader(Path(), index.encoder.preprocess)
    taken = intake(ScannedFile(os.fsencode(picture), stat.st_size, stat.st_mtime_ns, 0))
    if taken is None or taken.pixel_values is None:
        error = taken.record.error if taken else None
        reason, _, remedy = (error or "there is no such file; check the path").partition("; ")
        raise PictureError(str(picture), reason, remedy)
    frames = index.encoder.encode_pixels(taken.pixel_values)
    return normalize(frames.mean(axis=0, keepdims=True))[0]


def _id_of(index: Index, picture: Path) -> int | None:
    """The id of a picture of the library that has not changed since it was indexed."""
    path, root = picture.resolve(), index.root.resolve()
    if not path.is_relative_to(root):
        return None
    relative = os.fsencode(path.relative_to(root).as_posix())
    stat = path.stat()
    ids = index.catalog.select(
        "path = ? AND size = ? AND mtime_ns = ?", [relative, stat.st_size, stat.st_mtime_ns]
    )
    return int(ids[0]) if len(ids) else None


def _named(index: Index, query: Query, allowed: Int64Array | None) -> Int64Array:
    """Pictures that have all the words in path or keywords, the best first.

    Only where nothing but words is looked for: a name does not say what is not in a picture.
    """
    words = set(_name_words(query.words))
    wanted = words - EMPTY_WORDS or words
    if not wanted or any(term.picture or not term.wanted for term in query.terms):
        return np.zeros(0, np.int64)
    ids = index.catalog.match_words(" ".join(sorted(wanted)))
    if allowed is not None:
        ids = ids[np.isin(ids, allowed)]
    records = index.catalog.pictures(ids[:CANDIDATES])
    named = [
        one.id
        for one in records
        if one.error is None and wanted <= set(_name_words(f"{one.path} {one.keywords}"))
    ]
    return np.array(named, np.int64)


def _name_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
