"""Exports of tags for other programs: tables, keyword lists, and folders of links."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from twotower.errors import TaggingError
from twotower.files import atomic_write
from twotower.index.catalog import find_library
from twotower.metadata.ownership import clean_tag
from twotower.progress import Progress, ReportProgress, ignore_progress
from twotower.tagging.vocabulary import TagPath, Vocabulary

AssignedTags: TypeAlias = Sequence[tuple[Path, Mapping[TagPath, float]]]
"""Pictures, each with its tags and their probabilities."""

EXPORT_SUFFIXES = (".csv", ".json", ".txt")
MAX_NAME_BYTES = 200  # file systems take 255, and a number may follow
# Names that Windows does not allow: signs, device names, and a space or a dot at the end.
_UNSAFE_SIGNS = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_DEVICE_NAMES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_BRACKETS = str.maketrans("{}[]", "()()")  # in keyword lists they mark synonyms and headings
_LINKS_UNSUPPORTED = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


def check_file(file: Path, suffixes: Sequence[str], sources: Iterable[Path | None] = ()) -> None:
    """Check that `file` can be written, before any work is done.

    Args:
        suffixes: the allowed ones, in lower case.
        sources: files that are read meanwhile and must not be overwritten.

    Raises:
        TaggingError: the suffix is another, the folder does not exist, or `file` is a source.
    """
    if file.suffix.lower() not in suffixes:
        raise TaggingError(file, "cannot be written", f"end it in {' or '.join(suffixes)}")
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise TaggingError(file, "cannot be written", "choose a file in an existing folder")
    for source in sources:
        if source is not None and file.exists() and source.exists() and file.samefile(source):
            raise TaggingError(
                file, "is also read, and would be overwritten", "choose another name"
            )


def export_tags(file: Path, vocabulary: Vocabulary, tagged: AssignedTags) -> None:
    """Write tags as a `.csv` or `.json` table, or a `.txt` keyword list.

    Raises:
        OSError: the file cannot be written.
    """
    suffix = file.suffix.lower()
    with atomic_write(file) as out:
        if suffix == ".txt":
            assigned = {tag for _, tags in tagged for tag in tags}
            synonyms = {tag.path: tag.synonyms for tag in vocabulary.tags if tag.path in assigned}
            headings = [tag.path for tag in vocabulary.tags if tag.heading]
            write_keyword_list(out, synonyms, headings)
        else:
            (write_csv if suffix == ".csv" else write_json)(out, tagged)


def write_csv(file: IO[str], tagged: AssignedTags) -> None:
    """Write a line for each picture and tag: path, tag (its names joined by `|`), probability.

    Open the file with `newline=""`.
    """
    writer = csv.writer(file)
    writer.writerow(("path", "tag", "probability"))
    for path, tags in tagged:
        for tag, probability in tags.items():
            writer.writerow((os.fspath(path), "|".join(tag), f"{probability:.4f}"))


def write_json(file: IO[str], tagged: AssignedTags) -> None:
    """Write a list of `{"path", "tags": [{"tag", "probability"}]}`, one picture on a line."""
    file.write("[")
    for number, (path, tags) in enumerate(tagged):
        line = json.dumps({"path": os.fspath(path), "tags": tag_trees(tags)}, ensure_ascii=False)
        file.write(("," if number else "") + "\n" + line)
    file.write("\n]\n")


def tag_trees(tags: Mapping[TagPath, float]) -> list[dict[str, str | float]]:
    """Return tags as JSON has them: the names joined by `|`, and the rounded probability."""
    return [
        {"tag": "|".join(tag), "probability": round(probability, 4)}
        for tag, probability in tags.items()
    ]


def write_keyword_list(
    file: IO[str], tags: Mapping[TagPath, Sequence[str]], headings: Iterable[TagPath] = ()
) -> None:
    """Write a list for Lightroom and digiKam: a tab for each level, synonyms in braces below.

    Args:
        tags: each with its synonyms; the ancestors of a tag may be missing.
        headings: paths that are no keywords themselves, and are written in brackets.
    """
    bracketed = {clean_tag(tag) for tag in headings}
    children: dict[TagPath, dict[str, None]] = {}
    synonyms: dict[TagPath, list[str]] = {}
    for tag, names in tags.items():
        path = clean_tag(tag)
        for depth, name in enumerate(path):
            children.setdefault(path[:depth], {})[name] = None
        synonyms.setdefault(path, []).extend(clean_tag(names))
    lines: list[str] = []
    stack: list[TagPath] = [(name,) for name in reversed(children.get((), {}))]
    while stack:
        path = stack.pop()
        name, indent = _without_brackets(path[-1]), "\t" * (len(path) - 1)
        lines.append(f"{indent}[{name}]" if path in bracketed else f"{indent}{name}")
        lines += [
            f"{indent}\t{{{_without_brackets(synonym)}}}" for synonym in synonyms.get(path, ())
        ]
        stack += [(*path, child) for child in reversed(children.get(path, {}))]
    file.write("".join(line + "\n" for line in lines))


def _without_brackets(name: str) -> str:
    return name.translate(_BRACKETS)


# --- links ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinkReport:
    """Outcome of `link_folders`.

    Attributes:
        linked: links made.
        existing: links that existed before.
        errors: one line for each picture that could not be linked.
    """

    linked: int
    existing: int
    errors: tuple[str, ...]


def link_folders(
    target: Path, tagged: AssignedTags, report: ReportProgress = ignore_progress
) -> LinkReport:
    """Make a folder for each tag in `target` ("animal/dog/poodle"), with links to its pictures.

    Names are made safe for Windows too. No file is overwritten: a link to the same picture stays,
    and beside another file of the same name the link gets a number.

    Args:
        report: called with the number of pictures that are linked.

    Raises:
        TaggingError: `target` cannot be made, or links cannot be made there, or it is inside a
            library (see `check_folder`).
    """
    check_folder(target)
    _create_folder(target)
    linked = existing = 0
    errors: list[str] = []
    for number, (path, tags) in enumerate(tagged, 1):
        for tag in tags:
            folder = target.joinpath(*map(_safe_name, clean_tag(tag)))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                is_new = _link(folder, path.absolute())
            except OSError as error:
                _raise_if_unsupported(error, target)
                errors.append(f"{folder}: no link to {path.name} ({error.strerror})")
                continue
            linked += is_new
            existing += not is_new
        report(Progress(number, len(tagged), stage="Linking"))
    return LinkReport(linked, existing, tuple(dict.fromkeys(errors)))


def check_folder(target: Path, root: Path | None = None) -> None:
    """Check that a folder of links can be made at `target`.

    Raises:
        TaggingError: `target` is a file, or it is inside `root` or another library, which would
            index each linked picture a second time.
    """
    if target.exists() and not target.is_dir():
        raise TaggingError(target, "cannot be made (it is a file)", "choose another folder")
    location = find_library(target)
    for pictures in (root, location.parent if location else None):
        if pictures is not None and target.resolve().is_relative_to(pictures.resolve()):
            raise TaggingError(
                target,
                f"is inside the library of {pictures}, which would index linked pictures twice",
                "choose a folder outside",
            )


def _create_folder(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TaggingError(
            target, f"cannot be made ({error.strerror})", "choose another folder"
        ) from None


def _link(folder: Path, picture: Path) -> bool:
    """Link to a picture in a folder. Returns False if there is such a link already."""
    number = 1
    while True:
        suffix = f" ({number})" if number > 1 else ""
        link = folder / f"{_safe_name(picture.stem)}{suffix}{picture.suffix}"
        try:
            link.symlink_to(picture)
            return True
        except FileExistsError:
            with contextlib.suppress(OSError):  # a broken link
                if link.samefile(picture):
                    return False
        number += 1


def _raise_if_unsupported(error: OSError, target: Path) -> None:
    """Raise `TaggingError` if no link can be made on this disk or system."""
    if error.errno in _LINKS_UNSUPPORTED or getattr(error, "winerror", None):
        raise TaggingError(
            target,
            f"links cannot be made here ({error.strerror})",
            "choose a folder on another disk, or on Windows turn on developer mode",
        ) from None


def _safe_name(name: str) -> str:
    """Return a name that every file system takes, such as "AC_DC" for "AC/DC"."""
    name = _UNSAFE_SIGNS.sub("_", name)
    while len(os.fsencode(name)) > MAX_NAME_BYTES:
        name = name[:-1]
    name = name.rstrip(" .") or "_"
    return f"_{name}" if _DEVICE_NAMES.fullmatch(name) else name
