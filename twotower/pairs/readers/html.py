"""A page of HTML -> candidates, by the rules of docs/pairs-collect.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from twotower.pairs.candidates import PAGES, Candidate, Reason
from twotower.pairs.directives import metas_refuse
from twotower.pairs.readers.boilerplate import SMALL_SIDE
from twotower.pairs.readers.image_sources import (
    Attributes,
    SizedSource,
    choose_source,
    declared_size,
)
from twotower.pairs.readers.microdata import add_microdata
from twotower.pairs.readers.page_metadata import (
    add_json_ld,
    add_open_graph,
    language_tag,
)
from twotower.pairs.readers.page_pairs import PageImage, PagePairs
from twotower.pairs.readers.reading import Reading
from twotower.pairs.readers.urls import BaseUrl

MAX_TAGS = 10_000  # a page with more is measured before it is parsed
MAX_DEPTH = 2_000  # the time of the parser grows with the square of the depth
MAX_CAPTION_ELEMENTS = 1_000  # of a page
MAX_TEXT_NODES = 400  # of a caption
LEVELS = 3  # between an image and its caption or link
_IMAGE_FILE = re.compile(r"[^:]*\.(?:jpe?g|png|webp|avif)(?:\?[^/]*)?", re.IGNORECASE)
_CAPTION_CLASS = re.compile(
    r"(?:^|\s)(?!no-?|has-|closed-|with-)\S*caption(?:[-_]?(?:text|title|body))?(?=\s|$)"
    r"|(?:^|\s)gallerytext(?=\s|$)",
    re.IGNORECASE,
)
# A single query, because each walks the whole tree.
_ELEMENTS = ", ".join(
    (
        "meta[content]",
        "base[href]",
        "img",
        'script[type="application/ld+json"]',
        'figcaption, [class*="caption" i], .gallerytext',
        'a[href*=".jp" i], a[href*=".png" i], a[href*=".webp" i], a[href*=".avif" i]',
    )
)
_UNSEEN = frozenset(("script", "style", "noscript", "template", "textarea", "select", "iframe"))
# Elements that do not separate words; all others begin a new line.
_INLINE = frozenset(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark nobr q s "
    "samp small span strike strong sub sup time tt u var wbr img picture source svg script style "
    "noscript template -text -comment".split()
)
_SAVED_FROM = re.compile(r"<!-- saved from url=\(\d+\)(\S+) -->")
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)")
_VOID = frozenset(
    "area base br col embed hr img input link meta param source track wbr p li option td tr th "
    "dt dd path circle rect line polygon polyline ellipse use stop".split()
)


class Page(NamedTuple):
    """A page before it is parsed.

    Attributes:
        markup: its text.
        url: its address, or "".
        source: the file that it was read from and the place in it.
        language: of the header Content-Language, or "".
    """

    markup: str
    url: str
    source: str
    language: str = ""


def page_candidates(page: Page, reading: Reading) -> Iterator[Candidate]:
    """Yield the candidates of a page, and count what is left out."""
    counts = reading.counts
    counts[PAGES] += 1
    if _is_too_deep(page.markup):
        counts[Reason.TOO_DEEP] += 1
        return
    try:
        tree = LexborHTMLParser(page.markup)
    except (SelectolaxError, ValueError, RuntimeError):
        counts[Reason.UNREADABLE_PAGE] += 1
        return
    elements = _Elements(tree)
    if metas_refuse(elements.metas):
        counts[Reason.REFUSED] += 1
        if not reading.keep_refused:
            return
    url = page.url or _address_of_saved(tree, page.markup)
    language = _language(tree, elements, page.language)
    pairs = PagePairs(_base(elements, url), url, language, page.source, counts)
    _add_images(elements, pairs)
    add_open_graph(elements.metas, pairs)
    for script in elements.scripts:
        add_json_ld(script.text(), pairs)
    if "itemprop" in page.markup:
        add_microdata(tree, pairs)
    yield from pairs.candidates()


def add_markup(page: Page, pairs: PagePairs) -> None:
    """Add the images of a piece of HTML, such as the description in a feed."""
    if _is_too_deep(page.markup):
        pairs.count(Reason.TOO_DEEP)
        return
    _add_images(_Elements(LexborHTMLParser(page.markup)), pairs)


def _is_too_deep(markup: str) -> bool:
    """Return True if elements seem to be nested in more than `MAX_DEPTH` others."""
    if markup.count("<") <= MAX_TAGS:
        return False
    depth = 0
    for closing, name in _TAG.findall(markup):
        if name.lower() not in _VOID:
            depth = max(depth - 1, 0) if closing else depth + 1
            if depth > MAX_DEPTH:
                return True
    return False


def _address_of_saved(tree: LexborHTMLParser, markup: str) -> str:
    """Return the address that a saved page had, as its browser or the page itself notes it."""
    if comment := _SAVED_FROM.search(markup, 0, 4096):
        return BaseUrl(comment[1]).url
    if node := tree.css_first('link[rel="canonical"][href]'):
        return BaseUrl(node.attributes["href"] or "").url
    if node := tree.css_first('meta[property="og:url"][content]'):
        return BaseUrl(node.attributes["content"] or "").url
    return ""


def _base(elements: _Elements, page_url: str) -> BaseUrl:
    """Return the address that the page's relative ones are joined with."""
    base = BaseUrl(page_url)
    for node in elements.bases[:1]:
        try:
            return BaseUrl(base.join(node.attributes["href"] or ""))
        except ValueError:
            return base
    return base


def _language(tree: LexborHTMLParser, elements: _Elements, header: str) -> str:
    """Return the language that a page declares: of its root, a meta, or the header."""
    root = tree.root
    attributes = root.attributes if root else {}
    declared = [attributes.get("lang"), attributes.get("xml:lang")]
    for meta in elements.metas:
        if (meta.get("http-equiv") or "").lower() == "content-language":
            declared.append(meta.get("content"))
    return next(filter(None, map(language_tag, [*declared, header])), "")


class _Elements:
    """The elements of a page that the rules are about, in order."""

    def __init__(self, tree: LexborHTMLParser) -> None:
        self.metas: list[Attributes] = []
        self.bases: list[LexborNode] = []
        self.images: list[LexborNode] = []
        self.scripts: list[LexborNode] = []
        self.captions: list[LexborNode] = []
        self.links: list[LexborNode] = []
        by_tag = {
            "base": self.bases,
            "img": self.images,
            "script": self.scripts,
            "a": self.links,
        }
        previous = 0
        for node in tree.css(_ELEMENTS):
            if node.mem_id == previous:  # an element that several selectors match
                continue
            previous, tag = node.mem_id, node.tag or ""
            if tag == "meta":
                self.metas.append(node.attributes)
            else:
                by_tag.get(tag, self.captions).append(node)


def _add_images(elements: _Elements, pairs: PagePairs) -> None:
    """Add the images of a page with alt, title, captions and the text of their links."""
    images: dict[int, PageImage] = {}
    linked: dict[int, list[tuple[LexborNode, PageImage]]] = {}
    for node in elements.images:
        attributes = node.attributes
        if _is_small(attributes):
            pairs.count(Reason.SMALL)
            continue
        parent = node.parent
        chosen = choose_source(attributes, _picture_sources(parent))
        if not chosen:
            continue
        link = _ancestor(parent, "a")
        chosen = _linked_file(link, chosen)
        image = pairs.add_image(*chosen)
        if image:
            images[node.mem_id] = image
            image.add_text("alt", attributes.get("alt"))
            image.add_text("title", attributes.get("title"))
            if link:
                linked.setdefault(link.mem_id, []).append((link, image))
    if images:
        _add_captions(elements.captions, images)
    for link_images in linked.values():
        if len(link_images) == 1:
            [(link, image)] = link_images
            image.add_text("anchor", visible_text(link).strip() or link.attributes.get("title"))
    _add_image_links(elements.links, pairs)


def _is_small(attributes: Attributes) -> bool:
    """Return True for an image that the page shows as small as an icon, whatever its file."""
    width, height = declared_size(attributes)
    return 0 < width <= SMALL_SIDE or 0 < height <= SMALL_SIDE


def _picture_sources(parent: LexborNode | None) -> list[Attributes]:
    """Return the attributes of each `source` of the `picture` that an image is in."""
    if parent is None or parent.tag != "picture":
        return []
    return [child.attributes for child in parent.iter() if child.tag == "source"]


def _ancestor(parent: LexborNode | None, tag: str) -> LexborNode | None:
    """Return the nearest element with this tag of `LEVELS`, from the parent of a node upwards."""
    for _ in range(LEVELS):
        if parent is None or parent.tag == tag:
            return parent
        parent = parent.parent
    return None


def _linked_file(link: LexborNode | None, thumbnail: SizedSource) -> SizedSource:
    """Return the image file that a thumbnail links to, or the thumbnail."""
    href = link.attributes.get("href") if link else None
    if href and is_image_file(href):
        return SizedSource(href, 0, 0)
    return thumbnail


def is_image_file(url: str) -> bool:
    """Return True if an address seems to be of an image file, and not of a page about one."""
    return bool(_IMAGE_FILE.fullmatch(url.partition("://")[2] or url))


def _add_captions(captions: list[LexborNode], images: dict[int, PageImage]) -> None:
    """Add `figcaption` and elements with a class of captions to the image that they belong to."""
    caption_ids: set[int] = set()
    for node in captions[:MAX_CAPTION_ELEMENTS]:
        if node.tag == "figcaption":
            scope, origin = _ancestor(node.parent, "figure"), "figcaption"
        elif _CAPTION_CLASS.search(node.attributes.get("class") or "") and not _holds_image(node):
            scope, origin = _container(node), "caption"
        else:
            continue
        if _is_inside(node, caption_ids):
            continue
        caption_ids.add(node.mem_id)
        if scope and (image := _only_image(scope, images)):
            image.add_text(origin, visible_text(node))


def _holds_image(node: LexborNode) -> bool:
    return node.tag == "img" or node.css_first("img") is not None


def _container(caption: LexborNode) -> LexborNode | None:
    """Return the nearest element around a caption that holds an image."""
    parent = caption.parent
    for _ in range(LEVELS):
        if parent is None or parent.tag == "body":
            return None
        if _holds_image(parent):
            return parent
        parent = parent.parent
    return None


def _is_inside(node: LexborNode, element_ids: set[int]) -> bool:
    parent = node.parent
    for _ in range(LEVELS):
        if parent is None:
            return False
        if parent.mem_id in element_ids:
            return True
        parent = parent.parent
    return False


def _only_image(scope: LexborNode, images: dict[int, PageImage]) -> PageImage | None:
    """Return the image of an element, or None if it has several with different addresses."""
    inside = [images[node.mem_id] for node in scope.css("img") if node.mem_id in images]
    return inside[0] if len({image.url for image in inside}) == 1 else None


def _add_image_links(links: list[LexborNode], pairs: PagePairs) -> None:
    """Add the image files that links with a text, and without an image, lead to."""
    for node in links:
        href = node.attributes.get("href") or ""
        if is_image_file(href) and not _holds_image(node):
            text = visible_text(node)
            if text.strip() and (image := pairs.add_image(href)):
                image.add_text("anchor", text)


def visible_text(node: LexborNode) -> str:
    """Return the text that a browser shows in an element, with a space between blocks."""
    pieces: list[str] = []
    for number, child in enumerate(node.traverse(include_text=True)):
        if number >= MAX_TEXT_NODES:
            break
        tag, previous = child.tag, child.prev if number else None
        if tag not in _INLINE or (previous and previous.tag not in _INLINE):
            pieces.append(" ")
        if tag == "-text" and (child.parent is None or child.parent.tag not in _UNSEEN):
            pieces.append(child.text_content or "")
    return "".join(pieces)
