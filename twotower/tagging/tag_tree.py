"""The assignable tags of a vocabulary as columns of an array, with their parents and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twotower.tagging.vocabulary import Tag, TagPath, Vocabulary


@dataclass(frozen=True)
class TagTree:
    """Columns of tags and their relations.

    Attributes:
        tags: the tags that can be assigned, in the order of the vocabulary.
        columns: the position of each tag in `tags`.
        parents: the column of the parent of each tag, headings skipped; None at the top.
        groups: the columns of each group of which exactly one member applies.
        grouped: the columns of all groups.
    """

    tags: tuple[Tag, ...]
    columns: Mapping[TagPath, int]
    parents: Sequence[int | None]
    groups: Sequence[list[int]]
    grouped: frozenset[int]

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> TagTree:
        """Build the tree of a vocabulary."""
        tags = vocabulary.assignable
        columns = {tag.path: column for column, tag in enumerate(tags)}
        groups = _groups(vocabulary, columns)
        grouped = frozenset(column for members in groups for column in members)
        return cls(tags, columns, [_parent(tag, columns) for tag in tags], groups, grouped)

    def ancestors(self, column: int) -> list[int]:
        """Return the columns of the ancestors of a tag, the parent at the front."""
        ancestors = []
        parent = self.parents[column]
        while parent is not None:
            ancestors.append(parent)
            parent = self.parents[parent]
        return ancestors

    def group_of(self, column: int) -> list[int] | None:
        """Return the members of the group that a tag belongs to, if there is one."""
        return next((members for members in self.groups if column in members), None)


def _groups(vocabulary: Vocabulary, columns: Mapping[TagPath, int]) -> list[list[int]]:
    groups = []
    for heading in vocabulary.tags:
        if heading.exclusive:
            members = [column for path, column in columns.items() if path[:-1] == heading.path]
            if members:
                groups.append(members)
    return groups


def _parent(tag: Tag, columns: Mapping[TagPath, int]) -> int | None:
    paths = (tag.path[:end] for end in range(len(tag.path) - 1, 0, -1))
    return next((columns[path] for path in paths if path in columns), None)
