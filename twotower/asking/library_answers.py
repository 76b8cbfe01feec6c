"""Answer questions about all pictures of a library, from its vectors and its catalog.

The thing is searched with its cut-off; dates, places and cameras come from the catalog. A count has
two answers, and both are reported: the pictures above the cut-off, and the expected number, which
is the sum of the probabilities of all pictures, as a search judges them. Pictures found by their
names alone are listed after those that show the thing, and are not counted.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from twotower.arrays import Float32Array, Int64Array
from twotower.asking.library_questions import LibraryQuestion, parse_library_question
from twotower.calibration.curves import JudgedText, TextCurves, embed_queries
from twotower.errors import QuestionError
from twotower.search.hits import Hit, SearchResult
from twotower.search.query import Query, parse_query
from twotower.search.search import search, select

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.index.schema import PictureRecord

# The standard deviation of the logarithm of the true count from that of the expected one, fitted by
# `benchmarks/quality/asking.py --fit` on flickr8k-val.
COUNT_LOG_SD = 1.19
Z90 = 1.645  # 90 % of a normal distribution are within this many standard deviations
CHUNK_SIZE = 50_000  # pictures whose vectors are in memory at once
CELL_DEGREES = 0.1  # latitude and longitude that count as one place
MAX_MATCHES = 100_000  # whose dates, places and cameras are read


@dataclass(frozen=True)
class LibraryAnswer:
    """The answer to a question about a library.

    Attributes:
        question: the parsed question.
        answer: in words; "" if nothing matches.
        hits: the pictures that show the thing, those that the answer is about at the front.
        matches: the number of pictures above the cut-off; of a negated question, of the others.
        total: the number of pictures that the question is about.
        expected: the sum of all probabilities.
        low, high: the true count is between them in nine of ten cases.
        notes: what is uncertain about the answer.
        cutoff: the probability from which a picture counts; hits below it have only the name.
    """

    question: LibraryQuestion
    answer: str
    hits: list[Hit]
    matches: int
    total: int
    expected: float
    low: int
    high: int
    notes: tuple[str, ...] = ()
    cutoff: float = 0.0


def ask_library(
    index: Index, question: str | LibraryQuestion, top: int = 5, folder: Path | None = None
) -> LibraryAnswer:
    """Answer a question about all pictures of a library.

    Args:
        top: how many pictures to return as evidence.
        folder: a folder in the library, to which the question is limited.

    Raises:
        QuestionError: the question is not about a library.
        LibraryError: nothing is indexed, or `folder` is not in the library.
    """
    if isinstance(question, str):
        question = _parse(question)
    query = parse_query(question.query, lambda name: None) if question.query else Query("", ())
    ids = select(index, query, folder)
    if not query.terms:
        return _answer_by_catalog(index, question, ids, top)
    result = search(index, query, top=MAX_MATCHES, group=False, all=question.negated, folder=folder)
    expected = _expected_matches(index, query.terms[0].text, ids)
    if question.negated:
        return _answer_negated(question, result, expected, len(ids), top)
    return _answer_by_search(index, question, result, expected, len(ids), top)


def _parse(text: str) -> LibraryQuestion:
    question = parse_library_question(text)
    if question is None:
        raise QuestionError(
            repr(text),
            "no question about a library",
            'ask, for example, "how many of my pictures show snow?" or "when did I last '
            'photograph a bicycle?"',
        )
    return question


def _answer_by_search(
    index: Index,
    question: LibraryQuestion,
    result: SearchResult,
    expected: float,
    total: int,
    top: int,
) -> LibraryAnswer:
    """Answer from the hits above the cut-off; those found by name alone follow, uncounted."""
    low, high = count_interval(expected, total)
    cutoff = result.cutoff or 0.0
    shown = [hit for hit in result.hits if (hit.probability or 0.0) >= cutoff]
    by_name = [hit for hit in result.hits if (hit.probability or 0.0) < cutoff]
    matches = result.matches - len(by_name)
    summarise = _SUMMARIES[question.kind]
    answer, hits, notes = summarise(*_with_records(index, shown))
    if question.kind == "count":
        answer = f"{matches} of {total}"
        notes += (f"expected: {expected:.0f}, between {low} and {high} (90 %)",)
    if by_name:
        answer_by_name, hits_by_name, _ = summarise(*_with_records(index, by_name))
        answer = answer or ("" if question.kind == "show" else answer_by_name)
        hits = hits + hits_by_name
        notes += (f"found by name alone, not by what they show: {len(by_name)}",)
    notes += _undated(index, question)
    return LibraryAnswer(
        question, answer, hits[:top], matches, total, expected, low, high, notes, cutoff
    )


def _answer_by_catalog(
    index: Index, question: LibraryQuestion, ids: Int64Array, top: int
) -> LibraryAnswer:
    """Answer about the pictures `ids`, without looking for a thing; these counts are exact."""
    records = index.catalog.pictures(ids)
    records.sort(key=lambda record: record.taken or "", reverse=True)
    hits = [
        Hit(index.root / record.path, None, None, True, taken=record.taken, id=record.id)
        for record in records
    ]
    answer, hits, notes = _SUMMARIES[question.kind](hits, records)
    total = len(records)
    notes += _undated(index, question)
    return LibraryAnswer(question, answer, hits[:top], total, total, total, total, total, notes)


def _answer_negated(
    question: LibraryQuestion, result: SearchResult, expected: float, total: int, top: int
) -> LibraryAnswer:
    """Answer about the pictures that do not show the thing: all but the expected number.

    Args:
        result: all pictures, ranked by the thing; the hits of the answer have the reverse order.
    """
    high, low = (total - bound for bound in count_interval(expected, total))
    hits = [
        replace(hit, probability=1 - (hit.probability or 0.0))
        for hit in result.hits[::-1]
        if not hit.match
    ]
    if question.kind == "whether":
        answer = "yes" if hits else "none found"
    else:
        answer = f"{total - expected:.0f} of {total}"
    notes = (f"all but {expected:.0f} expected to show it; between {low} and {high} (90 %)",)
    return LibraryAnswer(
        *(question, answer, hits[:top], total - result.matches, total),
        *(total - expected, low, high, notes),
    )


def _undated(index: Index, question: LibraryQuestion) -> tuple[str, ...]:
    """Return a note on the pictures without a date, if the question is limited by dates."""
    count = len(index.catalog.select("taken IS NULL")) if question.filters else 0
    return (f"without a date, and not counted: {count}",) if count else ()


# --- counts --------------------------------------------------------------------------------------


def _expected_matches(index: Index, thing: str, ids: Int64Array) -> float:
    """Return the expected number of the pictures `ids` that show a thing."""
    curves = index.calibration.text
    text = curves.prepare([thing], embed_queries(index.encoder, [thing])[0])
    return sum(
        expected_count(curves, text, index.vectors.get(ids[start : start + CHUNK_SIZE]))
        for start in range(0, len(ids), CHUNK_SIZE)
    )


def expected_count(curves: TextCurves, text: JudgedText, image_embeds: Float32Array) -> float:
    """Return the sum of the probabilities that pictures [n, embed_dim] show what a text says."""
    return float((1 / (1 + np.exp(-curves.logits([text], image_embeds)))).sum())


def count_interval(expected: float, total: int) -> tuple[int, int]:
    """Return bounds that contain the true count in nine of ten cases."""
    factor = math.exp(Z90 * COUNT_LOG_SD)
    return math.floor(expected / factor), min(total, math.ceil(expected * factor))


# --- summaries: hits to an answer in words, ordered hits, and notes ------------------------------

Summary: TypeAlias = tuple[str, list[Hit], tuple[str, ...]]


def _with_records(index: Index, hits: Sequence[Hit]) -> tuple[list[Hit], list[PictureRecord]]:
    """Return the hits that are still in the catalog, and their records."""
    names = [os.fsencode(hit.path.relative_to(index.root).as_posix()) for hit in hits]
    records: dict[bytes, PictureRecord] = {}
    for start in range(0, len(names), 500):
        chunk = names[start : start + 500]
        ids = index.catalog.select(f"path IN ({', '.join('?' * len(chunk))})", chunk)
        records.update((os.fsencode(record.path), record) for record in index.catalog.pictures(ids))
    present = [
        (hit, records[name]) for hit, name in zip(hits, names, strict=True) if name in records
    ]
    return [hit for hit, _ in present], [record for _, record in present]


def _count(hits: list[Hit], records: list[PictureRecord]) -> Summary:
    return str(len(hits)), hits, ()


def _whether(hits: list[Hit], records: list[PictureRecord]) -> Summary:
    return ("yes" if hits else "none found"), hits, ()


def _show(hits: list[Hit], records: list[PictureRecord]) -> Summary:
    return f"{len(hits)} match" if hits else "", hits, ()


def _by_date(hits: list[Hit], newest: bool) -> Summary:
    dated = sorted((hit for hit in hits if hit.taken), key=lambda hit: hit.taken or "")
    dated = dated[::-1] if newest else dated
    undated = len(hits) - len(dated)
    notes = (f"{undated} of the {len(hits)} that match have no date",) if undated else ()
    if not dated:
        return ("none that matches has a date" if hits else ""), hits, notes
    return (dated[0].taken or "").replace("T", " "), dated, notes


def _newest(hits: list[Hit], records: list[PictureRecord]) -> Summary:
    return _by_date(hits, newest=True)


def _oldest(hits: list[Hit], records: list[PictureRecord]) -> Summary:
    return _by_date(hits, newest=False)


def _by_year(hits: list[Hit], records: list[PictureRecord]) -> Summary:
    return _most_frequent(
        hits, records, lambda record: record.taken[:4] if record.taken else None, "date"
    )


def _by_camera(hits: list[Hit], records: list[PictureRecord]) -> Summary:
    return _most_frequent(hits, records, lambda record: record.camera, "camera")


def _by_place(hits: list[Hit], records: list[PictureRecord]) -> Summary:
    """Summarise the coordinates in the files, or if there are none, the folders."""
    if any(record.latitude is not None for record in records):
        return _most_frequent(hits, records, _cell, "place")
    answer, sorted_hits, notes = _most_frequent(hits, records, _folder_name, "folder")
    answer = f"by folder: {answer}" if answer else ""
    return answer, sorted_hits, ("none that matches has coordinates", *notes) if hits else ()


def _folder_name(record: PictureRecord) -> str:
    return PurePosixPath(record.path).parent.name or "its top"


def _cell(record: PictureRecord) -> str | None:
    """Return the coordinates rounded to CELL_DEGREES."""
    if record.latitude is None or record.longitude is None:
        return None
    rounded = (
        round(degrees / CELL_DEGREES) * CELL_DEGREES
        for degrees in (record.latitude, record.longitude)
    )
    return ",".join(f"{degrees:.1f}" for degrees in rounded)


def _most_frequent(
    hits: list[Hit],
    records: list[PictureRecord],
    fact_of: Callable[[PictureRecord], str | None],
    name: str,
) -> Summary:
    """Summarise the commonest values of a fact, with counts; hits with the commonest come before
    the others.
    """
    facts = [fact_of(record) for record in records]
    counts = Counter(fact for fact in facts if fact)
    missing = facts.count(None)
    notes = (f"{missing} of the {len(hits)} that match have no {name}",) if missing else ()
    if not counts:
        return (f"none that matches has a {name}" if hits else ""), hits, notes
    commonest = counts.most_common(1)[0][0]
    order = sorted(range(len(hits)), key=lambda i: facts[i] != commonest)
    answer = ", ".join(f"{value} ({count})" for value, count in counts.most_common(3))
    return answer, [hits[i] for i in order], notes


_SUMMARIES: dict[str, Callable[[list[Hit], list[PictureRecord]], Summary]] = {
    "count": _count,
    "whether": _whether,
    "show": _show,
    "last": _newest,
    "first": _oldest,
    "year": _by_year,
    "camera": _by_camera,
    "where": _by_place,
}
