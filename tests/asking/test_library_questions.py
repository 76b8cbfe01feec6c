"""Questions about a library: parsing, and answers from catalog and vectors."""

import json
import os
import shutil
from pathlib import Path

import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

import twotower
from twotower.asking.library_answers import ask_library, count_interval
from twotower.asking.library_questions import (
    is_about_library,
    parse_library_question,
)
from twotower.cli.main import main
from twotower.errors import LibraryError, QuestionError

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"

FORMS = [
    ("how many of my pictures show snow?", "count", "snow", ""),
    ("How many photos of dogs do I have?", "count", "dogs", ""),
    ("how many pictures have a dog in them?", "count", "a dog", ""),
    ("how many photos did I take in 2021?", "count", "", "after:2021 before:2022"),
    ("how many photos did I take of dogs?", "count", "dogs", ""),
    ("how many pictures do I have?", "count", "", ""),
    ("when did I last photograph a bicycle?", "last", "a bicycle", ""),
    ("when was the last time I saw the sea?", "last", "the sea", ""),
    ("when did I first photograph a cat?", "first", "a cat", ""),
    ("what is my oldest picture of a church?", "first", "a church", ""),
    ("where did I take pictures of boats?", "where", "boats", ""),
    ("where are my pictures of cats?", "where", "cats", ""),
    ("show me a beach at sunset", "show", "a beach at sunset", ""),
    ("show me pictures of a beach", "show", "a beach", ""),
    ("which of my photos show a train?", "show", "a train", ""),
    ("find my photos of dogs since 2019", "show", "dogs", "after:2019"),
    ("find photos of dogs before 2019", "show", "dogs", "before:2019"),
    ("find photos of dogs after 2019", "show", "dogs", "after:2020"),
    ("find photos of dogs between 2019 and 2021", "show", "dogs", "after:2019 before:2022"),
    ("find photos of dogs from December 2020", "show", "dogs", "after:2020-12 before:2021-01"),
    ("which camera did I use for mountains?", "camera", "mountains", ""),
    ("do I have any pictures of elephants?", "whether", "elephants", ""),
    ("have I ever photographed a giraffe?", "whether", "a giraffe", ""),
    ("which year did I photograph dogs most often?", "year", "dogs", ""),
]


@pytest.mark.parametrize(("text", "kind", "thing", "filters"), FORMS)
def test_forms(text: str, kind: str, thing: str, filters: str) -> None:
    question = parse_library_question(text)
    assert question is not None
    assert (question.kind, question.thing, question.filters) == (kind, thing, filters)


@pytest.mark.parametrize("text", ["how many dogs are there?", "what is this?", "is there a dog?"])
def test_questions_about_single_pictures_are_none(text: str) -> None:
    assert parse_library_question(text) is None


@pytest.mark.parametrize(
    ("text", "kind", "thing"),
    [
        ("how many of my pictures do not show a cat?", "count", "a cat"),
        ("how many of my pictures don't have a cat in them?", "count", "a cat"),
        ("how many pictures do I have without people?", "count", "people"),
        ("how many of my pictures are not of cats since 2019?", "count", "cats"),
        ("do I have pictures without any people?", "whether", "people"),
        ("are there pictures with no people?", "whether", "people"),
        ("which of my pictures show no people?", "show", "people"),
        ("show me photos that do not show snow", "show", "snow"),
    ],
)
def test_negations(text: str, kind: str, thing: str) -> None:
    question = parse_library_question(text)
    assert question is not None
    assert (question.kind, question.thing, question.negated) == (kind, thing, True)


@pytest.mark.parametrize(
    "text",
    [
        "when did I last photograph no people?",
        "where did I take pictures without people?",
        "how many of my pictures were not taken in 2021?",
        "how many of my pictures show a cat without a collar?",
        "how many of my pictures do not show no cat?",
        "which pictures show no dog and a car?",
        "show me everything except cats",
    ],
)
def test_unsupported_negations(text: str) -> None:
    with pytest.raises(QuestionError, match="negation is not understood"):
        parse_library_question(text)


@pytest.mark.parametrize(
    "text",
    ["how many of my pictures show", "how many of my pictures do not show?", "find photos of"],
)
def test_questions_that_name_nothing(text: str) -> None:
    with pytest.raises(QuestionError, match="does not name a thing to look for"):
        parse_library_question(text)


def test_questions_that_only_a_library_can_answer() -> None:
    for text in ("how many of my pictures show snow?", "how many pictures do I have?"):
        assert is_about_library(text)
    for text in ("is there a picture on the wall?", "how many pictures are on the wall?"):
        assert not is_about_library(text)
    assert not is_about_library("is there a picture of my dog?")
    assert not is_about_library("what is my dog doing?")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> twotower.Library:
    """Two elephants (one dated, one not), a beach, a car, with cameras and dates of their own."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, date, camera in (
        ("beach.jpg", "2019:05:06 07:08:09", "Alpha"),
        ("car.jpg", "2021:01:02 03:04:05", "Beta"),
        ("skyline.jpg", "2020:01:02 03:04:05", "Beta"),
    ):
        with PIL.Image.open(PHOTOS / name) as image:
            exif = PIL.Image.Exif()
            exif[0x0132] = date
            exif[0x0110] = camera
            exif.get_ifd(0x8769)[0x9003] = date
            image.convert("RGB").resize((400, 300)).save(folder / f"x-{name}", exif=exif)
    (folder / "trip").mkdir()
    shutil.copy(PHOTOS / "elephant.png", folder / "trip" / "x1.png")
    library = twotower.Library(folder)
    library.index()
    return library


def test_all_pictures(library: twotower.Library) -> None:
    answer = ask_library(library.opened, "how many pictures do I have?")
    assert (answer.answer, answer.matches, answer.low, answer.high) == ("4", 4, 4, 4)
    answer = ask_library(library.opened, "how many photos did I take in 2021?")
    assert answer.answer == "1" and answer.hits[0].path.name == "x-car.jpg"
    answer = ask_library(library.opened, "which camera did I use most?")
    assert answer.answer == "Beta (2), Alpha (1)"
    assert answer.notes == ("1 of the 4 that match have no camera",)
    answer = ask_library(library.opened, "when was my latest picture?")
    assert answer.answer == "2021-01-02 03:04:05" and answer.hits[0].path.name == "x-car.jpg"
    assert answer.notes == ("1 of the 4 that match have no date",)
    assert ask_library(library.opened, "when was my oldest picture?").answer.startswith(
        "2019-05-06"
    )
    answer = ask_library(library.opened, "where are my pictures?")
    assert answer.answer == "by folder: its top (3), trip (1)"


def test_pictures_that_show_a_thing(library: twotower.Library) -> None:
    answer = ask_library(library.opened, "how many of my pictures show a beach?")
    assert answer.total == 4 and answer.low <= answer.expected <= answer.high <= 4
    assert "expected" in answer.notes[0]
    assert answer.answer == f"{answer.matches} of 4"
    answer = ask_library(library.opened, "how many of my pictures show a beach in 1990?")
    assert (answer.answer, answer.expected, answer.high) == ("0 of 0", 0.0, 0)
    answer = ask_library(library.opened, "when did I last photograph a brain scan?")
    assert answer.answer == "" and answer.hits == []
    assert ask_library(library.opened, "do I have pictures of a brain scan?").answer == "none found"


def test_pictures_that_do_not_show_a_thing(
    library: twotower.Library, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ask_library(library.opened, "how many of my pictures show an elephant?")
    answer = ask_library(library.opened, "how many of my pictures do not show an elephant?", top=4)
    assert answer.expected == pytest.approx(4 - shown.expected)
    assert (answer.low, answer.high) == (4 - shown.high, 4 - shown.low)
    assert answer.answer == f"{answer.expected:.0f} of 4"
    assert {hit.path.name for hit in answer.hits} == {"x-beach.jpg", "x-car.jpg", "x-skyline.jpg"}
    assert all(hit.probability > 0.5 for hit in answer.hits)
    which = ask_library(library.opened, "which of my pictures do not show an elephant?", top=4)
    assert (which.answer, which.hits) == (answer.answer, answer.hits)
    assert ask_library(library.opened, "do I have pictures without an elephant?").answer == "yes"
    trip = library.root / "trip"
    alone = ask_library(library.opened, "do I have pictures without an elephant?", folder=trip)
    assert (alone.answer, alone.hits) == ("none found", [])
    assert main(["ask", os.fspath(trip), "which pictures do not show an elephant?"]) == 0
    assert "[show without 'an elephant']" in capsys.readouterr().out
    assert main(["ask", os.fspath(trip), "when did I last photograph no elephant?"]) == 1
    assert "negation is not understood" in capsys.readouterr().err


def test_hits_by_name_alone_are_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cat called "elephant and snow", taken after the one elephant, which has a neutral name."""
    for photo, name, date in (
        ("cat.jpg", "elephant and snow.jpg", "2022:01:02 03:04:05"),
        ("elephant.png", "x1.jpg", "2020:01:02 03:04:05"),
        ("beach.jpg", "x2.jpg", "2019:01:02 03:04:05"),
    ):
        with PIL.Image.open(PHOTOS / photo) as image:
            exif = PIL.Image.Exif()
            exif.get_ifd(0x8769)[0x9003] = date
            image.convert("RGB").save(tmp_path / name, exif=exif)
    library = twotower.Library(tmp_path)
    library.index()
    alone = "found by name alone, not by what they show: 1"
    answer = ask_library(library.opened, "how many of my pictures show snow?")
    assert (answer.answer, answer.matches) == ("0 of 3", 0)
    assert answer.notes[1:] == (alone,)
    assert ask_library(library.opened, "do I have pictures of snow?").answer == "none found"
    answer = ask_library(library.opened, "when did I last photograph an elephant?")
    assert (answer.answer, answer.notes) == ("2020-01-02 03:04:05", (alone,))
    assert [hit.path.name for hit in answer.hits] == ["x1.jpg", "elephant and snow.jpg"]
    answer = ask_library(library.opened, "when did I last photograph snow?")  # the only hit
    assert (answer.answer, answer.matches) == ("2022-01-02 03:04:05", 0)
    capsys.readouterr()
    assert main(["ask", os.fspath(tmp_path), "which of my pictures show an elephant?"]) == 0
    summary, _, shown, named = capsys.readouterr().out.splitlines()
    assert summary.endswith("  1 match")
    assert shown.endswith("x1.jpg  2020-01-02 03:04:05")
    assert named.endswith("elephant and snow.jpg  2022-01-02 03:04:05  (by its name)")


def test_questions_are_limited_to_a_folder(
    library: twotower.Library,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trip = library.root / "trip"
    assert ask_library(library.opened, "how many pictures do I have?", folder=trip).answer == "1"
    assert (
        ask_library(library.opened, "how many photos did I take in 2021?", folder=trip).answer
        == "0"
    )
    answer = ask_library(library.opened, "how many of my pictures show a beach?", folder=trip)
    assert (answer.answer, answer.total) == ("0 of 1", 1)
    assert main(["ask", os.fspath(trip), "how many pictures do I have?"]) == 0
    assert "[count]  1\n" in capsys.readouterr().out
    monkeypatch.chdir(trip)  # without a folder: the current library, as for `search` and `tag`
    assert main(["ask", "how many pictures do I have?"]) == 0
    assert "[count]  4\n" in capsys.readouterr().out
    monkeypatch.chdir(PHOTOS)
    with pytest.raises(LibraryError, match="not a folder of the library"):
        ask_library(library.opened, "how many pictures do I have?", folder=PHOTOS)


def test_no_question_about_a_library(library: twotower.Library) -> None:
    with pytest.raises(QuestionError, match="no question about a library"):
        ask_library(library.opened, "what colour is the car?")


def test_the_expected_count_is_the_sum_of_the_probabilities_of_a_search(
    library: twotower.Library,
) -> None:
    answer = ask_library(library.opened, "how many pictures show a cat?")
    hits = library.search("a cat", all=True, group=False).hits
    assert answer.expected == pytest.approx(sum(hit.probability or 0 for hit in hits), rel=1e-3)


@given(st.floats(0, 1e6), st.integers(0, 10**6))
def test_intervals_hold_the_expected_count(expected: float, total: int) -> None:
    expected = min(expected, total)
    low, high = count_interval(expected, total)
    assert 0 <= low <= expected <= high <= total


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_an_error(text: str) -> None:
    try:
        question = parse_library_question(text)
    except QuestionError:
        return
    assert question is None or '"' not in question.thing


def test_the_command(
    library: twotower.Library,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = os.fspath(library.root)
    assert main(["ask", folder, "how many pictures do I have?"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("how many pictures do I have?  [count]  4\n")
    assert "x-car.jpg  2021-01-02" in out
    assert main(["ask", folder + "/.twotower", "which camera do I use most?", "--json"]) == 0
    [tree] = json.loads(capsys.readouterr().out)
    assert (tree["kind"], tree["matches"], tree["interval"]) == ("camera", 4, [4, 4])
    assert main(["ask", "how many pictures do I have?", "--library", folder + "/.twotower"]) == 0
    assert "[count]  4\n" in capsys.readouterr().out
    assert main(["ask", str(PHOTOS / "cat.jpg"), "how many pictures do I have?"]) == 1
    assert "is about a library; give one folder" in capsys.readouterr().err
    snow = ["ask", folder, "how many of my pictures show snow?"]
    for option in (["--vlm", "http://localhost:1"], ["--head", folder], ["--answers", "1, 2"]):
        assert main([*snow, *option]) == 1
        assert f"about a library, and {option[0]} for single" in capsys.readouterr().err
    assert main(["ask", folder, "is it a car or a beach?", "how many pictures do I have?"]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if "[choice]" in line]) == 4
    mixed = ["ask", folder, "is it a car or a beach?", "how many pictures do I have?", "--json"]
    assert main(mixed) == 1
    assert "run twotower ask --json once for each kind" in capsys.readouterr().err
    assert main(["ask", "--library", folder + "/.twotower", "is it a car or a beach?"]) == 1
    assert "about single pictures" in capsys.readouterr().err
