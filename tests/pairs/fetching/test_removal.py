"""Take-downs: pictures leave the shards, and are not fetched again."""

from pathlib import Path

import pytest

pytest.importorskip("aiohttp")

from tests.pairs.fetching.shards import fetch_urls, read_rows, read_samples
from tests.pairs.web_in_a_box import WebInABox
from twotower.cli.main import main
from twotower.errors import PairsError
from twotower.pairs.fetching import removal
from twotower.pairs.fetching.removal import remove


@pytest.fixture
def box(shared_box: WebInABox) -> WebInABox:
    shared_box.requests.clear()
    return shared_box


@pytest.fixture
def urls(box: WebInABox) -> list[str]:
    return [box.url(f"{host}.test", f"/picture/{n}.jpg") for n in range(3) for host in "ab"]


def test_urls_leave_tars_tables_and_ledger(box: WebInABox, urls: list[str], tmp_path: Path) -> None:
    fetch_urls(box, tmp_path, urls, per_shard=4)
    report = remove(tmp_path / "shards", urls[:1], [])
    (taken,) = report.removals
    assert (taken.url, taken.run, len(report.shards)) == (urls[0], 1, 1)
    rows = read_rows(tmp_path)
    assert set(rows) == set(urls[1:])
    assert set(read_samples(tmp_path)) == {row["key"] for row in rows.values()}
    for path in (tmp_path / "shards").glob("0*"):
        assert urls[0].encode() not in path.read_bytes()
    assert remove(tmp_path / "shards", urls[:1], []).removals == []


def test_a_removed_url_is_not_fetched_again(
    box: WebInABox, urls: list[str], tmp_path: Path
) -> None:
    fetch_urls(box, tmp_path, urls[:2])
    remove(tmp_path / "shards", [urls[0], urls[2]], [])
    box.requests.clear()
    redirect = box.url("c.test", "/redirect", to=urls[2])
    summary = fetch_urls(box, tmp_path, [*urls, redirect])
    assert sorted(box.paths("a.test")) == ["/picture/2.jpg"]
    assert sorted(box.paths("b.test")) == ["/picture/1.jpg", "/picture/2.jpg"]
    assert urls[2] not in read_rows(tmp_path)
    assert summary.reasons == {"removed": 1}


def test_a_host_is_removed_with_its_subdomains_and_redirect_targets(
    box: WebInABox, urls: list[str], tmp_path: Path
) -> None:
    below = box.url("www.a.test", "/picture/1.jpg")
    redirect = box.url("c.test", "/redirect", to=urls[0])
    fetch_urls(box, tmp_path, [*urls, below, redirect])
    remove(tmp_path / "shards", [], ["a.test"])
    assert set(read_rows(tmp_path)) == {url for url in urls if "//b.test" in url}
    box.requests.clear()
    fetch_urls(box, tmp_path, [*urls, box.url("a.test", "/picture/new.jpg")])
    assert not box.requests


def test_a_removal_that_was_stopped_is_completed(
    box: WebInABox, urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_urls(box, tmp_path, urls, per_shard=2)
    calls = []

    def stop(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_tables(*arguments)  # type: ignore[arg-type]

    write_tables = removal.write_tables
    monkeypatch.setattr(removal, "write_tables", stop)
    with pytest.raises(KeyboardInterrupt):
        remove(tmp_path / "shards", [], ["a.test"])
    monkeypatch.undo()
    fetch_urls(box, tmp_path, urls)  # completes it first
    rows = read_rows(tmp_path)
    assert set(rows) == {url for url in urls if "//b.test" in url}
    assert set(read_samples(tmp_path)) == {row["key"] for row in rows.values()}


def test_a_picture_of_an_open_shard_is_removed(
    box: WebInABox, urls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed leaves a shard that is not complete."""
    from twotower.pairs.fetching import spool

    monkeypatch.setattr(spool, "finish_shard", lambda *_: None)
    fetch_urls(box, tmp_path, urls)
    monkeypatch.undo()
    assert list((tmp_path / "shards").glob("*.part"))
    assert len(remove(tmp_path / "shards", urls[:1], []).removals) == 1
    assert set(read_rows(tmp_path)) == set(urls[1:])
    assert len(read_samples(tmp_path)) == len(urls) - 1


def test_the_command_lists_removals(
    box: WebInABox, urls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch_urls(box, tmp_path, urls)
    (tmp_path / "urls.txt").write_text("\n".join(urls[:2]))
    shards = str(tmp_path / "shards")
    assert main(["pairs", "remove", shards, "--urls", str(tmp_path / "urls.txt")]) == 0
    output = capsys.readouterr().out
    assert urls[0] in output
    assert "Removed 2 URLs from 1 shard of 1 run" in output
    assert main(["pairs", "remove", shards]) == 1
    assert "nothing to remove" in capsys.readouterr().err


def test_a_folder_without_a_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="has no ledger"):
        remove(tmp_path, [], ["a.test"])
