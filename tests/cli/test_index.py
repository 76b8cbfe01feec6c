"""The command `twotower index`."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.index.tiny import picture
from twotower.files import exclusive_lock
from twotower.index.catalog import Catalog

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "twotower", "index"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(*arguments: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.png", "trip/b.png", "trip/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(len(name) + ord(name[-5])))
    return tmp_path


def test_index_again_from_inside_and_list_errors(photos: Path) -> None:
    (photos / "bad\nname.jpg").write_bytes(b"nothing")
    done = run(photos, cwd=ROOT, code=1)
    assert (
        done.stdout.startswith("3 added in ")
        and "1 picture could not be read; list them" in done.stderr
    )
    done = run(cwd=photos / "trip")  # finds its library as git does
    assert done.stdout.startswith("4 unchanged in ")
    [line] = run("--errors", cwd=photos).stdout.splitlines()
    assert line.startswith("bad\\nname.jpg: not a picture")


def test_errors_in_arguments(photos: Path) -> None:
    assert "no library here" in run(cwd=photos, code=1).stderr
    assert "no such folder" in run("missing", cwd=photos, code=1).stderr
    assert "no library there" in run("--library", "missing", cwd=photos, code=1).stderr
    assert "missing: no such model" in run(".", "--model", "missing", cwd=photos, code=1).stderr
    assert not (photos / ".twotower").exists()


def test_a_nested_library_gives_a_warning(photos: Path) -> None:
    assert run(".", cwd=photos).stderr == ""
    done = run("trip", cwd=photos)
    assert done.stdout.startswith("2 added")
    assert "trip: lies in the library of ., and gets a separate library" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert run("trip", cwd=photos).stderr == ""


def test_a_library_elsewhere(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("libraries") / "mine"
    run("photos", "--library", elsewhere, cwd=photos, code=1)  # no such folder
    run(".", "--library", elsewhere, cwd=photos)
    assert not (photos / ".twotower").exists()
    assert "3 unchanged" in run("--library", elsewhere, cwd=ROOT).stdout


def test_ctrl_c_keeps_what_is_done(photos: Path) -> None:
    for seed in range(1000, 3000):
        (photos / f"{seed}.png").write_bytes(picture(seed))
    command = [*COMMAND, str(photos)]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not list(photos.glob(".twotower/vectors-1/ids")):
            time.sleep(0.02)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130 and errors == "stopped\n"
    with Catalog(photos / ".twotower") as catalog:
        assert 0 < len(catalog) < 2003


def test_watch_follows_changes(photos: Path) -> None:
    pytest.importorskip("watchfiles", reason="pip install 'twotower[watch]'")
    command = [*COMMAND, str(photos), "--watch"]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith("3 added")
        assert process.stderr.readline().startswith("watching ")
        time.sleep(0.5)
        (photos / "new.png").write_bytes(picture(77))
        assert process.stdout.readline().startswith("1 added")
        (photos / "new.png").rename(photos / "trip" / "new.png")
        assert process.stdout.readline().startswith("1 moved")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


@pytest.fixture
def watched(photos: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of `--watch` that has indexed three pictures."""
    pytest.importorskip("watchfiles", reason="pip install 'twotower[watch]'")
    with subprocess.Popen(
        [*COMMAND, str(photos), "--watch"],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline().startswith("3 added")
        assert process.stderr.readline().startswith("watching ")
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


def test_watch_waits_for_another_process(photos: Path, watched: subprocess.Popen[str]) -> None:
    with exclusive_lock(photos / ".twotower"):
        (photos / "new.png").write_bytes(picture(77))
        assert f"process {os.getpid()} is changing" in watched.stderr.readline()
    assert watched.stdout.readline().startswith("1 added")


def test_watch_continues_without_pictures(photos: Path, watched: subprocess.Popen[str]) -> None:
    for path in photos.rglob("*.png"):
        path.unlink()
    assert "is the disk mounted" in watched.stderr.readline()
    (photos / "new.png").write_bytes(picture(77))
    while not (line := watched.stdout.readline()).startswith("1 added"):
        assert "removed" in line  # if it ran before the last was deleted


def test_watch_detects_changes_during_the_first_index(photos: Path) -> None:
    pytest.importorskip("watchfiles", reason="pip install 'twotower[watch]'")
    for number in range(200, 300):
        (photos / f"{number}.png").write_bytes(picture(number))
    with subprocess.Popen(
        [*COMMAND, str(photos), "--watch"],
        env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not (photos / ".twotower" / "lock").exists():  # indexing has started
            time.sleep(0.01)
        time.sleep(0.3)  # the folder has been scanned
        (photos / "new.png").write_bytes(picture(77))
        added = 0
        while added < 104:  # at once or in two steps
            added += int(process.stdout.readline().partition(" added")[0])
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


def test_control_characters_in_names_are_escaped(photos: Path) -> None:
    (photos / "red\x1b[31m\x9b.jpg").write_bytes(b"nothing")
    run(photos, cwd=ROOT, code=1)
    done = run("--errors", cwd=photos / "trip")
    assert done.stdout.startswith(f"{photos}/red\\x1b[31m\\x9b.jpg: ")


def test_progress_on_a_terminal(photos: Path) -> None:
    for seed in range(1000, 1100):
        (photos / f"{seed}.png").write_bytes(picture(seed))
    terminal, terminal_end = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, str(photos)], env=ENVIRONMENT, stderr=terminal_end, stdout=-1
    )
    os.close(terminal_end)
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # the process has closed its end
        pass
    process.communicate()
    os.close(terminal)
    assert process.returncode == 0
    assert b"Indexing" in shown and b"/103" in shown and b"/s" in shown
