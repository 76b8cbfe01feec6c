"""Lists of image URLs with captions, in CSV, TSV, Parquet or JSON lines -> candidates."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from twotower.errors import PairsError
from twotower.pairs.candidates import ROWS_PER_GROUP, Candidate, Reason
from twotower.pairs.readers.image_sources import MAX_SIDE
from twotower.pairs.readers.page_metadata import language_tag
from twotower.pairs.readers.page_pairs import PagePairs
from twotower.pairs.readers.reading import Reading
from twotower.pairs.readers.urls import BaseUrl

# Names of columns in published lists, compared without case; the first that exists counts.
URL_COLUMNS = ("url", "image_url", "img_url", "image_src", "imageurl", "image", "src")
CAPTION_COLUMNS = (
    "caption text title alt alt_text alttext captions texts description top_caption"
).split()
PAGE_COLUMNS = ("page_url", "pageurl", "source_url", "page", "referrer", "landing_url")
LANGUAGE_COLUMNS = ("language", "lang")
WIDTH_COLUMNS = ("width", "original_width")
HEIGHT_COLUMNS = ("height", "original_height")
MAX_LINE = 2**20  # characters of a line of JSON


class Columns(NamedTuple):
    """Names of the columns of a list; "" for those that it lacks."""

    url: str
    caption: str
    page: str
    language: str
    width: str
    height: str


def list_candidates(path: Path, reading: Reading) -> Iterator[Candidate]:
    """Yield the candidates of a list, row by row.

    Raises:
        PairsError: there is no column of URLs, or none of captions.
        OSError: the file cannot be opened.
    """
    columns: Columns | None = None
    base, wanted_group = BaseUrl(), True
    for number, row in enumerate(read_rows(path, reading)):
        if number % ROWS_PER_GROUP == 0:
            wanted_group = reading.begin_page(0)
        if not wanted_group:
            continue
        if columns is None or columns.url not in row:
            columns = find_columns(list(row), path, reading)
        yield from _row_candidates(row, columns, base, f"{path.name}:{number}", reading)


def read_rows(path: Path, reading: Reading) -> Iterator[dict[str, Any]]:
    """Yield the rows of a list; lines that cannot be read are counted."""
    suffix = list_suffix(path)
    if suffix == ".parquet":
        yield from _parquet_rows(path, reading)
        return
    try:
        with _open_text(path) as file:
            if suffix in (".jsonl", ".ndjson"):
                yield from _json_rows(file, reading)
            else:
                yield from _table_rows(file, "\t" if suffix == ".tsv" else ",", reading)
    except EOFError:
        reading.counts[Reason.TRUNCATED] += 1


def list_suffix(path: Path) -> str:
    """Return the suffix of a list's name, in lower case, without that of its compression."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _open_text(path: Path) -> TextIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _parquet_rows(path: Path, reading: Reading) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = find_columns(names, path, reading)
            used = [name for name in columns if name]
            for batch in file.iter_batches(1024, columns=used):
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise PairsError(path, f"no Parquet file ({error})", "write it again") from None


def _json_rows(file: TextIO, reading: Reading) -> Iterator[dict[str, Any]]:
    while line := file.readline(MAX_LINE):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield row
        else:
            reading.counts[Reason.MALFORMED_ROW] += 1


def _table_rows(file: TextIO, delimiter: str, reading: Reading) -> Iterator[dict[str, Any]]:
    """Yield rows by the names of the first line, or of a list without names by its first URL."""
    if delimiter == "\t":
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(file)
    names: list[str] = []
    while True:
        try:
            cells = next(reader, None)
        except csv.Error:  # a cell over csv.field_size_limit(), as after an open quote
            reading.counts[Reason.MALFORMED_ROW] += 1
            continue
        if cells is None:
            return
        if not cells:
            continue
        if delimiter == "\t":
            cells = [_unquote(cell) for cell in cells]
        if not names:
            names = _names_of(cells)
            if names is cells:
                continue
        if len(cells) != len(names):
            reading.counts[Reason.MALFORMED_ROW] += 1
        else:
            yield dict(zip(names, cells, strict=True))


def _names_of(cells: list[str]) -> list[str]:
    """Return the first line if it has names; else names for its URL and its first text."""
    addresses = [cell.lower().startswith(("http://", "https://")) for cell in cells]
    if not any(addresses):
        return cells
    names = [f"column {number}" for number in range(len(cells))]
    names[addresses.index(True)] = "url"
    if False in addresses:
        names[addresses.index(False)] = "caption"
    return names


def _unquote(cell: str) -> str:
    """Return a cell of a TSV file without the quotes that pandas writes."""
    if len(cell) >= 2 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"')
    return cell


def find_columns(names: Sequence[str], path: Path, reading: Reading) -> Columns:
    """Return the columns of a list. Raises `PairsError` if it lacks URLs or captions."""
    lower = {name.lower(): name for name in reversed(names)}

    def find(usual: Iterable[str]) -> str:
        return next((lower[name] for name in usual if name in lower), "")

    url = reading.url_column or find(URL_COLUMNS)
    caption = reading.caption_column or find(CAPTION_COLUMNS)
    for column, content, option in ((url, "URLs", "url"), (caption, "captions", "caption")):
        if column not in names:
            raise PairsError(
                path,
                f"no column of {content} (there are: {', '.join(names) or 'none'})",
                f"name it with --{option}-column",
            )
    return Columns(
        url,
        caption,
        find(PAGE_COLUMNS),
        find(LANGUAGE_COLUMNS),
        find(WIDTH_COLUMNS),
        find(HEIGHT_COLUMNS),
    )


def _row_candidates(
    row: dict[str, Any], columns: Columns, base: BaseUrl, source: str, reading: Reading
) -> Iterator[Candidate]:
    page_url = str(row.get(columns.page) or "")
    language = language_tag(str(row.get(columns.language) or ""))
    pairs = PagePairs(base, page_url, language, source, reading.counts)
    size = _pixels(row.get(columns.width)), _pixels(row.get(columns.height))
    if image := pairs.add_image(str(row.get(columns.url) or ""), *size):
        captions = row.get(columns.caption)
        for caption in captions if isinstance(captions, list) else [captions]:
            image.add_text("column", str(caption or ""))
        yield from pairs.candidates()


def _pixels(value: Any) -> int:
    try:
        return min(max(int(float(value)), 0), MAX_SIDE)
    except (TypeError, ValueError, OverflowError):
        return 0
