"""A picture with its captions, and the protocol of sources of such pairs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from twotower.errors import BrokenPairError

CAPTION_JSON = 'write {"caption": "..."} or {"captions": ["...", "..."]}, or remove it'


@dataclass(frozen=True)
class Pair:
    """A picture and its captions.

    Attributes:
        key: the name of the pair in its source.
        picture: the encoded file, such as a JPEG.
        captions: one or more texts that describe the picture.
    """

    key: str
    picture: bytes
    captions: tuple[str, ...]


class Source(Protocol):
    """A sequence of pairs with random access."""

    name: str

    def __len__(self) -> int:
        """Return the number of pairs, including broken ones."""

    def __getitem__(self, number: int) -> Pair:
        """Read a pair. Raises `BrokenPairError`."""

    def key(self, number: int) -> str:
        """Return the name of a pair without reading it."""


def parse_captions(subject: str, text: bytes | None, tree: bytes | None) -> tuple[str, ...]:
    """Return the captions of a picture.

    They are `captions` of the JSON object if it has such a list, else the lines of the text, else
    `caption` of the JSON object, a text or a list.

    Args:
        subject: the picture, for errors.
        text: a text file, UTF-8 or Windows-1252, with a caption on each line.
        tree: a JSON file.

    Raises:
        BrokenPairError: there is no caption, or the JSON is invalid or no object.
    """
    fields = _parse_json(subject, tree) if tree is not None else {}
    if not isinstance(fields, dict):
        if text is None:
            raise BrokenPairError(subject, "its json is no object", CAPTION_JSON)
        fields = {}
    captions = fields.get("captions")
    if not isinstance(captions, list):
        caption = fields.get("caption")
        captions = caption if isinstance(caption, list) else [caption]
        captions = captions if text is None else decode(text).splitlines()
    stripped = (_caption_text(subject, caption) for caption in captions if caption is not None)
    return require_captions(subject, tuple(caption for caption in stripped if caption))


def _parse_json(subject: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise BrokenPairError(subject, "its json cannot be read", CAPTION_JSON) from None


def _caption_text(subject: str, caption: Any) -> str:
    """Return a caption as valid text. Raises `BrokenPairError` for a list or an object."""
    if isinstance(caption, list | dict):
        raise BrokenPairError(subject, "a caption in its json is no text", CAPTION_JSON)
    return str(caption).encode("utf-8", "replace").decode().strip()  # half a surrogate pair: "?"


def require_captions(subject: str, captions: tuple[str, ...]) -> tuple[str, ...]:
    """Return the captions. Raises `BrokenPairError` if there are none."""
    if not captions:
        raise BrokenPairError(subject, "has no caption", "add one, or remove the picture")
    return captions


def decode(text: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark, or else Windows-1252."""
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        return text.decode("cp1252", "replace")


def read_picture(path: Path) -> bytes:
    """Read a file of a pair. Raises `BrokenPairError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenPairError(
            path, str(error.strerror), "correct its path, or leave the pair out"
        ) from None
