import random
import zlib
from pathlib import Path

import pytest

from tests.pairs.web_files import (
    HTML,
    chunked,
    gzipped,
    page,
    wat_envelope,
    write_pages,
    write_warc,
    write_wat,
)
from twotower.pairs.candidates import Candidate, Reason
from twotower.pairs.readers import http_bodies
from twotower.pairs.readers.archives import archive_candidates
from twotower.pairs.readers.reading import Reading


def read(path: Path, keep_refused: bool = False) -> tuple[list[Candidate], dict[str, int]]:
    reading = Reading(keep_refused=keep_refused)
    return list(archive_candidates(path, reading)), dict(reading.counts)


def numbers(candidates: list[Candidate]) -> list[int]:
    return [int(candidate.caption.split()[-1]) for candidate in candidates]


@pytest.mark.parametrize("compressed", [True, False])
def test_pages_have_address_and_position(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "a.warc"
    positions = write_pages(path, 3, compressed=compressed)
    candidates, counts = read(path)
    assert numbers(candidates) == [0, 1, 2]
    assert candidates[1].url == "https://site.example/a1.jpg"
    assert candidates[1].page_url == "https://site.example/1"
    assert [c.source for c in candidates] == [f"a.warc:{at}" for at in positions[:3]]
    assert counts == {"pages": 3}


def deflated(body: bytes) -> bytes:
    return zlib.compress(body)[2:-4]


CODINGS = {
    "gzip": ([("Content-Encoding", "gzip")], gzipped(page(1))),
    "x-gzip": ([("content-encoding", "x-gzip")], gzipped(page(1))),
    "deflate": ([("Content-Encoding", "deflate")], zlib.compress(page(1))),
    "raw deflate": ([("Content-Encoding", "deflate")], deflated(page(1))),
    "chunked": ([("Transfer-Encoding", "chunked")], chunked(page(1))),
    "chunked gzip": (
        [("Transfer-Encoding", "chunked"), ("Content-Encoding", "gzip")],
        chunked(gzipped(page(1))),
    ),
    "decoded gzip": ([("Content-Encoding", "gzip")], page(1)),
    "decoded br": ([("Content-Encoding", "br")], page(1)),
    "decoded chunks": ([("Transfer-Encoding", "chunked")], page(1)),
    "cut gzip": ([("Content-Encoding", "gzip")], gzipped(page(1) + b"x" * 50)[:-12]),
}


@pytest.mark.parametrize("name", CODINGS)
def test_bodies_are_decoded(tmp_path: Path, name: str) -> None:
    headers, body = CODINGS[name]
    write_warc(
        tmp_path / "a.warc.gz",
        [("https://h.example/", [*HTML, *headers], body), ("https://h.example/2", HTML, page(2))],
    )
    candidates, counts = read(tmp_path / "a.warc.gz")
    assert numbers(candidates) == [1, 2]
    assert counts == {"pages": 2}


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_bodies_in_newer_encodings(tmp_path: Path, coding: str) -> None:
    import io

    from fastwarc.stream_io import BrotliWriter, ZstdWriter

    stream = io.BytesIO()
    writer = BrotliWriter(stream) if coding == "br" else ZstdWriter(stream)
    writer.write(page(1))
    writer.close()
    headers = [*HTML, ("Content-Encoding", coding)]
    write_warc(tmp_path / "a.warc.gz", [("https://h.example/", headers, stream.getvalue())])
    assert numbers(read(tmp_path / "a.warc.gz")[0]) == [1]


def test_a_decompression_bomb_is_counted(tmp_path: Path) -> None:
    bomb = gzipped(b"\0" * (http_bodies.MAX_PAGE + 1))
    headers = [*HTML, ("Content-Encoding", "gzip")]
    write_warc(
        tmp_path / "a.warc.gz",
        [
            ("https://h.example/", headers, bomb),
            ("https://h.example/", HTML, b"x" * (http_bodies.MAX_PAGE + 1)),
            ("https://h.example/", [*HTML, ("Content-Encoding", "odd")], b"?"),
            ("https://h.example/", HTML, page(2)),
        ],
    )
    candidates, counts = read(tmp_path / "a.warc.gz")
    assert numbers(candidates) == [2]
    assert counts == {"pages": 1, Reason.PAGE_TOO_LONG: 2, Reason.UNKNOWN_CODING: 1}


def test_a_truncated_archive_keeps_the_records_before(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    positions = write_pages(path, 4)
    path.write_bytes(path.read_bytes()[: positions[3] + 60])
    candidates, counts = read(path)
    assert numbers(candidates) == [0, 1, 2]
    assert counts.get(Reason.MALFORMED_RECORD, 0) + counts.get(Reason.TRUNCATED, 0) >= 1


def test_an_archive_is_noticed_to_be_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    positions = write_pages(path, 3)
    content = path.read_bytes()
    assert not read(path)[1].keys() & {Reason.TRUNCATED, Reason.MALFORMED_RECORD}
    for cut in range(positions[2] + 1, positions[3], 5):
        path.write_bytes(content[:cut])
        candidates, counts = read(path)
        assert numbers(candidates)[:2] == [0, 1]
        assert counts.keys() & {Reason.TRUNCATED, Reason.MALFORMED_RECORD}, cut


@pytest.mark.parametrize("compressed", [True, False])
def test_reading_goes_on_after_a_broken_record(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "a.warc"
    positions = write_pages(path, 6, compressed=compressed)
    content = bytearray(path.read_bytes())
    content[positions[2] : positions[2] + 12] = b"z" * 12
    path.write_bytes(content)
    candidates, counts = read(path)
    assert [n for n in numbers(candidates) if n != 2] == [0, 1, 3, 4, 5]
    assert counts[Reason.MALFORMED_RECORD] == 1


@pytest.mark.parametrize("compressed", [True, False])
def test_noise_anywhere_never_ends_the_reading(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "a.warc"
    positions = write_pages(path, 5, compressed=compressed)
    content = path.read_bytes()
    chance = random.Random(0)
    for _ in range(25):
        noisy = bytearray(content)
        start = chance.randrange(positions[1], positions[3])
        noisy[start : start + 20] = chance.randbytes(20)
        path.write_bytes(noisy)
        read_numbers = numbers(read(path)[0])
        assert read_numbers[0] == 0
        assert read_numbers[-1] == 4  # the records after the noise are found again


def test_other_responses_are_counted(tmp_path: Path) -> None:
    write_warc(tmp_path / "a.warc.gz", [("https://h.example/", HTML, page(1))], status="404 No")
    write_warc(
        tmp_path / "b.warc.gz",
        [
            ("https://h.example/", [("Content-Type", "image/png")], b"x"),
            ("https://h.example/", [("Server", "x")], b"\x89PNG"),
            ("https://h.example/", [("Server", "x")], page(1)),
        ],
    )
    assert read(tmp_path / "a.warc.gz") == ([], {Reason.NO_SUCCESS: 1})
    candidates, counts = read(tmp_path / "b.warc.gz")
    assert numbers(candidates) == [1]
    assert counts == {"pages": 1, Reason.OTHER_TYPE: 2}


@pytest.mark.parametrize(
    "header",
    [
        ("X-Robots-Tag", "noai"),
        ("x-robots-tag", "nofollow, noimageindex"),
        ("Content-Usage", "search=y, train-ai=n"),
        ("TDM-Reservation", "1"),
    ],
)
def test_refusals_in_headers_are_obeyed(tmp_path: Path, header: tuple[str, str]) -> None:
    path = tmp_path / "a.warc.gz"
    write_warc(path, [("https://h.example/", [*HTML, header], page(1))])
    assert read(path) == ([], {Reason.REFUSED: 1})
    assert numbers(read(path, keep_refused=True)[0]) == [1]


def test_encodings_of_headers_and_pages(tmp_path: Path) -> None:
    def markup(charset: str, encoding: str) -> bytes:
        return f"<meta charset={charset}><img src=a.jpg alt='日本の狐 fox'>".encode(encoding)

    html = [("Content-Type", "text/html")]
    write_warc(
        tmp_path / "a.warc.gz",
        [
            ("https://h.example/1", html, markup("shift_jis", "cp932")),
            ("https://h.example/2", [("Content-Type", "text/html; charset=EUC-JP")],
             markup("x", "euc-jp")),
            ("https://h.example/3", html, b"\xff\xfe" + markup("utf-8", "utf-16-le")),
            # Apache's default header on a page in UTF-8
            ("https://h.example/4", [("Content-Type", "text/html;charset=iso-8859-1")],
             markup("utf-8", "utf-8")),
            ("https://h.example/5", html, markup("utf-8", "cp932")),
        ],
    )  # fmt: skip
    candidates, counts = read(tmp_path / "a.warc.gz")
    assert [c.caption for c in candidates] == ["日本の狐 fox"] * 4
    assert counts == {"pages": 5, Reason.WRONG_ENCODING: 1, Reason.UNDECODED_TEXT: 1}


def test_wat_records_of_common_crawl(tmp_path: Path) -> None:
    links = [
        {"path": "IMG@/src", "url": "a.jpg", "alt": "A fox", "title": "Fox"},
        {"path": "IMG@/src", "url": "/logo.png", "alt": "A fox"},
        {"path": "IMG@/src", "url": "data:image/gif;base64,R0"},
        {"path": "A@/href", "url": "/full.jpg", "text": "Large fox"},
        {"path": "A@/href", "url": "/page", "text": "Elsewhere"},
    ]
    metas = [
        {"property": "og:image", "content": "/og.jpg"},
        {"property": "og:title", "content": "All foxes"},
        {"name": "HTML@/lang", "content": "en"},
    ]
    refusing = wat_envelope("https://h.example/", links, [{"name": "robots", "content": "noai"}])
    header = wat_envelope("https://h.example/", links, [], {"X-Robots-Tag": ["x", "noindex"]})
    write_wat(
        tmp_path / "a.warc.wat.gz",
        [
            wat_envelope("https://h.example/x/", links, metas),
            refusing,
            header,
            b'{"Envelope": {"Payload-Metadata": [], "WARC-Header-Metadata": {}}}',
            b'{"Envelope": {"Payload-Metadata": {}, "WARC-Header-Metadata": {}}}',
            b"{",
        ],
    )
    candidates, counts = read(tmp_path / "a.warc.wat.gz")
    base = "https://site.example"
    assert [(c.url, c.caption, c.caption_source, c.language) for c in candidates] == [
        (f"{base}/base/a.jpg", "A fox", "alt", "en"),
        (f"{base}/base/a.jpg", "Fox", "title", "en"),
        (f"{base}/full.jpg", "Large fox", "anchor", "en"),
        (f"{base}/og.jpg", "All foxes", "og", "en"),
    ]
    assert counts == {
        "pages": 3,
        Reason.BOILERPLATE_URL: 1,
        Reason.DATA_URI: 1,
        Reason.REFUSED: 2,
        Reason.MALFORMED_RECORD: 2,
    }
