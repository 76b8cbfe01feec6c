"""Candidates: the addresses of images, each with a text, in Parquet files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow
import pyarrow.parquet

from twotower.errors import PairsError
from twotower.files import atomic_write

CANDIDATE_SCHEMA = pyarrow.schema(
    [
        ("url", pyarrow.string()),
        ("caption", pyarrow.string()),
        ("caption_source", pyarrow.string()),
        ("page_url", pyarrow.string()),
        ("language", pyarrow.string()),
        ("width", pyarrow.int32()),
        ("height", pyarrow.int32()),
        ("source", pyarrow.string()),
    ]
)
CAPTION_SOURCES = ("alt", "title", "figcaption", "caption", "og", "schema", "anchor", "column")
ROWS_PER_GROUP = 16_384  # rows held in memory, a few megabytes
_COUNTS = b"twotower.counts"  # in the metadata of a part


class Candidate(NamedTuple):
    """A row of the candidates.

    Attributes:
        url: of the image, absolute with http or https, or a data URI.
        caption: a text for it, in NFC, with single spaces.
        caption_source: a name of `CAPTION_SOURCES`.
        page_url: of the page that shows the image, or "".
        language: BCP 47, as the page declares it, or "".
        width, height: pixels, as the page declares them, or 0.
        source: the file that it was read from and the place in it, such as "a.warc.gz:1024".
    """

    url: str
    caption: str
    caption_source: str
    page_url: str
    language: str
    width: int
    height: int
    source: str


class Reason(StrEnum):
    """Reasons to leave out a page, an image or a text; each is counted."""

    MALFORMED_RECORD = "malformed record"
    TRUNCATED = "truncated file"
    NO_SUCCESS = "response without success"
    OTHER_TYPE = "neither page nor feed"
    UNKNOWN_CODING = "unknown content encoding"
    PAGE_TOO_LONG = "page too long"
    TOO_DEEP = "page nested too deeply"
    UNREADABLE_PAGE = "page stopped the parser"
    WRONG_ENCODING = "wrong encoding"
    REFUSED = "refused by its page"
    MALFORMED_ROW = "malformed row"
    MALFORMED_URL = "malformed URL"
    RELATIVE_URL = "relative URL without a base"
    OTHER_SCHEME = "URL of another scheme"
    CREDENTIALS = "URL with credentials"
    CONTROL_CHARACTERS = "URL with control characters"
    URL_TOO_LONG = "URL too long"
    DATA_URI = "unusable data URI"
    SVG = "SVG"
    NO_URL = "image without URL"
    SMALL = "small image"
    BOILERPLATE_URL = "boilerplate URL"
    NO_TEXT = "image without text"
    BOILERPLATE_TEXT = "boilerplate text"
    FILE_NAME = "text is a file name"
    NO_LETTERS = "text without letters"
    TEXT_TOO_LONG = "text too long"
    UNDECODED_TEXT = "text with undecoded characters"


# Reasons that point to damaged inputs; the others are rules.
DAMAGE = (
    Reason.MALFORMED_RECORD,
    Reason.TRUNCATED,
    Reason.MALFORMED_ROW,
    Reason.UNREADABLE_PAGE,
)
Counts = Counter[str]  # by `Reason`, and of `PAGES` and `CANDIDATES`
PAGES, CANDIDATES = "pages", "candidates"


def write_part(path: Path, candidates: Iterable[Candidate], counts: Counts) -> None:
    """Write candidates to a Parquet file that appears when it is complete.

    Args:
        counts: filled while `candidates` is read; kept in the file, see `read_counts`.

    Raises:
        OSError: the file cannot be written.
    """
    rows = iter(candidates)
    with (
        atomic_write(path, "wb", sync=True) as file,
        pyarrow.parquet.ParquetWriter(file, CANDIDATE_SCHEMA, compression="zstd") as writer,
    ):
        while group := list(islice(rows, ROWS_PER_GROUP)):
            writer.write_table(_table(group))
            counts[CANDIDATES] += len(group)
        writer.add_key_value_metadata({_COUNTS: json.dumps(counts).encode()})


def _table(rows: list[Candidate]) -> pyarrow.Table:
    columns = zip(zip(*rows, strict=True), CANDIDATE_SCHEMA, strict=True)
    arrays = [pyarrow.array(column, field.type) for column, field in columns]
    return pyarrow.Table.from_arrays(arrays, schema=CANDIDATE_SCHEMA)


def part_files(folder: Path) -> list[Path]:
    """Return the complete parts of a folder of candidates, in order.

    Raises:
        PairsError: there are none.
    """
    paths = sorted(folder.glob("part-*.parquet"))
    if not paths:
        raise PairsError(folder, "no candidates", "make them with `twotower pairs collect`")
    return paths


def read_part(path: Path) -> Iterator[Candidate]:
    """Yield the rows of a part, a few thousand in memory at a time."""
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_PER_GROUP, columns=CANDIDATE_SCHEMA.names):
            columns = [column.to_pylist() for column in batch.columns]
            yield from map(Candidate._make, zip(*columns, strict=True))


def read_counts(path: Path) -> Counts:
    """Return the counts that were kept in a part."""
    metadata = pyarrow.parquet.read_metadata(path).metadata or {}
    return Counter(json.loads(metadata.get(_COUNTS, b"{}")))
