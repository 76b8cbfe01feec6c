"""Images and texts of schema.org in the attributes of a page (microdata)."""

from __future__ import annotations

from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser, LexborNode

from twotower.pairs.readers.image_sources import choose_source
from twotower.pairs.readers.page_pairs import PagePairs

IMAGE_NAMES = frozenset(("image", "photo", "contenturl"))
TEXT_NAMES = ("caption", "name", "headline", "description")
MAX_LEVELS = 30  # between a property and the item that it belongs to
MAX_PROPERTIES = 5_000  # of a page


@dataclass
class _Item:
    """The properties of an item: addresses of images, and texts by name."""

    urls: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


def add_microdata(tree: LexborHTMLParser, pairs: PagePairs) -> None:
    """Add the images of each item with its caption, name, headline and description."""
    items: dict[int, _Item] = {}
    for node in tree.css("[itemprop]")[:MAX_PROPERTIES]:
        names = (node.attributes.get("itemprop") or "").lower().split()
        if not (IMAGE_NAMES.intersection(names) or set(TEXT_NAMES).intersection(names)):
            continue
        scope = _scope(node)
        if scope is None or "itemscope" in node.attributes:
            continue
        item = items.setdefault(scope.mem_id, _Item())
        for name in names:
            if name in IMAGE_NAMES:
                item.urls.append(_address(node))
            elif name in TEXT_NAMES and name not in item.texts:
                item.texts[name] = node.attributes.get("content") or node.text()
    for item in items.values():
        texts = [item.texts[name] for name in TEXT_NAMES if name in item.texts]
        for url in filter(None, item.urls if texts else ()):
            if image := pairs.add_image(url):
                for text in texts:
                    image.add_text("schema", text)


def _scope(node: LexborNode) -> LexborNode | None:
    """Return the item that a property belongs to."""
    parent = node.parent
    for _ in range(MAX_LEVELS):
        if parent is None:
            return None
        if parent.is_element_node and "itemscope" in parent.attributes:
            return parent
        parent = parent.parent
    return None


def _address(node: LexborNode) -> str:
    attributes = node.attributes
    if node.tag == "img":
        chosen = choose_source(attributes)
        return chosen.url if chosen else ""
    return attributes.get("content") or attributes.get("href") or attributes.get("src") or ""
