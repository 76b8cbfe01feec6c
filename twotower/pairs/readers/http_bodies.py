"""Bodies of archived responses: chunks joined, decompressed, up to a size."""

from __future__ import annotations

import io
import re
import zlib

from fastwarc.stream_io import BrotliReader, ZstdReader

from twotower.pairs.candidates import Reason

MAX_PAGE = 8 * 2**20  # bytes after decompression; Common Crawl cuts pages at 5 MiB
_CHUNK_SIZE = re.compile(rb"[ \t]*([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
_ZLIB_OR_GZIP, _RAW_DEFLATE = 47, -15  # window bits of zlib


class BodyError(ValueError):
    """A body cannot be read.

    Attributes:
        reason: to be counted.
    """

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason)


def decode_body(body: bytes, transfer_encoding: str, content_encoding: str) -> bytes:
    """Return a body as the page's author wrote it.

    A body that does not have the form that its headers name is taken to be decoded already, as in
    archives of crawlers that decode bodies and keep the headers.

    Raises:
        BodyError: it is too long, or in an encoding other than gzip, deflate, br and zstd.
    """
    if "chunked" in transfer_encoding.lower():
        body = join_chunks(body)
    for coding in reversed(content_encoding.lower().replace(" ", "").split(",")):
        if coding in ("gzip", "x-gzip"):
            body = inflate(body) if body.startswith(b"\x1f\x8b") else body
        elif coding == "deflate":
            body = inflate(body)
        elif coding == "br" and not _is_markup(body):
            body = _read_stream(BrotliReader(io.BytesIO(body)))
        elif coding == "zstd" and not _is_markup(body):
            body = _read_stream(ZstdReader(io.BytesIO(body)))
        elif coding not in ("", "identity", "none") and not _is_markup(body):
            raise BodyError(Reason.UNKNOWN_CODING)
    if len(body) > MAX_PAGE:
        raise BodyError(Reason.PAGE_TOO_LONG)
    return body


def join_chunks(body: bytes) -> bytes:
    """Return the data of a chunked body; up to the first broken chunk."""
    if not _CHUNK_SIZE.match(body):
        return body
    chunks, position = [], 0
    while size := _CHUNK_SIZE.match(body, position):
        end = size.end() + int(size[1], 16)
        if end == size.end():
            break
        chunks.append(body[size.end() : end])
        position = end + 2 if body[end : end + 2] == b"\r\n" else end + 1
    return b"".join(chunks)


def inflate(body: bytes) -> bytes:
    """Return decompressed bytes, as far as they can be; the same bytes if they are not compressed.

    Raises:
        BodyError: there are more than `MAX_PAGE`.
    """
    for window_bits in (_ZLIB_OR_GZIP, _RAW_DEFLATE):
        decompressor = zlib.decompressobj(window_bits)
        try:
            text = decompressor.decompress(body, MAX_PAGE + 1)
        except zlib.error:
            continue
        if len(text) > MAX_PAGE:
            raise BodyError(Reason.PAGE_TOO_LONG)
        return text
    return body


def _is_markup(body: bytes) -> bool:
    return body[:64].lstrip().startswith(b"<")


def _read_stream(reader: BrotliReader | ZstdReader) -> bytes:
    try:
        text = reader.read(MAX_PAGE + 1)
    except (OSError, ValueError):
        raise BodyError(Reason.MALFORMED_RECORD) from None
    if len(text) > MAX_PAGE:
        raise BodyError(Reason.PAGE_TOO_LONG)
    return text
