"""The tables of the catalog: their migrations, and the records of their rows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

RETRY = -1  # `PictureRecord.mtime_ns` that no file has: the picture is read again next time

Orientation = Literal["landscape", "portrait", "square"]


@dataclass(frozen=True)
class PictureRecord:
    """A picture of the library, readable or not.

    Attributes:
        path: relative to the library's root, with "/" between folders; as `os.fsdecode` returns it.
        sidecar_ns: time of the last change of the XMP file beside the picture or of its metadata
            (of two, the sum); 0 without one.
        content_hash: the first 16 bytes of the SHA-256 of the file; of a video, of samples.
        type: the file format, such as "jpeg", "raw" or "video".
        width: as displayed, like `height`.
        taken: the camera's local time, ISO 8601 without a zone.
        keywords: those that people gave, one a line; levels of a hierarchy are separated by "|".
        error: reason and remedy if the picture cannot be read.
        ctime_ns: time of the last change of the file or its metadata, which a program that keeps
            `mtime_ns` cannot set; 0 in a row of an earlier version.
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
    ctime_ns: int = 0


PICTURE_COLUMNS = tuple(field.name for field in fields(PictureRecord))


class PictureShape(NamedTuple):
    """The facts about a picture that its place in a page of pictures depends on."""

    id: int
    width: int | None
    height: int | None
    taken: str | None


class FileState(NamedTuple):
    """The state of a picture's file when it was indexed, to detect changes."""

    id: int
    size: int
    mtime_ns: int
    sidecar_ns: int
    ctime_ns: int


class Correction(NamedTuple):
    """A person's verdict on a tag of a picture; `id` is None if no picture has that content."""

    tag: str
    content_hash: bytes
    accepted: bool
    id: int | None


@dataclass(frozen=True)
class ModelRecord:
    """A model with vectors in the library.

    Attributes:
        source: the model, as `load` takes it.
        fingerprint: `twotower.encode.golden.image_fingerprint`, or in a library that was not
            updated since, `fingerprint`.
        files: `twotower.encode.golden.file_facts` at the time of the fingerprint.
        vectors: the store of its vectors, as `open_vectors` takes it; None for the library folder.
    """

    id: int
    name: str
    source: str
    fingerprint: str
    files: str
    embed_dim: int
    vectors: str | None


_TABLES = """
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

# Corrections of tags (a path, its levels joined by |) by content, and measurements of pixels
# (NULL where there is none).
_TAGS = """
CREATE TABLE corrections (
    tag TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    accepted INTEGER NOT NULL,
    PRIMARY KEY (tag, content_hash)
);
CREATE TABLE measures (id INTEGER PRIMARY KEY, sharpness REAL, brightness REAL);
"""

# Every search counts the readable pictures; without this index it would read the whole table.
_FAILED_INDEX = "CREATE INDEX pictures_failed ON pictures (id) WHERE error IS NOT NULL"

# Measurements as an array of float32, for more of them; the earlier ones are measured again.
_MEASURES = """
DROP TABLE measures;
CREATE TABLE measures (id INTEGER PRIMARY KEY, facts BLOB NOT NULL);
"""

# Words are stored as `catalog.fold_words` returns them.
_FOLDED_WORDS = "UPDATE words SET path = fold_words(path), keywords = fold_words(keywords)"

# The time of change beside the time of modification, which programs can keep.
_CHANGE_TIMES = "ALTER TABLE pictures ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT 0"

# Dates are read from more places, and impossible ones are none: such files are read again.
_DATES = """
UPDATE pictures SET mtime_ns = -1 WHERE error IS NULL AND (
    taken IS NULL
    OR strftime('%Y-%m-%dT%H:%M:%S', taken) IS NOT taken
    OR keywords LIKE '%darktable|%'
)
"""

# Step i leads from schema version i to i + 1, in one transaction; version 0 is an empty file.
MIGRATIONS: tuple[str, ...] = (
    _TABLES,
    _TAGS,
    _FAILED_INDEX,
    _MEASURES,
    _FOLDED_WORDS,
    _CHANGE_TIMES,
    _DATES,
)
