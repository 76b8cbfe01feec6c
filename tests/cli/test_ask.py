"""`twotower ask` on the command line."""

import io
import json
from pathlib import Path

import pytest

from twotower.asking.library_answers import LibraryAnswer
from twotower.asking.library_questions import LibraryQuestion
from twotower.cli.ask import print_library_answer, split_words
from twotower.cli.main import main
from twotower.search.hits import Hit

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CAT, ELEPHANT = str(PHOTOS / "cat.jpg"), str(PHOTOS / "elephant.png")


def test_pictures_and_questions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", CAT, ELEPHANT, "is it a cat or an elephant?", "how many animals?"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(f"{CAT}  is it a cat or an elephant?  [choice]  cat ")
    assert lines[2].startswith(f"{ELEPHANT}  is it a cat or an elephant?  [choice]  elephant ")
    assert err.count("counting is weak") == 1  # once, not for each picture


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", CAT, "is there a cat?", "???", "--json"]) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert (good["path"], good["kind"], good["answer"]) == (CAT, "yes/no", "yes")
    assert good["error"] is None and len(good["answers"]) == 2
    assert "not a question" in bad["error"] and bad["answers"] == [] and bad["answer"] is None


def test_the_source_of_an_answer_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    horse, question = str(PHOTOS / "horse.jpg"), "what colour is the horse?"
    assert main(["ask", horse, question, "is it a horse?"]) == 0
    trained, plain = capsys.readouterr().out.splitlines()
    assert trained.startswith(f"{horse}  {question}  [colour, trained]  brown ")
    assert plain.startswith(f"{horse}  is it a horse?  [yes/no]  yes ")
    assert main(["ask", horse, question, "is it a horse?", "--json"]) == 0
    assert [answer["by"] for answer in json.loads(capsys.readouterr().out)] == ["head", "zero-shot"]


def test_answers_to_choose_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", ELEPHANT, "what is this?", "--answers", "teapot, elephant"]) == 0
    assert "[choice]  elephant " in capsys.readouterr().out


def test_each_bad_input_is_one_line_and_the_others_are_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    missing = str(tmp_path / "missing.jpg")
    assert main(["ask", str(empty), missing, CAT, "is there a cat?", "why is it a cat?"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{CAT}  is there a cat?  [yes/no]  yes ")
    lines = err.splitlines()
    assert len(lines) == 3
    assert any("empty.jpg" in line for line in lines)
    assert any("missing.jpg" in line for line in lines)
    assert any("a question about reasons or methods" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([CAT], "not a question"),
        (["what is this?"], "is about single pictures; write them before the question"),
        ([CAT, " "], "not a question"),
        ([CAT, "what is this?", "--head", "no-such-head"], "no-such-head"),
    ],
)
def test_invalid_command_lines(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", *words]) == 1
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("is there a picture on the wall?", "yes/no"),
        ("how many pictures are on the wall?", "count"),
    ],
)
def test_pictures_in_a_picture(
    question: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", CAT, question]) == 0
    assert capsys.readouterr().out.startswith(f"{CAT}  {question}  [{kind}]  ")


def test_questions_from_stdin() -> None:
    lines = io.StringIO("is it red?\n\nis it blue?\n")
    assert split_words(["a.jpg", "-", "is it a car?"], lines) == (
        ["a.jpg"],
        ["is it red?", "is it blue?", "is it a car?"],
    )


def test_hits_without_a_probability(capsys: pytest.CaptureFixture[str]) -> None:
    """All pictures of a year have none."""
    question = LibraryQuestion("when was my last photo in 2021?", "last", "", "after:2021")
    hit = Hit(Path("a.jpg"), None, None, True, taken="2021-05-06T07:08:09")
    print_library_answer(LibraryAnswer(question, "2021-05-06", [hit], 1, 1, 1.0, 1, 1))
    assert capsys.readouterr().out.splitlines()[1] == "  a.jpg  2021-05-06 07:08:09"
