"""The catalog's SQLite schema and its migrations."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twotower.errors import LibraryError

_FIRST = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE models (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    files TEXT NOT NULL,
    embed_dim INTEGER NOT NULL,
    vectors TEXT NOT NULL,  -- empty for the library's own folder
    UNIQUE (fingerprint, vectors)
);
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sidecar_ns INTEGER NOT NULL,
    content_hash BLOB,
    type TEXT,
    width INTEGER,
    height INTEGER,
    orientation TEXT,
    taken TEXT,
    camera TEXT,
    latitude REAL,
    longitude REAL,
    keywords TEXT NOT NULL,
    error TEXT
);
CREATE INDEX pictures_taken ON pictures (taken);
CREATE VIRTUAL TABLE words USING fts5 (path, keywords, tokenize = "unicode61");
"""

# What a person has said of a tag (its path, names joined by |) and a content, and what the pixels
# of a picture measure; NULL is what cannot be measured.
_TAGS = """
CREATE TABLE corrections (
    tag TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    accepted INTEGER NOT NULL,
    PRIMARY KEY (tag, content_hash)
);
CREATE TABLE measures (id INTEGER PRIMARY KEY, sharpness REAL, brightness REAL);
"""

# Every search counts the pictures: among millions it would read all of the table for that.
_FAILED = "CREATE INDEX pictures_failed ON pictures (id) WHERE error IS NOT NULL"

# What pixels measure has become more: an array of float32. What was measured is measured again.
_FACTS = """
DROP TABLE measures;
CREATE TABLE measures (id INTEGER PRIMARY KEY, facts BLOB NOT NULL);
"""

# Each step leads from one schema version to the next, all or nothing: version 0 is an empty file.
MIGRATIONS: tuple[str, ...] = (_FIRST, _TAGS, _FAILED, _FACTS)


def _connect(path: Path) -> tuple[sqlite3.Connection, bool]:
    """The open file, and whether it can be written."""
    writable = not path.exists() or (_may_write(path) and _may_write(path.parent))
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
        # Without a place for its shared memory SQLite reads only what it may take as final.
        connection = _open(address + "&immutable=1")
    return connection, writable


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What SQLite says of a file that it cannot use, as `LibraryError`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LibraryError(
            f"{path}: cannot be used ({error}); look whether the disk is full, and at its rights"
        ) from None
    except sqlite3.DatabaseError as error:
        raise LibraryError(
            f"{path}: not a catalog, or a damaged one ({error}); delete the folder {path.parent} "
            "and index again"
        ) from None


def _open(address: str) -> sqlite3.Connection:
    return sqlite3.connect(
        address, uri=True, timeout=30, isolation_level=None, check_same_thread=False
    )
