"""Tags into XMP sidecars: which file belongs to a picture, and what is to change in it.

Two namings are in use: `a.jpg.xmp` (digiKam, darktable) and `a.xmp` (Lightroom, Bridge, Capture
One). Whoever made a sidecar reads that one, so an existing one is changed, both if both are there,
and a new one is `a.jpg.xmp`, which cannot be taken for that of another picture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from twotower.errors import MetadataError
from twotower.inputs.media import MEDIA_SUFFIXES, RAW_SUFFIXES
from twotower.metadata.exiftool import ExifTool, can_embed
from twotower.metadata.journal import Change, Journal, UndoReport, read
from twotower.metadata.keywords import read_keywords
from twotower.metadata.ownership import Tag, clean_tag, keys_of, read_keywords_of, set_tags
from twotower.metadata.xmp import NEW_PACKET, Packet


@dataclass(frozen=True)
class WriteReport:
    """What writing tags did.

    Attributes:
        pictures: how many have got or lost a tag.
        files: how many files were changed or made (or would be, in a dry run).
        removed: earlier tags of ours that were taken out.
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
    wanted: Iterable[tuple[Path, Mapping[Tag, float]]],
    model: str,
    *,
    judged: Iterable[Tag] | None = None,
    embed: bool = False,
    dry_run: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> WriteReport:
    """Make our tags in the sidecars of pictures be exactly those given, as one run of the journal.

    Tags of ours that are judged and not given any more are taken out; keywords of a person are
    never touched, and tags that a person has taken out are not written again.

    Args:
        location: the library's folder, where the journal lies.
        wanted: pictures, each with its tags and their probabilities.
        model: the fingerprint of the model.
        judged: the tags that might have been given; ours that are not among them, such as those of
            another vocabulary, stay. By default none stays that is not given.
        embed: write into the picture files themselves, through exiftool, where it can; a raw file
            or a video gets its sidecar all the same.
        dry_run: only say what would be done.
        progress: called once for each picture.

    Raises:
        LibraryError: the journal cannot be written, or another process is changing the library.
        SidecarError: exiftool is to embed, and is not installed.
    """
    exiftool = ExifTool() if embed else None
    errors: list[str] = []
    unchanged = 0
    decided = None if judged is None else keys_of(judged)
    picture_of: dict[Path, Path] = {}
    taken_out: dict[Path, frozenset[tuple[str, ...]]] = {}  # by file

    def changes() -> Iterator[Change]:
        nonlocal unchanged
        for picture, tags in wanted:
            try:
                planned = plan(picture, tags, model, exiftool, decided)
            except (MetadataError, OSError) as error:
                errors.append(_line(error))
            else:
                unchanged += not planned
                for change in planned:
                    picture_of[change.path] = picture
                    gone = keys_of(change.ours) - keys_of(tags)
                    taken_out[change.path] = gone if decided is None else gone & decided
                yield from planned
            progress()

    with contextlib.ExitStack() as stack:
        if exiftool is not None:
            stack.enter_context(exiftool)
        if dry_run:
            written = {change.path for change in changes()}
        else:
            written = set()
            journal = stack.enter_context(Journal(location))
            for change, error in journal.write(changes()):
                if error is None:
                    written.add(change.path)
                else:
                    errors.append(error)
    return WriteReport(
        pictures=len({picture_of[path] for path in written}),
        files=len(written),
        removed=len({(picture_of[path], key) for path in written for key in taken_out[path]}),
        unchanged=unchanged,
        errors=tuple(dict.fromkeys(errors)),
    )


def undo(location: Path) -> UndoReport:
    """Take back what the last run of `write_tags` for the library at `location` has written.

    Raises:
        LibraryError: the journal cannot be read, or another process is changing the library.
    """
    with Journal(location) as journal:
        return journal.undo(_untag)


def plan(
    picture: Path,
    tags: Mapping[Tag, float],
    model: str = "-",
    exiftool: ExifTool | None = None,
    judged: Set[tuple[str, ...]] | None = None,
) -> list[Change]:
    """What is to change on the disk so that our tags of a picture are `tags`: nothing, or files.

    Tags of ours whose keys are not `judged` stay. With exiftool it is the picture itself, and the
    sidecars that are there already, since programs believe these rather than the picture.

    Raises:
        SidecarError: a file cannot be edited; two sidecars differ in nothing but capitals.
        OSError: a file cannot be read.
    """
    paths = sidecars_to_write(picture)
    known = read_keywords(picture)
    tags = {tag: p for tag, p in tags.items() if clean_tag(tag) not in known.rejected}
    if judged is not None:  # what was taken out of one file goes from the others too
        judged = judged | keys_of(known.rejected)
    changes = []
    if exiftool is not None and can_embed(picture):
        changes.append(exiftool.plan(picture, tags, model, judged))
        paths = [path for path in paths if path.exists()]
    for path in paths:
        if tags or path.exists():
            changes.append(_change(path, tags, model, known.person, judged))
    return [change for change in changes if change is not None]


def sidecars_to_write(picture: Path) -> list[Path]:
    """The sidecars that belong to a picture alone, or the one to be made.

    `a.xmp` is that of the raw file if there is one of that name, of the only picture otherwise.

    Raises:
        SidecarError: there is `a.xmp` and also `a.XMP`.
    """
    full = picture.with_name(picture.name + ".xmp")
    short = _existing(picture.with_suffix(".xmp"))
    if short is not None and not _owns_short(picture):
        short = None
    found = [path for path in (_existing(full), short) if path is not None]
    return found or [full]


def _existing(path: Path) -> Path | None:
    """The file, whether it ends in .xmp or .XMP."""
    upper = path.with_suffix(".XMP")
    if path.exists() and upper.exists() and not path.samefile(upper):
        raise MetadataError(
            f"{path}: two sidecars for one picture, this and {upper.name}; remove one of them"
        )
    return next((one for one in (path, upper) if one.exists()), None)


def _owns_short(picture: Path) -> bool:
    """Whether `a.xmp` can only mean this picture."""
    own = picture.suffix.lower()
    rivals = RAW_SUFFIXES if own in RAW_SUFFIXES else MEDIA_SUFFIXES
    return not any(
        picture.with_suffix(suffix).exists()
        for rival in rivals - {own}
        for suffix in (rival, rival.upper())
    )


def _change(
    path: Path,
    tags: Mapping[Tag, float],
    model: str,
    person: Iterable[Tag],
    judged: Set[tuple[str, ...]] | None = None,
) -> Change | None:
    before = read(path)
    try:
        content = NEW_PACKET if before is None else before
        after = set_tags(content, tags, model, person, judged)
        ours = read_keywords_of(Packet(content)).ours
    except MetadataError as error:
        raise MetadataError(f"{path}: {error}; left as it is") from None
    if after == content:
        return None
    return Change(path, before, None if after == NEW_PACKET else after, ours)


def _untag(path: Path, tags: Mapping[Tag, float]) -> Change | None:
    """The change that leaves only `tags` of ours in a sidecar or in a picture."""
    if path.suffix.lower() == ".xmp":
        return _change(path, tags, "-", ())
    with ExifTool() as exiftool:
        return exiftool.plan(path, tags)


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: cannot be read ({error.strerror}); check its rights"
    return str(error)
