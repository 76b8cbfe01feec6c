"""WARC files of pages and feeds, and WAT files of Common Crawl -> candidates."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from twotower.pairs.candidates import Candidate, Reason
from twotower.pairs.directives import response_refuses
from twotower.pairs.readers.encodings import decode_page
from twotower.pairs.readers.feeds import feed_candidates
from twotower.pairs.readers.html import Page, page_candidates
from twotower.pairs.readers.http_bodies import MAX_PAGE, BodyError, decode_body
from twotower.pairs.readers.reading import Reading
from twotower.pairs.readers.wat import wat_candidates

RECORD_TYPES = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.metadata
PAGE_TYPES = frozenset(("text/html", "application/xhtml+xml"))
FEED_TYPES = frozenset(
    "application/rss+xml application/atom+xml application/rdf+xml text/xml application/xml".split()
)
SUCCESS = (200, 203)  # OK, and OK changed by a proxy
_GZIP_MEMBER, _PLAIN_RECORD = b"\x1f\x8b\x08", b"\nWARC/1."
_GZIP = 31  # window bits of zlib
_BLOCK = 2**20  # bytes read at a time in search of the next record


class ArchiveRecord(NamedTuple):
    """A record of an archive.

    Attributes:
        position: of the record in the file, in bytes.
        kind: its type.
        url: of the page.
        content_type: of the block of a record without HTTP headers.
        status: of HTTP, or 0.
        headers: of HTTP, with names in any case.
        body: as archived, up to `MAX_PAGE` bytes and one more.
    """

    position: int
    kind: WarcRecordType
    url: str
    content_type: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """Return the first header of this name, in lower case, or ""."""
        return next((value for key, value in self.headers if key.lower() == name), "")


def archive_candidates(path: Path, reading: Reading) -> Iterator[Candidate]:
    """Yield the candidates of a WARC or WAT file; broken records are counted and passed over.

    Raises:
        OSError: the file cannot be opened.
    """
    for record in read_records(path, reading):
        if not reading.begin_page(record.position):
            continue
        source = f"{path.name}:{record.position}"
        if record.kind == WarcRecordType.metadata:
            if record.content_type.startswith("application/json"):
                yield from wat_candidates(record.body, source, reading)
        else:
            yield from _response_candidates(record, source, reading)


def read_records(path: Path, reading: Reading) -> Iterator[ArchiveRecord]:
    """Yield the responses, resources and metadata of an archive, resuming after broken records."""
    with path.open("rb") as file:
        mark = _GZIP_MEMBER if file.read(3) == _GZIP_MEMBER else _PLAIN_RECORD
        start: int | None = 0
        while start is not None:
            file.seek(start)
            intact = False
            try:
                for record in ArchiveIterator(file, record_types=RECORD_TYPES, parse_http=True):
                    start = record.stream_pos
                    yield _read_record(record, reading)
                    intact = True
                if mark == _GZIP_MEMBER and _is_cut(file, start):
                    reading.counts[Reason.TRUNCATED] += 1
                return
            except (OSError, ValueError):
                # a broken record is met twice: after the one before it, and in search of the next
                if intact or start == 0:
                    reading.counts[Reason.MALFORMED_RECORD] += 1
            start = _next_record(file, start + 1, mark)


def _read_record(record: WarcRecord, reading: Reading) -> ArchiveRecord:
    http, length = record.http_headers, record.content_length
    body = record.reader.read(MAX_PAGE + 1)
    if len(body) < min(length, MAX_PAGE + 1):
        reading.counts[Reason.TRUNCATED] += 1
    return ArchiveRecord(
        record.stream_pos,
        record.record_type,
        record.headers.get("WARC-Target-URI") or "",
        (record.headers.get("Content-Type") or "").lower(),
        (http.status_code or 0) if http else 0,
        http.to_tuples() if http else (),
        body,
    )


def _is_cut(file: IO[bytes], start: int) -> bool:
    """Return True if the gzip members of a file from `start` on end before their end."""
    file.seek(start)
    member = zlib.decompressobj(_GZIP)
    fed = False  # to the current member
    while block := file.read(_BLOCK):
        while block:
            try:
                fed, pending = True, block
                while pending:  # in pieces, because a member may expand a thousandfold
                    member.decompress(pending, _BLOCK)
                    pending = member.unconsumed_tail
            except zlib.error:
                return False  # a broken record, which is counted as such
            block = member.unused_data
            if member.eof:
                member, fed = zlib.decompressobj(_GZIP), False
    return fed


def _next_record(file: IO[bytes], start: int, mark: bytes) -> int | None:
    """Return the position of the next mark of a record in a file, or None."""
    file.seek(start)
    tail = b""
    while block := file.read(_BLOCK):
        window = tail + block
        if (found_at := window.find(mark)) >= 0:
            newline = mark.startswith(b"\n")
            return file.tell() - len(window) + found_at + newline
        tail = window[1 - len(mark) :]
    return None


def _response_candidates(
    record: ArchiveRecord, source: str, reading: Reading
) -> Iterator[Candidate]:
    counts = reading.counts
    is_response = record.kind == WarcRecordType.response
    if is_response and record.status not in SUCCESS:
        counts[Reason.NO_SUCCESS if record.status else Reason.MALFORMED_RECORD] += 1
        return
    content_type = (record.header("content-type") if is_response else record.content_type).lower()
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip()
    if media_type and media_type not in PAGE_TYPES | FEED_TYPES:
        counts[Reason.OTHER_TYPE] += 1
        return
    if response_refuses(record.headers):
        counts[Reason.REFUSED] += 1
        if not reading.keep_refused:
            return
    try:
        body = decode_body(
            record.body, record.header("transfer-encoding"), record.header("content-encoding")
        )
    except BodyError as error:
        counts[error.reason] += 1
        return
    if media_type in FEED_TYPES:
        yield from feed_candidates([body], record.url, source, reading)
        return
    if not media_type and b"<html" not in body[:4096].lower():
        counts[Reason.OTHER_TYPE] += 1
        return
    charset = parameters.partition("charset=")[2].split(";")[0] or None
    markup, fits = decode_page(body, charset)
    if not fits:
        counts[Reason.WRONG_ENCODING] += 1
    page = Page(markup, record.url, source, record.header("content-language"))
    yield from page_candidates(page, reading)
