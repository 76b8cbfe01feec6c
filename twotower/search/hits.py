"""Hits and search results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload


@dataclass(frozen=True)
class Hit:
    """A picture that a search found.

    Attributes:
        path: where it lies.
        score: the cosine; of several terms, the weighted mean (minus what shall not be there). None
            where filters alone were asked.
        probability: that a person would call it a match, by what it shows. None where that was not
            judged: by filters alone, and of copies.
        match: whether it is above the cut-off, or is named so.
        named: whether all the words are in its path or keywords.
        taken: when, as the camera wrote it; ISO 8601.
        copies: near-duplicates of it that were found too.
    """

    path: Path
    score: float | None
    probability: float | None
    match: bool
    named: bool = False
    taken: str | None = None
    copies: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SearchResult(Sequence[Hit]):
    """What a search gives: a sequence of hits, the best first.

    Attributes:
        query: as it was typed.
        cutoff: the probability from which a picture counts as a match; None for filters alone.
        matches: how many pictures do, on this page or not.
        groups: how many hits there are on all pages; near-duplicates are one.
        hits: those asked for.
    """

    query: str
    cutoff: float | None
    matches: int
    groups: int
    hits: list[Hit]

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> list[Hit]: ...
    def __getitem__(self, place: int | slice) -> Hit | list[Hit]:
        """The hit at a place, or some."""
        return self.hits[place]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)
