"""Hits and search results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload


@dataclass(frozen=True)
class Hit:
    """A picture found by a search.

    Attributes:
        path: the file.
        score: cosine similarity with the query; of several terms, the weighted mean, where negated
            terms count negatively. None if the query has filters alone.
        probability: estimated probability that a person would call the picture a match, by its
            content. None if it was not estimated: for filters alone, and for duplicates.
        match: True if the picture is above the cut-off, or matches by name.
        named: True if all words of the query are in its path or keywords.
        taken: the camera's local time, ISO 8601.
        copies: near-duplicates of the picture; those of a match are matches too, unless pictures
            below the cut-off were asked for.
        id: of the picture in the catalog.
        copy_ids: of the near-duplicates.
    """

    path: Path
    score: float | None
    probability: float | None
    match: bool
    named: bool = False
    taken: str | None = None
    copies: tuple[Path, ...] = ()
    id: int = 0
    copy_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class SearchResult(Sequence[Hit]):
    """The hits on one page of a search, best first; a sequence.

    Attributes:
        query: the query as it was typed.
        cutoff: the probability from which a picture is a match; None for filters alone.
        matches: the number of matching pictures on all pages.
        groups: the number of hits on all pages, where near-duplicates count once.
        hits: the hits on this page.
        near: the nearest few pictures below the cut-off that come near, best first: on the page
            where the matches end, as far as it has room.
        left_out: by fact, "date" or "place", the number of pictures that a filter leaves out
            because they have none.
    """

    query: str
    cutoff: float | None
    matches: int
    groups: int
    hits: list[Hit]
    near: list[Hit] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> list[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | list[Hit]:
        """Return a hit, or the hits of a slice."""
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def by_name_only(self, hit: Hit) -> bool:
        """Return True if a hit matches by its name, and by its content is below the cut-off."""
        if not hit.named or hit.probability is None or self.cutoff is None:
            return False
        return hit.probability < self.cutoff
