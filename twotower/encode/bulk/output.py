"""The files of a shard: a Parquet table, and on request the files of clip-retrieval.

The table is written last, so a shard is complete when its table is there.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from twotower.arrays import Float32Array
from twotower.encode.bulk.plan import Shard
from twotower.encode.bulk.settings import MAX_ROWS_PER_SHARD
from twotower.errors import EmbedError
from twotower.files import atomic_write

TABLE_FOLDER = "embeddings"
CLIP_RETRIEVAL_FOLDERS = ("img_emb", "text_emb", "metadata")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_COUNTS = b"twotower.counts"  # in the metadata of a table


@dataclass
class Row:
    """A row of a shard; of a picture, or of a text.

    Attributes:
        image_size: width and height of a picture as it is displayed, in pixels.
        sha256: of the file of a picture, in hexadecimal.
        text: of a text.
        embeds: [embed_dim], unit length, float32; None after an error.
        error: the reason of an error, and what can be done.
    """

    key: str
    image_size: tuple[int, int] | None = None
    sha256: str | None = None
    text: str | None = None
    embeds: Float32Array | None = None
    error: str | None = None


class ShardWriter:
    """Writes shards into a folder of embeddings.

    Args:
        folder: of the embeddings.
        embed_dim: of the model.
        texts: True for shards of texts.
        clip_retrieval: write the files of that program too.
    """

    def __init__(
        self, folder: Path, embed_dim: int, *, texts: bool, clip_retrieval: bool = False
    ) -> None:
        self._folder, self._embed_dim = folder, embed_dim
        self._texts, self._clip_retrieval = texts, clip_retrieval

    def write(self, shard: Shard, rows: Sequence[Row]) -> None:
        """Write a shard.

        Raises:
            EmbedError: the disk is full, or cannot be written.
        """
        try:
            if self._clip_retrieval:
                self._write_clip_retrieval(shard, [row for row in rows if row.embeds is not None])
            failed = sum(row.embeds is None for row in rows)
            path = table_path(self._folder, shard.number)
            metadata = {_COUNTS: json.dumps([len(rows), failed]).encode()}
            _write(path, self._table(shard, rows).replace_schema_metadata(metadata))
        except OSError as error:
            raise write_error(self._folder, "written", error) from None

    def _table(self, shard: Shard, rows: Sequence[Row]) -> pyarrow.Table:
        start = shard.number * MAX_ROWS_PER_SHARD
        string = pyarrow.string()
        columns = {
            "id": pyarrow.array(range(start, start + len(rows)), pyarrow.int64()),
            "key": pyarrow.array([row.key for row in rows], string),
            "source": pyarrow.array([shard.source.source] * len(rows), string),
            "embedding": self._embeddings(rows),
        }
        if self._texts:
            columns["text"] = pyarrow.array([row.text for row in rows], string)
        else:
            sizes = [row.image_size or (None, None) for row in rows]
            columns["width"] = pyarrow.array([width for width, _ in sizes], pyarrow.int32())
            columns["height"] = pyarrow.array([height for _, height in sizes], pyarrow.int32())
            columns["hash"] = pyarrow.array([row.sha256 for row in rows], string)
        columns["error"] = pyarrow.array([row.error for row in rows], string)
        return pyarrow.table(columns)

    def _embeddings(self, rows: Sequence[Row]) -> pyarrow.Array:
        """Return a column of lists of `embed_dim` float32, null for rows with an error."""
        values = np.zeros((len(rows), self._embed_dim), np.float32)
        missing = np.zeros(len(rows), np.bool_)
        for number, row in enumerate(rows):
            if row.embeds is None:
                missing[number] = True
            else:
                values[number] = row.embeds
        return pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(values.ravel()), self._embed_dim, mask=pyarrow.array(missing)
        )

    def _write_clip_retrieval(self, shard: Shard, rows: Sequence[Row]) -> None:
        """Write `img_emb/img_emb_00000.npy` (float16) and `metadata/metadata_00000.parquet`."""
        number = _shard_name(shard.number)
        name, column = ("text_emb", "caption") if self._texts else ("img_emb", "image_path")
        embeds = [row.embeds for row in rows if row.embeds is not None]
        matrix = np.stack(embeds) if embeds else np.zeros((0, self._embed_dim))
        (self._folder / name).mkdir(exist_ok=True)
        with atomic_write(self._folder / name / f"{name}_{number}.npy", "wb", sync=True) as file:
            np.save(file, matrix.astype(np.float16))
        values = [row.text if self._texts else row.key for row in rows]
        metadata = {column: pyarrow.array(values, pyarrow.string())}
        if not self._texts and any("://" in row.key for row in rows):
            metadata["url"] = metadata[column]
        (self._folder / "metadata").mkdir(exist_ok=True)
        path = self._folder / "metadata" / f"metadata_{number}.parquet"
        _write(path, pyarrow.table(metadata))


def table_path(folder: Path, number: int) -> Path:
    """Return the table of a shard."""
    return folder / TABLE_FOLDER / f"{_shard_name(number)}.parquet"


def write_error(path: str | Path, access: str, error: OSError) -> EmbedError:
    """Return the error of a run that ends because a file cannot be accessed.

    Args:
        access: that failed: "written", or "read or written".
    """
    remedy = "free space on the disk" if error.errno in _FULL else "check the folder"
    return EmbedError(
        path,
        f"cannot be {access} ({error.strerror or error}); complete shards are kept",
        f"{remedy}, then run the same command again",
    )


def read_counts(path: Path) -> tuple[int, int]:
    """Return the rows of a table, and of these those with an error.

    Raises:
        EmbedError: the file is no table of a shard.
    """
    try:
        metadata = pyarrow.parquet.read_metadata(path).metadata or {}
        rows, failed = json.loads(metadata[_COUNTS])
    except (pyarrow.ArrowException, KeyError, ValueError) as error:
        raise EmbedError(
            path, f"is no table of embeddings ({error})", "delete it, and run the command again"
        ) from None
    return rows, failed


def _shard_name(number: int) -> str:
    """Return the number of a shard as it is in names of files, whatever their count becomes."""
    return f"{number:05d}"


def _write(path: Path, table: pyarrow.Table) -> None:
    with atomic_write(path, "wb", sync=True) as file:
        pyarrow.parquet.write_table(table, file, compression="zstd", use_dictionary=["source"])
