"""Pairs in tables: CSV, TSV and Parquet files with paths of pictures and captions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from twotower.errors import BrokenPairError, PairsError
from twotower.inputs.pictures import PICTURE_SUFFIXES
from twotower.pairs.pair import Pair, decode, read_picture, require_captions

PICTURE_COLUMNS = ("filepath", "path", "image", "file", "filename", "image_path")
CAPTION_COLUMNS = ("caption", "captions", "text", "title")
Quoting: TypeAlias = Literal[0, 3]  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE
QUOTES = "put quotes around a cell with commas, and double the quotes inside it"


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
        number: of its first line in a text file, or of the row in a Parquet file.
        cells: by column; None where the row has fewer cells than columns.
        fault: the reason why its cells cannot be trusted, or None.
    """

    number: int
    cells: dict[str, Any]
    fault: str | None = None


class TablePairs:
    """Rows of a table with a picture and a caption.

    Paths are relative to the table. Several captions of a picture are several rows, or a list.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.folder = path.parent
        rows = read_rows(path)
        columns = list(rows[0].cells) if rows else []
        picture_column = _find_column(columns, PICTURE_COLUMNS, path, "pictures")
        caption_column = _find_column(columns, CAPTION_COLUMNS, path, "captions")
        captions: dict[str, list[str]] = {}
        self._faults: dict[str, BrokenPairError] = {}
        for row in rows:
            name, cell = str(row.cells[picture_column]), row.cells[caption_column]
            captions.setdefault(name, []).extend(
                map(str, cell) if isinstance(cell, list) else [str(cell or "")]
            )
            if row.fault:
                subject = f"{self.name} line {row.number}"
                self._faults[name] = BrokenPairError(subject, row.fault, QUOTES)
        self._rows = list(captions.items())

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, number: int) -> str:
        """Return the path of a picture as the table has it."""
        return self._rows[number][0]

    def __getitem__(self, number: int) -> Pair:
        """Read a pair. Raises `BrokenPairError`."""
        name, captions = self._rows[number]
        if name in self._faults:
            raise self._faults[name]
        stripped = tuple(caption.strip() for caption in captions if caption.strip())
        stripped = require_captions(f"{self.name}: {name}", stripped)
        return Pair(name, read_picture(self.folder / name), stripped)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV, TSV or Parquet file.

    Raises:
        PairsError: a row has more cells than columns, or as `read_rows`.
    """
    rows = read_rows(path)
    for row in rows:
        if row.fault:
            raise PairsError(f"{path} line {row.number}", row.fault, QUOTES)
    return [row.cells for row in rows]


def read_rows(path: Path) -> list[TableRow]:
    """Read the rows of a CSV, TSV or Parquet file, also those with more cells than columns.

    A TSV file may quote its cells, as pandas does. Where its quotes do not fit, they are
    characters of the cells, as in the files of img2dataset and open_clip.

    Raises:
        PairsError: a quote is not closed, or pyarrow is not installed.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    text = decode(path.read_bytes())
    if path.suffix != ".tsv":
        return list(_parse_rows(text, path, ",", csv.QUOTE_MINIMAL))
    try:
        return list(_parse_rows(text, path, "\t", csv.QUOTE_MINIMAL))
    except PairsError:
        return list(_parse_rows(text, path, "\t", csv.QUOTE_NONE))


def _read_parquet(path: Path) -> list[TableRow]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise PairsError(
            path, "Parquet needs the package 'pyarrow'", "pip install pyarrow"
        ) from None
    rows = pyarrow.parquet.read_table(path).to_pylist()
    return [TableRow(number, cells) for number, cells in enumerate(rows)]


def _parse_rows(text: str, path: Path, delimiter: str, quoting: Quoting) -> Iterator[TableRow]:
    """Yield the rows below the header; blank lines are skipped."""
    reader = csv.reader(
        io.StringIO(text, newline=""), strict=True, delimiter=delimiter, quoting=quoting
    )
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            reason = f"cannot be read ({error})"
            raise PairsError(f"{path} line {number}", reason, QUOTES) from None
        if cells is None:
            return
        if any(_holds_rows(cell, delimiter) for cell in cells):
            reason = f"a quote takes in all lines up to line {reader.line_num}"
            raise PairsError(f"{path} line {number}", reason, QUOTES)
        if not header:
            header = cells
        elif cells:
            yield _make_row(number, header, cells)


def _holds_rows(cell: str, delimiter: str) -> bool:
    """Return True if an open quote seems to have put further rows into a cell.

    A caption may have several lines, but none with a tab, or with a picture's path and a comma.
    """
    for line in cell.splitlines()[1:]:
        suffixes = [Path(text.strip()).suffix.lower() for text in line.split(delimiter)]
        if len(suffixes) > 1 and (delimiter == "\t" or PICTURE_SUFFIXES.intersection(suffixes)):
            return True
    return False


def _make_row(number: int, header: Sequence[str], cells: Sequence[str]) -> TableRow:
    padded = [*cells, *[None] * (len(header) - len(cells))]
    fault = None
    if any(cells[len(header) :]):
        fault = f"{len(cells)} cells below {len(header)} columns"
    return TableRow(number, dict(zip(header, padded, strict=False)), fault)


def _find_column(columns: Sequence[str], names: Sequence[str], path: Path, content: str) -> str:
    for name in names:
        if name in columns:
            return name
    raise PairsError(
        path,
        f"no column of {content}",
        f"call it one of {', '.join(names)} (there are: {', '.join(columns) or 'none'})",
    )
