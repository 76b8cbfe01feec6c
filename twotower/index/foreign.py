"""Readers of the vectors that other programs have stored: rclip, clip-retrieval, twotower embed."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twotower.errors import LibraryError

# Names of columns in Parquet files, the usual ones first.
PATH_COLUMNS = ("path", "image_path", "filepath", "file_path", "key")
EMBEDS_COLUMNS = ("embedding", "image_embedding", "embeds", "image_embeds", "vector")

# The models of rclip's databases by their version: https://github.com/yurijmikhalevich/rclip
RCLIP_MODEL = "hf-hub:laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K"
_RCLIP_SINCE = 3  # versions before have ViT-B/32 of OpenAI
_RCLIP_EARLIER_MODEL = "hf-hub:openai/clip-vit-base-patch32"

# Rows that rclip has finished; others are NULL or empty.
_RCLIP_QUERY = """
    SELECT filepath, size, modified_at, vector FROM images
    WHERE deleted IS NULL AND typeof(filepath) = 'text' AND typeof(size) = 'integer'
      AND typeof(modified_at) IN ('integer', 'real')
      AND typeof(vector) = 'blob' AND length(vector) > 0
"""

_SQLITE = b"SQLite format 3\0"

EmbedsArray: TypeAlias = NDArray[np.floating[Any]]


class FileStamp(NamedTuple):
    """Size in bytes and time of the last change in seconds of a picture when it was embedded."""

    size: int
    modified: float


@dataclass(frozen=True)
class EmbedsTable:
    """Vectors of pictures that another program has stored.

    Attributes:
        paths: of the pictures [n], as the program wrote them.
        embeds: [n, embed_dim], of any length and precision.
        written_ns: time of the last change of the file they come from.
        stamps: size and time of each picture [n], where the program keeps them.
        model: the model that the program uses, as `load` takes it, where it has only one.
    """

    paths: list[str]
    embeds: EmbedsArray
    written_ns: int
    stamps: list[FileStamp] | None = None
    model: str | None = None


def read_tables(source: Path) -> list[EmbedsTable]:
    """Read rclip's database, a folder of `twotower embed` or clip-retrieval, or Parquet.

    Args:
        source: the database, the folder, a Parquet file or a folder of Parquet files.

    Raises:
        LibraryError: `source` is none of these, is damaged, has no vectors, or its files do not
            fit together.
        ModuleNotFoundError: pyarrow is not installed, and needed.
    """
    if tables_of_embed := sorted((source / "embeddings").glob("*.parquet")):
        tables = [_read_parquet(path) for path in tables_of_embed]
    elif (source / "img_emb").is_dir():
        tables = list(_read_clip_retrieval(source))
    elif source.is_dir():
        tables = [_read_parquet(path) for path in sorted(source.glob("*.parquet"))]
    elif not source.is_file():
        raise LibraryError(source, "no such file or folder", "name an index to import")
    elif source.suffix == ".parquet":
        tables = [_read_parquet(source)]
    elif _starts_with(source, _SQLITE):
        tables = [_read_rclip(source)]
    else:
        tables = []
    if not tables:
        raise LibraryError(
            source,
            "no index that can be imported",
            "name rclip's db.sqlite3, a folder of twotower embed or clip-retrieval, or Parquet "
            "files",
        )
    if not any(table.paths for table in tables):
        raise LibraryError(source, "has no vectors", "let its program embed the pictures first")
    return tables


def _read_rclip(source: Path) -> EmbedsTable:
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as file:
            version = file.execute("SELECT max(version) FROM db_version").fetchone()[0] or 1
            rows = file.execute(_RCLIP_QUERY).fetchall()
    except sqlite3.Error as error:
        raise LibraryError(source, f"no database of rclip ({error})", "name its file") from None
    vectors = [row[3] for row in rows]
    if len(lengths := {len(vector) for vector in vectors}) > 1 or any(
        length % 4 for length in lengths
    ):
        raise LibraryError(source, "its vectors differ in length", "let rclip index again")
    embeds = np.frombuffer(b"".join(vectors), "<f4").reshape(len(rows), -1 if rows else 0)
    return EmbedsTable(
        paths=[row[0] for row in rows],
        embeds=embeds,
        written_ns=source.stat().st_mtime_ns,
        stamps=[FileStamp(int(row[1]), float(row[2])) for row in rows],
        model=RCLIP_MODEL if version >= _RCLIP_SINCE else _RCLIP_EARLIER_MODEL,
    )


def _read_clip_retrieval(source: Path) -> Iterator[EmbedsTable]:
    """Yield a table for each `img_emb/img_emb_N.npy` and its `metadata/metadata_N.parquet`."""
    for array in sorted((source / "img_emb").glob("img_emb_*.npy")):
        number = re.sub("^img_emb_", "", array.stem)
        metadata = source / "metadata" / f"metadata_{number}.parquet"
        try:
            embeds = np.load(array, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise LibraryError(array, f"damaged ({error})", "copy it again") from None
        with _parquet_errors(metadata):
            paths = _texts(*_read_columns(metadata, _choose_columns(metadata, PATH_COLUMNS)))
        if embeds.ndim != 2 or len(embeds) != len(paths):
            raise LibraryError(
                array,
                f"has the shape {embeds.shape}, but {metadata.name} names {len(paths)} pictures",
                "copy both again",
            )
        yield EmbedsTable(paths, embeds, array.stat().st_mtime_ns)


def _read_parquet(source: Path) -> EmbedsTable:
    with _parquet_errors(source):
        import pyarrow.compute as pc

        names = _choose_columns(source, PATH_COLUMNS, EMBEDS_COLUMNS)
        paths, column = _read_columns(source, names)
        if names[0] == "key":
            paths = _join_keys(source)
        complete = pc.and_(pc.is_valid(paths), pc.is_valid(column))
        paths, column = paths.filter(complete), column.filter(complete)
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) > 1:
            raise LibraryError(source, "its vectors differ in length", "keep those of one model")
        numbers = pc.list_flatten(column).to_numpy(zero_copy_only=False)
        embeds = numbers.reshape(len(paths), *(lengths or [0]))
        return EmbedsTable(_texts(paths), embeds, source.stat().st_mtime_ns)


def _join_keys(source: Path) -> Any:
    """Return paths of the keys that `twotower embed` writes, which are relative to their sources.

    Raises:
        LibraryError: a column is missing.
    """
    import pyarrow.compute as pc

    folders, keys = _read_columns(source, _choose_columns(source, ("source",), ("key",)))
    return pc.binary_join_element_wise(folders.cast("string"), keys.cast("string"), "/")


def _choose_columns(source: Path, *columns: tuple[str, ...]) -> list[str]:
    """Return names of columns, each the first of its usual names that a Parquet file has.

    Raises:
        LibraryError: a column is missing.
    """
    import pyarrow.parquet

    names = pyarrow.parquet.read_schema(source).names
    chosen: list[str] = []
    for usual in columns:
        matching = [name for name in usual if name in names]
        if not matching:
            raise LibraryError(
                source,
                f"has no column {usual[0]!r}, only {', '.join(names)}",
                f"rename that of the {usual[0]}s",
            )
        chosen.append(matching[0])
    return chosen


def _read_columns(source: Path, names: list[str]) -> list[Any]:
    """Return columns of a Parquet file."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(source, columns=names)
    return [table.column(name).combine_chunks() for name in names]


def _texts(column: Any) -> list[str]:
    return [text or "" for text in column.cast("string").to_pylist()]


@contextmanager
def _parquet_errors(source: Path) -> Iterator[None]:
    """Turn errors of pyarrow into `LibraryError`."""
    import pyarrow

    try:
        yield
    except (OSError, pyarrow.ArrowException) as error:
        reason = f"cannot be read ({str(error).strip().partition(chr(10))[0]})"
        raise LibraryError(source, reason, "check the file") from None


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
