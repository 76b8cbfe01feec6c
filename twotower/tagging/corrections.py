"""Corrections as a file: what a person accepts and rejects, a line for each tag and picture."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.tagging.vocabulary import Tag, Vocabulary
from twotower.errors import TaggingError

COLUMNS = ("tag", "picture", "verdict")  # and, from the review page, "content"
ACCEPT = ("yes", "y", "1", "true", "accept")
REJECT = ("no", "n", "0", "false", "reject")
FORGET = ("forget",)  # what was said before


def import_corrections(index: Index, vocabulary: Vocabulary, path: Path) -> tuple[int, list[str]]:
    """Keep the corrections in a CSV file with the library; the last word on each counts.

    A picture is a path, from the working directory or the library's root, or what its content is
    known by (the column `content`), so that a moved picture is found.

    Returns:
        How many were kept, and a line for each that could not be.

    Raises:
        CorrectionError: the file is no such table.
        OSError: it cannot be read.
    """
    kept: list[tuple[str, bytes, bool | None]] = []
    errors: list[str] = []
    contents = {one.path: one.content_hash for one in index.catalog.records() if not one.error}
    known = set(contents.values())
    said: dict[bytes, list[str]] = defaultdict(list)
    for one in index.catalog.corrections():
        said[one.content_hash].append(one.tag)

    def means(name: str, tag: Tag) -> bool:  # it may have been said in another vocabulary
        return vocabulary.find_foreign(name) == tag

    for line, row in _rows(path):
        try:
            tag = _tag(vocabulary, row["tag"])
            accepted = _verdict(row["verdict"])
            content = _content(index, row, contents, known)
        except TaggingError as error:
            errors.append(f"{path} line {line}: {error}")
        else:
            kept.append((str(tag), content, accepted))
            if accepted is None:
                kept += [(name, content, None) for name in said[content] if means(name, tag)]
    index.catalog.correct(kept)
    return len(kept), errors


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise TaggingError(
                    f"{path} line 1: no column {lacking[0]!r}; it needs {', '.join(COLUMNS)}"
                )
            return [
                (reader.line_num, {name: (row.get(name) or "").strip() for name in row if name})
                for row in reader
            ]
    except csv.Error as error:
        raise TaggingError(f"{path}: {error}; give a CSV file") from None


def _tag(vocabulary: Vocabulary, name: str) -> Tag:
    tag = vocabulary.find(name)
    if tag is None:
        raise TaggingError(f"no tag {name!r} in the vocabulary; write its whole path")
    return tag


def _verdict(text: str) -> bool | None:
    if text.lower() in ACCEPT:
        return True
    if text.lower() in REJECT:
        return False
    if text.lower() in FORGET:
        return None
    raise TaggingError(f"{text!r} is no verdict; write yes, no or forget")


def _content(
    index: Index,
    row: dict[str, str],
    contents: dict[str, bytes | None],
    known: set[bytes | None],
) -> bytes:
    """What the catalog knows the picture of a row by."""
    try:
        content = bytes.fromhex(row.get("content", ""))
    except ValueError:
        raise TaggingError(f"{row['content']!r} is no content; leave it empty") from None
    if content in known:
        return content
    root = index.root.resolve()
    for path in (root / row["picture"], Path(row["picture"])):
        full = path.parent.resolve() / path.name  # a link is a picture of its own
        if full.is_relative_to(root):
            found = contents.get(full.relative_to(root).as_posix())
            if found is not None:
                return found
    raise TaggingError(
        f"{row['picture']}: not among the pictures of {index.root}; put it there and index again"
    )
