"""What tagging has written to files, noted before it happens, so that it can be taken back.

A run's changes are committed to SQLite (on the disk, by its own rules) before the first file of
them is touched, and a file changes in one step, by renaming. So whenever a run dies, each of its
files is either as it was or as the journal says, and a hash tells which. A file that is neither has
been edited by a person since: of it only our tags are taken back.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from twotower.errors import LibraryError, MetadataError
from twotower.files import create_folder, exclusive_lock
from twotower.metadata.ownership import Tag

JOURNAL_FILE = "tags.sqlite"
BATCH_SIZE = 100
BATCH_BYTES = 2**26  # of files, before and after

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL,       -- in the names of its temporary files
    finished INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS changes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL REFERENCES runs (id),
    path BLOB NOT NULL,        -- as seen from the journal's folder
    before BLOB,               -- hashes; NULL where there was no file
    after BLOB,
    head INTEGER NOT NULL,     -- bytes at the beginning and at the end that stay the same
    tail INTEGER NOT NULL,
    middle BLOB NOT NULL,      -- what was between them before
    ours TEXT NOT NULL         -- JSON: tags of ours that were there before
);
CREATE INDEX IF NOT EXISTS changes_run ON changes (run);
"""


@dataclass(frozen=True)
class Change:
    """A file's bytes now and as they shall be (None: no file), and our tags in it now."""

    path: Path
    before: bytes | None
    after: bytes | None
    ours: Mapping[Tag, float] = field(default_factory=dict)


class Outcome(NamedTuple):
    """What became of a change; `error` says why nothing did."""

    change: Change
    error: str | None


@dataclass(frozen=True)
class UndoReport:
    """What undoing did, in files.

    Attributes:
        restored: byte for byte as before the run, or gone again if it had made them.
        untagged: edited by a person since; only our tags were taken back.
        unchanged: nothing to take back: never written, or deleted since.
        errors: files that could not be brought back, with the reason; `undo` tries them again.
    """

    restored: int = 0
    untagged: int = 0
    unchanged: int = 0
    errors: tuple[str, ...] = ()


class Journal:
    """The journal in the library folder `location`, for one process at a time.

    Raises:
        LibraryError: the folder cannot be made or written, or another process is changing it.
    """

    def __init__(self, location: Path) -> None:
        create_folder(location)
        self._location = location.resolve()  # "..", from here, is not through a link
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive_lock(location))
                self._connection = sqlite3.connect(location / JOURNAL_FILE, isolation_level=None)
                stack.callback(self._connection.close)
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(_SCHEMA)
                self._clear_away()
            except (sqlite3.Error, OSError) as error:
                reason = getattr(error, "strerror", None) or error
                raise LibraryError(
                    f"{location / JOURNAL_FILE}: the journal of tags cannot be written ({reason}); "
                    "keep the library elsewhere with: --library FOLDER"
                ) from None
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Let go of the file and of the library."""
        self._stack.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, changes: Iterable[Change]) -> Iterator[Outcome]:
        """Make changes, as one run: each is noted before it is made.

        Changes are taken in batches, so their outcomes come a little later.
        """
        run, token = 0, secrets.token_hex(4)
        failed: list[tuple[int]] = []
        for batch in _batches(changes):
            run, numbers = self._note(run, token, batch)
            for number, change in zip(numbers, batch, strict=True):
                error = _attempt(change, f".twotower-{token}-{number}")
                if error is not None:
                    failed.append((number,))
                yield Outcome(change, error)
            for folder in {change.path.parent for change in batch}:
                _settle(folder)
        with self._transaction():
            self._connection.executemany("DELETE FROM changes WHERE id = ?", failed)
            self._connection.execute("UPDATE runs SET finished = 1 WHERE id = ?", [run])

    def undo(self, untag: Callable[[Path, Mapping[Tag, float]], Change | None]) -> UndoReport:
        """Take back the last run that is not taken back yet.

        Args:
            untag: the change that leaves only the given ones of our tags in a file; None if that
                is so already.
        """
        query = "SELECT id, token FROM runs WHERE id = (SELECT max(run) FROM changes)"
        last = self._connection.execute(query).fetchone()
        if last is None:
            return UndoReport()
        run, token = last
        self._connection.execute("UPDATE runs SET finished = 0 WHERE id = ?", [run])
        query = "SELECT id FROM changes WHERE run = ? ORDER BY id DESC"
        numbers = [number for (number,) in self._connection.execute(query, [run])]
        counts = {"restored": 0, "untagged": 0, "unchanged": 0}
        errors: list[str] = []
        settled: list[tuple[int]] = []
        folders: set[Path] = set()
        for number in numbers:
            path, *row = self._connection.execute(
                "SELECT path, before, after, head, tail, middle, ours FROM changes WHERE id = ?",
                [number],
            ).fetchone()
            file = Path(os.path.normpath(self._location / os.fsdecode(path)))
            folders.add(file.parent)
            done, change, error = _way_back(file, untag, *row)
            if error is None and change is not None:
                error = _attempt(change, f".twotower-{token}-{number}")
            if error is None:
                counts[done] += 1
                settled.append((number,))
            else:
                errors.append(error)
        for folder in folders:
            _settle(folder)
        with self._transaction():  # dying before, all is done again, which changes nothing
            self._connection.executemany("DELETE FROM changes WHERE id = ?", settled)
            self._connection.execute("UPDATE runs SET finished = 1 WHERE id = ?", [run])
        return UndoReport(**counts, errors=tuple(dict.fromkeys(errors)))

    def _note(self, run: int, token: str, batch: Iterable[Change]) -> tuple[int, list[int]]:
        """Commit what is about to happen. Returns the run, and the numbers of the changes."""
        numbers = []
        with self._transaction():
            if not run:
                query = "INSERT INTO runs (token, finished) VALUES (?, 0)"
                run = int(self._connection.execute(query, [token]).lastrowid or 0)
            for change in batch:
                before, after = change.before or b"", change.after or b""
                head, tail = _common(before, after)
                row = (
                    run,
                    os.fsencode(_relative(change.path, self._location)),
                    _hash(change.before),
                    _hash(change.after),
                    head,
                    tail,
                    before[head : len(before) - tail],
                    json.dumps([[tag, probability] for tag, probability in change.ours.items()]),
                )
                query = f"INSERT INTO changes VALUES (NULL, {', '.join('?' * len(row))})"
                numbers.append(int(self._connection.execute(query, row).lastrowid or 0))
        return run, numbers

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()

    def _clear_away(self) -> None:
        """Remove the temporary files of runs that died."""
        rows = self._connection.execute(
            "SELECT path, token, changes.id FROM changes JOIN runs ON run = runs.id "
            "WHERE NOT finished"
        ).fetchall()
        for path, token, number in rows:
            file = self._location / os.fsdecode(path)
            with contextlib.suppress(OSError):
                file.resolve().with_name(f".twotower-{token}-{number}").unlink()
        self._connection.execute("UPDATE runs SET finished = 1 WHERE NOT finished")


def _batches(changes: Iterable[Change]) -> Iterator[list[Change]]:
    batch: list[Change] = []
    size = 0
    for change in changes:
        batch.append(change)
        size += len(change.before or b"") + len(change.after or b"")
        if len(batch) >= BATCH_SIZE or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _way_back(
    file: Path,
    untag: Callable[[Path, Mapping[Tag, float]], Change | None],
    before: bytes | None,
    after: bytes | None,
    head: int,
    tail: int,
    middle: bytes,
    ours: str,
) -> tuple[str, Change | None, str | None]:
    """How a row of the journal is undone: what to count it as, the change, or an error."""
    try:
        now = read(file)
    except OSError as error:
        return "", None, f"{file}: cannot be read ({error.strerror}); check its rights"
    if _hash(now) == before:
        return "unchanged", None, None
    if _hash(now) == after:
        same = now or b""
        back = None if before is None else same[:head] + middle + same[len(same) - tail :]
        return "restored", Change(file, now, back), None
    if now is None:
        return "unchanged", None, None
    tags = {tuple(tag): float(probability) for tag, probability in json.loads(ours)}
    try:
        change = untag(file, tags)
    except MetadataError as error:
        return "", None, str(error)
    return "untagged" if change else "unchanged", change, None


def read(path: Path) -> bytes | None:
    """A file's bytes; None if there is none. Raises `OSError` if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _attempt(change: Change, temporary: str) -> str | None:
    """Make a change unless the file is not what it was. Returns why it could not be made."""
    path = change.path.resolve()  # of a link, what it leads to
    beside = path.with_name(temporary)
    changed = f"{change.path}: has changed since it was read; left as it is, tag again"
    try:
        if read(path) != change.before:
            return changed
        if change.before is not None and not os.access(path, os.W_OK):
            return f"{change.path}: is read-only; left as it is"
        if change.after is not None:
            _write(beside, change.after, path if change.before is not None else None)
            if read(path) != change.before:  # this took a moment
                return changed
        if change.after is None:
            path.unlink()
        elif change.before is None:
            _put_new(beside, path)
        else:
            beside.replace(path)
        return None
    except (FileExistsError, FileNotFoundError):
        return changed
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return (
                f"{change.path.parent}: cannot be written to ({error.strerror}); check its rights"
            )
        return f"{change.path}: cannot be written ({error.strerror or error}); left as it is"
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _put_new(beside: Path, path: Path) -> None:
    """Give a file its name. Raises `FileExistsError` where one has just appeared."""
    try:
        os.link(beside, path)
    except OSError as error:
        if error.errno not in _NO_LINKS or path.exists():
            raise
        beside.rename(path)


_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # such as exFAT, of memory cards


def _write(path: Path, content: bytes, like: Path | None) -> None:
    """A file that is on the disk when this returns, with the owner and the mode of `like`."""
    with path.open("wb") as file:
        if like is not None:
            before = like.stat()
            if sys.platform != "win32":
                with contextlib.suppress(OSError):  # only root may
                    os.chown(path, before.st_uid, before.st_gid)
            path.chmod(stat.S_IMODE(before.st_mode))
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _settle(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can say so."""
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _hash(content: bytes | None) -> bytes | None:
    return None if content is None else hashlib.sha256(content).digest()


def _common(one: bytes, other: bytes) -> tuple[int, int]:
    """How many bytes two texts share at the beginning, and at the end behind those."""
    head = _shared(one, other)
    most = min(len(one), len(other)) - head
    return head, _shared(one[len(one) - most :][::-1], other[len(other) - most :][::-1])


def _shared(one: bytes, other: bytes) -> int:
    """The length of the common beginning, by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _relative(path: Path, location: Path) -> str:
    path = path.parent.resolve() / path.name
    try:
        return os.path.relpath(path, location)
    except ValueError:  # on another drive
        return str(path)
