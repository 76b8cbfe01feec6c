"""Tags in XMP sidecars: the files that belong to a picture, and the changes to them.

Two ways to name a sidecar are in use: `a.jpg.xmp` (digiKam, darktable) and `a.xmp` (Lightroom,
Bridge, Capture One). A program reads the sidecar that it made, so existing ones are changed, both
if both exist. A new one is `a.jpg.xmp`, which cannot belong to another picture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from twotower.errors import MetadataError
from twotower.inputs.media import MEDIA_SUFFIXES, RAW_SUFFIXES
from twotower.metadata.exiftool import ExifTool, can_embed
from twotower.metadata.journal import Change, Journal, UndoReport, read_bytes
from twotower.metadata.keywords import read_keywords
from twotower.metadata.ownership import Tag, TagKey, clean_tag, packet_keywords, set_tags, tag_keys
from twotower.metadata.xmp import NEW_PACKET, Packet
from twotower.progress import Progress, ReportProgress, ignore_progress


@dataclass(frozen=True)
class WriteReport:
    """The result of writing tags.

    Attributes:
        pictures: pictures that gained or lost a tag.
        files: files that were changed or made (or would be, in a dry run).
        removed: earlier tags of ours that were removed.
        unchanged: pictures that had these tags already.
        errors: one line each, naming the file or folder.
    """

    pictures: int
    files: int
    removed: int
    unchanged: int
    errors: tuple[str, ...]


def write_tags(
    location: Path,
    tagged: Collection[tuple[Path, Mapping[Tag, float]]],
    model: str,
    *,
    judged: Iterable[Tag] | None = None,
    embed: bool = False,
    dry_run: bool = False,
    report: ReportProgress = ignore_progress,
) -> WriteReport:
    """Make our tags in the sidecars of pictures exactly those in `tagged`, as one run.

    Tags of ours that were judged and are not in `tagged` are removed. Keywords of a person are
    never touched, and tags that a person removed are not written again.

    Args:
        location: the library's folder, which holds the journal.
        tagged: pictures, each with its tags and their probabilities.
        model: the fingerprint of the model.
        judged: the tags that were decided on; other tags of ours, such as those of another
            vocabulary, stay. By default all were.
        embed: write into the picture files, through exiftool, where their format allows it; raw
            files and videos still get sidecars.
        dry_run: only report what would be done.

    Raises:
        LibraryError: the journal cannot be written, or another process is changing the library.
        MetadataError: `embed` is set, and exiftool is not installed.
    """
    judged_keys = None if judged is None else tag_keys(judged)
    exiftool = ExifTool() if embed else None
    planner = _Planner(model, exiftool, judged_keys, report)
    with contextlib.ExitStack() as stack:
        if exiftool is not None:
            stack.enter_context(exiftool)
        if dry_run:
            written = {change.path for change in planner.changes(tagged)}
        else:
            written = set()
            journal = stack.enter_context(Journal(location))
            for change, error in journal.write(planner.changes(tagged)):
                if error is None:
                    written.add(change.path)
                else:
                    planner.errors.append(error)
    return planner.summary(written)


@dataclass
class _Planner:
    """Plans the changes for `write_tags`, and counts them.

    Attributes:
        unchanged: pictures that need no change.
        pictures: by file, the picture that it belongs to.
        removed: by file, the keys of our tags that its change removes.
    """

    model: str
    exiftool: ExifTool | None
    judged: Set[TagKey] | None
    report: ReportProgress
    unchanged: int = 0
    errors: list[str] = field(default_factory=list)
    pictures: dict[Path, Path] = field(default_factory=dict)
    removed: dict[Path, Set[TagKey]] = field(default_factory=dict)

    def changes(self, tagged: Collection[tuple[Path, Mapping[Tag, float]]]) -> Iterator[Change]:
        for done, (picture, tags) in enumerate(tagged, 1):
            yield from self._plan(picture, tags)
            self.report(Progress(done, len(tagged)))

    def _plan(self, picture: Path, tags: Mapping[Tag, float]) -> list[Change]:
        try:
            changes = plan(picture, tags, self.model, self.exiftool, self.judged)
        except (MetadataError, OSError) as error:
            self.errors.append(_line(error))
            return []
        self.unchanged += not changes
        for change in changes:
            removed = tag_keys(change.ours) - tag_keys(tags)
            self.pictures[change.path] = picture
            self.removed[change.path] = removed if self.judged is None else removed & self.judged
        return changes

    def summary(self, written: Set[Path]) -> WriteReport:
        """Count what the changes of the files `written` have done."""
        return WriteReport(
            pictures=len({self.pictures[path] for path in written}),
            files=len(written),
            removed=len(
                {(self.pictures[path], key) for path in written for key in self.removed[path]}
            ),
            unchanged=self.unchanged,
            errors=tuple(dict.fromkeys(self.errors)),
        )


def undo(location: Path) -> UndoReport:
    """Undo the last run of `write_tags` for the library at `location`.

    Raises:
        LibraryError: the journal cannot be read, or another process is changing the library.
    """
    with Journal(location) as journal:
        return journal.undo(_keep_only)


def plan(
    picture: Path,
    tags: Mapping[Tag, float],
    model: str = "-",
    exiftool: ExifTool | None = None,
    judged: Set[TagKey] | None = None,
) -> list[Change]:
    """Return the changes of files that make our tags of a picture `tags`.

    Tags of ours whose keys are not in `judged` stay. With exiftool, the picture is changed, and the
    sidecars that exist already, since programs prefer them to the picture.

    Raises:
        MetadataError: a file cannot be edited; two sidecars differ only in capitals.
        OSError: a file cannot be read.
    """
    paths = sidecars_to_write(picture)
    keywords = read_keywords(picture)
    tags = {tag: p for tag, p in tags.items() if clean_tag(tag) not in keywords.rejected}
    if judged is not None:  # a tag that was removed from one file is removed from all
        judged = judged | tag_keys(keywords.rejected)
    changes = []
    if exiftool is not None and can_embed(picture):
        changes.append(exiftool.plan(picture, tags, model, judged))
        paths = [path for path in paths if path.exists()]
    for path in paths:
        if tags or path.exists():
            changes.append(_plan_sidecar(path, tags, model, keywords.person, judged))
    return [change for change in changes if change is not None]


def sidecars_to_write(picture: Path) -> list[Path]:
    """Return the existing sidecars of a picture, or the one to be made.

    `a.xmp` belongs to the raw file of that name if there is one, else to the only picture.

    Raises:
        MetadataError: both `a.xmp` and `a.XMP` exist.
    """
    full = picture.with_name(picture.name + ".xmp")
    short = _existing(picture.with_suffix(".xmp"))
    if short is not None and not _owns_short_name(picture):
        short = None
    return [path for path in (_existing(full), short) if path is not None] or [full]


def _existing(path: Path) -> Path | None:
    """Return the file that exists, with the suffix .xmp or .XMP."""
    upper = path.with_suffix(".XMP")
    if path.exists() and upper.exists() and not path.samefile(upper):
        raise MetadataError(
            path, f"two sidecars for one picture, this and {upper.name}", "remove one of them"
        )
    return next((candidate for candidate in (path, upper) if candidate.exists()), None)


def _owns_short_name(picture: Path) -> bool:
    """Return whether `a.xmp` can belong to no other picture."""
    suffix = picture.suffix.lower()
    rivals = RAW_SUFFIXES if suffix in RAW_SUFFIXES else MEDIA_SUFFIXES
    return not any(
        picture.with_suffix(spelling).exists()
        for rival in rivals - {suffix}
        for spelling in (rival, rival.upper())
    )


def _plan_sidecar(
    path: Path,
    tags: Mapping[Tag, float],
    model: str,
    person: Iterable[Tag],
    judged: Set[TagKey] | None = None,
) -> Change | None:
    before = read_bytes(path)
    try:
        content = NEW_PACKET if before is None else before
        after = set_tags(content, tags, model, person, judged)
        ours = packet_keywords(Packet(content)).ours
    except MetadataError as error:
        raise MetadataError(path, f"{error.reason}, left as it is", error.remedy) from None
    if after == content:
        return None
    return Change(path, before, None if after == NEW_PACKET else after, ours)


def _keep_only(path: Path, tags: Mapping[Tag, float]) -> Change | None:
    """Return the change that keeps only `tags` of ours in a sidecar or a picture."""
    if path.suffix.lower() == ".xmp":
        return _plan_sidecar(path, tags, "-", ())
    with ExifTool() as exiftool:
        return exiftool.plan(path, tags)


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: cannot be read ({error.strerror}); check its permissions"
    return str(error)
