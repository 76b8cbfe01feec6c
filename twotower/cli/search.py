"""`twotower search`, `similar` and `duplicates`: find pictures by what they show."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower.cli.index import add_library_option, index_once
from twotower.cli.output import (
    FAILED,
    OK,
    count_of,
    positive,
    print_failures,
    printable,
    show_progress,
    shown_path,
    to_json,
    track,
)

if TYPE_CHECKING:
    from twotower.cli.output import Commands
    from twotower.library import Library
    from twotower.search.hits import Hit, SearchResult

BELOW = "below the cut-off:"  # precedes pictures that are no matches
_MISSING = "no longer there; index again"


def add_commands(commands: Commands) -> None:
    """Add the parsers of the three commands."""
    command = commands.add_parser("search", help="find pictures by what they show")
    command.set_defaults(run=run_search)
    command.add_argument(
        "query",
        type=str.strip,
        help='words, pictures and filters: \'"beach" - "people" + photo.jpg after:2021\'',
    )
    _add_folder(command)
    command.add_argument(
        "--sort",
        choices=("relevance", "date"),
        default="relevance",
        help="best first, or newest first (relevance)",
    )
    _add_paging(command)
    _add_output(command)

    command = commands.add_parser("similar", help="find pictures that look like a picture")
    command.set_defaults(run=run_similar)
    command.add_argument("picture", help="a picture, raw file or video, in the library or not")
    _add_folder(command)
    _add_paging(command)
    _add_output(command)

    command = commands.add_parser("duplicates", help="list groups of near-duplicate pictures")
    command.set_defaults(run=run_duplicates)
    _add_folder(command)
    command.add_argument("--json", action="store_true", help="print one JSON array of groups")


def keep_minus(argv: Sequence[str]) -> list[str]:
    """Return the arguments with a query such as "-people dog" kept from being an option.

    A space is put before it; the options of `search` start with two minus signs.
    """
    query = argv[1] if len(argv) > 1 and argv[0] == "search" else ""
    is_query = query.startswith("-") and not query.startswith("--") and query != "-h"
    return [argv[0], f" {query}", *argv[2:]] if is_query else list(argv)


def _add_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folder", nargs="?", type=Path, help="folder of pictures (that of the current library)"
    )
    add_library_option(command)


def _add_paging(command: argparse.ArgumentParser) -> None:
    command.add_argument("--top", type=positive, default=20, help="hits on a page (20)")
    command.add_argument("--page", type=positive, default=1, help="number of the page (1)")
    command.add_argument(
        "--all", action="store_true", help="also list pictures below the cut-off, nearest first"
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--open", action="store_true", help="show the hits in the browser")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="write a contact sheet as one HTML file"
    )
    command.add_argument("--copy-to", type=Path, metavar="FOLDER", help="copy the hits to a folder")


def run_search(arguments: argparse.Namespace) -> int:
    """Search by a query."""
    library = locate_library(arguments.folder, arguments.library)
    query = library.parse(arguments.query)  # a mistake in it is reported before indexing
    index_if_new(library)
    result = library.search(
        query,
        top=arguments.top,
        offset=arguments.top * (arguments.page - 1),
        all=arguments.all,
        sort=arguments.sort,
        folder=arguments.folder,
    )
    return output_result(result, library, arguments)


def run_similar(arguments: argparse.Namespace) -> int:
    """Search by a picture."""
    library = locate_library(arguments.folder, arguments.library)
    library.find_picture(arguments.picture)  # a missing one is reported before indexing
    index_if_new(library)
    result = library.similar(
        arguments.picture,
        top=arguments.top,
        offset=arguments.top * (arguments.page - 1),
        all=arguments.all,
        group=True,
        folder=arguments.folder,
    )
    return output_result(result, library, arguments)


def run_duplicates(arguments: argparse.Namespace) -> int:
    """List groups of near-duplicates."""
    library = open_library(arguments.folder, arguments.library)
    with show_progress("Comparing") as report:
        groups = library.duplicates(arguments.folder, report)
    if arguments.json:
        print(to_json([[hit_tree(hit) for hit in group] for group in groups], indent=1))
        return OK
    for group in groups:
        for hit in group:
            print(f"{hit.score:.3f}  {printable(shown_path(hit.path))}")
        print()
    print(f"{count_of(len(groups), 'group')} of copies" if groups else "no copies here")
    return OK


def open_library(folder: Path | None, location: Path | None) -> Library:
    """Open the library that a command is about, and index it if it is new."""
    library = locate_library(folder, location)
    index_if_new(library)
    return library


def locate_library(folder: Path | None, location: Path | None) -> Library:
    """Open the library that a command is about; write nothing if it is new.

    Args:
        folder: a folder of pictures, by default the working directory. The library is that of the
            nearest folder above that has one, else a new one.
        location: the folder of catalog and vectors, if it is given.
    """
    from twotower.index.catalog import CATALOG_FILE, find_library
    from twotower.library import Library

    location = location or find_library(folder or Path.cwd())
    if location is not None and (location / CATALOG_FILE).exists():
        return Library(location=location)
    return Library(folder or Path.cwd(), location=location)


def index_if_new(library: Library) -> None:
    """Index a library that has not been indexed yet, and say so if it is not refined yet."""
    if not library.exists:
        root, location = (printable(shown_path(path)) for path in (library.root, library.location))
        print(
            f"twotower: {root} is not indexed yet; indexing it first, once, into {location} "
            "(Ctrl-C loses nothing)",
            file=sys.stderr,
        )
        index_once(library, sys.stderr, refine=False)
    if library.better_model:
        print(f"twotower: {_refinement(library)}", file=sys.stderr)


def _refinement(library: Library) -> str:
    """Return which model answers, and how to refine the library."""
    from twotower.index.catalog import LIBRARY_FOLDER, REPLACED_TO

    record, progress = library.catalog.model, library.catalog.get_setting(REPLACED_TO)
    assert record is not None  # if there is a better one
    inside = library.location == library.root / LIBRARY_FOLDER
    argument = library.root if inside else library.location
    option = "" if inside else "--library "
    return (
        f"answered by the quick model {record.name}"
        + (f", while {library.better_model} has indexed {progress}" if progress else "")
        + f"; for better answers: twotower index {option}{printable(shown_path(argument))}"
    )


def output_result(result: SearchResult, library: Library, arguments: argparse.Namespace) -> int:
    """Print, show, write and copy hits as the options ask for.

    Returns:
        The exit code.
    """
    errors: list[str] = []
    if arguments.html or arguments.open:
        errors += _write_sheet(result, library, arguments)
    if arguments.copy_to:
        hits = track(result.hits, "Copying", len(result.hits))
        copies, failures = copy_hits(hits, arguments.copy_to)
        print(f"Copied {count_of(copies, 'picture')} to {arguments.copy_to}", file=sys.stderr)
        errors += failures
    if arguments.json:
        print(to_json(result_tree(result), indent=1))
    else:
        print_result(result, arguments.page, arguments.top, arguments.all)
    for fact, count in result.left_out.items():
        pictures = "1 picture has" if count == 1 else f"{count} pictures have"
        print(f"twotower: {pictures} no {fact}, and a filter leaves them out", file=sys.stderr)
    print_failures(errors)
    return FAILED if errors else OK


def print_result(result: SearchResult, page: int, top: int, all: bool) -> None:
    """Print a line for each hit, with a thumbnail in terminals that can show one.

    Pictures below the cut-off follow under a line of their own.
    """
    print_thumbnail = None
    if sys.stdout.isatty():
        from twotower.cli.terminal_images import thumbnail_printer

        print_thumbnail = thumbnail_printer(sys.stdout)
    is_match = True
    for hit in [*result.hits, *result.near]:
        if is_match and not hit.match:
            print(BELOW)
        is_match = hit.match
        if print_thumbnail:
            print_thumbnail(hit.path)
        print(_line(result, hit))
    if hint := _hint(result, page, top, all):
        print(hint, file=sys.stderr)


def _line(result: SearchResult, hit: Hit) -> str:
    """Return the line of a hit; the probability is left blank if it matches only by its name."""
    share = percent(hit)
    if result.by_name_only(hit):
        share = " " * len(share)
    notes = ["by its name"] if hit.named else []
    notes += [f"{len(hit.copies)} copies"] if hit.copies else []
    note = f"  ({', '.join(notes)})" if notes else ""
    return f"{share}{printable(shown_path(hit.path))}{note}"


def _hint(result: SearchResult, page: int, top: int, all: bool) -> str:
    """Return what was not found, or what to do to see more; "" if there is nothing to say."""
    pages = math.ceil(result.groups / top)
    if page > pages > 0:
        return f"page {page} is beyond the end; the last is --page {pages}"
    if result.matches:
        more = page < pages and not all
        return f"{result.matches} match; --page or --top for more" if more else ""
    if all or result.cutoff is None:
        return f"nothing here matches {result.query!r}"
    if result.near:
        return f"nothing here surely matches {result.query!r}; --all lists more"
    return f"nothing here looks like {result.query!r}; --all lists what comes nearest"


def percent(hit: Hit) -> str:
    """Return the probability of a hit as a column; "" if it was not estimated."""
    return "" if hit.probability is None else f"{hit.probability:4.0%}  "


def result_tree(result: SearchResult) -> dict[str, Any]:
    """Return a result as JSON objects."""
    return {
        "query": result.query,
        "cutoff": result.cutoff,
        "matches": result.matches,
        "hits": [hit_tree(hit) for hit in result.hits],
        "near": [hit_tree(hit) for hit in result.near],
        "left_out": result.left_out,
    }


def hit_tree(hit: Hit) -> dict[str, Any]:
    """Return a hit as a JSON object."""
    return {
        "path": shown_path(hit.path),
        "score": None if hit.score is None else round(hit.score, 6),
        "probability": None if hit.probability is None else round(hit.probability, 6),
        "match": hit.match,
        "named": hit.named,
        "taken": hit.taken,
        "copies": [shown_path(path) for path in hit.copies],
    }


def copy_hits(hits: Iterable[Hit], folder: Path) -> tuple[int, list[str]]:
    """Copy pictures to a folder; no file there is overwritten, and none is left incomplete.

    Returns:
        The number of copies, and a message for each picture that could not be copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count, failures = 0, []
    for hit in hits:
        for path in (hit.path, *hit.copies):
            try:
                with tempfile.TemporaryDirectory(prefix=".copying-", dir=folder) as scratch:
                    copy = Path(scratch) / "picture"
                    shutil.copy2(path, copy)
                    copy.rename(_free_name(folder, path))
            except OSError as error:
                reason = f"not copied ({error.strerror or error})" if path.exists() else _MISSING
                failures.append(f"{shown_path(path)}: {reason}")
            else:
                count += 1
    return count, failures


def _free_name(folder: Path, path: Path) -> Path:
    """Return `photo.jpg`, or `photo-2.jpg` and so on if that exists."""
    name, number = folder / path.name, 1
    while name.exists():
        number += 1
        name = folder / f"{path.stem}-{number}{path.suffix}"
    return name


def _write_sheet(
    result: SearchResult, library: Library, arguments: argparse.Namespace
) -> list[str]:
    """Write the contact sheet, and open it with --open.

    Returns:
        A message for each picture that it does not show.
    """
    from twotower.pages.contact_sheet import write_contact_sheet

    file: Path = arguments.html or Path(tempfile.mkdtemp(prefix="twotower-")) / "hits.html"
    with show_progress("Writing the page") as report:
        missing = write_contact_sheet(result, len(library.catalog), file, report)
    print(f"Wrote {file}", file=sys.stderr)
    if arguments.open:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())
    return [
        f"{shown_path(path)}: {'cannot be shown' if path.exists() else _MISSING}"
        for path in missing
    ]
