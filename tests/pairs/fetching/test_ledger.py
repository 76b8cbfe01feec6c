"""The ledger and the shards agree after any sequence of results, crashes and removals."""

import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("aiohttp")

from tests.pairs.fetching.shards import read_rows, read_samples
from twotower.errors import PairsError
from twotower.pairs.fetching.download import Outcome
from twotower.pairs.fetching.fetch import make_record
from twotower.pairs.fetching.ledger import (
    FINISHED,
    REMOVED,
    WAITING,
    Candidate,
    Ledger,
    Text,
    host_of,
    is_within,
    url_hash,
)
from twotower.pairs.fetching.removal import remove
from twotower.pairs.fetching.spool import Spool
from twotower.pairs.fetching.stored_picture import StoredPicture
from twotower.pairs.fetching.web_client import FetchError

URLS = [f"http://{host}.test/{number}.jpg" for host in "abc" for number in range(4)]


def candidates(urls: list[str]) -> list[Candidate]:
    return [Candidate(url, Text(f"caption of {url}", "alt", "", "")) for url in urls]


def append(spool: Spool, ledger: Ledger, url: str, works: bool) -> None:
    """Append a result whose picture holds the URL."""
    content = url.encode()
    picture = StoredPicture(content, "jpg", 1, 1, 1, 1, "") if works else None
    outcome = Outcome(picture, None if works else FetchError("http_404"))
    record = make_record(url, ledger.texts(url_hash(url)), outcome)
    spool.append(url_hash(url), record, content if works else b"", "jpg", "")


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("fetch"), st.integers(0, 11), st.booleans()),
        st.tuples(st.just("record"), st.just(0), st.just(True)),
        st.tuples(st.just("crash"), st.integers(0, 3000), st.just(True)),
        st.tuples(st.just("remove"), st.integers(0, 11), st.just(True)),
        st.tuples(st.just("finish"), st.just(0), st.just(True)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=40)
@given(ACTIONS, st.integers(1, 5))
def test_nothing_is_lost_or_doubled(actions: list[tuple[str, int, bool]], per_shard: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "shards"
        folder.mkdir()
        recorded, pending, removed = _play(folder, actions, per_shard)
        assert not pending
        rows, samples = read_rows(Path(name)), read_samples(Path(name))
        assert {url: row["status"] == "success" for url, row in rows.items()} == recorded
        pictures = {sample["jpg"].decode(): key for key, sample in samples.items()}
        assert pictures == {url: rows[url]["key"] for url, works in recorded.items() if works}
        assert all(rows[url]["caption"] == f"caption of {url}" for url in rows)
        assert len({row["key"] for row in rows.values()}) == len(rows)
        with closing(Ledger(folder)) as ledger:
            waiting = {
                url.url for host in ledger.waiting_hosts() for url in ledger.waiting_urls(host)
            }
            assert waiting == set(URLS) - set(recorded) - removed
            assert ledger.count(FINISHED) == len(recorded)
            assert ledger.count(REMOVED) == len(removed)
            assert all(ledger.is_removed(url) == (url in removed) for url in URLS)


def _play(
    folder: Path, actions: list[tuple[str, int, bool]], per_shard: int
) -> tuple[dict[str, bool], dict[str, bool], set[str]]:
    """Run actions; return the URLs recorded and not recorded, with success, and those removed."""
    ledger = Ledger(folder)
    ledger.add_part("part", [candidates(URLS)])
    spool = Spool(folder, ledger, 1, per_shard)
    recorded: dict[str, bool] = {}
    pending: dict[str, bool] = {}
    removed: set[str] = set()
    for action, number, works in [*actions, ("finish", 0, True)]:
        if action == "fetch":
            url = URLS[number]
            if url in recorded or url in pending or url in removed:
                continue
            if spool.is_full:
                spool.roll_over().write()
                recorded |= pending
                pending = {}
            append(spool, ledger, url, works)
            pending[url] = works
        elif action == "record":
            spool.take_batch().write()
            recorded |= pending
            pending = {}
        elif action == "crash":
            spool.abandon()
            ledger.close()
            for growing in folder.glob("*.part"):
                with growing.open("ab") as file:
                    file.write(b"x" * number)  # bytes that no ledger has
            ledger = Ledger(folder)
            spool, pending = Spool(folder, ledger, 1, per_shard), {}
        else:
            spool.finish()
            recorded |= pending
            pending = {}
            ledger.close()
            if action == "remove":
                remove(folder, [URLS[number]], [])
                removed.add(URLS[number])
                recorded.pop(URLS[number], None)
            ledger = Ledger(folder)
            spool = Spool(folder, ledger, 1, per_shard)
    spool.finish()
    ledger.close()
    return recorded, pending, removed


@given(st.lists(st.sampled_from(URLS), max_size=50))
@settings(deadline=None, max_examples=20)
def test_urls_are_grouped_and_texts_keep_their_order(urls: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(Ledger(Path(folder))) as ledger:
        batch = [
            Candidate(url, Text(f"text {number % 7}", "alt", "", ""))
            for number, url in enumerate(urls)
        ]
        ledger.add_part("part", [batch])
        waiting = [url.url for host in ledger.waiting_hosts() for url in ledger.waiting_urls(host)]
        assert Counter(waiting) == Counter(set(urls))
        for url in set(urls):
            texts = [candidate.text.caption for candidate in batch if candidate.url == url]
            found_texts = [text.caption for text in ledger.texts(url_hash(url))]
            assert found_texts == list(dict.fromkeys(texts))


def test_a_part_is_added_completely_or_not_at_all(tmp_path: Path) -> None:
    def batches():
        yield candidates(URLS[:3])
        raise PairsError("part", "cannot be read", "copy it again")

    with closing(Ledger(tmp_path)) as ledger:
        with pytest.raises(PairsError):
            ledger.add_part("part", batches())
        assert ledger.count(WAITING) == 0
        assert not ledger.has_part("part")


def test_hosts_with_many_urls_come_first(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        urls = [f"http://small.test/{n}" for n in range(2)]
        urls += [f"http://large.test/{n}" for n in range(200)]
        ledger.add_part("part", [candidates(urls)])
        assert list(ledger.waiting_hosts()) == ["large.test", "small.test"]
        assert [url.url for url in ledger.waiting_urls("large.test")] == urls[2:]


@pytest.mark.parametrize(
    ("authority", "host", "is_part"),
    [
        ("a.test", "a.test", True),
        ("a.test:80", "A.test", True),
        ("www.a.test:8080", "a.test", True),
        ("ba.test", "a.test", False),
        ("a.test", "www.a.test", False),
        ("[::1]:80", "[::1]", True),
    ],
)
def test_hosts_have_subdomains_and_ports(authority: str, host: str, is_part: bool) -> None:
    assert is_within(authority, host) == is_part


def test_hosts_of_urls() -> None:
    assert host_of("http://a.test:8080/x") == "a.test:8080"
    assert host_of("data:image/png;base64,AA") == "(data)"
    assert host_of("http://[") == "(invalid)"


@pytest.mark.parametrize("content", [b"this is no database, but a text of some length" * 100])
def test_a_file_that_is_no_ledger_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(content)
    with pytest.raises(PairsError, match="cannot be used as a ledger"):
        Ledger(tmp_path)


def test_a_tar_that_lost_bytes_is_an_error(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.add_part("part", [candidates(URLS)])
        spool = Spool(tmp_path, ledger, 1, 100)
        append(spool, ledger, URLS[0], True)
        spool.take_batch().write()
        spool.abandon()
        (tmp_path / "00000.tar.part").write_bytes(b"")
        with pytest.raises(PairsError, match="shorter than the ledger says"):
            Spool(tmp_path, ledger, 1, 100)
