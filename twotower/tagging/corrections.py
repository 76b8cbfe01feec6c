"""Corrections as a CSV file: a line for each tag and picture that a person accepts or rejects."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from twotower.errors import TaggingError

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.tagging.vocabulary import Tag, Vocabulary

COLUMNS = ("tag", "picture", "verdict")  # the review page adds "content"
ACCEPT = ("yes", "y", "1", "true", "accept")
REJECT = ("no", "n", "0", "false", "reject")
FORGET = ("forget",)  # deletes earlier verdicts

Correction: TypeAlias = tuple[str, bytes, bool | None]
"""The path of a tag, the hash of a picture's content, and the verdict; None deletes it."""


@dataclass(frozen=True)
class ImportReport:
    """Outcome of `import_corrections`.

    Attributes:
        imported: corrections kept.
        errors: one line for each row that could not be used.
    """

    imported: int
    errors: tuple[str, ...]


def import_corrections(index: Index, vocabulary: Vocabulary, path: Path) -> ImportReport:
    """Keep the corrections in a CSV file with the library; the last verdict on a tag counts.

    A picture is named by its path, from the working directory or the root of the library, or by
    the hash of its content (column `content`), which finds it after it was moved.

    Raises:
        TaggingError: the file does not exist or is not such a table.
        OSError: it cannot be read.
    """
    importer = _Importer(index, vocabulary)
    corrections: list[Correction] = []
    errors: list[str] = []
    for line, row in _read_rows(path):
        try:
            corrections += importer.corrections(row)
        except TaggingError as error:
            errors.append(f"{path} line {line}: {error}")
    index.catalog.correct(corrections)
    return ImportReport(len(corrections), tuple(errors))


def correct(
    index: Index, vocabulary: Vocabulary, verdicts: Sequence[tuple[int, str, bool | None]]
) -> list[Correction]:
    """Keep the verdicts of a person with the library.

    Args:
        verdicts: the id of a picture, a tag, and the verdict on it; None forgets earlier ones.

    Returns:
        The corrections that `Catalog.correct` takes to undo this.

    Raises:
        TaggingError: a tag is not in the vocabulary, or a picture not in the library.
        LibraryError: the catalog cannot be written.
    """
    corrections = to_corrections(index, vocabulary, verdicts)
    before = {(row.tag, row.content_hash): row.accepted for row in index.catalog.corrections()}
    index.catalog.correct(corrections)
    return [(tag, content, before.get((tag, content))) for tag, content, _ in corrections]


def to_corrections(
    index: Index, vocabulary: Vocabulary, verdicts: Sequence[tuple[int, str, bool | None]]
) -> list[Correction]:
    """Return verdicts as corrections, without keeping them; see `correct`.

    Raises:
        TaggingError: a tag is not in the vocabulary, or a picture not in the library.
    """
    importer = _Importer(index, vocabulary)
    ids = {picture_id for picture_id, _, _ in verdicts}
    contents = {record.id: record.content_hash for record in index.catalog.pictures(ids)}
    corrections: list[Correction] = []
    for picture_id, tag, accepted in verdicts:
        content = contents.get(picture_id)
        if content is None:
            raise TaggingError(f"picture {picture_id}", "not in the library", "search again")
        corrections += importer.correction(tag, content, accepted)
    return corrections


class _Importer:
    """Finds the tags and pictures that rows name."""

    def __init__(self, index: Index, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._root = index.root
        self._contents = {
            record.path: record.content_hash
            for record in index.catalog.records()
            if not record.error
        }
        self._hashes = set(self._contents.values())
        self._corrected: dict[bytes, list[str]] = defaultdict(list)  # tags by picture
        for correction in index.catalog.corrections():
            self._corrected[correction.content_hash].append(correction.tag)

    def corrections(self, row: dict[str, str]) -> list[Correction]:
        """Return the corrections of a row. Raises `TaggingError` if it cannot be used."""
        return self.correction(row["tag"], self._content(row), _verdict(row["verdict"]))

    def correction(self, name: str, content: bytes, accepted: bool | None) -> list[Correction]:
        """Return the corrections for a verdict. Raises `TaggingError` for an unknown tag."""
        tag = self._tag(name)
        corrections: list[Correction] = [(str(tag), content, accepted)]
        if accepted is None:  # the tag may have another path in the vocabulary of then
            corrections += [
                (name, content, None)
                for name in self._corrected[content]
                if self._vocabulary.find_foreign(name) == tag
            ]
        return corrections

    def _tag(self, name: str) -> Tag:
        tag = self._vocabulary.find(name)
        if tag is None:
            raise TaggingError(f"tag {name!r}", "not in the vocabulary", "write its whole path")
        return tag

    def _content(self, row: dict[str, str]) -> bytes:
        """Return the hash of the content of the picture that a row names."""
        try:
            content = bytes.fromhex(row.get("content", ""))
        except ValueError:
            raise TaggingError(
                f"content {row['content']!r}", "not a hash in hexadecimal", "leave it empty"
            ) from None
        if content in self._hashes:
            return content
        root = self._root.resolve()
        for path in (root / row["picture"], Path(row["picture"])):
            full = path.parent.resolve() / path.name  # the last part stays: links are pictures too
            if full.is_relative_to(root):
                content_hash = self._contents.get(full.relative_to(root).as_posix())
                if content_hash is not None:
                    return content_hash
        raise TaggingError(
            row["picture"],
            f"not among the pictures of {self._root}",
            "move it there and index again",
        )


def _verdict(text: str) -> bool | None:
    if text.lower() in ACCEPT:
        return True
    if text.lower() in REJECT:
        return False
    if text.lower() in FORGET:
        return None
    raise TaggingError(f"verdict {text!r}", "unknown", "write yes, no or forget")


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a table with the numbers of their lines."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise TaggingError(
                    f"{path} line 1",
                    f"no column {missing[0]!r}",
                    f"name the columns {', '.join(COLUMNS)}",
                )
            return [
                (reader.line_num, {name: (row.get(name) or "").strip() for name in row if name})
                for row in reader
            ]
    except FileNotFoundError:
        raise TaggingError(path, "no such file", "check the path") from None
    except csv.Error as error:
        raise TaggingError(path, str(error), "give a CSV file") from None
