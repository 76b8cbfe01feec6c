"""A journal of the changes to files, written before them, so that they can be undone.

The changes of a run are committed to SQLite, durably, before the first of its files is touched, and
a file changes in one step, by renaming. So whenever a run is killed, each of its files is either as
before or as the journal describes, and a hash tells which. A file that is neither was edited by a
person since: only our tags are removed from it.

`files.atomic_write` would not do here: a change is only made if the file still has the bytes that
it was planned for, a new file never replaces another one, owner and mode stay, and the temporary
files have names by which the next run finds those that a killed run left behind.
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
from typing import NamedTuple, TypeAlias

from twotower.errors import LibraryError, MetadataError
from twotower.files import create_folder, exclusive_lock, sync_folder
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
    path BLOB NOT NULL,        -- relative to the journal's folder
    before BLOB,               -- hashes; NULL if there was no file
    after BLOB,
    head INTEGER NOT NULL,     -- bytes at the beginning and at the end that stay the same
    tail INTEGER NOT NULL,
    middle BLOB NOT NULL,      -- the bytes between them before
    ours TEXT NOT NULL         -- JSON: tags of ours that were there before
);
CREATE INDEX IF NOT EXISTS changes_run ON changes (run);
"""


@dataclass(frozen=True)
class Change:
    """A change of one file.

    Attributes:
        before: the file's bytes now; None if there is no file.
        after: its bytes after the change; None to delete it.
        ours: our tags in it now.
    """

    path: Path
    before: bytes | None
    after: bytes | None
    ours: Mapping[Tag, float] = field(default_factory=dict)


PlanUntagging: TypeAlias = Callable[[Path, Mapping[Tag, float]], Change | None]
"""Return the change that keeps only the given tags of ours in a file; None if it has no others."""


class Outcome(NamedTuple):
    """A change and the error that prevented it, or None."""

    change: Change
    error: str | None


@dataclass(frozen=True)
class UndoReport:
    """The result of undoing a run, in files.

    Attributes:
        restored: byte for byte as before the run, or deleted again if the run had made them.
        untagged: edited by a person since; only our tags were removed.
        unchanged: nothing to undo: never written, or deleted since.
        errors: files that could not be restored, with the reason; `undo` tries them again.
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
        self._location = location.resolve()  # so that ".." in a relative path crosses no link
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive_lock(location))
                self._connection = sqlite3.connect(location / JOURNAL_FILE, isolation_level=None)
                stack.callback(self._connection.close)
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(_SCHEMA)
                self._remove_leftovers()
            except (sqlite3.Error, OSError) as error:
                reason = getattr(error, "strerror", None) or error
                raise LibraryError(
                    location / JOURNAL_FILE,
                    f"the journal of tags cannot be written ({reason})",
                    "keep the library elsewhere with --library FOLDER",
                ) from None
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Close the journal and release the library."""
        self._stack.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, changes: Iterable[Change]) -> Iterator[Outcome]:
        """Make changes as one run, each recorded before it is made.

        Changes are taken in batches, so their outcomes come a little later.
        """
        run, token = 0, secrets.token_hex(4)
        failed: list[tuple[int]] = []
        for batch in _batches(changes):
            run, numbers = self._record(run, token, batch)
            for number, change in zip(numbers, batch, strict=True):
                error = _make(change, _temporary_name(token, number))
                if error is not None:
                    failed.append((number,))
                yield Outcome(change, error)
            for folder in {change.path.parent for change in batch}:
                sync_folder(folder)
        self._finish(run, failed)

    def undo(self, untag: PlanUntagging) -> UndoReport:
        """Undo the last run that is not undone yet."""
        query = "SELECT id, token FROM runs WHERE id = (SELECT max(run) FROM changes)"
        last_run = self._connection.execute(query).fetchone()
        if last_run is None:
            return UndoReport()
        run, token = last_run
        self._connection.execute("UPDATE runs SET finished = 0 WHERE id = ?", [run])
        query = "SELECT id FROM changes WHERE run = ? ORDER BY id DESC"
        counts = {"restored": 0, "untagged": 0, "unchanged": 0}
        errors: list[str] = []
        undone: list[tuple[int]] = []
        folders: set[Path] = set()
        for (number,) in self._connection.execute(query, [run]).fetchall():
            record = self._read_record(number)
            folders.add(record.path.parent)
            count, change, error = _undo(record, untag)
            if error is None and change is not None:
                error = _make(change, _temporary_name(token, number))
            if error is None:
                counts[count] += 1
                undone.append((number,))
            else:
                errors.append(error)
        for folder in folders:
            sync_folder(folder)
        self._finish(run, undone)
        return UndoReport(**counts, errors=tuple(dict.fromkeys(errors)))

    def _record(self, run: int, token: str, batch: Iterable[Change]) -> tuple[int, list[int]]:
        """Commit changes that will be made. Returns the run's id, and those of the changes."""
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

    def _read_record(self, number: int) -> _Record:
        query = "SELECT path, before, after, head, tail, middle, ours FROM changes WHERE id = ?"
        row = self._connection.execute(query, [number]).fetchone()
        path, before, after, head, tail, middle, ours = row
        file = Path(os.path.normpath(self._location / os.fsdecode(path)))
        tags = {tuple(tag): float(probability) for tag, probability in json.loads(ours)}
        return _Record(file, before, after, head, tail, middle, tags)

    def _finish(self, run: int, deleted: Iterable[tuple[int]]) -> None:
        """Mark a run as finished and delete changes from it, in one transaction.

        A process killed before that repeats its work, which changes nothing.
        """
        with self._transaction():
            self._connection.executemany("DELETE FROM changes WHERE id = ?", deleted)
            self._connection.execute("UPDATE runs SET finished = 1 WHERE id = ?", [run])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()

    def _remove_leftovers(self) -> None:
        """Remove the temporary files of runs that were killed."""
        rows = self._connection.execute(
            "SELECT path, token, changes.id FROM changes JOIN runs ON run = runs.id "
            "WHERE NOT finished"
        ).fetchall()
        for path, token, number in rows:
            file = self._location / os.fsdecode(path)
            with contextlib.suppress(OSError):
                file.resolve().with_name(_temporary_name(token, number)).unlink()
        self._connection.execute("UPDATE runs SET finished = 1 WHERE NOT finished")


class _Record(NamedTuple):
    """A row of the journal; `before` and `after` are hashes, see `_SCHEMA`."""

    path: Path
    before: bytes | None
    after: bytes | None
    head: int
    tail: int
    middle: bytes
    ours: Mapping[Tag, float]


def _temporary_name(token: str, number: int) -> str:
    return f".twotower-{token}-{number}"


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


def _undo(record: _Record, untag: PlanUntagging) -> tuple[str, Change | None, str | None]:
    """Return the field of `UndoReport` to count a record in, the change to make, or an error."""
    file = record.path
    try:
        content = read_bytes(file)
    except OSError as error:
        return "", None, f"{file}: cannot be read ({error.strerror}); check its permissions"
    if _hash(content) == record.before:
        return "unchanged", None, None
    if _hash(content) == record.after:
        return "restored", Change(file, content, _restored(content or b"", record)), None
    if content is None:
        return "unchanged", None, None
    try:
        change = untag(file, record.ours)
    except MetadataError as error:
        return "", None, str(error)
    return "untagged" if change else "unchanged", change, None


def _restored(content: bytes, record: _Record) -> bytes | None:
    """Return a file's bytes before the change from those after it."""
    if record.before is None:
        return None
    return content[: record.head] + record.middle + content[len(content) - record.tail :]


def read_bytes(path: Path) -> bytes | None:
    """Read a file; None if there is none. Raises `OSError` if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _make(change: Change, temporary_name: str) -> str | None:
    """Make a change unless the file has other bytes than `before`.

    Returns:
        None, or the reason why the change could not be made.
    """
    path = change.path.resolve()  # the target of a link
    temporary = path.with_name(temporary_name)
    conflict = f"{change.path}: has changed since it was read; left as it is, tag again"
    try:
        if read_bytes(path) != change.before:
            return conflict
        if change.before is not None and not os.access(path, os.W_OK):
            return f"{change.path}: is read-only; left as it is"
        if change.after is not None:
            _write(temporary, change.after, path if change.before is not None else None)
            if read_bytes(path) != change.before:  # writing took a moment
                return conflict
        if change.after is None:
            path.unlink()
        elif change.before is None:
            _rename_to_new(temporary, path)
        else:
            temporary.replace(path)
        return None
    except (FileExistsError, FileNotFoundError):
        return conflict
    except OSError as error:
        return _reason(error, change.path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _reason(error: OSError, path: Path) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path.parent}: cannot be written to ({error.strerror}); check its permissions"
    return f"{path}: cannot be written ({error.strerror or error}); left as it is"


_NO_HARD_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)  # such as exFAT, of memory cards


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Give a file its name. Raises `FileExistsError` if another one has it."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS or path.exists():
            raise
        temporary.rename(path)


def _write(path: Path, content: bytes, original: Path | None) -> None:
    """Write a file durably, with the owner and the mode of the file `original`."""
    with path.open("wb") as file:
        if original is not None:
            status = original.stat()
            if sys.platform != "win32":
                with contextlib.suppress(OSError):  # only root may
                    os.chown(path, status.st_uid, status.st_gid)
            path.chmod(stat.S_IMODE(status.st_mode))
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _hash(content: bytes | None) -> bytes | None:
    return None if content is None else hashlib.sha256(content).digest()


def _common(before: bytes, after: bytes) -> tuple[int, int]:
    """Return how many bytes two contents share at the beginning, and at the end after those."""
    head = _common_prefix(before, after)
    limit = min(len(before), len(after)) - head
    tail = _common_prefix(before[len(before) - limit :][::-1], after[len(after) - limit :][::-1])
    return head, tail


def _common_prefix(before: bytes, after: bytes) -> int:
    """Return the length of the common prefix, by bisection."""
    low, high = 0, min(len(before), len(after))
    while low < high:
        middle = (low + high + 1) // 2
        if before[low:middle] == after[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _relative(path: Path, location: Path) -> str:
    path = path.parent.resolve() / path.name
    try:
        return os.path.relpath(path, location)
    except ValueError:  # on another drive
        return str(path)
