"""The output of the commands, and the progress that they show on a terminal."""

import io
import sys

import pytest

from twotower.cli.output import count_of, show_progress, track
from twotower.progress import Progress, ignore_progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in place of stderr (in a fixture, pytest would replace it again)."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_counts_have_a_noun_in_singular_or_plural() -> None:
    assert [count_of(number, "picture") for number in (0, 1, 2)] == [
        "0 pictures",
        "1 picture",
        "2 pictures",
    ]


def test_progress_has_stage_count_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with show_progress("Waiting") as report:
        for done in range(1, 4):
            report(Progress(done, 7, stage="Reading [b]"))
    text = terminal.getvalue()
    assert "Waiting" in text
    assert "Reading [b]" in text
    assert "3/7" in text


def test_progress_names_what_limits_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with show_progress("Indexing") as report:
        report(Progress(3, 7, limit="decode-bound, 2 cores"))
    assert "3/7 (decode-bound, 2 cores)" in terminal.getvalue()


def test_the_first_stage_stays_without_another(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    assert list(track("ab", "Counting", 2)) == ["a", "b"]
    text = terminal.getvalue()
    assert "Counting" in text
    assert "2/2" in text


def test_a_task_without_reports_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    with show_progress("Fitting"):
        pass
    assert "Fitting" in terminal.getvalue()


def test_lines_for_a_file_reach_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With stderr on a terminal and stdout in a file, no line is lost to the terminal."""
    terminal = open_terminal(monkeypatch)
    for line in track(["first line", "second line"], "Printing", 2):
        print(line)
    assert capsys.readouterr().out == "first line\nsecond line\n"
    assert "first line" not in terminal.getvalue()


def test_nothing_is_shown_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("Fitting") as report:
        report(Progress(1, 2))
    assert report is ignore_progress
    assert list(track("ab", "Counting", 2)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")
