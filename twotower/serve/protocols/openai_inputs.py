"""The items of an embeddings request, in the forms of OpenAI, infinity, Jina and vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from twotower.serve.errors import RequestError
from twotower.serve.protocols.items import Item, check_unicode, item_of_content

_TOKEN_IDS = (
    "the input has token ids of another model's tokenizer; send texts "
    "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
)


def items_of_input(value: Any, modality: Literal["text", "image"] | None) -> list[Item]:
    """Return the items of the field `input`.

    Args:
        value: a text, a list of texts (OpenAI), of pictures (infinity, with modality "image"), of
            `{"text"}` and `{"image"}` (Jina), or of messages (vLLM).
        modality: of items that are strings. None stands for "text", and "image" for a data URI.

    Raises:
        RequestError: 400, it has none of these forms.
    """
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise RequestError(400, "the input is empty", field="input")
    return [
        _item_of_entry(entry, modality, f"input[{index}]" if isinstance(value, list) else "input")
        for index, entry in enumerate(entries)
    ]


def items_of_messages(messages: Any) -> list[Item]:
    """Return the items of the field `messages` (vLLM): a conversation, or a list of them.

    Raises:
        RequestError: 400, it has another form.
    """
    if not isinstance(messages, list) or not messages:
        raise RequestError(400, "give a list of messages", field="messages")
    if isinstance(messages[0], list):
        return [
            _item_of_conversation(conversation, f"messages[{index}]")
            for index, conversation in enumerate(messages)
        ]
    return [_item_of_conversation(messages, "messages")]


def _item_of_entry(entry: Any, modality: Literal["text", "image"] | None, field: str) -> Item:
    if isinstance(entry, str):
        is_picture = modality == "image" or (
            modality is None and entry[:11].lower() == "data:image/"
        )
        return Item("picture" if is_picture else "text", check_unicode(entry, field), field)
    if isinstance(entry, Mapping) and "role" in entry:
        return _item_of_conversation([entry], field)
    if isinstance(entry, Mapping):
        return _item_of_object(entry, field)
    if _is_number(entry) or (isinstance(entry, list) and all(map(_is_number, entry))):
        raise RequestError(400, _TOKEN_IDS, field=field)
    if isinstance(entry, list):
        return _item_of_conversation(entry, field)
    raise RequestError(400, "give a text, a picture or a message", field=field)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _item_of_object(entry: Mapping[Any, Any], field: str) -> Item:
    """Return the item of Jina's `{"text"}` or `{"image"}`."""
    contents = {kind: entry[kind] for kind in ("text", "image") if entry.get(kind) is not None}
    if len(contents) != 1:
        raise RequestError(400, "give either text or image", field=field)
    ((kind, content),) = contents.items()
    if not isinstance(content, str):
        raise RequestError(400, f"{kind} is no string", field=field)
    check_unicode(content, field)
    return Item("text" if kind == "text" else "picture", content, field)


def _item_of_conversation(messages: Any, field: str) -> Item:
    """Return the item that the contents of messages together stand for."""
    entries: list[Any] = []
    for message in messages if isinstance(messages, list) else [messages]:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError(400, "give messages with role and content", field=field)
        content = message.get("content")
        if isinstance(content, str):
            entries.append({"type": "text", "text": content})
        elif isinstance(content, list):
            entries += content
        else:
            raise RequestError(400, "the content is neither a text nor a list", field=field)
    return item_of_content(entries, field)
