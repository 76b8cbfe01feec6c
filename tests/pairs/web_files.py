"""Archives, feeds and lists for the tests, written by warcio and in the forms of the web."""

import gzip
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

Headers = Sequence[tuple[str, str]]
HTML = [("Content-Type", "text/html; charset=utf-8")]


def page(number: int) -> bytes:
    return f'<html><img src="/a{number}.jpg" alt="Fox number {number}">'.encode()


def write_warc(
    path: Path,
    responses: Iterable[tuple[str, Headers, bytes]],
    compressed: bool = True,
    status: str = "200 OK",
) -> list[int]:
    """Write responses, and return the position of each record and of the end."""
    positions = []
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=compressed)
        writer.write_record(writer.create_warcinfo_record(path.name, {"software": "test"}))
        for url, headers, body in responses:
            positions.append(file.tell())
            http = StatusAndHeaders(status, list(headers), protocol="HTTP/1.1")
            record = writer.create_warc_record(
                url, "response", payload=io.BytesIO(body), http_headers=http
            )
            writer.write_record(record)
        positions.append(file.tell())
    return positions


def write_pages(path: Path, count: int, start: int = 0, compressed: bool = True) -> list[int]:
    numbers = range(start, start + count)
    responses = [(f"https://site.example/{i}", HTML, page(i)) for i in numbers]
    return write_warc(path, responses, compressed)


def wat_envelope(
    url: str,
    links: list[dict[str, str]],
    metas: list[dict[str, str]],
    headers: dict[str, Any] | None = None,
) -> bytes:
    """Return the JSON of a record as Common Crawl's ia-web-commons writes it."""
    envelope = {
        "Container": {
            "Filename": "CC-MAIN-20240518-00001.warc.gz",
            "Compressed": True,
            "Offset": "1023",
            "Gzip-Metadata": {"Inflated-Length": "5001", "Footer-Length": "8"},
        },
        "Envelope": {
            "Format": "WARC",
            "WARC-Header-Length": "600",
            "Actual-Content-Length": "4400",
            "WARC-Header-Metadata": {
                "WARC-Type": "response",
                "WARC-Target-URI": url,
                "WARC-Identified-Payload-Type": "text/html",
                "Content-Type": "application/http; msgtype=response",
            },
            "Payload-Metadata": {
                "Actual-Content-Type": "application/http; msgtype=response",
                "HTTP-Response-Metadata": {
                    "Response-Message": {
                        "Version": "HTTP/1.1",
                        "Status": "200",
                        "Reason": "OK",
                    },
                    "Headers": headers or {"Content-Type": "text/html"},
                    "HTML-Metadata": {
                        "Head": {
                            "Title": "A page",
                            "Base": "https://site.example/base/",
                            "Metas": metas,
                            "Link": [{"path": "LINK@/href", "url": "/style.css", "rel": "s"}],
                            "Scripts": [{"path": "SCRIPT@/src", "url": "/x.js"}],
                        },
                        "Links": links,
                    },
                },
            },
        },
    }
    return json.dumps(envelope).encode()


def write_wat(path: Path, envelopes: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for envelope in envelopes:
            record = writer.create_warc_record(
                "https://site.example/",
                "metadata",
                payload=io.BytesIO(envelope),
                warc_content_type="application/json",
            )
            writer.write_record(record)


def chunked(body: bytes, size: int = 7) -> bytes:
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x;x=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)
