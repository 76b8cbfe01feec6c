"""The catalog of a library: one SQLite file with the facts about each picture.

The id of a picture stands for one content: a moved file keeps its id, a changed one gets a new id.
So the vector of an id never changes. A row is committed after its vector has reached the disk;
vectors without a row are leftovers of a crash and are ignored.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from twotower.arrays import Float64Array, Int64Array
from twotower.errors import LibraryError
from twotower.files import create_folder
from twotower.index.schema import (
    MIGRATIONS,
    PICTURE_COLUMNS,
    Correction,
    FileState,
    ModelRecord,
    PictureRecord,
    PictureShape,
)

LIBRARY_FOLDER = ".twotower"  # in the folder of pictures
CATALOG_FILE = "catalog.sqlite"
# Settings: progress of unfinished indexing with the model in use, such as "2 of 9"; the same with
# another model, which is to replace it; and the model that `Index.refine` changes to, "" for none.
STOPPED_AT, REPLACED_TO, BETTER_MODEL = "stopped_at", "replaced_to", "better_model"

_BATCH = 500  # parameters of one SQL statement


def find_library(start: Path) -> Path | None:
    """Return the library folder in `start` or in the nearest folder above it, as git does."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / LIBRARY_FOLDER / CATALOG_FILE).is_file():
            return folder / LIBRARY_FOLDER
    return None


class Catalog:
    """The catalog in the folder `location`; created there, for the pictures in `root`, if missing.

    Attributes:
        location: the folder with the catalog and, unless they are stored elsewhere, the vectors.
        root: the folder of pictures.
        name: a few random letters, different for each library.
        writable: False on a read-only disk.
    """

    def __init__(self, location: Path, root: Path | None = None) -> None:
        """Open the catalog, or create it if `root` is not None.

        Raises:
            LibraryError: there is none and `root` is None; the file is no catalog, or one of a
                newer version; it belongs to another root.
        """
        self.location = location
        path = location / CATALOG_FILE
        if not path.exists():
            if root is None:
                raise LibraryError(location, "no library there", "make one with: twotower index")
            create_folder(location)
        with _sqlite_errors(path):
            self._connection, self.writable = _connect(path)
        try:
            with _sqlite_errors(path):
                self._migrate()
            if root is not None and self.writable:
                self._store_root(root)
            self.root = self._stored_root()
            self.name = self.get_setting("name") or ""
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of readable pictures."""
        query = """
            SELECT (SELECT count(*) FROM pictures)
                - (SELECT count(*) FROM pictures WHERE error IS NOT NULL)
        """
        return int(self._connection.execute(query).fetchone()[0])

    # Reading pictures

    def pictures(self, ids: Iterable[int]) -> list[PictureRecord]:
        """Return the records of `ids`, in that order; ids without a record are left out."""
        ids = [int(number) for number in ids]
        records: dict[int, PictureRecord] = {}
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            condition = f"id IN ({_marks(len(batch))})"
            records.update((record.id, record) for record in self._records(condition, batch))
        return [records[number] for number in ids if number in records]

    def select(self, where: str = "1", parameters: Sequence[Any] = ()) -> Int64Array:
        """Return the ids of the readable pictures for which an SQL condition on `pictures` holds.

        Returns:
            ids [n], ascending.
        """
        query = f"SELECT id FROM pictures WHERE error IS NULL AND ({where}) ORDER BY id"
        rows = self._connection.execute(query, parameters)
        return np.fromiter((row[0] for row in rows), np.int64)

    def in_folder(self, folder: str) -> tuple[str, list[Any]]:
        """Return condition and parameters, for `select`: pictures in `folder` and below it."""
        prefix = os.fsencode(folder.strip("/")) + b"/"
        return "path >= ? AND path < ?", [prefix, prefix[:-1] + b"0"]  # "0" follows "/"

    def match_words(self, query: str) -> Int64Array:
        """Return ids of pictures with any word of `query` in path or keywords, best match first."""
        words = fold_words(query.replace('"', " ")).split()
        if not words:
            return np.zeros(0, np.int64)
        expression = " OR ".join(f'"{word}"' for word in words)
        try:
            rows = self._connection.execute(
                "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid", [expression]
            ).fetchall()
        except UnicodeEncodeError:  # no such word is in the table
            return np.zeros(0, np.int64)
        return np.array([row[0] for row in rows], np.int64)

    def errors(self) -> list[PictureRecord]:
        """Return the records of unreadable pictures, by path."""
        return list(self._records("error IS NOT NULL ORDER BY path"))

    def shapes(self) -> list[PictureShape]:
        """Return id, size and date of all readable pictures, the newest first, then by path."""
        rows = self._connection.execute(
            "SELECT id, width, height, taken FROM pictures WHERE error IS NULL "
            "ORDER BY taken IS NULL, taken DESC, path"
        )
        return [PictureShape(*row) for row in rows]

    def find_path(self, path: str) -> PictureRecord | None:
        """Return the readable picture at a path relative to the root, in any normal form."""
        forms = {unicodedata.normalize(form, path) for form in ("NFC", "NFD")} | {path}
        try:
            names = [os.fsencode(name) for name in forms]
        except UnicodeEncodeError:
            return None
        condition = f"error IS NULL AND path IN ({_marks(len(names))})"
        return next(self._records(condition, names), None)

    def cameras(self, limit: int) -> list[str]:
        """Return the cameras of most pictures, most frequent first."""
        rows = self._connection.execute(
            "SELECT camera FROM pictures WHERE error IS NULL AND camera != '' "
            "GROUP BY camera ORDER BY count(*) DESC, camera LIMIT ?",
            [limit],
        )
        return [row[0] for row in rows]

    def count_errors(self) -> int:
        """Return the number of unreadable pictures."""
        query = "SELECT count(*) FROM pictures WHERE error IS NOT NULL"
        return int(self._connection.execute(query).fetchone()[0])

    def records(self) -> Iterator[PictureRecord]:
        """Yield all records, of readable and unreadable pictures."""
        return self._records("1")

    def file_states(self) -> dict[bytes, FileState]:
        """Return the state of each indexed file, by path."""
        query = "SELECT path, id, size, mtime_ns, sidecar_ns, ctime_ns FROM pictures"
        return {row[0]: FileState(*row[1:]) for row in self._connection.execute(query)}

    def next_id(self) -> int:
        """Return an id that no picture has or had."""
        return int(self.get_setting("next_id") or 1)

    def _records(self, where: str, parameters: Sequence[Any] = ()) -> Iterator[PictureRecord]:
        query = f"SELECT {', '.join(PICTURE_COLUMNS)} FROM pictures WHERE {where}"
        for number, path, *values in self._connection.execute(query, parameters):
            yield PictureRecord(number, os.fsdecode(path), *values)

    # Changing pictures

    def replace(self, removed: Iterable[int], records: Sequence[PictureRecord]) -> None:
        """Delete the pictures `removed` and store `records`, in one transaction.

        A record replaces those with its id or its path.
        """
        deleted = [(int(number),) for number in removed] + [(record.id,) for record in records]
        rows = [(record.id, os.fsencode(record.path), *astuple(record)[2:]) for record in records]
        words = [
            (record.id, fold_words(_valid_text(record.path)), fold_words(record.keywords))
            for record in records
        ]
        columns, marks = ", ".join(PICTURE_COLUMNS), _marks(len(PICTURE_COLUMNS))
        with self._transaction() as execute_many:
            execute_many("DELETE FROM words WHERE rowid = ?", deleted)
            execute_many("DELETE FROM pictures WHERE id = ?", deleted)
            execute_many(
                "DELETE FROM words WHERE rowid = (SELECT id FROM pictures WHERE path = ?)",
                [(row[1],) for row in rows],
            )
            execute_many(f"REPLACE INTO pictures ({columns}) VALUES ({marks})", rows)
            execute_many("INSERT INTO words (rowid, path, keywords) VALUES (?, ?, ?)", words)
            if records:
                next_id = max(self.next_id(), 1 + max(record.id for record in records))
                execute_many(_SET, [("next_id", str(next_id))])

    def set_change_times(self, times: Mapping[int, int]) -> None:
        """Store `PictureRecord.ctime_ns` by id, for rows of an earlier version."""
        rows = [(time, number) for number, time in times.items()]
        with self._transaction() as execute_many:
            execute_many("UPDATE pictures SET ctime_ns = ? WHERE id = ?", rows)

    # Settings

    def get_setting(self, name: str) -> str | None:
        """Return the text that `set_setting` stored under `name`, if any."""
        query = "SELECT value FROM settings WHERE name = ?"
        row = self._connection.execute(query, [name]).fetchone()
        return row[0] if row else None

    def set_setting(self, name: str, value: str) -> None:
        """Store a text under `name`."""
        with self._transaction() as execute_many:
            execute_many(_SET, [(name, value)])

    # Tags

    def corrections(self) -> list[Correction]:
        """Return the corrections, by tag and then by the id of the picture.

        Files with equal content share corrections: there is one for each of them.
        """
        query = (
            "SELECT tag, corrections.content_hash, accepted, id FROM corrections "
            "LEFT JOIN pictures ON pictures.content_hash = corrections.content_hash "
            "AND error IS NULL ORDER BY tag, id"
        )
        return [
            Correction(tag, content, bool(accepted), number)
            for tag, content, accepted, number in self._connection.execute(query)
        ]

    def correct(self, corrections: Iterable[tuple[str, bytes, bool | None]]) -> None:
        """Store corrections: tag, content hash, and accepted or not; None deletes the correction.

        Of several for a tag and a content, the latest counts.
        """
        latest = {(tag, content): accepted for tag, content, accepted in corrections}
        with self._transaction() as execute_many:
            execute_many("DELETE FROM corrections WHERE tag = ? AND content_hash = ?", latest)
            execute_many(
                "INSERT INTO corrections (tag, content_hash, accepted) VALUES (?, ?, ?)",
                [(*key, accepted) for key, accepted in latest.items() if accepted is not None],
            )

    def keywords(self) -> dict[int, list[str]]:
        """Return the keywords that people gave, by picture; see `PictureRecord.keywords`."""
        query = "SELECT id, keywords FROM pictures WHERE error IS NULL AND keywords != ''"
        return {number: text.split("\n") for number, text in self._connection.execute(query)}

    def measures(self, ids: Sequence[int]) -> dict[int, Float64Array]:
        """Return the stored measurements of pixels, by picture; others are left out."""
        measures: dict[int, Float64Array] = {}
        for start in range(0, len(ids), _BATCH):
            batch = [int(number) for number in ids[start : start + _BATCH]]
            query = f"SELECT id, facts FROM measures WHERE id IN ({_marks(len(batch))})"
            for number, facts in self._connection.execute(query, batch):
                measures[number] = np.frombuffer(facts, np.float32).astype(np.float64)
        return measures

    def add_measures(self, measures: dict[int, Float64Array]) -> None:
        """Store measurements of pixels, and delete those of pictures that were removed."""
        rows = [(number, facts.astype(np.float32).tobytes()) for number, facts in measures.items()]
        with self._transaction() as execute_many:
            execute_many("REPLACE INTO measures (id, facts) VALUES (?, ?)", rows)
            execute_many("DELETE FROM measures WHERE id NOT IN (SELECT id FROM pictures)", [()])

    # Models

    @property
    def model(self) -> ModelRecord | None:
        """The model whose vectors are searched; None before the first picture is indexed."""
        number = self.get_setting("model")
        return self._models("id = ?", [int(number)])[0] if number else None

    def models(self) -> list[ModelRecord]:
        """Return all models that have vectors here, also unfinished ones."""
        return self._models("1 ORDER BY id")

    def add_model(self, record: ModelRecord) -> ModelRecord:
        """Store a model, or update the one with its fingerprint and `vectors`; return it with id.

        If `vectors` may contain a password, the catalog becomes readable for its owner alone.
        """
        if re.search("@|password=", record.vectors or ""):
            for path in self.location.glob(f"{CATALOG_FILE}*"):
                path.chmod(0o600)
        row = (*astuple(record)[1:-1], record.vectors or "")
        with self._transaction() as execute_many:
            execute_many(
                "INSERT INTO models (name, source, fingerprint, files, embed_dim, vectors) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (fingerprint, vectors) DO UPDATE SET "
                "name = excluded.name, source = excluded.source, files = excluded.files",
                [row],
            )
        where = "fingerprint = ? AND vectors = ?"
        return self._models(where, [record.fingerprint, record.vectors or ""])[0]

    def use_model(self, record: ModelRecord) -> None:
        """Make this the model whose vectors are searched."""
        self.set_setting("model", str(record.id))

    def set_fingerprint(self, record: ModelRecord, fingerprint: str) -> None:
        """Store another form of a model's fingerprint."""
        with self._transaction() as execute_many:
            execute_many(
                "UPDATE models SET fingerprint = ? WHERE id = ?", [(fingerprint, record.id)]
            )

    def remove_model(self, record: ModelRecord) -> None:
        """Delete the row of a model; its vectors are left to the caller."""
        with self._transaction() as execute_many:
            execute_many("DELETE FROM models WHERE id = ?", [(record.id,)])

    def _models(self, where: str, parameters: Sequence[Any] = ()) -> list[ModelRecord]:
        query = (
            "SELECT id, name, source, fingerprint, files, embed_dim, nullif(vectors, '') "
            f"FROM models WHERE {where}"
        )
        return [ModelRecord(*row) for row in self._connection.execute(query, parameters)]

    # The folder of pictures

    def previous_root(self) -> Path | None:
        """Return the former folder of pictures if the library was moved away from it, else None.

        A library inside its folder of pictures may be moved together with them.
        """
        stored, root = self.get_setting("last_root"), self._stored_root()
        if stored is None or _decode_path(stored) == root:
            return None
        sample = self._connection.execute("SELECT path FROM pictures LIMIT 100").fetchall()
        if not sample or any((root / os.fsdecode(path)).exists() for (path,) in sample):
            return None
        return _decode_path(stored)

    def _store_root(self, root: Path) -> None:
        """Store the folder of pictures.

        Raises:
            LibraryError: the library belongs to another folder, which still exists.
        """
        if self.get_setting("root") is None:
            self.set_setting("name", secrets.token_hex(4))
        else:
            before = self.previous_root() or self._stored_root()
            if before.is_dir() and not before.samefile(root):
                raise LibraryError(
                    self.location,
                    f"is the library of {before}",
                    f"keep that of {root} elsewhere with --library FOLDER",
                )
        self.set_setting("root", _relative_root(root, self.location))
        self.set_setting("last_root", _encode_path(root.resolve()))

    def _stored_root(self) -> Path:
        stored = self.get_setting("root")
        if stored is None:
            raise LibraryError(
                self.location,
                "names no folder of pictures",
                f"run: twotower index PICTURES --library {self.location}",
            )
        return (self.location / _decode_path(stored)).resolve()

    # The file

    def _migrate(self) -> None:
        """Bring the schema up to date.

        Raises:
            LibraryError: it is of a newer version, or of an older one and cannot be written.
        """
        self._connection.create_function("fold_words", 1, fold_words)
        version = self._schema_version()
        if version > len(MIGRATIONS):
            raise LibraryError(
                self.location / CATALOG_FILE,
                f"written by a newer twotower (its version is {version}, this one reads up to "
                f"{len(MIGRATIONS)})",
                "pip install --upgrade twotower",
            )
        if version < len(MIGRATIONS) and not self.writable:
            raise LibraryError(
                self.location / CATALOG_FILE,
                "of an older version, and read-only here",
                "copy it to where it can be written",
            )
        for number in range(version + 1, len(MIGRATIONS) + 1):
            with self._transaction():
                if self._schema_version() < number:  # no other process has done this step
                    for statement in MIGRATIONS[number - 1].split(";"):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version = {number}")

    def _schema_version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[Callable[[str, Iterable[Any]], Any]]:
        if not self.writable:
            raise LibraryError(
                self.location,
                "cannot be written to",
                "change its permissions, or keep the library elsewhere with --library FOLDER",
            )
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection.executemany
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


_SET = "REPLACE INTO settings (name, value) VALUES (?, ?)"


def _marks(count: int) -> str:
    """Return placeholders for the parameters of an SQL statement."""
    return ", ".join("?" * count)


def fold_words(text: str) -> str:
    """Return a text without the differences of case and of normal forms (macOS: NFD, others: NFC).

    Words are compared in this form: "Zürich" equals "zürich", and "Straße" equals "STRASSE".
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _valid_text(path: str) -> str:
    """Return a path as valid UTF-8, for the table of words."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def _relative_root(root: Path, location: Path) -> str:
    """Encode the root; relative to a library inside it, so that both can be moved together."""
    root, location = root.resolve(), location.resolve()
    return _encode_path(os.path.relpath(root, location) if location.is_relative_to(root) else root)


def _encode_path(path: str | Path) -> str:
    return json.dumps(os.fsencode(path).decode("latin-1"))


def _decode_path(stored: str) -> Path:
    return Path(os.fsdecode(json.loads(stored).encode("latin-1")))


def _connect(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open the file; return the connection, and True if it can be written."""
    writable = not path.exists() or (_can_write(path) and _can_write(path.parent))
    address = f"{path.absolute().as_uri()}?mode={'rwc' if writable else 'ro'}"
    connection = _open(address)
    try:
        if writable:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.DatabaseError:
        connection.close()
        if writable:
            raise
        # SQLite cannot create its shared memory here, and reads only a file declared immutable.
        connection = _open(address + "&immutable=1")
    return connection, writable


def _can_write(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _open(address: str) -> sqlite3.Connection:
    return sqlite3.connect(
        address, uri=True, timeout=30, isolation_level=None, check_same_thread=False
    )


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about an unusable file into `LibraryError`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LibraryError(
            path, f"cannot be used ({error})", "check whether the disk is full, and the permissions"
        ) from None
    except sqlite3.DatabaseError as error:
        raise LibraryError(
            path,
            f"not a catalog, or a damaged one ({error})",
            f"delete the folder {path.parent} and index again",
        ) from None
