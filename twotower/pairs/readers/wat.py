"""Records of Common Crawl's WAT files: the links and metadata of a page as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from twotower.pairs.candidates import PAGES, Candidate, Reason
from twotower.pairs.directives import metas_refuse, response_refuses
from twotower.pairs.readers.html import is_image_file
from twotower.pairs.readers.page_metadata import add_open_graph, language_tag
from twotower.pairs.readers.page_pairs import PagePairs
from twotower.pairs.readers.reading import Reading
from twotower.pairs.readers.urls import BaseUrl


def wat_candidates(record: bytes, source: str, reading: Reading) -> Iterator[Candidate]:
    """Yield the candidates of a page: `IMG@/src` with alt and title, `A@/href`, OpenGraph."""
    counts = reading.counts
    try:
        envelope = json.loads(record)["Envelope"]
        response = envelope["Payload-Metadata"].get("HTTP-Response-Metadata", {})
        url = str(envelope["WARC-Header-Metadata"].get("WARC-Target-URI", ""))
        page = response.get("HTML-Metadata")
        head = page.get("Head", {}) if page else {}
        links = _objects(page.get("Links", ())) if page else []
        metas = _objects(head.get("Metas", ()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        counts[Reason.MALFORMED_RECORD] += 1
        return
    if page is None:
        return  # requests, metadata of the crawl and files that are no pages
    if str(response.get("Response-Message", {}).get("Status", "200")) not in ("200", "203"):
        counts[Reason.NO_SUCCESS] += 1
        return
    counts[PAGES] += 1
    headers = _headers(response.get("Headers"))
    if response_refuses(headers) or metas_refuse(metas):
        counts[Reason.REFUSED] += 1
        if not reading.keep_refused:
            return
    base = BaseUrl(url)
    if isinstance(head.get("Base"), str):
        try:
            base = BaseUrl(base.join(head["Base"]))
        except ValueError:
            base = BaseUrl(url)
    pairs = PagePairs(base, url, _language(metas, headers), source, counts)
    for link in links:
        _add_link(link, pairs)
    add_open_graph(metas, pairs)
    yield from pairs.candidates()


def _objects(items: Any) -> list[dict[str, str]]:
    """Return the objects of a JSON list, with their texts only."""
    return [
        {key: text for key, text in item.items() if isinstance(text, str)}
        for item in items
        if isinstance(item, dict)
    ]


def _headers(headers: Any) -> list[tuple[str, str]]:
    """Return headers, of which a repeated one is a list in some versions of the format."""
    pairs: list[tuple[str, str]] = []
    for name, value in headers.items() if isinstance(headers, dict) else ():
        values = value if isinstance(value, list) else [value]
        pairs.extend((name, text) for text in values if isinstance(text, str))
    return pairs


def _language(metas: Iterable[dict[str, str]], headers: Iterable[tuple[str, str]]) -> str:
    for meta in metas:
        if meta.get("name") in ("HTML@/lang", "HTML@/xml:lang"):
            return language_tag(meta.get("content"))
    for name, value in headers:
        if name.lower() == "content-language":
            return language_tag(value)
    return ""


def _add_link(link: dict[str, str], pairs: PagePairs) -> None:
    path, url, text = link.get("path", ""), link.get("url", ""), link.get("text", "")
    is_image = path == "IMG@/src" and url
    is_link = path == "A@/href" and text.strip() and is_image_file(url)
    if (is_image or is_link) and (image := pairs.add_image(url)):
        image.add_text("alt", link.get("alt") if is_image else None)
        image.add_text("title", link.get("title") if is_image else None)
        image.add_text("anchor", text if is_link else None)
