"""Pairs in CSV, JSON and Parquet tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twotower.errors import BrokenPairError, PairsError
from twotower.pairs.pair import Pair, _decode, _read_file

PICTURE_COLUMNS = ("filepath", "path", "image", "file", "filename", "image_path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")


# --- tables and folders --------------------------------------------------------------------------


class TablePairs:
    """Rows of a CSV, TSV or Parquet file: a column of picture paths, one or more of captions.

    Paths are relative to the table. Several captions of a picture are several rows, or a list.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.folder = path.parent
        rows = read_table(path)
        columns = list(rows[0]) if rows else []
        self._picture = _choose(columns, PICTURE_COLUMNS, path, "pictures")
        self._caption = _choose(columns, CAPTION_COLUMNS, path, "captions")
        grouped: dict[str, list[str]] = {}
        for row in rows:
            said = row[self._caption]
            grouped.setdefault(str(row[self._picture]), []).extend(
                map(str, said) if isinstance(said, list) else [str(said or "")]
            )
        self._rows = list(grouped.items())

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, number: int) -> str:
        """The picture's path as the table has it."""
        return self._rows[number][0]

    def __getitem__(self, number: int) -> Pair:
        """Read one. Raises `BrokenPairError`."""
        name, captions = self._rows[number]
        kept = tuple(caption.strip() for caption in captions if caption.strip())
        if not kept:
            raise BrokenPairError(f"{self.name}: {name} has no caption")
        return Pair(name, _read_file(self.folder / name), kept)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV, TSV or Parquet file."""
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError:
            raise PairsError(f"{path}: reading Parquet needs pip install pyarrow") from None
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    text = io.StringIO(_decode(path.read_bytes()), newline="")
    return list(csv.DictReader(text, delimiter="\t" if path.suffix == ".tsv" else ","))


def _choose(columns: Sequence[str], known: Sequence[str], path: Path, what: str) -> str:
    for name in known:
        if name in columns:
            return name
    raise PairsError(
        f"{path}: no column of {what}; call it one of {', '.join(known)} "
        f"(there are: {', '.join(columns) or 'none'})"
    )
