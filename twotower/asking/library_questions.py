"""Questions about all of a person's pictures, answered from the vectors that are there already.

What is looked for is searched with its cut-off, and dates, places and cameras come from the
catalog. How many pictures show something has two answers, and both are given: how many are above
the cut-off, and how many are to be expected, the sum of all pictures' probabilities. A picture that
is found by its name alone is named after those that show it, and counts as none.
"""

from __future__ import annotations

import datetime
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from twotower.asking.english import with_article
from twotower.asking.questions import plain
from twotower.asking.statements import PICTURE
from twotower.asking.zero_shot import EVERYDAY_STATEMENTS
from twotower.errors import QuestionError
from twotower.search.hits import Hit, SearchResult
from twotower.search.query import Query, parse_query
from twotower.search.search import search, select

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.index.schema import PictureRecord
from twotower.arrays import Float32Array, Int64Array

# How many pictures to expect: a logistic curve as in `zero_shot.py`, at the rate at which words
# that captions agree on are there, and the deviation of the logarithm of the true count from the
# expected one's. By `benchmarks/quality/asking.py --fit` on flickr8k-val with the third bundled
# model.
SLOPE, ZERO = 1.15, -5.42
LOG_OFF = 1.09
Z90 = 1.645  # of the normal distribution, 90 % lie within this many deviations
CHUNK = 50_000  # pictures whose vectors are in memory at once
CELL = 0.1  # degrees of latitude and longitude that count as one place
MATCHES = 100_000  # are looked at for dates, places and cameras

_PICTURES = rf"(?:(?:{PICTURE})s?\b)"
_SAW = r"(?:photograph(?:ed)?|see|saw|seen|shoot|shot|take|took|taken)\b"
_SHOW = "show|shows|contain|contains|have|has|depict|depicts|include|with|of|are of|is of"
_SHOWING = rf"(?:(?:that |which )?(?:{_SHOW}|are|were taken|was taken|taken)\b)"
_MONTHS = (
    "january february march april may june july august september october november december".split()
)


@dataclass(frozen=True)
class LibraryQuestion:
    """A question about a library.

    Attributes:
        text: as it was typed.
        kind: "count", "whether", "last", "first", "where", "camera", "year" or "show".
        looked_for: what the pictures show; "" for all pictures.
        filters: what of the search language the question adds, such as "after:2021".
        negated: whether the pictures that do not show it are meant.
    """

    text: str
    kind: str
    looked_for: str
    filters: str = ""
    negated: bool = False

    @property
    def query(self) -> str:
        """The question as a search."""
        return f'"{self.looked_for}" {self.filters}'.strip() if self.looked_for else self.filters


@dataclass(frozen=True)
class LibraryAnswer:
    """What the library knows.

    Attributes:
        question: what it was taken for.
        answer: in words; "" where nothing matches.
        hits: the pictures that show it, those that the answer is about first.
        matches: how many pictures are above the cut-off; of a negated question, are not.
        total: among how many.
        expected: the sum of all probabilities.
        low: from how many to how many (90 %), `high`.
        notes: what a reader should know.
        cutoff: the probability from which a picture counts; what is below has only the name.
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


INVERTED = ("count", "whether", "show")  # kinds that can be asked of what is not there
_DENIAL = re.compile(r"\b(?:no|not|none|nobody|nothing|never|neither|nor|without|except)\b|n't\b")

# A kind and a form of it; what is looked for follows the form.
_FORMS = (
    ("count", rf"how many (?:of )?(?:my |the |our )?{_PICTURES}"),
    ("count", rf"how (?:often|many times) (?:did|have|do) i {_SAW}"),
    ("last", rf"when (?:did|have) i last {_SAW}"),
    ("last", rf"when was the last time (?:that )?i {_SAW}"),
    ("last", rf"(?:when|what) (?:was|is) (?:my|the) (?:last|latest|newest) {_PICTURES}"),
    ("first", rf"when did i first {_SAW}"),
    ("first", rf"when was the first time (?:that )?i {_SAW}"),
    ("first", rf"(?:when|what) (?:was|is) (?:my|the) (?:first|oldest|earliest) {_PICTURES}"),
    ("year", rf"(?:in )?(?:what|which) year did i (?:most often |mostly )?{_SAW}"),
    ("where", rf"where (?:did|do|have) i (?:last |mostly |usually )?{_SAW}"),
    ("where", rf"where (?:are|were) (?:my |the )?{_PICTURES}"),
    ("camera", rf"(?:what|which) camera (?:(?:did|do) i use|was used|made|{_SAW})(?: most)?"),
    ("whether", rf"(?:do|did) i (?:have|take|own) (?:any |a |some )?{_PICTURES}"),
    ("whether", rf"(?:are|is) there (?:any |a |some )?{_PICTURES}"),
    ("whether", rf"(?:have|did) i ever {_SAW}"),
    ("show", rf"(?:show|find|get|give|list)\b(?: me)?(?: all)?(?: my| the)?(?: {_PICTURES})?"),
    ("show", rf"(?:what|which)(?: of my| of the)? {_PICTURES}"),
)


def parse_library_question(text: str) -> LibraryQuestion | None:
    """What a question asks of a library; None for one that is about single pictures.

    Raises:
        QuestionError: it has no words, does not say what is shown, or denies in a way that is not
            understood.
    """
    said, filters = _without_dates(plain(text))
    for kind, form in _FORMS:
        if match := re.match(form, said):
            tail, negated = _without_denial(said[match.end() :])
            thing = _thing(tail)
            if not thing and re.search(rf"(?<! i) (?:{_SHOW})$", tail):
                raise QuestionError(
                    f'{text.strip()!r} names nothing; ask, for example, "... show snow?"'
                )
            one_thing = thing and not re.search(r",|\b(?:and|or|but)\b", thing)
            if _DENIAL.search(thing) or (negated and not (one_thing and kind in INVERTED)):
                raise QuestionError(
                    f"{text.strip()!r}: such a negation is not understood; ask, for example, "
                    '"how many of my pictures do not show a cat?"'
                )
            return LibraryQuestion(text.strip(), kind, thing, filters, negated)
    return None


def is_about_library(text: str) -> bool:
    """Whether a question is about "my" pictures or what "I" did, so that no single one is meant.

    "How many pictures are on the wall?" may be about either, and is about what it is asked of.

    Raises:
        QuestionError: it has no words.
    """
    said = plain(text)
    matches = filter(None, (re.match(form, said) for _, form in _FORMS))
    return any(re.search(r"\b(my|our)\b", one[0]) or re.search(r"\bi\b", said) for one in matches)


def ask_library(
    index: Index, question: str | LibraryQuestion, top: int = 5, folder: Path | None = None
) -> LibraryAnswer:
    """Answer a question about all pictures of a library.

    Args:
        top: how many pictures to name as evidence.
        folder: one inside the library, to ask about the pictures in it and below it alone.

    Raises:
        QuestionError: it is no question about a library.
        LibraryError: nothing is indexed, or the folder is not in the library.
    """
    if isinstance(question, str):
        parsed = parse_library_question(question)
        if parsed is None:
            raise QuestionError(
                f"{question!r} is no question about a library; ask, for example, "
                '"how many of my pictures show snow?" or "when did I last photograph a bicycle?"'
            )
        question = parsed
    query = parse_query(question.query, lambda name: None) if question.query else Query("", ())
    ids = select(index, query, folder)
    if not query.terms:
        return _about_all(index, question, ids, top)
    found = search(index, query, top=MATCHES, group=False, all=question.negated, folder=folder)
    expected, total = _expectation(index, query, ids)
    if question.negated:
        return _all_but(question, found, expected, total, top)
    low, high = count_interval(expected, total)
    cutoff = found.cutoff or 0.0
    shown = [hit for hit in found.hits if (hit.probability or 0.0) >= cutoff]
    by_name = [hit for hit in found.hits if (hit.probability or 0.0) < cutoff]
    matches = found.matches - len(by_name)
    tell = _ANSWERS[question.kind]
    answer, hits, notes = tell(*_with_records(index, shown))
    if question.kind == "count":
        answer = f"{matches} of {total}"
        notes += (f"expected: {expected:.0f}, between {low} and {high} (90 %)",)
    if by_name:
        instead, others, _ = tell(*_with_records(index, by_name))
        answer, hits = answer or ("" if question.kind == "show" else instead), hits + others
        notes += (f"found by name alone, not by what they show: {len(by_name)}",)
    notes += _undated(index, question)
    return LibraryAnswer(
        question, answer, hits[:top], matches, total, expected, low, high, notes, cutoff
    )


def _about_all(index: Index, question: LibraryQuestion, ids: Int64Array, top: int) -> LibraryAnswer:
    """Nothing is looked for: all pictures that pass the filters match; nothing is uncertain."""
    records = index.catalog.pictures(ids)
    records.sort(key=lambda one: one.taken or "", reverse=True)
    hits = [Hit(index.root / one.path, None, None, True, taken=one.taken) for one in records]
    answer, hits, notes = _ANSWERS[question.kind](hits, records)
    total = len(records)
    notes += _undated(index, question)
    return LibraryAnswer(question, answer, hits[:top], total, total, total, total, total, notes)


def _undated(index: Index, question: LibraryQuestion) -> tuple[str, ...]:
    """A note on the pictures that have no date, where dates are asked for."""
    count = len(index.catalog.select("taken IS NULL")) if question.filters else 0
    return (f"without a date, and not counted: {count}",) if count else ()


def _all_but(
    question: LibraryQuestion, found: SearchResult, expected: float, total: int, top: int
) -> LibraryAnswer:
    """The pictures that do not show it: all but as many as are expected to, the surest first.

    Args:
        found: all that were found for what shall not be there.
    """
    high, low = (total - one for one in count_interval(expected, total))
    rest = [
        replace(hit, probability=1 - (hit.probability or 0.0))
        for hit in found.hits[::-1]
        if not hit.match
    ]
    if question.kind == "whether":
        answer = "yes" if rest else "none found"
    else:
        answer = f"{total - expected:.0f} of {total}"
    notes = (f"all but {expected:.0f} expected to show it; between {low} and {high} (90 %)",)
    return LibraryAnswer(
        *(question, answer, rest[:top], total - found.matches, total),
        *(total - expected, low, high, notes),
    )


def _expectation(index: Index, query: Query, ids: Int64Array) -> tuple[float, int]:
    """How many pictures are to be expected, and among how many."""
    statement = f"a photo of {with_article(query.terms[0].text)}."
    embeds = index.encoder.encode_text([statement, *EVERYDAY_STATEMENTS])
    expected = 0.0
    for start in range(0, len(ids), CHUNK):
        image_embeds = index.vectors.get(ids[start : start + CHUNK])
        expected += expected_count(image_embeds, embeds[0], embeds[1:])
    return expected, len(ids)


def expected_count(
    image_embeds: Float32Array, statement: Float32Array, everyday: Float32Array
) -> float:
    """The sum of the probabilities that pictures [n, embed_dim] show what a statement says.

    Args:
        statement: its text_embeds [embed_dim]. everyday: those of everyday words [m, embed_dim].
    """
    around = image_embeds @ everyday.T
    deviations = (image_embeds @ statement - around.mean(axis=1)) / around.std(axis=1)
    return float((1 / (1 + np.exp(-(SLOPE * deviations + ZERO)))).sum())


def count_interval(expected: float, total: int) -> tuple[int, int]:
    """From how many to how many the true count is in nine of ten cases."""
    factor = math.exp(Z90 * LOG_OFF)
    return math.floor(expected / factor), min(total, math.ceil(expected * factor))


def _with_records(index: Index, hits: Sequence[Hit]) -> tuple[list[Hit], list[PictureRecord]]:
    """Hits with what the catalog knows of each; without those that have left it meanwhile."""
    names = [os.fsencode(hit.path.relative_to(index.root).as_posix()) for hit in hits]
    known: dict[bytes, PictureRecord] = {}
    for start in range(0, len(names), 500):
        some = names[start : start + 500]
        ids = index.catalog.select(f"path IN ({', '.join('?' * len(some))})", some)
        known.update((os.fsencode(one.path), one) for one in index.catalog.pictures(ids))
    there = [(hit, known[name]) for hit, name in zip(hits, names, strict=True) if name in known]
    return [hit for hit, _ in there], [record for _, record in there]


Told = tuple[str, list[Hit], tuple[str, ...]]


def _count(hits: list[Hit], records: list[PictureRecord]) -> Told:
    return str(len(hits)), hits, ()


def _whether(hits: list[Hit], records: list[PictureRecord]) -> Told:
    return ("yes" if hits else "none found"), hits, ()


def _show(hits: list[Hit], records: list[PictureRecord]) -> Told:
    return f"{len(hits)} match" if hits else "", hits, ()


def _dated(hits: list[Hit], newest: bool) -> Told:
    dated = sorted((hit for hit in hits if hit.taken), key=lambda hit: hit.taken or "")
    dated = dated[::-1] if newest else dated
    undated = len(hits) - len(dated)
    notes = (f"{undated} of the {len(hits)} that match have no date",) if undated else ()
    if not dated:
        return ("none that matches has a date" if hits else ""), hits, notes
    return (dated[0].taken or "").replace("T", " "), dated, notes


def _last(hits: list[Hit], records: list[PictureRecord]) -> Told:
    return _dated(hits, newest=True)


def _first(hits: list[Hit], records: list[PictureRecord]) -> Told:
    return _dated(hits, newest=False)


def _year(hits: list[Hit], records: list[PictureRecord]) -> Told:
    return _most(hits, records, lambda one: one.taken[:4] if one.taken else None, "date")


def _camera(hits: list[Hit], records: list[PictureRecord]) -> Told:
    return _most(hits, records, lambda one: one.camera, "camera")


def _where(hits: list[Hit], records: list[PictureRecord]) -> Told:
    """By the coordinates in the files, or else by the folders."""
    if any(one.latitude is not None for one in records):
        return _most(hits, records, _cell, "place")
    answer, sorted_hits, notes = _most(
        hits, records, lambda one: PurePosixPath(one.path).parent.name or "its top", "folder"
    )
    answer = f"by folder: {answer}" if answer else ""
    return answer, sorted_hits, ("none that matches has coordinates", *notes) if hits else ()


def _cell(record: PictureRecord) -> str | None:
    if record.latitude is None or record.longitude is None:
        return None
    return f"{round(record.latitude / CELL) * CELL:.1f},{round(record.longitude / CELL) * CELL:.1f}"


def _most(
    hits: list[Hit],
    records: list[PictureRecord],
    fact: Callable[[PictureRecord], str | None],
    what: str,
) -> Told:
    """The values of a fact, the most frequent first, with counts; hits with the first one first."""
    facts = [fact(one) for one in records]
    counts = Counter(one for one in facts if one)
    unknown = facts.count(None)
    notes = (f"{unknown} of the {len(hits)} that match have no {what}",) if unknown else ()
    if not counts:
        return (f"none that matches has a {what}" if hits else ""), hits, notes
    first = counts.most_common(1)[0][0]
    order = sorted(range(len(hits)), key=lambda i: facts[i] != first)
    named = ", ".join(f"{value} ({count})" for value, count in counts.most_common(3))
    return named, [hits[i] for i in order], notes


_ANSWERS: dict[str, Callable[[list[Hit], list[PictureRecord]], Told]] = {
    "count": _count,
    "whether": _whether,
    "show": _show,
    "last": _last,
    "first": _first,
    "year": _year,
    "camera": _camera,
    "where": _where,
}


# --- what is looked for, and when ----------------------------------------------------------------


def _without_denial(tail: str) -> tuple[str, bool]:
    """` do not show a cat`, ` without a cat`, ` with no cat` -> without the "not", and True."""
    between = r"^((?: (?:do i have|did i take|are there|that|which|are|is|were))*"
    for denial, instead in (
        (rf"{between}) (?:do|does|did|are|is|were)(?: not|n'?t)\b", r"\1"),
        (rf"{between}) without(?: any)?\b", r"\1 with"),
        (rf"{between} (?:{_SHOW})) (?:no|not any)\b", r"\1"),
    ):
        said, found = re.subn(denial, instead, tail)
        if found:
            return said, True
    return tail, False


def _thing(tail: str) -> str:
    """` show a dog` -> `a dog`."""
    thing = re.sub(r"^ (?:for|to photograph|to take)\b", "", tail)
    thing = re.sub(rf"^ ?(?:my |any |some |a )?{_PICTURES}", "", thing).strip(" ,")
    thing = re.sub(r"^(?:do i have|are there|did i (?:take|make))\b ?", "", thing)
    thing = re.sub(rf"^{_SHOWING} ?", "", thing)
    ending = (
        r"(^| )(?:in my library|do i have|are there|did i take|in (?:them|it)|most(?: often)?)$"
    )
    return re.sub(ending, "", thing).strip()


def _without_dates(said: str) -> tuple[str, str]:
    """A question without its "in 2021", and that as filters of the search language."""
    today = datetime.date.today()
    said = re.sub(r"\b(this year)\b", f"in {today.year}", said)
    said = re.sub(r"\b(last year)\b", f"in {today.year - 1}", said)
    months = "|".join(_MONTHS)
    if match := re.search(rf" (?:in|from|of|during) ({months}) (\d{{4}})$", said):
        month, year = _MONTHS.index(match[1]) + 1, int(match[2])
        following = f"{year + month // 12}-{month % 12 + 1:02}"
        return said[: match.start()], f"after:{year}-{month:02} before:{following}"
    if match := re.search(r" between (\d{4}) and (\d{4})$", said):
        return said[: match.start()], f"after:{match[1]} before:{int(match[2]) + 1}"
    if match := re.search(r" (?:in|from|of|during) (?:the year )?(\d{4})$", said):
        return said[: match.start()], f"after:{match[1]} before:{int(match[1]) + 1}"
    if match := re.search(r" (since|after|before|until) (\d{4})$", said):
        word, year = match[1], int(match[2])
        starts = {"since": year, "after": year + 1, "before": year, "until": year + 1}[word]
        key = "after" if word in ("since", "after") else "before"
        return said[: match.start()], f"{key}:{starts}"
    return said, ""
