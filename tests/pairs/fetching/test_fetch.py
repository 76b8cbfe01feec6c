"""Fetching from a small web on loopback, with its faults."""

import io
import json
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

pytest.importorskip("aiohttp")

from tests.pairs.fetching.shards import (
    QUICK,
    fetch_urls,
    read_rows,
    read_samples,
    reason_of,
    write_candidates,
)
from tests.pairs.web_in_a_box import WebInABox, jpeg
from twotower.errors import PairsError
from twotower.pairs.fetching.fetch import FetchSettings, fetch
from twotower.pairs.sources import open_source


@pytest.fixture
def box(shared_box: WebInABox) -> WebInABox:
    shared_box.documents.clear()
    shared_box.addresses.clear()
    shared_box.requests.clear()
    shared_box.visits.clear()
    return shared_box


def test_pictures_become_samples_that_training_reads(box: WebInABox, tmp_path: Path) -> None:
    url = box.url("a.test", "/picture/1.jpg")
    rows = [
        {"url": url, "caption": "a cat", "caption_source": "alt"},
        {"url": url, "caption": "my cat", "caption_source": "title"},
        {"url": url, "caption": "a cat", "caption_source": "title"},
    ]
    summary = fetch_urls(box, tmp_path, rows)
    assert (summary.pictures, summary.failed, summary.waiting) == (1, 0, 0)
    assert box.paths("a.test") == ["/picture/1.jpg"]
    (sample,) = read_samples(tmp_path).values()
    assert set(sample) == {"jpg", "txt", "json"}
    assert sample["txt"] == b"a cat"
    facts = json.loads(sample["json"])
    assert facts["captions"] == ["a cat", "my cat"]
    assert facts["caption_sources"] == ["alt", "title"]
    assert (facts["width"], facts["height"], facts["original_width"]) == (64, 48, 64)
    pair = open_source(str(tmp_path / "shards"))[0]
    assert pair.captions == ("a cat", "my cat")
    statistics = json.loads((tmp_path / "shards" / "00000_stats.json").read_text())
    assert (statistics["count"], statistics["successes"]) == (1, 1)


REASONS = {
    "/status/404": "http_404",
    "/status/503": "http_503",
    "/loop/a": "redirect_loop",
    "/endless/0": "too_many_redirects",
    "/slow": "timeout",
    "/drip": "timeout",
    "/huge/declared": "too_large",
    "/huge/endless": "too_large",
    "/text": "not_a_picture",
    "/svg": "not_a_picture",
    "/gzip/cut": "truncated",
    "/gzip/bomb": "too_large",
    "/encoding/br": "content_encoding",
    "/truncated/declared": "truncated",
    "/truncated/whole": "broken_picture",
    "/garbage": "bad_response",
    "/bomb": "broken_picture",
    "/empty": "empty",
    "/redirect?to=ftp://a.test/x": "bad_redirect",
    "/redirect?to=http://user:word@a.test/x": "bad_redirect",
    "/redirect?to=http://missing.test/x": "dns",
    "/redirect?to=http://%5B": "bad_redirect",
}
GOOD = ("/unnamed", "/gzip/whole", "/chunked", "/kind/PNG", "/kind/WEBP", "/kind/GIF", "/kind/BMP",
        "/kind/TIFF", "/kind/AVIF", "/status/503?times=1", "/status/429?times=1&Retry-After=1",
        "/redirect?to=/picture/9.jpg", "/redirect?to=//b.test:PORT/picture/9.jpg")  # fmt: skip


def test_each_fault_is_counted_by_its_reason(box: WebInABox, tmp_path: Path) -> None:
    reasons = {
        box.url(f"h{i}.test", path): reason for i, (path, reason) in enumerate(REASONS.items())
    }
    reasons |= {
        box.url(f"g{i}.test", path.replace("PORT", str(box.port))): ""
        for i, path in enumerate(GOOD)
    }
    reasons |= {
        "http://missing.test/x.jpg": "dns",
        "http://user:word@a.test/x.jpg": "bad_url",
        "http://a.test/\x07.jpg": "bad_url",
        "http://[::1/x.jpg": "bad_url",
        "ftp://a.test/x.jpg": "bad_url",
        "javascript:alert(1)": "bad_url",
        "http://a.test:99999/x.jpg": "bad_url",
        "http://" + "a" * 9000: "bad_url",
        "http://a.test:1/x.jpg": "connection",
        "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==": "",
        "data:text/html,<script>alert(1)</script>": "not_a_picture",
        "data:nothing": "bad_url",
    }
    # seconds enough for a busy machine
    summary = fetch_urls(box, tmp_path, reasons, max_bytes=5_000_000, timeout=6.0)
    rows = read_rows(tmp_path)
    assert {url: row["reason"] for url, row in rows.items()} == reasons
    assert len(read_samples(tmp_path)) == summary.pictures == len(GOOD) + 1
    assert summary.failed == len(reasons) - summary.pictures


def test_only_failures_that_can_heal_are_retried(box: WebInABox, tmp_path: Path) -> None:
    urls = [box.url("a.test", "/status/404"), box.url("a.test", "/status/500")]
    fetch_urls(box, tmp_path, [*urls, box.url("a.test", "/text")], retries=1)
    assert sorted(box.paths("a.test")) == ["/status/404", "/status/500", "/status/500", "/text"]


def test_retry_after_pauses_the_host(box: WebInABox, tmp_path: Path) -> None:
    url = box.url("a.test", "/status/429", times=1, **{"Retry-After": "1"})
    assert reason_of(box, tmp_path, url, retries=1) == ""
    times = [request.time for request in box.requests if "/status" in request.path]
    assert times[1] - times[0] >= 1


def test_a_host_that_asks_for_an_hour_is_left_alone(box: WebInABox, tmp_path: Path) -> None:
    busy = box.url("a.test", "/status/503", **{"Retry-After": "3600"})
    good = box.url("a.test", "/picture/1.jpg")
    summary = fetch_urls(box, tmp_path, [busy, good], per_host=1)
    assert summary.reasons == {"http_503": 1, "host_asks_to_wait": 1}
    assert len(box.paths("a.test")) == 1


def test_a_dead_host_is_given_up(box: WebInABox, tmp_path: Path) -> None:
    urls = [box.url("a.test", "/garbage", n=i) for i in range(3)]
    urls += [box.url("a.test", "/slow", n=i) for i in range(8)]
    summary = fetch_urls(box, tmp_path, urls, timeout=0.2, retries=0, per_host=1)
    assert summary.reasons == {"bad_response": 3, "timeout": 5, "host_unreachable": 3}


def test_requests_to_a_host_keep_their_distance(box: WebInABox, tmp_path: Path) -> None:
    urls = [box.url("a.test", f"/picture/{i}.jpg") for i in range(5)]
    fetch_urls(box, tmp_path, urls, host_rate=20.0)
    times = [request.time for request in box.requests]
    assert times[-1] - times[0] >= 0.9 * (len(times) - 1) / 20


def test_the_user_agent_names_product_and_contact(box: WebInABox, tmp_path: Path) -> None:
    fetch_urls(box, tmp_path, [box.url("a.test", "/picture/1.jpg")], contact="me@example.org")
    agents = {request.headers["User-Agent"] for request in box.requests}
    (agent,) = agents
    assert agent.startswith("twotower/")
    assert "me@example.org" in agent


def test_the_deadline_ends_a_run_and_the_next_continues(box: WebInABox, tmp_path: Path) -> None:
    urls = [box.url("a.test", "/picture/1.jpg"), box.url("b.test", "/slow")]
    start = time.monotonic()
    summary = fetch_urls(box, tmp_path, urls, deadline=1.0, timeout=60.0)
    assert time.monotonic() - start < 20
    assert (summary.pictures, summary.waiting) == (1, 1)
    summary = fetch_urls(box, tmp_path, urls, timeout=0.5, retries=0)
    assert (summary.pictures, summary.waiting, summary.reasons) == (1, 0, {"timeout": 1})
    assert len(box.paths("a.test")) == 1
    assert len(read_rows(tmp_path)) == 2


def test_deadlines_lose_and_double_nothing_on_a_slow_disk(
    box: WebInABox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline that meets batches which wait for the disk must not drop them."""
    from twotower.pairs.fetching import fetch as fetching
    from twotower.pairs.fetching import spool

    write = spool.Batch.write

    def write_slowly(batch: spool.Batch) -> None:
        time.sleep(0.1)
        write(batch)

    monkeypatch.setattr(spool.Batch, "write", write_slowly)
    monkeypatch.setattr(fetching, "_RECORD_SECONDS", 0.01)
    urls = [box.url(f"{i % 3}.test", f"/picture/{i}.jpg") for i in range(24)]
    runs, waiting = 0, len(urls)
    while waiting:
        summary = fetch_urls(box, tmp_path, urls, deadline=0.5, host_rate=10.0, per_shard=7)
        runs, waiting = runs + 1, summary.waiting
        assert runs < 60
    assert runs > 1
    assert set(read_rows(tmp_path)) == set(urls)
    pictures = [sample["jpg"] for sample in read_samples(tmp_path).values()]
    assert len(set(pictures)) == len(pictures) == len(urls)


def test_more_candidates_can_follow(box: WebInABox, tmp_path: Path) -> None:
    fetch_urls(box, tmp_path, [box.url("a.test", "/picture/1.jpg")])
    write_candidates(tmp_path / "candidates", [box.url("a.test", "/picture/2.jpg")], number=1)
    fetch(tmp_path / "candidates", tmp_path / "shards", FetchSettings(**QUICK), resolve=box.resolve,
          is_allowed=lambda _: True)  # fmt: skip
    assert box.paths("a.test") == ["/picture/1.jpg", "/picture/2.jpg"]
    assert len(read_rows(tmp_path)) == 2


def test_shards_hold_the_rows_that_were_asked_for(box: WebInABox, tmp_path: Path) -> None:
    urls = [box.url(f"{i % 3}.test", f"/picture/{i}.jpg") for i in range(10)]
    fetch_urls(box, tmp_path, [*urls, box.url("a.test", "/status/404")], per_shard=4)
    names = sorted(path.name for path in (tmp_path / "shards").glob("0*"))
    assert names == [
        f"0000{i}{end}" for i in range(3) for end in (".parquet", ".tar", "_stats.json")
    ]
    rows, samples = read_rows(tmp_path), read_samples(tmp_path)
    assert len(rows) == 11
    assert set(samples) == {row["key"] for row in rows.values() if row["status"] == "success"}


def test_equal_urls_are_fetched_once(box: WebInABox, tmp_path: Path) -> None:
    url = box.url("a.test", "/picture/1.jpg")
    fetch_urls(box, tmp_path, [url, url + "#here", url.replace("a.test", "A.TEST"), f" {url}\n"])
    assert box.paths("a.test") == ["/picture/1.jpg"]


@pytest.mark.parametrize(
    ("resize", "size"), [("shorter", (133, 100)), ("longer", (100, 75)), ("none", (800, 600))]
)
def test_pictures_are_resized(
    resize: str, size: tuple[int, int], box: WebInABox, tmp_path: Path
) -> None:
    url = box.url("a.test", "/large/x.jpg")
    fetch_urls(box, tmp_path, [url], resize=resize)
    (sample,) = read_samples(tmp_path).values()
    assert PIL.Image.open(io.BytesIO(sample["jpg"])).size == size
    row = read_rows(tmp_path)[url]
    assert (row["width"], row["height"]) == size
    assert (row["original_width"], row["original_height"]) == (800, 600)


@pytest.mark.parametrize("resize", ["shorter", "none"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_metadata_is_removed_and_orientation_applied(
    orientation: int, resize: str, box: WebInABox, tmp_path: Path
) -> None:
    fetch_urls(box, tmp_path, [box.url("a.test", f"/exif/{orientation}")], resize=resize, size=20)
    (sample,) = read_samples(tmp_path).values()
    assert b"Secret" not in sample["jpg"]
    image = PIL.Image.open(io.BytesIO(sample["jpg"]))
    assert not image.getexif()
    assert (image.height > image.width) == (orientation == 6)


def test_metadata_can_be_kept(box: WebInABox, tmp_path: Path) -> None:
    fetch_urls(box, tmp_path, [box.url("a.test", "/exif/1")], keep=True)
    (sample,) = read_samples(tmp_path).values()
    assert b"SecretCamera" in sample["jpg"]


def test_original_pixels_are_not_encoded_again(box: WebInABox, tmp_path: Path) -> None:
    fetch_urls(box, tmp_path, [box.url("a.test", "/chunked")])
    (sample,) = read_samples(tmp_path).values()
    assert sample["jpg"] == jpeg(7)


ADDRESSES = ["http://127.0.0.1:1/x", "http://localhost:1/x", "http://0x7f.1:1/x", "http://[::1]:1/x",
             "http://2130706433:1/x", "http://[::ffff:127.0.0.1]:1/x", "http://10.0.0.1/x",
             "http://169.254.169.254/latest/meta-data", "http://0.0.0.0:1/x"]  # fmt: skip


def test_private_addresses_are_not_contacted(tmp_path: Path) -> None:
    candidates = write_candidates(tmp_path / "candidates", ADDRESSES)
    summary = fetch(candidates, tmp_path / "shards", FetchSettings(**QUICK))
    assert summary.failed == len(ADDRESSES)
    assert summary.reasons == {"blocked_address": 8, "bad_url": 1}  # of a host that is a number


def only_first(address: str) -> bool:
    """Stand for `is_public_address`: only 127.0.0.1 is public."""
    return address == "127.0.0.1"


def test_redirects_to_private_addresses_are_not_followed(box: WebInABox, tmp_path: Path) -> None:
    box.addresses["inside.test"] = ["127.0.0.2"]
    targets = [box.url("127.0.0.2", "/picture/1.jpg"), box.url("inside.test", "/picture/1.jpg")]
    urls = [box.url("a.test", "/redirect", to=target) for target in targets]
    summary = fetch_urls(box, tmp_path, urls, is_allowed=only_first)
    assert summary.reasons == {"blocked_address": 2}
    assert {request.host for request in box.requests} == {"a.test"}


def test_an_address_that_changes_is_checked_again(
    box: WebInABox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the host moves to a private address after its robots.txt was read."""
    from twotower.pairs.fetching import web_client

    monkeypatch.setattr(web_client, "_DNS_SECONDS", 0)
    monkeypatch.setattr(web_client, "_KEEP_ALIVE", 0)
    box.addresses["a.test"] = ["127.0.0.1"]
    lookups = iter([["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"]])

    async def resolve(host: str, port: int) -> list[str]:
        return next(lookups, ["127.0.0.2"])

    monkeypatch.setattr(box, "resolve", resolve)
    url = box.url("a.test", "/picture/1.jpg")
    assert reason_of(box, tmp_path, url, is_allowed=only_first) == "blocked_address"
    assert box.paths("a.test") == []


def test_the_address_connected_to_is_checked_after_all_lookups(
    box: WebInABox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver that is fooled does not open the way: the socket is checked too."""
    answers = iter([True])

    def is_allowed(address: str) -> bool:
        return next(answers, False)

    url = box.url("a.test", "/picture/1.jpg")
    assert reason_of(box, tmp_path, url, is_allowed=is_allowed) == "blocked_address"
    assert not box.requests


def test_a_full_disk_stops_the_run_and_the_next_continues(
    box: WebInABox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource
    import signal

    urls = [box.url("a.test", f"/large/{i}.jpg") for i in range(40)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
        with pytest.raises(PairsError, match="cannot be written"):
            fetch_urls(box, tmp_path, urls)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    summary = fetch_urls(box, tmp_path, urls)
    assert (summary.pictures, summary.waiting) == (40, 0)
    assert len(read_samples(tmp_path)) == len(read_rows(tmp_path)) == 40


def test_two_runs_cannot_write_one_folder(box: WebInABox, tmp_path: Path) -> None:
    from twotower.files import exclusive_lock

    (tmp_path / "shards").mkdir()
    with exclusive_lock(tmp_path / "shards"), pytest.raises(PairsError, match="process"):
        fetch_urls(box, tmp_path, [box.url("a.test", "/picture/1.jpg")])


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_missing_candidates_are_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PairsError, match="no candidates"):
        fetch(tmp_path / name, tmp_path / "shards", FetchSettings())


def test_memory_of_settings_is_kept_with_the_run(box: WebInABox, tmp_path: Path) -> None:
    import sqlite3

    fetch_urls(box, tmp_path, [box.url("a.test", "/picture/1.jpg")], contact="me@example.org")
    database = sqlite3.connect(tmp_path / "shards" / "ledger.sqlite")
    ((settings, ended),) = database.execute("SELECT settings, ended FROM runs").fetchall()
    tree: dict[str, Any] = json.loads(settings)
    assert "me@example.org" in tree["user_agent"]
    assert ended


def test_the_command_prints_counts_by_reason(
    box: WebInABox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from twotower.cli.main import main

    urls = [box.url("127.0.0.1", path) for path in ("/picture/1.jpg", "/status/404", "/svg")]
    candidates = write_candidates(tmp_path / "candidates", urls)
    command = ["pairs", "fetch", str(candidates), "--out", str(tmp_path / "shards")]
    assert main([*command, "--allow-private", "--contact", "me@example.org"]) == 1
    output = capsys.readouterr().out
    assert "Fetched 1 picture into" in output
    assert "2 failed, 0 waiting" in output
    assert "http_404" in output
    with pytest.raises(SystemExit):
        main([*command, "--contact", "me\r\nX-Header: 1"])
