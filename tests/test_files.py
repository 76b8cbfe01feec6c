"""Atomic writes and the lock of a library, with real processes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from twotower import files
from twotower.errors import LibraryError
from twotower.files import (
    atomic_folder,
    atomic_write,
    create_folder,
    exclusive_lock,
    remove_leftovers,
)

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys, time
from pathlib import Path
from twotower.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(folder: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock of `folder` until it is killed."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def assert_lock_is_free(folder: Path) -> None:
    with exclusive_lock(folder):
        assert (folder / "lock.holder").read_text() == f"{os.getpid()}\n"
    assert not (folder / "lock.holder").exists()


def test_a_second_process_learns_the_holder(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        for _ in range(2):  # the attempt itself neither takes nor breaks the lock
            with pytest.raises(LibraryError) as error, exclusive_lock(tmp_path):
                pass
            assert error.value.subject == str(tmp_path)
            assert error.value.reason == f"process {holder.pid} is changing this library"
            assert error.value.remedy == "wait until it has finished, or stop it"
        holder.terminate()
        holder.wait()
    assert_lock_is_free(tmp_path)


def test_a_killed_process_leaves_no_stale_lock(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert (tmp_path / "lock.holder").read_text() == f"{holder.pid}\n"
        assert_lock_is_free(tmp_path)


def test_the_lock_file_stays_and_keeps_its_content(tmp_path: Path) -> None:
    """Removed, it could be locked twice: once by its old file, once by a new one of that name."""
    (tmp_path / "lock").write_text("4711\n")  # earlier versions wrote the process id here
    before = (tmp_path / "lock").stat().st_ino
    assert_lock_is_free(tmp_path)
    assert (tmp_path / "lock").stat().st_ino == before
    assert (tmp_path / "lock").read_text() in ("4711\n", "")  # some versions of filelock empty it


def test_a_lock_is_not_shared_within_a_process(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path):
        with (
            pytest.raises(LibraryError, match=f"process {os.getpid()} is"),
            exclusive_lock(tmp_path),
        ):
            pass
        with start_attempt(tmp_path) as attempt:
            assert f"process {os.getpid()} is changing" in attempt.communicate()[1]
    assert_lock_is_free(tmp_path)


def start_attempt(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_an_error_in_the_block_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), exclusive_lock(tmp_path):
        raise KeyboardInterrupt
    assert_lock_is_free(tmp_path)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that cannot be written, and a process without root's rights."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    shutil.rmtree(folder)


def test_a_read_only_folder_is_a_clear_error(read_only: Path) -> None:
    with pytest.raises(LibraryError) as error, exclusive_lock(read_only):
        pass
    assert error.value.subject == str(read_only)
    assert error.value.reason == "cannot be changed (Permission denied)"
    assert error.value.remedy == "keep the library elsewhere with --library FOLDER"
    with pytest.raises(LibraryError) as error:
        create_folder(read_only / "library")
    assert error.value.reason == "cannot be created (Permission denied)"


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_at_the_end_or_not_at_all(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path, sync=sync) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with atomic_write(path, sync=sync) as file:
        file.write("new\r\n")
        assert path.read_text() == "old"
    assert path.read_bytes() == b"new\r\n" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError) as error, atomic_write(tmp_path / "missing" / "a.txt"):
        pass
    assert error.value.filename == str(tmp_path / "missing" / "a.txt")


def test_a_folder_is_replaced_at_the_end_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as folder:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt
    assert (path / "a").read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with atomic_folder(path) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "b").write_text("new")
    assert [file.name for file in path.rglob("*")] == ["inner", "b"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_folder_is_kept_without_replace(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path, replace=False) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(OSError), atomic_folder(path, replace=False) as folder:
        (folder / "a").write_text("new")
    assert (path / "a").read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_replaced_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("old")
    rename = Path.rename

    def fail(source: Path, target: Path) -> Path:
        if source.name.startswith(".writing"):
            raise OSError(28, "No space left on device")
        return rename(source, target)

    monkeypatch.setattr(files.Path, "rename", fail)
    with pytest.raises(OSError), atomic_folder(path) as folder:
        (folder / "a").write_text("new")
    assert (path / "a").read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for name in (".writing-lists-1234", ".old-lists-1234", "lists", ".writing-others-1234"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("half")
    remove_leftovers(tmp_path / "lists")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-others-1234", "lists"]


def test_a_device_is_written_directly() -> None:
    script = (
        "from pathlib import Path\n"
        "from twotower.files import atomic_write\n"
        "with atomic_write(Path('/dev/stdout')) as file:\n"
        "    file.write('page')\n"
    )
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (completed.returncode, completed.stdout) == (0, "page"), completed.stderr
