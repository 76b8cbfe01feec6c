"""Pairs in tables: CSV, TSV and Parquet files with paths of pictures and captions."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twotower.errors import PairsError
from twotower.pairs.pair import Pair, decode, read_picture, require_captions

PICTURE_COLUMNS = ("filepath", "path", "image", "file", "filename", "image_path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")


class TablePairs:
    """Rows of a table with a picture and a caption.

    Paths are relative to the table. Several captions of a picture are several rows, or a list.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.folder = path.parent
        rows = read_table(path)
        columns = list(rows[0]) if rows else []
        picture_column = _find_column(columns, PICTURE_COLUMNS, path, "pictures")
        caption_column = _find_column(columns, CAPTION_COLUMNS, path, "captions")
        captions: dict[str, list[str]] = {}
        for row in rows:
            cell = row[caption_column]
            captions.setdefault(str(row[picture_column]), []).extend(
                map(str, cell) if isinstance(cell, list) else [str(cell or "")]
            )
        self._rows = list(captions.items())

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, number: int) -> str:
        """Return the path of a picture as the table has it."""
        return self._rows[number][0]

    def __getitem__(self, number: int) -> Pair:
        """Read a pair. Raises `BrokenPairError`."""
        name, captions = self._rows[number]
        stripped = tuple(caption.strip() for caption in captions if caption.strip())
        stripped = require_captions(f"{self.name}: {name}", stripped)
        return Pair(name, read_picture(self.folder / name), stripped)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV, TSV or Parquet file. Raises `PairsError` without pyarrow."""
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError:
            raise PairsError(
                path, "Parquet needs the package 'pyarrow'", "pip install pyarrow"
            ) from None
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        return rows
    text = io.StringIO(decode(path.read_bytes()), newline="")
    return list(csv.DictReader(text, delimiter="\t" if path.suffix == ".tsv" else ","))


def _find_column(columns: Sequence[str], names: Sequence[str], path: Path, content: str) -> str:
    for name in names:
        if name in columns:
            return name
    raise PairsError(
        path,
        f"no column of {content}",
        f"call it one of {', '.join(names)} (there are: {', '.join(columns) or 'none'})",
    )
