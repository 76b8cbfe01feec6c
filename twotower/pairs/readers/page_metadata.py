"""Images that a page declares for other programs: OpenGraph, Twitter cards and JSON-LD."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from twotower.pairs.readers.image_sources import MAX_SIDE, parse_length
from twotower.pairs.readers.page_pairs import PagePairs

MAX_JSON_NODES = 20_000  # of a script
_IMAGE_PROPERTIES = frozenset(("og:image", "og:image:url", "og:image:secure_url"))
_TEXT_PROPERTIES = ("og:title", "og:description")
_LANGUAGE = re.compile(r"([A-Za-z]{2,3})((?:-[A-Za-z0-9]{1,8})*)")
# The keys of a schema.org object that hold its images, and those with a text about them.
_IMAGE_KEYS = ("image", "photo", "primaryImageOfPage", "associatedMedia")
_OWNER_TEXTS = ("name", "headline", "description")
_IMAGE_TEXTS = ("caption", *_OWNER_TEXTS)
_UNUSED_KEYS = frozenset(("logo", "publisher"))  # boilerplate of the site


def language_tag(text: str | None) -> str:
    """Return a language tag in the usual form, such as "en" or "pt-BR", or ""."""
    match = _LANGUAGE.fullmatch((text or "").split(",")[0].strip().replace("_", "-"))
    if not match:
        return ""
    subtags = [
        subtag.upper()
        if len(subtag) == 2
        else subtag.title()
        if len(subtag) == 4
        else subtag.lower()
        for subtag in match[2].split("-")[1:]
    ]
    return "-".join([match[1].lower(), *subtags])


@dataclass
class _DeclaredImage:
    url: str
    width: int = 0
    height: int = 0
    texts: list[str] = field(default_factory=list)


def add_open_graph(metas: Iterable[Mapping[str, str | None]], pairs: PagePairs) -> None:
    """Add `og:image` with `og:image:alt`, `og:title` and `og:description`, and `twitter:image`.

    Args:
        metas: the attributes of each `<meta>` with a content, in order.
    """
    images: list[_DeclaredImage] = []
    shared: dict[str, str] = {}
    twitter: dict[str, str] = {}
    for meta in metas:
        name = (meta.get("property") or meta.get("name") or "").strip().lower()
        content = meta.get("content") or ""
        if name in _IMAGE_PROPERTIES:
            # url and secure_url may repeat the address of the image before them
            if name == "og:image" or not images:
                images.append(_DeclaredImage(content))
        elif name in _TEXT_PROPERTIES:
            shared.setdefault(name, content)
        elif name.startswith("twitter:image"):
            twitter.setdefault(name, content)
        elif images and name == "og:image:alt":
            images[-1].texts.append(content)
        elif images and name == "og:image:width":
            images[-1].width = parse_length(content)
        elif images and name == "og:image:height":
            images[-1].height = parse_length(content)
    if card := twitter.get("twitter:image") or twitter.get("twitter:image:src"):
        images.append(_DeclaredImage(card, texts=[twitter.get("twitter:image:alt", "")]))
    for declared in images:
        if image := pairs.add_image(declared.url, declared.width, declared.height):
            for text in (*declared.texts, *(shared.get(name) for name in _TEXT_PROPERTIES)):
                image.add_text("og", text)


def add_json_ld(script: str, pairs: PagePairs) -> None:
    """Add the images of a JSON-LD script: ImageObjects, and images of things with a name."""
    try:
        tree = json.loads(script, strict=False)
    except (ValueError, RecursionError):  # pages often have no valid JSON there
        return
    for node in _objects(tree):
        if _is_type(node, "ImageObject"):
            _add_image_object(node, [], pairs)
        else:
            texts = _texts(node, _OWNER_TEXTS)
            for key in _IMAGE_KEYS:
                for item in _as_list(node.get(key)):
                    _add_image_object(item, texts, pairs)


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON tree in order, except those of a site's own logo."""
    waiting = [tree]
    for _ in range(MAX_JSON_NODES):
        if not waiting:
            return
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            is_image = _is_type(node, "ImageObject")
            children = [
                value
                for key, value in node.items()
                if key not in _UNUSED_KEYS and not (key in _IMAGE_KEYS and not is_image)
            ]
            waiting.extend(reversed(children))
        elif isinstance(node, list):
            waiting.extend(reversed(node))


def _add_image_object(item: Any, owner_texts: list[str], pairs: PagePairs) -> None:
    if isinstance(item, str):
        url, width, height, texts = item, 0, 0, []
    elif isinstance(item, dict):
        url = item.get("contentUrl") or item.get("url") or ""
        width, height = _pixels(item.get("width")), _pixels(item.get("height"))
        texts = _texts(item, _IMAGE_TEXTS)
    else:
        return
    if not isinstance(url, str) or not url or not (texts or owner_texts):
        return
    if image := pairs.add_image(html.unescape(url), width, height):
        for text in (*texts, *owner_texts):
            image.add_text("schema", text)


def _texts(node: dict[str, Any], keys: Iterable[str]) -> list[str]:
    return [html.unescape(text) for key in keys if isinstance(text := node.get(key), str)]


def _is_type(node: dict[str, Any], name: str) -> bool:
    return name in _as_list(node.get("@type"))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _pixels(value: Any) -> int:
    """Return a size of schema.org in pixels: a number, "640", "640px" or a QuantitativeValue."""
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, int | float) and 0 < value <= MAX_SIDE:
        return int(value)
    return parse_length(value) if isinstance(value, str) else 0
