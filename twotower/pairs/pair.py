"""A pair, and the protocol of sources of pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from twotower.errors import BrokenPairError


@dataclass(frozen=True)
class Pair:
    """A picture as it is stored, and everything that is said of it."""

    key: str
    picture: bytes
    captions: tuple[str, ...]


class Source(Protocol):
    """Pairs by number."""

    name: str

    def __len__(self) -> int:
        """How many there are, broken ones among them."""

    def __getitem__(self, number: int) -> Pair:
        """Read one. Raises `BrokenPairError`."""

    def key(self, number: int) -> str:
        """The name of one, without reading it."""


def _captions(what: str, text: bytes | None, tree: bytes | None) -> tuple[str, ...]:
    """What is said of a picture, in UTF-8 or else in Windows' Latin letters.

    Raises:
        BrokenPairError: nothing, or a json that is none.
    """
    about: Mapping[str, Any] = {}
    if tree is not None:
        try:
            about = json.loads(tree)
        except ValueError:
            raise BrokenPairError(f"{what}: its json cannot be read") from None
    said = about.get("captions") if isinstance(about, Mapping) else None
    if not isinstance(said, list):
        said = _decode(text).splitlines() if text is not None else [about.get("caption") or ""]
    captions = tuple(str(one).strip() for one in said if str(one).strip())
    if not captions:
        raise BrokenPairError(f"{what}: has no caption")
    return captions


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        return text.decode("cp1252", "replace")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BrokenPairError(f"{path}: {error.strerror}") from None
