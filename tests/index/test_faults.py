"""Faults on a user's machine: none loses a vector, duplicates it or assigns it to another id."""

import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.index.tiny import (
    TinyEncoder,
    assert_consistent,
    hash_of,
    index,
    opened,
    picture,
    rows_of,
)
from twotower.errors import LibraryError
from twotower.files import exclusive_lock
from twotower.index import reader, scan
from twotower.index.catalog import Catalog
from twotower.index.indexing import Indexing
from twotower.index.schema import RETRY
from twotower.library import Library

ROOT = Path(__file__).parents[2]
FORK = multiprocessing.get_context("forkserver")  # a clean, small process for each
FORK.set_forkserver_preload(["tests.index.tiny"])


class Album:
    """A folder of pictures that changes at random, and all contents that it has had."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        self.contents: dict[bytes, bytes] = {}
        self.next = 0

    def change(self) -> None:
        for _ in range(self.random.randint(1, 12)):
            files = sorted(self.root.rglob("*.png"))
            choice = self.random.random()
            if choice < 0.5 or len(files) < 5:
                self.write(self.new_path())
            elif choice < 0.6:
                self.random.choice(files).unlink()
            elif choice < 0.7:
                self.write(self.random.choice(files))  # another content
            elif choice < 0.8:
                os.utime(self.random.choice(files))
            elif choice < 0.9:
                self.random.choice(files).rename(self.new_path())
            else:
                source, target = self.random.sample(files, 2)  # swap two files
                source.rename(self.root / "between")
                target.rename(source)
                (self.root / "between").rename(target)

    def write(self, path: Path) -> None:
        content = picture(self.next)
        self.next += 1
        self.contents[hash_of(content)] = content
        path.write_bytes(content)

    def new_path(self) -> Path:
        folder = self.root / self.random.choice(["", "a", "b", "a/c"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.random.getrandbits(40)}.png"


def test_kill_at_any_moment(tmp_path: Path) -> None:
    """Kill fifty runs at random moments with SIGKILL, and change the folder between them."""
    album = Album(tmp_path, seed=1)
    for _ in range(6):
        album.change()
    killed, longest = 0, 1.0  # seconds that a complete run takes
    while killed < 50:
        child = FORK.Process(target=index, args=(tmp_path, 0.0))
        started = time.monotonic()
        child.start()
        child.join(album.random.uniform(0.0, longest))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        if child.exitcode == 0:
            longest = time.monotonic() - started
        else:
            killed += 1
        assert_consistent(tmp_path, album.contents, complete=child.exitcode == 0)
        album.change()
    index(tmp_path)
    assert_consistent(tmp_path, album.contents, complete=True)


@pytest.mark.parametrize("seed", range(3))
def test_changes_without_faults(tmp_path: Path, seed: int) -> None:
    album = Album(tmp_path, seed)
    for _ in range(12):
        album.change()
        index(tmp_path)
        assert_consistent(tmp_path, album.contents, complete=True)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    for seed in range(100):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))
    calls = 0

    class Interrupted(TinyEncoder):
        def encode_pixels(self, pixel_values: np.ndarray) -> np.ndarray:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise KeyboardInterrupt
            return super().encode_pixels(pixel_values)

    with opened(tmp_path) as (catalog, vectors), pytest.raises(KeyboardInterrupt):
        Indexing(catalog, vectors, Interrupted()).run()
    assert len(rows_of(tmp_path)) == 64  # both batches that were read
    assert index(tmp_path).added == 36


FULL = """
import resource, sys
from pathlib import Path
from tests.index import tiny
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
tiny.index(Path(sys.argv[1]), 0.0)
"""


@pytest.mark.parametrize("limit", [5_000, 40_000, 90_000, 200_000])
def test_a_full_disk(tmp_path: Path, limit: int) -> None:
    """Limit the size of files, so that writes fail halfway."""
    contents = {}
    for seed in range(300):
        contents[hash_of(picture(seed))] = picture(seed)
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))
    command = [sys.executable, "-c", FULL, tmp_path, str(limit)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    if (tmp_path / ".twotower" / "vectors").exists():
        assert_consistent(tmp_path, contents, complete=False)
    assert index(tmp_path).unchanged < 300
    assert_consistent(tmp_path, contents, complete=True)


def test_a_full_disk_is_a_library_error(
    tmp_path: Path, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    library = Library(tmp_path, model=tiny_directory)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        with pytest.raises(LibraryError, match=r"disk is full|make room"):
            library.index()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert library.index().added == 1


def test_a_second_process_gets_the_pid_of_the_holder(tmp_path: Path, tiny_directory: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    library = Library(tmp_path, model=tiny_directory)
    library.location.mkdir()
    code = (
        "import sys, time; from pathlib import Path; from twotower.files import *\n"
        "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, library.location]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LibraryError, match=f"process {holder.pid} is changing"):
            library.index()
        holder.kill()
        holder.wait()
        assert library.index().added == 1  # the lock ended with the process
    with exclusive_lock(library.location):
        pass


def test_a_catalog_of_a_newer_version(tmp_path: Path) -> None:
    Catalog(tmp_path, tmp_path).close()
    with sqlite3.connect(tmp_path / "catalog.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LibraryError, match=r"newer twotower.*pip install --upgrade"):
        Catalog(tmp_path)


def test_a_file_that_is_no_catalog(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite").write_bytes(os.urandom(9000))
    with pytest.raises(LibraryError, match="not a catalog"):
        Catalog(tmp_path)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """While another program writes, the picture is an error; afterwards it is indexed."""
    path = tmp_path / "growing.png"
    path.write_bytes(picture(1) + bytes(30_000_000))
    finished = threading.Event()

    def write() -> None:
        with path.open("ab") as file:
            while not finished.is_set():
                file.write(b"\0")
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        report = index(tmp_path)
    finally:
        finished.set()
        writer.join()
    row = rows_of(tmp_path)["growing.png"]
    assert report.failed == 1
    assert "changes while it is read" in row.error and row.mtime_ns == RETRY
    path.write_bytes(picture(1))
    assert index(tmp_path).added == 1


def test_a_file_deleted_before_it_is_read(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(1))
    files = scan.scan(tmp_path).files
    (tmp_path / "a.png").unlink()
    contents = [reader.PictureReader(tmp_path, TinyEncoder.preprocess)(file) for file in files]
    assert contents[0] is None and contents[1].record.path == "b.png"


def test_a_picture_bomb(tmp_path: Path) -> None:
    PIL.Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "good.png").write_bytes(picture(1))
    report = index(tmp_path)
    assert (report.added, report.failed) == (1, 1)
    assert "too large" in rows_of(tmp_path)["bomb.png"].error


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder for a test without the rights of root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    shutil.rmtree(folder)


def test_a_folder_without_permission_keeps_its_pictures(unprivileged: Path) -> None:
    contents = {hash_of(picture(seed)): picture(seed) for seed in range(4)}
    (unprivileged / "private").mkdir()
    for seed in range(3):
        (unprivileged / "private" / f"{seed}.png").write_bytes(picture(seed))
    (unprivileged / "open.png").write_bytes(picture(3))
    assert index(unprivileged).added == 4
    (unprivileged / "private").chmod(0)
    report = index(unprivileged)
    assert list(report.unreadable) == ["private"] and "denied" in report.unreadable["private"]
    assert (report.unchanged, report.removed) == (1, 0)
    assert len(rows_of(unprivileged)) == 4
    (unprivileged / "private").chmod(0o755)
    assert index(unprivileged).unchanged == 4
    assert_consistent(unprivileged, contents, complete=True)


def test_a_file_without_permission_is_tried_again(unprivileged: Path) -> None:
    path = unprivileged / "a.png"
    path.write_bytes(picture(1))
    path.chmod(0)
    assert index(unprivileged).failed == 1
    assert "check its permissions" in rows_of(unprivileged)["a.png"].error
    path.chmod(0o644)
    assert index(unprivileged).added == 1


def test_a_read_only_library_is_indexed_elsewhere(unprivileged: Path, tiny_directory: Path) -> None:
    photos, elsewhere, model = (unprivileged / name for name in ("photos", "elsewhere", "model"))
    photos.mkdir()
    (photos / "a.png").write_bytes(picture(1))
    photos.chmod(0o555)
    user = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)
    shutil.copytree(tiny_directory, model)
    for path in model.iterdir():
        path.chmod(0o644)
    os.seteuid(user)
    with pytest.raises(LibraryError, match="--library FOLDER"):
        Library(photos, model=model).index()
    library = Library(photos, model=model, location=elsewhere)
    assert library.index().added == 1
    library.close()
    for path in (*elsewhere.rglob("*"), elsewhere):
        path.chmod(0o555 if path.is_dir() else 0o444)
    reopened = Library(location=elsewhere)
    assert reopened.root == photos.resolve()
    assert len(reopened.vectors) == 1 and not reopened.catalog.writable
    assert reopened.catalog.pictures(reopened.vectors.ids())[0].path == "a.png"
    with pytest.raises(LibraryError):
        reopened.catalog.set_setting("a", "b")
    with pytest.raises(LibraryError, match="--library FOLDER"):
        reopened.index()
    reopened.close()


def test_an_empty_mount_point_does_not_empty_the_library(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    index(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(LibraryError, match="is the disk mounted"):
        index(tmp_path)
    assert len(rows_of(tmp_path)) == 1
    shutil.rmtree(tmp_path / ".twotower")
    assert index(tmp_path).unchanged == 0


def test_unusual_file_names(tmp_path: Path) -> None:
    names = [
        b"new\nline.png",
        "🦊 fox.png".encode(),
        b"\xff\xfe bytes.png",
        b" .png",
        b"a'b\"c.png",
    ]
    folder = os.fsencode(tmp_path)
    contents = {}
    for seed, name in enumerate(names):
        contents[hash_of(picture(seed))] = picture(seed)
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(picture(seed))
    assert index(tmp_path).added == len(names)
    assert {os.fsencode(path) for path in rows_of(tmp_path)} == set(names)
    assert index(tmp_path).unchanged == len(names)
    assert_consistent(tmp_path, contents, complete=True)
    with opened(tmp_path) as (catalog, _):
        [hit] = catalog.match_words("fox")
        assert catalog.pictures([hit])[0].path == "🦊 fox.png"
        assert len(catalog.match_words("\udcff")) == 0
        assert len(catalog.match_words('"" ( AND * -')) == 0


@pytest.mark.timeout(900)
def test_many_files_in_one_folder(tmp_path: Path) -> None:
    """Index 20,000 links to one file again: none is read, because none has changed."""
    (tmp_path / "0.png").write_bytes(picture(0))
    for number in range(1, 20_000 if os.environ.get("CI") else 5_000):
        try:
            os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            (tmp_path / f"{number}.png").write_bytes(picture(0))
    files = scan.scan(tmp_path).files
    rows = [reader.PictureReader(tmp_path, TinyEncoder.preprocess).without_pixels(files[0]).record]
    with opened(tmp_path) as (catalog, vectors):
        ids = np.arange(1, len(files) + 1)
        vectors.add(ids, np.zeros((len(ids), 16), np.float32))
        records = [
            replace(rows[0], id=int(number), path=os.fsdecode(file.path), mtime_ns=file.mtime_ns)
            for number, file in zip(ids, files, strict=True)
        ]
        catalog.replace([], records)
    start = time.monotonic()
    report = index(tmp_path)
    print(f"{len(files)} unchanged files in {time.monotonic() - start:.2f} s")
    assert report.unchanged == len(files)
