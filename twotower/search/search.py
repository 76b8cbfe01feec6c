"""Run a query: from words, pictures and filters to ranked hits with probabilities."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from twotower.arrays import Float32Array, IndexArray, Int64Array, normalize
from twotower.calibration.captions import STOP_WORDS
from twotower.calibration.curves import embed_queries
from twotower.errors import LibraryError, PathError, PictureError, QueryError
from twotower.files import expand_home
from twotower.index.catalog import STOPPED_AT, fold_words
from twotower.search.filters import Condition, in_circle, to_condition
from twotower.search.hits import Hit, SearchResult
from twotower.search.query import Filter, Query, Term, parse_query
from twotower.search.ranking import Candidates, group_copies, joint_cutoff, judge, rank

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.index.schema import PictureRecord

Sort: TypeAlias = Literal["relevance", "date"]

NEAR_SHARE = 0.1  # of the cut-off: the probability from which a picture below it comes near
NEAR_HITS = 5  # pictures below the cut-off to name, at most; near-duplicates count once
_NEAR_POOL = 50  # pictures below the cut-off that are grouped to find them
_FACTS = {  # the filters on each fact, and the condition for pictures without it
    "date": (("after", "before"), "taken IS NULL"),
    "place": (("near",), "latitude IS NULL"),
}
CANDIDATES = 300  # vectors retrieved for each term at first; more if half of them match


def search(
    index: Index,
    query: str | Query,
    *,
    top: int | None = 20,
    offset: int = 0,
    all: bool = False,
    sort: Sort = "relevance",
    group: bool = True,
    folder: Path | None = None,
) -> SearchResult:
    """Find the pictures that match a query, and the nearest few below the cut-off.

    Args:
        query: words, pictures and filters, in the language of docs/search.md, or such a query
            parsed by `parse`.
        top: the number of hits at most; None for all.
        offset: the number of hits before the first one to return.
        all: list all pictures below the cut-off as hits too, after the matches.
        sort: "relevance", or "date" for the newest matches first.
        group: list near-duplicates of a hit in `Hit.copies`, not as hits.
        folder: search only in this folder of the library and below.

    Raises:
        QueryError: the query makes no sense.
        LibraryError: nothing is indexed, or `folder` is not in the library.
        PictureError: a picture in the query cannot be read.
        ValueError: `top`, `offset` or `sort` is out of range.
    """
    if (top is not None and top < 1) or offset < 0:
        raise ValueError(f"top={top}, offset={offset}: ask for 1 hit or more, from 0 on")
    if sort not in get_args(Sort):
        raise ValueError(f"sort={sort!r} is none of {', '.join(get_args(Sort))}")
    if isinstance(query, str):
        query = parse(index, query)
    page = slice(offset, None if top is None else offset + top)
    allowed = _allowed(index, query, folder)
    left_out = _left_out(index, query, folder)
    if not query.terms:
        newest = _newest(index, query, allowed, page)
        return replace(newest, left_out=left_out)
    task = _Task(
        query,
        _embed(index, query.terms),
        joint_cutoff(query.terms, index.calibration),
        allowed,
        len(index.vectors) if allowed is None else len(allowed),
        _named(index, query, allowed),
    )
    every = task.size if all else offset + 1  # all matches are among any candidates
    needed = every if top is None else offset + top
    candidates, groups = _ranked_groups(index, task, needed, all=all, sort=sort, group=group)
    listed, below = (groups, []) if all else _split(groups, candidates)
    ends_here = not offset or offset < len(listed)
    room = NEAR_HITS if top is None else max(0, offset + top - len(listed))
    room = min(NEAR_HITS, room) if ends_here else 0
    return SearchResult(
        query.text,
        task.cutoff,
        int(candidates.matches.sum()),
        len(listed),
        _hits(index, listed[page], candidates),
        _hits(index, below[:room], candidates),
        left_out,
    )


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
    """Find pictures that look like `picture`, a file of the library or any other.

    The other arguments are those of `search`.

    Raises:
        QueryError: the file does not exist.
        PictureError: the file cannot be read.
        LibraryError: nothing is indexed, or `folder` is not in the library.
    """
    path = find_picture(index, picture)
    query = Query(os.fspath(picture), (Term(picture=path),))
    return search(index, query, top=top, offset=offset, all=all, group=group, folder=folder)


def find_picture(index: Index, picture: str | Path) -> Path:
    """Return the path of a picture, from the working directory or in the library.

    The library need not be indexed yet.

    Raises:
        QueryError: the file does not exist.
    """
    path = _find_picture(index, os.fspath(picture))
    if path is None:
        raise QueryError(picture, "no such file", "check the path")
    return path


def parse(index: Index, text: str) -> Query:
    """Parse a query; pictures are looked up from the working directory, then in the library.

    The library need not be indexed yet.

    Raises:
        QueryError: the query makes no sense.
    """
    return parse_query(text, lambda name: _find_picture(index, name))


def select(index: Index, query: Query, folder: Path | None = None) -> Int64Array:
    """Return the ids [n] of the readable pictures that pass the filters of a query.

    Args:
        folder: select only in this folder of the library and below.

    Raises:
        LibraryError: nothing is indexed, or `folder` is not in the library.
    """
    return _select(index, query.filters, folder)


def _select(
    index: Index, filters: Sequence[Filter], folder: Path | None, sql: str = "1"
) -> Int64Array:
    """Return the ids [n] of the readable pictures that pass filters, and for which `sql` holds."""
    condition = to_condition(filters)
    sql, parameters = f"({condition.sql}) AND {sql}", condition.parameters
    if folder is not None and (relative := _relative_folder(index, folder)) != ".":
        in_folder, prefixes = index.catalog.in_folder(relative)
        sql, parameters = f"{sql} AND {in_folder}", (*parameters, *prefixes)
    ids = index.catalog.select(sql, parameters)
    if condition.circles:
        records = index.catalog.pictures(ids)
        ids = np.array([record.id for record in records if _is_in(record, condition)], np.int64)
    return ids


def _left_out(index: Index, query: Query, folder: Path | None) -> dict[str, int]:
    """Count the pictures that pass all filters but those on a fact which they do not have."""
    counts = {}
    for fact, (keys, sql) in _FACTS.items():
        remaining = [parsed for parsed in query.filters if parsed.key not in keys]
        if len(remaining) < len(query.filters):
            counts[fact] = len(_select(index, remaining, folder, sql))
    return {fact: count for fact, count in counts.items() if count}


def _is_in(record: PictureRecord, condition: Condition) -> bool:
    latitude, longitude = record.latitude, record.longitude
    if latitude is None or longitude is None:
        return False
    return any(in_circle(circle, latitude, longitude) for circle in condition.circles)


def warn_of_missing(index: Index, vectors: int, rows: int) -> None:
    """Warn if indexing was stopped, or if there are fewer vectors than readable pictures."""
    shortfall = f"the vectors of {rows - vectors} of {rows} pictures are missing"
    if stopped_at := index.catalog.get_setting(STOPPED_AT):
        shortfall = f"indexing was stopped at {stopped_at}, or still goes on"
    if stopped_at or vectors < rows:
        warnings.warn(f"{shortfall}; run: twotower index", stacklevel=4)


@dataclass(frozen=True)
class _Task:
    """A query with the inputs of its retrieval.

    Attributes:
        embeds: of the terms [t, embed_dim].
        cutoff: the probability of a picture at the cut-off of every term.
        allowed: ids to search in, None for all.
        size: the number of pictures to search in.
        named_ids: ids of pictures that match by name, best first.
    """

    query: Query
    embeds: Float32Array
    cutoff: float
    allowed: Int64Array | None
    size: int
    named_ids: Int64Array


def _find_picture(index: Index, name: str) -> Path | None:
    paths = [index.root / name]
    with contextlib.suppress(PathError):
        paths.insert(0, expand_home(name))
    for path in paths:
        if path.is_file():
            return path
        if not name.isascii() and (match := _match_path(path)) and match.is_file():
            return match
    return None


def _match_path(path: Path) -> Path | None:
    """Return the path on the disk that differs in its normal form alone, as macOS' names (NFD) do.

    None if there is none.
    """
    if path.exists() or path == path.parent:
        return path
    parent = _match_path(path.parent)
    if parent is None or not parent.is_dir():
        return None
    name = unicodedata.normalize("NFC", path.name)
    for child in parent.iterdir():
        if unicodedata.normalize("NFC", child.name) == name:
            return child
    return None


def _relative_folder(index: Index, folder: Path) -> str:
    """Return a folder of the library relative to its root, with / as separator."""
    root = index.root.resolve()
    if not folder.is_dir() or not folder.resolve().is_relative_to(root):
        raise LibraryError(
            folder,
            f"not a folder of the library {root}",
            "give a folder inside it, or another --library",
        )
    return folder.resolve().relative_to(root).as_posix()


def _allowed(index: Index, query: Query, folder: Path | None) -> Int64Array | None:
    """Return the ids that pass the filters, without the query's pictures; None for all."""
    files = [term.picture for term in query.terms if term.picture and term.image_embeds is None]
    numbers = [_id_of(index, picture) for picture in files]
    excluded = [number for number in numbers if number is not None]
    vectors, rows = len(index.vectors), len(index.catalog)
    warn_of_missing(index, vectors, rows)
    whole = folder is None or _relative_folder(index, folder) == "."
    # vectors without a row were left by a crash: they must not become hits
    if whole and not query.filters and not excluded and vectors == rows:
        return None
    ids = select(index, query, folder)
    return ids[~np.isin(ids, excluded)]


def _newest(index: Index, query: Query, allowed: Int64Array | None, page: slice) -> SearchResult:
    """Return the pictures that pass the filters, newest first; each is a match."""
    assert allowed is not None  # a query without terms has filters
    records = index.catalog.pictures(allowed)
    records.sort(key=lambda record: record.path)
    records.sort(key=lambda record: record.taken or "", reverse=True)
    hits = [
        Hit(index.root / record.path, None, None, True, taken=record.taken, id=record.id)
        for record in records[page]
    ]
    return SearchResult(query.text, None, len(records), len(records), hits)


def _embed(index: Index, terms: Sequence[Term]) -> Float32Array:
    """Embed terms [t, embed_dim]; the vectors of pictures in the library are looked up."""
    embeds = np.zeros((len(terms), index.vectors.embed_dim), np.float32)
    texts = [i for i, term in enumerate(terms) if term.picture is None]
    if texts:
        embeds[texts] = embed_queries(index.encoder, [terms[i].text for i in texts])
    for i, term in enumerate(terms):
        if term.image_embeds is not None:
            embeds[i] = term.image_embeds
        elif term.picture is not None:
            number = _id_of(index, term.picture)
            embeds[i] = (
                _embed_file(index, term.picture)
                if number is None
                else index.vectors.get(np.array([number]))[0]
            )
    return embeds


def _embed_file(index: Index, picture: Path) -> Float32Array:
    """Return the embed [embed_dim] that a file would have in the library.

    Raises:
        PictureError: the file cannot be read.
    """
    from twotower.index.reader import PictureReader
    from twotower.index.scan import ScannedFile

    stat = picture.stat()
    read = PictureReader(Path(), index.encoder.preprocess)
    file = ScannedFile(os.fsencode(picture), stat.st_size, stat.st_mtime_ns, 0, stat.st_ctime_ns)
    content = read(file)
    if content is None or content.pixel_values is None:
        error = content.record.error if content else None
        reason, _, remedy = (error or "no such file; check the path").partition("; ")
        raise PictureError(picture, reason, remedy)
    frames = index.encoder.encode_pixels(content.pixel_values)
    return normalize(frames.mean(axis=0, keepdims=True))[0]


def _id_of(index: Index, picture: Path) -> int | None:
    """Return the id of a file of the library that has not changed since it was indexed."""
    path, root = picture, index.root
    if not path.is_relative_to(root):  # as written, a path of the library may lead through links
        path, root = picture.resolve(), index.root.resolve()
    if not path.is_relative_to(root):
        return None
    relative = os.fsencode(path.relative_to(root).as_posix())
    stat = path.stat()
    ids = index.catalog.select(
        "path = ? AND size = ? AND mtime_ns = ? AND ctime_ns IN (?, 0)",
        [relative, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns],
    )
    return int(ids[0]) if len(ids) else None


def _named(index: Index, query: Query, allowed: Int64Array | None) -> Int64Array:
    """Return the ids of pictures with all words of the query in path or keywords, best first.

    None for a query with pictures or negated terms: a name does not tell what a picture lacks.
    """
    words = set(_split_words(query.words))
    required = words - STOP_WORDS or words
    if not required or any(term.picture or term.negated for term in query.terms):
        return np.zeros(0, np.int64)
    ids = index.catalog.match_words(" ".join(sorted(required)))
    if allowed is not None:
        ids = ids[np.isin(ids, allowed)]
    named = [
        record.id
        for record in index.catalog.pictures(ids[:CANDIDATES])
        if record.error is None
        and required <= set(_split_words(f"{record.path} {record.keywords}"))
    ]
    return np.array(named, np.int64)


def _split_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", fold_words(text))


def _ranked_groups(
    index: Index, task: _Task, needed: int, *, all: bool, sort: Sort, group: bool
) -> tuple[Candidates, list[list[int]]]:
    """Retrieve candidates for `needed` hits; group the rows of those to list, in order."""
    count = max(CANDIDATES, 2 * needed)
    while True:
        candidates = _retrieve(index, task, count)
        listed = _listed(index, task, candidates, all=all, sort=sort)
        groups = [[row] for row in listed.tolist()]
        if group:
            threshold = index.calibration.duplicate
            groups = group_copies(listed, candidates.image_embeds, threshold)
        if not all or len(groups) >= needed or count >= task.size:
            return candidates, groups
        count *= 8  # most candidates are near-duplicates of others


def _retrieve(index: Index, task: _Task, count: int) -> Candidates:
    """Judge the `count` nearest to each wanted term, and more as long as half of them match.

    Nearest is by cosine, but a match is by logit, which also depends on the picture's scores with
    competing texts. So all matches are likely among the candidates, but not certainly.
    """
    terms = task.query.terms
    positive = [i for i, term in enumerate(terms) if not term.negated]
    while True:
        nearest = [index.vectors.search(task.embeds[i], count, task.allowed)[0] for i in positive]
        # a set, because np.unique imports masked arrays, which takes longer than all of this
        distinct = set(np.concatenate([*nearest, task.named_ids]).tolist())
        ids = np.array(sorted(distinct), np.int64)
        candidates = judge(
            terms,
            task.embeds,
            index.calibration,
            ids,
            index.vectors.get(ids),
            np.isin(ids, task.named_ids),
        )
        if count >= task.size or 2 * candidates.fewest < count:
            return candidates
        count *= 8


def _listed(
    index: Index, task: _Task, candidates: Candidates, *, all: bool, sort: Sort
) -> IndexArray:
    """Return the rows of the candidates to list, in order: matches, then those below the cut-off.

    Without `all`, the latter are the nearest few that come near.
    """
    order = rank(candidates, task.named_ids)
    matching = order[candidates.matches[order]]
    below = order[~candidates.matches[order]]
    if not all:
        lowest = np.log(NEAR_SHARE * task.cutoff)
        below = below[candidates.log_probabilities[below] >= lowest][:_NEAR_POOL]
    if sort == "date":
        records = index.catalog.pictures(candidates.ids[matching])
        dates = {record.id: record.taken or "" for record in records}
        dated = matching.tolist()
        dated.sort(key=lambda row: dates.get(int(candidates.ids[row]), ""), reverse=True)
        matching = np.array(dated, np.intp)
    return np.concatenate([matching, below])


def _split(
    groups: list[list[int]], candidates: Candidates
) -> tuple[list[list[int]], list[list[int]]]:
    """Split groups into those of matches, without other pictures, and those below the cut-off."""
    matches = candidates.matches
    matching = [[row for row in group if matches[row]] for group in groups if matches[group[0]]]
    return matching, [group for group in groups if not matches[group[0]]]


def _hits(index: Index, groups: list[list[int]], candidates: Candidates) -> list[Hit]:
    """Make a hit of each group, without pictures that have left the catalog meanwhile."""
    ids = candidates.ids.tolist()
    records = {
        record.id: record
        for record in index.catalog.pictures(ids[row] for group in groups for row in group)
    }
    present = [[row for row in group if ids[row] in records] for group in groups]
    return [
        Hit(
            path=index.root / records[ids[best]].path,
            score=float(candidates.scores[best]),
            probability=float(np.exp(candidates.log_probabilities[best])),
            match=bool(candidates.matches[best]),
            named=bool(candidates.named[best]),
            taken=records[ids[best]].taken,
            copies=tuple(index.root / records[ids[row]].path for row in copies),
            id=ids[best],
            copy_ids=tuple(ids[row] for row in copies),
        )
        for best, *copies in filter(None, present)
    ]
