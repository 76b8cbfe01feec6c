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
from twotower.cli.output import FAILED, OK, positive, print_broken, printable, shown_path, to_json

if TYPE_CHECKING:
    from twotower.cli.output import Commands
    from twotower.library import Library
    from twotower.search.hits import Hit, SearchResult
    from twotower.search.query import Query
    from twotower.search.search import Sort


_GONE = "not there any more; index again"


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("search", help="find pictures by what they show")
    command.set_defaults(run=run_search)
    command.add_argument(
        "query",
        type=str.strip,
        help='words, pictures and filters: \'"beach" - "people" + photo.jpg after:2021\'',
    )
    _add_folder(command)
    command.add_argument(
        "--sort", choices=("relevance", "date"), default="relevance", help="(relevance)"
    )
    _add_paging(command)
    _add_output(command)

    command = commands.add_parser("similar", help="find pictures that look like one")
    command.set_defaults(run=run_similar)
    command.add_argument("picture", help="a picture, raw file or video, of the library or not")
    _add_folder(command)
    _add_paging(command)
    _add_output(command)

    command = commands.add_parser("duplicates", help="list pictures that are copies of one another")
    command.set_defaults(run=run_duplicates)
    _add_folder(command)
    command.add_argument("--json", action="store_true", help="print one JSON array of groups")


def keep_minus(argv: Sequence[str]) -> list[str]:
    """The arguments, with a query such as "-people dog" behind `search` kept from being an option.

    A space before it does that; the options of `search` start with two minus signs.
    """
    query = argv[1] if len(argv) > 1 and argv[0] == "search" else ""
    is_query = query.startswith("-") and not query.startswith("--") and query != "-h"
    return [argv[0], f" {query}", *argv[2:]] if is_query else list(argv)


def _add_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folder", nargs="?", type=Path, help="the pictures (those of the library you are in)"
    )
    add_library_option(command)


def _add_paging(command: argparse.ArgumentParser) -> None:
    command.add_argument("--top", type=positive, default=20, help="hits on a page (20)")
    command.add_argument("--page", type=positive, default=1, help="which page (1)")
    command.add_argument(
        "--all", action="store_true", help="also list what is below the cut-off, nearest first"
    )


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--open", action="store_true", help="show the hits in the browser")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="write a contact sheet, whole in one file"
    )
    command.add_argument("--copy-to", type=Path, metavar="FOLDER", help="copy the hits there")


def run_search(arguments: argparse.Namespace) -> int:
    from twotower.search.query import parse_query
    from twotower.search.search import find_picture

    parse_query(arguments.query, lambda name: Path(name))  # before anything is indexed
    library = open_library(arguments.folder, arguments.library)
    query = parse_query(arguments.query, lambda name: find_picture(library.opened, name))
    return give(query, library, arguments, arguments.sort)


def run_similar(arguments: argparse.Namespace) -> int:
    from twotower.search.search import picture_query

    library = open_library(arguments.folder, arguments.library)
    return give(picture_query(library.opened, arguments.picture), library, arguments, "relevance")


def run_duplicates(arguments: argparse.Namespace) -> int:
    from twotower.search.duplicates import duplicates

    library = open_library(arguments.folder, arguments.library)
    groups = duplicates(library.opened, arguments.folder)
    if arguments.json:
        print(to_json([[hit_tree(hit) for hit in group] for group in groups], indent=1))
        return OK
    for group in groups:
        for hit in group:
            print(f"{hit.score:.3f}  {printable(shown_path(hit.path))}")
        print()
    print(f"{len(groups)} groups of copies" if groups else "no copies here")
    return OK


def open_library(folder: Path | None, location: Path | None) -> Library:
    """The library that is meant, indexed now if it never was."""
    library = find_or_begin(folder, location)
    index_if_new(library)
    return library


def find_or_begin(folder: Path | None, location: Path | None) -> Library:
    """The library that is meant; nothing is written yet if there is none."""
    from twotower.index.location import CATALOG_FILE, find_library
    from twotower.library import Library

    location = location or find_library(folder or Path.cwd())
    if location is not None and (location / CATALOG_FILE).exists():
        return Library(location=location)
    return Library(folder or Path.cwd(), location=location)


def index_if_new(library: Library) -> None:
    """Index a library that never was."""
    from twotower.index.location import CATALOG_FILE

    if not (library.location / CATALOG_FILE).exists():
        root, location = (printable(shown_path(path)) for path in (library.root, library.location))
        print(
            f"twotower: {root} is not indexed yet; indexing it first, once, into {location} "
            "(Ctrl-C loses nothing)",
            file=sys.stderr,
        )
        index_once(library, sys.stderr)


def give(query: Query, library: Library, arguments: argparse.Namespace, sort: Sort) -> int:
    """Answer a query; print, show, write and copy the hits, as the options say."""
    from twotower.search.search import limit_to_folder
    from twotower.search.search import run_query as answer_query

    if arguments.folder:
        query = limit_to_folder(library.opened, query, arguments.folder)
    offset = arguments.top * (arguments.page - 1)
    answer = answer_query(
        library.opened, query, top=arguments.top, offset=offset, all=arguments.all, sort=sort
    )
    broken: list[str] = []
    if arguments.html or arguments.open:
        lacking = _write_sheet(answer, library, arguments)
        broken += [
            f"{shown_path(path)}: {'cannot be shown' if path.exists() else _GONE}"
            for path in lacking
        ]
    if arguments.copy_to:
        copies, failures = copy_hits(answer, arguments.copy_to)
        print(f"{arguments.copy_to}: {copies} pictures copied", file=sys.stderr)
        broken += failures
    if arguments.json:
        print(to_json(answer_tree(answer), indent=1))
    else:
        print_answer(answer, arguments.page, arguments.top, arguments.all)
    print_broken(broken)
    return FAILED if broken else OK


def print_answer(answer: SearchResult, page: int, top: int, all: bool) -> None:
    """A line for each hit, with a thumbnail in terminals that can show one."""
    from twotower.cli.terminal_images import thumbnail_printer

    print_thumbnail = thumbnail_printer(sys.stdout)
    for hit in answer:
        if print_thumbnail:
            print_thumbnail(hit.path)
        notes = [f"{len(hit.copies)} copies"] if hit.copies else []
        notes += ["by its name"] if hit.named else []
        notes += [] if hit.match else ["below the cut-off"]
        note = f"  ({', '.join(notes)})" if notes else ""
        print(f"{percent(hit)}{printable(shown_path(hit.path))}{note}")
    pages = math.ceil(answer.groups / top)
    if page > pages > 0:
        print(f"page {page} is beyond the end; the last is --page {pages}", file=sys.stderr)
    elif not answer.matches:
        judged = answer.cutoff is not None
        hint = "; --all lists what comes nearest" if judged and not all else ""
        print(f"nothing here matches {answer.query!r}{hint}", file=sys.stderr)
    elif page < pages and not all:
        print(f"{answer.matches} match; --page or --top for more", file=sys.stderr)


def percent(hit: Hit) -> str:
    """How probable a hit is, as a column; nothing where that was not judged."""
    return "" if hit.probability is None else f"{hit.probability:4.0%}  "


def answer_tree(answer: SearchResult) -> dict[str, Any]:
    """An answer as it goes into JSON."""
    return {
        "query": answer.query,
        "cutoff": answer.cutoff,
        "matches": answer.matches,
        "hits": [hit_tree(hit) for hit in answer],
    }


def hit_tree(hit: Hit) -> dict[str, Any]:
    """A hit as it goes into JSON."""
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
    """Copy pictures into a folder; nothing there is overwritten, none is left half written.

    Returns:
        How many, and a line for each that could not be.
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
                reason = f"not copied ({error.strerror or error})" if path.exists() else _GONE
                failures.append(f"{shown_path(path)}: {reason}")
            else:
                count += 1
    return count, failures


def _free_name(folder: Path, path: Path) -> Path:
    """`photo.jpg`, or `photo-2.jpg` and so on where that is taken."""
    name, number = folder / path.name, 1
    while name.exists():
        number += 1
        name = folder / f"{path.stem}-{number}{path.suffix}"
    return name


def _write_sheet(
    answer: SearchResult, library: Library, arguments: argparse.Namespace
) -> list[Path]:
    """Write it and open it, as asked; gives the pictures that are lacking in it."""
    from twotower.pages.contact_sheet import write_contact_sheet

    file: Path = arguments.html or Path(tempfile.mkdtemp(prefix="twotower-")) / "hits.html"
    lacking = write_contact_sheet(answer, len(library.catalog), file)
    print(f"{file}: written", file=sys.stderr)
    if arguments.open:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())
    return lacking
