"""`twotower tag`: say which tags of a vocabulary pictures get, and write them where others read."""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.cli.index import add_library_option
from twotower.cli.output import (
    FAILED,
    OK,
    print_broken,
    printable,
    show_progress,
    shown_path,
    to_json,
)
from twotower.cli.search import index_if_new, locate_library
from twotower.files import atomic_write

if TYPE_CHECKING:
    from twotower.cli.output import Commands
    from twotower.library import Library
    from twotower.tagging.tagger import TaggedPicture, Tagger
    from twotower.tagging.vocabulary import Vocabulary

PRECISION = 0.9
MOST_SHOWN = 8  # tags on a line
PAGES = (".html", ".htm")
EXPORTS = (".csv", ".json", ".txt")


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("tag", help="tag pictures, into XMP sidecars")
    command.set_defaults(run=run_tag, usage_error=command.error)
    command.add_argument(
        "folder", nargs="?", type=Path, help="the pictures (those of the library you are in)"
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
        help="the share of tags that shall be right (0.9)",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="write no sidecars, only say the tags"
    )
    command.add_argument("--json", action="store_true", help="print one JSON array")
    command.add_argument(
        "--learn",
        type=Path,
        metavar="FILE",
        help="first take in corrections: tag, picture, verdict",
    )
    command.add_argument(
        "--review", type=Path, metavar="FILE", help="write a page to accept and reject tags on"
    )
    command.add_argument(
        "--embed", action="store_true", help="write into the pictures themselves, by exiftool"
    )
    command.add_argument("--undo", action="store_true", help="take back what was written last")
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
    if not 0 < value < 1:  # also catches NaN
        raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1, such as 0.9")
    return value


def run_tag(arguments: argparse.Namespace) -> int:
    from twotower.tagging.formats import read_vocabulary

    check_options(arguments)
    library = locate_library(arguments.folder, arguments.library)
    check_targets(arguments, library)  # before anything is indexed
    vocabulary = read_vocabulary(arguments.vocabulary)
    index_if_new(library)
    if arguments.undo:
        return undo(library)
    ids, stale = pictures(library, arguments.folder)
    unusable = learn(library, vocabulary, arguments.learn) if arguments.learn else 0
    tagger = start(library, vocabulary, arguments.precision)
    with counting("Tagging", len(ids)) as advance:
        tagged = list(tagger.judge(ids, advance))
    if arguments.review:
        review(library, tagger, tagged, arguments)
        print_broken(stale)
        return FAILED if stale or unusable else OK
    given = with_paths(library, tagger, tagged)
    say(given, tagger, arguments)
    errors = stale + hand_on(given, vocabulary, arguments)
    if not arguments.dry_run:
        if unusable:
            errors[:0] = [f"no sidecars written: mend {arguments.learn}, or give its --vocabulary"]
        else:
            errors += write(library, tagger, given, arguments.embed)
    print_broken(errors)
    return FAILED if errors or unusable else OK


def check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that would be passed over, as wrong usage."""
    written = ("dry_run", "json", "embed", "export", "to_folders")
    for mode, others in (
        ("undo", (*written, "vocabulary", "learn", "review")),
        ("review", written),
    ):
        if getattr(arguments, mode):
            for other in others:
                if getattr(arguments, other):
                    option = other.replace("_", "-")
                    arguments.usage_error(f"--{option} means nothing with --{mode}; leave it out")


def check_targets(arguments: argparse.Namespace, library: Library) -> None:
    """Refuse to write over something that is no earlier target of this kind."""
    from twotower.errors import TaggingError
    from twotower.tagging.export import check_folder

    for file, kinds in ((arguments.review, PAGES), (arguments.export, EXPORTS)):
        if file is None:
            continue
        if file.suffix.lower() not in kinds:
            raise TaggingError(f"{file}: cannot be written; end it in {' or '.join(kinds)}")
        if file.is_dir() or not file.absolute().parent.is_dir():
            raise TaggingError(
                f"{file}: cannot be written; choose a file in a folder that is there"
            )
        for read in (arguments.vocabulary, arguments.learn):
            if read is not None and file.exists() and read.exists() and file.samefile(read):
                raise TaggingError(f"{file}: is read here, and would be lost; choose another name")
    if arguments.to_folders:
        check_folder(arguments.to_folders, library.root)


def start(library: Library, vocabulary: Vocabulary, precision: float) -> Tagger:
    from twotower.tagging.tagger import Tagger

    count = sum(not tag.heading for tag in vocabulary.tags)
    with counting("Reading the vocabulary", count) as advance:
        tagger = Tagger(library.opened, vocabulary, precision, advance)
    if unsure := int((tagger.cutoffs > 1).sum()):
        print(
            f"twotower: {library.model.config.name} is never so sure of {unsure} of the {count} "
            f"tags that a precision of {precision:g} could be kept; a lower --precision gives them,"
            " and so do corrections (--review, --learn)",
            file=sys.stderr,
        )
    return tagger


def pictures(library: Library, folder: Path | None) -> tuple[list[int], list[str]]:
    """The readable pictures in a folder; all of them without one.

    Returns:
        Their ids, by path, and a line for each that is no longer what was indexed: its vector says
        nothing of what is there now.
    """
    from twotower.errors import LibraryError

    where: tuple[str, list[bytes]] = ("1", [])
    if folder is not None:
        inside = folder.resolve()
        if not folder.is_dir() or not inside.is_relative_to(library.root.resolve()):
            raise LibraryError(f"{folder}: no folder in {library.root}; give one that is")
        relative = inside.relative_to(library.root.resolve()).as_posix()
        if relative != ".":
            where = library.catalog.in_folder(relative)
    ids = library.catalog.select(*where)
    records = sorted(library.catalog.pictures(ids), key=lambda one: one.path)
    if not records:
        raise LibraryError(
            f"{folder or library.root}: no indexed pictures in it; if there are new ones, run: "
            "twotower index"
        )
    found, stale = [], []
    for one in records:
        path = library.root / one.path
        try:
            facts = path.stat()
        except OSError:
            stale.append(f"{shown_path(path)}: has gone since it was indexed; run: twotower index")
            continue
        if (facts.st_size, facts.st_mtime_ns) == (one.size, one.mtime_ns):
            found.append(one.id)
        else:
            stale.append(
                f"{shown_path(path)}: has changed since it was indexed; run: twotower index"
            )
    return found, stale


@contextlib.contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that advances a progress bar on stderr by so many, where a person looks at it."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def learn(library: Library, vocabulary: Vocabulary, file: Path) -> int:
    """Take in corrections. Returns how many lines could not be used."""
    from twotower.tagging.corrections import import_corrections

    kept, errors = import_corrections(library.opened, vocabulary, file)
    print_broken(errors)
    print(f"{kept} corrections learned", file=sys.stderr)
    return len(errors)


def review(
    library: Library,
    tagger: Tagger,
    tagged: list[TaggedPicture],
    arguments: argparse.Namespace,
) -> None:
    from twotower.pages.review import write_review

    count = write_review(library, tagger, tagged, arguments.review, learning(arguments))
    print(f"{arguments.review}: {count} tags to look at; nothing else was written", file=sys.stderr)


def learning(arguments: argparse.Namespace) -> str:
    """The command that takes in what is said on a review page, for these pictures and tags."""
    command = ["twotower", "tag"]
    if arguments.folder:
        command += [str(arguments.folder.resolve())]
    for option in ("library", "vocabulary"):
        if path := getattr(arguments, option):
            command += [f"--{option}", str(path.resolve())]
    if arguments.precision != PRECISION:
        command += ["--precision", f"{arguments.precision:g}"]
    return shlex.join([*command, "--learn", "corrections.csv"])


Given = list[tuple[Path, dict[tuple[str, ...], float]]]


def with_paths(library: Library, tagger: Tagger, tagged: list[TaggedPicture]) -> Given:
    """Pictures with the tags that they are given, the most probable first."""
    records = library.catalog.pictures(one.id for one in tagged)
    paths = {one.id: library.root / one.path for one in records}
    return [
        (paths[one.id], {tagger.tags[i].path: float(one.probabilities[i]) for i in order(one)})
        for one in tagged
    ]


def say(given: Given, tagger: Tagger, arguments: argparse.Namespace) -> None:
    """Print the tags."""
    if arguments.json:
        trees = [
            {
                "path": shown_path(path),
                "tags": [
                    {"tag": "|".join(tag), "probability": round(p, 4)} for tag, p in tags.items()
                ],
            }
            for path, tags in given
        ]
        print(to_json(trees, indent=1))
    else:
        for path, tags in given:
            print(line(path, tags))
    if given and (tagger.cutoffs <= 1).any() and not any(tags for _, tags in given):
        print(
            f"no tag reaches a precision of {arguments.precision:g}; a lower --precision gives"
            " more, and corrections (--review, --learn) teach",
            file=sys.stderr,
        )


def hand_on(given: Given, vocabulary: Vocabulary, arguments: argparse.Namespace) -> list[str]:
    """Write the tags for other programs. Returns the errors."""
    if arguments.export:
        export(vocabulary, given, arguments.export)
    if not arguments.to_folders:
        return []
    from twotower.tagging.export import link_folders

    with counting("Linking", len(given)) as advance:
        links = link_folders(arguments.to_folders, given, lambda: advance(1))
    print(f"{arguments.to_folders}: {links.linked} links made", file=sys.stderr)
    return list(links.errors)


def order(one: TaggedPicture) -> list[int]:
    """The given tags of a picture, the most probable first."""
    return [i for i in (-one.probabilities).argsort(kind="stable").tolist() if one.given[i]]


def line(path: Path, tags: dict[tuple[str, ...], float]) -> str:
    """Such as "a.jpg  beach 97%  dog 93%": without what another tag is a kind of."""
    above = {tag[:end] for tag in tags for end in range(1, len(tag))}
    special = [(tag, p) for tag, p in tags.items() if tag not in above]
    parts = [f"{tag[-1]} {p:.0%}" for tag, p in special[:MOST_SHOWN]]
    parts += [f"and {len(special) - MOST_SHOWN} more"] if len(special) > MOST_SHOWN else []
    return "  ".join([printable(shown_path(path)), *(parts or ["-"])])


def export(vocabulary: Vocabulary, given: Given, file: Path) -> None:
    from twotower.tagging.export import write_csv, write_json, write_keyword_list

    kind = file.suffix.lower()
    with atomic_write(file) as out:
        if kind == ".txt":
            used = {tag for _, tags in given for tag in tags}
            synonyms = {tag.path: tag.synonyms for tag in vocabulary.tags if tag.path in used}
            write_keyword_list(out, synonyms, [tag.path for tag in vocabulary.tags if tag.heading])
        else:
            (write_csv if kind == ".csv" else write_json)(out, given)
    print(f"{file}: written", file=sys.stderr)


def write(library: Library, tagger: Tagger, given: Given, embed: bool) -> tuple[str, ...]:
    """Write sidecars. Returns the errors."""
    from twotower.metadata.sidecars import write_tags

    record = library.catalog.model
    assert record is not None  # there are vectors
    with show_progress("Writing") as report_written:
        report = write_tags(
            library.location,
            given,
            record.fingerprint,
            judged=[tag.path for tag in tagger.tags],
            embed=embed,
            report=report_written,
        )
    print(
        f"tags of {report.pictures} pictures written into {report.files} files, {report.removed} "
        f"earlier tags taken out, {report.unchanged} pictures were so already; take it back with: "
        "twotower tag --undo",
        file=sys.stderr,
    )
    return report.errors


def undo(library: Library) -> int:
    from twotower.metadata.journal import UndoReport
    from twotower.metadata.sidecars import undo as undo_tags

    report = undo_tags(library.location)
    print_broken(report.errors)
    if report == UndoReport():
        print("there is nothing to take back")
        return OK
    print(
        f"{report.restored} files are as they were; from {report.untagged}, which have changed "
        "since, only our tags were taken out"
    )
    return FAILED if report.errors else OK
