"""Conventions of consent, one by one, as functions and against real hosts."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("aiohttp")

from tests.pairs.fetching.shards import fetch_urls, read_rows, reason_of
from tests.pairs.web_in_a_box import WebInABox
from twotower.pairs.fetching.consent import (
    CONVENTIONS,
    decide_rsl,
    matching_tdm_rule,
    parse_rsl,
    parse_tdmrep,
)
from twotower.pairs.fetching.ledger import Ledger
from twotower.pairs.fetching.robots import Robots, matches_pattern

RSL = '<rsl xmlns="https://rslstandard.org/rsl"><content url="/">{}</content></rsl>'


@pytest.fixture
def box(shared_box: WebInABox) -> WebInABox:
    shared_box.documents.clear()
    shared_box.requests.clear()
    return shared_box


def reason(box: WebInABox, folder: Path, path: str = "/picture/1.jpg", **settings: object) -> str:
    return reason_of(box, folder, box.url("a.test", path), **settings)


# robots.txt


def test_a_denied_path_is_not_requested(box: WebInABox, tmp_path: Path) -> None:
    box.add("a.test", "/robots.txt", "User-agent: *\nDisallow: /picture/")
    assert reason(box, tmp_path) == "robots"
    assert box.paths("a.test") == []


def test_a_group_for_this_crawler_decides(box: WebInABox, tmp_path: Path) -> None:
    text = "User-agent: *\nDisallow: /\n\nUser-agent: Twotower\nAllow: /\n"
    box.add("a.test", "/robots.txt", text)
    assert reason(box, tmp_path) == ""


@pytest.mark.parametrize(
    ("status", "outcome"), [(404, ""), (403, ""), (401, ""), (500, "robots"), (429, "robots")]
)
def test_the_status_of_robots_txt_decides(
    status: int, outcome: str, box: WebInABox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twotower.pairs.fetching import origins

    monkeypatch.setattr(origins, "_MAX_PAUSE", 0.01)
    box.add("a.test", "/robots.txt", "User-agent: *\nDisallow: /", status)
    assert reason(box, tmp_path) == outcome


def test_robots_txt_is_read_once_and_its_redirects_are_followed(
    box: WebInABox, tmp_path: Path
) -> None:
    box.add("a.test", "/robots.txt", status=301, Location=box.url("b.test", "/rules"))
    box.add("b.test", "/rules", "User-agent: *\nDisallow: /picture/2.jpg")
    urls = [box.url("a.test", f"/picture/{i}.jpg") for i in range(4)]
    assert fetch_urls(box, tmp_path, urls).reasons == {"robots": 1}
    assert [request.path for request in box.requests].count("/robots.txt") == 1


def test_the_target_of_a_redirect_has_rules_of_its_own(box: WebInABox, tmp_path: Path) -> None:
    box.add("b.test", "/robots.txt", "User-agent: *\nDisallow: /")
    target = box.url("b.test", "/picture/1.jpg")
    assert reason_of(box, tmp_path, box.url("a.test", "/redirect", to=target)) == "robots"
    assert box.paths("b.test") == []


def test_crawl_delay_is_kept(box: WebInABox, tmp_path: Path) -> None:
    box.add("a.test", "/robots.txt", "User-agent: *\nCrawl-delay: 0.5")
    start = time.monotonic()
    fetch_urls(box, tmp_path, [box.url("a.test", f"/picture/{i}.jpg") for i in range(3)])
    assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize("delay", ["1e9", "inf", "86400"])
def test_a_crawl_delay_of_hours_ends_the_host(delay: str, box: WebInABox, tmp_path: Path) -> None:
    box.add("a.test", "/robots.txt", f"User-agent: *\nCrawl-delay: {delay}")
    assert reason(box, tmp_path) in ("host_asks_to_wait", "")  # "inf" may count as no number
    assert len(box.paths("a.test")) <= (delay == "inf")


def test_a_huge_robots_txt_is_cut(box: WebInABox, tmp_path: Path) -> None:
    text = "User-agent: *\nDisallow: /picture/\n" + "# filler\n" * 100_000
    box.add("a.test", "/robots.txt", text)
    assert reason(box, tmp_path) == "robots"


@pytest.mark.parametrize(
    ("pattern", "target", "matches"),
    [
        ("/", "/a", True),
        ("/a", "/b", False),
        ("/*.jpg$", "/a/b.jpg", True),
        ("/*.jpg$", "/a/b.jpg?x", False),
        ("/a$", "/a", True),
        ("/a$", "/ab", False),
        ("/a*b*c", "/axbxc!", True),
        ("/a*b*c", "/axcxb", False),
        ("/*a$", "/aba", True),
        ("", "/a", True),
    ],
)
def test_patterns_of_paths(pattern: str, target: str, matches: bool) -> None:
    assert matches_pattern(pattern, target) == matches


@given(st.text("a*b/", max_size=12), st.text("ab/", max_size=12), st.booleans())
def test_patterns_agree_with_regular_expressions(pattern: str, target: str, end: bool) -> None:
    import re

    expression = ".*".join(map(re.escape, pattern.split("*"))) + ("$" if end else "")
    expected = re.match(expression, target) is not None
    assert matches_pattern(pattern + "$" * end, target) == expected


# X-Robots-Tag


def test_x_robots_tag_of_a_response_is_obeyed(box: WebInABox, tmp_path: Path) -> None:
    assert reason(box, tmp_path, "/picture/1.jpg?X-Robots-Tag=noai") == "x-robots-tag"


# AIPREF


def test_content_usage_of_a_response_is_obeyed(box: WebInABox, tmp_path: Path) -> None:
    assert reason(box, tmp_path, "/picture/1.jpg?Content-Usage=train-ai%3Dn") == "content-usage"


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        ("User-agent: *\nContent-Usage: train-ai=n", "content-usage"),
        ("User-agent: *\nContent-Usage: /picture train-ai=n", "content-usage"),
        ("User-agent: *\nContent-Usage: /other train-ai=n", ""),
        ("User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /picture train-ai=y", ""),
        ("User-agent: other\nContent-Usage: train-ai=n", ""),
        ("User-agent: other\nUser-agent: twotower\nContent-Usage: train-ai=n", "content-usage"),
        ("Content-Usage: train-ai=n", "content-usage"),
    ],
)
def test_content_usage_of_robots_txt_is_obeyed(
    lines: str, outcome: str, box: WebInABox, tmp_path: Path
) -> None:
    box.add("a.test", "/robots.txt", lines)
    assert reason(box, tmp_path) == outcome


# TDMRep


def test_tdm_reservation_of_a_response_is_obeyed(box: WebInABox, tmp_path: Path) -> None:
    assert reason(box, tmp_path, "/picture/1.jpg?tdm-reservation=1") == "tdmrep"


@pytest.mark.parametrize(
    ("rules", "path", "outcome"),
    [
        ('[{"location": "/", "tdm-reservation": 1}]', "/picture/1.jpg", "tdmrep"),
        ('[{"location": "/other", "tdm-reservation": 1}]', "/picture/1.jpg", ""),
        ('[{"location": "/", "tdm-reservation": 1}]', "/picture/1.jpg?tdm-reservation=0", ""),
        ('[{"location": "/", "tdm-reservation": 0}]', "/picture/1.jpg?tdm-reservation=1", "tdmrep"),
        ("not json", "/picture/1.jpg", ""),
        ('{"location": 3}', "/picture/1.jpg", ""),
    ],
)
def test_tdmrep_json_is_obeyed_unless_a_header_overrules_it(
    rules: str, path: str, outcome: str, box: WebInABox, tmp_path: Path
) -> None:
    box.add("a.test", "/.well-known/tdmrep.json", rules)
    assert reason(box, tmp_path, path) == outcome


def test_the_longest_location_decides() -> None:
    rules = parse_tdmrep(
        '[{"location": "/*", "tdm-reservation": 1, "tdm-policy": "http://p.test/"},'
        ' {"location": "/free/*.jpg", "tdm-reservation": 0}, {"tdm-reservation": 1}, 4]'
    )
    free, reserved = matching_tdm_rule(rules, "/free/a.jpg"), matching_tdm_rule(rules, "/a.jpg")
    assert free is not None
    assert reserved is not None
    assert (free.reservation, reserved.reservation, reserved.policy) == (0, 1, "http://p.test/")


# RSL


@pytest.mark.parametrize(
    ("license_xml", "decision"),
    [
        ("<license><prohibits type='usage'>ai-train</prohibits></license>", "denied"),
        ("<license><prohibits type='usage'>train-ai</prohibits></license>", "denied"),
        ("<license><prohibits type='usage'>all</prohibits></license>", "denied"),
        ("<license><permits type='usage'>search</permits></license>", "denied"),
        ("<license><permits type='usage'>search ai-train</permits></license>", "permitted"),
        ("<license><permits>all</permits><payment type='free'/></license>", "permitted"),
        ("<license><permits>all</permits><payment type='crawl'/></license>", "denied"),
        ("<license><prohibits type='geo'>US</prohibits></license>", "permitted"),
        ("<license><permits type='usage'>search</permits></license>"
         "<license><permits type='usage'>ai-train</permits></license>", "permitted"),
        ("", "permitted"),
    ],
)  # fmt: skip
def test_licences(license_xml: str, decision: str) -> None:
    contents = parse_rsl(RSL.format(license_xml))
    assert contents is not None
    assert decide_rsl(contents, "http://a.test/x") == decision


def test_licences_hold_for_their_paths() -> None:
    contents = parse_rsl(
        '<rsl><content url="/paid/*"><license><prohibits type="usage">all</prohibits></license>'
        '</content><content url="http://a.test/paid/free"/>'
        '<content url="/server" server="https://licences.test"/></rsl>'
    )
    assert contents is not None
    assert decide_rsl(contents, "http://a.test/paid/x") == "denied"
    assert decide_rsl(contents, "http://a.test/paid/free") == "permitted"
    assert decide_rsl(contents, "http://a.test/x") == ""
    assert decide_rsl(contents, "http://a.test/server") == "denied"


@pytest.mark.parametrize("text", ["", "<html/>", "<rsl>", "<!DOCTYPE rsl [<!ENTITY a 'b'>]><rsl/>"])
def test_unreadable_licences(text: str) -> None:
    assert parse_rsl(text) is None


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (RSL.format("<license><prohibits type='usage'>all</prohibits></license>"), "rsl"),
        (RSL.format("<license><permits type='usage'>all</permits></license>"), ""),
        (None, "rsl"),
    ],
)
def test_a_licence_of_robots_txt_is_obeyed(
    text: str | None, outcome: str, box: WebInABox, tmp_path: Path
) -> None:
    box.add("a.test", "/robots.txt", f"License: {box.url('a.test', '/rsl.xml')}\n")
    if text is not None:
        box.add("a.test", "/rsl.xml", text)
    assert reason(box, tmp_path) == outcome


# The ledger of consent


def test_statements_and_documents_are_kept(box: WebInABox, tmp_path: Path) -> None:
    text = "User-agent: *\nAllow: /\nContent-Usage: train-ai=y\n"
    box.add("a.test", "/robots.txt", text)
    url = box.url("a.test", "/picture/1.jpg?X-Robots-Tag=nofollow&tdm-reservation=0")
    assert reason_of(box, tmp_path, url) == ""
    (statement,) = read_rows(tmp_path)[url]["consent"]
    digest = statement.pop("documents")[box.url("a.test", "/robots.txt")]
    assert statement == {
        "url": url,
        "robots": "allowed",
        "x_robots_tag": ["nofollow"],
        "content_usage": {"robots.txt": "train-ai=y"},
        "tdm_reservation": 0,
    }
    assert Ledger(tmp_path / "shards").document(digest) == text


@pytest.mark.parametrize(
    ("convention", "path"),
    [
        ("robots", "/picture/1.jpg"),
        ("x-robots-tag", "/picture/2.jpg?X-Robots-Tag=noai"),
        ("content-usage", "/picture/2.jpg?Content-Usage=train-ai%3Dn"),
        ("tdmrep", "/picture/2.jpg?tdm-reservation=1"),
        ("rsl", "/picture/2.jpg"),
    ],
)
def test_a_convention_can_be_ignored_but_is_recorded(
    convention: str, path: str, box: WebInABox, tmp_path: Path
) -> None:
    licence = "License: /rsl.xml" if convention == "rsl" else ""
    text = f"User-agent: *\nDisallow: /picture/1.jpg\n{licence}\n"
    box.add("a.test", "/robots.txt", text)
    url = box.url("a.test", path)
    for ignored, outcome in ((frozenset(), convention), (frozenset((convention,)), "")):
        folder = tmp_path / f"{len(ignored)}"
        folder.mkdir()
        assert reason_of(box, folder, url, ignored=ignored) == outcome
        assert read_rows(folder)[url]["consent"][0]["robots"]


def test_robots_of_any_text_can_be_parsed() -> None:
    hostile = (
        "\ufeff\x00User-agent\n:::\nUser-agent:\nDisallow: /" + "*a" * 10_000 + "\nCrawl-delay: x"
    )
    robots = Robots(hostile)
    assert robots.allows("http://a.test/b")
    assert robots.crawl_delay == 0


def test_the_command_offers_all_conventions() -> None:
    from twotower.cli import pairs_fetch

    assert pairs_fetch.CONVENTIONS == CONVENTIONS
