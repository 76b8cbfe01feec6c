"""The query language, and its filters in SQL."""

import math
import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.errors import QueryError
from twotower.inputs.media import MEDIA_SUFFIXES
from twotower.inputs.pictures import FORMATS
from twotower.metadata.exif import USUAL_FORMATS
from twotower.search.filters import in_circle, to_condition
from twotower.search.query import TYPE_OF_NAME, TYPES, Circle, Filter, Query, Term, parse_query

FILES = {
    "clip.MP4": Path("clip.MP4"),
    "x.cr2": Path("x.cr2"),
    "photo.jpg": Path("photo.jpg"),
    "a b.png": Path("a b.png"),
}


def parse(text: str) -> Query:
    return parse_query(text, FILES.get)


def test_adjacent_words_are_one_description() -> None:
    assert parse("  a red   car ").terms == (Term("a red car"),)


def test_the_language_of_the_manual() -> None:
    query = parse('"beach at sunset" - "people" + photo.jpg^0.5 after:2021 folder:trips')
    assert query.terms == (
        Term("beach at sunset"),
        Term("people", negated=True),
        Term(picture=Path("photo.jpg"), weight=0.5),
    )
    assert query.filters == (Filter("after", "2021-01-01"), Filter("folder", "trips"))
    condition = to_condition(query.filters)
    assert condition.sql.count("?") == len(condition.parameters) == 2


@pytest.mark.parametrize("name", ["clip.MP4", "x.cr2", "photo.jpg"])
def test_every_kind_of_file_can_be_a_query(name: str) -> None:
    assert parse(f"snow + {name}").terms[1] == Term(picture=Path(name))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("beach -people", [("beach", True), ("people", False)]),
        ("beach - people playing", [("beach", True), ("people playing", False)]),
        (
            "beach - people after:2021 sunset",
            [("beach", True), ("people", False), ("sunset", True)],
        ),
        ('beach - people "sunset"', [("beach", True), ("people", False), ("sunset", True)]),
        ("beach -people sunset", [("beach", True), ("people", False), ("sunset", True)]),
        ('-"people" beach', [("people", False), ("beach", True)]),
        ("“curly quotes”", [("curly quotes", True)]),
        ("x-ray of a hand", [("x-ray of a hand", True)]),
        ("10:30 train", [("10:30 train", True)]),
        ("star wars: hope", [("star wars: hope", True)]),
        ("IMG_1.jpg", [("IMG_1.jpg", True)]),
        ("C++ book", [("C++ book", True)]),
        ('"after:2021"', [("after:2021", True)]),
    ],
)
def test_terms(text: str, terms: list[tuple[str, bool]]) -> None:
    assert [(term.text, not term.negated) for term in parse(text).terms] == terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "query: nothing to look for; write words"),
        ("a -", "-: nothing follows it; write words after it, or put it in quotes"),
        ("a + - b", "+: nothing follows it; write words after it"),
        ("a - after:2021", "after:2021: a filter takes no + or -; leave that out"),
        ("a -type:jpeg", "type:jpeg: a filter takes no + or -; leave that out"),
        ("x type:", "'type:': nothing follows the colon; write type:heic without a space"),
        ("x after: 2021", "'after:': nothing follows the colon; write after:2021 without a space"),
        ('x camera:""', "'camera:': nothing follows the colon"),
        ("x type:banana", "type:banana: none of avif, bmp, gif, heic, jpeg, jpeg2000"),
        ("x type:jepg", "did you mean type:jpeg?"),
        ("x after:2021-02-31", "after:2021-02-31: not a date; write after:2021, after:2021-06 or"),
        ("x before:0000", "before:0000: not a date; write before:2021"),
        (" - ", "nothing to look for"),
        ("-people", "'-people': only excludes pictures; add what to look for before the minus"),
        ('"abc', "'\"abc': the quote is not closed; add a \""),
        ('""', "has no words"),
        ("camra:fuji", "did you mean camera:fuji?"),
        ("colour:red", "no filter 'colour'; use after:, before:"),
        ("x after:yesterday", "after:yesterday: not a date"),
        ("x after:2021-13", "after:2021-13: not a date"),
        ("x near:48.1", "near:48.1: not a place; write latitude,longitude,distance"),
        ("x near:91,0", "near:91,0: no such place on earth; write a latitude from -90 to 90"),
        ("x orientation:portait", "did you mean orientation:portrait?"),
        ("x folder:/", "folder:/: names no folder; write one, such as folder:trips"),
        ("x folder:\ud800", ": not a name that a folder can have; write that of a folder"),
        ("x + nope.jpg", "nope.jpg: no such file"),
        ("sub/nope.jpg", "sub/nope.jpg: no such file"),
        ('"beach"^zero', "^zero: not a weight; write a number above 0"),
        ('"beach"^-1', "^-1: not a weight"),
        ('"beach"^nan', "^nan: not a weight"),
    ],
)
def test_errors_name_the_part_at_fault(text: str, message: str) -> None:
    with pytest.raises(QueryError) as error:
        parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_types_are_those_of_the_catalog() -> None:
    written = {USUAL_FORMATS.get(name.lower(), name.lower()) for name in FORMATS}
    assert set(TYPES) == written | {"heic", "raw", "video"}
    assert {suffix[1:] for suffix in MEDIA_SUFFIXES} <= set(TYPE_OF_NAME)


@given(
    st.text() | st.text(st.characters(categories=("Cs", "L"))).map("folder:{0} camera:{0}".format)
)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        query = parse(text)
    except QueryError:
        return
    assert query.terms or query.filters
    assert all(term.text.strip() or term.picture for term in query.terms)


words = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1)


@given(st.lists(st.tuples(st.booleans(), words), min_size=1, max_size=5))
def test_quoted_terms_keep_their_text(terms: list[tuple[bool, str]]) -> None:
    terms = [(True, "anchor"), *terms]
    text = " ".join(f'{"+" if positive else "-"} "{words}"' for positive, words in terms)
    assert [(not term.negated, term.text) for term in parse(text).terms] == terms


# --- filters, as SQLite understands them ---------------------------------------------------------

ROWS = {  # name: taken, camera, path, type, orientation, latitude, longitude
    "old": (
        "2019-05-01T10:00:00",
        "FUJIFILM X-T3",
        "trips/rome/1.jpg",
        "jpeg",
        "landscape",
        48,
        11,
    ),
    "new": ("2022-03-09T10:00:00", "Canon 100%", "Trips/2.heic", "heic", "portrait", 0, 179.95),
    "edge": ("2021-01-01T00:00:00", None, "strips/3.tif", "tiff", "square", None, None),
    "bare": (None, "X_T3", "4.jpg", "jpeg", "portrait", 0, -179.95),
    "clip": (None, None, "6.mov", "video", "square", None, None),
    "raw": (None, None, "7.nef", "raw", "square", None, None),
    "odd": (None, "\ufffdX", "F\udcff/5.jpg", "png", "square", None, None),
}


def chosen(text: str) -> set[str]:
    condition = to_condition(parse(text).filters)
    database = sqlite3.connect(":memory:")
    database.execute(
        "CREATE TABLE pictures (name, taken, camera, path BLOB, type, orientation, latitude REAL, "
        "longitude REAL)"
    )
    for name, (taken, camera, path, *facts) in ROWS.items():
        row = (name, taken, camera, os.fsencode(path), *facts)
        database.execute("INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    sql = f"SELECT name, latitude, longitude FROM pictures WHERE {condition.sql}"
    return {
        name
        for name, latitude, longitude in database.execute(sql, condition.parameters)
        if not condition.circles
        or any(in_circle(circle, latitude, longitude) for circle in condition.circles)
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("after:2021", {"new", "edge"}),
        ("before:2021", {"old"}),
        ("after:2021-01-02 before:2022-03-09", set()),
        ("before:2022-03-10 after:2022-3", {"new"}),
        ("camera:fuji", {"old"}),
        ("camera:x_t3", {"bare"}),
        ("camera:100%", {"new"}),
        ("folder:trips", {"old", "new"}),
        ("folder:trips/rome", {"old"}),
        ("folder:rome", {"old"}),
        ("folder:f\udcff", {"odd"}),
        ("folder:f\udcfe", set()),
        ("camera:\udcff", {"odd"}),
        ("type:.JPG", {"old", "bare"}),
        ("type:mp4 type:cr2", {"clip", "raw"}),
        ("type:video", {"clip"}),
        ("type:tif type:heic", {"edge", "new"}),
        ("orientation:portrait type:heic", {"new"}),
        ("near:48.05,11,10km", {"old"}),
        ("near:48.05,11,500m", set()),
        ("near:0,180,10km", {"new", "bare"}),
        ("near:0,-180,10km", {"new", "bare"}),
        ("near:90,0,5000km", {"old"}),
    ],
)
def test_filters(text: str, names: set[str]) -> None:
    assert chosen(text) == names


@given(st.floats(-89, 89), st.floats(-180, 180), st.floats(0.1, 3000), st.floats(0, 2 * math.pi))
def test_the_box_contains_the_circle(
    latitude: float, longitude: float, km: float, direction: float
) -> None:
    """A place just inside the circle passes both the box in SQL and the circle itself."""
    angle = 0.99 * km / 6371
    a = math.radians(latitude)
    b = math.asin(
        math.sin(a) * math.cos(angle) + math.cos(a) * math.sin(angle) * math.cos(direction)
    )
    turn = math.atan2(
        math.sin(direction) * math.sin(angle) * math.cos(a),
        math.cos(angle) - math.sin(a) * math.sin(b),
    )
    point = math.degrees(b), (longitude + math.degrees(turn) + 540) % 360 - 180
    condition = to_condition(parse(f"near:{latitude:.9f},{longitude:.9f},{km:.9f}km").filters)
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE pictures (latitude REAL, longitude REAL)")
    database.execute("INSERT INTO pictures VALUES (?, ?)", point)
    assert database.execute(
        f"SELECT 1 FROM pictures WHERE {condition.sql}", condition.parameters
    ).fetchall(), (point, condition)
    assert in_circle(Circle(latitude, longitude, km), *point)
