"""Tags for other programs: tables, keyword lists, and folders of links."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from twotower.errors import TaggingError
from twotower.index.catalog import find_library
from twotower.metadata.ownership import Tag, clean_tag

Tagged = Iterable[tuple[Path, Mapping[Tag, float]]]
"""Pictures, each with its tags and their probabilities."""

# What Windows gives no file: signs, device names, and a space or a dot at the end.
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_PLAIN = str.maketrans("{}[]", "()()")
_LONGEST = 200  # bytes of a name; file systems take 255, and a number may have to go on it


@dataclass(frozen=True)
class LinkReport:
    """What `link_folders` did: links made, links that were there already, and what failed."""

    linked: int
    there: int
    errors: tuple[str, ...]


def write_csv(file: IO[str], tagged: Tagged) -> None:
    """One line for each picture and tag: path, tag (its names joined by `|`), probability.

    Open the file with `newline=""`.
    """
    writer = csv.writer(file)
    writer.writerow(("path", "tag", "probability"))
    for path, tags in tagged:
        for tag, probability in tags.items():
            writer.writerow((os.fspath(path), _joined(tag), f"{probability:.4f}"))


def write_json(file: IO[str], tagged: Tagged) -> None:
    """A list of `{"path", "tags": [{"tag", "probability"}]}`, a picture a line; tags as in CSV."""
    file.write("[")
    for number, (path, tags) in enumerate(tagged):
        some = [{"tag": _joined(tag), "probability": round(p, 4)} for tag, p in tags.items()]
        line = json.dumps({"path": os.fspath(path), "tags": some}, ensure_ascii=False)
        file.write(("," if number else "") + "\n" + line)
    file.write("\n]\n")


def write_keyword_list(
    file: IO[str], tags: Mapping[Tag, Sequence[str]], headings: Iterable[Tag] = ()
) -> None:
    """A list that Lightroom and digiKam import: a tab for each level, synonyms in braces below.

    Args:
        tags: each with its synonyms; the levels above a tag need not be among them.
        headings: levels that are no keywords themselves, and stand in brackets.
    """
    bracketed = {clean_tag(tag) for tag in headings}
    children: dict[Tag, dict[str, None]] = {}
    synonyms: dict[Tag, list[str]] = {}
    for tag, others in tags.items():
        clean = clean_tag(tag)
        for depth, name in enumerate(clean):
            children.setdefault(clean[:depth], {})[name] = None
        synonyms.setdefault(clean, []).extend(clean_tag(others))
    lines: list[str] = []
    stack: list[Tag] = [(name,) for name in reversed(children.get((), {}))]
    while stack:
        tag = stack.pop()
        depth = len(tag) - 1
        name = f"[{_listed(tag[-1])}]" if tag in bracketed else _listed(tag[-1])
        lines.append("\t" * depth + name)
        lines += ["\t" * (depth + 1) + f"{{{_listed(one)}}}" for one in synonyms.get(tag, ())]
        stack += [(*tag, name) for name in reversed(children.get(tag, {}))]
    file.write("".join(line + "\n" for line in lines))


def link_folders(
    target: Path, tagged: Tagged, progress: Callable[[], None] = lambda: None
) -> LinkReport:
    """A folder for each tag in `target` (`animal/dog/poodle`), with links to its pictures.

    Names are made safe for Windows too. Nothing that is there is overwritten: a link that leads to
    the same picture stays, and another file of the same name gets a number beside it.

    Raises:
        ExportError: `target` cannot be made, or links cannot be made there, or it lies among the
            pictures of a library (see `check_folder`).
    """
    linked = there = 0
    errors: list[str] = []
    check_folder(target)
    _make_folder(target)
    for path, tags in tagged:
        for tag in tags:
            folder = target.joinpath(*map(_safe, clean_tag(tag)))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                made = _link(folder, path.absolute())
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP) or getattr(
                    error, "winerror", None
                ):
                    raise TaggingError(
                        f"{target}: links cannot be made here ({error.strerror}); choose a folder "
                        "on another disk, or on Windows turn on developer mode"
                    ) from None
                errors.append(f"{folder}: no link to {path.name} ({error.strerror})")
                continue
            linked += made
            there += not made
        progress()
    return LinkReport(linked, there, tuple(dict.fromkeys(errors)))


def check_folder(target: Path, root: Path | None = None) -> None:
    """Raise `ExportError` where a folder of links cannot be.

    Among the pictures in `root`, or of any library, these would be found twice.
    """
    if target.exists() and not target.is_dir():
        raise TaggingError(f"{target}: cannot be made (it is a file); choose another folder")
    index = find_library(target)
    for pictures in (root, index.parent if index else None):
        if pictures is not None and target.resolve().is_relative_to(pictures.resolve()):
            raise TaggingError(
                f"{target}: lies among the pictures of {pictures}, which would then be found "
                "twice; choose a folder outside"
            )


def _make_folder(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TaggingError(
            f"{target}: cannot be made ({error.strerror}); choose another folder"
        ) from None


def _link(folder: Path, picture: Path) -> bool:
    """Link to a picture in a folder. Returns False if there is such a link already."""
    number = 1
    while True:
        mark = f" ({number})" if number > 1 else ""
        place = folder / f"{_safe(picture.stem)}{mark}{picture.suffix}"
        try:
            place.symlink_to(picture)
            return True
        except FileExistsError:
            with contextlib.suppress(OSError):  # a link to nothing
                if place.samefile(picture):
                    return False
        number += 1


def _safe(name: str) -> str:
    """A name that every file system takes, such as "AC_DC" for "AC/DC"."""
    name = _UNSAFE.sub("_", name)
    while len(os.fsencode(name)) > _LONGEST:
        name = name[:-1]
    name = name.rstrip(" .") or "_"
    return f"_{name}" if _DEVICES.fullmatch(name) else name


def _joined(tag: Tag) -> str:
    return "|".join(tag)


def _listed(name: str) -> str:
    """A name as a keyword list can hold it: there braces mean synonyms, brackets no keyword."""
    return name.translate(_PLAIN)
