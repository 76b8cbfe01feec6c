import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.pairs.web_files import page, write_pages
from twotower.cli.main import main
from twotower.errors import PairsError
from twotower.pairs import part_workers
from twotower.pairs.candidates import CANDIDATE_SCHEMA, Candidate, Reason, part_files, read_part
from twotower.pairs.part_workers import Steps, make_parts
from twotower.pairs.web import CollectSettings, collect, collect_part


def captions(folder: Path) -> list[str]:
    return [c.caption for path in part_files(folder) for c in read_part(path)]


@pytest.fixture
def archives(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "in"
    folder.mkdir()
    paths = [folder / f"{number}.warc.gz" for number in range(4)]
    for number, path in enumerate(paths):
        write_pages(path, 5, number * 5)
    return paths


def test_a_part_has_the_schema_and_its_counts(tmp_path: Path, archives: list[Path]) -> None:
    counts = collect_part(archives[:1], tmp_path / "part-00000.parquet", CollectSettings())
    assert counts == {"pages": 5, "candidates": 5}
    table = pyarrow.parquet.read_table(tmp_path / "part-00000.parquet")
    assert table.schema.equals(CANDIDATE_SCHEMA)
    row = Candidate(**table.to_pylist()[0])
    assert row.url == "https://site.example/a0.jpg"
    assert next(read_part(tmp_path / "part-00000.parquet")) == row


def test_the_number_of_processes_changes_nothing(tmp_path: Path, archives: list[Path]) -> None:
    for processes in (1, 3):
        result = collect(archives, tmp_path / str(processes), processes=processes)
        assert result.counts == {"pages": 20, "candidates": 20}
        assert (result.parts_made, result.parts_kept, result.failures) == (4, 0, [])
    contents = [
        [path.read_bytes() for path in part_files(tmp_path / str(processes))]
        for processes in (1, 3)
    ]
    assert contents[0] == contents[1]
    assert captions(tmp_path / "1") == [f"Fox number {number}" for number in range(20)]


def test_kinds_of_sources_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write_pages(folder / "a.warc.gz", 1)
    saved = b"<link rel=canonical href='https://site.example/'>" + page(1)
    (folder / "deep" / "b.html").write_bytes(saved)
    (folder / "c.csv").write_text("url,caption\nhttps://h.example/c.jpg,Fox number 2\n")
    (folder / "d.rss").write_text(
        "<rss><item><title>Fox number 3</title>"
        "<enclosure url='https://h.example/d.jpg' type='image/jpeg'/></item></rss>"
    )
    (folder / "notes.txt").write_text("nothing")
    result = collect([folder], tmp_path / "out", processes=1)
    assert sorted(captions(tmp_path / "out")) == [f"Fox number {number}" for number in range(4)]
    assert result.counts["candidates"] == 4


def test_complete_parts_are_kept_and_changed_inputs_read_again(
    tmp_path: Path, archives: list[Path]
) -> None:
    out = tmp_path / "out"
    collect(archives[:2], out, processes=1)
    times = [path.stat().st_mtime_ns for path in part_files(out)]
    write_pages(archives[1], 7, 100)
    result = collect(archives, out, processes=1)
    assert (result.parts_made, result.parts_kept) == (3, 1)
    assert part_files(out)[0].stat().st_mtime_ns == times[0]
    assert sorted(captions(out)) == sorted(
        f"Fox number {number}" for number in [*range(5), *range(100, 107), *range(10, 20)]
    )
    with pytest.raises(PairsError, match="other options"):
        collect(archives, out, CollectSettings(keep_refused=True), processes=1)


def test_an_input_that_cannot_be_read_does_not_end_the_others(
    tmp_path: Path, archives: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "in" / "bad.csv"
    bad.write_text("link,words\n1,2\n")
    out = str(tmp_path / "out")
    arguments = ["pairs", "collect", str(bad), *map(str, archives), "--out", out]
    assert main([*arguments, "--processes", "1"]) == 1
    printed = capsys.readouterr()
    assert "no column of URLs" in printed.err
    assert "Collected 20 candidates from 20 pages" in printed.out
    bad.write_text("url,caption\nhttps://h.example/a.jpg,A fox\n")
    assert main([*arguments, "--processes", "1"]) == 0
    assert "Collected 21 candidates" in capsys.readouterr().out


def test_the_folder_of_candidates_may_lie_in_a_source(tmp_path: Path, archives: list[Path]) -> None:
    for _ in range(2):
        result = collect([tmp_path / "in"], tmp_path / "in" / "out", processes=1)
        assert result.counts == {"pages": 20, "candidates": 20}


def test_missing_and_unknown_sources(tmp_path: Path) -> None:
    (tmp_path / "a.doc").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, reason in (("none", "no such"), ("a.doc", "unknown kind"), ("empty", "no archives")):
        with pytest.raises(PairsError, match=reason):
            collect([tmp_path / name], tmp_path / "out")


@pytest.mark.slow
def test_kill_and_resume_lose_and_double_nothing(tmp_path: Path, archives: list[Path]) -> None:
    out = tmp_path / "out"
    for number in range(4, 12):
        archives.append(tmp_path / "in" / f"{number}.warc.gz")
        write_pages(archives[-1], 300, number * 300)
    command = [sys.executable, "-m", "twotower", "pairs", "collect", *map(str, archives)]
    command += ["--out", str(out), "--processes", "2"]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        before = len(list(out.glob("part-*"))) if out.exists() else 0
        while process.poll() is None and (
            not out.exists() or len(list(out.glob("part-*"))) < before + 2
        ):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    completed = subprocess.run(command, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    expected = [*range(20), *range(1200, 3600)]
    assert sorted(captions(out)) == sorted(f"Fox number {number}" for number in expected)
    assert not list(out.glob(".twotower-*"))


def test_two_runs_do_not_share_a_folder(tmp_path: Path, archives: list[Path]) -> None:
    from filelock import FileLock

    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(PairsError, match="another process"):
        collect(archives, out)


def crash_at_two(task: str, steps: Steps) -> None:
    """Write the numbers of the steps; step 2 crashes or hangs."""
    path = Path(task)
    numbers = []
    for number in range(5):
        if not steps.begin(0):
            continue
        if number == 2 and "crash" in path.name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 2 and "hang" in path.name:
            time.sleep(600)
        if number == 3 and "killed" in path.name and not path.with_suffix(".once").exists():
            path.with_suffix(".once").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 3 and "broken" in path.name:
            raise RuntimeError("a fault")
        numbers.append(number)
    path.write_text(" ".join(map(str, numbers)))


def run_steps(folder: Path, *names: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the steps that each task wrote, and the failures."""
    tasks = [str(folder / name) for name in names]
    results = dict(make_parts(tasks, crash_at_two, 2, lambda position: None))
    failures = {Path(task).name: failure for task, failure in results.items() if failure}
    return {name: (folder / name).read_text() for name in names if name not in failures}, failures


def test_a_step_that_crashes_twice_is_skipped(tmp_path: Path) -> None:
    steps, failures = run_steps(tmp_path, "crash", "fine", "killed", "broken")
    assert steps == {
        "crash": "0 1 3 4",
        "fine": "0 1 2 3 4",
        "killed": "0 1 2 3 4",  # a process that was killed once from outside loses nothing
    }
    assert failures.keys() == {"broken"}


@pytest.mark.slow
def test_a_step_that_hangs_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_workers, "MAX_SECONDS", 15.0)
    assert run_steps(tmp_path, "hang") == ({"hang": "0 1 3 4"}, {})


def test_reasons_are_documented() -> None:
    guide = Path(__file__).parents[2] / "docs" / "pairs-collect.md"
    text = guide.read_text(encoding="utf-8")
    assert [reason for reason in Reason if f"| {reason} |" not in text] == []
