"""Texts and pictures in one list, embedded in order; OpenAI's and Cohere's requests mix them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from twotower.serve.errors import RequestError
from twotower.serve.request_pictures import read_pictures
from twotower.serve.tasks import gather_or_cancel

if TYPE_CHECKING:
    from twotower.arrays import Float32Array
    from twotower.serve.models import ServedModel, Truncation
    from twotower.serve.settings import ServerSettings


@dataclass(frozen=True)
class Item:
    """A text, or a picture as base64, data URI or URL.

    Attributes:
        field: its place in the request, for errors.
    """

    kind: Literal["text", "picture"]
    content: str
    field: str


@dataclass(frozen=True)
class EmbeddedItems:
    """Embeds [n, embed_dim] of unit length, and the number of tokens of all texts."""

    embeds: Float32Array
    tokens: int


async def embed_items(
    items: Sequence[Item],
    model: ServedModel,
    settings: ServerSettings,
    truncation: Truncation = "END",
) -> EmbeddedItems:
    """Embed the items of a request, in order.

    Raises:
        RequestError: as the methods of `ServedModel`; an item that cannot be used fails its
            request, since these protocols have no status for single items.
    """
    if len(items) > settings.max_items:
        raise RequestError(
            400,
            f"{len(items)} items in one request; the limit is {settings.max_items}",
            field=items[settings.max_items].field,
        )
    embeds = np.empty((len(items), model.embed_dim), np.float32)
    token_counts: list[int] = []

    async def embed_texts(rows: list[int]) -> None:
        texts = [items[row].content for row in rows]
        fields = [items[row].field for row in rows]
        embeds[rows] = await model.embed_texts(texts, truncation, fields)

    async def count_tokens(rows: list[int]) -> None:
        token_counts.append(await model.count_tokens([items[row].content for row in rows]))

    async def embed_pictures(rows: list[int]) -> None:
        contents = await read_pictures([items[row].content for row in rows], settings)
        _raise_first(contents, [items[row].field for row in rows])
        outcomes = await model.embed_pictures(contents)
        _raise_first(outcomes, [items[row].field for row in rows])
        for row, outcome in zip(rows, outcomes, strict=True):
            assert not isinstance(outcome, RequestError)
            embeds[row] = outcome.image_embeds

    texts = [row for row, item in enumerate(items) if item.kind == "text"]
    pictures = [row for row, item in enumerate(items) if item.kind == "picture"]
    steps = [embed_texts(texts), count_tokens(texts)] if texts else []
    await gather_or_cancel([*steps, embed_pictures(pictures)] if pictures else steps)
    return EmbeddedItems(embeds, sum(token_counts))


def item_of_content(entries: Sequence[Any], field: str) -> Item:
    """Return the item that the content of a message stands for.

    Args:
        entries: `{"type": "text", "text"}` and `{"type": "image_url", "image_url": {"url"}}`.
            Texts are joined by a line break.

    Raises:
        RequestError: 400, it is malformed, or has no or several pictures, or a picture with text.
    """
    texts: list[str] = []
    pictures: list[str] = []
    for entry in entries:
        kind, content = _read_entry(entry, field)
        (texts if kind == "text" else pictures).append(content)
    texts = [text for text in texts if text.strip()]  # some clients send "" beside a picture
    if texts and pictures:
        raise RequestError(
            400, "a picture and a text have separate embeddings; send each by itself", field=field
        )
    if len(pictures) > 1:
        raise RequestError(
            400, "the content has several pictures; send each by itself", field=field
        )
    if pictures:
        return Item("picture", pictures[0], field)
    return Item("text", "\n".join(texts), field)


def _read_entry(entry: Any, field: str) -> tuple[str, str]:
    """Return "text" or "picture", and the content."""
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if kind == "text":
        content = entry.get("text")
    elif kind == "image_url":
        url = entry.get("image_url")
        content = url.get("url") if isinstance(url, Mapping) else url
    else:
        raise RequestError(400, "the content has a type other than text and image_url", field=field)
    if not isinstance(content, str):
        raise RequestError(400, f"the content has no {kind}", field=field)
    return ("text" if kind == "text" else "picture"), check_unicode(content, field)


def check_unicode(text: str, field: str) -> str:
    """Return a text without lone surrogates, which JSON allows and UTF-8 does not.

    Raises:
        RequestError: 400, it has some.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(400, "a text is no valid Unicode", field=field) from None
    return text


def _raise_first(outcomes: Sequence[object], fields: Sequence[str]) -> None:
    for outcome, field in zip(outcomes, fields, strict=True):
        if isinstance(outcome, RequestError):
            raise RequestError(
                outcome.status, outcome.message, field=field, headers=outcome.headers
            )
