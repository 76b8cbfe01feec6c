"""Sitemaps with images, RSS and Atom -> candidates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree.ElementTree import Element, ParseError, XMLPullParser, tostring

from twotower.pairs.candidates import PAGES, Candidate, Reason
from twotower.pairs.readers.html import Page, add_markup, is_image_file
from twotower.pairs.readers.image_sources import ImageSource, best_source, parse_length
from twotower.pairs.readers.page_metadata import language_tag
from twotower.pairs.readers.page_pairs import PagePairs
from twotower.pairs.readers.reading import Reading
from twotower.pairs.readers.urls import BaseUrl

ENTRIES = frozenset(("url", "item", "entry"))  # of a sitemap, RSS, Atom
MAX_FEED = 64 * 2**20  # bytes; sitemaps may have 50 MiB
# The same names are in several namespaces (media:title, image:title), so namespaces matter.
IMAGE = "{http://www.google.com/schemas/sitemap-image/1.1}"
MEDIA = "{http://search.yahoo.com/mrss/}"
ATOM = "{http://www.w3.org/2005/Atom}"
DC = "{http://purl.org/dc/elements/1.1/}"
CONTENT = "{http://purl.org/rss/1.0/modules/content/}encoded"
XML_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


def feed_candidates(
    blocks: Iterable[bytes], url: str, source: str, reading: Reading
) -> Iterator[Candidate]:
    """Yield the candidates of a feed as its blocks of bytes arrive, up to its first error.

    Args:
        url: of the feed, or "".
    """
    counts = reading.counts
    counts[PAGES] += 1
    entries = 0
    language = ""
    try:
        for event, element in _events(blocks):
            name = _local_name(element)
            if event == "start":
                language = language or language_tag(element.get(XML_LANGUAGE))
            elif name == "language" and element.text:
                language = language_tag(element.text)
            elif name in ENTRIES:
                entries += 1
                yield from _entry(element, url, language, f"{source}#{entries}", reading)
                element.clear()
    except ParseError:  # a wrong byte, an undefined entity, or a cut file
        counts[Reason.MALFORMED_RECORD] += 1
    except ValueError:  # an encoding that Python lacks
        counts[Reason.WRONG_ENCODING] += 1
    except _TooLongError:
        counts[Reason.PAGE_TOO_LONG] += 1


class _TooLongError(Exception):
    """A feed is longer than `MAX_FEED`."""


def _events(blocks: Iterable[bytes]) -> Iterator[tuple[str, Element]]:
    """Yield the starts and ends of elements."""
    parser: Any = XMLPullParser(("start", "end"))
    size = 0
    for block in blocks:
        # white space before the declaration is a common fault
        parser.feed(block if size else block.lstrip())
        size += len(block)
        if size > MAX_FEED:
            raise _TooLongError
        yield from parser.read_events()
    parser.close()
    yield from parser.read_events()


def _entry(
    entry: Element, feed_url: str, language: str, source: str, reading: Reading
) -> Iterator[Candidate]:
    """Yield the candidates of an entry."""
    base = BaseUrl(feed_url)
    page_url = _page_url(entry, base)
    page_base = BaseUrl(page_url) if page_url else base
    pairs = PagePairs(page_base, page_url, language, source, reading.counts)
    _add_sitemap_images(entry, pairs)
    title = _child_text(entry, "title")
    _add_enclosures(entry, title, pairs)
    _add_media(entry, title, pairs)
    for child in entry:
        if child.tag == CONTENT or _local_name(child) in ("description", "content", "summary"):
            markup = _inner_text(child)
            if "<img" in markup:
                add_markup(Page(markup, page_url, source), pairs)
    yield from pairs.candidates()


def _page_url(entry: Element, base: BaseUrl) -> str:
    """Return the absolute address of the page that an entry is about, or ""."""
    reference = _child_text(entry, "loc") or _child_text(entry, "link")
    for link in entry.iter(f"{ATOM}link"):
        if link.get("rel", "alternate") == "alternate":
            reference = reference or link.get("href", "")
    try:
        return base.join(reference) if reference else ""
    except ValueError:
        return ""


def _add_sitemap_images(entry: Element, pairs: PagePairs) -> None:
    for node in entry.iter(f"{IMAGE}image"):
        url = (node.findtext(f"{IMAGE}loc") or "").strip()
        if url and (image := pairs.add_image(url)):
            image.add_text("caption", node.findtext(f"{IMAGE}caption"))
            image.add_text("title", node.findtext(f"{IMAGE}title"))


def _add_enclosures(entry: Element, title: str, pairs: PagePairs) -> None:
    for node in entry:
        is_link = node.tag == f"{ATOM}link" and node.get("rel") == "enclosure"
        if _local_name(node) != "enclosure" and not is_link:
            continue
        url = node.get("url") or node.get("href") or ""
        if _is_image(node, url) and (image := pairs.add_image(url)):
            image.add_text("title", node.get("title"))
            image.add_text("title", title)


def _add_media(entry: Element, title: str, pairs: PagePairs) -> None:
    """Add `media:content`: the best size of a group, and each image outside of groups."""
    groups = [list(group.iter(f"{MEDIA}content")) for group in entry.iter(f"{MEDIA}group")]
    grouped = {id(node) for group in groups for node in group}
    groups += [[node] for node in entry.iter(f"{MEDIA}content") if id(node) not in grouped]
    for group in groups:
        nodes = {node.get("url", ""): node for node in group if _is_image(node, node.get("url"))}
        best = best_source(
            [ImageSource(url, parse_length(node.get("width"))) for url, node in nodes.items()]
        )
        if best is None or not best.url:
            continue
        node = nodes[best.url]
        size = parse_length(node.get("width")), parse_length(node.get("height"))
        if image := pairs.add_image(best.url, *size):
            for name in ("description", "title", "text"):
                image.add_text("caption", node.findtext(f"{MEDIA}{name}"))
                image.add_text("caption", entry.findtext(f"{MEDIA}{name}"))
            image.add_text("title", title)


def _is_image(node: Element, url: str | None) -> bool:
    kind = node.get("type", "") or node.get("medium", "")
    return kind.startswith("image") if kind else is_image_file(url or "")


def _local_name(element: Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _child_text(entry: Element, name: str) -> str:
    """Return the text of a direct child, outside the namespaces of media and images."""
    for child in entry:
        if _local_name(child) != name or child.tag.startswith((MEDIA, IMAGE, DC)):
            continue
        if text := _inner_text(child).strip():
            return text
    return ""


def _inner_text(element: Element) -> str:
    """Return the text of an element; XHTML inside it as markup."""
    if len(element) == 0:
        return element.text or ""
    for node in element.iter():
        node.tag = _local_name(node)
    return tostring(element, encoding="unicode")
