"""Vocabularies: the tags that pictures can get, as a tree of names.

A text file has one tag on a line, indented under its parent, the more general tag. docs/tagging.md
describes this format and its equivalents in CSV, YAML and JSON.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

SHIPPED_FILE = Path(__file__).with_name("vocabulary.txt")
# Tags that `detectors.py` decides by the appearance of a picture.
DETECTORS = ("blurry", "black", "screenshot", "document", "receipt", "meme")

TagPath: TypeAlias = tuple[str, ...]
"""The name of a tag after the names of its ancestors: ("animal", "dog", "poodle")."""


@dataclass(frozen=True)
class Tag:
    """A tag of a vocabulary.

    Attributes:
        path: its name after the names of its ancestors.
        synonyms: other names of the same thing.
        descriptions: sentences that describe pictures of it.
        negatives: sentences for things that are easily mistaken for it.
        heading: True if it only groups other tags and is never assigned.
        exclusive: True for a heading of whose direct members exactly one applies to a picture.
        detector: the detector that decides it in place of words; one of `DETECTORS`.
    """

    path: TagPath
    synonyms: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    heading: bool = False
    exclusive: bool = False
    detector: str | None = None

    @property
    def name(self) -> str:
        """The last name of the path."""
        return self.path[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """The name, followed by the synonyms."""
        return (self.name, *self.synonyms)

    def __str__(self) -> str:
        return "|".join(self.path)


@dataclass(frozen=True)
class Vocabulary:
    """Tags in the order of their file, each after its ancestors; no path occurs twice."""

    tags: tuple[Tag, ...]

    @cached_property
    def assignable(self) -> tuple[Tag, ...]:
        """The tags that are not headings."""
        return tuple(tag for tag in self.tags if not tag.heading)

    def find(self, name: str) -> Tag | None:
        """Return the tag with the path `name` ("animal|dog"), or the only tag of that name.

        Synonyms count as names, case is ignored, and headings are not found.
        """
        path = casefold_path(tuple(step.strip() for step in name.split("|")))
        if path in self._by_path:
            return self._by_path[path]
        tags = self._by_name.get(path[0], []) if len(path) == 1 else []
        return tags[0] if len(tags) == 1 else None

    def find_foreign(self, name: str) -> Tag | None:
        """Return the tag for a path of another vocabulary: by that path, or by its last name."""
        return self.find(name) or self.find(name.rpartition("|")[2])

    @cached_property
    def _by_path(self) -> dict[TagPath, Tag]:
        return {casefold_path(tag.path): tag for tag in self.assignable}

    @cached_property
    def _by_name(self) -> dict[str, list[Tag]]:
        tags_by_name: dict[str, list[Tag]] = {}
        for tag in self._by_path.values():
            for name in dict.fromkeys(casefold_path((tag.name, *tag.synonyms))):
                tags_by_name.setdefault(name, []).append(tag)
        return tags_by_name


def casefold_path(path: TagPath) -> TagPath:
    """Return `path` with the case and the normal form of its names removed, for comparisons."""
    return tuple(unicodedata.normalize("NFC", name).casefold() for name in path)
