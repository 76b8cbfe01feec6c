"""Vocabularies: the tags that pictures may get, as a tree of names.

A text file has a tag on each line, below what it is a kind of; how the other forms (CSV, YAML,
JSON) say the same: docs/tagging.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SHIPPED = Path(__file__).parent / "vocabulary.txt"
# Judged by how a picture looks: `detectors.py`.
DETECTORS = ("blurry", "black", "screenshot", "document", "receipt", "meme")
COLUMNS = ("tag", "parent", "synonyms", "descriptions", "negatives", "kind")

TagPath = tuple[str, ...]


@dataclass(frozen=True)
class Tag:
    """One tag.

    Attributes:
        path: its name behind the names that it is a kind of: ("animal", "dog", "poodle").
        synonyms: other names of the same thing.
        descriptions: whole sentences that describe pictures of it.
        negatives: sentences for what is easily taken for it and is not.
        heading: it only holds others together and is never given itself.
        one: a heading of whose direct members exactly one applies to a picture.
        detector: what judges it instead of words; one of `DETECTORS`.
    """

    path: TagPath
    synonyms: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    heading: bool = False
    one: bool = False
    detector: str | None = None

    @property
    def name(self) -> str:
        """The last name of its path."""
        return self.path[-1]

    def __str__(self) -> str:
        return "|".join(self.path)


@dataclass(frozen=True)
class Vocabulary:
    """Tags in the order of their file, each behind what it is a kind of; no path twice."""

    tags: tuple[Tag, ...]

    def find(self, name: str) -> Tag | None:
        """The tag that a path (`animal|dog`) or a name that only one tag has stands for."""
        wanted = tuple(part.strip().casefold() for part in name.split("|"))
        if wanted in self._by_path:
            return self._by_path[wanted]
        found = self._by_name.get(wanted[0], []) if len(wanted) == 1 else []
        return found[0] if len(found) == 1 else None

    def find_foreign(self, tag: str) -> Tag | None:
        """The same for a tag of another vocabulary: by its path, or else by its last name."""
        return self.find(tag) or self.find(tag.rpartition("|")[2])

    @cached_property
    def _by_path(self) -> dict[TagPath, Tag]:
        return {_key(tag.path): tag for tag in self.tags if not tag.heading}

    @cached_property
    def _by_name(self) -> dict[str, list[Tag]]:
        found: dict[str, list[Tag]] = {}
        for tag in self._by_path.values():
            for name in dict.fromkeys(_key((tag.name, *tag.synonyms))):
                found.setdefault(name, []).append(tag)
        return found


def _key(path: TagPath) -> TagPath:
    return tuple(name.casefold() for name in path)
