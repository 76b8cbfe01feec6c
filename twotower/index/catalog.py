"""What is known of a person's pictures: one SQLite file, the truth of what the library holds.

A picture's id names one content: a moved file keeps its id, a changed one gets a new id. So the
vector of an id never changes, and a row is committed only after its vector is safe on disk. What
the vectors hold beyond the rows here is left over from a crash, and counts for nothing.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from twotower.errors import LibraryError
from twotower.files import create_folder
from twotower.index.location import CATALOG_FILE
from twotower.index.schema import MIGRATIONS, _connect, _damage

STOPPED_AT = "stopped_at"  # setting: how far a run has come that has not ended, such as "2 of 9"
RETRY = -1  # as `mtime_ns`: no file has it, so that the picture is looked at again next time

Orientation = Literal["landscape", "portrait", "square"]


@dataclass(frozen=True)
class PictureRecord:
    """A picture as the catalog knows it, or why it could not be read (`error`).

    `path` is relative to the library's root, with `/` between the parts; bytes that are no text
    are in it as `os.fsdecode` gives them. `taken` is the camera's local time, ISO 8601 without a
    zone. Sides are as displayed. `keywords` has those that people gave, one a line, the names of a
    path with `|` between them. `sidecar_ns` is the time of change of the XMP file beside the
    picture (of two, the sum), 0 without one.
    """

    id: int
    path: str
    size: int
    mtime_ns: int
    sidecar_ns: int = 0
    content_hash: bytes | None = None
    type: str | None = None
    width: int | None = None
    height: int | None = None
    orientation: Orientation | None = None
    taken: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    keywords: str = ""
    error: str | None = None


class KnownFile(NamedTuple):
    """What tells whether a picture has changed since it was indexed."""

    id: int
    size: int
    mtime_ns: int
    sidecar_ns: int


class Correction(NamedTuple):
    """What a person has said of a tag and a picture; `id` is None if that is not there now."""

    tag: str
    content_hash: bytes
    accepted: bool
    id: int | None


@dataclass(frozen=True)
class ModelRecord:
    """The model of a set of vectors.

    `source` is what `load` takes; `files` the names, sizes and times of change of its files when
    `fingerprint` (over weights, preprocessing and tokenizer) was taken from them; `vectors` where
    its vectors lie, as `open_vectors` takes it, or None for the library's own folder.
    """

    id: int
    name: str
    source: str
    fingerprint: str
    files: str
    embed_dim: int
    vectors: str | None


_COLUMNS = tuple(field.name for field in fields(PictureRecord))


class Catalog:
    """The catalog in the folder `location`; made there, for the pictures in `root`, if missing.

    Attributes:
        location: the folder with the catalog and, unless they are elsewhere, the vectors.
        root: the folder of pictures.
        name: a few random letters, which no other library has.
        writable: False on a read-only disk.
    """

    def __init__(self, location: Path, root: Path | None = None) -> None:
        """Open, or create where `root` is given.

        Raises:
            LibraryError: nothing there and no `root`; not a catalog; one of a newer version.
        """
        self.location = location
        path = location / CATALOG_FILE
        if not path.exists():
            if root is None:
                raise LibraryError(f"{location}: no library there; make one with: twotower index")
            create_folder(location)
        with _damage(path):
            self._connection, self.writable = _connect(path)
        try:
            with _damage(path):
                self._migrate()
            if root is not None and self.writable:
                self._settle(root)
            self.root = self._root()
            self.name = self.get_setting("name") or ""
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many pictures could be read."""
        query = """
            SELECT (SELECT count(*) FROM pictures)
                - (SELECT count(*) FROM pictures WHERE error IS NOT NULL)
        """
        return int(self._connection.execute(query).fetchone()[0])

    # What is asked

    def pictures(self, ids: Iterable[int]) -> list[PictureRecord]:
        """The records of `ids`, in that order; ids that are not there are left out."""
        wanted = [int(one) for one in ids]
        found: dict[int, PictureRecord] = {}
        for start in range(0, len(wanted), 500):
            some = wanted[start : start + 500]
            marks = ", ".join("?" * len(some))
            found.update((one.id, one) for one in self._records(f"id IN ({marks})", some))
        return [found[one] for one in wanted if one in found]

    def select(self, where: str = "1", parameters: Sequence[Any] = ()) -> NDArray[np.int64]:
        """Ids of the readable pictures for which a condition on the table `pictures` holds."""
        query = f"SELECT id FROM pictures WHERE error IS NULL AND ({where}) ORDER BY id"
        rows = self._connection.execute(query, parameters)
        return np.fromiter((row[0] for row in rows), np.int64)

    def in_folder(self, folder: str) -> tuple[str, list[Any]]:
        """Condition and parameters, for `select`: pictures in `folder` and the folders below."""
        prefix = os.fsencode(folder.strip("/")) + b"/"
        return "path >= ? AND path < ?", [prefix, prefix[:-1] + b"0"]  # "0" follows "/"

    def match_words(self, query: str) -> NDArray[np.int64]:
        """Ids whose path or keywords hold any of the words of `query`, best match first."""
        words = [word for word in query.replace('"', " ").split() if word.strip()]
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
        """The pictures that could not be read, by path."""
        return list(self._records("error IS NOT NULL ORDER BY path"))

    def records(self) -> Iterator[PictureRecord]:
        """All pictures, readable or not."""
        return self._records("1")

    def known(self) -> dict[bytes, KnownFile]:
        """By path, what a scan compares the disk with."""
        query = "SELECT path, id, size, mtime_ns, sidecar_ns FROM pictures"
        return {row[0]: KnownFile(*row[1:]) for row in self._connection.execute(query)}

    def next_id(self) -> int:
        """An id that no picture has or had."""
        return int(self.get_setting("next_id") or 1)

    def _records(self, where: str, parameters: Sequence[Any] = ()) -> Iterator[PictureRecord]:
        query = f"SELECT {', '.join(_COLUMNS)} FROM pictures WHERE {where}"
        for number, path, *rest in self._connection.execute(query, parameters):
            yield PictureRecord(number, os.fsdecode(path), *rest)

    # What is changed

    def replace(self, removed: Iterable[int], records: Sequence[PictureRecord]) -> None:
        """Take out the pictures `removed` and put `records` in, all or nothing.

        A record whose id or path is there already takes that one's place.
        """
        gone = [(int(one),) for one in removed] + [(record.id,) for record in records]
        rows = [(record.id, os.fsencode(record.path), *astuple(record)[2:]) for record in records]
        words = [(record.id, _readable(record.path), record.keywords) for record in records]
        marks = ", ".join("?" * len(_COLUMNS))
        with self._transaction() as execute_many:
            execute_many("DELETE FROM words WHERE rowid = ?", gone)
            execute_many("DELETE FROM pictures WHERE id = ?", gone)
            execute_many(
                "DELETE FROM words WHERE rowid = (SELECT id FROM pictures WHERE path = ?)",
                [(row[1],) for row in rows],
            )
            execute_many(f"REPLACE INTO pictures ({', '.join(_COLUMNS)}) VALUES ({marks})", rows)
            execute_many("INSERT INTO words (rowid, path, keywords) VALUES (?, ?, ?)", words)
            if records:
                following = max(self.next_id(), 1 + max(record.id for record in records))
                execute_many(_SET, [("next_id", str(following))])

    def get_setting(self, name: str) -> str | None:
        """What `set_setting` stored under `name` in this library."""
        query = "SELECT value FROM settings WHERE name = ?"
        row = self._connection.execute(query, [name]).fetchone()
        return row[0] if row else None

    def set_setting(self, name: str, value: str) -> None:
        """Keep a text of any kind with the library."""
        with self._transaction() as execute_many:
            execute_many(_SET, [(name, value)])

    # Tags

    def corrections(self) -> list[Correction]:
        """What was said of tags, by tag and the order in which their pictures came."""
        query = (
            "SELECT tag, corrections.content_hash, accepted, id FROM corrections "
            "LEFT JOIN pictures ON pictures.content_hash = corrections.content_hash "
            "AND error IS NULL ORDER BY tag, id"
        )
        found: dict[tuple[str, bytes], Correction] = {}
        for tag, content, accepted, number in self._connection.execute(query):
            found.setdefault((tag, content), Correction(tag, content, bool(accepted), number))
        return list(found.values())

    def correct(self, corrections: Iterable[tuple[str, bytes, bool | None]]) -> None:
        """Keep what was said of tags and contents; the last word on each counts, None forgets."""
        last = {(tag, content): accepted for tag, content, accepted in corrections}
        with self._transaction() as execute_many:
            execute_many("DELETE FROM corrections WHERE tag = ? AND content_hash = ?", last)
            execute_many(
                "INSERT INTO corrections (tag, content_hash, accepted) VALUES (?, ?, ?)",
                [(*one, accepted) for one, accepted in last.items() if accepted is not None],
            )

    def keywords(self) -> dict[int, list[str]]:
        """By picture, what people gave; the names of a path with | between them."""
        query = "SELECT id, keywords FROM pictures WHERE error IS NULL AND keywords != ''"
        return {number: text.split("\n") for number, text in self._connection.execute(query)}

    def measures(self, ids: Sequence[int]) -> dict[int, NDArray[np.float64]]:
        """Those of `ids` that were measured -> the facts of their pixels."""
        found: dict[int, NDArray[np.float64]] = {}
        for start in range(0, len(ids), 500):
            some = [int(one) for one in ids[start : start + 500]]
            marks = ", ".join("?" * len(some))
            query = f"SELECT id, facts FROM measures WHERE id IN ({marks})"
            for number, facts in self._connection.execute(query, some):
                found[number] = np.frombuffer(facts, np.float32).astype(np.float64)
        return found

    def add_measures(self, measures: dict[int, NDArray[np.float64]]) -> None:
        """Keep the facts of pictures, and forget those that have gone."""
        rows = [(one, facts.astype(np.float32).tobytes()) for one, facts in measures.items()]
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
        """All models that have vectors here, also those that are not finished yet."""
        return self._models("1 ORDER BY id")

    def add_model(self, record: ModelRecord) -> ModelRecord:
        """Store a model (its `id` is given here), or find it by its fingerprint and `vectors`."""
        if "@" in (record.vectors or ""):  # a password, perhaps
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
        """From now on, search the vectors of this model."""
        self.set_setting("model", str(record.id))

    def remove_model(self, record: ModelRecord) -> None:
        """Forget a model that is no longer used; its vectors are the caller's to delete."""
        with self._transaction() as execute_many:
            execute_many("DELETE FROM models WHERE id = ?", [(record.id,)])

    def _models(self, where: str, parameters: Sequence[Any] = ()) -> list[ModelRecord]:
        query = (
            "SELECT id, name, source, fingerprint, files, embed_dim, nullif(vectors, '') "
            f"FROM models WHERE {where}"
        )
        return [ModelRecord(*row) for row in self._connection.execute(query, parameters)]

    # The file itself

    def strayed_from(self) -> Path | None:
        """Where the pictures were, if the library inside them has been moved away without them."""
        last, root = self.get_setting("last_root"), self._root()
        if last is None or _decoded(last) == root:
            return None
        some = self._connection.execute("SELECT path FROM pictures LIMIT 100").fetchall()
        if not some or any((root / os.fsdecode(path)).exists() for (path,) in some):
            return None  # they have moved together
        return _decoded(last)

    def _migrate(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise LibraryError(
                f"{self.location / CATALOG_FILE}: written by a newer twotower (its version is "
                f"{version}, this one reads up to {len(MIGRATIONS)}); "
                "pip install --upgrade twotower"
            )
        if version < len(MIGRATIONS) and not self.writable:
            raise LibraryError(
                f"{self.location / CATALOG_FILE}: of an older version, and read-only here; copy "
                "it to where it can be written"
            )
        for number in range(version + 1, len(MIGRATIONS) + 1):
            with self._transaction():
                # another process may have been faster
                if self._connection.execute("PRAGMA user_version").fetchone()[0] < number:
                    for statement in MIGRATIONS[number - 1].split(";"):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version = {number}")

    def _settle(self, root: Path) -> None:
        """Say that this is the library of `root`, or still is, wherever that has been moved."""
        if self.get_setting("root") is None:
            self.set_setting("name", secrets.token_hex(4))
        else:
            before = self.strayed_from() or self._root()
            if before.is_dir() and not before.samefile(root):
                raise LibraryError(
                    f"{self.location}: is the library of {before}; keep that of {root} elsewhere"
                )
        self.set_setting("root", _relative(root, self.location))
        self.set_setting("last_root", _encoded(root.resolve()))

    def _root(self) -> Path:
        stored = self.get_setting("root")
        if stored is None:
            raise LibraryError(f"{self.location}: names no folder of pictures; index again")
        return (self.location / _decoded(stored)).resolve()

    @contextmanager
    def _transaction(self) -> Iterator[Callable[[str, Iterable[Any]], Any]]:
        if not self.writable:
            raise LibraryError(f"{self.location}: cannot be written to")
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection.executemany
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


_SET = "REPLACE INTO settings (name, value) VALUES (?, ?)"


def _relative(root: Path, location: Path) -> str:
    """JSON of the root as seen from a library inside it, so that both can move; else absolute."""
    root, location = root.resolve(), location.resolve()
    return _encoded(os.path.relpath(root, location) if location.is_relative_to(root) else root)


def _encoded(path: str | Path) -> str:
    return json.dumps(os.fsencode(path).decode("latin-1"))


def _decoded(stored: str) -> Path:
    return Path(os.fsdecode(json.loads(stored).encode("latin-1")))


def _readable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", errors="replace")
