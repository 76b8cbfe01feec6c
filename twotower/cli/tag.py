"""`twotower tag`: decide the tags of pictures and write them into sidecars, exports and links."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli.index import add_library_option
from twotower.cli.output import (
    FAILED,
    OK,
    count_of,
    print_failures,
    printable,
    show_progress,
    shown_path,
    to_json,
)
from twotower.cli.search import index_if_new, locate_library

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twotower.cli.output import Commands
    from twotower.library import Library
    from twotower.tagging.export import AssignedTags
    from twotower.tagging.tag import TagResult
    from twotower.tagging.vocabulary import TagPath, Vocabulary

PRECISION = 0.8
MAX_SHOWN_TAGS = 8  # on a line
PAGE_SUFFIXES = (".html", ".htm")


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("tag", help="write tags into XMP sidecars")
    command.set_defaults(run=run_tag, usage_error=command.error)
    command.add_argument(
        "folder", nargs="?", type=Path, help="folder of pictures (that of the current library)"
    )
    add_library_option(command)
    command.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="your tags, as .txt, .csv, .yaml or .json (1 700 everyday ones)",
    )
    command.add_argument(
        "--precision",
        type=share,
        default=PRECISION,
        help="the share of assigned tags that shall be right (0.8)",
    )
    command.add_argument("--dry-run", action="store_true", help="print the tags, write no sidecars")
    command.add_argument("--json", action="store_true", help="print one JSON array")
    command.add_argument(
        "--learn",
        type=Path,
        metavar="FILE",
        help="first import corrections, a CSV file with tag, picture, verdict",
    )
    command.add_argument(
        "--review", type=Path, metavar="FILE", help="write a page to accept and reject tags on"
    )
    command.add_argument(
        "--embed", action="store_true", help="write into the pictures themselves, by exiftool"
    )
    command.add_argument("--undo", action="store_true", help="undo the last run")
    command.add_argument(
        "--export", type=Path, metavar="FILE", help="also write the tags as .csv, .json or .txt"
    )
    command.add_argument(
        "--to-folders", type=Path, metavar="FOLDER", help="also link the pictures, by tag"
    )


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:  # also rejects NaN
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1; write one such as 0.9")
    return value


def run_tag(arguments: argparse.Namespace) -> int:
    from twotower.tagging.formats import read_vocabulary

    check_options(arguments)
    library = locate_library(arguments.folder, arguments.library)
    check_targets(arguments, library.root)  # before anything is indexed
    vocabulary = read_vocabulary(arguments.vocabulary)
    index_if_new(library)
    if arguments.undo:
        return undo(library)
    unusable = import_corrections(library, vocabulary, arguments.learn) if arguments.learn else 0
    with show_progress("Tagging") as report:
        result = library.tag(
            vocabulary, folder=arguments.folder, precision=arguments.precision, report=report
        )
    print_unassignable(result, library.model.config.name, arguments.precision)
    errors = [
        f"{shown_path(picture.path)}: {picture.reason}; run: twotower index"
        for picture in result.stale
    ]
    if arguments.review:
        write_review(library, result, arguments)
    else:
        tagged = result.assigned()
        print_tags(tagged, arguments.json)
        print_if_untagged(result, arguments.precision)
        errors += export(tagged, vocabulary, arguments)
        if not arguments.dry_run and unusable:
            errors.insert(0, not_written(arguments.learn))
        elif not arguments.dry_run:
            errors += write_sidecars(library, result, arguments)
    print_failures(errors)
    return FAILED if errors or unusable else OK


def check_options(arguments: argparse.Namespace) -> None:
    """Report options without effect as wrong usage."""
    written = ("json", "embed", "export", "to_folders")  # a review writes no sidecars anyway
    for mode, ignored in (
        ("undo", ("dry_run", *written, "vocabulary", "learn", "review")),
        ("review", written),
    ):
        if getattr(arguments, mode):
            for name in ignored:
                if getattr(arguments, name):
                    option = name.replace("_", "-")
                    arguments.usage_error(f"--{option} has no effect with --{mode}; leave it out")


def check_targets(arguments: argparse.Namespace, root: Path) -> None:
    """Raise `TaggingError` if a target cannot be written, or would overwrite another file."""
    from twotower.tagging.export import EXPORT_SUFFIXES, check_file, check_folder

    sources = arguments.vocabulary, arguments.learn
    if arguments.review:
        check_file(arguments.review, PAGE_SUFFIXES, sources)
    if arguments.export:
        check_file(arguments.export, EXPORT_SUFFIXES, sources)
    if arguments.to_folders:
        check_folder(arguments.to_folders, root)


def import_corrections(library: Library, vocabulary: Vocabulary, file: Path) -> int:
    """Import corrections; returns the number of lines that cannot be used."""
    report = library.import_corrections(vocabulary, file)
    print_failures(report.errors)
    print(
        f"Imported {count_of(report.imported, 'correction')}. Undo one with the verdict: forget",
        file=sys.stderr,
    )
    return len(report.errors)


def not_written(corrections: Path) -> str:
    return (
        f"{corrections}: not all corrections can be used, so no sidecars were written; "
        "fix those lines, or give their --vocabulary"
    )


def print_unassignable(result: TagResult, model: str, precision: float) -> None:
    """Print a note on tags that the model cannot assign at the requested precision."""
    if result.unassignable:
        print(
            f"twotower: {model}: cannot assign {result.unassignable} of {len(result.tagger.tags)} "
            f"tags at precision {precision:g}; lower --precision, or correct tags "
            "(--review, --learn)",
            file=sys.stderr,
        )


def print_if_untagged(result: TagResult, precision: float) -> None:
    """Print a note if no picture has a tag, although some tags could be assigned."""
    assignable = result.unassignable < len(result.tagger.tags)
    if assignable and result.pictures and not any(row.assigned.any() for row in result.pictures):
        print(
            f"twotower: no picture has a tag at precision {precision:g}; lower --precision, or "
            "correct tags (--review, --learn)",
            file=sys.stderr,
        )


def write_review(library: Library, result: TagResult, arguments: argparse.Namespace) -> None:
    from twotower.pages.review import write_review as write_page

    command = this_command(arguments, "--learn", "corrections.csv")
    count = write_page(library, result.tagger, result.pictures, arguments.review, command)
    print(
        f"Wrote {arguments.review} with {count_of(count, 'tag')} to review; no sidecars",
        file=sys.stderr,
    )


def this_command(arguments: argparse.Namespace, *options: str) -> str:
    """Return a command for the same pictures and tags, with other options."""
    command = ["twotower", "tag"]
    if arguments.folder:
        command += [str(arguments.folder.resolve())]
    for option in ("library", "vocabulary"):
        if path := getattr(arguments, option):
            command += [f"--{option}", str(path.resolve())]
    if arguments.precision != PRECISION:
        command += ["--precision", f"{arguments.precision:g}"]
    return shlex.join([*command, *options])


def print_tags(tagged: AssignedTags, json: bool) -> None:
    from twotower.tagging.export import tag_trees

    if json:
        trees = [{"path": shown_path(path), "tags": tag_trees(tags)} for path, tags in tagged]
        print(to_json(trees, indent=1))
        return
    for path, tags in tagged:
        print(tag_line(path, tags))


def tag_line(path: Path, tags: Mapping[TagPath, float]) -> str:
    """Return a line such as "a.jpg  beach 97%  dog 93%", without the ancestors of tags."""
    ancestors = {tag[:end] for tag in tags for end in range(1, len(tag))}
    leaves = [f"{tag[-1]} {p:.0%}" for tag, p in tags.items() if tag not in ancestors]
    columns = leaves[:MAX_SHOWN_TAGS]
    if len(leaves) > MAX_SHOWN_TAGS:
        columns.append(f"and {len(leaves) - MAX_SHOWN_TAGS} more")
    return "  ".join([printable(shown_path(path)), *(columns or ["-"])])


def export(
    tagged: AssignedTags, vocabulary: Vocabulary, arguments: argparse.Namespace
) -> list[str]:
    """Write the tags for other programs; returns the errors."""
    from twotower.tagging.export import export_tags, link_folders

    if arguments.export:
        export_tags(arguments.export, vocabulary, tagged)
        print(f"Wrote {arguments.export}", file=sys.stderr)
    if not arguments.to_folders:
        return []
    with show_progress("Linking") as report:
        links = link_folders(arguments.to_folders, tagged, report)
    print(
        f"Made {count_of(links.linked, 'link')} in {arguments.to_folders} "
        f"({links.existing} existed before)",
        file=sys.stderr,
    )
    return list(links.errors)


def write_sidecars(
    library: Library, result: TagResult, arguments: argparse.Namespace
) -> tuple[str, ...]:
    """Write sidecars; returns the errors."""
    with show_progress("Writing") as progress:
        report = library.write_tags(result, embed=arguments.embed, report=progress)
    print(
        f"Tagged {count_of(report.pictures, 'picture')} "
        f"({count_of(report.removed, 'old tag')} removed, {report.unchanged} already up to date). "
        f"Undo with: {undo_command(arguments)}",
        file=sys.stderr,
    )
    return report.errors


def undo_command(arguments: argparse.Namespace) -> str:
    options = ["--library", str(arguments.library.resolve())] if arguments.library else []
    folder = [str(arguments.folder.resolve())] if arguments.folder else []
    return shlex.join(["twotower", "tag", *folder, *options, "--undo"])


def undo(library: Library) -> int:
    from twotower.metadata.journal import UndoReport

    report = library.undo_tags()
    print_failures(report.errors)
    if report == UndoReport():
        print("Nothing to undo")
        return OK
    print(
        f"Restored {count_of(report.restored, 'file')}. "
        f"Removed only our tags from {count_of(report.untagged, 'file')} edited since"
    )
    return FAILED if report.errors else OK
