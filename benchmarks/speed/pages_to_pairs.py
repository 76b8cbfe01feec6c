"""Find the pairs of pages, beside a straightforward pass of BeautifulSoup with the same rules.

    python benchmarks/speed/pages_to_pairs.py [FOLDER]

The pages are made from a seed (`made_pages.py`), and those of a folder of saved HTML. All methods
run in turn in one process on one core, and each must find the same set of (URL, text). The peers
share the rules for single URLs and texts, so they differ in the parser and in the walk of the tree.
Writes results/pages_to_pairs.csv.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString, PreformattedString

from benchmarks.speed.made_pages import made_pages, write_warc
from benchmarks.table import write_results
from twotower.pairs.readers.archives import archive_candidates
from twotower.pairs.readers.boilerplate import SMALL_SIDE
from twotower.pairs.readers.encodings import decode_page
from twotower.pairs.readers.html import (
    _CAPTION_CLASS,
    _INLINE,
    _UNSEEN,
    LEVELS,
    Page,
    is_image_file,
    page_candidates,
)
from twotower.pairs.readers.image_sources import choose_source, declared_size
from twotower.pairs.readers.page_metadata import add_json_ld, add_open_graph
from twotower.pairs.readers.page_pairs import PageImage, PagePairs
from twotower.pairs.readers.reading import Reading
from twotower.pairs.readers.urls import BaseUrl

MADE, SAVED, ROUNDS = 300, 300, 3
COLUMNS = (
    "pages", "method", "pages_per_second_and_core", "megabytes_per_second", "times_twotower",
    "pairs", "pairs_in_common",
)  # fmt: skip
Pair: TypeAlias = tuple[str, str]
Find: TypeAlias = Callable[[str, str], Iterator[Pair]]


def main() -> None:
    sources = {"made": list(made_pages(MADE))}
    if len(sys.argv) > 1:
        sources["saved"] = saved_pages(Path(sys.argv[1]))
    rows = []
    for name, pages in sources.items():
        rows += compare(name, pages)
    rows.append(from_archive())
    write_results("pages_to_pairs.csv", COLUMNS, rows)


def saved_pages(folder: Path) -> list[tuple[str, bytes]]:
    """Return pages of a folder, chosen by a seed."""
    files = sorted(folder.rglob("*.html"))
    files = random.Random(0).sample(files, min(SAVED, len(files)))
    return [
        (f"https://docs.example/{path.relative_to(folder)}", path.read_bytes()) for path in files
    ]


def compare(name: str, pages: Sequence[tuple[str, bytes]]) -> list[tuple[object, ...]]:
    """Return a row for each method."""
    methods: dict[str, Find] = {
        "twotower": find_pairs,
        "BeautifulSoup, lxml": lambda markup, url: soup_pairs(markup, url, "lxml"),
        "BeautifulSoup, html.parser": lambda markup, url: soup_pairs(markup, url, "html.parser"),
    }
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    pairs: dict[str, set[tuple[str, str, str]]] = {}
    for _ in range(ROUNDS):
        for method, find in methods.items():
            start = time.process_time()
            pairs[method] = {
                (url, *pair) for url, body in pages for pair in find(decode_page(body)[0], url)
            }
            seconds[method].append(time.process_time() - start)
    ours = pairs["twotower"]
    megabytes = sum(len(body) for _, body in pages) / 1e6
    rows: list[tuple[object, ...]] = []
    for method in methods:
        median = statistics.median(seconds[method])
        rounds = zip(seconds[method], seconds["twotower"], strict=True)
        ratio = statistics.median(time / base for time, base in rounds)
        for pair in sorted(pairs[method] ^ ours)[:3]:
            print("differs:", method, pair, file=sys.stderr)
        rows.append(
            (
                name, method, f"{len(pages) / median:.0f}", f"{megabytes / median:.1f}",
                f"{ratio:.1f}", len(pairs[method]), len(pairs[method] & ours),
            )
        )  # fmt: skip
    return rows


def from_archive() -> tuple[object, ...]:
    """Return a row for a WARC file of made pages: decompression, HTTP, pages, all of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pages.warc.gz"
        write_warc(path, MADE)
        seconds = []
        for _ in range(ROUNDS):
            start = time.process_time()
            count = sum(1 for _ in archive_candidates(path, Reading()))
            seconds.append(time.process_time() - start)
    rate = MADE / statistics.median(seconds)
    return "made, in a WARC file", "twotower", f"{rate:.0f}", "", "", count, ""


def find_pairs(markup: str, url: str) -> Iterator[Pair]:
    for candidate in page_candidates(Page(markup, url, "page"), Reading()):
        yield candidate.url, candidate.caption


def soup_pairs(markup: str, url: str, parser: str) -> Iterator[Pair]:
    """Yield the pairs of a page, found with BeautifulSoup in its usual ways."""
    if parser == "html.parser":  # keep the first of two attributes, as browsers do
        soup = BeautifulSoup(markup, parser, on_duplicate_attribute="ignore")
    else:
        soup = BeautifulSoup(markup, parser)
    base = soup.find("base", href=True)
    page = BaseUrl(BaseUrl(url).join(texts_of(base)["href"]) if isinstance(base, Tag) else url)
    pairs = PagePairs(page, url, "", "page", Counter())
    images: dict[int, PageImage] = {}
    links: dict[int, list[tuple[Tag, PageImage]]] = {}
    for node in soup.find_all("img"):
        attributes = texts_of(node)
        width, height = declared_size(attributes)
        if 0 < width <= SMALL_SIDE or 0 < height <= SMALL_SIDE:
            continue
        picture = node.parent if node.parent and node.parent.name == "picture" else None
        screens = picture.find_all("source", recursive=False) if picture else []
        chosen = choose_source(attributes, [texts_of(source) for source in screens])
        if not chosen:
            continue
        link = parent_with(node, lambda tag: tag.name == "a")
        target = texts_of(link).get("href") if link else None
        image = pairs.add_image(target) if target and is_image_file(target) else (
            pairs.add_image(*chosen)
        )  # fmt: skip
        if image:
            images[id(node)] = image
            image.add_text("alt", attributes.get("alt"))
            image.add_text("title", attributes.get("title"))
            if link:
                links.setdefault(id(link), []).append((link, image))
    add_captions(soup, images)
    for linked in links.values():
        if len(linked) == 1:
            link, image = linked[0]
            image.add_text("anchor", shown_text(link).strip() or texts_of(link).get("title"))
    for link in soup.find_all("a", href=True):
        href = texts_of(link)["href"]
        if is_image_file(href) and not link.find("img") and shown_text(link).strip():
            image = pairs.add_image(href)
            if image:
                image.add_text("anchor", shown_text(link))
    add_open_graph([texts_of(meta) for meta in soup.find_all("meta", content=True)], pairs)
    for script in soup.find_all("script", type="application/ld+json"):
        add_json_ld(script.string or "", pairs)
    for candidate in pairs.candidates():
        yield candidate.url, candidate.caption


def add_captions(soup: BeautifulSoup, images: dict[int, PageImage]) -> None:
    def is_caption(tag: Tag) -> bool:
        return tag.name == "figcaption" or bool(
            _CAPTION_CLASS.search(texts_of(tag).get("class", "")) and not holds_image(tag)
        )

    captions: set[int] = set()
    for node in soup.find_all(is_caption):
        if parent_with(node, lambda tag: id(tag) in captions):
            continue
        captions.add(id(node))
        if node.name == "figcaption":
            scope = parent_with(node, lambda tag: tag.name == "figure")
        else:
            scope = parent_with(node, holds_image)
            if scope and scope.name in ("body", "html"):
                scope = None
        if scope:
            inside = [images[id(tag)] for tag in scope.find_all("img") if id(tag) in images]
            if len({image.url for image in inside}) == 1:
                origin = "figcaption" if node.name == "figcaption" else "caption"
                inside[0].add_text(origin, shown_text(node))


def holds_image(tag: Tag) -> bool:
    return tag.name == "img" or tag.find("img") is not None


def parent_with(node: Tag, accept: Callable[[Tag], bool]) -> Tag | None:
    parent = node.parent
    for _ in range(LEVELS):
        if parent is None or accept(parent):
            return parent
        parent = parent.parent
    return None


def texts_of(node: Tag) -> dict[str, str]:
    """Return the attributes of an element, lists of classes joined."""
    return {
        key: " ".join(value) if isinstance(value, list) else value
        for key, value in node.attrs.items()
    }


def shown_text(node: Tag) -> str:
    pieces: list[str] = []
    for child in (node, *node.descendants):
        previous = child.previous_sibling if child is not node else None
        is_block = isinstance(child, Tag) and child.name not in _INLINE
        after_block = isinstance(previous, Tag) and previous.name not in _INLINE
        if is_block or after_block:
            pieces.append(" ")
        is_text = isinstance(child, NavigableString) and not isinstance(child, PreformattedString)
        if is_text and child.parent and child.parent.name not in _UNSEEN:
            pieces.append(str(child))
    return "".join(pieces)


if __name__ == "__main__":
    main()
