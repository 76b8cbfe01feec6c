"""Tag the pictures of a library, and write the tags into their sidecars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.errors import LibraryError
from twotower.metadata import sidecars
from twotower.progress import ReportProgress, ignore_progress
from twotower.search.query import Query
from twotower.search.search import select
from twotower.tagging.export import AssignedTags
from twotower.tagging.tagger import TaggedPicture, Tagger
from twotower.tagging.vocabulary import TagPath, Vocabulary

if TYPE_CHECKING:
    from twotower.index.index import Index
    from twotower.index.schema import PictureRecord
    from twotower.metadata.sidecars import WriteReport

DEFAULT_PRECISION = 0.8


@dataclass(frozen=True)
class StalePicture:
    """A picture that was not tagged, because it is not on the disk as it was indexed."""

    path: Path
    reason: str


@dataclass(frozen=True)
class TagResult:
    """Outcome of `tag`.

    Attributes:
        tagger: holds the tags, in the order of `TaggedPicture.probabilities`, and their cut-offs.
        pictures: the tagged ones, sorted by path.
        paths: of the pictures, by id.
        stale: pictures that must be indexed again before they can be tagged.
    """

    tagger: Tagger
    pictures: list[TaggedPicture]
    paths: Mapping[int, Path]
    stale: list[StalePicture]

    @property
    def unassignable(self) -> int:
        """The number of tags that the model cannot assign at the requested precision."""
        return int((self.tagger.cutoffs > 1).sum())

    def assigned(self) -> AssignedTags:
        """Return the pictures with their assigned tags, the most probable tags at the front."""
        return [(self.paths[picture.id], self._assigned_tags(picture)) for picture in self.pictures]

    def _assigned_tags(self, picture: TaggedPicture) -> dict[TagPath, float]:
        order = (-picture.probabilities).argsort(kind="stable").tolist()
        return {
            self.tagger.tags[column].path: float(picture.probabilities[column])
            for column in order
            if picture.assigned[column]
        }


def tag(
    index: Index,
    vocabulary: Vocabulary,
    *,
    folder: Path | None = None,
    precision: float = DEFAULT_PRECISION,
    report: ReportProgress = ignore_progress,
) -> TagResult:
    """Decide the tags of the pictures in a folder; nothing is written.

    Args:
        folder: a folder in the library; by default all its pictures are tagged.
        precision: the share of assigned tags that shall be right.
        report: called with the number of tags that are embedded, then of pictures that are tagged.

    Raises:
        LibraryError: `folder` is not in the library, or no picture in it is indexed.
    """
    records, stale = select_pictures(index, folder)
    tagger = Tagger(index, vocabulary, precision, report)
    pictures = list(tagger.tag_pictures([record.id for record in records], report))
    paths = {record.id: index.root / record.path for record in records}
    return TagResult(tagger, pictures, paths, stale)


def select_pictures(
    index: Index, folder: Path | None = None
) -> tuple[list[PictureRecord], list[StalePicture]]:
    """Select the readable pictures in a folder, sorted by path.

    Returns:
        Those that are as they were indexed, and those that are not: their vectors describe
        pictures that are no longer there.

    Raises:
        LibraryError: `folder` is not in the library, or no picture in it is indexed.
    """
    ids = select(index, Query("", ()), folder)
    records = sorted(index.catalog.pictures(ids), key=lambda record: record.path)
    if not records:
        raise LibraryError(
            folder or index.root,
            "contains no indexed pictures",
            "if there are new ones, run: twotower index",
        )
    current, stale = [], []
    for record in records:
        if reason := _stale_reason(index.root / record.path, record):
            stale.append(StalePicture(index.root / record.path, reason))
        else:
            current.append(record)
    return current, stale


def _stale_reason(path: Path, record: PictureRecord) -> str | None:
    try:
        facts = path.stat()
    except OSError:
        return "was removed after it was indexed"
    if (facts.st_size, facts.st_mtime_ns) != (record.size, record.mtime_ns):
        return "was changed after it was indexed"
    return None


def write_sidecars(
    index: Index,
    result: TagResult,
    *,
    embed: bool = False,
    dry_run: bool = False,
    report: ReportProgress = ignore_progress,
) -> WriteReport:
    """Write the assigned tags into the sidecars of pictures, and remove tags from earlier runs.

    Tags of other vocabularies, keywords of people, and tags that a person removed stay as they are.
    `metadata.sidecars.undo` reverts the last call.

    Args:
        embed: write into the picture files themselves, through exiftool.
        dry_run: only report what would be done.
        report: called with the number of pictures that are written.

    Raises:
        LibraryError: another process is changing the library.
        MetadataError: `embed` is set and exiftool is not installed.
    """
    model = index.catalog.model
    assert model is not None  # there are vectors
    return sidecars.write_tags(
        index.location,
        result.assigned(),
        model.fingerprint,
        judged=[tag.path for tag in result.tagger.tags],
        embed=embed,
        dry_run=dry_run,
        report=report,
    )
