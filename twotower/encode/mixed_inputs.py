"""Texts and pictures in one list, in the forms that sentence-transformers accepts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from twotower.arrays import Float32Array
from twotower.errors import PictureError
from twotower.inputs.pictures import PICTURE_SUFFIXES, Picture

MixedInput: TypeAlias = str | Picture | Mapping[str, Any]
"""A text, a picture, `{"text": text}` or `{"image": picture}`."""

Modality: TypeAlias = Literal["text", "image"]

_SUFFIXES = tuple(PICTURE_SUFFIXES)
_FORMS = 'give a text, a picture, {"text": text} or {"image": picture}'


@dataclass(frozen=True)
class ParsedInput:
    """An input of known modality: `content` is a text, or a picture."""

    modality: Modality
    content: Any


def parse_inputs(inputs: Sequence[MixedInput]) -> list[ParsedInput]:
    """Sort inputs into texts and pictures, as sentence-transformers 5.4 and later do for CLIP.

    A string is a picture if it names an existing file with the suffix of a picture, or is a URL of
    one; `{"text": string}` is always a text.

    Raises:
        PictureError: an input is neither a text nor a picture, or is both; it names the position.
    """
    return [_parse(item, position) for position, item in enumerate(inputs)]


def read_pixel_values(
    picture: ParsedInput, position: int, preprocess: Callable[[Picture], Float32Array]
) -> Float32Array:
    """Return pixel_values [3, S, S] of a picture.

    Raises:
        PictureError: it cannot be read; the error names its position and file.
    """
    content = picture.content
    try:
        if isinstance(content, str) and content.startswith(("http://", "https://", "data:")):
            raise PictureError(
                content[:60],
                "a URL, which is not downloaded",
                'give its file or bytes, or {"text": ...} to embed it as text',
            )
        return preprocess(content)
    except PictureError as error:
        subject = f"{_name(position)} ({error.subject})"
        raise PictureError(subject, error.reason, error.remedy) from error


def _parse(item: MixedInput, position: int) -> ParsedInput:
    if isinstance(item, Mapping):
        return _parse_mapping(item, position)
    if isinstance(item, str) and not _names_a_picture(item):
        return ParsedInput("text", item)
    return ParsedInput("image", item)


def _parse_mapping(item: Mapping[str, Any], position: int) -> ParsedInput:
    if set(item) == {"text", "image"}:
        raise PictureError(
            _name(position),
            "has a text and a picture, and CLIP has no embedding of both together",
            "embed them separately, and add or average the embeddings",
        )
    if set(item) == {"image"}:
        return ParsedInput("image", item["image"])
    if set(item) != {"text"}:
        keys = ", ".join(sorted(map(repr, item))) or "no keys"
        raise PictureError(_name(position), f"is a dictionary with {keys}", _FORMS)
    if not isinstance(item["text"], str):
        kind = type(item["text"]).__name__
        raise PictureError(_name(position), f"has a text of type {kind}", _FORMS)
    return ParsedInput("text", item["text"])


def _names_a_picture(text: str) -> bool:
    """Return True for the path or URL of a picture, by the rules of sentence-transformers."""
    if text.startswith("data:image/"):
        return True
    if text.startswith(("http://", "https://")) and " " not in text:
        return text.partition("?")[0].partition("#")[0].lower().endswith(_SUFFIXES)
    # Not `Path.is_file`, which raises for a text that is too long for a name.
    return text.lower().endswith(_SUFFIXES) and os.path.isfile(text)  # noqa: PTH113


def _name(position: int) -> str:
    return f"inputs[{position}]"
